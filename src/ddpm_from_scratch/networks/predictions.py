"""One evaluation of a network: its prediction, and the variance that some networks predict, too.

Works with any model called as `model(sample, timesteps).sample`, with this package's schedulers and with
diffusers' own.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from .. import checks
from ..process.diffusion import Scales, broadcast_to_sample, dynamic_threshold, to_original
from ..schedulers.reverse_chain import LEARNED_VARIANCE_TYPES


def in_its_precision(model: Callable[..., Any]) -> Callable[..., Any]:
    """Return the network as a function of samples of any precision; one in half precision gets them so."""
    dtype = getattr(model, "dtype", None)
    if dtype not in (torch.float16, torch.bfloat16):
        return model
    return lambda sample, timesteps, **labels: model(sample.to(dtype), timesteps, **labels)


def check_timesteps(timesteps: Iterable[Any], scheduler: Any, *, needs_original: bool = True) -> list[int]:
    """Return timesteps as integers.

    Args:
        timesteps: numbers in 0..T-1, in any order.
        scheduler: gives alphas_cumprod and prediction_type.
        needs_original: whether the estimate of x_0 is needed at each.

    Raises:
        TypeError, ValueError: no timestep, one that is not an integer or out of range; or one whose alpha_bar
            is 0, where the noise says nothing of x_0.
    """
    table = scheduler.alphas_cumprod
    chosen = [checks.integer("a timestep", timestep, 0, len(table) - 1) for timestep in timesteps]
    if not chosen:
        raise ValueError("there are no timesteps, but at least one is needed.")
    if needs_original and scheduler.config.prediction_type == "epsilon":
        for timestep in (min(chosen), max(chosen)):
            if float(table[timestep]) == 0:
                raise ValueError(
                    f"alpha_bar of timestep {timestep} is 0 (rescale_betas_zero_snr), where epsilon says "
                    "nothing of x_0: leave it out of the timesteps, or take a network that predicts v."
                )
    return chosen


def predict(
    model: Callable[..., Any],
    scheduler: Any,
    sample: torch.Tensor,
    timesteps: torch.Tensor,
    class_labels: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the prediction of a network and, for a learned variance_type, its variance values.

    Both have the shape and dtype of the sample. The network of a learned variance_type has 2C channels.

    Args:
        model: the network.
        scheduler: its configuration may have a variance_type.
        sample: x_t, shape (B, ...).
        timesteps: integers in 0..T-1, shape (B,).
        class_labels: passed to the network if given, shape (B,).

    Raises:
        ValueError: an output whose shape does not fit the sample and the variance type.
    """
    labels = {} if class_labels is None else {"class_labels": class_labels}
    model_output = model(sample, timesteps, **labels).sample.to(sample.dtype)
    variance_type = getattr(scheduler.config, "variance_type", None)
    learned = variance_type in LEARNED_VARIANCE_TYPES
    batch_size, channels, *rest = sample.shape if sample.ndim > 1 else (*sample.shape, 1)
    expected = (batch_size, 2 * channels, *rest) if learned else tuple(sample.shape)
    if model_output.shape == expected:
        if not learned:
            return model_output, None
        prediction, variance_values = model_output.split(channels, dim=1)
        return prediction, variance_values
    shapes = f"the model's output has shape {tuple(model_output.shape)} and the samples {tuple(sample.shape)}"
    if learned:
        raise ValueError(
            f"{shapes}, but variance_type {variance_type!r} needs {2 * channels} output channels: {channels} "
            f"of the prediction and {channels} of the variance. Build the network with out_channels="
            f"{2 * channels}, or choose a fixed variance_type."
        )
    raise ValueError(
        f"{shapes}, but in_channels and out_channels of the network must be equal. For a network with twice "
        "the channels, which also predicts a variance, set the scheduler's variance_type to 'learned_range'."
    )


def alpha_prod_at(scheduler: Any, timesteps: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """Return alpha_bar_t of a batch of timesteps, shape (B, 1, ...); float64 if the sample is, or float32."""
    alpha_prod_t = scheduler.alphas_cumprod.to(sample.device)[timesteps.to(sample.device)]
    precise = torch.float64 if sample.dtype == torch.float64 else torch.float32
    return broadcast_to_sample(alpha_prod_t.to(precise), sample)


def estimate_original(
    prediction: torch.Tensor, sample: torch.Tensor, at_t: Scales[torch.Tensor], scheduler: Any
) -> torch.Tensor:
    """Return the estimate of x_0 that sampling uses: clipped or thresholded if the scheduler does so.

    Args:
        prediction: of the network, shape (B, ...).
        sample: x_t, same shape.
        at_t: scales of t.
        scheduler: gives prediction_type, clip_sample, thresholding and their settings.
    """
    config = scheduler.config
    estimate = to_original(prediction, sample, at_t, config.prediction_type)
    if getattr(config, "thresholding", False):
        return dynamic_threshold(estimate, config.dynamic_thresholding_ratio, config.sample_max_value)
    if getattr(config, "clip_sample", False):
        largest = getattr(config, "clip_sample_range", 1.0)
        return estimate.clamp(-largest, largest)
    return estimate
