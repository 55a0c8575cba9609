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
