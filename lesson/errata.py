"""What the lecture says that is not so, each with its demonstration: `python lesson/errata.py [NAME ...]`.

A demonstration is a function without arguments; what it returns are the figures that errata.md and the page
show. Unless said otherwise the schedule is the lecture's, linear with T = 1000.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from computed import Figures, print_figures
from ddpm_from_scratch import DDPMFromScratchScheduler, Denoiser, build_model, model_config
from ddpm_from_scratch.data.exact import exact_scheduler, seeded
from ddpm_from_scratch.data.points import swiss_roll, swiss_roll_curve
from ddpm_from_scratch.density.bound import variational_bound
from ddpm_from_scratch.density.flow import flow_likelihood
from ddpm_from_scratch.networks.mixtures import GaussianMixtureDenoiser
from ddpm_from_scratch.process.diffusion import posterior, scales, to_score
from ddpm_from_scratch.process.noise_schedules import (
    alphas_cumprod_from_betas,
    betas_from_alpha_bar,
    cosine_alpha_bar,
    linear_betas,
)


def _two_points(scheduler: DDPMFromScratchScheduler) -> GaussianMixtureDenoiser:
    """Return the exact network of data that are -1 or 1, equally often."""
    return GaussianMixtureDenoiser([[-1.0], [1.0]], [[0.0]], scheduler.alphas_cumprod.tolist())


def _two_gaussians(scheduler: DDPMFromScratchScheduler) -> GaussianMixtureDenoiser:
    """Return the exact network of two Gaussians in one dimension, equally often."""
    return GaussianMixtureDenoiser([[-1.0], [0.5]], [[0.04]], scheduler.alphas_cumprod.tolist())


@functools.cache
def sampling_noise() -> Figures:
    """The listing of sample() adds sqrt(alpha_t) z in place of sigma_t z."""
    scheduler = exact_scheduler()
    exact = GaussianMixtureDenoiser([[0.0]], [[1.0]], scheduler.alphas_cumprod.tolist())
    alphas, alphas_cumprod = scheduler.alphas.double(), scheduler.alphas_cumprod.double()
    start, source = torch.randn(20_000, 1, generator=seeded(0), dtype=torch.float64), seeded(1)
    x = start
    for t in reversed(range(1000)):  # as printed
        mean = (x - (1 - alphas[t]) / (1 - alphas_cumprod[t]).sqrt() * exact(x, t).sample) / alphas[t].sqrt()
        x = mean + alphas[t].sqrt() * torch.randn(x.shape, generator=source, dtype=x.dtype) if t > 0 else mean
    right, source = start, seeded(1)
    for t in scheduler.timesteps:
        right = scheduler.step(exact(right, t).sample, t, right, generator=source).prev_sample
    return {"std_of_the_listing": float(x.std()), "std": float(right.std())}


@functools.cache
def loss_broadcast() -> Figures:
    """The listing of ddpm_loss() reshapes alpha-bar to (B, 1, 1, 1), which no data but images fit."""
    x0, alpha_bar = torch.zeros(8, 2), torch.full((8,), 0.5)
    x_t = alpha_bar.view(8, 1, 1, 1).sqrt() * x0
    return {f"size_{place}": size for place, size in enumerate(x_t.shape)}


@functools.cache
def cosine_formula() -> Figures:
    """The cosine alpha-bar lacks the division by its value at 0, and the cap of beta."""
    printed = betas_from_alpha_bar(cosine_alpha_bar, 1000, max_beta=1.0, normalize=False)
    right = betas_from_alpha_bar(cosine_alpha_bar, 1000)
    return {
        "first_beta_printed": float(printed[0]),
        "first_beta": float(right[0]),
        "ratio": float(printed[0] / right[0]),
        "last_beta_printed": float(printed[-1]),
        "last_beta": float(right[-1]),
    }


@functools.cache
def merged_noises() -> Figures:
    """Two steps bring in two noises: their variances add, where one noise for both would add amplitudes."""
    first, second = 0.99, 0.98
    carried, added = (second * (1 - first)) ** 0.5, (1 - second) ** 0.5
    return {"same_noise": (carried + added) ** 2, "own_noise": carried**2 + added**2}


@functools.cache
def valleys() -> Figures:
    """Data are put into valleys, and arrows that point uphill are followed backwards."""
    exact = GaussianMixtureDenoiser([[0.0]], [[1.0]], [0.5])
    forwards = backwards = torch.tensor([[2.0]], dtype=torch.float64)
    for _ in range(100):
        forwards = forwards + 0.05 * exact.score(forwards)
        backwards = backwards - 0.05 * exact.score(backwards)
    return {"forwards": float(forwards), "backwards": float(backwards)}


@functools.cache
def conditional_score() -> Figures:
    """The score of q(x_t | x_0) is called the true score; the network learns its mean given x_t."""
    scheduler = exact_scheduler()
    x_t, alpha_bar = torch.tensor([[0.3]], dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    at_t, found = scales(alpha_bar), {}
    for name, x0 in (("of_plus_one", 1.0), ("of_minus_one", -1.0)):
        noise = (x_t - at_t.signal * x0) / at_t.noise
        found[name] = float(to_score(noise, x_t, scales(alpha_bar), "epsilon"))
    return found | {"marginal": float(_two_points(scheduler).score(x_t, 0.5))}


@functools.cache
def langevin_step() -> Figures:
    """A reverse step is said to look like a Langevin step."""
    scheduler = exact_scheduler()
    beta, alpha_bar = float(scheduler.betas[500]), scheduler.alphas_cumprod[500].double()
    # By how much the mean of the reverse step moves x_t: at 0 with score 1, at 1 with score 0, and at 1 with
    # score -1, that of N(0, 1).
    x_t, score = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, -1.0]], dtype=torch.float64).split(1, dim=1)
    exact_noise = -((1 - alpha_bar) ** 0.5) * score
    step = DDPMFromScratchScheduler.from_config(scheduler.config, variance_type="fixed_large").step(
        exact_noise, 500, x_t, variance_noise=torch.zeros_like(x_t)
    )
    of_score, of_x, on_normal = (step.prev_sample - x_t).flatten().tolist()
    eta = beta / 2  # of the Langevin step with the same noise, which moves by eta times the score
    return {"eta": eta, "ratio": of_score / eta, "of_x": of_x / eta, "ratio_on_normal": on_normal / -eta}


@functools.cache
def closed_form_of_the_sde() -> Figures:
    """The closed form is called what score-SDE lacks, and worth a factor of 500."""
    scheduler = exact_scheduler()
    # dx = -beta(u)/2 x du + sqrt(beta(u)) dw with beta from 0.1 to 20, Song et al. 2021, eq. 33.
    of_sde = math.exp(-(0.1 * 0.5 + (20 - 0.1) * 0.5**2 / 2))
    model = build_model(model_config("digits"))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 1, 8, 8), 0)
    steps = (1 + 1000) / 2
    return {
        "alpha_bar_of_sde": of_sde,
        "alpha_bar": float(scheduler.alphas_cumprod[499]),
        "mean_t": steps,
        # Two multiplications and an addition for each of 64 pixels; a training step costs three forward ones.
        "noising_of_training": steps * 3 * 64 / (3 * counter.get_total_flops()),
    }


@functools.cache
def gaussian_reverse() -> Figures:
    """The best reverse step is said to be Gaussian because q(x_{t-1} | x_t, x_0) is."""
    alpha_bars, one = exact_scheduler().alphas_cumprod.double(), torch.ones((), dtype=torch.float64)
    found = {}
    # Of -1 or 1, at x_t = 0, it is Gaussians at +-mean: excess kurtosis -2 mean^4 / total variance^2.
    for steps in (1, 100, 500):
        coefficients = posterior(alpha_bars[499], alpha_bars[499 - steps] if steps < 500 else one)
        square = float(coefficients.original**2)
        found[f"kurtosis_of_{steps}"] = -2 * square**2 / (square + float(coefficients.variance)) ** 2
    return found


@functools.cache
def velocity_target() -> Figures:
    """V is called a variant of x_0, and more stable at small t."""
    alpha_bars = exact_scheduler().alphas_cumprod.double()
    factors = ((1 - alpha_bars) / alpha_bars).sqrt()
    return {
        "factor_at_1": float(factors[0]),
        "factor_at_1000": float(factors[-1]),
        "of_sample_at_1": float(1 / factors[0]),  # an error of x_0 as one of the noise
    }


@functools.cache
def any_field() -> Figures:
    """Any vector field is said to be a score."""
    angle = torch.arange(1000, dtype=torch.float64) * (2 * math.pi / 1000)
    points = torch.stack([angle.cos(), angle.sin()], dim=1)
    along = torch.stack([-angle.sin(), angle.cos()], dim=1) * (2 * math.pi / 1000)
    exact = GaussianMixtureDenoiser([[0.7, 0.0], [-0.4, 0.5]], [[0.1, 0.0], [0.0, 0.2]], [0.5])
    turning = torch.stack([-points[:, 1], points[:, 0]], dim=1)
    return {
        "around_turning": float((turning * along).sum()),
        "around_score": abs(float((exact.score(points) * along).sum())),
    }


@functools.cache
def exact_likelihood() -> Figures:
    """Diffusion is said to have a tractable likelihood, and then only a loose bound."""
    scheduler = exact_scheduler()
    exact = _two_gaussians(scheduler)
    samples = exact.sample(200, seeded(0))
    truth = -float(exact.log_prob(samples).mean()) / math.log(2)
    visited = torch.linspace(0, 999, 250).round().long().tolist()
    bound = variational_bound(Denoiser(exact, scheduler), samples, data_levels=None, generator=seeded(1))
    flow = flow_likelihood(Denoiser(exact, scheduler), samples, timesteps=visited, divergence="exact")
    return {
        "truth": truth,
        "bound_gap": bound.bits_per_dim - truth,
        "flow_gap": flow.bits_per_dim - truth,
    }


@functools.cache
def number_of_steps() -> Figures:
    """T is chosen by how samples look, and T = 50 called too coarse."""
    scheduler = exact_scheduler(num_train_timesteps=50, scale_betas_by_length=True)
    exact = _two_gaussians(scheduler)
    samples = exact.sample(2000, seeded(0))
    bound = variational_bound(Denoiser(exact, scheduler), samples, data_levels=None, generator=seeded(1))
    return {
        "gap_at_50_rescaled": bound.bits_per_dim + float(exact.log_prob(samples).mean()) / math.log(2),
        "left_at_50": float(alphas_cumprod_from_betas(linear_betas(50))[-1]),
        "left_at_50_rescaled": float(alphas_cumprod_from_betas(linear_betas(50, 0.002, 0.4))[-1]),
        "left_at_1000": float(alphas_cumprod_from_betas(linear_betas(1000))[-1]),
    }


@functools.cache
def other_noises() -> Figures:
    """Closed forms of q(x_t | x_0) are said to be the gift of Gaussian noise."""
    scheduler = exact_scheduler()
    alphas, alpha_bar = scheduler.alphas.double(), float(scheduler.alphas_cumprod.double()[499])
    # A token of 8 is kept with probability alpha_t, or drawn anew (Austin et al. 2021, arXiv:2107.03006).
    chain, anew = torch.eye(8, dtype=torch.float64), torch.full((8, 8), 1 / 8, dtype=torch.float64)
    for alpha in alphas[:500]:
        chain = chain @ (alpha * torch.eye(8, dtype=torch.float64) + (1 - alpha) * anew)
    jump = alpha_bar * torch.eye(8, dtype=torch.float64) + (1 - alpha_bar) * anew
    # Cauchy noise: x_t = alpha_t x_{t-1} + (1 - alpha_t) c has the scale 1 - alpha_1 ... alpha_t.
    width = 0.0
    for alpha in alphas[:500].tolist():
        width = alpha * width + (1 - alpha)
    return {
        "of_categorical": float((chain - jump).abs().max()),
        "of_cauchy": abs(width - (1 - alpha_bar)),
    }


@functools.cache
def unit_variance() -> Figures:
    """The variance of x_t is said to be 1, always: it is if that of the data is."""
    alpha_bar = float(exact_scheduler().alphas_cumprod[249])
    standardised = swiss_roll(100_000, seeded(0)).double()
    raw = swiss_roll_curve(torch.rand(100_000, generator=seeded(0), dtype=torch.float64))
    return {
        "raw_data": float(raw.var(0).mean()),
        "raw": alpha_bar * float(raw.var(0).mean()) + 1 - alpha_bar,
        "standardised": alpha_bar * float(standardised.var(0).mean()) + 1 - alpha_bar,
    }


DEMONSTRATIONS: tuple[Callable[[], Figures], ...] = (
    sampling_noise, loss_broadcast, cosine_formula, merged_noises, valleys, conditional_score, langevin_step,
    closed_form_of_the_sde, gaussian_reverse, velocity_target, any_field, exact_likelihood, number_of_steps,
    other_noises, unit_variance,
)  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Print the figures of the demonstrations that are named, or of all."""
    print_figures(DEMONSTRATIONS, __doc__, argv)


if __name__ == "__main__":
    main()
