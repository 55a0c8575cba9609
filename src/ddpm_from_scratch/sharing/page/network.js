// The networks of diffusers that a page can run, in plain JavaScript: UNet2DModel for images, PointDenoiser for
// points. One image at a time, {channels, height, width, data}; of points as many as there are in a Float32Array.

const NORM_OF_POINTS = 1e-5; // of torch's LayerNorm

// ---- weights

/** Return the tensors of a safetensors file by name: {shape, data}. Only float32 is read. */
export function readSafetensors(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const tensors = new Map();
  delete header.__metadata__;
  for (const [name, { dtype, shape, data_offsets: [first, last] }] of Object.entries(header)) {
    if (dtype !== "F32") throw new Error(`${name} is ${dtype}, but this page reads float32 weights`);
    // A copy, because the header's length leaves the data unaligned.
    tensors.set(name, { shape, data: new Float32Array(buffer.slice(8 + length + first, 8 + length + last)) });
  }
  return tensors;
}

// ---- layers

const image = (channels, height, width) => ({
  channels, height, width, data: new Float32Array(channels * height * width),
});

function silu(values) {
  const output = new Float32Array(values.length);
  for (let i = 0; i < values.length; i++) output[i] = values[i] / (1 + Math.exp(-values[i]));
  return output;
}

function add(first, second) {
  const output = new Float32Array(first.length);
  for (let i = 0; i < first.length; i++) output[i] = first[i] + second[i];
  return output;
}

/** Apply a linear layer to every row of the input. */
function linear(input, { shape: [outputs, inputs], data }, bias) {
  const rows = input.length / inputs;
  const output = new Float32Array(rows * outputs);
  let row = 0;
  for (; row + 3 < rows; row += 4) { // four at once: a weight is read once for all of them
    const [r0, r1, r2, r3] = [row * inputs, (row + 1) * inputs, (row + 2) * inputs, (row + 3) * inputs];
    for (let o = 0; o < outputs; o++) {
      let [s0, s1, s2, s3] = [0, 0, 0, 0];
      for (let i = 0, w = o * inputs; i < inputs; i++, w++) {
        const weight = data[w];
        s0 += weight * input[r0 + i];
        s1 += weight * input[r1 + i];
        s2 += weight * input[r2 + i];
        s3 += weight * input[r3 + i];
      }
      const first = bias ? bias.data[o] : 0;
      output[row * outputs + o] = first + s0;
      output[(row + 1) * outputs + o] = first + s1;
      output[(row + 2) * outputs + o] = first + s2;
      output[(row + 3) * outputs + o] = first + s3;
    }
  }
  for (; row < rows; row++) {
    for (let o = 0; o < outputs; o++) {
      let sum = bias ? bias.data[o] : 0;
      for (let i = 0; i < inputs; i++) sum += data[o * inputs + i] * input[row * inputs + i];
      output[row * outputs + o] = sum;
    }
  }
  return output;
}

/** Convolve with a square kernel; `before` and `after` are the zeros on either side. */
function convolve(input, weight, bias, stride = 1, before = null, after = null) {
  const [outputs, inputs, size] = weight.shape;
  before ??= (size - 1) / 2;
  after ??= (size - 1) / 2;
  const height = Math.floor((input.height + before + after - size) / stride) + 1;
  const width = Math.floor((input.width + before + after - size) / stride) + 1;
  const places = height * width;
  // Every row of `columns` is one weight's view of the image, so that the inner loop is long and even.
  const columns = new Float32Array(inputs * size * size * places);
  for (let c = 0, row = 0; c < inputs; c++) {
    for (let ky = 0; ky < size; ky++) {
      for (let kx = 0; kx < size; kx++, row++) {
        for (let y = 0; y < height; y++) {
          const sourceY = y * stride + ky - before;
          if (sourceY < 0 || sourceY >= input.height) continue;
          for (let x = 0; x < width; x++) {
            const sourceX = x * stride + kx - before;
            if (sourceX < 0 || sourceX >= input.width) continue;
            columns[row * places + y * width + x] =
              input.data[(c * input.height + sourceY) * input.width + sourceX];
          }
        }
      }
    }
  }
  const output = image(outputs, height, width);
  const rows = inputs * size * size;
  const [factors, sums] = [weight.data, output.data];
  for (let o = 0; o < outputs; o++) {
    const start = o * places;
    sums.fill(bias.data[o], start, start + places);
    let row = 0;
    for (; row + 3 < rows; row += 4) { // four at once: a third of the time of one by one
      const [f, c] = [o * rows + row, row * places];
      const [f0, f1, f2, f3] = [factors[f], factors[f + 1], factors[f + 2], factors[f + 3]];
      const [c1, c2, c3] = [c + places, c + 2 * places, c + 3 * places];
      for (let place = 0; place < places; place++) {
        sums[start + place] += f0 * columns[c + place] + f1 * columns[c1 + place] + f2 * columns[c2 + place]
          + f3 * columns[c3 + place];
      }
    }
    for (; row < rows; row++) {
      const [factor, c] = [factors[o * rows + row], row * places];
      for (let place = 0; place < places; place++) sums[start + place] += factor * columns[c + place];
    }
  }
  return output;
}

