"""The terms of the bound against closed form, and against an independent computation in numpy."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_ndtr

from ddpm_from_scratch import DDPMFromScratchScheduler, Denoiser
from ddpm_from_scratch.density.bound import variational_bound
from likelihood import (
    expected_terms,
    gaussian,
    uniform,
)
from tiny_cases import digits, tiny


@pytest.mark.parametrize("kind", ["fixed_small", "fixed_large", "analytic"])
@pytest.mark.parametrize("dimensions", [1, 2, 64])
def test_every_term_of_a_gaussian_is_that_of_the_closed_form(dimensions, kind, generator):
    scheduler = DDPMFromScratchScheduler(clip_sample=False)
    exact = gaussian(dimensions, scheduler)
    timesteps, samples = uniform(20), exact.sample(20_000 // dimensions, generator)
    options = {"variance_type": kind}
    if kind == "analytic":
        table, own = scheduler.alphas_cumprod.double()[timesteps][:, None], exact.variances[0]
        options = {"residuals": ((1 - table) * own / (table * own + 1 - table)).mean(1)}
    bound = variational_bound(
        Denoiser(exact, scheduler),
        samples,
        timesteps=timesteps,
        data_levels=None,
        generator=generator,
        **options,
    )
    prior, terms = expected_terms(exact, scheduler, timesteps, kind)
    to_nats = dimensions * math.log(2)
    assert bound.prior * to_nats == pytest.approx(float(prior), rel=0.1)
    # relative to a term its spread is below 2 / sqrt(number of numbers)
    torch.testing.assert_close(bound.terms * to_nats, terms, rtol=8 / 20_000**0.5, atol=0.02)
    assert bound.bits_per_dim == pytest.approx(float(bound.terms.sum()) + bound.prior)
    assert bound.num_evaluations == 20 and bound.variance_type == kind


def numpy_terms(network, scheduler, samples, noise, timesteps, kind, levels, residuals=None):
    """Return the prior and L_t of each sample in bits per dimension as improved-diffusion defines them."""
    table = scheduler.alphas_cumprod.double().numpy()[timesteps]
    before = np.append(1.0, table[:-1])
    beta = 1 - table / before
    beta_tilde = beta * (1 - before) / (1 - table)
    x_0, z = samples.numpy(), noise.numpy()
    rows = []
    for i, t in enumerate(timesteps):
        x_t = np.sqrt(table[i]) * x_0 + np.sqrt(1 - table[i]) * z[i]
        with torch.no_grad():
            output = network(torch.tensor(x_t), t).sample.numpy()
        output, values = output[:, :1], output[:, 1:]
        if scheduler.config.prediction_type == "epsilon":
            estimate = (x_t - np.sqrt(1 - table[i]) * output) / np.sqrt(table[i])
        else:
            estimate = np.sqrt(table[i]) * x_t - np.sqrt(1 - table[i]) * output
        if scheduler.config.clip_sample:
            estimate = np.clip(estimate, -1, 1)
        clipped = np.log(np.append(beta_tilde[1], beta_tilde[1:]))[i]
        coefficient = np.sqrt(before[i]) * beta[i] / (1 - table[i])
        log_variance = {
            "fixed_small": clipped,
            "fixed_large": np.log(np.append(beta_tilde[1], beta[1:]))[i],
            "learned": values,
            "learned_range": (values + 1) / 2 * np.log(beta[i]) + (1 - values) / 2 * clipped,
            "analytic": None if residuals is None else np.log(beta_tilde[i] + coefficient**2 * residuals[i]),
        }[kind] + np.zeros_like(x_0)
        if i > 0:
            rest = np.sqrt(1 - beta[i]) * (1 - before[i]) / (1 - table[i]) * x_t
            true_mean, mean = coefficient * x_0 + rest, coefficient * estimate + rest
            nats = 0.5 * (
                -1 + log_variance - clipped + np.exp(clipped - log_variance)
                + (true_mean - mean) ** 2 * np.exp(-log_variance)
            )  # fmt: skip
        elif levels is None:
            nats = 0.5 * (np.log(2 * np.pi) + log_variance + (x_0 - estimate) ** 2 * np.exp(-log_variance))
        else:
            half, scale, away = 1 / (levels - 1), np.exp(-0.5 * log_variance), np.abs(x_0 - estimate)
            upper, lower = log_ndtr((half - away) * scale), log_ndtr((-half - away) * scale)
            nats = -upper - np.log1p(-np.exp(lower - upper))
            nats = np.where(x_0 == -1, -log_ndtr((x_0 - estimate + half) * scale), nats)
            nats = np.where(x_0 == 1, -log_ndtr((estimate - x_0 + half) * scale), nats)
        rows.append(nats.reshape(len(x_0), -1).mean(1) / np.log(2))
    last = table[-1]
    prior = 0.5 * (-1 - np.log1p(-last) + (1 - last) + last * x_0**2)
    return prior.reshape(len(x_0), -1).mean(1) / np.log(2), np.array(rows)


@pytest.mark.parametrize("timesteps", [list(range(20)), [2, 7, 19]], ids=["all", "three"])
@pytest.mark.parametrize("kind", ["fixed_small", "fixed_large", "learned", "learned_range", "analytic"])
@pytest.mark.parametrize("options", [{}, {"prediction_type": "v_prediction", "clip_sample": False}], ids=str)
def test_the_terms_of_a_network_equal_those_computed_apart_in_numpy(timesteps, kind, options, generator):
    network, scheduler = tiny("fixed_small" if kind == "analytic" else kind, **options)
    samples = digits(6)
    residuals = 0.1 + 0.01 * torch.arange(len(timesteps), dtype=torch.float64)
    for levels in (17, None):
        noise = torch.randn(
            len(timesteps) * 6, 1, 8, 8, generator=generator.manual_seed(3), dtype=torch.float64
        )
        given = {"residuals": residuals} if kind == "analytic" else {}
        bound = variational_bound(
            Denoiser(network, scheduler),
            samples,
            timesteps=timesteps,
            data_levels=levels,
            generator=generator.manual_seed(3),
            **given,
        )
        noise = noise.reshape(len(timesteps), *samples.shape)
        prior, rows = numpy_terms(
            network, scheduler, samples, noise, timesteps, kind, levels, residuals.numpy()
        )
        np.testing.assert_allclose(bound.terms.numpy(), rows.mean(1), rtol=1e-5, atol=1e-5)
        total = (prior + rows.sum(0)) * 64 * np.log(2)
        np.testing.assert_allclose(bound.nats_per_sample.numpy(), total, rtol=1e-5)
        assert bound.prior == pytest.approx(prior.mean(), rel=1e-5)
