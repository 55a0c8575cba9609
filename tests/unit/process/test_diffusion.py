import math

import numpy as np
import pytest
import torch

from ddpm_from_scratch.process import diffusion as d

ALPHAS = torch.tensor([0.99, 0.5, 0.05], dtype=torch.float64)
SHAPES = [(3,), (3, 2), (3, 1, 4, 4), (3, 2, 3, 4, 4)]


def make(shape, generator):
    x0, eps = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    at_t = d.scales(d.broadcast_to_sample(ALPHAS, x0))
    return x0, eps, at_t, d.add_noise(x0, eps, at_t)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("prediction_type", d.PREDICTION_TYPES)
def test_conversions_invert_the_training_target(shape, prediction_type, generator):
    x0, eps, at_t, xt = make(shape, generator)
    output = d.training_target(x0, eps, at_t, prediction_type)
    for convert, truth in (
        (d.to_original, x0),
        (d.to_epsilon, eps),
        (d.to_velocity, d.velocity(x0, eps, at_t)),
    ):
        torch.testing.assert_close(convert(output, xt, at_t, prediction_type), truth, rtol=0, atol=1e-6)


def test_conversions_are_inverse_in_float32_at_every_timestep(generator):
    x0, eps = (torch.randn(1000, 3, generator=generator) for _ in range(2))
    alphas = torch.linspace(0.9999, 0.01, 1000)
    at_t = d.scales(d.broadcast_to_sample(alphas, x0))
    xt = d.add_noise(x0, eps, at_t)
    v = d.velocity(x0, eps, at_t)
    torch.testing.assert_close(d.to_original(v, xt, at_t, "v_prediction"), x0, rtol=0, atol=1e-6)
    torch.testing.assert_close(d.to_epsilon(v, xt, at_t, "v_prediction"), eps, rtol=0, atol=1e-6)


def test_chain_of_forward_steps_has_the_closed_form_jump(generator):
    betas = torch.linspace(0.01, 0.2, 8, dtype=torch.float64)
    x = torch.full((200_000,), 2.0, dtype=torch.float64)
    for beta in betas:
        x = d.forward_step(x, torch.randn(x.shape, generator=generator, dtype=torch.float64), beta)
    alpha_bar = torch.prod(1 - betas)
    assert float(x.mean()) == pytest.approx(float(2 * alpha_bar**0.5), abs=5 / 200_000**0.5)
    assert float(x.var()) == pytest.approx(float(1 - alpha_bar), rel=0.015)  # 5 standard errors


@pytest.mark.parametrize(("alpha_prod_t", "alpha_prod_t_prev"), [(0.9, 0.95), (0.3, 0.8), (0.01, 0.5)])
def test_posterior_equals_bayes_rule_by_brute_force(alpha_prod_t, alpha_prod_t_prev):
    x0, xt = 0.7, -0.4
    grid = torch.linspace(-8, 8, 400_001, dtype=torch.float64)
    alpha = alpha_prod_t / alpha_prod_t_prev
    log_prior = -((grid - alpha_prod_t_prev**0.5 * x0) ** 2) / (2 * (1 - alpha_prod_t_prev))
    log_likelihood = -((xt - alpha**0.5 * grid) ** 2) / (2 * (1 - alpha))
    weights = torch.softmax(log_prior + log_likelihood, 0)
    mean = (weights * grid).sum()
    variance = (weights * (grid - mean) ** 2).sum()
    coefficients = d.posterior(alpha_prod_t, alpha_prod_t_prev)
    ours = d.posterior_mean(torch.tensor(x0), torch.tensor(xt), coefficients)
    assert float(ours) == pytest.approx(float(mean), abs=1e-6)
    assert coefficients.variance == pytest.approx(float(variance), rel=1e-6)


def test_posterior_at_the_end_of_the_chain_is_the_clean_sample():
    coefficients = d.posterior(0.9, 1.0)
    assert coefficients.original == pytest.approx(1)
    assert (coefficients.sample, coefficients.variance) == (0, 0)


@pytest.mark.parametrize(("word", "right"), [("x0", "sample"), ("v", "v_prediction"), ("noise", "epsilon")])
def test_unknown_prediction_type_names_the_right_word(word, right):
    with pytest.raises(ValueError, match=f"'{right}' in diffusers"):
        d.to_original(torch.zeros(1), torch.zeros(1), d.Scales(1.0, 0.0), word)


def log_normal(x, mean, log_variance):
    return -0.5 * ((x - mean) ** 2 / np.exp(log_variance) + log_variance + np.log(2 * np.pi))


