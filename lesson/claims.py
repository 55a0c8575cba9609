"""What the lecture claims, measured with exact networks: `python lesson/claims.py [NAME ...]`, 2 minutes.

The data are points of a spiral and 8x8 digits, each with a little Gaussian noise, whose E[x_0 | x_t] is known
in closed form: what is measured is the schedule or the method, not a network.
"""

import functools
import math
import statistics

import numpy as np
import torch

from computed import Figures, print_figures
from ddpm_from_scratch import Denoiser, FewStepScheduler, calibrate
from ddpm_from_scratch.data.exact import MIXTURES, SCHEDULES, exact_mixture, exact_scheduler, seeded
from ddpm_from_scratch.density.bound import variational_bounds
from ddpm_from_scratch.density.residuals import residual_curve
from ddpm_from_scratch.density.score import langevin, tweedie
from ddpm_from_scratch.measures.metrics import projected_wasserstein, sorted_columns, unit_directions
from ddpm_from_scratch.networks.mixtures import GaussianMixtureDenoiser
from ddpm_from_scratch.process.noise_schedules import snr

# So many samples at a time: what is computed of them fits in a processor's cache.
_AT_A_TIME = 1000


def projected(points: torch.Tensor) -> torch.Tensor:
    """Return points on the directions of `sliced_wasserstein`, sorted: once for all sets they meet."""
    return sorted_columns(points.double() @ unit_directions(points.shape[1]))


@functools.cache
def residual_shares(schedule: str, name: str) -> torch.Tensor:
    """Return E|x_0 - E[x_0 | x_t]|^2 over the variance of the data at each timestep, shape (T,).

    Where little is known it is taken as 1 - Var(E[x_0 | x_t]) / Var(x_0) (law of total variance), which is
    more precise there. Between the timesteps that are measured it is interpolated.
    """
    scheduler = exact_scheduler(schedule)
    model = exact_mixture(name, scheduler)
    samples, source = model.sample(4000, seeded(1)), seeded(2)
    variance = (samples - model.centre).square().mean()
    visited, shares = [*range(20), *range(20, 100, 5), *range(100, 1000, 20), 999], []
    for t in visited:
        noise = torch.randn(samples.shape, generator=source, dtype=torch.float64)
        noisy = scheduler.add_noise(samples, noise, torch.tensor(t))
        level = scheduler.alphas_cumprod[t].double()
        guess = torch.cat([model.pred_original(part, level) for part in noisy.split(_AT_A_TIME)])
        share = float((samples - guess).square().mean() / variance)
        shares.append(share if share < 0.5 else float(1 - (guess - model.centre).square().mean() / variance))
    return torch.tensor(np.interp(np.arange(1000), visited, shares))


@functools.cache
def wasted_steps() -> Figures:
    """The step at which E|x_0 - x_0_hat|^2 is 99 % of the data's variance, and what later steps are worth."""
    found: Figures = {
        f"{schedule}_{name}": int((residual_shares(schedule, name) > 0.99).int().argmax()) + 1
        for schedule in ("linear", "cosine")
        for name in MIXTURES
    }
    scheduler = exact_scheduler()
    # L_{t-1} = (SNR_{t-1} - SNR_t) / 2 times the residual (Kingma et al. 2021, arXiv:2107.00630, eq. 13).
    falls = -snr(scheduler.alphas_cumprod.double()).diff()
    for name in MIXTURES:
        terms = falls * residual_shares("linear", name)[1:]
        found[f"after_700_{name}"] = float(terms[699:].sum() / terms.sum())
    return found


