// The page: what is drawn, and what happens when something is pressed. The network and its steps are in
// network.js; schedules, chains and data come from the library, as numbers.

const lesson = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
const weights = bytes(lesson.weights);
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

const schedules = new Map();
/** Return alpha-bar at all times, 1 at time 0; with betas times 1000 / T where they are meant for T = 1000. */
function signalLeft(name, total, isScaled = false) {
  const packed = (isScaled && lesson.scaled_schedules[total][name]) || lesson.schedules[total][name];
  if (!schedules.has(packed)) schedules.set(packed, Float32Array.of(1, ...new Float32Array(bytes(packed))));
  return schedules.get(packed);
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

let animation = 0;
/** Call a function with the seconds since the last frame, until it returns false; one at a time. */
function animate(draw) {
  cancelAnimationFrame(animation);
  let before = null;
  const tick = (now) => {
    const passed = before === null ? 0 : Math.max(0, now - before) / 1000;
    before = now;
    if (draw(passed)) animation = requestAnimationFrame(tick);
  };
  animation = requestAnimationFrame(tick);
}

// ---- forward

const forward = { points: null, noise: null, playing: false };

function drawForward() {
  const t = Number($("forward-t").value);
  const a = signalLeft($("forward-schedule").value, 1000)[t];
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
  let t = Number($("forward-t").value) % 1000;
  animate((seconds) => {
    if (!forward.playing) return false;
    t = Math.min(1000, t + seconds * 170);
    $("forward-t").value = t;
    drawForward();
    if (t >= 1000) playForward(false);
    return forward.playing;
  });
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

/** Start a worker that has the network; errors are said where `status` is. */
function startWorker(status) {
  const source = ["network", "score", "worker"].map((name) => $(`${name}-source`).textContent).join("");
  const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const worker = new Worker(address);
  URL.revokeObjectURL(address);
  worker.onerror = (error) => {
    $(status).textContent = `This did not work: ${error.message}`;
  };
  worker.postMessage({ job: "load", config: lesson.config, weights });
  return worker;
}

/** Return the seed, and show it if what was typed is none. */
function reverseSeed() {
  const seed = Math.min(999999, Math.max(0, Math.floor(Number($("reverse-seed").value) || 0)));
  $("reverse-seed").value = seed;
  return seed;
}

/** Show the noise that a run with these settings starts from. */
function resetReverse() {
  playReverse(false);
  reverse.worker?.terminate();
  const points = Float32Array.from({ length: 2 * Number($("reverse-count").value) }, normals(reverseSeed()));
  Object.assign(reverse, { frames: [points], wanted: 0, position: 0 });
  $("reverse-progress").value = 0;
  $("reverse-play").disabled = $("reverse-where").disabled = true;
  $("reverse-status").textContent = "Press Reverse: this noise becomes a Swiss roll.";
  if (!$("reverse").hidden) drawReverse();
}

function startReverse() {
  reverse.worker?.terminate();
  reverse.worker = startWorker("reverse-status");
  const steps = lesson.chains[$("reverse-sampler").value][$("reverse-steps").value].map(unpacked);
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
  reverse.worker.postMessage({ job: "chain", steps, count: Number($("reverse-count").value), seed: reverseSeed() });
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
  $("reverse-where-value").textContent = reverse.wanted ? `${before} / ${reverse.wanted}` : "";
}

function playReverse(playing) {
  reverse.playing = playing;
  $("reverse-play").textContent = playing ? "Pause" : "Play";
  if (!playing) return;
  if (reverse.position >= reverse.wanted) reverse.position = 0;
  animate((seconds) => {
    if (!reverse.playing) return false;
    const moved = reverse.position + seconds * (reverse.wanted / SECONDS);
    reverse.position = Math.min(moved, Math.max(reverse.frames.length - 1, 0));
    drawReverse();
    if (reverse.position >= reverse.wanted) playReverse(false);
    return reverse.playing;
  });
}

// ---- score

const ARROWS = 24;
const cell = (2 * WIDTH) / ARROWS;
const grid = Float32Array.from({ length: 2 * ARROWS ** 2 }, (_, index) => {
  const place = index % 2 ? Math.floor(index / (2 * ARROWS)) : (index >> 1) % ARROWS;
  return (place + 0.5) * cell - WIDTH;
});
const score = {
  walkers: null, normal: normals(1), steps: 0, run: 0, walking: false, field: null, fieldTime: null, isBusy: false, worker: null,
};

/** What the worker needs to know of a time: the step's coefficients and the signal that is left. */
const atTime = (t) => ({ step: unpacked(lesson.chains.ddpm[1000][1000 - t]), a: signalLeft("linear", 1000)[t] });

function scatter() {
  const walkers = Float32Array.from({ length: 2000 }, () => 1.6 * score.normal());
  Object.assign(score, { steps: 0, run: score.run + 1, walkers });
}

/** Ask the worker for what is not known yet: the arrows of a new time, else the walkers' next step. */
function askWorker() {
  if (score.isBusy) return;
  const t = Number($("score-t").value);
  if (score.fieldTime !== t) score.worker.postMessage({ job: "field", points: grid, t, ...atTime(t) });
  else if (score.walking) {
    const snr = Number($("score-snr").value);
    score.worker.postMessage({ job: "walk", points: score.walkers, snr, run: score.run, ...atTime(t) });
  } else return;
  score.isBusy = true;
}

function hear({ data: { job, t, field, points, run } }) {
  score.isBusy = false;
  if (job === "field") Object.assign(score, { field, fieldTime: t });
  else if (run === score.run) Object.assign(score, { walkers: points, steps: score.steps + 1 });
  if (!$("score").hidden) drawScore();
}

function drawScore() {
  if (score.worker === null) {
    score.worker = startWorker("score-status");
    score.worker.onmessage = hear;
    scatter();
  }
  askWorker();
  const t = Number($("score-t").value);
  const [context, side] = cleared($("score-canvas"));
  if (score.field) drawArrows(context, side, score.field);
  context.fillStyle = colour("--points");
  drawPoints(context, side, score.walkers, 2.6);
  $("score-t-value").textContent = t;
  $("score-steps").textContent = score.steps;
  $("score-size").textContent = shown(stepSize(Number($("score-snr").value), atTime(t).a));
}

function drawArrows(context, side, field) {
  const scale = side / (2 * WIDTH);
  context.strokeStyle = colour("--arrows");
  context.lineWidth = 1.2 * devicePixelRatio;
  context.beginPath();
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
}

function walk(walking) {
  score.walking = walking;
  $("score-walk").textContent = walking ? "Pause" : "Walk";
  if (walking) askWorker();
}

// ---- schedules

const DASHES = [[], [8, 4], [2, 4], [10, 4, 2, 4]];
let chart = null;

/** alpha-bar of all schedules as chosen, by name. */
function chosenSchedules() {
  const total = $("schedules-total").value;
  return Object.keys(lesson.schedules[total]).map((name) => [name, signalLeft(name, total, $("schedules-scaled").checked)]);
}

function drawSchedules() {
  const asLog = $("schedules-what").value === "snr";
  const tables = chosenSchedules();
  const total = tables[0][1].length - 1;
  const value = (a) => (asLog ? Math.log10(a / Math.max(1 - a, 1e-9)) : a);
  const times = Array.from({ length: total + 1 }, (_, t) => t);
  if (asLog) times.shift(); // at time 0 there is no noise
  chart?.destroy();
  const width = Math.min($("schedules-chart").clientWidth || 500, 544);
  const ink = { stroke: colour("--ink"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
  const colours = lesson.colours[document.documentElement.dataset.theme];
  chart = new uPlot({
    width, height: Math.round(width * 0.72), cursor: { y: false, drag: { x: false, y: false } }, legend: { show: false }, scales: { x: { time: false } },
    axes: [{ ...ink, label: "time t" }, { ...ink, label: asLog ? "log10 of the signal-to-noise ratio" : "signal left, a" }],
    series: [{}, ...tables.map(([name], index) => ({ label: name, stroke: colours[index], width: 2.5, dash: DASHES[index] }))],
    hooks: { draw: [markTime] },
  }, [times, ...tables.map(([, table]) => times.map((t) => value(table[t])))], $("schedules-chart"));
  leftAtTime();
}

/** Draw the chosen time into the chart. */
function markTime(drawn) {
  const { ctx, bbox } = drawn;
  const across = drawn.valToPos(Number($("schedules-t").value), "x", true);
  ctx.save();
  ctx.strokeStyle = colour("--ink");
  ctx.lineWidth = devicePixelRatio;
  ctx.setLineDash([]);
  ctx.beginPath();
  ctx.moveTo(across, bbox.top);
  ctx.lineTo(across, bbox.top + bbox.height);
  ctx.stroke();
  ctx.restore();
}

/** The piece of line that stands for a schedule, as in the chart. */
function keyOf(index) {
  const [picture, line] = ["svg", "line"].map((name) => document.createElementNS("http://www.w3.org/2000/svg", name));
  for (const [name, value] of Object.entries({ width: 34, height: 8, class: "key", "aria-hidden": true })) picture.setAttribute(name, value);
  const look = { x2: 34, y1: 4, y2: 4, stroke: lesson.colours[document.documentElement.dataset.theme][index], "stroke-width": 2.5 };
  for (const [name, value] of Object.entries({ ...look, "stroke-dasharray": DASHES[index] })) line.setAttribute(name, value);
  picture.append(line);
  return picture;
}

function leftAtTime() {
  const tables = chosenSchedules();
  const total = tables[0][1].length - 1;
  const slider = $("schedules-t");
  if (Number(slider.max) !== total) {
    const share = Number(slider.value) / Number(slider.max);
    slider.max = total;
    slider.value = Math.max(1, Math.round(share * total));
  }
  const t = Number(slider.value);
  $("schedules-t-value").textContent = t;
  chart?.redraw(false);
  $("schedules-left").replaceChildren(...tables.map(([name, table], index) => {
    const row = document.createElement("tr");
    const cells = [lesson.schedule_names[name], shown(table[t]), shown(1 - table[t])].map((text) =>
      Object.assign(document.createElement("td"), { textContent: text }));
    cells[0].prepend(keyOf(index));
    row.append(...cells);
    return row;
  }));
}

// ---- tabs

const draws = { forward: drawForward, reverse: drawReverse, score: drawScore, schedules: drawSchedules, errata: () => {} };

function openTab(id) {
  playForward(false);
  playReverse(false);
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

/** Open a tab at its top, as an address that can be shared and gone back from. */
function goTo(id) {
  if (id !== current()) history.pushState(null, "", `#${id}`);
  openTab(id);
  scrollTo(0, 0);
}

$("tabs").addEventListener("click", ({ target }) => {
  if (target.id.startsWith("tab-")) goTo(target.getAttribute("aria-controls"));
});
$("tabs").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const next = tabs[(tabs.indexOf(current()) + step + tabs.length) % tabs.length];
  goTo(next);
  $(`tab-${next}`).focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== " " || event.target.closest("input, select, button, a")) return;
  const press = { forward: "forward-play", reverse: reverse.wanted ? "reverse-play" : "reverse-start", score: "score-walk" }[current()];
  if (!press) return;
  event.preventDefault();
  $(press).click();
});
const inAddress = () => (tabs.includes(location.hash.slice(1)) ? location.hash.slice(1) : "forward");
for (const event of ["hashchange", "popstate"]) addEventListener(event, () => { openTab(inAddress()); scrollTo(0, 0); });
// A browser scrolls to the panel that the address names, after the page has opened it.
addEventListener("load", () => setTimeout(() => scrollTo(0, 0)));
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
$("reverse-sampler").addEventListener("change", () => { fillSteps(); resetReverse(); });
for (const id of ["reverse-steps", "reverse-count", "reverse-seed"]) $(id).addEventListener("change", resetReverse);
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
for (const id of ["schedules-total", "schedules-what", "schedules-scaled"]) $(id).addEventListener("change", drawSchedules);
$("schedules-t").addEventListener("input", leftAtTime);

fillSteps();
resetReverse();
history.scrollRestoration = "manual";
openTab(inAddress());
scrollTo(0, 0);
