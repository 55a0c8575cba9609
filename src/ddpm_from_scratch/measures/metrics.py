"""Distances between two sets of samples, on whatever features the caller gives: features in, numbers out.

No network lives here: a Fréchet distance on features of Inception is the FID, on other features it is not and
must be named after them. All is computed in float64, on the device of the features.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

# Distances are computed for at most this many pairs at a time: 512 MiB of float64.
_PAIRS_AT_A_TIME = 2**26


class KernelDistance(NamedTuple):
    """A squared distance, which may come out below zero, and its standard error."""

    value: float
    standard_error: float


class PrecisionRecall(NamedTuple):
    """Precision and recall, each in [0, 1]."""

    precision: float
    recall: float


class CopyTest(NamedTuple):
    """How many samples lie as close to the training data as only few held-out ones do.

    Args:
        fraction: of the samples that do.
        expected: the fraction to expect of samples that are like held-out ones.
        p_value: probability of this fraction or a larger one, if they are.
    """

    fraction: float
    expected: float
    p_value: float


def _check_features(name: str, features: torch.Tensor) -> torch.Tensor:
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(
            f"{name} has shape {tuple(features.shape)}, but must be (N, D) with at least two samples."
        )
    if not bool(torch.isfinite(features).all()):
        raise ValueError(f"{name} has values that are not finite.")
    return features.double()


def _check_pair(
    name: str, features: torch.Tensor, reference: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    features, reference = _check_features(name, features), _check_features("reference", reference)
    if features.shape[1] != reference.shape[1]:
        raise ValueError(f"{name} has {features.shape[1]} dimensions, reference has {reference.shape[1]}.")
    return features, reference


def sliced_wasserstein(
    samples: torch.Tensor, reference: torch.Tensor, num_projections: int = 256, seed: int = 0
) -> float:
    """Return the sliced 2-Wasserstein distance, per dimension of the data's units.

    SW2^2 = mean over unit directions w of W2^2(w . samples, w . reference)         (Bonneel et al. 2015)

    The directions depend only on `seed` and D. Two finite sets of the same distribution have a distance above
    zero: compare with that floor.

    Args:
        samples: shape (N, D).
        reference: shape (M, D).
        num_projections: number of directions.
        seed: of the directions.

    Raises:
        ValueError: a wrong shape, two different D, or values that are not finite.
    """
    samples, reference = _check_pair("samples", samples, reference)
    directions = unit_directions(samples.shape[1], num_projections, seed).to(samples.device)
    return projected_wasserstein(samples @ directions, reference @ directions)


def unit_directions(num_dimensions: int, num_directions: int = 256, seed: int = 0) -> torch.Tensor:
    """Return random directions as unit columns, float64, shape (D, num_directions).

    Args:
        num_dimensions: D.
        num_directions: number of columns.
        seed: of the directions.
    """
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(num_dimensions, num_directions, generator=generator, dtype=torch.float64)
    return directions / directions.norm(dim=0)


def projected_wasserstein(samples: torch.Tensor, reference: torch.Tensor) -> float:
    """Return the root mean square, over the columns, of the 2-Wasserstein distance in one dimension.

    On samples @ directions this is `sliced_wasserstein`, for data that are too large to hold at once. In one
    dimension W2^2 is the mean squared difference of the quantile functions; they are compared at the
    midpoints of as many equal parts as the larger set has samples, by linear interpolation.

    Args:
        samples: shape (N, P).
        reference: shape (M, P).

    Raises:
        ValueError: a wrong shape, two different P, or values that are not finite.
    """
    samples, reference = _check_pair("samples", samples, reference)
    count = max(len(samples), len(reference))
    levels = (torch.arange(count, dtype=torch.float64, device=samples.device) + 0.5) / count
    first, second = (_quantiles(values, levels) for values in (samples, reference))
    return float((first - second).square().mean().sqrt())


def sorted_columns(values: torch.Tensor) -> torch.Tensor:
    """Return the values with each column sorted; columns that are in order already are returned as they are.

    A set that many others are compared with by `projected_wasserstein` is sorted once if it is passed sorted.

    Args:
        values: shape (N, P).
    """
    if bool((values[1:] >= values[:-1]).all()):
        return values
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.detach().numpy(), axis=0))  # three times as fast as torch here
    return values.sort(dim=0).values


def _quantiles(values: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Return the quantiles of each column; the k-th smallest of N values sits at level (k + 0.5) / N."""
    ordered = sorted_columns(values)
    position = (levels * len(ordered) - 0.5).clamp(0, len(ordered) - 1)
    below = position.floor().long()
    above = (below + 1).clamp(max=len(ordered) - 1)
    return torch.lerp(ordered[below], ordered[above], (position - below)[:, None])


