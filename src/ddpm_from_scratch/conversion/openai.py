"""Networks of OpenAI's improved-diffusion and guided-diffusion, as UNet2DModel.

Nichol & Dhariwal 2021 (arXiv:2102.09672) and Dhariwal & Nichol 2021 (arXiv:2105.05233).
What the shapes say is read from them: widths, levels, layers, classes, where attention is. What they do not
say is a setting: heads, the order of queries, keys and values, the process.
"""

import re
from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.modeling_utils import ModelMixin

from ..hub.safe_loading import some
from ..networks.guided_unet import GuidedUNet2DModel
from ..runtime.errors import ConfigError
from ..schedulers.scheduling_ddpm_from_scratch import DDPMFromScratchScheduler
from .checkpoints import Tensors, as_float32
from .settings import ConversionSettings, assumed

SETTINGS = (
    "image_size", "num_heads", "num_head_channels", "use_new_attention_order", "diffusion_steps",
    "noise_schedule", "rescale_timesteps", "prediction_type", "variance_type", "weights",
)  # fmt: skip
_GROUPS = 32  # of every normalisation of these code bases
_DEFAULT_HEADS = 4

# Layers of a residual block and of attention: name in UNet2DModel -> name in these code bases.
_LAYERS = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection", "group_norm": "norm", "to_q": "qkv",
    "to_k": "qkv", "to_v": "qkv", "to_out.0": "proj_out",
}  # fmt: skip
_ENDS = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "class_embedding": "label_emb", "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1", "mid_block.resnets.1": "middle_block.2",
}  # fmt: skip


def is_openai(weights: Tensors) -> bool:
    """Return whether a state dict has the names of these code bases."""
    return any(name.startswith(("input_blocks.", "time_embed.")) for name in weights)


def convert_openai(
    weights: Tensors, settings: ConversionSettings, notes: list[str]
) -> tuple[ModelMixin, DDPMFromScratchScheduler]:
    """Return the network and the scheduler of a state dict.

    Args:
        weights: a state dict whose names `is_openai` knows.
        settings: what it does not say.
        notes: gets what was read and what was assumed.

    Raises:
        ConfigError: a network that UNet2DModel cannot be, weights that are missing, foreign or of another
            shape, or settings that do not fit.
    """
    settings.require_only(SETTINGS, "a file of improved-diffusion or guided-diffusion")
    weights = as_float32(weights, notes)
    config, per_level = _architecture(weights)
    config["sample_size"] = settings.image_side(2 ** (len(config["block_out_channels"]) - 1))
    heads = _heads(_attention_widths(config), settings, notes)
    config |= _head_settings(heads)
    new_order = settings.use_new_attention_order
    if max(heads.values()) > 1:
        new_order = assumed(False, new_order, "use_new_attention_order", notes)
    process = _process(config, settings, notes)
    table = _rescaled_embedding(config, process, settings, notes)
    kind = GuidedUNet2DModel if {"num_attention_heads", "timestep_features"} & set(config) else UNet2DModel
    with torch.device("meta"):
        model = kind(**config)
    found = _translated(weights, model, per_level, heads, bool(new_order))
    if table is not None:
        found["time_proj.weight"] = table
    model.load_state_dict(found, assign=True)
    notes.insert(0, f"network: {kind.__name__}, {model.num_parameters():,} parameters, {_in_words(config)}")
    return model.eval(), DDPMFromScratchScheduler(**process)


def _shape(weights: Tensors, name: str) -> tuple[int, ...]:
    if name not in weights:
        raise ConfigError(f"the file lacks {name!r}, which every network of this layout must have.")
    return tuple(weights[name].shape)


def _blocks(weights: Tensors, group: str) -> list[set[str]]:
    """Return for each block of a group the names of its layers' first weights, such as "1.qkv".

    Raises:
        ConfigError: a block without weights, which an up- or downsampling without convolution leaves.
    """
    form = re.compile(rf"{group}\.(\d+)\.(\d+\.\w+)")
    found: dict[int, set[str]] = {}
    for match in filter(None, map(form.match, weights)):
        found.setdefault(int(match[1]), set()).add(match[2])
    for index in range(len(found)):
        if index not in found:
            raise ConfigError(
                f"{group}.{index} has no weights: with conv_resample=False the network changes its size "
                "without a convolution, which has no counterpart in UNet2DModel; it must have one there."
            )
    return [found[index] for index in range(len(found))]


