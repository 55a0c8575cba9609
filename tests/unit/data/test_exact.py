"""The exact denoisers that benchmarks judge methods by, against closed form."""

import pytest
import torch

from ddpm_from_scratch.data.exact import (
    digit_means,
    exact_mixture,
    exact_scheduler,
    narrow_mixture,
    spiral_means,
)


@pytest.mark.parametrize("t", [0, 300, 999])
def test_the_noise_of_one_narrow_gaussian_is_known(t, generator):
    """E[eps | x_t] = sqrt(1 - a) (x_t - sqrt(a) mean) / (a std^2 + 1 - a)."""
    scheduler = exact_scheduler("cosine")
    mean, std = torch.tensor([[0.3, -0.8]], dtype=torch.float64), 0.1
    a = float(scheduler.alphas_cumprod[t].double())
    x = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    expected = (1 - a) ** 0.5 * (x - a**0.5 * mean) / (a * std**2 + 1 - a)
    torch.testing.assert_close(narrow_mixture(mean, std, scheduler)(x, t).sample, expected)


def test_the_spiral_is_about_the_origin_and_of_size_about_1():
    """So that the settings for standardised data, such as the largest noise, suit it."""
    points = spiral_means(2000)
    torch.testing.assert_close(points.mean(0), torch.zeros(2).double(), rtol=0, atol=1e-12)
    assert points.shape == (2000, 2) and float(points.square().mean()) == pytest.approx(0.92, abs=0.01)


@pytest.mark.parametrize(
    ("name", "points", "std"), [("spiral", spiral_means(), 0.02), ("digits", digit_means(), 0.1)]
)
def test_samples_lie_around_the_points_of_the_mixture(name, points, std, generator):
    samples = exact_mixture(name, exact_scheduler()).sample(200, generator).double()
    away = torch.cdist(samples, points).min(1).values
    # Around one point the mean square distance is D std^2; other points can only be nearer.
    assert 0.2 < float(away.square().mean()) / (points.shape[1] * std**2) < 1.3
