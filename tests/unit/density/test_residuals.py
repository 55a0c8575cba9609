"""Analytic variances in ancestral sampling: the residuals of a network, in the scheduler's configuration."""

import numpy as np
import pytest
import torch

from common import seeded
from ddpm_from_scratch import (
    DDPMFromScratchPipeline,
    DDPMFromScratchScheduler,
    Denoiser,
    FewStepScheduler,
    build_model,
)
from ddpm_from_scratch.density.residuals import residual_curve, smooth_residuals
from ddpm_from_scratch.measures.metrics import sliced_wasserstein
from ddpm_from_scratch.networks.mixtures import GaussianMixtureDenoiser
from ddpm_from_scratch.networks.models import model_config
from likelihood import gaussian, uniform
from tiny_cases import digits, tiny


@pytest.fixture
def problem(generator):
    """A network with an exact score, its scheduler with analytic variances, and data."""
    plain = DDPMFromScratchScheduler(clip_sample=False, timestep_spacing="trailing")
    means = torch.randn(20, 4, generator=generator)
    model = GaussianMixtureDenoiser(
        means=means.tolist(),
        covariances=(0.01 * torch.eye(4)).tolist(),
        alphas_cumprod=plain.alphas_cumprod.tolist(),
    )
    residuals = residual_curve(
        Denoiser(model, plain), model.sample(200, generator), generator=generator, batch_size=10_000
    )
    analytic = DDPMFromScratchScheduler.from_config(
        plain.config, variance_type="analytic", residuals=residuals.tolist()
    )
    return model, plain, analytic, model.sample(3000, generator)


def test_few_ancestral_steps_get_better(problem):
    """Fixed variances are too small for large steps: the network's uncertainty about x_0 is missing."""
    model, plain, analytic, data = problem
    found = {}
    for scheduler in (plain, analytic):
        scheduler.set_timesteps(5)
        sample = torch.randn(3000, 4, generator=seeded(1), dtype=torch.float64)
        noise = seeded(2)
        for t in scheduler.timesteps:
            with torch.no_grad():
                sample = scheduler.step(model(sample, t).sample, t, sample, generator=noise).prev_sample
        found[scheduler.variance_type] = sliced_wasserstein(sample.float(), data.float())
    assert found["analytic"] < 0.7 * found["fixed_small"]


def test_standard_deviation_is_that_of_the_equation(problem):
    _, plain, analytic, _ = problem
    levels = plain.alphas_cumprod.double().numpy()
    for scheduler in (plain, analytic):
        scheduler.set_timesteps(timesteps=[900, 400, 0])
    for t, t_prev in ((900, 400), (400, 0)):
        beta = 1 - levels[t] / levels[t_prev]
        posterior = (1 - levels[t_prev]) / (1 - levels[t]) * beta
        of_original = np.sqrt(levels[t_prev]) * beta / (1 - levels[t])
        expected = posterior + of_original**2 * analytic.config.residuals[t]
        assert float(analytic._get_variance(t)) == pytest.approx(expected, rel=1e-5)
        assert float(plain._get_variance(t)) == pytest.approx(posterior, rel=1e-5)


def test_the_table_is_saved_with_a_pipeline(tmp_path):
    torch.manual_seed(0)
    residuals = [0.1 + 0.001 * t for t in range(1000)]
    pipe = DDPMFromScratchPipeline(
        build_model(model_config("tiny")),
        DDPMFromScratchScheduler(variance_type="analytic", residuals=residuals),
    )
    with pytest.raises(ValueError, match="cannot run this pipeline"):
        pipe.save_pretrained(tmp_path, layout="portable")
    pipe.save_pretrained(tmp_path)
    loaded = DDPMFromScratchPipeline.from_pretrained(tmp_path).scheduler
    assert loaded.variance_type == "analytic" and loaded.config.residuals == residuals


def test_few_steps_and_stock_take_the_same_configuration():
    residuals = [0.1] * 1000
    scheduler = DDPMFromScratchScheduler(variance_type="analytic", residuals=residuals)
    few = FewStepScheduler.from_config(scheduler.config, calibration={})
    assert torch.equal(few.alphas_cumprod, scheduler.alphas_cumprod)
    with pytest.raises(ValueError, match="the measured variances are lost"):
        scheduler.to_diffusers()
    back = DDPMFromScratchScheduler.from_config(few.config)
    assert back.variance_type == "analytic" and back.config.residuals == residuals


@pytest.mark.parametrize(
    "residuals", [None, [0.1] * 999, [0.0] * 1000, [float("nan")] * 1000, 0.1, ["a"] * 1000]
)
def test_wrong_residuals_are_refused(residuals):
    with pytest.raises((TypeError, ValueError), match="residual"):
        DDPMFromScratchScheduler(variance_type="analytic", residuals=residuals)


def test_the_residual_curve_rises_to_the_variance_of_the_data(generator):
    scheduler = DDPMFromScratchScheduler(clip_sample=False)
    exact = gaussian(3, scheduler)
    curve = residual_curve(Denoiser(exact, scheduler), exact.sample(2000, generator), timesteps=uniform(40))
    table, own = scheduler.alphas_cumprod.double()[uniform(40)][:, None], exact.variances[0]
    right = ((1 - table) * own / (table * own + 1 - table)).mean(1)
    torch.testing.assert_close(curve, right, rtol=0.1, atol=0)
    assert bool((curve.diff() >= 0).all())
    noisy = residual_curve(Denoiser(exact, scheduler), exact.sample(3, generator), timesteps=uniform(40))
    assert bool((noisy.diff() >= 0).all()) and bool((noisy.diff() == 0).any())


def test_residuals_are_no_larger_than_the_variance_and_rise():
    samples = torch.tensor([[1.0], [3.0]])  # of variance 1
    smooth = smooth_residuals(torch.tensor([0.1, 0.4, 0.2, 5.0], dtype=torch.float64), samples)
    torch.testing.assert_close(smooth, torch.tensor([0.1, 0.3, 0.3, 1.0], dtype=torch.float64))


def test_wrong_arguments_of_the_residuals_are_one_error():
    network, scheduler = tiny("fixed_small")
    with pytest.raises(ValueError, match="at least 2"):
        residual_curve(Denoiser(network, scheduler), digits(1))
    with pytest.raises(ValueError, match="batch_size"):
        residual_curve(Denoiser(network, scheduler), digits(2), batch_size=-1)
