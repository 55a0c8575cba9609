"""Denoisers whose score is known in closed form, for benchmarks that look at a method's own error."""

import sklearn.datasets
import torch

from ..networks.mixtures import GaussianMixtureDenoiser
from ..schedulers.scheduling_ddpm_from_scratch import DDPMFromScratchScheduler

SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2", "sigmoid": "sigmoid_alpha_bar"}


def seeded(seed: int = 0) -> torch.Generator:
    """Return a new source of randomness."""
    return torch.Generator().manual_seed(seed)


def exact_scheduler(schedule: str = "linear", **options) -> DDPMFromScratchScheduler:
    """Return a scheduler that does not clip: the data are not images."""
    return DDPMFromScratchScheduler(beta_schedule=SCHEDULES[schedule], clip_sample=False, **options)


def narrow_mixture(means: torch.Tensor, std: float, scheduler: DDPMFromScratchScheduler):
    """Return the exact denoiser of equal narrow Gaussians around points."""
    covariance = (std**2 * torch.eye(means.shape[1])).tolist()
    return GaussianMixtureDenoiser(means.tolist(), covariance, scheduler.alphas_cumprod.tolist())


def spiral_means(count: int = 200) -> torch.Tensor:
    """Return points of a spiral of 1.35 turns, about standardised, shape (count, 2)."""
    fraction = torch.linspace(0, 1, count, dtype=torch.float64)
    angle = 1.5 * torch.pi * (1 + 1.8 * fraction.sqrt())
    points = torch.stack([angle * angle.cos(), angle * angle.sin()], dim=1)
    return (points - points.mean(0)) / points.std()


def digit_means(count: int = 600) -> torch.Tensor:
    """Return digits as vectors of 64 numbers in [-1, 1]."""
    return torch.tensor(sklearn.datasets.load_digits().data[:count] / 8 - 1)


# Name -> means of the mixture and standard deviation around them.
MIXTURES = {"spiral": (spiral_means, 0.02), "digits": (digit_means, 0.1)}


def exact_mixture(name: str, scheduler: DDPMFromScratchScheduler):
    """Return the exact denoiser of "spiral", in 2 dimensions, or "digits", in 64."""
    means, std = MIXTURES[name]
    return narrow_mixture(means(), std, scheduler)