function groupNorm(input, groups, epsilon, weight, bias) {
  const output = image(input.channels, input.height, input.width);
  const places = input.height * input.width;
  const length = (input.channels / groups) * places;
  for (let group = 0; group < groups; group++) {
    const values = input.data.subarray(group * length, (group + 1) * length);
    let mean = 0;
    for (const value of values) mean += value;
    mean /= length;
    let variance = 0;
    for (const value of values) variance += (value - mean) ** 2;
    const scale = 1 / Math.sqrt(variance / length + epsilon);
    for (let index = 0; index < length; index++) {
      const channel = Math.floor((group * length + index) / places);
      output.data[group * length + index] = (values[index] - mean) * scale * weight.data[channel] + bias.data[channel];
    }
  }
  return output;
}

/** Normalise every row of the input. */
function layerNorm(input, weight, bias) {
  const size = weight.data.length;
  const output = new Float32Array(input.length);
  for (let first = 0; first < input.length; first += size) {
    let mean = 0;
    for (let i = 0; i < size; i++) mean += input[first + i];
    mean /= size;
    let variance = 0;
    for (let i = 0; i < size; i++) variance += (input[first + i] - mean) ** 2;
    const scale = 1 / Math.sqrt(variance / size + NORM_OF_POINTS);
    for (let i = 0; i < size; i++) {
      output[first + i] = (input[first + i] - mean) * scale * weight.data[i] + bias.data[i];
    }
  }
  return output;
}

function concatenate(first, second) {
  const output = image(first.channels + second.channels, first.height, first.width);
  output.data.set(first.data);
  output.data.set(second.data, first.data.length);
  return output;
}

function doubled(input) {
  const output = image(input.channels, 2 * input.height, 2 * input.width);
  for (let index = 0; index < output.data.length; index++) {
    const x = index % output.width;
    const y = Math.floor(index / output.width) % output.height;
    const channel = Math.floor(index / (output.width * output.height));
    output.data[index] = input.data[(channel * input.height + (y >> 1)) * input.width + (x >> 1)];
  }
  return output;
}

/** Return the sinusoidal embedding of a timestep (Vaswani et al. 2017), as diffusers lays it out. */
function embedTimestep(timestep, dimension, cosineFirst, shift) {
  const half = dimension / 2;
  const output = new Float32Array(dimension);
  for (let index = 0; index < half; index++) {
    const angle = timestep * Math.exp((-Math.log(10000) * index) / (half - shift));
    output[index + (cosineFirst ? half : 0)] = Math.sin(angle);
    output[index + (cosineFirst ? 0 : half)] = Math.cos(angle);
  }
  return output;
}

// ---- networks

/** A network as one function of (sample, timestep, label), with its configuration and weights; points may be many. */
export function makeNetwork(config, weights) {
  const kinds = { UNet2DModel: unet, PointDenoiser: pointDenoiser };
  const get = (name) => {
    const found = weights.get(name);
    if (!found) throw new Error(`the weights lack ${name}`);
    return found;
  };
  return kinds[config._class_name](config, get, (name) => weights.has(name));
}

