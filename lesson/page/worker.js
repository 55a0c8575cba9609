// The worker: whatever evaluates the network, so that the page stays quick. A message names a job.

let network = null;
const normal = normals(2); // of the walkers

const jobs = {
  /** Run a chain, and send the points after every step. */
  chain({ steps, count, seed }) {
    const source = normals(seed);
    let points = Float32Array.from({ length: 2 * count }, source);
    const estimates = [];
    postMessage({ points, done: 0 });
    for (const [index, step] of steps.entries()) {
      points = reverseStep(network, points, step, null, null, 1, source, estimates);
      estimates.length = Math.min(estimates.length, 4); // no step looks further back
      postMessage({ points, done: index + 1 });
    }
  },
  /** Send the score at points. */
  field({ points, step, a, t }) {
    postMessage({ job: "field", t, field: scoreAt(network, points, step, a) });
  },
  /** Send where walkers are after a step of Langevin dynamics. */
  walk({ points, step, a, snr, run }) {
    postMessage({ job: "walk", run, points: langevinStep(network, points, step, a, snr, normal) });
  },
};

onmessage = ({ data }) => {
  if (data.job === "load") network = makeNetwork(data.config, readSafetensors(data.weights));
  else jobs[data.job](data);
};
