"""The density of the probability flow against closed form."""

import math

import pytest
import torch

from ddpm_from_scratch import DDPMFromScratchScheduler, Denoiser
from ddpm_from_scratch.density.flow import flow_likelihood
from ddpm_from_scratch.networks.mixtures import GaussianMixtureDenoiser
from likelihood import (
    exact_scheduler,
    gaussian,
    uniform,
)
from tiny_cases import digits, tiny


@pytest.mark.parametrize("dimensions", [1, 2, 16])
def test_the_flow_gives_the_density_of_a_gaussian(dimensions, generator):
    scheduler = DDPMFromScratchScheduler(clip_sample=False, beta_schedule="squaredcos_cap_v2")
    exact = gaussian(dimensions, scheduler)
    samples = exact.sample(2, generator)
    first = float(scheduler.alphas_cumprod[0].double())
    truth = -exact.log_prob(first**0.5 * samples, first) - 0.5 * dimensions * math.log(first)
    errors = []
    for steps in (30, 60, 120):
        flow = flow_likelihood(
            Denoiser(exact, scheduler), samples, timesteps=uniform(steps), divergence="exact"
        )
        errors.append(float((flow.nats_per_sample - truth).abs().max()) / dimensions)
    assert errors[-1] < 2e-3 and errors[0] > 2 * errors[1] > 4 * errors[2], errors
    assert flow.num_evaluations == 238 and flow.dequantization == "none"
    # and of the data themselves but for the noise of the first timestep
    assert flow.noise_std == pytest.approx((1 / first - 1) ** 0.5)
    clean = -exact.log_prob(samples)
    torch.testing.assert_close(flow.nats_per_sample, clean, rtol=0, atol=0.01 * dimensions)


def test_a_flow_that_starts_later_gives_the_density_of_noisier_data(generator):
    """The density of x_t / sqrt(alpha_bar_t), taken at x_0."""
    scheduler = exact_scheduler("cosine")
    exact = gaussian(2, scheduler)
    samples, level = exact.sample(5, generator), float(scheduler.alphas_cumprod[200].double())
    flow = flow_likelihood(
        Denoiser(exact, scheduler), samples, timesteps=range(200, 1000, 7), divergence="exact"
    )
    truth = -exact.log_prob(level**0.5 * samples, level) - math.log(level)
    torch.testing.assert_close(flow.nats_per_sample, truth, rtol=0, atol=5e-3)
    assert flow.noise_std == pytest.approx((1 / level - 1) ** 0.5) and abs(math.log(level)) > 0.05


def test_hutchinsons_divergence_is_unbiased(generator):
    scheduler = DDPMFromScratchScheduler(clip_sample=False, beta_schedule="squaredcos_cap_v2")
    exact = gaussian(8, scheduler)
    sample, steps = exact.sample(1, generator), uniform(30)
    right = flow_likelihood(Denoiser(exact, scheduler), sample, timesteps=steps, divergence="exact").nats
    drawn = flow_likelihood(
        Denoiser(exact, scheduler), sample.expand(400, 8), timesteps=steps, generator=generator
    )
    error = float(drawn.nats_per_sample.std()) / 20
    assert 0 < abs(drawn.nats - right) < 3 * error
    many = flow_likelihood(
        Denoiser(exact, scheduler), sample.expand(400, 8), timesteps=steps, num_probes=4, generator=generator
    )
    assert float(many.nats_per_sample.std()) == pytest.approx(float(drawn.nats_per_sample.std()) / 2, rel=0.2)


def test_levels_are_spread_over_their_bins(generator):
    """The flow's bound for levels holds: -log P(level) of a Gaussian, integrated over the bin."""
    scheduler = DDPMFromScratchScheduler(clip_sample=False, beta_schedule="squaredcos_cap_v2")
    exact = GaussianMixtureDenoiser([[0.2]], [[0.09]], scheduler.alphas_cumprod.tolist())
    levels = torch.arange(17, dtype=torch.float64)[:, None] / 8 - 1
    distribution = torch.distributions.Normal(0.2, 0.3)
    chance = distribution.cdf(levels + 1 / 16) - distribution.cdf(levels - 1 / 16)
    drawn = torch.multinomial(chance[:, 0], 3000, replacement=True, generator=generator)
    truth = -(chance / chance.sum()).log()[drawn].mean() / math.log(2)
    flow = flow_likelihood(
        Denoiser(exact, scheduler),
        levels[drawn],
        timesteps=uniform(40),
        divergence="exact",
        data_levels=17,
        batch_size=3000,
        generator=generator,
    )
    assert flow.dequantization == "uniform"
    # what uniform noise costs is of the order of (width / std)^2 / 24
    assert float(truth) - 3 * flow.standard_error < flow.bits_per_dim < float(truth) + 0.05


def test_wrong_arguments_of_the_flow_are_one_error():
    network, scheduler = tiny("fixed_small")
    for options, says in (
        ({"divergence": "full"}, "divergence"),
        ({"num_probes": 0}, "num_probes"),
        ({"timesteps": [4]}, "at least two"),
        ({"batch_size": 0}, "batch_size"),
    ):
        with pytest.raises(ValueError, match=says):
            flow_likelihood(Denoiser(network, scheduler), digits(2), **options)