def _architecture(weights: Tensors) -> tuple[dict[str, Any], int]:
    """Return the settings of UNet2DModel that the shapes say, and the blocks of a level, num_res_blocks + 1.

    Raises:
        ConfigError: a classifier, an upsampler, or shapes of something else.
    """
    if "out.2.weight" not in weights or not any(name.startswith("output_blocks.") for name in weights):
        raise ConfigError(
            "the file has no output_blocks: it holds a classifier (or another encoder), which must be a "
            "network that predicts noise; give the file of the diffusion model, such as 64x64_diffusion.pt."
        )
    out_channels, in_channels = (
        _shape(weights, "out.2.weight")[0],
        _shape(weights, "input_blocks.0.0.weight")[1],
    )
    if in_channels == 6 or out_channels not in (in_channels, 2 * in_channels):
        raise ConfigError(
            f"the network takes {in_channels} channels and gives {out_channels}, but must give as many or "
            "twice as many, of pictures alone: an upsampler (super-resolution) also sees a small picture, "
            "which no pipeline here passes."
        )
    down, up = _blocks(weights, "input_blocks"), _blocks(weights, "output_blocks")
    ends = [place for place, block in enumerate(up) if _upsampler(block) is not None]
    per_level = ends[0] + 1 if ends else len(up)
    num_levels = len(up) // per_level
    if per_level < 2 or len(down) != len(up) or ends != [per_level * n - 1 for n in range(1, num_levels)]:
        raise ConfigError(
            f"the file has {len(down)} input_blocks and {len(up)} output_blocks enlarging after {ends}, "
            "but must have the same number of layers at every level."
        )
    firsts = range(1, len(down), per_level)  # of each level, in input_blocks
    widths = tuple(_shape(weights, f"input_blocks.{first}.0.out_layers.3.weight")[0] for first in firsts)
    uneven = [width for width in widths if width % _GROUPS]
    if uneven:
        raise ConfigError(
            f"a level is {uneven[0]} wide, but in these code bases every width must be a multiple of "
            f"{_GROUPS}, the groups of a normalisation."
        )
    time_width, features = _shape(weights, "time_embed.0.weight")
    attention = ["1.qkv" in down[first] for first in firsts]
    resamples = bool(ends) and _upsampler(up[ends[0]]) != "conv"
    plain = "Resnet{}sampleBlock2D" if resamples else "{}Block2D"
    emb_width = _shape(weights, "input_blocks.1.0.emb_layers.1.weight")[0]
    config = {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "block_out_channels": widths,
        "layers_per_block": per_level - 1,
        "down_block_types": tuple("AttnDownBlock2D" if here else plain.format("Down") for here in attention),
        "up_block_types": tuple("AttnUpBlock2D" if here else plain.format("Up") for here in attention[::-1]),
        "downsample_type": "resnet" if resamples else "conv",
        "upsample_type": "resnet" if resamples else "conv",
        "resnet_time_scale_shift": "scale_shift" if emb_width == 2 * widths[0] else "default",
        "norm_num_groups": _GROUPS,
        "attn_norm_num_groups": _GROUPS,
    }
    if "label_emb.weight" in weights:
        config["num_class_embeds"] = _shape(weights, "label_emb.weight")[0]
    if time_width != 4 * widths[0]:
        config["time_embedding_dim"] = time_width
    if features != widths[0]:
        config["timestep_features"] = features
    return config, per_level


def _upsampler(block: set[str]) -> str | None:
    """Return the layer with which a block ends if it enlarges: "conv", or a residual."""
    for layer in block:
        place, name = layer.split(".")
        if place != "0" and name in ("conv", "in_layers"):
            return "conv" if name == "conv" else f"{place}.{name}"
    return None


def _attention_widths(config: dict[str, Any]) -> list[int]:
    widths = config["block_out_channels"]
    there = [kind.startswith("Attn") for kind in config["down_block_types"]]
    return [*(width for width, here in zip(widths, there, strict=True) if here), widths[-1]]


