"""Denoisers whose score is known in closed form, for benchmarks that look at a method's own error."""

import sklearn.datasets
import torch

from ddpm_from_scratch import DDPMFromScratchScheduler
from ddpm_from_scratch.toy_data import GaussianMixtureDenoiser

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


def digit_means(count: int = 600) -> torch.Tensor:
    """Return digits as vectors of 64 numbers in [-1, 1]."""
    return torch.tensor(sklearn.datasets.load_digits().data[:count] / 8 - 1)
