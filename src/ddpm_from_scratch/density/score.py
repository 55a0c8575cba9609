"""The score of the noised data, and what follows from it: Tweedie, Langevin, the probability-flow ODE.

    score(x, t) = grad_x log p_t(x),    Denoiser(network, scheduler)(x, t).score

A denoiser is a score: the same network and scheduler that sample by DDPM also do what is here (see
`networks/denoiser.py`), with this package's schedulers and with diffusers' that have `alphas_cumprod` (the
variance-preserving ones).

Langevin dynamics is written with half the step size on the score, as in Song & Ermon 2019
(arXiv:1907.05600), eq. 4:

    x' = x + (eps / 2) score(x) + sqrt(eps) z,   z ~ N(0, I)

Without a correction its samples are not exactly those of the density: those of N(0, s^2) get the variance
s^2 / (1 - eps / (4 s^2)).

Step sizes follow from a signal-to-noise ratio r, as in Song et al. 2021 (arXiv:2011.13456), appendix G: the
norm of what a step adds by the score, over the norm of the noise that it adds, is to be r. There the norms
are measured on every batch. Here the norm of the score is taken to be that of z / sqrt(1 - alpha_bar_t), as
it is for noise around a point, so that a step depends neither on the state nor on other samples of the batch:

    eps = 4 r^2 (1 - alpha_bar_t)

(On the VP process their algorithm 5 has another factor, alpha_t = 1 - beta_t; it is nearly 1, and left out.)
The narrowest variance there is at t, 1 - alpha_bar_t, is then widened by the factor 1 / (1 - r^2).
"""

import math
from collections.abc import Callable, Sequence

import torch
from diffusers.utils.torch_utils import randn_tensor

from .. import checks
from ..networks.denoiser import Denoiser
from ..process.diffusion import at_least_float32
from ..process.timesteps import checked_timesteps


def tweedie(sample: torch.Tensor, score: torch.Tensor, alpha_prod_t: torch.Tensor) -> torch.Tensor:
    """Return E[x_0 | x_t], by Tweedie's formula (Efron 2011, J. Am. Stat. Assoc. 106, 1602), shape (B, ...).

    E[x_0 | x_t] = (x_t + (1 - alpha_bar_t) score) / sqrt(alpha_bar_t)

    Args:
        sample: x_t, shape (B, ...).
        score: at x_t, same shape.
        alpha_prod_t: alpha-bar_t, broadcastable to `sample`, above 0.
    """
    return (sample + (1 - alpha_prod_t) * score) / alpha_prod_t**0.5


