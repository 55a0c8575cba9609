"""Bound, flow and Langevin dynamics beside closed form: `python benchmarks/likelihood.py`.

The denoisers are exact, so what is off is the method's error. Gaps are in bits per dimension, above the true
-log p; +- is a standard error, and "its mean" is in closed form. The last table is the speed of the bound
with a real network. Takes about 25 minutes on two cores, half of them for the speed.
"""

import argparse
import math
import statistics
import time

import torch

from ddpm_from_scratch import DDPMFromScratchScheduler, Denoiser, build_model, model_config
from ddpm_from_scratch.data.datasets import load_digits
from ddpm_from_scratch.data.exact import SCHEDULES, digit_means, exact_scheduler, narrow_mixture, seeded
from ddpm_from_scratch.data.points import spiral
from ddpm_from_scratch.density.bound import Likelihood, variational_bound, variational_bounds
from ddpm_from_scratch.density.flow import flow_likelihood
from ddpm_from_scratch.density.residuals import residual_curve
from ddpm_from_scratch.density.score import annealed_langevin, langevin, predictor_corrector
from ddpm_from_scratch.measures.metrics import sliced_wasserstein
from ddpm_from_scratch.networks.mixtures import GaussianMixtureDenoiser
from ddpm_from_scratch.runtime.cpu import keep_large_allocations


def gaussian(dimensions: int, scheduler: DDPMFromScratchScheduler) -> GaussianMixtureDenoiser:
    """Return the exact denoiser of a Gaussian with a random mean and covariance."""
    source = seeded(dimensions)
    root = torch.randn(dimensions, dimensions, generator=source, dtype=torch.float64)
    covariance = 0.5 * root @ root.T / dimensions + 0.05 * torch.eye(dimensions, dtype=torch.float64)
    mean = 0.3 * torch.randn(dimensions, generator=source, dtype=torch.float64)
    return GaussianMixtureDenoiser([mean.tolist()], covariance.tolist(), scheduler.alphas_cumprod.tolist())


def uniform(steps: int) -> list[int]:
    """Return timesteps in equal steps from 0 to 999."""
    return torch.linspace(0, 999, steps).round().long().tolist()


def gap(measured: Likelihood, truth: torch.Tensor) -> str:
    """Return the mean distance from the true -log p, in bits per dimension, with its standard error."""
    scale = measured.num_dimensions * math.log(2)
    differences = (measured.nats_per_sample - truth) / scale
    return f"{differences.mean():9.4f} +- {differences.std() / len(truth) ** 0.5:.4f}"


