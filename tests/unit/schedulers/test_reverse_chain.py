"""The coefficients of the steps of a chain, against the formulas of the papers."""

import numpy as np
import pytest
import torch

from common import seeded
from ddpm_from_scratch import DDPMFromScratchScheduler
from ddpm_from_scratch.schedulers.reverse_chain import ReverseChain

allow_warnings = pytest.mark.filterwarnings("ignore::ddpm_from_scratch.SchedulerWarning")


def normal(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed))


def guided_diffusion_step(alphas_cumprod, chain, index, output, sample, noise):
    """Sample x_{t-1} as improved-diffusion defines it (Nichol & Dhariwal 2021, eqs. 9 to 11 and 15), in
    float64.

    The chain of visited timesteps gives new betas, as its respacing does; the first C channels are eps, the
    last C interpolate between the logarithms of the posterior variance and of beta.
    """
    visited = np.array(chain[::-1])
    a = alphas_cumprod.double().numpy()[visited]
    before = np.concatenate([[1.0], a[:-1]])
    betas = 1 - a / before
    variance = betas * (1 - before) / (1 - a)
    min_log = np.log(np.concatenate([variance[1:2], variance[1:]]))
    i = len(chain) - 1 - index
    eps, v = np.split(output.double().numpy(), 2, axis=1)
    x, z = sample.double().numpy(), noise.double().numpy()
    x_0 = np.clip((x - np.sqrt(1 - a[i]) * eps) / np.sqrt(a[i]), -1, 1)
    mean = (
        np.sqrt(before[i]) * betas[i] / (1 - a[i]) * x_0
        + np.sqrt(1 - betas[i]) * (1 - before[i]) / (1 - a[i]) * x
    )
    fraction = (v + 1) / 2
    log_variance = fraction * np.log(betas[i]) + (1 - fraction) * min_log[i]
    return mean + (i > 0) * np.exp(0.5 * log_variance) * z


@allow_warnings
@pytest.mark.parametrize("num_steps", [25, 250, 1000])
def test_learned_range_samples_as_improved_diffusion_does(num_steps):
    """Tolerance: float32 betas of skipped timesteps have an error of 1e-7 absolute, divided by 1 -
    alpha-bar."""
    scheduler = DDPMFromScratchScheduler(variance_type="learned_range")
    scheduler.set_timesteps(num_steps)
    chain = scheduler.timesteps.tolist()
    for index in (0, num_steps // 2, num_steps - 2, num_steps - 1):
        output, sample, noise = (
            normal(2, 6, 4, 4, seed=index),
            normal(2, 3, 4, 4, seed=1),
            normal(2, 3, 4, 4, seed=2),
        )
        ours = scheduler.step(output, chain[index], sample, variance_noise=noise).prev_sample
        expected = guided_diffusion_step(scheduler.alphas_cumprod, chain, index, output, sample, noise)
        tolerance = 2e-5 + 5e-7 / float(1 - scheduler.alphas_cumprod[chain[index]])
        np.testing.assert_allclose(ours.numpy(), expected, rtol=0, atol=tolerance)


FALLING = [19, 12, 5, 0]


def chain(variance_type="fixed_small", residuals=None):
    table = DDPMFromScratchScheduler(20, beta_schedule="squaredcos_cap_v2").alphas_cumprod
    return ReverseChain(table, FALLING, variance_type, residuals), table.double()[FALLING]


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_small_log", "fixed_large", "analytic"])
def test_standard_deviation_of_every_variance_type_is_that_of_its_formula(variance_type):
    """Analytic: beta-tilde + c_0^2 residual (Bao et al. 2022, arXiv:2201.06503)."""
    residuals = [0.01 * (1 + t) for t in range(20)]
    steps, a = chain(variance_type, residuals if variance_type == "analytic" else None)
    before = torch.cat([a[1:], torch.ones(1)])
    beta = 1 - a / before
    small = beta * (1 - before) / (1 - a)
    original = before**0.5 * beta / (1 - a)
    variance = {
        "fixed_large": beta,
        "analytic": small + original**2 * torch.tensor(residuals, dtype=torch.float64)[FALLING],
    }.get(variance_type, small)
    found = torch.stack([steps.step(index).noise_std for index in range(3)])
    torch.testing.assert_close(found.double(), variance[:3] ** 0.5, rtol=1e-5, atol=0)
    assert steps.step(3).is_last and float(steps.step(3).noise_std) < 1e-9  # none, whatever the type


def test_steps_of_a_batch_are_the_single_steps():
    steps, _ = chain("learned_range")
    batch = steps.steps(torch.tensor([5, 19, 0]), torch.zeros(3, 2, 4, 4))
    for place, index in enumerate((2, 0, 3)):
        one = steps.step(index)
        pairs = zip((*batch.scales, *batch.posterior, *batch.log_variances),
                    (*one.scales, *one.posterior, *one.log_variances), strict=True)  # fmt: skip
        assert all(torch.equal(many[place].squeeze(), single) for many, single in pairs)
        assert bool(batch.is_last[place]) == one.is_last and batch.scales.signal.shape == (3, 1, 1, 1)
        assert float(batch.noise_std[place]) == (float(one.noise_std) if one.adds_noise else 0)


def test_a_timestep_outside_the_chain_is_refused_in_a_batch():
    with pytest.raises(ValueError, match="timestep 7 is not one of the 4"):
        chain()[0].steps(torch.tensor([5, 7]), torch.zeros(2, 2))