def _heads(widths: list[int], settings: ConversionSettings, notes: list[str]) -> dict[int, int]:
    """Return how many heads attention has at each width.

    Raises:
        ConfigError: both settings, or one that does not divide a width.
    """
    size, number = settings.num_head_channels, settings.num_heads
    if size is not None and number is not None:
        raise ConfigError(
            f"--num_heads is {number} and --num_head_channels {size}, but only one may be given: with "
            "num_head_channels these code bases ignore num_heads."
        )
    name = "num_heads" if size is None else "num_head_channels"
    divisor: int = assumed(_DEFAULT_HEADS, number, "num_heads", notes) if size is None else size
    for width in widths:
        if width % divisor:
            raise ConfigError(f"--{name} is {divisor}, but must divide {width}, the width of attention.")
    return {width: divisor if size is None else width // divisor for width in widths}


def _head_settings(heads: dict[int, int]) -> dict[str, Any]:
    """Return how a network says its heads: by their size where that is the same everywhere."""
    sizes = {width // number for width, number in heads.items()}
    if set(heads.values()) == {1}:
        return {"attention_head_dim": None}
    return (
        {"attention_head_dim": sizes.pop()}
        if len(sizes) == 1
        else {"num_attention_heads": max(heads.values())}
    )


def _process(config: dict[str, Any], settings: ConversionSettings, notes: list[str]) -> dict[str, Any]:
    """Return the settings of the scheduler.

    Raises:
        ConfigError: a variance that does not fit the network's channels.
    """
    num_steps = assumed(1000, settings.diffusion_steps, "diffusion_steps", notes)
    schedule = assumed("linear", settings.noise_schedule, "noise_schedule", notes)
    learned = config["out_channels"] != config["in_channels"]
    variance = settings.variance_type
    if variance is not None and (variance == "learned_range") != learned:
        raise ConfigError(
            f"--variance_type is {variance!r}, but the network gives {config['out_channels']} channels for "
            f"{config['in_channels']}: it must be {'learned_range' if learned else 'a fixed one'}."
        )
    if not learned:
        variance = assumed("fixed_large", variance, "variance_type", notes)
    return {
        "num_train_timesteps": num_steps,
        "beta_schedule": {"linear": "linear", "cosine": "squaredcos_cap_v2"}[schedule],
        "scale_betas_by_length": schedule == "linear" and num_steps != 1000,
        "prediction_type": assumed("epsilon", settings.prediction_type, "prediction_type", notes),
        "variance_type": "learned_range" if learned else variance,
        "timestep_spacing": "linspace",  # as their timestep_respacing
    }


def _rescaled_embedding(
    config: dict[str, Any], process: dict[str, Any], settings: ConversionSettings, notes: list[str]
) -> torch.Tensor | None:
    """Return the embeddings of all timesteps if the network saw them rescaled, shape (T, features).

    UNet2DModel embeds t itself; with time_embedding_type "learned" it looks t up in a table, which holds any.

    Raises:
        ConfigError: it is not said whether they were, and it matters.
    """
    num_steps = process["num_train_timesteps"]
    if num_steps == 1000:
        return None
    if settings.rescale_timesteps is None:
        raise ConfigError(
            f"--diffusion_steps is {num_steps}, so --rescale_timesteps must be given: true (the default of "
            "improved-diffusion) or false (that of guided-diffusion); the file does not say it."
        )
    if not settings.rescale_timesteps:
        return None
    if "timestep_features" in config:
        raise ConfigError(
            f"--rescale_timesteps is true with {num_steps} steps, and the time embedding is "
            f"{config['timestep_features']} wide where the first level is {config['block_out_channels'][0]}: "
            "both at once have no counterpart in UNet2DModel; one of them must go."
        )
    config |= {"time_embedding_type": "learned", "num_train_timesteps": num_steps}
    notes.append(
        "rescaled timesteps: a table of time embeddings in the network, time_embedding_type 'learned'"
    )
    seen = torch.arange(num_steps).float() * (1000.0 / num_steps)
    return get_timestep_embedding(
        seen, config["block_out_channels"][0], flip_sin_to_cos=True, downscale_freq_shift=0
    )


def _foreign_name(name: str, per_level: int, has_attention: set[str]) -> str:
    """Return the name of a weight of UNet2DModel in these code bases.

    Args:
        name: in UNet2DModel.
        per_level: blocks of a level.
        has_attention: such as "up_blocks.0", those blocks of UNet2DModel that have attention.
    """
    layer, leaf = name.rsplit(".", 1)
    for ours, theirs in _ENDS.items():
        if layer == ours:
            return f"{theirs}.{leaf}"
        if layer.startswith(f"{ours}."):
            return f"{theirs}.{_LAYERS[layer.removeprefix(f'{ours}.')]}.{leaf}"
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", layer)
    assert match is not None, name
    way, level, kind, index, inner = match[1], int(match[2]), match[3], int(match[4]), match[5]
    if kind in ("resnets", "attentions"):
        block, place = level * per_level + index, int(kind == "attentions")
    elif way == "down":
        block, place = (level + 1) * per_level - 1, 0
    else:
        block, place = (level + 1) * per_level - 1, 1 + (f"up_blocks.{level}" in has_attention)
    group = "output_blocks" if way == "up" else "input_blocks"
    block += way == "down"  # the first of input_blocks is the convolution
    if inner == "conv":
        return f"{group}.{block}.{place}.{'op' if way == 'down' else 'conv'}.{leaf}"
    return f"{group}.{block}.{place}.{_LAYERS[inner]}.{leaf}"


def _translated(
    weights: Tensors, model: ModelMixin, per_level: int, heads: dict[int, int], new_order: bool
) -> Tensors:
    """Return the weights by the names of UNet2DModel.

    Raises:
        ConfigError: weights that are missing, of another shape, or that the network has no place for.
    """
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    expected.pop("time_proj.weight", None)
    has_attention = {".".join(name.split(".")[:2]) for name in expected if ".attentions." in name}
    foreign = {name: _foreign_name(name, per_level, has_attention) for name in expected}
    missing, unknown = set(foreign.values()) - set(weights), set(weights) - set(foreign.values())
    if missing:
        raise ConfigError(
            f"the file lacks {some(sorted(missing))}, which a network of its other shapes must have."
        )
    if unknown:
        raise ConfigError(
            f"the file has {some(sorted(unknown))}, which has no counterpart in UNet2DModel: it must be a "
            "network of improved-diffusion or guided-diffusion as published."
        )
    found = {}
    for name, theirs in foreign.items():
        value = weights[theirs]
        part = {"to_q": 0, "to_k": 1, "to_v": 2}.get(name.split(".")[-2])
        if part is not None and value.shape[0] == 3 * expected[name][0]:
            value = _part_of_qkv(value, part, heads[expected[name][0]], new_order)
        if value.ndim == len(expected[name]) + 1 and value.shape[-1] == 1:
            value = value.squeeze(-1)  # a convolution over positions in a row, which is a matrix
        if tuple(value.shape) != expected[name]:
            raise ConfigError(
                f"the file has {theirs!r} of shape {tuple(weights[theirs].shape)}, but its other shapes ask "
                f"for one that gives {expected[name]} at {name!r}; they must belong to one network."
            )
        found[name] = value.contiguous()
    return found


def _part_of_qkv(value: torch.Tensor, part: int, heads: int, new_order: bool) -> torch.Tensor:
    """Return the rows of queries (0), keys (1) or values (2) of all heads, in the order of the heads."""
    if new_order:
        return value.chunk(3)[part]
    by_head = value.unflatten(0, (heads, 3, -1))
    return by_head[:, part].flatten(0, 1)


def _in_words(config: dict[str, Any]) -> str:
    """Return what was read of a network, for people."""
    attention = [kind.startswith("Attn") for kind in config["down_block_types"]]
    sizes = [str(config["sample_size"] >> level) for level, here in enumerate(attention) if here]
    words = [
        f"levels {'-'.join(map(str, config['block_out_channels']))}",
        f"{config['layers_per_block']} residual blocks each",
        f"attention at {' and '.join(sizes)} px and in the middle" if sizes else "attention in the middle",
        f"{config['in_channels']} channels in, {config['out_channels']} out",
    ]
    if config["resnet_time_scale_shift"] == "scale_shift":
        words.append("scale-shift norms")
    if config["downsample_type"] == "resnet":
        words.append("residual up- and downsampling")
    if "num_class_embeds" in config:
        words.append(f"{config['num_class_embeds']} classes")
    return ", ".join(words)