def expected_terms(
    exact: GaussianMixtureDenoiser, scheduler: DDPMFromScratchScheduler, timesteps: list[int], kind: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean over Gaussian data of the prior's term and of every L_t by rising t, in nats.

    In closed form, with C the covariance of the data on its axes, v the variance of p(x_{t-1} | x_t):
    E|x_0 - E[x_0 | x_t]|^2 = sum over axes of (1 - a) C / (a C + 1 - a),   a = alpha_bar_t.
    """
    table = scheduler.alphas_cumprod.double()[timesteps]
    before = torch.cat([torch.ones(1).double(), table[:-1]])
    beta = 1 - table / before
    weight = before.sqrt() * beta / (1 - table)
    smallest = (1 - before) / (1 - table) * beta
    own = exact.variances[0]
    dimensions = len(own)
    residual = torch.stack([((1 - a) * own / (a * own + 1 - a)).sum() for a in table])
    if kind == "analytic":
        variance = smallest + weight**2 * residual / dimensions
    else:
        smallest[0] = smallest[1]
        variance = smallest.clone() if kind == "fixed_small" else torch.cat([smallest[:1], beta[1:]])
    terms = 0.5 * (
        dimensions * (smallest / variance - 1 - torch.log(smallest / variance))
        + weight**2 * residual / variance
    )
    terms[0] = 0.5 * (dimensions * torch.log(2 * math.pi * variance[0]) + residual[0] / variance[0])
    second_moment = own.sum() + (exact.centre**2).sum()
    prior = 0.5 * (table[-1] * second_moment - dimensions * (table[-1] + torch.log1p(-table[-1])))
    return prior, terms


def expected_gap(
    exact: GaussianMixtureDenoiser, scheduler: DDPMFromScratchScheduler, timesteps: list[int], kind: str
) -> float:
    """Return the mean of the bound on Gaussian data less their entropy, in bits per dimension."""
    prior, terms = expected_terms(exact, scheduler, timesteps, kind)
    own = exact.variances[0]
    entropy = 0.5 * torch.log(2 * math.pi * math.e * own).sum()
    return float(prior + terms.sum() - entropy) / (len(own) * math.log(2))


def gaussians() -> None:
    """Print the gaps of bound and flow on Gaussian data."""
    print("\nGaussian data, linear schedule: gap to the true -log p in bits/dim")
    print(f"{'D':>3} {'steps':>5}  {'bound, fixed_small':>20} {'its mean':>8}  ", end="")
    print(f"{'bound, analytic':>17} {'its mean':>8}  {'flow, exact divergence':>22}")
    scheduler = exact_scheduler()
    for dimensions in (1, 2, 64):
        exact, source = gaussian(dimensions, scheduler), seeded()
        many, few = exact.sample(40_000 // dimensions, source), exact.sample(40, source)
        others = exact.sample(4000, source)
        truth, truth_of_few = -exact.log_prob(many), -exact.log_prob(few)
        for steps in (10, 50, 200, 1000):
            options = {"timesteps": uniform(steps), "data_levels": None, "generator": source}
            residuals = residual_curve(
                Denoiser(exact, scheduler), others, timesteps=uniform(steps), generator=source
            )
            bounds = variational_bounds(
                Denoiser(exact, scheduler),
                many,
                ("fixed_small", "analytic"),
                residuals=residuals,
                batch_size=8192,
                **options,
            )
            line = f"{dimensions:3} {steps:5}"
            for kind, bound in bounds.items():
                mean = expected_gap(exact, scheduler, uniform(steps), kind)
                line += f"  {gap(bound, truth)} {mean:8.4f}"
            if dimensions * steps <= 2000:
                flow = flow_likelihood(Denoiser(exact, scheduler), few, divergence="exact", **options)
                line += f"  {gap(flow, truth_of_few):>22}"
            print(line, flush=True)


def hutchinson() -> None:
    """Print the estimate of the divergence beside the exact one."""
    scheduler = exact_scheduler("cosine")
    exact = gaussian(8, scheduler)
    sample = exact.sample(1, seeded())
    right = flow_likelihood(
        Denoiser(exact, scheduler), sample, timesteps=uniform(50), divergence="exact"
    ).nats
    drawn = flow_likelihood(
        Denoiser(exact, scheduler), sample.expand(2000, -1), timesteps=uniform(50), generator=seeded(1)
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
        data, few = exact.sample(samples, source), list(range(0, 1000, 20))
        truth = -exact.log_prob(data)
        residuals = residual_curve(
            Denoiser(exact, scheduler), exact.sample(2000, source), timesteps=few, generator=source
        )
        options = {"data_levels": None, "generator": source}
        full = variational_bound(Denoiser(exact, scheduler), data, **options)
        more = exact.sample(8 * samples, source)
        truth_of_more = -exact.log_prob(more)
        fixed, analytic = variational_bounds(
            Denoiser(exact, scheduler),
            more,
            ("fixed_small", "analytic"),
            timesteps=few,
            residuals=residuals,
            **options,
        ).values()
        # The decoder is no step: here it has the variance that fits it.
        decoder = (full.decoder - analytic.decoder) * 64 * math.log(2)
        print(
            f"{schedule:>9}  {gap(full, truth + decoder):>22}  {gap(fixed, truth_of_more):>18}  "
            f"{gap(analytic, truth_of_more):>18}",
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
        return predictor_corrector(
            Denoiser(exact, scheduler), noise, corrector_steps=corrector_steps, generator=source
        )

    def annealed(exact, noise, source):
        return annealed_langevin(
            Denoiser(exact, scheduler), noise, steps_per_level=steps_per_level, generator=source
        )

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
    keep_large_allocations()
    scheduler = DDPMFromScratchScheduler()
    network = build_model(model_config("digits")).eval()
    samples = load_digits()[2]
    print(f"\n1,000 terms of {len(samples)} held-out digits, {torch.get_num_threads()} threads, median of 3")

    seconds = {torch.float32: [], torch.bfloat16: []}
    for _ in range(3):
        for precision, taken in seconds.items():
            began = time.perf_counter()
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                variational_bound(Denoiser(network, scheduler), samples, data_levels=17, batch_size=1024)
            taken.append(time.perf_counter() - began)
    for precision, taken in seconds.items():
        median = statistics.median(taken)
        print(
            f"  {str(precision)[6:]:>8}: {median:5.1f} s, {1000 * len(samples) / median:,.0f} evaluations/s"
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
