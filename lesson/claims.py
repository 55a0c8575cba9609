"""What the lecture claims, measured with exact networks: `python lesson/claims.py [NAME ...]`, 2 minutes.

The data are points of a spiral and 8x8 digits, each with a little Gaussian noise, whose E[x_0 | x_t] is known
in closed form: what is measured is the schedule or the method, not a network.
"""

import argparse
import functools
import math
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from ddpm_from_scratch import FewStepScheduler, calibrate  # noqa: E402
from ddpm_from_scratch.likelihood import variational_bounds  # noqa: E402
from ddpm_from_scratch.metrics import sliced_wasserstein  # noqa: E402
from ddpm_from_scratch.noise_schedules import snr  # noqa: E402
from ddpm_from_scratch.residuals import residual_curve  # noqa: E402
from ddpm_from_scratch.score import langevin, tweedie  # noqa: E402
from ddpm_from_scratch.toy_data import GaussianMixtureDenoiser  # noqa: E402
from exact import MIXTURES, SCHEDULES, exact_mixture, exact_scheduler, seeded  # noqa: E402

Figures = dict[str, float]


@functools.cache
def residual_shares(schedule: str, name: str) -> torch.Tensor:
    """Return E|x_0 - E[x_0 | x_t]|^2 over the variance of the data at each timestep, shape (T,)."""
    scheduler = exact_scheduler(schedule)
    model = exact_mixture(name, scheduler)
    samples = model.sample(100, seeded(1))
    curve = residual_curve(model, scheduler, samples, batch_size=20_000, generator=seeded(2))
    return curve / curve[-1]


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
    """Sliced W2 over the floor by 10 evaluations, with timesteps evenly spaced, and at equal errors."""
    found = {}
    for name in MIXTURES:
        for schedule in SCHEDULES:
            scheduler = exact_scheduler(schedule)
            model = exact_mixture(name, scheduler)
            count = 10_000 if name == "spiral" else 2000
            reference = model.sample(count, seeded(1))
            floor = sliced_wasserstein(model.sample(count, seeded(2)), reference)
            shape = (len(model.centre),)
            density = calibrate(model, scheduler, shape, seeded(3), num_steps=(10,), progress_bar=False)
            few = FewStepScheduler.from_config(scheduler.config, calibration=density, noise_level=0.0)
            even = [round(1000 - 1 - 100 * step) for step in range(10)]
            for how, timesteps in (("even", even), ("equal_error", few.timesteps_for(10))):
                few.set_timesteps(timesteps=timesteps)
                x = torch.randn(count, *shape, generator=seeded(4), dtype=torch.float64)
                for t in few.timesteps:
                    x = few.step(model(x, t).sample, t, x).prev_sample
                found[f"{name}_{schedule}_{how}"] = sliced_wasserstein(x, reference) / floor
    return found


@functools.cache
def tweedie_error() -> Figures:
    """The largest difference between E[x_0 | x_t] and Tweedie's formula with the exact score."""
    scheduler = exact_scheduler()
    model = exact_mixture("spiral", scheduler)
    largest = 0.0
    for t in range(0, 1000, 111):
        alpha_bar = scheduler.alphas_cumprod[t].double()
        x_t = alpha_bar.sqrt() * model.sample(500, seeded(t)) + (1 - alpha_bar).sqrt() * torch.randn(
            500, 2, generator=seeded(t + 1), dtype=torch.float64
        )
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
        samples = model.sample(400, seeded(1))
        residuals = residual_curve(
            model, scheduler, model.sample(400, seeded(2)), batch_size=20_000, generator=seeded(3)
        )
        truth = -float(model.log_prob(samples).mean()) / (2 * math.log(2))
        bounds = variational_bounds(
            model, scheduler, samples, ["fixed_small", "analytic"], residuals=residuals, data_levels=None,
            batch_size=20_000, generator=seeded(4),
        )  # fmt: skip
        found |= {f"{schedule}_{kind}": bound.bits_per_dim - truth for kind, bound in bounds.items()}
    return found


CLAIMS = (wasted_steps, ten_steps, tweedie_error, langevin_variance, bound_gaps)


def main(argv: list[str] | None = None) -> None:
    """Print the figures of the claims that are named, or of all."""
    known = {claim.__name__: claim for claim in CLAIMS}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; all if not given")
    names = parser.parse_args(argv).names
    if wrong := [name for name in names if name not in known]:
        parser.error(f"there is no {wrong[0]!r}; choose from {', '.join(known)}.")
    for name, claim in known.items():
        if not names or name in names:
            print(f"{name}: {(claim.__doc__ or '').strip()}")
            for figure, value in claim().items():
                print(f"   {figure:28} {value:.6g}")


if __name__ == "__main__":
    main()
