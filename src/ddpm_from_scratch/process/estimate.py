"""What a network's output says of x_0, beyond the equations: its two halves, guidance, and clipping."""

import math
from typing import Any

import torch

from ..words import LEARNED_VARIANCE_TYPES
from .diffusion import at_least_float32


def split_variance(
    model_output: torch.Tensor, sample: torch.Tensor, variance_type: str | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the prediction, in the shape of the sample, and the values of a learned variance or None.

    The network of a learned variance has 2C channels: C of the prediction and C of the variance (Nichol &
    Dhariwal 2021, arXiv:2102.09672, sec. 3.1).

    Args:
        model_output: network output, shape (B, C, ...) or (B, 2C, ...).
        sample: x_t, shape (B, C, ...).
        variance_type: of the scheduler; None for one that has none.

    Raises:
        ValueError: an output whose shape does not fit the sample and the variance type.
    """
    learned = variance_type in LEARNED_VARIANCE_TYPES
    if not learned and model_output.shape == sample.shape:
        return model_output, None
    if learned and sample.ndim > 1:
        channels = sample.shape[1]
        if model_output.shape == (sample.shape[0], 2 * channels, *sample.shape[2:]):
            prediction, variance = torch.split(model_output, channels, dim=1)
            return prediction, variance
    needed = "twice the sample's channels" if learned else "the sample's shape"
    raise ValueError(
        f"model_output has shape {tuple(model_output.shape)} and sample {tuple(sample.shape)}, but "
        f"variance_type {variance_type!r} needs {needed}. A network with twice the sample's channels "
        "(out_channels = 2 * in_channels) predicts a variance, too: set the scheduler's variance_type to "
        "'learned_range' (or 'learned') for it, and only for it."
    )


def guided_output(
    conditional: torch.Tensor, unconditional: torch.Tensor, guidance_scale: float
) -> torch.Tensor:
    """Return the output of classifier-free guidance, shape (B, ...).

    unconditional + s (conditional - unconditional)     (Ho & Salimans 2022, arXiv:2207.12598, eq. 6)

    s = 1 is the conditional output, s = 0 the unconditional one; the paper's w is s - 1. It means the same
    for outputs that are eps, x_0 or v: one is an affine function of the other, and the weights sum to 1.
    """
    return unconditional + guidance_scale * (conditional - unconditional)


def clipped(original_samples: torch.Tensor, config: Any) -> torch.Tensor:
    """Return an estimate of x_0 thresholded, clipped, or as it is, by the settings of a scheduler.

    Args:
        original_samples: estimate of x_0, shape (B, ...).
        config: has thresholding with dynamic_thresholding_ratio and sample_max_value, and clip_sample with
            clip_sample_range; a setting that a scheduler of diffusers lacks is off.
    """
    if getattr(config, "thresholding", False):
        return dynamic_threshold(original_samples, config.dynamic_thresholding_ratio, config.sample_max_value)
    if getattr(config, "clip_sample", False):
        largest = getattr(config, "clip_sample_range", 1.0)
        return original_samples.clamp(-largest, largest)
    return original_samples


def dynamic_threshold(original_samples: torch.Tensor, ratio: float, largest: float) -> torch.Tensor:
    """Return x_0 clamped to [-s, s] and divided by s, with s a quantile of |x_0| of each sample.

    Saharia et al. 2022 (arXiv:2205.11487), sec. 2.3.

    Args:
        original_samples: estimate of x_0, shape (B, ...), of any rank and size.
        ratio: which quantile, in [0, 1].
        largest: s is kept in [1, largest]; with 1 the result is plain clipping.
    """
    if not original_samples.numel():
        return original_samples
    # quantile has no half-precision kernel
    rows = at_least_float32(original_samples.reshape(len(original_samples), -1))
    limit = _quantile(rows.abs(), ratio).clamp(min=1, max=largest)[:, None]
    return (rows.clamp(-limit, limit) / limit).reshape(original_samples.shape).to(original_samples.dtype)


def _quantile(rows: torch.Tensor, ratio: float) -> torch.Tensor:
    """Return a quantile of each row, shape (B,), for more elements than the 16 million of torch.quantile."""
    if rows.numel() <= 16_000_000:
        return torch.quantile(rows, ratio, dim=1)
    place = ratio * (rows.shape[1] - 1)
    low, high = (
        torch.stack([row.kthvalue(k + 1).values for row in rows])
        for k in (math.floor(place), math.ceil(place))
    )
    return torch.lerp(low, high, place - math.floor(place))
