"""The sampler against closed form: with the exact network for Gaussian data, samples must have its mean and
covariance."""

import pytest
import torch

from ddpm_from_scratch import DDPMFromScratchPipeline, DDPMFromScratchScheduler
from ddpm_from_scratch.networks.mixtures import GaussianMixtureDenoiser
from ddpm_from_scratch.process.diffusion import PREDICTION_TYPES, posterior

MEAN = [0.5, -1.0]
COVARIANCE = [[0.6, 0.3], [0.3, 0.4]]
NUM_SAMPLES = 20_000
EYE = torch.eye(2, dtype=torch.float64)


def exact_pipeline(prediction_type="epsilon", **config):
    scheduler = DDPMFromScratchScheduler(prediction_type=prediction_type, clip_sample=False, **config)
    model = GaussianMixtureDenoiser([MEAN], COVARIANCE, scheduler.alphas_cumprod.tolist(), prediction_type)
    pipeline = DDPMFromScratchPipeline(model, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def reverse_moments(scheduler):
    """Return the mean and covariance that the discrete reverse chain gives with the exact network, in closed
    form."""
    covariance = torch.tensor(COVARIANCE, dtype=torch.float64)
    mean0 = torch.tensor(MEAN, dtype=torch.float64)
    table = scheduler.alphas_cumprod.double()
    chain = [*scheduler.timesteps.tolist(), -1]
    mean, spread = torch.zeros(2, dtype=torch.float64), EYE
    for t, previous in zip(chain, chain[1:], strict=False):
        a, a_prev = table[t], table[previous] if previous >= 0 else torch.tensor(1.0, dtype=torch.float64)
        gain = a**0.5 * covariance @ torch.linalg.inv(a * covariance + (1 - a) * EYE)
        step = posterior(a, a_prev)
        linear = step.original * gain + step.sample * EYE
        mean = linear @ mean + step.original * (mean0 - a**0.5 * gain @ mean0)
        spread = linear @ spread @ linear.T + (step.variance if previous >= 0 else 0) * EYE
    return mean, spread


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize(
    "config",
    [
        {"timestep_spacing": "trailing"},
        {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"},
        {"beta_schedule": "sigmoid_alpha_bar", "timestep_spacing": "trailing"},
    ],
)
def test_samples_of_a_gaussian_have_its_mean_and_covariance(prediction_type, config):
    pipeline = exact_pipeline(prediction_type, **config)
    source = torch.Generator().manual_seed(1)
    points = pipeline(NUM_SAMPLES, source, 100, output_type="pt").images.double()
    mean, covariance = reverse_moments(pipeline.scheduler)
    # 5 standard errors of a mean and of a (co)variance below 0.7
    torch.testing.assert_close(points.mean(0), mean, rtol=0, atol=5 * (0.7 / NUM_SAMPLES) ** 0.5)
    torch.testing.assert_close(
        torch.cov(points.T), covariance, rtol=0, atol=5 * 0.7 * (2 / NUM_SAMPLES) ** 0.5
    )
    # and the chain itself is close to the data: what is left is the discretisation of 100 steps
    torch.testing.assert_close(mean, torch.tensor(MEAN, dtype=torch.float64), rtol=0, atol=0.01)
    torch.testing.assert_close(covariance, torch.tensor(COVARIANCE, dtype=torch.float64), rtol=0, atol=0.06)


def test_a_thousand_steps_come_closer_than_ten():
    scheduler = exact_pipeline(timestep_spacing="trailing").scheduler
    errors = []
    for steps in (10, 100, 1000):
        scheduler.set_timesteps(steps)
        errors.append(float((reverse_moments(scheduler)[1] - torch.tensor(COVARIANCE)).abs().max()))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.01


def test_fixed_large_adds_no_noise_to_the_final_sample():
    """Defect 3: stock's samples of data with std 0.2 have .355 at 10 trailing steps."""
    scheduler = DDPMFromScratchScheduler(
        variance_type="fixed_large", timestep_spacing="trailing", clip_sample=False, prediction_type="sample"
    )
    scheduler.set_timesteps(10)
    last = int(scheduler.timesteps[-1])
    prediction = torch.full((1000, 2), 0.3)
    result = scheduler.step(
        prediction, last, torch.zeros(1000, 2), generator=torch.Generator().manual_seed(0)
    )
    assert last > 0
    torch.testing.assert_close(result.prev_sample, prediction, rtol=0, atol=1e-6)
