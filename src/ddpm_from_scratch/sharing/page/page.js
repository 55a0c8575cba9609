// The page: load the model that settings.json names, draw samples step by step.

import { makeNetwork, normals, readSafetensors, reverseStep } from "./network.js";

const $ = (id) => document.getElementById(id);

async function fetched(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${answer.statusText}`);
  return answer;
}

/** Let the browser show what was drawn, and react. */
const shown = () => new Promise((resolve) => setTimeout(resolve));

/** Draw an image in [-1, 1], or a cloud of points, onto a canvas. */
function draw(canvas, sample, [channels, height, width]) {
  canvas.width = width;
  canvas.height = height;
  const pixels = canvas.getContext("2d").createImageData(width, height);
  for (let place = 0; place < height * width; place++) {
    for (let colour = 0; colour < 3; colour++) {
      const value = sample[(channels === 1 ? 0 : colour) * height * width + place];
      pixels.data[4 * place + colour] = Math.round(127.5 * (value + 1)); // clamped by the array
    }
    pixels.data[4 * place + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function drawPoints(canvas, samples) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  for (const [x, y] of samples) {
    context.fillRect(canvas.width * (0.5 + x / 6) - 1, canvas.height * (0.5 - y / 6) - 1, 2, 2);
  }
}

function canvases(count, isImage) {
  $("samples").replaceChildren();
  return Array.from({ length: isImage ? count : 1 }, () => {
    const canvas = document.createElement("canvas");
    if (!isImage) Object.assign(canvas, { width: 480, height: 480, className: "points" });
    $("samples").append(canvas);
    return canvas;
  });
}

async function sample(settings, network) {
  const shape = settings.sample_shape;
  const isImage = shape.length === 3;
  const count = Number($("count").value);
  const label = settings.num_classes === null ? null : Number($("class").value);
  const normal = normals(Number($("seed").value));
  const size = shape.reduce((product, side) => product * side, 1);
  const samples = Array.from({ length: count }, () => Float32Array.from({ length: size }, normal));
  const estimates = Array.from({ length: count }, () => []);
  const drawn = canvases(count, isImage);
  const began = performance.now();
  for (const [index, step] of settings.steps.entries()) {
    for (let which = 0; which < count; which++) {
      samples[which] = reverseStep(
        network, samples[which], step, label, settings.null_label, Number($("guidance").value), normal,
        estimates[which]);
      if (isImage) {
        draw(drawn[which], samples[which], shape);
        await shown();
      }
    }
    if (!isImage) drawPoints(drawn[0], samples);
    $("progress").value = (index + 1) / settings.steps.length;
    $("status").textContent = `Step ${index + 1} of ${settings.steps.length}`;
    await shown();
  }
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  $("status").textContent = `${count} samples in ${settings.steps.length} steps and ${seconds} s.`;
}

async function main() {
  const settings = await (await fetched("settings.json")).json();
  const weights = readSafetensors(await (await fetched(settings.weights_url)).arrayBuffer());
  const network = makeNetwork(settings.config, weights);
  document.title = $("title").textContent = settings.title;
  const link = Object.assign(document.createElement("a"), { href: settings.model_url, textContent: "The model" });
  $("about").append(link, ` has ${settings.parameters.toLocaleString("en")} parameters.`);
  $("class-label").hidden = settings.num_classes === null;
  $("guidance-label").hidden = settings.null_label === null;
  for (let label = 0; label < (settings.num_classes ?? 0); label++) {
    const name = label === settings.null_label ? "any" : settings.class_names[label] ?? String(label);
    $("class").append(new Option(name, label));
  }
  if (settings.sample_shape.length === 1) Object.assign($("count"), { max: 2000, value: 500 });
  $("start").disabled = false;
  $("status").textContent = "Ready.";
  $("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    $("start").disabled = true;
    await sample(settings, network).catch(fail);
    $("start").disabled = false;
  });
  if (new URLSearchParams(location.search).has("start")) $("form").requestSubmit();
}

function fail(error) {
  $("status").textContent = `This did not work: ${error.message}`;
}

main().catch(fail);
