// The page: what is drawn, and what happens when something is pressed. The network and its steps are in
// network.js; schedules, chains and data come from the library, as numbers.

const lesson = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
const weights = bytes(lesson.weights);
const network = makeNetwork(lesson.config, readSafetensors(weights));
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
const WIDTH = 3.2; // half of what a canvas shows, in units of the data

const datasets = new Map();
/** Return the points of a data set, x and y in turn. */
function dataset(name) {
  if (!datasets.has(name)) {
    datasets.set(name, Float32Array.from(new Int16Array(bytes(lesson.points[name])), (value) => value * lesson.point_unit));
  }
  return datasets.get(name);
}

// ---- drawing

/** Make a canvas as sharp as the screen, and return its context and side in pixels. */
function cleared(canvas) {
  const side = Math.round(canvas.clientWidth * devicePixelRatio) || 500;
  if (canvas.width !== side) [canvas.width, canvas.height] = [side, side];
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, side, side);
  return [context, side];
}

function drawPoints(context, side, points, size = 2.2) {
  const [scale, dot] = [side / (2 * WIDTH), size * devicePixelRatio];
  for (let i = 0; i < points.length; i += 2) {
    context.fillRect(side / 2 + scale * points[i] - dot / 2, side / 2 - scale * points[i + 1] - dot / 2, dot, dot);
  }
}

/** The mean of the variances of both coordinates. */
function variance(points) {
  const [sums, squares, count] = [[0, 0], [0, 0], points.length / 2];
  points.forEach((value, index) => {
    sums[index % 2] += value;
    squares[index % 2] += value * value;
  });
  return (squares[0] + squares[1]) / (2 * count) - ((sums[0] / count) ** 2 + (sums[1] / count) ** 2) / 2;
}

/** A number with four digits. */
const shown = (value) => (value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(2) : value.toFixed(4));

// ---- forward

const forward = { points: null, noise: null, playing: false };

function drawForward() {
  const t = Number($("forward-t").value);
  const a = t === 0 ? 1 : lesson.alphas_cumprod[$("forward-schedule").value][t - 1];
  const data = dataset($("forward-data").value);
  if (forward.noise?.length !== data.length) {
    forward.noise = Float32Array.from({ length: data.length }, normals(1));
  }
  const [signal, noise] = [Math.sqrt(a), Math.sqrt(1 - a)];
  forward.points = data.map((value, index) => signal * value + noise * forward.noise[index]);
  const [context, side] = cleared($("forward-canvas"));
  context.fillStyle = colour("--points");
  drawPoints(context, side, forward.points);
  $("forward-t-value").textContent = t;
  $("forward-a").textContent = shown(a);
  $("forward-b").textContent = shown(1 - a);
  $("forward-formula").textContent = `${signal.toFixed(3)} x₀ + ${noise.toFixed(3)} ε`;
  $("forward-variance").textContent = variance(forward.points).toFixed(3);
  $("forward-canvas").setAttribute("aria-label", `${data.length / 2} points at time ${t}, signal ${shown(a)}`);
}

function playForward(playing) {
  forward.playing = playing;
  $("forward-play").textContent = playing ? "Pause" : "Play";
  if (!playing) return;
  if (Number($("forward-t").value) >= 1000) $("forward-t").value = 0;
  const [start, from] = [performance.now(), Number($("forward-t").value)];
  const tick = (now) => {
    if (!forward.playing) return;
    $("forward-t").value = Math.min(1000, from + (now - start) / 6);
    drawForward();
    if (Number($("forward-t").value) < 1000) requestAnimationFrame(tick);
    else playForward(false);
  };
  requestAnimationFrame(tick);
}

// ---- reverse

const reverse = { frames: [], wanted: 0, position: 0, playing: false, worker: null, points: null };
const SECONDS = 4; // that a run is played in, if it is computed as fast