function unet(config, get, has) {
  const apply = (name, input) => linear(input, get(`${name}.weight`), get(`${name}.bias`));
  const conv = (name, input, ...more) => convolve(input, get(`${name}.weight`), get(`${name}.bias`), ...more);
  const norm = (name, input, groups = config.norm_num_groups) =>
    groupNorm(input, groups, config.norm_eps, get(`${name}.weight`), get(`${name}.bias`));
  const activated = (input) => ({ ...input, data: silu(input.data) });

  function residual(name, input, embedding, factor) {
    let hidden = conv(`${name}.conv1`, activated(norm(`${name}.norm1`, input)));
    const time = apply(`${name}.time_emb_proj`, silu(embedding));
    const places = hidden.height * hidden.width;
    if (config.resnet_time_scale_shift === "scale_shift") {
      hidden = norm(`${name}.norm2`, hidden);
      hidden.data.forEach((value, index) => {
        const channel = Math.floor(index / places);
        hidden.data[index] = value * (1 + time[channel]) + time[channel + hidden.channels];
      });
    } else {
      hidden.data.forEach((value, index) => (hidden.data[index] = value + time[Math.floor(index / places)]));
      hidden = norm(`${name}.norm2`, hidden);
    }
    hidden = conv(`${name}.conv2`, activated(hidden));
    const shortcut = has(`${name}.conv_shortcut.weight`) ? conv(`${name}.conv_shortcut`, input) : input;
    hidden.data.forEach((value, index) => (hidden.data[index] = (value + shortcut.data[index]) / factor));
    return hidden;
  }

  function attention(name, input, groups, factor) {
    const { channels, height, width } = input;
    const places = height * width;
    const size = config.attention_head_dim ?? channels;
    const normed = has(`${name}.group_norm.weight`) ? norm(`${name}.group_norm`, input, groups) : input;
    const tokens = Array.from({ length: places }, (_, place) =>
      Float32Array.from({ length: channels }, (_, channel) => normed.data[channel * places + place]));
    const [queries, keys, values] = ["to_q", "to_k", "to_v"].map((part) =>
      tokens.map((token) => apply(`${name}.${part}`, token)));
    const output = image(channels, height, width);
    for (let place = 0; place < places; place++) {
      const mixed = new Float32Array(channels);
      for (let start = 0; start < channels; start += size) {
        const scores = keys.map((key) => {
          let sum = 0;
          for (let channel = start; channel < start + size; channel++) sum += queries[place][channel] * key[channel];
          return sum / Math.sqrt(size);
        });
        const largest = Math.max(...scores);
        const shares = scores.map((score) => Math.exp(score - largest));
        const total = shares.reduce((sum, share) => sum + share, 0);
        shares.forEach((share, other) => {
          for (let channel = start; channel < start + size; channel++) {
            mixed[channel] += (share / total) * values[other][channel];
          }
        });
      }
      apply(`${name}.to_out.0`, mixed).forEach((value, channel) => {
        const index = channel * places + place;
        output.data[index] = (value + input.data[index]) / factor;
      });
    }
    return output;
  }

  /** Run the layers of one level; `each` sees the image before and after every one of them. */
  function level(name, layers, hidden, embedding, { take = null, give = null }) {
    for (let layer = 0; layer < layers; layer++) {
      if (take) hidden = concatenate(hidden, take());
      hidden = residual(`${name}.resnets.${layer}`, hidden, embedding, 1);
      if (has(`${name}.attentions.${layer}.to_q.weight`)) {
        hidden = attention(`${name}.attentions.${layer}`, hidden, config.norm_num_groups, 1);
      }
      give?.(hidden);
    }
    return hidden;
  }

  return (sample, timestep, label = null) => {
    const first = config.block_out_channels[0];
    const time = embedTimestep(timestep, first, config.flip_sin_to_cos, config.freq_shift);
    let embedding = apply("time_embedding.linear_2", silu(apply("time_embedding.linear_1", time)));
    if (label !== null) {
      const table = get("class_embedding.weight");
      embedding = embedding.map((value, index) => value + table.data[label * table.shape[1] + index]);
    }
    const [channels, height, width] = [config.in_channels, ...sides(config)];
    let hidden = conv("conv_in", { channels, height, width, data: sample });
    const skips = [hidden];
    const levels = config.block_out_channels.length;
    for (let index = 0; index < levels; index++) {
      const name = `down_blocks.${index}`;
      hidden = level(name, config.layers_per_block, hidden, embedding, { give: (kept) => skips.push(kept) });
      if (index < levels - 1) {
        const padding = config.downsample_padding; // 0 means: one row and column at the end only
        hidden = conv(`${name}.downsamplers.0.conv`, hidden, 2, padding, padding || 1);
        skips.push(hidden);
      }
    }
    const factor = config.mid_block_scale_factor;
    hidden = residual("mid_block.resnets.0", hidden, embedding, factor);
    if (has("mid_block.attentions.0.to_q.weight")) {
      const groups = config.attn_norm_num_groups ?? config.norm_num_groups;
      hidden = attention("mid_block.attentions.0", hidden, groups, factor);
    }
    hidden = residual("mid_block.resnets.1", hidden, embedding, factor);
    for (let index = 0; index < levels; index++) {
      const name = `up_blocks.${index}`;
      hidden = level(name, config.layers_per_block + 1, hidden, embedding, { take: () => skips.pop() });
      if (index < levels - 1) hidden = conv(`${name}.upsamplers.0.conv`, doubled(hidden));
    }
    return conv("conv_out", activated(norm("conv_norm_out", hidden))).data;
  };
}

