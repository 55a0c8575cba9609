"""Gaussians: how far one is from another, and how likely data are under one. All in nats."""

import math

import torch


def gaussian_kl(
    mean: torch.Tensor, log_variance: torch.Tensor, other_mean: torch.Tensor, other_log_variance: torch.Tensor
) -> torch.Tensor:
    """Return KL(N(mean, variance) || N(other_mean, other_variance)) of each element, in nats.

    KL = (variance / other_variance - 1 - log(variance / other_variance)
          + (mean - other_mean)^2 / other_variance) / 2

    The arguments broadcast.
    """
    log_ratio = log_variance - other_log_variance
    distance = (mean - other_mean).square() * torch.exp(-other_log_variance)
    return 0.5 * (torch.expm1(log_ratio) - log_ratio + distance)


def gaussian_log_likelihood(
    samples: torch.Tensor, mean: torch.Tensor, log_variance: torch.Tensor
) -> torch.Tensor:
    """Return log N(samples; mean, variance) of each element, in nats; it is a density, so it may be above 0.

    The arguments broadcast.
    """
    distance = (samples - mean).square() * torch.exp(-log_variance)
    return -0.5 * (distance + log_variance + math.log(2 * math.pi))


def discretized_gaussian_log_likelihood(
    samples: torch.Tensor, mean: torch.Tensor, log_variance: torch.Tensor, num_levels: int = 256
) -> torch.Tensor:
    """Return the log-probability of each element of an image with `num_levels` levels, in nats.

    p(x) = integral of N(u; mean, variance) over the bin of x: half a level to each side, and without end
    beyond the levels -1 and 1                                                  (Ho et al. 2020, eq. 13)

    Logarithms of the normal distribution function keep the value and its gradient right in the far tail,
    where the published code replaces the probability by 1e-12 and the gradient vanishes.

    Args:
        samples: x_0 with values -1 + 2 k / (num_levels - 1), shape (B, ...).
        mean: broadcastable to the samples.
        log_variance: likewise.
        num_levels: 256 for 8-bit images.
    """
    half_bin = 1 / (num_levels - 1)
    inverse_std = torch.exp(-0.5 * log_variance)
    centred = samples - mean
    # The bin and its mirror image have the same probability; the left one has all digits.
    left = -centred.abs()
    log_upper = torch.special.log_ndtr((left + half_bin) * inverse_std)
    log_lower = torch.special.log_ndtr((left - half_bin) * inverse_std)
    inside = log_upper + torch.log(-torch.expm1(log_lower - log_upper))
    lowest = torch.special.log_ndtr((half_bin + centred) * inverse_std)
    highest = torch.special.log_ndtr((half_bin - centred) * inverse_std)
    upper_end = torch.where(samples > 1 - half_bin, highest, inside)
    return torch.where(samples < half_bin - 1, lowest, upper_end)
