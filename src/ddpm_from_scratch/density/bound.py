"""The variational bound on the likelihood of data, by the network and the scheduler that sample.

It says how probable held-out data are: in bits per dimension for images with levels, in nats for continuous
data. The likelihood itself is in flow.py.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .. import checks
from ..networks.denoiser import Denoiser
from ..process.gaussians import gaussian_kl
from ..words import ANALYTIC, LEARNED_VARIANCE_TYPES, VARIANCE_TYPES
from .bound_terms import (
    BoundCoefficients,
    bound_coefficients,
    bound_terms,
    check_data_levels,
    network_log_variance,
)
from .residuals import Noised, check_originals, noised, visited_timesteps


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """How improbable samples are, and how well that is known.

    Args:
        nats_per_sample: -log p(x_0) of each sample, or a bound from above, float64, shape (N,).
        num_dimensions: D, how many numbers a sample has.
        num_evaluations: of the network, for each sample.
        data_levels: how many values a number of the data can have; None for a density.
    """

    nats_per_sample: torch.Tensor
    num_dimensions: int
    num_evaluations: int
    data_levels: int | None

    @property
    def nats(self) -> float:
        """The mean over the samples, in nats."""
        return float(self.nats_per_sample.mean())

    @property
    def bits_per_dim(self) -> float:
        """The mean over the samples, in bits per dimension: nats / (D log 2)."""
        return self.nats / (self.num_dimensions * math.log(2))

    @property
    def standard_error(self) -> float:
        """Of `bits_per_dim`, from the spread of the samples and of what is drawn for each; nan for one."""
        count = len(self.nats_per_sample)
        spread = float(self.nats_per_sample.std()) / count**0.5 if count > 1 else math.nan
        return spread / (self.num_dimensions * math.log(2))


@dataclass(frozen=True, kw_only=True)
class VariationalBound(Likelihood):
    """What `variational_bound` returns: -log p(x_0) is at most this.

    Args:
        timesteps: those that the chain visits, rising, shape (S,).
        terms: L_t in bits per dimension, mean over samples, float64, shape (S,); nan where none was drawn.
            The first is of the decoder p(x_0 | x_t).
        counts: how many samples each term is the mean of, shape (S,).
        prior: KL(q(x_T | x_0) || N(0, I)), likewise.
        variance_type: of p(x_{t-1} | x_t): one of `VARIANCE_TYPES`.
    """

    timesteps: torch.Tensor
    terms: torch.Tensor
    counts: torch.Tensor
    prior: float
    variance_type: str

    @property
    def decoder(self) -> float:
        """The term of the decoder, in bits per dimension."""
        return float(self.terms[0])


def variational_bound(
    denoiser: Denoiser,
    original_samples: torch.Tensor,
    *,
    timesteps: Sequence[int] | torch.Tensor | None = None,
    variance_type: str | None = None,
    residuals: torch.Tensor | None = None,
    num_monte_carlo: int | None = None,
    data_levels: int | None = 256,
    batch_size: int = 1024,
    generator: torch.Generator | None = None,
    on_batch: Callable[[int], object] | None = None,
) -> VariationalBound:
    """Return the variational bound on -log p(x_0), with every term of it.

    -log p(x_0) <= KL(q(x_T | x_0) || N(0, I)) + sum_t L_t     (Ho et al. 2020, arXiv:2006.11239, eq. 5)

    with the terms of bound_terms.py, each at one draw of x_t for each sample. It is the bound of the
    chain that samples through these timesteps: the estimate of x_0 is clipped if the scheduler clips it.

    Analytic variances are the best Gaussian ones that do not depend on x_t; see `residuals.py`.

    Args:
        denoiser: the network, in evaluation mode, with its process and the labels of the samples.
        original_samples: x_0, shape (N, ...), on the model's device.
        timesteps: those that the chain visits, in any order; all T if not given.
        variance_type: one of `VARIANCE_TYPES`; if not given, "analytic" with residuals and the scheduler's
            without.
        residuals: for analytic variances: of other data than these, at the same timesteps in rising order,
            shape (S,); see `residuals.residual_curve`. Those of the scheduler, if it has any and none are
            given.
        num_monte_carlo: of each sample take the decoder's term and so many of the others, drawn uniformly
            with replacement, in place of all of them; the bound stays unbiased.
        data_levels: 256 for 8-bit images at -1 + 2 k / 255, whose bound is on a probability and above 0; None
            for continuous data, whose bound is on a density.
        batch_size: evaluations of the network at a time.
        generator: source of the noise and of the timesteps.
        on_batch: called after each batch with the number of evaluations.

    Raises:
        TypeError, ValueError: samples, timesteps, levels or residuals that do not fit.
        FloatingPointError: a bound that is not finite.
    """
    own = ANALYTIC if residuals is not None else own_variance_type(denoiser.process)
    kind = variance_type or own
    bounds = variational_bounds(
        denoiser,
        original_samples,
        (kind,),
        timesteps=timesteps,
        residuals=residuals,
        num_monte_carlo=num_monte_carlo,
        data_levels=data_levels,
        batch_size=batch_size,
        generator=generator,
        on_batch=on_batch,
    )
    return bounds[kind]


def own_variance_type(scheduler: Any) -> str:
    """Return the variance_type of a scheduler; that of DDPM for one that has none, such as DDIM."""
    return getattr(scheduler.config, "variance_type", None) or "fixed_small"


@torch.no_grad()
def variational_bounds(
    denoiser: Denoiser,
    original_samples: torch.Tensor,
    variance_types: Sequence[str],
    *,
    timesteps: Sequence[int] | torch.Tensor | None = None,
    residuals: torch.Tensor | None = None,
    num_monte_carlo: int | None = None,
    data_levels: int | None = 256,
    batch_size: int = 1024,
    generator: torch.Generator | None = None,
    on_batch: Callable[[int], object] | None = None,
) -> dict[str, VariationalBound]:
    """Return the bounds with several kinds of variance, from the same evaluations of the network.

    Their noise is the same, so their differences are known better than they are themselves. Arguments and
    errors as in `variational_bound`.
    """
    original_samples = check_originals(original_samples)
    check_data_levels(original_samples, data_levels)
    batch_size = checks.integer("batch_size", batch_size, 1)
    visited, num_samples = visited_timesteps(denoiser, timesteps), len(original_samples)
    table = denoiser.process.alphas_cumprod.cpu()[visited]
    own = getattr(denoiser.process.config, "residuals", None)
    if residuals is None and own is not None and ANALYTIC in variance_types:
        residuals = torch.tensor(own, dtype=torch.float64)[visited]
    for kind in variance_types:
        checks.choice("variance_type", kind, VARIANCE_TYPES)
    if (residuals is not None) != (ANALYTIC in variance_types):
        raise ValueError(
            f"residuals are {'not ' if residuals is None else ''}given and variance_type is "
            f"{', '.join(map(repr, variance_types))}: {ANALYTIC!r} needs them (see residual_curve), and no "
            "other takes them."
        )
    if residuals is not None:
        residuals = _check_residuals(residuals, visited)
    drawn, weights = None, torch.ones(len(visited), dtype=torch.float64)
    if num_monte_carlo is not None:
        shape = (num_samples, checks.integer("num_monte_carlo", num_monte_carlo, 1))
        if len(visited) < 2:
            raise ValueError("num_monte_carlo needs at least two timesteps, one of them for the decoder.")
        drawn_on = "cpu" if generator is None else generator.device
        others = torch.randint(1, len(visited), shape, generator=generator, device=drawn_on).cpu()
        drawn = torch.cat([torch.zeros(num_samples, 1, dtype=torch.int64), others], dim=1)
        weights[1:] = (len(visited) - 1) / shape[1]
    # Sums are kept on the CPU: not every device has float64.
    sums, totals = (
        {kind: torch.zeros(size, dtype=torch.float64) for kind in variance_types}
        for size in (len(visited), num_samples)
    )
    counts = torch.zeros(len(visited), dtype=torch.float64)
    for batch in noised(denoiser, original_samples, visited, drawn, batch_size, generator, on_batch):
        columns = batch.columns.to(batch.noisy.device)
        coefficients = bound_coefficients(table, columns, batch.noisy)
        counts.index_add_(0, batch.columns, torch.ones_like(weights[batch.columns]))
        for kind in variance_types:
            log_variance = _log_variance(kind, batch, coefficients, residuals)
            terms = bound_terms(
                batch.original, batch.estimate, log_variance, columns, coefficients, data_levels
            )
            terms = terms.cpu().double()
            sums[kind].index_add_(0, batch.columns, terms)
            totals[kind].index_add_(0, batch.rows, weights[batch.columns] * terms)
    prior = _prior_terms(original_samples, table[-1])
    num_terms = len(visited) if drawn is None else drawn.shape[1]
    num_dimensions = original_samples[0].numel()
    bounds = {}
    for kind in variance_types:
        nats = (totals[kind] + prior) * num_dimensions * math.log(2)
        if not bool(torch.isfinite(nats).all()):
            raise FloatingPointError(
                f"the bound with variance_type {kind!r} is not finite: the network's output is not, or a "
                "variance is so small that the distance from the estimate is infinite."
            )
        bounds[kind] = VariationalBound(
            nats_per_sample=nats,
            num_dimensions=num_dimensions,
            num_evaluations=num_terms * denoiser.evaluations_of_a_sample,
            timesteps=visited,
            terms=sums[kind] / counts,
            counts=counts,
            prior=float(prior.mean()),
            variance_type=kind,
            data_levels=data_levels,
        )
    return bounds


def merged(bounds: Sequence[VariationalBound]) -> VariationalBound:
    """Return the bound of all samples together, from those of parts of them with the same settings."""
    first = bounds[0]
    counts = torch.stack([bound.counts for bound in bounds])
    sums = torch.stack([bound.terms.nan_to_num() * bound.counts for bound in bounds])
    sizes = [len(bound.nats_per_sample) for bound in bounds]
    return replace(
        first,
        nats_per_sample=torch.cat([bound.nats_per_sample for bound in bounds]),
        terms=sums.sum(0) / counts.sum(0),
        counts=counts.sum(0),
        prior=sum(bound.prior * size for bound, size in zip(bounds, sizes, strict=True)) / sum(sizes),
    )


def _check_residuals(residuals: torch.Tensor, visited: torch.Tensor) -> torch.Tensor:
    if residuals.shape != visited.shape or not bool((residuals > 0).all()):
        raise ValueError(
            f"residuals have shape {tuple(residuals.shape)}, but must be positive numbers, one for each of "
            f"the {len(visited)} timesteps: call residual_curve with the same timesteps."
        )
    return residuals.cpu()


def _log_variance(
    kind: str, batch: Noised, coefficients: BoundCoefficients, residuals: torch.Tensor | None
) -> torch.Tensor:
    """Return the logarithm of the variance of p(x_{t-1} | x_t), broadcastable to the samples."""
    if kind == ANALYTIC:
        assert residuals is not None
        at_t = residuals[batch.columns].to(batch.noisy.dtype).to(batch.noisy.device)
        at_t = at_t.reshape(coefficients.smallest.shape)
        to_prev = coefficients.posterior
        return torch.log(to_prev.variance + to_prev.original**2 * at_t)
    if kind in LEARNED_VARIANCE_TYPES:
        if batch.variance_values is None:
            raise ValueError(
                f"variance_type is {kind!r}, but the scheduler's is fixed and so is the network's output: "
                "set the scheduler's variance_type, or leave it out here."
            )
        return network_log_variance(batch.variance_values, coefficients, kind)
    if kind in ("fixed_large", "fixed_large_log"):
        # Beta is wider than the decoder needs: it takes the smallest, as the releases of both papers do.
        first = (batch.columns == 0).to(batch.noisy.device).reshape(coefficients.smallest.shape)
        return torch.where(first, coefficients.smallest, coefficients.largest)
    return coefficients.smallest


def _prior_terms(original_samples: torch.Tensor, alpha_prod_t: torch.Tensor) -> torch.Tensor:
    """Return KL(q(x_T | x_0) || N(0, I)) of each sample in bits per dimension, float64, shape (N,)."""
    mean = alpha_prod_t.double() ** 0.5 * original_samples.cpu().double()
    nothing = torch.zeros((), dtype=torch.float64)
    terms = gaussian_kl(mean, torch.log1p(-alpha_prod_t.double()), nothing, nothing)
    return terms.reshape(len(terms), -1).mean(1) / math.log(2)