function sides(config) {
  return Array.isArray(config.sample_size) ? config.sample_size : [config.sample_size, config.sample_size];
}

function pointDenoiser(config, get) {
  const apply = (name, input) => linear(input, get(`${name}.weight`), get(`${name}.bias`));
  const norm = (name, input) => layerNorm(input, get(`${name}.weight`), get(`${name}.bias`));
  return (samples, timestep) => {
    const width = config.hidden_size;
    const time = embedTimestep(timestep, width, false, 1);
    const shifts = apply("embed_time.2", silu(apply("embed_time.0", time)));
    let hidden = apply("embed_sample", samples);
    for (let block = 0; block < config.num_blocks; block++) {
      const name = `blocks.${block}`;
      const shift = { data: shifts.subarray(block * width, (block + 1) * width) };
      const inner = linear(norm(`${name}.norm`, hidden), get(`${name}.inner.weight`), shift);
      hidden = add(hidden, apply(`${name}.outer`, silu(inner)));
    }
    return apply("project.1", norm("project.0", hidden));
  };
}

// ---- sampling

/** Return a function that draws standard normal numbers from a seed (mulberry32, Box-Muller). */
export function normals(seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}

/**
 * Do one step of the reverse chain: estimate x_0, and go on to a sum of the sample, the last estimates and noise.
 *
 * @param step - coefficients from the scheduler: {timestep, sample, output, clip, estimates, keep, noise}.
 * @param normal - draws the noise.
 * @param estimates - of x_0 in the steps before, the newest first; this one's is put in front.
 */
export function reverseStep(network, sample, step, label, nullLabel, guidance, normal, estimates) {
  let output = network(sample, step.timestep, label);
  if (label !== null && nullLabel !== null && guidance !== 1 && label !== nullLabel) {
    const unconditional = network(sample, step.timestep, nullLabel);
    output = output.map((value, index) => unconditional[index] + guidance * (value - unconditional[index]));
  }
  estimates.unshift(
    sample.map((value, index) => {
      const original = step.sample * value + step.output * output[index];
      return step.clip === null ? original : Math.min(step.clip, Math.max(-step.clip, original));
    }),
  );
  return sample.map((value, index) => {
    let mean = step.keep * value;
    for (const [age, factor] of step.estimates.entries()) mean += factor * estimates[age][index];
    return step.noise ? mean + step.noise * normal() : mean;
  });
}