function fillSteps() {
  const chosen = $("reverse-steps").value;
  const counts = Object.keys(lesson.chains[$("reverse-sampler").value]);
  $("reverse-steps").replaceChildren(...counts.map((count) => new Option(count, count)));
  $("reverse-steps").value = counts.includes(chosen) ? chosen : counts.includes("10") ? "10" : counts[0];
}

/** A step as network.js takes it, from the numbers it is stored as. */
function unpacked([timestep, sample, output, keep, noise, ...estimates]) {
  return { timestep, sample, output, keep, noise, estimates, clip: null };
}

function startReverse() {
  reverse.worker?.terminate();
  const source = $("network-source").textContent + $("worker-source").textContent;
  const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  reverse.worker = new Worker(address);
  URL.revokeObjectURL(address);
  const steps = lesson.chains[$("reverse-sampler").value][$("reverse-steps").value].map(unpacked);
  const seed = Math.max(0, Math.floor(Number($("reverse-seed").value) || 0));
  Object.assign(reverse, { frames: [], wanted: steps.length, position: 0 });
  const began = performance.now();
  reverse.worker.onmessage = ({ data: { points, done } }) => {
    reverse.frames.push(points);
    $("reverse-progress").value = done / steps.length;
    Object.assign($("reverse-where"), { max: reverse.frames.length - 1, disabled: false });
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    $("reverse-status").textContent = done < steps.length
      ? `${done} of ${steps.length} network evaluations`
      : `${points.length / 2} points by ${steps.length} network evaluations in ${seconds} s`;
  };
  reverse.worker.onerror = (error) => {
    $("reverse-status").textContent = `This did not work: ${error.message}`;
  };
  reverse.worker.postMessage({
    config: lesson.config, weights, steps, count: Number($("reverse-count").value), seed,
  });
  $("reverse-play").disabled = false;
  playReverse(true);
}

/** Draw the points at a place between two frames. */
function drawReverse() {
  if (!reverse.frames.length) return;
  const last = reverse.frames.length - 1;
  const before = Math.min(Math.floor(reverse.position), last);
  const [first, second] = [reverse.frames[before], reverse.frames[Math.min(before + 1, last)]];
  const share = Math.min(reverse.position, last) - before;
  reverse.points = first.map((value, index) => value + share * (second[index] - value));
  const [context, side] = cleared($("reverse-canvas"));
  context.fillStyle = colour("--points");
  drawPoints(context, side, reverse.points);
  $("reverse-where").value = Math.round(reverse.position);
  $("reverse-where-value").textContent = `${before} / ${reverse.wanted}`;
}

function playReverse(playing) {
  reverse.playing = playing;
  $("reverse-play").textContent = playing ? "Pause" : "Play";
  if (!playing) return;
  if (reverse.position >= reverse.wanted) reverse.position = 0;
  let before = performance.now();
  const tick = (now) => {
    if (!reverse.playing) return;
    const moved = reverse.position + ((now - before) / 1000) * (reverse.wanted / SECONDS);
    before = now;
    reverse.position = Math.min(moved, Math.max(reverse.frames.length - 1, 0));
    drawReverse();
    if (reverse.position < reverse.wanted) requestAnimationFrame(tick);
    else playReverse(false);
  };
  requestAnimationFrame(tick);
}

// ---- score

const score = { walkers: null, normal: normals(2), steps: 0, walking: false, arrows: null, time: null };
const ARROWS = 24;

/** The network's score at points: (sqrt(a) x_0 - x) / (1 - a) with its estimate of x_0, by Tweedie's formula. */
function scoreAt(points, t) {
  const a = lesson.alphas_cumprod.linear[t - 1];
  const { sample, output } = unpacked(lesson.chains.ddpm[1000][1000 - t]);
  return network(points, t - 1, null).map((value, index) =>
    (Math.sqrt(a) * (sample * points[index] + output * value) - points[index]) / (1 - a));
}

