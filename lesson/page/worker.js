// The worker: run a chain with the network, and send the points after every step.

onmessage = ({ data: { config, weights, steps, count, seed } }) => {
  const network = makeNetwork(config, readSafetensors(weights));
  const normal = normals(seed);
  let points = Float32Array.from({ length: 2 * count }, normal);
  const estimates = [];
  postMessage({ points, done: 0 });
  for (const [index, step] of steps.entries()) {
    points = reverseStep(network, points, step, null, null, 1, normal, estimates);
    estimates.length = Math.min(estimates.length, 4); // no step looks further back
    postMessage({ points, done: index + 1 });
  }
};
