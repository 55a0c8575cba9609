"""GuidedUNet2DModel: the networks of guided-diffusion whose attention UNet2DModel cannot state."""

import inspect
from typing import Any

from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps

from .. import checks


class GuidedUNet2DModel(UNet2DModel):
    """A UNet2DModel that has as many attention heads at every width, or a time embedding of another width.

    The weights have the names and shapes of UNet2DModel. That one has heads of one size, so that their number
    grows with the width of a level; the networks of Nichol & Dhariwal 2021 (arXiv:2102.09672) have four at
    each.

    Args:
        num_attention_heads: heads of every attention layer; by `attention_head_dim` if not given.
        timestep_features: width of the sinusoidal time embedding; that of the first level if not given.
        settings: those of UNet2DModel.

    Raises:
        ValueError, TypeError: a number that is no positive integer, or heads that do not divide a width.
    """

    def __init__(
        self, num_attention_heads: int | None = None, timestep_features: int | None = None, **settings: Any
    ):
        super().__init__(**settings)
        self.register_to_config(num_attention_heads=num_attention_heads, timestep_features=timestep_features)
        if num_attention_heads is not None:
            heads = checks.integer("num_attention_heads", num_attention_heads, 1)
            for layer in (module for module in self.modules() if isinstance(module, Attention)):
                if layer.inner_dim % heads:
                    raise ValueError(
                        f"num_attention_heads is {heads}, but must divide {layer.inner_dim}, the width of "
                        "an attention layer."
                    )
                layer.heads = heads
        if timestep_features is not None:
            width = checks.integer("timestep_features", timestep_features, 1)
            time_width = self.config.time_embedding_dim or 4 * self.config.block_out_channels[0]
            self.time_proj = Timesteps(width, self.config.flip_sin_to_cos, self.config.freq_shift)
            self.time_embedding = TimestepEmbedding(width, time_width)

    @staticmethod
    def _get_init_keys(input_class: type) -> set[str]:
        """Return the names of the settings that a stored configuration may have."""
        own, stock = (set(inspect.signature(kind).parameters) for kind in (input_class, UNet2DModel))
        return own - {"settings"} | stock | {"self"}
