import math

import numpy as np
import pytest
import torch

from ddpm_from_scratch.process import gaussians as g


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
    assert float(g.gaussian_kl(*arguments, *others)) == pytest.approx(expected, abs=1e-9)


def test_gaussian_log_likelihood_is_the_log_of_the_density():
    values = g.gaussian_log_likelihood(
        torch.tensor([0.2, -3.0]), torch.tensor([0.5, 1.0]), torch.tensor([-4.0, 2.0])
    )
    expected = log_normal(np.array([0.2, -3.0]), np.array([0.5, 1.0]), np.array([-4.0, 2.0]))
    torch.testing.assert_close(values.double(), torch.tensor(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("num_levels", [17, 256])
@pytest.mark.parametrize(("mean", "std"), [(0.1, 0.3), (-0.97, 0.01), (1.4, 0.2), (0.0, 30.0)])
def test_levels_have_probabilities_that_sum_to_one(num_levels, mean, std):
    levels = torch.arange(num_levels, dtype=torch.float64) * 2 / (num_levels - 1) - 1
    log_variance = torch.tensor(2 * math.log(std), dtype=torch.float64)
    logs = g.discretized_gaussian_log_likelihood(
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
    logs = g.discretized_gaussian_log_likelihood(samples, mean, log_variance)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4  # the bin is 1/128 of the numbers it is cut from
    torch.testing.assert_close(logs, torch.tensor(expected, dtype=dtype), rtol=tolerance, atol=tolerance)


def test_level_far_in_the_tail_asks_for_more_variance():
    """100 standard deviations off: log p = -z^2/2 to first order, so d log p / d log variance = z^2 / 2."""
    log_variance = torch.tensor(math.log(1e-4), requires_grad=True)
    level = torch.tensor(127 / 127.5 - 1)
    log_p = g.discretized_gaussian_log_likelihood(level, level + 1.0, log_variance)
    log_p.backward()
    z = (1 - 1 / 255) / 0.01  # from the nearer end of the bin
    assert float(log_p.detach()) == pytest.approx(-(z**2) / 2, rel=2e-3)
    assert float(log_variance.grad) == pytest.approx(z**2 / 2, rel=1e-2)
