"""The residuals of a network: how far its estimate of x_0 is from the truth, at each timestep.

They are what analytic variances are made of: of the Gaussians p(x_{t-1} | x_t) whose variance does not depend
on x_t, the best has

    variance = posterior variance + (coefficient of x_0 in the posterior mean)^2 E|x_0 - x_0_hat|^2 / D

(Bao et al. 2022, arXiv:2201.06503, theorem 1, for an exact network; arXiv:2206.07309 for any other).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from diffusers.utils.torch_utils import randn_tensor

from .. import checks
from ..networks.denoiser import Denoiser
from ..process.diffusion import add_noise, at_least_float32, scales


class Noised(NamedTuple):
    """A batch of pairs of a sample and a timestep, noised and denoised; the first two have shape (B,)."""

    rows: torch.Tensor
    columns: torch.Tensor
    original: torch.Tensor
    noisy: torch.Tensor
    estimate: torch.Tensor
    variance_values: torch.Tensor | None


def noised(
    denoiser: Denoiser,
    original_samples: torch.Tensor,
    visited: torch.Tensor,
    drawn: torch.Tensor | None,
    batch_size: int,
    generator: torch.Generator | None,
    on_batch: Callable[[int], object] | None,
) -> Iterator[Noised]:
    """Yield every sample at every visited timestep, in batches of mixed timesteps.

    `visited` are timesteps, shape (S,); `drawn` are places in them for each sample, shape (N, k), if not all.
    Rows and columns are on the CPU.
    """
    num_samples, device = len(original_samples), original_samples.device
    denoiser.require_labels_for(num_samples)
    total = num_samples * (len(visited) if drawn is None else drawn.shape[1])
    for start in range(0, total, batch_size):
        pair = torch.arange(start, min(start + batch_size, total))
        rows, columns = pair % num_samples, pair // num_samples
        columns = columns if drawn is None else drawn[rows, columns]
        original, timesteps = original_samples[rows.to(device)], visited[columns].to(device)
        noise = randn_tensor(original.shape, generator, original.device, original.dtype)
        noisy = add_noise(original, noise, scales(denoiser.alpha_prod_at(timesteps, original)))
        at_t = denoiser(noisy, timesteps, rows)
        yield Noised(rows, columns, original, noisy, at_t.clipped_original, at_t.variance_values)
        if on_batch is not None:
            on_batch(len(pair))


def visited_timesteps(denoiser: Denoiser, timesteps: Sequence[int] | torch.Tensor | None) -> torch.Tensor:
    """Return the timesteps of a chain, rising, shape (S,); all if none are given."""
    return torch.tensor(sorted(denoiser.informative_timesteps(timesteps, order="distinct")))


def check_originals(original_samples: torch.Tensor, least: int = 1) -> torch.Tensor:
    """Return samples, in float32 at least."""
    checks.samples("original_samples", original_samples)
    if len(original_samples) < least:
        raise ValueError(
            f"original_samples have shape {tuple(original_samples.shape)}, but at least {least} are needed."
        )
    return at_least_float32(original_samples)


def residual_curve(denoiser: Denoiser, original_samples: torch.Tensor, **options: Any) -> torch.Tensor:
    """Return E|x_0 - x_0_hat|^2 / D at each timestep, for analytic variances, float64, shape (S,).

    That of the best estimate neither exceeds the variance of the data nor falls as noise grows, so this one
    is made so, by `smooth_residuals`. The published estimate of the same variance, 1 - E|eps_hat|^2 / D, is a
    small difference of large numbers at large t.

    Args:
        denoiser: the network, in evaluation mode, and its process.
        original_samples: at least two; others than those whose likelihood is measured, such as training data:
            then the bound holds for the latter.
        **options: timesteps, batch_size, generator and on_batch, as in `variational_bound`.

    Raises:
        TypeError, ValueError: as in `variational_bound`.
    """
    means = mean_residuals(denoiser, check_originals(original_samples, 2), **options)
    return smooth_residuals(means, original_samples)


@torch.no_grad()
def mean_residuals(
    denoiser: Denoiser,
    original_samples: torch.Tensor,
    *,
    timesteps: Sequence[int] | torch.Tensor | None = None,
    batch_size: int = 1024,
    generator: torch.Generator | None = None,
    on_batch: Callable[[int], object] | None = None,
) -> torch.Tensor:
    """Return the mean of |x_0 - x_0_hat|^2 / D at each timestep as it is; see `residual_curve`."""
    original_samples = check_originals(original_samples)
    batch_size = checks.integer("batch_size", batch_size, 1)
    visited = visited_timesteps(denoiser, timesteps)
    sums = torch.zeros(len(visited), dtype=torch.float64)
    for batch in noised(denoiser, original_samples, visited, None, batch_size, generator, on_batch):
        squares = (batch.original - batch.estimate).square()
        sums.index_add_(0, batch.columns, squares.reshape(len(squares), -1).mean(1).cpu().double())
    return sums / len(original_samples)


def smooth_residuals(means: torch.Tensor, original_samples: torch.Tensor) -> torch.Tensor:
    """Return mean residuals clipped to the variance of the data and made monotone (isotonic regression).

    Args:
        means: by rising timestep, shape (S,).
        original_samples: x_0, shape (N, ...).
    """
    data_variance = float(original_samples.cpu().double().var(0, correction=0).mean())
    return torch.tensor(_isotonic(means.clamp(max=data_variance).tolist()), dtype=torch.float64)


def _isotonic(values: list[float]) -> list[float]:
    """Return the rising sequence with the least squared distance, by pooling adjacent violators."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        mean, count = value, 1
        while blocks and blocks[-1][0] > mean:
            before, size = blocks.pop()
            mean, count = (before * size + mean * count) / (size + count), size + count
        blocks.append((mean, count))
    return [mean for mean, count in blocks for _ in range(count)]