@pytest.mark.parametrize(
    ("mean", "log_variance", "other_mean", "other_log_variance"),
    [(0.3, -2.0, 0.5, -1.0), (-1.0, 0.5, 0.2, -0.7), (0.1, -1.0, 0.1, -1.0)],
)
def test_kl_equals_the_integral_of_its_definition(mean, log_variance, other_mean, other_log_variance):
    grid, width = np.linspace(-12, 12, 1_000_001, retstep=True)
    log_p, log_q = log_normal(grid, mean, log_variance), log_normal(grid, other_mean, other_log_variance)
    expected = float((np.exp(log_p) * (log_p - log_q)).sum() * width)
    arguments = [torch.tensor(v, dtype=torch.float64) for v in (mean, log_variance)]
    others = [torch.tensor(v, dtype=torch.float64) for v in (other_mean, other_log_variance)]
    assert float(d.gaussian_kl(*arguments, *others)) == pytest.approx(expected, abs=1e-9)


def test_gaussian_log_likelihood_is_the_log_of_the_density():
    values = d.gaussian_log_likelihood(
        torch.tensor([0.2, -3.0]), torch.tensor([0.5, 1.0]), torch.tensor([-4.0, 2.0])
    )
    expected = log_normal(np.array([0.2, -3.0]), np.array([0.5, 1.0]), np.array([-4.0, 2.0]))
    torch.testing.assert_close(values.double(), torch.tensor(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("num_levels", [17, 256])
@pytest.mark.parametrize(("mean", "std"), [(0.1, 0.3), (-0.97, 0.01), (1.4, 0.2), (0.0, 30.0)])
def test_levels_have_probabilities_that_sum_to_one(num_levels, mean, std):
    levels = torch.arange(num_levels, dtype=torch.float64) * 2 / (num_levels - 1) - 1
    log_variance = torch.tensor(2 * math.log(std), dtype=torch.float64)
    logs = d.discretized_gaussian_log_likelihood(
        levels, torch.tensor(mean, dtype=torch.float64), log_variance, num_levels
    )
    assert float(logs.exp().sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("std", [0.003, 0.02, 0.3])
def test_probability_of_a_level_is_the_integral_over_its_bin(std, dtype):
    grey = np.array([0, 1, 100, 127, 254, 255])
    means = np.array([-0.99, -0.98, -0.2, 0.0, 0.97, 0.99])
    lower = np.where(grey == 0, -40.0, (grey - 0.5) / 127.5 - 1)
    upper = np.where(grey == 255, 40.0, (grey + 0.5) / 127.5 - 1)
    ends = np.stack([lower - means, upper - means]) / std / 2**0.5
    ends = np.where(ends.sum(0) < 0, -ends[::-1], ends)  # in the right tail, where erfc keeps its digits
    expected = [math.log(0.5 * (math.erfc(a) - math.erfc(b))) for a, b in ends.T]
    samples = torch.tensor(grey, dtype=dtype) / 127.5 - 1
    mean = torch.tensor(means, dtype=dtype)
    log_variance = torch.full_like(mean, 2 * math.log(std))
    logs = d.discretized_gaussian_log_likelihood(samples, mean, log_variance)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4  # the bin is 1/128 of the numbers it is cut from
    torch.testing.assert_close(logs, torch.tensor(expected, dtype=dtype), rtol=tolerance, atol=tolerance)


def test_level_far_in_the_tail_asks_for_more_variance():
    """100 standard deviations off: log p = -z^2/2 to first order, so d log p / d log variance = z^2 / 2."""
    log_variance = torch.tensor(math.log(1e-4), requires_grad=True)
    level = torch.tensor(127 / 127.5 - 1)
    log_p = d.discretized_gaussian_log_likelihood(level, level + 1.0, log_variance)
    log_p.backward()
    z = (1 - 1 / 255) / 0.01  # from the nearer end of the bin
    assert float(log_p.detach()) == pytest.approx(-(z**2) / 2, rel=2e-3)
    assert float(log_variance.grad) == pytest.approx(z**2 / 2, rel=1e-2)


def test_guidance_means_the_same_for_every_prediction_type(generator):
    x0, eps, at_t, xt = make((3, 2), generator)
    other = torch.randn(eps.shape, generator=generator, dtype=torch.float64)
    guided = {}
    for prediction_type in d.PREDICTION_TYPES:
        both = []
        for noise in (eps, other):  # two estimates for the same x_t
            original = d.to_original(noise, xt, at_t, "epsilon")
            both.append(d.training_target(original, noise, at_t, prediction_type))
        guided[prediction_type] = d.to_original(d.guided_output(*both, 3.0), xt, at_t, prediction_type)
    for prediction_type in d.PREDICTION_TYPES:
        torch.testing.assert_close(guided[prediction_type], guided["epsilon"], rtol=0, atol=1e-6)
    torch.testing.assert_close(d.guided_output(eps, other, 1.0), eps)
    assert torch.equal(d.guided_output(eps, other, 0.0), other)
