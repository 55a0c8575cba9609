// The score of the network, and Langevin dynamics: for the worker, and for the test that compares them with the
// library's.

/** The network's score at points: (sqrt(a) x_0 - x) / (1 - a) with its estimate of x_0, by Tweedie's formula. */
function scoreAt(network, points, { timestep, sample, output }, a) {
  return network(points, timestep, null).map((value, index) =>
    (Math.sqrt(a) * (sample * points[index] + output * value) - points[index]) / (1 - a));
}

const stepSize = (snr, a) => 4 * snr ** 2 * (1 - a);

/** One step of Langevin dynamics, with the normal numbers it adds. */
function langevinStep(network, points, step, a, snr, normal) {
  const size = stepSize(snr, a);
  const arrows = scoreAt(network, points, step, a);
  return points.map((value, index) => value + (size / 2) * arrows[index] + Math.sqrt(size) * normal());
}
