"""LucidrainsUnet: the U-Net of denoising-diffusion-pytorch 2.0 and later, which UNet2DModel cannot be.

It normalises after each convolution, by the root mean square over channels, where UNet2DModel normalises
before, in groups; most of its attention is linear; its first convolution is 7 wide and is seen again at the
end. The layers have that code base's names, so that its weights load as they are.
"""

from itertools import pairwise
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import nn
from torch.nn import functional


class _ChannelNorm(nn.Module):
    """x / rms(x) over channels, times a learned gain; shape (B, C, H, W)."""

    def __init__(self, width: int):
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, width, 1, 1))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return functional.normalize(hidden, dim=1) * self.g * hidden.shape[1] ** 0.5


class _ConvolutionBlock(nn.Module):
    def __init__(self, width_in: int, width_out: int):
        super().__init__()
        self.proj = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.norm = _ChannelNorm(width_out)

    def forward(self, hidden: torch.Tensor, embedding: torch.Tensor | None = None) -> torch.Tensor:
        hidden = self.norm(self.proj(hidden))
        if embedding is not None:
            scale, shift = embedding[:, :, None, None].chunk(2, dim=1)
            hidden = hidden * (scale + 1) + shift
        return functional.silu(hidden)


class _TimeResidualBlock(nn.Module):
    def __init__(self, width_in: int, width_out: int, time_width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(time_width, 2 * width_out))
        self.block1 = _ConvolutionBlock(width_in, width_out)
        self.block2 = _ConvolutionBlock(width_out, width_out)
        self.res_conv = nn.Conv2d(width_in, width_out, 1) if width_in != width_out else nn.Identity()

    def forward(self, hidden: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        inner = self.block2(self.block1(hidden, self.mlp(embedding)))
        return inner + self.res_conv(hidden)


class _MemoryAttention(nn.Module):
    """Attention over positions and some learned keys and values; linear if `is_linear`."""

    def __init__(self, width: int, heads: int, head_width: int, num_memory: int, is_linear: bool):
        super().__init__()
        inner = heads * head_width
        self.heads, self.is_linear = heads, is_linear
        self.norm = _ChannelNorm(width)
        memory = (head_width, num_memory) if is_linear else (num_memory, head_width)
        self.mem_kv = nn.Parameter(torch.randn(2, heads, *memory))
        self.to_qkv = nn.Conv2d(width, 3 * inner, 1, bias=False)
        out = nn.Conv2d(inner, width, 1)
        self.to_out = nn.Sequential(out, _ChannelNorm(width)) if is_linear else out

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        batch_size, _, height, width = hidden.shape
        # (B, heads, positions, channels of a head)
        query, key, value = (
            part.reshape(batch_size, self.heads, -1, height * width).transpose(-1, -2)
            for part in self.to_qkv(self.norm(hidden)).chunk(3, dim=1)
        )
        memory = self.mem_kv.transpose(-1, -2) if self.is_linear else self.mem_kv
        key, value = (
            torch.cat([own.expand(batch_size, *own.shape), seen], dim=-2)
            for own, seen in zip(memory, (key, value), strict=True)
        )
        if self.is_linear:
            query = query.softmax(dim=-1) * query.shape[-1] ** -0.5
            found = query @ (key.softmax(dim=-2).transpose(-1, -2) @ value)
        else:
            found = functional.scaled_dot_product_attention(query, key, value)
        return self.to_out(found.transpose(-1, -2).reshape(batch_size, -1, height, width))


def _layers(level: Any) -> tuple[Any, ...]:
    return tuple(level)


class LucidrainsUnet(ModelMixin, ConfigMixin):
    """The U-Net of denoising-diffusion-pytorch, 2.0 and later, without self-conditioning.

    Args:
        sample_size: side of the images.
        in_channels: of the images.
        out_channels: as many, or twice as many for a learned variance.
        block_out_channels: width after the first convolution, then of each level.
        timestep_features: width of the sinusoidal time embedding.
        full_attention: for each level, whether its attention is full or linear.
        num_attention_heads: for each level; in the middle as at the last.
        attention_head_width: likewise.
        num_memory: learned keys and values of an attention layer.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 32,
        in_channels: int = 3,
        out_channels: int = 3,
        block_out_channels: tuple[int, ...] = (64, 64, 128, 256, 512),
        timestep_features: int = 64,
        full_attention: tuple[bool, ...] = (False, False, False, True),
        num_attention_heads: tuple[int, ...] = (4, 4, 4, 4),
        attention_head_width: tuple[int, ...] = (32, 32, 32, 32),
        num_memory: int = 4,
    ):
        super().__init__()
        widths, time_width = tuple(block_out_channels), 4 * timestep_features
        kinds = list(zip(num_attention_heads, attention_head_width, full_attention, strict=True))
        self.init_conv = nn.Conv2d(in_channels, widths[0], 7, padding=3)
        # The first of the four is the sinusoidal embedding, which has no weights.
        self.time_mlp = nn.Sequential(
            nn.Identity(),
            nn.Linear(timestep_features, time_width),
            nn.GELU(),
            nn.Linear(time_width, time_width),
        )
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        last = len(widths) - 2
        for level, (low, high) in enumerate(pairwise(widths)):
            heads, head_width, is_full = kinds[level]
            self.downs.append(
                nn.ModuleList([
                    _TimeResidualBlock(low, low, time_width),
                    _TimeResidualBlock(low, low, time_width),
                    _MemoryAttention(low, heads, head_width, num_memory, not is_full),
                    nn.Conv2d(low, high, 3, padding=1)
                    if level == last
                    else nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * low, high, 1)),
                ])
            )  # fmt: skip
            self.ups.insert(
                0,
                nn.ModuleList([
                    _TimeResidualBlock(high + low, high, time_width),
                    _TimeResidualBlock(high + low, high, time_width),
                    _MemoryAttention(high, heads, head_width, num_memory, not is_full),
                    nn.Conv2d(high, low, 3, padding=1)
                    if level == 0
                    else nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(high, low, 3, padding=1)),
                ]),
            )  # fmt: skip
        middle, (heads, head_width, _) = widths[-1], kinds[-1]
        self.mid_block1 = _TimeResidualBlock(middle, middle, time_width)
        self.mid_attn = _MemoryAttention(middle, heads, head_width, num_memory, is_linear=False)
        self.mid_block2 = _TimeResidualBlock(middle, middle, time_width)
        self.final_res_block = _TimeResidualBlock(2 * widths[0], widths[0], time_width)
        self.final_conv = nn.Conv2d(widths[0], out_channels, 1)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        class_labels: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[torch.Tensor]:
        """Return the prediction for `sample`, shape (B, C, H, W), or (B, 2C, H, W) with a learned variance.

        Args:
            sample: x_t, shape (B, C, H, W); H and W are multiples of 2 to the number of levels but one.
            timestep: t, one number for all samples or shape (B,).
            class_labels: not supported, must be None.
            return_dict: return an output with `.sample` instead of a tuple.

        Raises:
            ValueError: class_labels.
        """
        if class_labels is not None:
            raise ValueError("LucidrainsUnet is not class-conditional; class_labels must be None.")
        timestep = torch.as_tensor(timestep, device=sample.device).reshape(-1).expand(len(sample))
        features = get_timestep_embedding(timestep, self.config.timestep_features)
        embedding = self.time_mlp(features.to(sample.dtype))
        hidden = first = self.init_conv(sample)
        skipped = []
        for block1, block2, attention, smaller in map(_layers, self.downs):
            hidden = block1(hidden, embedding)
            skipped.append(hidden)
            hidden = block2(hidden, embedding)
            hidden = hidden + attention(hidden)
            skipped.append(hidden)
            hidden = smaller(hidden)
        hidden = self.mid_block1(hidden, embedding)
        hidden = hidden + self.mid_attn(hidden)
        hidden = self.mid_block2(hidden, embedding)
        for block1, block2, attention, larger in map(_layers, self.ups):
            hidden = block1(torch.cat([hidden, skipped.pop()], dim=1), embedding)
            hidden = block2(torch.cat([hidden, skipped.pop()], dim=1), embedding)
            hidden = larger(hidden + attention(hidden))
        hidden = self.final_res_block(torch.cat([hidden, first], dim=1), embedding)
        output = self.final_conv(hidden)
        return UNet2DOutput(sample=output) if return_dict else (output,)
