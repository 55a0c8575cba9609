"""Bound, flow and Langevin dynamics beside closed form: `python benchmarks/likelihood.py`.

The denoisers are exact, so what is off is the method's error. Gaps are in bits per dimension, above the true
-log p; +- is a standard error. The last table is the speed of the bound with a real network. Takes about five
minutes on two cores.
"""

import argparse
import math
import statistics
import time

import torch
from sklearn.datasets import load_digits

from ddpm_from_scratch import DDPMFromScratchScheduler, build_model, model_config
from ddpm_from_scratch.likelihood import Likelihood, flow_likelihood, residual_curve, variational_bound
from ddpm_from_scratch.metrics import sliced_wasserstein
from ddpm_from_scratch.score import annealed_langevin, langevin, predictor_corrector
from ddpm_from_scratch.toy_data import GaussianMixtureDenoiser, spiral

SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2", "sigmoid": "sigmoid_alpha_bar"}


def seeded(seed: int = 0) -> torch.Generator:
    """Return a new source of randomness."""
    return torch.Generator().manual_seed(seed)


def exact_scheduler(schedule: str = "linear", **options) -> DDPMFromScratchScheduler:
    """Return a scheduler that does not clip: the data are not images."""
    return DDPMFromScratchScheduler(beta_schedule=SCHEDULES[schedule], clip_sample=False, **options)


def gaussian(dimensions: int, scheduler: DDPMFromScratchScheduler) -> GaussianMixtureDenoiser:
    """Return the exact denoiser of a Gaussian with a random mean and covariance."""
    source = seeded(dimensions)
    root = torch.randn(dimensions, dimensions, generator=source, dtype=torch.float64)
    covariance = 0.5 * root @ root.T / dimensions + 0.05 * torch.eye(dimensions, dtype=torch.float64)
    mean = 0.3 * torch.randn(dimensions, generator=source, dtype=torch.float64)
    return GaussianMixtureDenoiser([mean.tolist()], covariance.tolist(), scheduler.alphas_cumprod.tolist())


def narrow_mixture(means: torch.Tensor, std: float, scheduler: DDPMFromScratchScheduler):
    """Return the exact denoiser of equal narrow Gaussians around points."""
    covariance = (std**2 * torch.eye(means.shape[1])).tolist()
    return GaussianMixtureDenoiser(means.tolist(), covariance, scheduler.alphas_cumprod.tolist())


def digit_means(count: int = 600) -> torch.Tensor:
    """Return digits as vectors of 64 numbers in [-1, 1]."""
    return torch.tensor(load_digits().data[:count] / 8 - 1)


def uniform(steps: int) -> list[int]:
    """Return timesteps in equal steps from 0 to 999."""
    return torch.linspace(0, 999, steps).round().long().tolist()


def gap(measured: Likelihood, truth: torch.Tensor) -> str:
    """Return the mean distance from the true -log p, in bits per dimension, with its standard error."""
    scale = measured.num_dimensions * math.log(2)
    differences = (measured.nats_per_sample - truth) / scale
    return f"{differences.mean():9.4f} +- {differences.std() / len(truth) ** 0.5:.4f}"