/** One step of Langevin dynamics, with the normal numbers it adds. */
function langevinStep(points, t, snr, normal) {
  const size = 4 * snr ** 2 * (1 - lesson.alphas_cumprod.linear[t - 1]);
  const arrows = scoreAt(points, t);
  return points.map((value, index) => value + (size / 2) * arrows[index] + Math.sqrt(size) * normal());
}

function scatter() {
  Object.assign(score, { steps: 0, walkers: Float32Array.from({ length: 1000 }, () => 1.6 * score.normal()) });
}

function drawScore() {
  if (score.walkers === null) scatter();
  const t = Number($("score-t").value);
  const [context, side] = cleared($("score-canvas"));
  const [scale, cell] = [side / (2 * WIDTH), (2 * WIDTH) / ARROWS];
  if (score.time !== t) {
    const grid = [];
    for (let row = 0; row < ARROWS; row++) {
      for (let column = 0; column < ARROWS; column++) grid.push((column + 0.5) * cell - WIDTH, (row + 0.5) * cell - WIDTH);
    }
    score.arrows = { grid, field: scoreAt(Float32Array.from(grid), t) };
    score.time = t;
  }
  context.strokeStyle = colour("--arrows");
  context.lineWidth = 1.2 * devicePixelRatio;
  context.beginPath();
  const { grid, field } = score.arrows;
  for (let i = 0; i < grid.length; i += 2) {
    const length = Math.hypot(field[i], field[i + 1]);
    const [dx, dy] = [field[i], field[i + 1]].map((value) => (value / (1 + length)) * cell * 0.9);
    const [x, y] = [side / 2 + scale * grid[i], side / 2 - scale * grid[i + 1]];
    const [tipX, tipY] = [x + scale * dx, y - scale * dy];
    context.moveTo(x, y);
    context.lineTo(tipX, tipY);
    const [backX, backY] = [(tipX - x) * 0.3, (tipY - y) * 0.3];
    context.lineTo(tipX - backX + backY * 0.6, tipY - backY - backX * 0.6);
    context.moveTo(tipX, tipY);
    context.lineTo(tipX - backX - backY * 0.6, tipY - backY + backX * 0.6);
  }
  context.stroke();
  context.fillStyle = colour("--points");
  drawPoints(context, side, score.walkers, 2.6);
  $("score-t-value").textContent = t;
  $("score-steps").textContent = score.steps;
  $("score-size").textContent = shown(4 * Number($("score-snr").value) ** 2 * (1 - lesson.alphas_cumprod.linear[t - 1]));
}

function walk(walking) {
  score.walking = walking;
  $("score-walk").textContent = walking ? "Pause" : "Walk";
  const tick = () => {
    if (!score.walking) return;
    score.walkers = langevinStep(score.walkers, Number($("score-t").value), Number($("score-snr").value), score.normal);
    score.steps += 1;
    drawScore();
    requestAnimationFrame(tick);
  };
  if (walking) requestAnimationFrame(tick);
}

// ---- schedules

let chart = null;

