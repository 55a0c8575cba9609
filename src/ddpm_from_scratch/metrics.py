"""Distances between two sets of samples, on whatever features the caller gives.

No network lives here: a Fréchet distance on features of Inception is the FID, on other features it is not and
must be named after them.
"""

import torch


def _check_features(name: str, features: torch.Tensor) -> torch.Tensor:
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(
            f"{name} has shape {tuple(features.shape)}, but must be (N, D) with at least two samples."
        )
    if not bool(torch.isfinite(features).all()):
        raise ValueError(f"{name} has values that are not finite.")
    return features.double()


def sliced_wasserstein(
    samples: torch.Tensor, reference: torch.Tensor, num_projections: int = 256, seed: int = 0
) -> float:
    """Return the sliced 2-Wasserstein distance, per dimension of the data's units.

    SW2^2 = mean over unit directions w of W2^2(w . samples, w . reference)         (Bonneel et al. 2015)

    In one dimension W2^2 is the mean squared difference of the quantile functions; they are compared at the
    midpoints of as many equal parts as the larger set has samples, by linear interpolation. The directions
    depend only on `seed` and D. Two finite sets of the same distribution have a distance above zero: compare
    with that floor.

    Args:
        samples: shape (N, D).
        reference: shape (M, D).
        num_projections: number of directions.
        seed: of the directions.

    Raises:
        ValueError: a wrong shape, two different D, or values that are not finite.
    """
    samples, reference = _check_features("samples", samples), _check_features("reference", reference)
    if samples.shape[1] != reference.shape[1]:
        raise ValueError(f"samples have {samples.shape[1]} dimensions, reference has {reference.shape[1]}.")
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(samples.shape[1], num_projections, generator=generator, dtype=torch.float64)
    directions = (directions / directions.norm(dim=0)).to(samples.device)
    count = max(len(samples), len(reference))
    levels = (torch.arange(count, dtype=torch.float64, device=samples.device) + 0.5) / count
    first, second = (_quantiles(points @ directions, levels) for points in (samples, reference))
    return float((first - second).square().mean().sqrt())


def _quantiles(values: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Return the quantiles of each column; the k-th smallest of N values sits at level (k + 0.5) / N."""
    ordered = values.sort(dim=0).values
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
    features, reference = _check_features("features", features), _check_features("reference", reference)
    if features.shape[1] != reference.shape[1]:
        raise ValueError(f"features have {features.shape[1]} dimensions, reference has {reference.shape[1]}.")
    covariance, covariance_ref = (torch.atleast_2d(torch.cov(points.T)) for points in (features, reference))
    variances, axes = torch.linalg.eigh(covariance)
    root = (axes * variances.clamp(min=0).sqrt()) @ axes.T
    cross = torch.linalg.eigvalsh(root @ covariance_ref @ root).clamp(min=0).sqrt().sum()
    shift = (features.mean(0) - reference.mean(0)).square().sum()
    return float(shift + covariance.trace() + covariance_ref.trace() - 2 * cross)
