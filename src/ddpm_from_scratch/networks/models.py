"""Networks: named configurations of `UNet2DModel` for images, and `PointDenoiser` for vectors.

A model is anything called as `model(sample, timesteps).sample`. The named configurations are plain diffusers
networks: building one gives a `UNet2DModel` that any diffusers user can load.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import nn


def _blocks(attention: tuple[bool, ...]) -> dict[str, tuple[str, ...]]:
    """Return the block types of a U-Net whose level i has attention where `attention[i]`."""
    return {
        "down_block_types": tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attention),
        "up_block_types": tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attention)),
    }


# The released networks of Ho et al. 2020 differ from UNet2DModel's defaults in these.
_HO_2020: dict[str, Any] = {
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "attention_head_dim": None,
    "norm_eps": 1e-6,
}

MODEL_CONFIGS: dict[str, dict[str, Any]] = {
    # 8x8 images; no attention is right at this size only.
    "digits": {
        "sample_size": 8,
        "in_channels": 1,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "add_attention": False,
        **_blocks((False, False)),
    },
    # 28-32 px on a small machine.
    "small-32": {
        "sample_size": 32,
        "in_channels": 3,
        "block_out_channels": (64, 128, 128),
        "layers_per_block": 2,
        "attention_head_dim": 64,
        **_blocks((False, False, True)),
    },
    # 32 px on a CPU, in minutes.
    "pictures-32": {
        "sample_size": 32,
        "in_channels": 3,
        "block_out_channels": (32, 64, 64),
        "layers_per_block": 1,
        "attention_head_dim": 16,
        "norm_num_groups": 8,
        **_blocks((False, False, True)),
    },
    # Ho et al. 2020 (arXiv:2006.11239), appendix B: the CIFAR-10 network, 35.7M parameters.
    "ddpm-cifar10": {
        "sample_size": 32,
        "in_channels": 3,
        "block_out_channels": (128, 256, 256, 256),
        "layers_per_block": 2,
        **_blocks((False, True, False, False)),
        **_HO_2020,
    },
    # Same paper: the 256x256 network, 114M parameters.
    "ddpm-256": {
        "sample_size": 256,
        "in_channels": 3,
        "block_out_channels": (128, 128, 256, 256, 512, 512),
        "layers_per_block": 2,
        **_blocks((False, False, False, False, True, False)),
        **_HO_2020,
    },
    # 2-D points; a PointDenoiser, not a U-Net.
    "points": {
        "_class_name": "PointDenoiser",
        "sample_shape": (2,),
        "hidden_size": 64,
        "num_blocks": 3,
    },
    # For tests: every kind of layer, few weights.
    "tiny": {
        "sample_size": 8,
        "in_channels": 1,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 8,
        **_blocks((False, True)),
    },
}


def model_config(
    name: str,
    *,
    sample_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Return the configuration of a name in `MODEL_CONFIGS`.

    Args:
        name: one of `MODEL_CONFIGS`.
        sample_size: image side in pixels, or (height, width), instead of the named one.
        channels: image channels instead of the named ones, for input and output.
        overrides: any other argument of the network's class.

    Raises:
        ValueError: unknown name, or a sample_size that is no size.
    """
    if name not in MODEL_CONFIGS:
        raise ValueError(f"model config is {name!r}, but must be one of {tuple(MODEL_CONFIGS)}.")
    config = {"_class_name": "UNet2DModel", **MODEL_CONFIGS[name]}
    if config["_class_name"] == "UNet2DModel":
        if sample_size is not None:
            config["sample_size"] = sample_size
        image_sides(config["sample_size"])
        config["in_channels"] = config["out_channels"] = channels or config["in_channels"]
    return config | overrides


def load_model_config(name_or_path: str, **hub_kwargs: Any) -> dict[str, Any]:
    """Return a model configuration by name, JSON file, folder or Hub id, in that order.

    Args:
        name_or_path: one of `MODEL_CONFIGS`, a .json file, a folder with config.json, or a repository of the
            Hub.
        hub_kwargs: passed to `load_config`, such as cache_dir, revision, subfolder, token.

    Raises:
        ValueError: nothing of that kind, or a file that is no model configuration.
    """
    if name_or_path in MODEL_CONFIGS:
        return model_config(name_or_path)
    path = Path(name_or_path)
    try:
        if path.is_file():
            config = json.loads(path.read_text())
        else:
            config = UNet2DModel.load_config(name_or_path, **hub_kwargs)
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(
            f"model config is {name_or_path!r}, but must be one of {tuple(MODEL_CONFIGS)}, a JSON file, a "
            "folder with "
            f"config.json or a repository of the Hub ({str(error).splitlines()[0]})."
        ) from error
    if not isinstance(config, dict):
        raise ValueError(f"model config {name_or_path!r} holds no JSON object.")
    if config.get("sample_size") is not None:
        try:
            image_sides(config["sample_size"])
        except ValueError as error:
            raise ValueError(f"model config {name_or_path!r} cannot be used: {error}") from error
    return config


