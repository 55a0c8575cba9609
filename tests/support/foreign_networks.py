"""The networks of other code bases, stated again: names and shapes of their weights, and what they compute.

Written from the papers and the published lists of layers, as functions of a state dict; nothing here is
shared with src. Weights are random and none is zero, so that a layer in the wrong place shows.
"""

import math

import torch
from torch.nn import functional

from common import seeded


def random_weights(shapes, seed=0):
    generator = seeded(seed)
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        is_gain = name.endswith(".g") or (name.endswith("weight") and len(shape) == 1)
        fan_in = math.prod(shape[1:]) if len(shape) > 1 else 10
        weights[name] = 1 + 0.2 * noise if is_gain else noise / math.sqrt(fan_in)
    return weights


def linear_shapes(name, width_in, width_out, *kernel):
    return {f"{name}.weight": (width_out, width_in, *kernel), f"{name}.bias": (width_out,)}


def norm_shapes(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


class OpenAINetwork:
    """improved-diffusion and guided-diffusion: the U-Net of both papers' appendices.

    Every number is said here; of all these a state dict shows only shapes.
    """

    def __init__(
        self, width=32, mults=(1, 2), layers=1, attention=(), channels=3, out=None, classes=None,
        heads=None, head_width=None, scale_shift=True, residual_resampling=False, new_order=False,
    ):  # fmt: skip
        self.width, self.channels, self.classes = width, channels, classes
        self.out = channels if out is None else out
        self.heads, self.head_width = heads, head_width
        self.scale_shift, self.new_order = scale_shift, new_order
        widths = [int(width * mult) for mult in mults]
        here, skips = widths[0], [widths[0]]
        self.blocks = {"input_blocks.0": [("conv", channels, here)]}
        for level, wide in enumerate(widths):
            for _ in range(layers):
                self._add("input_blocks", ("residual", here, wide), level in attention)
                here = wide
                skips.append(here)
            if level < len(widths) - 1:
                self._add("input_blocks", ("smaller" if residual_resampling else "op", here, here))
                skips.append(here)
        self.blocks["middle_block"] = [("residual", here, here), ("attention", here, here)]
        self.blocks["middle_block"].append(("residual", here, here))
        for level in reversed(range(len(widths))):
            for layer in range(layers + 1):
                block = ("residual", here + skips.pop(), widths[level])
                here = widths[level]
                self._add("output_blocks", block, level in attention)
                if level and layer == layers:
                    kind = "larger" if residual_resampling else "up"
                    list(self.blocks.values())[-1].append((kind, here, here))
        self.weights = random_weights(self._shapes(widths[0]))

    def _add(self, group, layer, has_attention=False):
        number = sum(name.startswith(group) for name in self.blocks)
        attention = [("attention", layer[2], layer[2])] if has_attention else []
        self.blocks[f"{group}.{number}"] = [layer, *attention]

    def _shapes(self, first):
        wide = 4 * self.width
        shapes = linear_shapes("time_embed.0", self.width, wide) | linear_shapes("time_embed.2", wide, wide)
        if self.classes:
            shapes["label_emb.weight"] = (self.classes, wide)
        for block, layers in self.blocks.items():
            for place, (kind, low, high) in enumerate(layers):
                name = f"{block}.{place}"
                if kind == "conv":
                    shapes |= linear_shapes(name, low, high, 3, 3)
                elif kind in ("op", "up"):
                    shapes |= linear_shapes(f"{name}.{'op' if kind == 'op' else 'conv'}", low, high, 3, 3)
                elif kind == "attention":
                    shapes |= norm_shapes(f"{name}.norm", low)
                    shapes |= linear_shapes(f"{name}.qkv", low, 3 * low, 1)
                    shapes |= linear_shapes(f"{name}.proj_out", low, low, 1)
                else:
                    shapes |= norm_shapes(f"{name}.in_layers.0", low)
                    shapes |= linear_shapes(f"{name}.in_layers.2", low, high, 3, 3)
                    shapes |= linear_shapes(f"{name}.emb_layers.1", wide, high * (1 + self.scale_shift))
                    shapes |= norm_shapes(f"{name}.out_layers.0", high)
                    shapes |= linear_shapes(f"{name}.out_layers.3", high, high, 3, 3)
                    if low != high:
                        shapes |= linear_shapes(f"{name}.skip_connection", low, high, 1, 1)
        return shapes | norm_shapes("out.0", first) | linear_shapes("out.2", first, self.out, 3, 3)

    def __call__(self, sample, timesteps, labels=None):
        half = self.width // 2
        rates = 10000 ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = timesteps.double()[:, None] * rates
        features = torch.cat([angles.cos(), angles.sin()], dim=1).float()
        embedding = self._dense("time_embed.2", functional.silu(self._dense("time_embed.0", features)))
        if labels is not None:
            embedding = embedding + self.weights["label_emb.weight"][labels]
        hidden, skipped = sample, []
        for block, layers in self.blocks.items():
            if block.startswith("output_blocks"):
                hidden = torch.cat([hidden, skipped.pop()], dim=1)
            for place, (kind, _, _) in enumerate(layers):
                hidden = getattr(self, f"_{kind}")(f"{block}.{place}", hidden, embedding)
            if block.startswith("input_blocks"):
                skipped.append(hidden)
        return self._convolution("out.2", functional.silu(self._norm("out.0", hidden)))

    def _of(self, name):
        return self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]

    def _dense(self, name, hidden):
        return functional.linear(hidden, *self._of(name))

    def _convolution(self, name, hidden, stride=1):
        weight, bias = self._of(name)
        return functional.conv2d(hidden, weight, bias, stride=stride, padding=weight.shape[-1] // 2)

    def _norm(self, name, hidden):
        return functional.group_norm(hidden, 32, *self._of(name))

    def _conv(self, name, hidden, _):
        return self._convolution(name, hidden)

    def _op(self, name, hidden, _):
        return self._convolution(f"{name}.op", hidden, stride=2)

    def _up(self, name, hidden, _):
        return self._convolution(f"{name}.conv", doubled(hidden))

    def _smaller(self, name, hidden, embedding):
        return self._residual(name, hidden, embedding, lambda images: functional.avg_pool2d(images, 2))

    def _larger(self, name, hidden, embedding):
        return self._residual(name, hidden, embedding, doubled)

    def _residual(self, name, hidden, embedding, resample=lambda images: images):
        inner = resample(functional.silu(self._norm(f"{name}.in_layers.0", hidden)))
        inner = self._convolution(f"{name}.in_layers.2", inner)
        shift = self._dense(f"{name}.emb_layers.1", functional.silu(embedding))[:, :, None, None]
        if self.scale_shift:
            width = inner.shape[1]
            inner = self._norm(f"{name}.out_layers.0", inner) * (1 + shift[:, :width]) + shift[:, width:]
        else:
            inner = self._norm(f"{name}.out_layers.0", inner + shift)
        inner = self._convolution(f"{name}.out_layers.3", functional.silu(inner))
        hidden = resample(hidden)
        if f"{name}.skip_connection.weight" in self.weights:
            hidden = self._convolution(f"{name}.skip_connection", hidden)
        return hidden + inner

    def _attention(self, name, hidden, _):
        width = hidden.shape[1]
        heads = self.heads or width // self.head_width
        size = width // heads
        rows = self._norm(f"{name}.norm", hidden).flatten(2)
        weight, bias = self._of(f"{name}.qkv")
        rows = torch.einsum("oi,bin->bon", weight[:, :, 0], rows) + bias[:, None]
        found = []
        for head in range(heads):
            # New order: all queries, all keys, all values. Else a head's three, head after head.
            starts = [part * width + head * size if self.new_order else (3 * head + part) * size
                      for part in range(3)]  # fmt: skip
            query, key, value = (rows[:, start : start + size] for start in starts)
            scores = torch.einsum("bcn,bcm->bnm", query, key) / math.sqrt(size)
            found.append(torch.einsum("bnm,bcm->bcn", scores.softmax(dim=-1), value))
        weight, bias = self._of(f"{name}.proj_out")
        out = torch.einsum("oi,bin->bon", weight[:, :, 0], torch.cat(found, dim=1)) + bias[:, None]
        return hidden + out.view_as(hidden)


def doubled(images):
    return images.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


class LucidrainsNetwork:
    """The Unet of denoising-diffusion-pytorch 2.x, and the state of its GaussianDiffusion."""

    def __init__(
        self, width=16, first=None, mults=(1, 2), channels=1, full=None, heads=None, head_width=8,
        memory=4, timesteps=20, objective="pred_v", schedule="sigmoid", min_snr=False,
    ):  # fmt: skip
        self.width = width
        self.widths = [first or width, *(width * mult for mult in mults)]
        self.full = full or [level == len(mults) - 1 for level in range(len(mults))]
        self.heads, self.head_width = heads or [4] * len(mults), head_width
        self.memory, self.channels = memory, channels
        self.weights = random_weights(self._shapes())
        self.alphas_cumprod, self.objective, self.min_snr = (
            _alpha_bar(schedule, timesteps),
            objective,
            min_snr,
        )

    def _shapes(self):
        time, shapes = 4 * self.width, {}

        def residual(name, low, high):
            shapes.update(linear_shapes(f"{name}.mlp.1", time, 2 * high))
            for block, width in (("block1", low), ("block2", high)):
                shapes.update(linear_shapes(f"{name}.{block}.proj", width, high, 3, 3))
                shapes[f"{name}.{block}.norm.g"] = (1, high, 1, 1)
            if low != high:
                shapes.update(linear_shapes(f"{name}.res_conv", low, high, 1, 1))

        def attention(name, width, level, is_full):
            inner, heads = self.heads[level] * self.head_width, self.heads[level]
            memory = (self.memory, self.head_width) if is_full else (self.head_width, self.memory)
            shapes[f"{name}.norm.g"] = (1, width, 1, 1)
            shapes[f"{name}.mem_kv"] = (2, heads, *memory)
            shapes[f"{name}.to_qkv.weight"] = (3 * inner, width, 1, 1)
            shapes.update(linear_shapes(f"{name}.to_out" + ("" if is_full else ".0"), inner, width, 1, 1))
            if not is_full:
                shapes[f"{name}.to_out.1.g"] = (1, width, 1, 1)

        shapes.update(linear_shapes("init_conv", self.channels, self.widths[0], 7, 7))
        shapes.update(linear_shapes("time_mlp.1", self.width, time) | linear_shapes("time_mlp.3", time, time))
        last = len(self.widths) - 2
        for level in range(last + 1):
            low, high = self.widths[level : level + 2]
            residual(f"downs.{level}.0", low, low)
            residual(f"downs.{level}.1", low, low)
            attention(f"downs.{level}.2", low, level, self.full[level])
            shapes.update(
                linear_shapes(f"downs.{level}.3", low, high, 3, 3) if level == last
                else linear_shapes(f"downs.{level}.3.1", 4 * low, high, 1, 1)
            )  # fmt: skip
            up = f"ups.{last - level}"
            residual(f"{up}.0", high + low, high)
            residual(f"{up}.1", high + low, high)
            attention(f"{up}.2", high, level, self.full[level])
            shapes.update(linear_shapes(f"{up}.3" + (".1" if level else ""), high, low, 3, 3))
        residual("mid_block1", self.widths[-1], self.widths[-1])
        attention("mid_attn", self.widths[-1], last, True)
        residual("mid_block2", self.widths[-1], self.widths[-1])
        residual("final_res_block", 2 * self.widths[0], self.widths[0])
        shapes.update(linear_shapes("final_conv", self.widths[0], self.channels, 1, 1))
        return shapes

    def state(self):
        """Return the state dict of GaussianDiffusion: the network, and the buffers that say something."""
        bar = self.alphas_cumprod
        previous = torch.cat([torch.ones(1, dtype=torch.float64), bar[:-1]])
        snr = bar / (1 - bar)
        clipped = snr.clamp(max=5) if self.min_snr else snr
        weight = {"pred_noise": clipped / snr, "pred_x0": clipped, "pred_v": clipped / (snr + 1)}[
            self.objective
        ]
        buffers = {"betas": 1 - bar / previous, "alphas_cumprod": bar, "loss_weight": weight}
        return {name: value.float() for name, value in buffers.items()} | {
            f"model.{name}": value for name, value in self.weights.items()
        }

    def file(self, average=None):
        """Return what the Trainer saves."""
        ema = {f"ema_model.{name}": value for name, value in (average or self).state().items()}
        ema |= {"initted": torch.tensor(True), "step": torch.tensor(7)}
        return {"step": 7, "model": self.state(), "opt": {}, "ema": ema, "scaler": None, "version": "2.2.5"}

    def __call__(self, sample, timesteps):
        half = self.width // 2
        rates = torch.exp(-math.log(10000) * torch.arange(half) / (half - 1))
        angles = timesteps[:, None] * rates
        features = torch.cat([angles.sin(), angles.cos()], dim=1)
        time = self._convolved("time_mlp.3", functional.gelu(self._convolved("time_mlp.1", features)))
        first = hidden = self._convolved("init_conv", sample)
        skipped = []
        for level in range(len(self.full)):
            hidden = self._residual(f"downs.{level}.0", hidden, time)
            skipped.append(hidden)
            hidden = self._residual(f"downs.{level}.1", hidden, time)
            hidden = hidden + self._attention(f"downs.{level}.2", hidden, level, self.full[level])
            skipped.append(hidden)
            if level < len(self.full) - 1:
                corners = [hidden[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
                hidden = torch.stack(corners, dim=2).flatten(1, 2)  # a channel's four side by side
                hidden = self._convolved(f"downs.{level}.3.1", hidden)
            else:
                hidden = self._convolved(f"downs.{level}.3", hidden)
        hidden = self._residual("mid_block1", hidden, time)
        hidden = hidden + self._attention("mid_attn", hidden, -1, True)
        hidden = self._residual("mid_block2", hidden, time)
        for up, level in enumerate(reversed(range(len(self.full)))):
            for layer in range(2):
                hidden = torch.cat([hidden, skipped.pop()], dim=1)
                hidden = self._residual(f"ups.{up}.{layer}", hidden, time)
            hidden = hidden + self._attention(f"ups.{up}.2", hidden, level, self.full[level])
            hidden = self._convolved(f"ups.{up}.3.1", doubled(hidden)) if level else (
                self._convolved(f"ups.{up}.3", hidden)
            )  # fmt: skip
        hidden = self._residual("final_res_block", torch.cat([hidden, first], dim=1), time)
        return self._convolved("final_conv", hidden)

    def _convolved(self, name, hidden):
        weight, bias = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
        if weight.ndim == 2:
            return functional.linear(hidden, weight, bias)
        return functional.conv2d(hidden, weight, bias, padding=weight.shape[-1] // 2)

    def _norm(self, name, hidden):
        length = hidden.square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-12)
        return hidden / length * math.sqrt(hidden.shape[1]) * self.weights[f"{name}.g"]

    def _residual(self, name, hidden, time):
        inner = self._norm(f"{name}.block1.norm", self._convolved(f"{name}.block1.proj", hidden))
        scale, shift = self._convolved(f"{name}.mlp.1", functional.silu(time))[:, :, None, None].chunk(
            2, dim=1
        )
        inner = functional.silu(inner * (scale + 1) + shift)
        inner = functional.silu(
            self._norm(f"{name}.block2.norm", self._convolved(f"{name}.block2.proj", inner))
        )
        there = f"{name}.res_conv.weight" in self.weights
        return inner + (self._convolved(f"{name}.res_conv", hidden) if there else hidden)

    def _attention(self, name, hidden, level, is_full):
        batch_size, _, height, width = hidden.shape
        rows = self._convolved(f"{name}.to_qkv", self._norm(f"{name}.norm", hidden)).flatten(2)
        memory, heads, size, found = self.weights[f"{name}.mem_kv"], self.heads[level], self.head_width, []
        for head in range(heads):
            query, key, value = (part[:, head * size : (head + 1) * size] for part in rows.chunk(3, dim=1))
            own_key, own_value = (kept.T if is_full else kept for kept in memory[:, head])  # (size, memory)
            key = torch.cat([own_key.expand(batch_size, -1, -1), key], dim=2)
            value = torch.cat([own_value.expand(batch_size, -1, -1), value], dim=2)
            if is_full:
                scores = torch.einsum("bcn,bcm->bnm", query, key) / math.sqrt(size)
                found.append(torch.einsum("bnm,bcm->bcn", scores.softmax(dim=2), value))
            else:
                context = torch.einsum("bcm,bem->bce", key.softmax(dim=2), value)
                found.append(torch.einsum("bce,bcn->ben", context, query.softmax(dim=1) / math.sqrt(size)))
        out = torch.cat(found, dim=1).unflatten(2, (height, width))
        if is_full:
            return self._convolved(f"{name}.to_out", out)
        return self._norm(f"{name}.to_out.1", self._convolved(f"{name}.to_out.0", out))


def _alpha_bar(schedule, timesteps):
    """Return alpha-bar of a schedule of that code base, float64, from its formula."""
    time = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
    if schedule == "linear":
        scale = 1000 / timesteps
        return (1 - torch.linspace(1e-4 * scale, 0.02 * scale, timesteps, dtype=torch.float64)).cumprod(0)
    if schedule == "cosine":
        level = ((time + 0.008) / 1.008 * math.pi / 2).cos().square()
    else:
        start, end = torch.tensor([-3.0, 3.0], dtype=torch.float64).sigmoid()
        level = (end - (6 * time - 3).sigmoid()) / (end - start)
    betas = (1 - level[1:] / level[:-1]).clamp(max=0.999)
    return (1 - betas).cumprod(0)