def langevin(
    score: Callable[[torch.Tensor], torch.Tensor],
    sample: torch.Tensor,
    step_size: float,
    num_steps: int,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Return where unadjusted Langevin dynamics takes samples, same shape.

    x' = x + (eps / 2) score(x) + sqrt(eps) z                    (Song & Ermon 2019, arXiv:1907.05600, eq. 4)

    Args:
        score: of the density to sample from.
        sample: where to start, shape (B, ...).
        step_size: eps; above 4 s^2, with s^2 the smallest variance of the density, the samples run away.
        num_steps: evaluations of the score.
        generator: source of the noise.

    Raises:
        ValueError: a step size that is not positive, or not finite.
    """
    step_size = checks.real("step_size", step_size, 0, exclusive=True)
    for _ in range(num_steps):
        noise = randn_tensor(sample.shape, generator, sample.device, sample.dtype)
        sample = sample + 0.5 * step_size * score(sample).detach() + step_size**0.5 * noise
    return sample


def snr_step_size(alpha_prod_t: float, snr: float) -> float:
    """Return eps = 4 snr^2 (1 - alpha_bar_t), the step size of Langevin dynamics at t (see the module).

    Args:
        alpha_prod_t: alpha_bar_t.
        snr: r, the norm of the score's part of a step over that of the noise; above 0 and below 1.
    """
    return 4 * checks.real("snr", snr, 0, 1, exclusive=True) ** 2 * (1 - alpha_prod_t)


@torch.no_grad()
def annealed_langevin(
    denoiser: Denoiser,
    sample: torch.Tensor,
    *,
    timesteps: Sequence[int] | None = None,
    steps_per_level: int = 10,
    snr: float = 0.25,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Return samples x_0 by annealed Langevin dynamics, same shape.

    Langevin dynamics at falling levels of noise, each starting where the last one ended (Song & Ermon 2019,
    arXiv:1907.05600, algorithm 1). There a level adds noise of standard deviation sigma to the data; here it
    is x_t = sqrt(alpha_bar_t) (x_0 + sigma z), so from one level to the next the samples are multiplied by
    the ratio of sqrt(alpha_bar). The last step is Tweedie's estimate of x_0, as in Jolicoeur-Martineau et al.
    2020 (arXiv:2009.05475).

    Args:
        denoiser: the network and its process.
        sample: x_T ~ N(0, I), shape (B, ...).
        timesteps: of the levels, falling; 100 with sigma in equal ratios if not given.
        steps_per_level: Langevin steps at each level; network evaluations in all are their product and one.
        snr: r of the steps (see the module).
        generator: source of the noise.

    Raises:
        ValueError: timesteps that do not fall or are out of range, or a number out of range.
    """
    table = denoiser.process.alphas_cumprod.cpu().double()
    if timesteps is None:
        levels = geometric_timesteps(table, 100)
    else:
        levels = checked_timesteps(timesteps, len(table), order="falling").tolist()
    sample = at_least_float32(sample)
    for level, before in zip(levels, [levels[0], *levels], strict=False):
        if level != before:
            # From pure noise, whose alpha_bar is 0, there is nothing to bring to another scale.
            sample = sample * float(table[level] / table[before] if table[before] > 0 else 1) ** 0.5
        step_size = snr_step_size(float(table[level]), snr)
        sample = langevin(_score_at(denoiser, level), sample, step_size, steps_per_level, generator)
    return _denoised(denoiser, sample, levels[-1])


def _denoised(denoiser: Denoiser, sample: torch.Tensor, timestep: int) -> torch.Tensor:
    """Return Tweedie's estimate of x_0 at one timestep."""
    at_t = denoiser(sample, timestep)
    return tweedie(sample, at_t.score, at_t.alpha_prod_t)


def _score_at(denoiser: Denoiser, timestep: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the score at one timestep as a function of the sample."""
    return lambda sample: denoiser(sample, timestep).score


def geometric_timesteps(alphas_cumprod: torch.Tensor, num_levels: int) -> list[int]:
    """Return falling timesteps with sigma = sqrt(1 / alpha_bar - 1) in equal ratios, as nearly as may be.

    They begin where sigma is at most 100: above, x_t differs from pure noise by less than 1 %.

    Args:
        alphas_cumprod: alpha-bar, shape (T,).
        num_levels: how many, at most; where the table is coarse, two may fall together.
    """
    alpha_prod = alphas_cumprod.cpu().double()
    log_sigma = 0.5 * (torch.log1p(-alpha_prod) - torch.log(alpha_prod))
    log_sigma = log_sigma[log_sigma <= math.log(100)]
    wanted = torch.linspace(float(log_sigma[-1]), float(log_sigma[0]), num_levels, dtype=torch.float64)
    nearest = (log_sigma - wanted[:, None]).abs().argmin(1)
    return sorted(set(nearest.tolist()), reverse=True)


@torch.no_grad()
def predictor_corrector(
    denoiser: Denoiser,
    sample: torch.Tensor,
    *,
    corrector_steps: int = 1,
    snr: float = 0.25,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Return samples x_0: each step of the scheduler is followed by Langevin steps at the level it reached.

    (Song et al. 2021, arXiv:2011.13456, algorithm 1; on the VP process algorithm 5, with the scheduler's own
    step as the predictor.)

    Args:
        denoiser: the network; its process is the predictor, a scheduler after set_timesteps whose samples
            are x_t of its alphas_cumprod, as in DDPM and DDIM.
        sample: x_T ~ N(0, I), shape (B, ...).
        corrector_steps: Langevin steps after each step but the last; 0 is the predictor alone.
        snr: r of the Langevin steps (see the module).
        generator: source of the noise.
    """
    scheduler, sample = denoiser.process, at_least_float32(sample)
    chain = [int(t) for t in scheduler.timesteps]
    for timestep, following in zip(chain, [*chain[1:], None], strict=True):
        model_output = denoiser.output(sample, torch.tensor(timestep, device=sample.device))
        sample = scheduler.step(model_output, timestep, sample, generator=generator).prev_sample
        if following is not None:
            step_size = snr_step_size(float(scheduler.alphas_cumprod[following]), snr)
            sample = langevin(_score_at(denoiser, following), sample, step_size, corrector_steps, generator)
    return sample


def flow_angles(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """Return phi = arccos sqrt(alpha_bar), the time of the probability flow, in [0, pi / 2], float64."""
    alpha_prod = alphas_cumprod.cpu().double()
    return torch.atan2((1 - alpha_prod).sqrt(), alpha_prod.sqrt())


def integrate_flow(
    rates: Callable[[torch.Tensor, int], tuple[torch.Tensor, ...]],
    sample: torch.Tensor,
    timesteps: Sequence[int],
    angles: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """Return x at the last timestep, and the integrals of further rates along its path from the first.

    Heun's method, of second order, two evaluations for each interval, all of them at the given timesteps.

    Args:
        rates: (x_t, t) -> dx/dphi, and the further rates by phi.
        sample: x at the first timestep, shape (B, ...).
        timesteps: where to evaluate, rising or falling.
        angles: phi of all T timesteps (see `flow_angles`).
    """
    totals: list[torch.Tensor] = []
    for start, end in zip(timesteps, timesteps[1:], strict=False):
        length = float(angles[end] - angles[start])
        first = rates(sample, start)
        second = rates(sample + length * first[0], end)
        moved, *gained = (0.5 * length * (a + b) for a, b in zip(first, second, strict=True))
        sample = sample + moved
        totals = [total + gain for total, gain in zip(totals, gained, strict=True)] if totals else gained
    return sample, *totals


@torch.no_grad()
def probability_flow(
    denoiser: Denoiser,
    sample: torch.Tensor,
    timesteps: Sequence[int],
    *,
    denoise: bool = False,
) -> torch.Tensor:
    """Return where the probability-flow ODE takes samples from the first timestep to the last, same shape.

    dx/dphi = v(x_t, t),   phi = arccos sqrt(alpha_bar_t)

    It carries p_t to p_t' without noise (Song et al. 2021, arXiv:2011.13456, eq. 13; with the angle for time
    and v for the score, Salimans & Ho 2022, arXiv:2202.00512, appendix D). Falling timesteps sample, rising
    ones encode; a step of Euler's method would nearly be one of DDIM. This is Heun's method: 2 (n - 1)
    evaluations for n timesteps.

    Args:
        denoiser: the network and its process.
        sample: x_t at the first timestep, shape (B, ...); for sampling, x_T ~ N(0, I).
        timesteps: rising or falling, in 0..T-1; for sampling, scheduler.timesteps.
        denoise: return Tweedie's estimate of x_0 at the end, by one more evaluation.

    Raises:
        ValueError: timesteps that neither rise nor fall, or are out of range.
    """
    chosen = denoiser.informative_timesteps(timesteps, order="monotone")
    sample = at_least_float32(sample)
    angles = flow_angles(denoiser.process.alphas_cumprod)
    (sample,) = integrate_flow(lambda x, t: (denoiser(x, t).velocity,), sample, chosen, angles)
    return _denoised(denoiser, sample, chosen[-1]) if denoise else sample
