"""The variational bound on the likelihood, term by term, for any batch of timesteps.

    -log p(x_0) <= sum_t L_t + KL(q(x_T | x_0) || N(0, I))
    L_t = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))   for t = 1..T-1
    L_0 = -log p(x_0 | x_t)                               for t = 0, the last step of sampling

(Ho et al. 2020, arXiv:2006.11239, eq. 5, in code timesteps.) Each term is a mean over the numbers of a
sample, in bits: bits per dimension.
"""

import math
from typing import NamedTuple

import torch

from ..process.diffusion import (
    Posterior,
    at_least_float32,
    broadcast_to_sample,
    learned_log_variance,
    posterior,
    step_beta,
)
from ..process.gaussians import discretized_gaussian_log_likelihood, gaussian_kl, gaussian_log_likelihood


class BoundCoefficients(NamedTuple):
    """What the terms of a batch of timesteps need, shape (B, 1, ...).

    `posterior` of q(x_{t-1} | x_t, x_0); `smallest` and `largest` are the log-variances between which a
    network with variance_type "learned_range" chooses: of the posterior, and of beta.
    """

    posterior: Posterior[torch.Tensor]
    smallest: torch.Tensor
    largest: torch.Tensor


def bound_coefficients(
    alphas_cumprod: torch.Tensor, timesteps: torch.Tensor, samples: torch.Tensor
) -> BoundCoefficients:
    """Return the coefficients of the chain through all T timesteps, at a batch of them.

    The posterior has no variance at t = 0, so `smallest` takes that of t = 1 there (Ho et al. 2020 and
    Nichol & Dhariwal 2021, code releases).

    Args:
        alphas_cumprod: alpha-bar, shape (T,).
        timesteps: integers in 0..T-1, shape (B,).
        samples: give rank, dtype and device.
    """
    # In float64, because 1 - alpha_bar_t / alpha_bar_{t-1} keeps only 3 digits of a beta of 1e-4 in float32.
    alpha_prod = alphas_cumprod.cpu().double()
    alpha_prod_prev = torch.cat([alpha_prod.new_ones(1), alpha_prod[:-1]])
    to_prev, beta = posterior(alpha_prod, alpha_prod_prev), step_beta(alpha_prod, alpha_prod_prev)
    first = to_prev.variance[1:2] if len(alpha_prod) > 1 else beta
    variance = torch.cat([first, to_prev.variance[1:]])
    table = torch.stack([*to_prev, torch.log(variance), torch.log(beta)], dim=1)
    at_t = table.to(samples.dtype).to(samples.device)[timesteps]  # not every device has float64
    *to_prev_at_t, smallest, largest = (broadcast_to_sample(column, samples) for column in at_t.unbind(1))
    return BoundCoefficients(Posterior(*to_prev_at_t), smallest, largest)


def network_log_variance(
    variance_values: torch.Tensor, coefficients: BoundCoefficients, variance_type: str
) -> torch.Tensor:
    """Return the logarithm of the variance that a network chose, in the shape of its variance values.

    Args:
        variance_values: of the network, shape (B, ...).
        coefficients: of the same timesteps.
        variance_type: "learned" or "learned_range".
    """
    if variance_type == "learned":
        return variance_values
    return learned_log_variance(variance_values, coefficients.smallest, coefficients.largest)


def check_data_levels(samples: torch.Tensor, data_levels: int | None) -> None:
    """Raise ValueError unless all values are on the levels -1 + 2 k / (data_levels - 1).

    Args:
        samples: x_0, shape (B, ...).
        data_levels: 256 for 8-bit images, None for continuous data, where any value is right.
    """
    if data_levels is None:
        return
    if data_levels < 2:
        raise ValueError(
            f"data_levels is {data_levels}, but must be at least 2, or None for continuous data."
        )
    levels = (at_least_float32(samples) + 1) * (0.5 * (data_levels - 1))
    off = (levels - levels.round().clamp(0, data_levels - 1)).abs()
    if off.numel() and not bool(off.max() < 0.05):
        wrong = float(samples.flatten()[off.argmax()])
        raise ValueError(
            f"the data hold {wrong:.6g}, but data_levels={data_levels} means the values -1 + 2 k / "
            f"{data_levels - 1}. Bring 8-bit images to them with images / 127.5 - 1, give the number of "
            "levels the data have, or data_levels=None for continuous data."
        )


def bound_terms(
    original_samples: torch.Tensor,
    pred_original_sample: torch.Tensor,
    log_variance: torch.Tensor,
    timesteps: torch.Tensor,
    coefficients: BoundCoefficients,
    data_levels: int | None = 256,
) -> torch.Tensor:
    """Return L_t of each sample, in bits per dimension, shape (B,).

    p(x_{t-1} | x_t) = N(posterior mean at the estimate of x_0, variance)

    Args:
        original_samples: x_0, shape (B, ...).
        pred_original_sample: the estimate of x_0, same shape.
        log_variance: of p(x_{t-1} | x_t), broadcastable to the samples.
        timesteps: shape (B,).
        coefficients: of the same timesteps.
        data_levels: L_0 is the probability of a level of images that have this many (Ho et al. 2020, eq. 13):
            256 for 8-bit images. None for continuous data, where L_0 is of a density, may be negative, and
            cannot be compared with that of levels.

    Raises:
        ValueError: data that are not on the levels (checked on CPU tensors, see `check_data_levels`).
    """
    if original_samples.device.type == "cpu":
        check_data_levels(original_samples, data_levels)
    at_zero = broadcast_to_sample(timesteps, original_samples) == 0
    # Both means have the same part in x_t; leaving it out keeps the digits of their difference.
    weight = coefficients.posterior.original
    true_mean, mean = weight * original_samples, weight * pred_original_sample
    kl = gaussian_kl(true_mean, coefficients.smallest, mean, log_variance)
    # Elsewhere than at t = 0 an estimate may be so far off that its infinite value spoils the gradient.
    mean = torch.where(at_zero, pred_original_sample, original_samples)
    if data_levels is None:
        log_likelihood = gaussian_log_likelihood(original_samples, mean, log_variance)
    else:
        log_likelihood = discretized_gaussian_log_likelihood(
            original_samples, mean, log_variance, data_levels
        )
    nats = torch.where(at_zero, -log_likelihood, kl)
    return nats.reshape(len(nats), -1).mean(1) / math.log(2)
