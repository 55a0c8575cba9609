"""What training minimises: the loss, its weights, and the dropping of labels.

Everything reads only `process.alphas_cumprod` and `process.config.{prediction_type, variance_type}` of a
denoiser, so it works with this package's schedulers and with diffusers' own.
"""

import sys

import torch

from .. import checks
from ..density.bound_terms import bound_coefficients, bound_terms, network_log_variance
from ..networks.denoiser import Denoiser
from ..process.diffusion import (
    add_noise,
    broadcast_to_sample,
    check_prediction_type,
    scales,
    to_original,
    training_target,
)
from ..process.noise_schedules import snr
from ..words import LOSS_WEIGHTINGS


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


def drop_labels(
    labels: torch.Tensor,
    null_label: float,
    probability: float,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Return the labels, each replaced by the null label with some probability, shape of `labels`.

    A network that is trained with them learns the conditional and the unconditional model at once, which is
    what classifier-free guidance needs (Ho & Salimans 2022, arXiv:2207.12598, algorithm 1). It has one class
    more than the data; by custom the null label is the last. Where the conditions are numbers or vectors,
    the null label is a number that the data do not have; a vector is dropped as a whole, and has this number
    everywhere then.

    Args:
        labels: integers or numbers, shape (B,), or vectors, shape (B, D).
        null_label: label of the null class, or the number that stands for no condition.
        probability: of dropping a label; the paper finds 0.1 and 0.2 equally good.
        generator: of any device; the CPU's draws the same on every machine.

    Raises:
        TypeError: labels that are no numbers, or a null label with a fraction for integers.
        ValueError: a probability outside [0, 1].
    """
    if labels.dtype == torch.bool:
        raise TypeError(f"labels have dtype {labels.dtype}, but must be integers or floating point.")
    if not labels.is_floating_point():
        null_label = checks.integer("null_label", null_label, -sys.maxsize)
    probability = checks.real("probability", probability, 0, 1)
    device = labels.device if generator is None else generator.device
    dropped = torch.rand(len(labels), generator=generator, device=device) < probability
    return labels.masked_fill(broadcast_to_sample(dropped.to(labels.device), labels), null_label)


def denoising_losses(
    denoiser: Denoiser,
    original_samples: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    *,
    loss_weighting: str = "none",
    snr_gamma: float = 5.0,
    vlb_weight: float = 0.001,
    data_levels: int | None = 256,
) -> torch.Tensor:
    """Return the training loss of each sample, float32, shape (B,).

    L_simple_i = w(t_i) mean((target - model(x_t, t_i))^2)   (Ho et al. 2020, arXiv:2006.11239, eq. 14: w = 1,
                                                              mean for sum)

    With a learned variance_type of the scheduler the network has 2C channels, and the loss is the hybrid of
    Nichol & Dhariwal (2021, arXiv:2102.09672, eq. 16):

    L_hybrid_i = L_simple_i + vlb_weight T L_{t_i}

    L_t is a term of the variational bound in bits per dimension (see `variational_bound`), so that T L_t at a
    uniform t is an estimate of their sum. In it the mean is held constant: it trains the variance only, and
    L_simple alone trains the prediction.

    The noising, the target and the error are at least in float32, so that in mixed precision only the network
    runs in half: at small t, 1 - alpha_bar is 0 in bfloat16.

    Args:
        denoiser: the network with its process and the labels of this batch.
        original_samples: x_0, shape (B, ...), floating point.
        noise: eps ~ N(0, I), same shape.
        timesteps: integers in 0..T-1, shape (B,).
        loss_weighting: "none" or "min_snr"; of L_simple.
        snr_gamma: gamma of "min_snr".
        vlb_weight: lambda of learned variances; 0.001 in the paper.
        data_levels: of learned variances: how many values a number of the data can have, 256 for 8-bit
            images; None for continuous data (see `density.bound_terms`).

    Raises:
        ValueError: an unknown weighting, a model output whose shape does not fit the samples and the variance
            type, a negative vlb_weight, or data off their levels.
    """
    if loss_weighting not in LOSS_WEIGHTINGS:
        raise ValueError(f"loss_weighting is {loss_weighting!r}, but must be one of {LOSS_WEIGHTINGS}.")
    process, prediction_type = denoiser.process, denoiser.process.config.prediction_type
    alpha_prod_t = denoiser.alpha_prod_at(timesteps, original_samples)
    at_t = scales(alpha_prod_t)
    noisy_samples = add_noise(original_samples, noise, at_t)
    target = training_target(original_samples, noise, at_t, prediction_type)
    output = denoiser(noisy_samples, timesteps)
    prediction, variance_values = output.prediction, output.variance_values
    losses = (prediction - target).square().flatten(1).mean(1)
    if loss_weighting == "min_snr":
        losses = losses * min_snr_weights(alpha_prod_t.flatten(), prediction_type, snr_gamma)
    if variance_values is None:
        return losses
    vlb_weight = checks.real("vlb_weight", vlb_weight, 0)
    coefficients = bound_coefficients(process.alphas_cumprod, timesteps, noisy_samples)
    log_variance = network_log_variance(variance_values, coefficients, process.config.variance_type)
    estimate = to_original(prediction.detach(), noisy_samples, at_t, prediction_type)
    terms = bound_terms(original_samples, estimate, log_variance, timesteps, coefficients, data_levels)
    return losses + vlb_weight * len(process.alphas_cumprod) * terms
