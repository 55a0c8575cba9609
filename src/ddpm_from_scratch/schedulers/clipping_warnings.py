"""When clipping the estimates of x_0 is probably not meant: data out of its range, and latents."""

from typing import Any

import torch

# Data further out than this many clipping ranges, plus this many standard deviations of noise, are squashed.
_FAR_OUTSIDE = 2.0
_LARGEST_NOISE = 8.0
# What pipelines of latents call the network that decodes them.
_DECODERS = ("vae", "vqvae", "movq")


def clips(config: Any) -> bool:
    """Return whether a scheduler's configuration cuts estimates of x_0 to a fixed range."""
    return config.clip_sample and not config.thresholding


def squashed_message(
    config: Any, sample: torch.Tensor, signal: float | torch.Tensor, noise: float | torch.Tensor
) -> str | None:
    """Return what to say if no x_0 in the range gives signal * x_0 + noise * z (CPU only), else None."""
    if not sample.is_cpu or not sample.numel():
        return None
    try:
        largest = float(sample.detach().abs().amax())
        limit = _FAR_OUTSIDE * config.clip_sample_range * float(signal) + _LARGEST_NOISE * float(noise)
    except RuntimeError:  # inside vmap or with fake tensors there are no values
        return None
    if largest <= limit:
        return None
    return (
        f"the data reach {largest:.3g}, but clip_sample=True clips every estimate of x_0 to "
        f"[-{config.clip_sample_range:g}, {config.clip_sample_range:g}], so samples cannot look like "
        "them. Set clip_sample=False (right for latents and standardised data), or scale the data."
    )


def latents_message(config: Any, pipeline: Any) -> str | None:
    """Return what to say if a pipeline samples latents, which have no range, else None.

    Args:
        config: of its scheduler.
        pipeline: of diffusers, or None.
    """
    decoder = next((name for name in _DECODERS if getattr(pipeline, name, None) is not None), None)
    if decoder is None or not clips(config):
        return None
    limit = config.clip_sample_range
    return (
        f"clip_sample=True clips every estimate of x_0 to [-{limit:g}, {limit:g}], but what "
        f"{type(pipeline).__name__} samples are latents of its {decoder}, which reach further. Make the "
        "scheduler with clip_sample=False."
    )