def gaussians() -> None:
    """Print the gaps of bound and flow on Gaussian data."""
    print("\nGaussian data, linear schedule: gap to the true -log p in bits/dim")
    names = ("bound, fixed_small", "bound, analytic", "flow, exact divergence")
    print(f"{'D':>3} {'steps':>5}  {names[0]:>20}  {names[1]:>20}  {names[2]:>22}")
    scheduler = exact_scheduler()
    for dimensions in (1, 2, 64):
        exact, source = gaussian(dimensions, scheduler), seeded()
        many, few = exact.sample(40_000 // dimensions, source), exact.sample(40, source)
        others = exact.sample(4000, source)
        truth, truth_of_few = -exact.log_prob(many), -exact.log_prob(few)
        for steps in (10, 50, 200, 1000):
            options = {"timesteps": uniform(steps), "data_levels": None, "generator": source}
            residuals = residual_curve(exact, scheduler, others, timesteps=uniform(steps), generator=source)
            fixed = variational_bound(exact, scheduler, many, batch_size=8192, **options)
            analytic = variational_bound(
                exact, scheduler, many, batch_size=8192, residuals=residuals, **options
            )
            line = f"{dimensions:3} {steps:5}  {gap(fixed, truth):>20}  {gap(analytic, truth):>20}"
            if dimensions * steps <= 2000:
                flow = flow_likelihood(exact, scheduler, few, divergence="exact", **options)
                line += f"  {gap(flow, truth_of_few):>22}"
            print(line, flush=True)


def hutchinson() -> None:
    """Print the estimate of the divergence beside the exact one."""
    scheduler = exact_scheduler("cosine")
    exact = gaussian(8, scheduler)
    sample = exact.sample(1, seeded())
    right = flow_likelihood(exact, scheduler, sample, timesteps=uniform(50), divergence="exact").nats
    drawn = flow_likelihood(
        exact, scheduler, sample.expand(2000, -1), timesteps=uniform(50), generator=seeded(1)
    ).nats_per_sample
    error = float(drawn.std()) / len(drawn) ** 0.5
    print(
        f"\nHutchinson's divergence, 8-D, 2,000 probes: {drawn.mean():.4f} +- {error:.4f} nats, "
        f"exact {right:.4f}: {(float(drawn.mean()) - right) / error:+.1f} standard errors"
    )


def digits_mixture(samples: int) -> None:
    """Print the gaps on a mixture around 600 digits."""
    print("\nMixture around 600 digits, 64-D, exact score: gap in bits/dim")
    print(f"{'schedule':>9}  {'999 steps, fixed_small':>22}  {'50, fixed_small':>18}  {'50, analytic':>18}")
    for schedule in SCHEDULES:
        scheduler, source = exact_scheduler(schedule), seeded()
        exact = narrow_mixture(digit_means(), 0.1, scheduler)
        data, truth_few = exact.sample(samples, source), uniform(50)
        truth = -exact.log_prob(data)
        residuals = residual_curve(
            exact, scheduler, exact.sample(2000, source), timesteps=truth_few, generator=source
        )
        options = {"data_levels": None, "generator": source}
        full = variational_bound(exact, scheduler, data, **options)
        fixed = variational_bound(exact, scheduler, data, timesteps=truth_few, **options)
        analytic = variational_bound(
            exact, scheduler, data, timesteps=truth_few, residuals=residuals, **options
        )
        # The decoder is no step: here it has the variance that fits it.
        decoder = (full.decoder - analytic.decoder) * 64 * math.log(2)
        print(
            f"{schedule:>9}  {gap(full, truth + decoder):>22}  {gap(fixed, truth):>18}  "
            f"{gap(analytic, truth):>18}",
            flush=True,
        )


def langevin_variance() -> None:
    """Print the variance of unadjusted Langevin dynamics beside the closed form."""
    print(
        "\nUnadjusted Langevin dynamics on N(0, s^2), 400,000 chains: variance / s^2, 1 / (1 - eps / (4 s^2))"
    )
    for std, step_size in ((1.0, 0.1), (1.0, 0.5), (1.0, 1.0), (0.5, 0.4)):
        start = std * torch.randn(400_000, 1, generator=seeded())
        made = langevin(lambda x, s=std: -x / s**2, start, step_size, 100, seeded(1))
        formula = 1 / (1 - step_size / (4 * std**2))
        print(f"  s {std}, eps {step_size}: {float(made.var()) / std**2:.4f}, {formula:.4f}")


def samplers() -> None:
    """Print how near to the data the samplers by score come."""
    print(
        "\nSliced W2 divided by that of two sets of data, 2,000 samples, mean of 3 seeds (1: no difference)"
    )
    print(f"{'':>34} {'spiral':>8} {'digits':>8}")
    scheduler = exact_scheduler(timestep_spacing="trailing")
    data = {
        "spiral": narrow_mixture(spiral(200, seeded()).double(), 0.02, scheduler),
        "digits": narrow_mixture(digit_means(), 0.1, scheduler),
    }

    def corrected(exact, noise, source):
        scheduler.set_timesteps(100)
        return predictor_corrector(exact, scheduler, noise, corrector_steps=corrector_steps, generator=source)

    def annealed(exact, noise, source):
        return annealed_langevin(exact, scheduler, noise, steps_per_level=steps_per_level, generator=source)

    for steps_per_level in (1, 3, 10, 30):
        print_distances(f"annealed Langevin, {100 * steps_per_level + 1} evaluations", annealed, data)
    for corrector_steps in (0, 1, 9):
        name = f"DDPM-100, {corrector_steps} corrections, {100 + 99 * corrector_steps}"
        print_distances(name, corrected, data)


def print_distances(name, sampler, data) -> None:
    """Print the distance of a sampler's samples, for each kind of data."""
    columns = []
    for exact in data.values():
        ratios = []
        for seed in range(3):
            source = seeded(seed)
            first, second = exact.sample(2000, source), exact.sample(2000, source)
            noise = torch.randn(2000, first.shape[1], generator=source, dtype=torch.float64)
            made = sampler(exact, noise, source)
            ratios.append(sliced_wasserstein(made, first) / sliced_wasserstein(second, first))
        columns.append(f"{statistics.mean(ratios):8.2f}")
    print(f"{name:>34} {' '.join(columns)}", flush=True)


def speed() -> None:
    """Print how long the whole bound of the held-out digits takes, in batches of mixed timesteps."""
    scheduler = DDPMFromScratchScheduler()
    network = build_model(model_config("digits")).eval()
    samples = torch.tensor(load_digits().images[:360], dtype=torch.float32)[:, None] / 8 - 1
    for batch_size in (360, 1024):
        began = time.perf_counter()
        variational_bound(network, scheduler, samples, data_levels=17, batch_size=batch_size)
        seconds = time.perf_counter() - began
        print(
            f"\n1,000 terms of 360 digits, {torch.get_num_threads()} threads, batches of {batch_size}: "
            f"{seconds:.1f} s, {360_000 / seconds:,.0f} evaluations/s"
        )


def main() -> None:
    """Print all tables, or those asked for."""
    tables = {
        "gaussians": gaussians,
        "hutchinson": hutchinson,
        "digits": lambda: digits_mixture(args.samples),
        "langevin": langevin_variance,
        "samplers": samplers,
        "speed": speed,
    }
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", choices=[*tables, []], help="which; all if none is given")
    parser.add_argument("--samples", type=int, default=1000, help="samples of the mixture of digits")
    args = parser.parse_args()
    for name in args.tables or tables:
        tables[name]()


if __name__ == "__main__":
    main()