@functools.cache
def ten_steps() -> Figures:
    """Sliced W2 over the floor by 10 evaluations of DDIM and of the few-step sampler; means of some seeds.

    With timesteps evenly spaced, and for the few-step sampler (without noise) also at equal errors.
    """
    found = {}
    even = [999 - 100 * step for step in range(10)]
    for name in MIXTURES:
        seeds, count = (8, 2500) if name == "spiral" else (4, 1000)
        # All seeds go through the network together, each is compared with data of its own. Data and floor are
        # those of all schedules.
        drawn = exact_mixture(name, exact_scheduler())
        data = [projected(part) for part in drawn.sample(seeds * count, seeded(1)).split(count)]
        others = drawn.sample(8 * seeds * count, seeded(2)).split(count)
        floor = statistics.mean(map(projected_wasserstein, map(projected, others), data * 8))
        for schedule in SCHEDULES:
            scheduler = exact_scheduler(schedule)
            model = exact_mixture(name, scheduler)
            shape = (len(model.centre),)
            density = calibrate(
                Denoiser(model, scheduler), shape, seeded(3), num_steps=(10,), progress_bar=False
            )
            few = FewStepScheduler.from_config(scheduler.config, calibration=density, noise_level=0.0)
            ddim = FewStepScheduler.from_config(few.config, solver_order=1, corrector_order=0)
            chains = {
                "ddim_even": (ddim, even),
                "even": (few, even),
                "equal_error": (few, few.timesteps_for(10)),
            }
            for how, (sampler, timesteps) in chains.items():
                sampler.set_timesteps(timesteps=timesteps)
                x = torch.randn(seeds * count, *shape, generator=seeded(4), dtype=torch.float64)
                for t in sampler.timesteps:
                    predicted = torch.cat([model(part, t).sample for part in x.split(_AT_A_TIME)])
                    x = sampler.step(predicted, t, x).prev_sample
                distance = statistics.mean(map(projected_wasserstein, map(projected, x.split(count)), data))
                found[f"{name}_{schedule}_{how}"] = distance / floor
    return found


@functools.cache
def tweedie_error() -> Figures:
    """The largest difference between E[x_0 | x_t] and Tweedie's formula with the exact score."""
    scheduler = exact_scheduler()
    model = exact_mixture("spiral", scheduler)
    largest = 0.0
    for t in range(0, 1000, 111):
        alpha_bar = scheduler.alphas_cumprod[t].double()
        noise = torch.randn(500, 2, generator=seeded(t + 1), dtype=torch.float64)
        x_t = scheduler.add_noise(model.sample(500, seeded(t)), noise, torch.tensor(t))
        estimate = tweedie(x_t, model.score(x_t, alpha_bar), alpha_bar)
        largest = max(largest, float((estimate - model.pred_original(x_t, alpha_bar)).abs().max()))
    return {"largest": largest}


@functools.cache
def langevin_variance() -> Figures:
    """The variance of unadjusted Langevin dynamics on N(0, 1), over 1 / (1 - eps / 4)."""
    normal, found = GaussianMixtureDenoiser([[0.0]], [[1.0]], [0.5]), {}
    for step_size in (0.1, 1.0, 2.0):
        x = torch.randn(50_000, 1, generator=seeded(0), dtype=torch.float64)
        x = langevin(normal.score, x, step_size, 200, seeded(1))
        found[f"ratio_{step_size:g}"] = float(x.var()) * (1 - step_size / 4)
    return found


@functools.cache
def bound_gaps() -> Figures:
    """Bits per dimension by which the variational bound is above -log p, on the spiral."""
    found = {}
    for schedule in SCHEDULES:
        scheduler = exact_scheduler(schedule)
        model = exact_mixture("spiral", scheduler)
        # The decoder's term, which scatters most, is the mean of all samples, each other one of about 500.
        samples = model.sample(20_000, seeded(1))
        residuals = residual_curve(
            Denoiser(model, scheduler),
            model.sample(400, seeded(2)),
            batch_size=_AT_A_TIME,
            generator=seeded(3),
        )
        truth = -float(model.log_prob(samples).mean()) / (2 * math.log(2))
        bounds = variational_bounds(
            Denoiser(model, scheduler),
            samples,
            ["fixed_small", "analytic"],
            residuals=residuals,
            data_levels=None,
            num_monte_carlo=25,
            batch_size=_AT_A_TIME,
            generator=seeded(4),
        )
        found |= {
            f"{schedule}_{kind}": bound.prior + float(bound.terms.sum()) - truth
            for kind, bound in bounds.items()
        }
    return found


CLAIMS = (wasted_steps, ten_steps, tweedie_error, langevin_variance, bound_gaps)


def main(argv: list[str] | None = None) -> None:
    """Print the figures of the claims that are named, or of all."""
    print_figures(CLAIMS, __doc__, argv)


if __name__ == "__main__":
    main()
