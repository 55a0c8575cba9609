"""Point sets, against their moments."""

import math

import pytest
import torch

from ddpm_from_scratch.data.points import POINT_DATASETS, swiss_roll


@pytest.mark.parametrize("name", POINT_DATASETS)
def test_points_have_mean_0_and_variance_1(name, generator):
    points = POINT_DATASETS[name](200_000, generator).double()
    assert points.shape == (200_000, 2)
    # 5 standard errors; the kurtosis of all is below 4
    torch.testing.assert_close(points.mean(0), torch.zeros(2).double(), rtol=0, atol=5 / 200_000**0.5)
    torch.testing.assert_close(points.var(0), torch.ones(2).double(), rtol=0, atol=5 * (3 / 200_000) ** 0.5)


@pytest.mark.parametrize("name", POINT_DATASETS)
def test_noise_is_added_in_standardised_units(name, generator):
    points = POINT_DATASETS[name](200_000, generator, noise_std=0.5).double()
    torch.testing.assert_close(points.var(0), torch.full((2,), 1.25).double(), rtol=0, atol=0.03)


def test_dark_squares_only_and_eight_clusters(generator):
    board = POINT_DATASETS["checkerboard"](10_000, generator).double() * (4 / 3) ** 0.5 + 2
    assert set(((board + 1e-6).floor().sum(1) % 2).tolist()) == {0.0}
    ring = POINT_DATASETS["eight_gaussians"](10_000, generator).double() * (1 / 2 + 1 / 64) ** 0.5
    turns = torch.atan2(ring[:, 1], ring[:, 0]) / (math.pi / 4)
    assert torch.bincount(turns.round().long() % 8).min() > 1000
    assert float((turns - turns.round()).std()) < 0.2


def test_swiss_roll_is_standardised(generator):
    points = swiss_roll(100_000, generator)
    torch.testing.assert_close(points.mean(0), torch.zeros(2), rtol=0, atol=0.02)
    torch.testing.assert_close(points.var(0), torch.ones(2), rtol=0, atol=0.02)
    assert torch.cdist(points[:500], points[500:20_000]).min(1).values.max() < 0.05  # a curve, not a cloud
