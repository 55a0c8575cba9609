"""The likelihood of data: the density of the probability flow of a network and its scheduler."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from .. import checks
from ..networks.denoiser import Denoiser
from ..process.gaussians import gaussian_log_likelihood
from ..words import DIVERGENCES
from .bound import Likelihood
from .bound_terms import check_data_levels
from .residuals import check_originals, visited_timesteps
from .score import flow_angles, integrate_flow


@dataclass(frozen=True, kw_only=True)
class FlowLikelihood(Likelihood):
    """What `flow_likelihood` returns.

    Args:
        divergence: "exact" or "hutchinson".
        noise_std: the density is that of x_0 with so much noise: sqrt(1 / alpha_bar - 1) at the first
            timestep.
    """

    divergence: str
    noise_std: float

    @property
    def dequantization(self) -> str:
        """How levels became a density: "none" if there were none, or "uniform" noise within their bins."""
        return "none" if self.data_levels is None else "uniform"


@torch.no_grad()
def flow_likelihood(
    denoiser: Denoiser,
    original_samples: torch.Tensor,
    *,
    timesteps: Sequence[int] | torch.Tensor | None = None,
    divergence: str = "hutchinson",
    num_probes: int = 1,
    data_levels: int | None = None,
    batch_size: int = 256,
    generator: torch.Generator | None = None,
    on_batch: Callable[[int], object] | None = None,
) -> FlowLikelihood:
    """Return -log p(x_0) of the density that the probability-flow ODE gives to samples.

    log p_t(x_t) = log N(x_T; 0, I) + integral of div v(x, phi) dphi from t to T
                                                    (Song et al. 2021, arXiv:2011.13456, eq. 39; v and phi as
                                                     in `score.probability_flow`)

    It starts at the first timestep, t, with sqrt(alpha_bar_t) x_0, so the density is that of x_0 with noise
    of standard deviation sqrt(1 / alpha_bar_t - 1); the noise itself is not added. The steps of Heun's method
    have an error that falls with the square of their number.

    The levels of images have no density: with `data_levels` each number is spread evenly over its bin, and
    -log p - log(width of the bin) is a bound on the levels' -log P from above (Theis et al. 2016,
    arXiv:1511.01844, sec. 3.1): no offset is to be added.

    Args:
        denoiser: the network, in evaluation mode, with its process and the labels of the samples.
        original_samples: x_0, shape (N, ...), on the model's device.
        timesteps: where to evaluate, in any order; all T if not given.
        divergence: "exact", by D derivatives for each evaluation; or "hutchinson", the unbiased
            z . grad(z . v) with random signs z, the same along a path.
        num_probes: how many z of a sample; their mean is taken.
        data_levels: 256 for 8-bit images; None for continuous data.
        batch_size: samples at a time.
        generator: source of the probes and of the noise within bins.
        on_batch: called after each batch with the number of samples.

    Raises:
        TypeError, ValueError: samples, timesteps, levels or a divergence that do not fit.
        FloatingPointError: a likelihood that is not finite.
    """
    original_samples = check_originals(original_samples)
    checks.choice("divergence", divergence, DIVERGENCES)
    check_data_levels(original_samples, data_levels)
    num_probes = checks.integer("num_probes", num_probes, 1)
    batch_size = checks.integer("batch_size", batch_size, 1)
    visited = visited_timesteps(denoiser, timesteps).tolist()
    if len(visited) < 2:
        raise ValueError("the flow goes from the first timestep to the last: give at least two.")
    denoiser.require_labels_for(len(original_samples))
    table = denoiser.process.alphas_cumprod
    angles, first = flow_angles(table), table[visited[0]].double()
    num_dimensions, results = original_samples[0].numel(), []
    bin_width = None if data_levels is None else 2 / (data_levels - 1)
    drawn_on = "cpu" if generator is None else generator.device
    for rows in torch.arange(len(original_samples)).split(batch_size):
        original = original_samples[rows]
        if bin_width is not None:
            spread = torch.rand(original.shape, generator=generator, dtype=original.dtype, device=drawn_on)
            original = original + bin_width * (spread.to(original.device) - 0.5)
        probes = (
            [_signs(original, generator, drawn_on) for _ in range(num_probes)]
            if divergence == "hutchinson"
            else None
        )
        latents, integral = integrate_flow(
            functools.partial(_velocity_and_divergence, denoiser, rows, probes),
            float(first) ** 0.5 * original,
            visited,
            angles,
        )
        nothing, latents = torch.zeros((), dtype=torch.float64), latents.cpu().double()
        log_prior = gaussian_log_likelihood(latents, nothing, nothing).reshape(len(rows), -1).sum(1)
        results.append(-(log_prior + integral) - 0.5 * num_dimensions * float(torch.log(first)))
        if on_batch is not None:
            on_batch(len(rows))
    nats = torch.cat(results)
    if bin_width is not None:
        nats -= num_dimensions * math.log(bin_width)
    if not bool(torch.isfinite(nats).all()):
        raise FloatingPointError("the likelihood is not finite: take more timesteps, or another checkpoint.")
    return FlowLikelihood(
        nats_per_sample=nats,
        num_dimensions=num_dimensions,
        num_evaluations=2 * (len(visited) - 1) * denoiser.evaluations_of_a_sample,
        divergence=divergence,
        data_levels=data_levels,
        noise_std=float((1 / first - 1) ** 0.5),
    )


def _signs(
    like: torch.Tensor, generator: torch.Generator | None, drawn_on: torch.device | str
) -> torch.Tensor:
    signs = torch.randint(2, like.shape, generator=generator, dtype=like.dtype, device=drawn_on)
    return (2 * signs - 1).to(like.device)


def _velocity_and_divergence(
    denoiser: Denoiser,
    rows: torch.Tensor,
    probes: list[torch.Tensor] | None,
    sample: torch.Tensor,
    timestep: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return v and, on the CPU, its divergence of each sample, shape (B,); exact if there are no probes."""
    with torch.enable_grad():
        sample = sample.detach().requires_grad_()
        output = denoiser(sample, timestep, rows).velocity

        def slope(direction: torch.Tensor) -> torch.Tensor:
            """Return z . grad(z . v) of each sample."""
            (gradient,) = torch.autograd.grad(output, sample, direction, retain_graph=True)
            return (gradient * direction).reshape(len(sample), -1).sum(1)

        if probes is not None:
            divergence = torch.stack([slope(probe) for probe in probes]).mean(0)
        else:
            axes = torch.eye(sample[0].numel(), dtype=sample.dtype, device=sample.device)
            divergence = sum(
                (slope(axis.reshape(sample[:1].shape).expand_as(sample)) for axis in axes),
                start=sample.new_zeros(len(sample)),
            )
        return output.detach(), divergence.cpu().double()
