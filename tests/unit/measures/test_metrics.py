"""Each metric against a closed form, a known layout, or a slow and plain computation in numpy."""

import itertools
import math

import numpy as np
import pytest
import torch

from common import seeded
from ddpm_from_scratch.measures import metrics


def test_sliced_w2_of_shifted_sets_is_the_shift_over_root_dimension(generator):
    x = torch.randn(2000, 4, generator=generator)
    assert metrics.sliced_wasserstein(x, x) == 0
    shift = torch.tensor([3.0, 0, 0, 0])  # E (w . shift)^2 = |shift|^2 / D over unit directions
    assert metrics.sliced_wasserstein(x, x + shift, num_projections=4000) == pytest.approx(1.5, rel=0.03)


def test_sliced_w2_of_sets_of_different_size_falls_with_size(generator):
    floors = [
        metrics.sliced_wasserstein(*(torch.randn(n, 3, generator=generator) for n in sizes))
        for sizes in ((100, 250), (10_000, 25_000))
    ]
    assert floors[0] > 5 * floors[1]


def test_frechet_distance_of_gaussians_is_the_closed_form(generator):
    x = torch.randn(50_000, 2, generator=generator).double()
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T  # covariance I, mean 0
    y = x * torch.tensor([2.0, 3.0]) + torch.tensor([1.0, 0.0])
    assert metrics.frechet_distance(x, y) == pytest.approx(1 + 1 + 4, rel=1e-6)
    assert metrics.frechet_distance(x[:, :1], x[:, :1]) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    "metric",
    [
        metrics.sliced_wasserstein,
        metrics.projected_wasserstein,
        metrics.frechet_distance,
        metrics.kernel_distance,
        metrics.precision_recall,
        metrics.nearest_distances,
    ],
    ids=lambda metric: metric.__name__,
)
@pytest.mark.parametrize(
    "wrong", [torch.zeros(5), torch.zeros(5, 3), torch.full((5, 2), float("nan")), torch.zeros(1, 2)]
)
def test_metrics_refuse_what_they_cannot_compare(metric, wrong):
    with pytest.raises(ValueError, match="must be|not finite|has"):
        metric(wrong, torch.zeros(5, 2))


def polynomial_kernel_mean(mean, covariance, other_mean, other_covariance):
    """E (x . y / D + 1)^3 of independent Gaussians x and y, from their first three moments."""
    moments = []
    for m, c in ((mean, covariance), (other_mean, other_covariance)):
        second = c + np.outer(m, m)
        third = np.einsum("i,j,k->ijk", m, m, m)
        for paths in ("i,jk->ijk", "j,ik->ijk", "k,ij->ijk"):
            third += np.einsum(paths, m, c)
        moments.append((m, second, third))
    first, second, third = ((a * b).sum() for a, b in zip(*moments, strict=True))
    size = len(mean)
    return 1 + 3 * first / size + 3 * second / size**2 + third / size**3


def kernel_distance_of_gaussians(mean, covariance, other_mean, other_covariance):
    first, second = (mean, covariance), (other_mean, other_covariance)
    return (
        polynomial_kernel_mean(*first, *first)
        + polynomial_kernel_mean(*second, *second)
        - 2 * polynomial_kernel_mean(*first, *second)
    )


def gaussian(count, mean, covariance, seed):
    root = torch.linalg.cholesky(torch.from_numpy(covariance))
    noise = torch.randn(count, len(mean), generator=seeded(seed), dtype=torch.float64)
    return noise @ root.T + torch.from_numpy(mean)


FIRST = (np.array([0.5, -1.0, 0.2]), np.array([[1.0, 0.3, 0.0], [0.3, 0.5, 0.1], [0.0, 0.1, 2.0]]))
SECOND = (np.array([0.0, -0.5, 1.0]), np.array([[0.7, 0.0, 0.2], [0.0, 1.5, 0.0], [0.2, 0.0, 1.0]]))


def test_kernel_distance_of_gaussians_is_the_closed_form():
    exact = kernel_distance_of_gaussians(*FIRST, *SECOND)
    found = metrics.kernel_distance(gaussian(40_000, *FIRST, 0), gaussian(40_000, *SECOND, 1))
    subset_error = found.standard_error * math.sqrt(39) / 10  # of a mean over 100 subsets of 1 in 40
    assert abs(found.value - exact) < 3 * math.hypot(subset_error, found.standard_error)
    assert 0 < found.standard_error < 0.1 * exact


@pytest.mark.parametrize(("size", "other_size"), [(40, 40), (120, 40)])
def test_kernel_distance_has_no_bias_and_its_standard_error_is_the_spread_of_experiments(size, other_size):
    """For two distributions; for one, its value is zero on average and its error errs to the large side."""
    for other, largest in ((FIRST, 2.5), (SECOND, 1.3)):
        found = [
            metrics.kernel_distance(
                gaussian(size, *FIRST, seed), gaussian(other_size, *other, 1000 + seed), num_subsets=40
            )
            for seed in range(100)
        ]
        values, errors = (np.array(column) for column in zip(*found, strict=True))
        bias = values.mean() - kernel_distance_of_gaussians(*FIRST, *other)
        assert abs(bias) < 4 * values.std() / math.sqrt(len(values))
        assert 0.8 < np.sqrt((errors**2).mean()) / values.std() < largest