def build_model(config: dict[str, Any]) -> ModelMixin:
    """Return a network with fresh weights from a configuration; `_class_name` says which kind.

    Raises:
        ValueError: a `_class_name` other than UNet2DModel and PointDenoiser.
    """
    classes = {"UNet2DModel": UNet2DModel, "PointDenoiser": PointDenoiser}
    class_name = config.get("_class_name", "UNet2DModel")
    if class_name not in classes:
        raise ValueError(f"_class_name is {class_name!r}, but must be one of {tuple(classes)}.")
    return classes[class_name].from_config(config)


def image_sides(sample_size: Any) -> tuple[int, int]:
    """Return height and width of images, in pixels, from a network's sample_size.

    Args:
        sample_size: one side of squares, or a pair (height, width), which JSON makes a list.

    Raises:
        ValueError: anything else.
    """
    is_pair = isinstance(sample_size, (list, tuple)) and len(sample_size) == 2
    height, width = sample_size if is_pair else (sample_size, sample_size)
    for side in (height, width):
        if not isinstance(side, int) or isinstance(side, bool) or side < 1:
            raise ValueError(
                f"sample_size is {sample_size!r}, but must be a positive integer, or a pair of them: height "
                "and width in pixels."
            )
    return height, width


def sample_shape(model: Any) -> tuple[int, ...]:
    """Return the shape of one sample of a model, without the batch: (C, H, W) for images, (D,) for points.

    It is `sample_shape`, of the configuration or an attribute of the network; or else, of the configuration,
    in_channels and sample_size.

    Raises:
        ValueError: the model has neither, or a shape or size that is none.
    """
    shape = setting(model, "sample_shape")
    shape = getattr(model, "sample_shape", None) if shape is None else shape
    if shape is not None:
        sides = tuple(shape) if isinstance(shape, (list, tuple)) else ()
        if not sides or any(type(side) is not int or side < 1 for side in sides):
            raise ValueError(
                f"{type(model).__name__} has sample_shape {shape!r}, but must have the shape of one sample, "
                "without the batch: (C, H, W) for images, (D,) for points."
            )
        return sides
    size, channels = setting(model, "sample_size"), setting(model, "in_channels")
    if size is None or channels is None:
        raise ValueError(
            f"the shape of a sample of {type(model).__name__} is not known: give its configuration (or the "
            "network, as an attribute) sample_shape, or its configuration in_channels and sample_size (an "
            "integer or a pair); or pass latents to the pipeline."
        )
    return (channels, *image_sides(size))


def setting(model: Any, name: str) -> Any:
    """Return a setting of a network's configuration; None if it has no such setting, or no configuration."""
    return getattr(getattr(model, "config", None), name, None)


class _ResidualBlock(nn.Module):
    def __init__(self, hidden_size: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.inner = nn.Linear(hidden_size, hidden_size, bias=False)  # the shift by the time is its bias
        self.outer = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        inner = torch.addmm(shift, self.norm(hidden), self.inner.weight.T)
        return hidden + self.outer(nn.functional.silu(inner))


# So many rows of a layer's activations stay in a processor's cache from one layer to the next.
_ROWS_IN_CACHE = 5000


class PointDenoiser(ModelMixin, ConfigMixin):
    """A residual MLP with sinusoidal time embedding, for data that are vectors such as 2-D points.

    Args:
        sample_shape: shape of one sample, (D,).
        hidden_size: width of the layers.
        num_blocks: number of residual blocks.
    """

    @register_to_config
    def __init__(self, sample_shape: tuple[int, ...] = (2,), hidden_size: int = 128, num_blocks: int = 3):
        super().__init__()
        (dimensions,) = sample_shape
        self.embed_sample = nn.Linear(dimensions, hidden_size)
        self.embed_time = nn.Sequential(
            nn.Linear(hidden_size, hidden_size), nn.SiLU(), nn.Linear(hidden_size, num_blocks * hidden_size)
        )
        self.blocks = nn.ModuleList(_ResidualBlock(hidden_size) for _ in range(num_blocks))
        self.project = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, dimensions))

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        class_labels: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[torch.Tensor]:
        """Return the prediction for `sample`, shape (B, D).

        Args:
            sample: x_t, shape (B, D).
            timestep: t, one number for all samples or shape (B,). One number is embedded once, not B times.
            class_labels: not supported, must be None.
            return_dict: return an output with `.sample` instead of a tuple.
        """
        if class_labels is not None:
            raise ValueError("PointDenoiser is not class-conditional; class_labels must be None.")
        timestep = torch.as_tensor(timestep, device=sample.device).reshape(-1)
        features = get_timestep_embedding(timestep, self.config.hidden_size).to(sample.dtype)
        shifts = self.embed_time(features)
        if torch.is_grad_enabled():
            output = self._predict(sample, shifts)
        else:
            parts = sample.split(_ROWS_IN_CACHE)
            own = shifts.split(_ROWS_IN_CACHE) if len(shifts) > 1 else [shifts] * len(parts)
            output = torch.cat([self._predict(*part) for part in zip(parts, own, strict=True)])
        return UNet2DOutput(sample=output) if return_dict else (output,)

    def _predict(self, sample: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
        hidden = self.embed_sample(sample)
        for block, shift in zip(self.blocks, shifts.chunk(len(self.blocks), dim=-1), strict=True):
            hidden = block(hidden, shift)
        return self.project(hidden)