function drawSchedules() {
  const total = $("schedules-total").value;
  const tables = lesson.schedules[total];
  const asLog = $("schedules-what").value === "snr";
  const names = Object.keys(tables);
  const places = tables[names[0]].map((_, index, all) => index / (all.length - 1));
  const lines = names.map((name) => tables[name].map((a) => (asLog ? Math.log10(a / Math.max(1 - a, 1e-9)) : a)));
  if (asLog) places.shift(), lines.forEach((line) => line.shift()); // at time 0 there is no noise
  chart?.destroy();
  const width = Math.min($("schedules-chart").clientWidth || 500, 544);
  const ink = { stroke: colour("--ink"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
  chart = new uPlot({
    width, height: Math.round(width * 0.72), cursor: { y: false }, legend: { show: false }, scales: { x: { time: false } },
    axes: [{ ...ink, label: "time t / T" }, { ...ink, label: asLog ? "log10 of the signal-to-noise ratio" : "signal left, a" }],
    series: [{}, ...names.map((name, index) => ({
      label: name, stroke: lesson.colours[index], width: 2.5, dash: [[], [8, 4], [2, 4], [10, 4, 2, 4]][index],
    }))],
  }, [places, ...lines], $("schedules-chart"));
  leftAtTime();
}

function leftAtTime() {
  const total = Number($("schedules-total").value);
  const slider = $("schedules-t");
  if (Number(slider.max) !== total) {
    const share = Number(slider.value) / Number(slider.max);
    slider.max = total;
    slider.value = Math.max(1, Math.round(share * total));
  }
  const t = Number(slider.value);
  $("schedules-t-value").textContent = t;
  $("schedules-left").replaceChildren(...Object.entries(lesson.schedules[total]).map(([name, table], index) => {
    const place = (t / total) * (table.length - 1);
    const before = Math.floor(place);
    const after = Math.min(before + 1, table.length - 1);
    const a = table[before] + (place - before) * (table[after] - table[before]);
    const row = document.createElement("tr");
    const key = Object.assign(document.createElement("span"), { className: "key" });
    key.style.background = lesson.colours[index];
    const cells = [lesson.schedule_names[name], shown(a), shown(1 - a)].map((text) =>
      Object.assign(document.createElement("td"), { textContent: text }));
    cells[0].prepend(key);
    row.append(...cells);
    return row;
  }));
}

// ---- tabs

const draws = { forward: drawForward, reverse: drawReverse, score: drawScore, schedules: drawSchedules, errata: () => {} };

function openTab(id) {
  playForward(false);
  walk(false);
  for (const tab of document.querySelectorAll('[role="tab"]')) {
    const isOpen = tab.id === `tab-${id}`;
    tab.setAttribute("aria-selected", isOpen);
    tab.tabIndex = isOpen ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = !isOpen;
  }
  draws[id]();
}

const tabs = Object.keys(draws);
const current = () => tabs.find((id) => !$(id).hidden);

$("tabs").addEventListener("click", ({ target }) => {
  if (target.id.startsWith("tab-")) location.hash = target.getAttribute("aria-controls");
});
$("tabs").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const next = tabs[(tabs.indexOf(current()) + step + tabs.length) % tabs.length];
  location.hash = next;
  $(`tab-${next}`).focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== " " || event.target.closest("input, select, button, a")) return;
  const press = { forward: "forward-play", reverse: reverse.frames.length ? "reverse-play" : "reverse-start", score: "score-walk" }[current()];
  if (!press) return;
  event.preventDefault();
  $(press).click();
});
addEventListener("hashchange", () => openTab(tabs.includes(location.hash.slice(1)) ? location.hash.slice(1) : "forward"));
addEventListener("resize", () => draws[current()]());

$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  draws[current()]();
});
document.documentElement.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";

$("forward-t").addEventListener("input", () => { playForward(false); drawForward(); });
for (const id of ["forward-data", "forward-schedule"]) $(id).addEventListener("change", drawForward);
$("forward-play").addEventListener("click", () => playForward(!forward.playing));
$("reverse-sampler").addEventListener("change", fillSteps);
$("reverse-start").addEventListener("click", startReverse);
$("reverse-play").addEventListener("click", () => playReverse(!reverse.playing));
$("reverse-where").addEventListener("input", () => {
  playReverse(false);
  reverse.position = Number($("reverse-where").value);
  drawReverse();
});
for (const id of ["score-t", "score-snr"]) $(id).addEventListener("input", drawScore);
$("score-walk").addEventListener("click", () => walk(!score.walking));
$("score-reset").addEventListener("click", () => { scatter(); drawScore(); });
for (const id of ["schedules-total", "schedules-what"]) $(id).addEventListener("change", drawSchedules);
$("schedules-t").addEventListener("input", leftAtTime);

fillSteps();
openTab(tabs.includes(location.hash.slice(1)) ? location.hash.slice(1) : "forward");