def test_kernel_distance_of_one_subset_is_the_sum_of_the_paper():
    x, y = (torch.randn(4, 3, generator=seeded(seed), dtype=torch.float64) for seed in (0, 1))

    def discrepancy(a, b):
        kernel = lambda u, v: (float(u @ v) / 3 + 1) ** 3  # noqa: E731
        inside = sum(kernel(s[0], s[1]) + kernel(s[1], s[0]) for s in (a, b)) / 2
        return inside - 2 * np.mean([kernel(u, v) for u in a for v in b])

    pairs = list(itertools.combinations(range(4), 2))
    possible = [discrepancy(x[list(i)], y[list(j)]) for i in pairs for j in pairs]
    found = metrics.kernel_distance(x, y, num_subsets=5000, subset_size=2)
    assert found.value == pytest.approx(np.mean(possible), abs=4 * np.std(possible) / math.sqrt(5000))
    assert found.standard_error == pytest.approx(np.std(possible), rel=0.1)  # m / (N - m) is 1


def test_precision_and_recall_of_known_layouts():
    line = torch.arange(10.0)[:, None]
    far = torch.cat([line[:5], line[:5] + 1000])
    assert metrics.precision_recall(line, line) == (1, 1)
    assert metrics.precision_recall(line, line + 100) == (0, 0)
    # Half of the samples are real, the other half far away; its balls reach nothing real.
    assert metrics.precision_recall(far, line) == (0.5, 0.8)
    # The ball of 4 among 0..4 has radius 3 and reaches 7: of ten real samples, 8 and 9 are missed.
    assert metrics.precision_recall(line[:5], line) == (1, 0.8)


def test_precision_and_recall_equal_a_plain_computation(monkeypatch):
    """Also where the distances are computed a few rows at a time, as for sets that fill the memory."""
    x, y = torch.randn(60, 5, generator=seeded(0)), 0.7 * torch.randn(50, 5, generator=seeded(1)) + 0.5

    def inside(points, centers):
        radii = [np.sort(np.linalg.norm(centers - center, axis=1))[3] for center in centers]  # [0] is itself
        return np.mean([(np.linalg.norm(centers - point, axis=1) <= radii).any() for point in points])

    points = [z.double().numpy() for z in (x, y)]
    expected = (inside(*points), inside(*points[::-1]))
    assert metrics.precision_recall(x, y) == pytest.approx(expected)
    assert 0.3 < expected[0] < 1 and 0.3 < expected[1] < 1
    monkeypatch.setattr(metrics, "_PAIRS_AT_A_TIME", 120)
    assert metrics.precision_recall(x, y) == pytest.approx(expected)


def test_nearest_distances_are_those_of_a_plain_computation(monkeypatch):
    x, y = torch.randn(40, 6, generator=seeded(0)), torch.randn(70, 6, generator=seeded(1))
    y[7] = x[5]
    to_other = np.linalg.norm(x.numpy()[:, None].astype(float) - y.numpy()[None].astype(float), axis=-1)
    to_self = np.linalg.norm(x.numpy()[:, None].astype(float) - x.numpy()[None].astype(float), axis=-1)
    np.fill_diagonal(to_self, np.inf)
    for pairs in (2**26, 100):
        monkeypatch.setattr(metrics, "_PAIRS_AT_A_TIME", pairs)
        # Distances come from squares of norms near 6: errors below sqrt(6 * 2^-52) = 4e-8.
        np.testing.assert_allclose(metrics.nearest_distances(x, y), to_other.min(1), atol=1e-7)
        np.testing.assert_allclose(metrics.nearest_distances(x), to_self.min(1), atol=1e-7)
    assert to_other.min(1)[5] == 0


def test_copy_test_has_the_probabilities_of_random_order():
    """Of all orders of 5 samples and 4 held-out ones, the fraction with at least so many close samples."""
    held_out = torch.tensor([1.0, 2.0, 3.0, 4.0])
    for num_close in range(6):
        distances = torch.tensor([0.5] * num_close + [9.0] * (5 - num_close))
        found = metrics.copy_test(distances, held_out, level=0.5)  # t = 2, k = 2
        orders = list(itertools.combinations(range(9), 4))  # places of the held-out ones
        at_least = [places[1] - 1 >= num_close for places in orders]  # before the second one, less the first
        assert found.p_value == pytest.approx(np.mean(at_least), abs=1e-12)
        assert (found.fraction, found.expected) == (num_close / 5, 2 / 5)


def test_copy_test_finds_a_few_copies_among_many_samples_and_nothing_in_fresh_ones():
    fresh, held_out = (torch.rand(n, generator=seeded(n), dtype=torch.float64) for n in (2000, 1000))
    assert metrics.copy_test(fresh, held_out).p_value > 0.01
    fresh[:60] = 0
    found = metrics.copy_test(fresh, held_out)
    assert found.p_value < 1e-4 and 0.03 <= found.fraction < 0.06 and found.expected == 10 / 1001


def test_copy_test_finds_copies_where_some_held_out_samples_are_copies_too():
    held_out = torch.cat([torch.zeros(30), torch.ones(970)])
    found = metrics.copy_test(torch.zeros(100), held_out)
    assert found.fraction == 1 and found.expected == 30 / 1001 and found.p_value < 1e-100
    assert metrics.copy_test(torch.cat([torch.zeros(3), torch.ones(97)]), held_out).p_value > 0.3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.kernel_distance(torch.zeros(3, 2), torch.zeros(9, 2)), "need at least 4 samples"),
        (lambda: metrics.precision_recall(torch.zeros(3, 2), torch.zeros(9, 2)), "from 1 to 2"),
        (lambda: metrics.copy_test(torch.zeros(3), torch.zeros(0)), "held_out_distances has shape"),
        (lambda: metrics.copy_test(torch.full((3,), math.nan), torch.zeros(2)), "finite"),
        (lambda: metrics.copy_test(torch.zeros(3), torch.zeros(2), level=1.0), "level is 1.0"),
    ],
)
def test_too_little_data_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
