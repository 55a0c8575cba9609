"""What training minimises: the loss and its weights.

Everything reads only `scheduler.alphas_cumprod` and `scheduler.config.{prediction_type,
num_train_timesteps}`, so it works with this package's schedulers and with diffusers' own. A model is anything
called as `model(sample, timesteps).sample`.
"""

from collections.abc import Callable
from typing import Any

import torch

from .diffusion import add_noise, broadcast_to_sample, check_prediction_type, scales, training_target
from .noise_schedules import snr
from .timestep_samplers import stratified_timesteps as stratified_timesteps
from .timestep_samplers import uniform_timesteps as uniform_timesteps

LOSS_WEIGHTINGS = ("none", "min_snr")


def min_snr_weights(alpha_prod_t: torch.Tensor, prediction_type: str, gamma: float = 5.0) -> torch.Tensor:
    """Return the weight of each sample's squared error, same shape as `alpha_prod_t`.

    In x_0 units the weight is min(SNR, gamma) for every prediction type, so the network's own error is
    weighted by
        sample:        min(SNR, gamma)
        epsilon:       min(SNR, gamma) / SNR
        v_prediction:  min(SNR, gamma) / (SNR + 1)              (Hang et al. 2023, arXiv:2303.09556, sec. 3.4)

    Args:
        alpha_prod_t: alpha_bar_t in [0, 1); 0 (no signal left) has the limit of the formula.
        prediction_type: what the network predicts.
        gamma: cap on the SNR; the paper takes 5.

    Raises:
        ValueError: unknown `prediction_type`, or gamma not positive.
    """
    check_prediction_type(prediction_type)
    if not gamma > 0:
        raise ValueError(f"gamma is {gamma}, but must be positive.")
    ratio = snr(alpha_prod_t)
    clipped = ratio.clamp(max=gamma)
    if prediction_type == "sample":
        return clipped
    if prediction_type == "v_prediction":
        return clipped / (ratio + 1)
    return torch.where(ratio > 0, clipped / ratio, torch.ones_like(ratio))


def denoising_losses(
    model: Callable[..., Any],
    scheduler: Any,
    original_samples: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    *,
    class_labels: torch.Tensor | None = None,
    loss_weighting: str = "none",
    snr_gamma: float = 5.0,
) -> torch.Tensor:
    """Return the denoising loss of each sample, float32, shape (B,).

    loss_i = w(t_i) mean((target - model(x_t, t_i))^2)      (Ho et al. 2020, arXiv:2006.11239, eq. 14: w = 1,
    mean for sum)

    The noising, the target and the error are in the dtype of `original_samples` (float32), so that in mixed
    precision only
    the network runs in half: at small t, 1 - alpha_bar is 0 in bfloat16.

    Args:
        model: the network.
        scheduler: gives alphas_cumprod and prediction_type.
        original_samples: x_0, shape (B, ...), floating point.
        noise: eps ~ N(0, I), same shape.
        timesteps: integers in 0..T-1, shape (B,).
        class_labels: passed to the network if given, shape (B,).
        loss_weighting: "none" or "min_snr".
        snr_gamma: gamma of "min_snr".

    Raises:
        ValueError: an unknown weighting or a model output of another shape than the samples.
    """
    if loss_weighting not in LOSS_WEIGHTINGS:
        raise ValueError(f"loss_weighting is {loss_weighting!r}, but must be one of {LOSS_WEIGHTINGS}.")
    prediction_type = scheduler.config.prediction_type
    alpha_prod_t = scheduler.alphas_cumprod.to(original_samples.device)[timesteps]
    at_t = scales(broadcast_to_sample(alpha_prod_t, original_samples))
    noisy_samples = add_noise(original_samples, noise, at_t)
    labels = {} if class_labels is None else {"class_labels": class_labels}
    model_output = model(noisy_samples, timesteps, **labels).sample
    target = training_target(original_samples, noise, at_t, prediction_type)
    if model_output.shape != target.shape:
        raise ValueError(
            f"the model's output has shape {tuple(model_output.shape)}, but the samples have "
            f"{tuple(target.shape)}; "
            "in_channels and out_channels of the network must be equal."
        )
    losses = (model_output.to(target.dtype) - target).square().flatten(1).mean(1)
    if loss_weighting == "min_snr":
        losses = losses * min_snr_weights(alpha_prod_t, prediction_type, snr_gamma)
    return losses