def frechet_distance(features: torch.Tensor, reference: torch.Tensor) -> float:
    """Return the squared Fréchet distance of two Gaussians fitted to the features.

    d^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^{1/2} C2 C1^{1/2})^{1/2})                (Heusel et al. 2017,
    arXiv:1706.08500)

    Biased upwards for few samples: compare numbers of the same N only.

    Args:
        features: shape (N, D).
        reference: shape (M, D).

    Raises:
        ValueError: a wrong shape, two different D, or values that are not finite.
    """
    features, reference = _check_pair("features", features, reference)
    covariance, covariance_ref = (torch.atleast_2d(torch.cov(points.T)) for points in (features, reference))
    variances, axes = torch.linalg.eigh(covariance)
    root = (axes * variances.clamp(min=0).sqrt()) @ axes.T
    cross = torch.linalg.eigvalsh(root @ covariance_ref @ root).clamp(min=0).sqrt().sum()
    shift = (features.mean(0) - reference.mean(0)).square().sum()
    return float(shift + covariance.trace() + covariance_ref.trace() - 2 * cross)


def kernel_distance(
    features: torch.Tensor,
    reference: torch.Tensor,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> KernelDistance:
    """Return the squared maximum mean discrepancy with a polynomial kernel, and its standard error.

    k(x, y) = (x . y / D + 1)^3                              (Binkowski et al. 2018, arXiv:1801.01401, sec. 4)
    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)

    On features of Inception this is the KID. As there, it is the mean over random subsets, which has no bias
    for any number of samples and may come out below zero. Each subset holds the same fraction f of both sets.

    The standard error is that of the whole sets, by the delete-d jackknife over the same subsets (Shao & Wu
    1989, Annals of Statistics 17, 1176): SE^2 = f / (1 - f) * variance over the subsets. It errs to the large
    side for two sets of one distribution.

    Args:
        features: shape (N, D), N of at least 4.
        reference: shape (M, D), M of at least 4.
        num_subsets: number of subsets, at least 2.
        subset_size: samples of the larger set in a subset; half of the set, if that is less.
        seed: of the subsets.

    Raises:
        ValueError: a wrong shape, two different D, values that are not finite, too few samples or subsets.
    """
    features, reference = _check_pair("features", features, reference)
    smallest = min(len(features), len(reference))
    if smallest < 4 or subset_size < 2 or num_subsets < 2:
        raise ValueError(
            f"got {smallest} samples in the smaller set, subset_size {subset_size} and num_subsets "
            f"{num_subsets}, but need at least 4 samples, and 2 of each of the others."
        )
    fraction = min(0.5, subset_size / max(len(features), len(reference)))
    sizes = [max(2, int(fraction * len(points))) for points in (features, reference)]
    generator = torch.Generator().manual_seed(seed)

    def subset(points: torch.Tensor, size: int) -> torch.Tensor:
        return points[torch.randperm(len(points), generator=generator)[:size].to(points.device)]

    values = torch.stack(
        [
            _squared_discrepancy(subset(features, sizes[0]), subset(reference, sizes[1]))
            for _ in range(num_subsets)
        ]
    )
    odds = max(sizes[0] / (len(features) - sizes[0]), sizes[1] / (len(reference) - sizes[1]))
    standard_error = (odds * values.var(correction=0)).sqrt()
    return KernelDistance(float(values.mean()), float(standard_error))


def _squared_discrepancy(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the unbiased MMD^2 of two sets (N, D) and (M, D); see `kernel_distance`."""

    def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    inside = torch.zeros((), dtype=first.dtype, device=first.device)
    for points in (first, second):
        gram = kernel(points, points)
        inside += (gram.sum() - gram.diagonal().sum()) / (len(points) * (len(points) - 1))
    return inside - 2 * kernel(first, second).mean()


def precision_recall(
    features: torch.Tensor, reference: torch.Tensor, num_neighbours: int = 3
) -> PrecisionRecall:
    """Return how much of the samples lies where the reference is, and how much of the reference they cover.

    The region of a set is the union of balls around its points, each reaching to the point's k-th nearest
    neighbour in the set. Precision is the fraction of `features` in the region of `reference`; recall is the
    fraction of `reference` in the region of `features`.                     (Kynkäänniemi et al. 2019,
    arXiv:1904.06991, sec. 2)

    A larger set has smaller balls: compare numbers of the same N and M only, N = M as in the paper.

    Args:
        features: shape (N, D), N above k.
        reference: shape (M, D), M above k.
        num_neighbours: k.

    Raises:
        ValueError: a wrong shape, two different D, values that are not finite, or no more than k samples.
    """
    features, reference = _check_pair("features", features, reference)
    smaller = min(len(features), len(reference))
    if not 1 <= num_neighbours < smaller:
        raise ValueError(
            f"num_neighbours is {num_neighbours}, but must be from 1 to {smaller - 1}: fewer than the "
            f"{smaller} samples of the smaller set."
        )
    radii = _neighbour_distances(features, num_neighbours)
    radii_ref = _neighbour_distances(reference, num_neighbours)
    inside = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    covered = torch.zeros(len(reference), dtype=torch.bool, device=features.device)
    for rows, distances in _distances_by_rows(features, reference):
        inside[rows] = (distances <= radii_ref).any(dim=1)
        covered |= (distances <= radii[rows, None]).any(dim=0)
    return PrecisionRecall(float(inside.double().mean()), float(covered.double().mean()))


def nearest_distances(features: torch.Tensor, reference: torch.Tensor | None = None) -> torch.Tensor:
    """Return the Euclidean distance of each sample to the nearest one of the reference, float64, shape (N,).

    Args:
        features: shape (N, D).
        reference: shape (M, D); without it, each sample's nearest other one of `features`.

    Raises:
        ValueError: a wrong shape, two different D, or values that are not finite.
    """
    if reference is None:
        return _neighbour_distances(_check_features("features", features), 1)
    features, reference = _check_pair("features", features, reference)
    return torch.cat([distances.amin(dim=1) for _, distances in _distances_by_rows(features, reference)])


def _neighbour_distances(points: torch.Tensor, k: int) -> torch.Tensor:
    """Return the distance of each point to its k-th nearest other point, shape (N,)."""
    result = []
    for rows, distances in _distances_by_rows(points, points):
        distances[:, rows].fill_diagonal_(math.inf)
        result.append(distances.kthvalue(k, dim=1).values)
    return torch.cat(result)


def _distances_by_rows(first: torch.Tensor, second: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield the matrix of Euclidean distances in blocks of rows, so that it need not fit in memory."""
    height = max(1, _PAIRS_AT_A_TIME // len(second))
    for start in range(0, len(first), height):
        rows = slice(start, min(start + height, len(first)))
        yield rows, torch.cdist(first[rows], second)


def copy_test(distances: torch.Tensor, held_out_distances: torch.Tensor, level: float = 0.01) -> CopyTest:
    """Return whether samples lie closer to the training data than held-out samples do.

    With t the distance below which a fraction `level` of the M held-out samples lies, and k their number,
    count the K samples of N with a distance of at most t. If samples and held-out ones are alike, any order
    of the N + M distances is as probable as any other, so

    P(K = j) = C(j + k - 1, j) C(N - j + M - k, N - j) / C(N + M, N),   mean N k / (M + 1),

    the negative hypergeometric distribution. The idea, with another statistic, is that of Meehan et al. 2020
    (arXiv:2004.05675): a model copies if its samples are closer to the training data than new data are.

    Args:
        distances: of the samples to their nearest training sample, shape (N,); see `nearest_distances`.
        held_out_distances: of held-out samples, shape (M,).
        level: in (0, 1); at least one held-out sample counts as close.

    Raises:
        ValueError: a wrong shape or level, or values that are not finite.
    """
    for name, values in (("distances", distances), ("held_out_distances", held_out_distances)):
        if values.ndim != 1 or not len(values) or not bool(torch.isfinite(values).all()):
            raise ValueError(f"{name} has shape {tuple(values.shape)}, but must be (N,), N > 0, and finite.")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, but must be between 0 and 1.")
    num_samples, num_held_out = len(distances), len(held_out_distances)
    threshold = held_out_distances.sort().values[math.ceil(level * num_held_out) - 1]
    num_close = int((distances <= threshold).sum())
    k = int((held_out_distances <= threshold).sum())  # more than level * M where distances are equal
    j = torch.arange(num_close, num_samples + 1, dtype=torch.float64)
    log_probability = (
        _log_binomial(j + k - 1, j)
        + _log_binomial(num_samples - j + num_held_out - k, num_samples - j)
        - _log_binomial(j.new_tensor(num_samples + num_held_out), j.new_tensor(num_samples))
    )
    return CopyTest(
        fraction=num_close / num_samples,
        expected=k / (num_held_out + 1),
        p_value=min(1.0, float(log_probability.exp().sum())),
    )


def _log_binomial(n: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
