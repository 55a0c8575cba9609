"""2-D point sets, standardised, so that their diffusion can be looked at."""

import functools
import math
from collections.abc import Callable

import torch


def swiss_roll(
    num_samples: int, generator: torch.Generator | None = None, noise_std: float = 0.0
) -> torch.Tensor:
    """Return points of the 2-D Swiss roll, standardised, float32, shape (num_samples, 2).

    (phi cos phi, phi sin phi) with phi uniform in [1.5 pi, 4.5 pi].

    Args:
        num_samples: number of points.
        generator: source of the randomness.
        noise_std: standard deviation of Gaussian noise added to the points, in standardised units.
    """
    points = swiss_roll_curve(_uniform(num_samples, generator))
    return _standardised(points, *_moments(swiss_roll_curve), noise_std, generator)


def swiss_roll_curve(fraction: torch.Tensor) -> torch.Tensor:
    """Return the points of the Swiss roll before they are standardised, shape (N, 2).

    Args:
        fraction: how far along the curve, 0 its inner end and 1 its outer end, shape (N,).
    """
    angle = 1.5 * math.pi * (1 + 2 * fraction)
    return torch.stack([angle * angle.cos(), angle * angle.sin()], dim=1)


def spiral(
    num_samples: int, generator: torch.Generator | None = None, noise_std: float = 0.0
) -> torch.Tensor:
    """Return points of a spiral with three turns, standardised, float32, shape (num_samples, 2).

    (phi cos phi, phi sin phi) with phi = 6 pi sqrt(u), u uniform in [0, 1]: evenly along the curve, nearly.

    Arguments as in `swiss_roll`.
    """
    points = _spiral_curve(_uniform(num_samples, generator))
    return _standardised(points, *_moments(_spiral_curve), noise_std, generator)


def two_moons(
    num_samples: int, generator: torch.Generator | None = None, noise_std: float = 0.0
) -> torch.Tensor:
    """Return points of two interleaved half circles, standardised, float32, shape (num_samples, 2).

    (cos phi, sin phi) or (1 - cos phi, 1/2 - sin phi), equally often, with phi uniform in [0, pi]: the moons
    of scikit-learn.

    Arguments as in `swiss_roll`.
    """
    angle = math.pi * _uniform(num_samples, generator)
    is_lower = _uniform(num_samples, generator) < 0.5
    upper = torch.stack([angle.cos(), angle.sin()], dim=1)
    points = torch.where(is_lower[:, None], upper.new_tensor([1.0, 0.5]) - upper, upper)
    height = 2 / math.pi - 0.25  # half the distance of the two mean heights
    variances = [0.75, 0.5 - 4 / math.pi**2 + height**2]
    return _standardised(points, [0.5, 0.25], variances, noise_std, generator)


def checkerboard(
    num_samples: int, generator: torch.Generator | None = None, noise_std: float = 0.0
) -> torch.Tensor:
    """Return points of the dark squares of a 4 x 4 board, standardised, float32, shape (num_samples, 2).

    Arguments as in `swiss_roll`.
    """
    across = 4 * _uniform(num_samples, generator)
    pair = 2 * (_uniform(num_samples, generator) < 0.5)
    up = _uniform(num_samples, generator) + pair + across.floor() % 2
    points = torch.stack([across, up], dim=1)
    return _standardised(points, [2.0, 2.0], [4 / 3, 4 / 3], noise_std, generator)


def eight_gaussians(
    num_samples: int, generator: torch.Generator | None = None, noise_std: float = 0.0
) -> torch.Tensor:
    """Return points of eight Gaussians on a circle, standardised, float32, shape (num_samples, 2).

    Their standard deviation is 1/8 of the circle's radius, as in Grathwohl et al. 2019 (arXiv:1810.01367).

    Arguments as in `swiss_roll`.
    """
    angle = (8 * _uniform(num_samples, generator)).floor() * (math.pi / 4)
    centres = torch.stack([angle.cos(), angle.sin()], dim=1)
    points = centres + _normal(centres, generator) / 8
    return _standardised(points, [0.0, 0.0], [1 / 2 + 1 / 64] * 2, noise_std, generator)


def pinwheel(
    num_samples: int, generator: torch.Generator | None = None, noise_std: float = 0.0
) -> torch.Tensor:
    """Return points of five bent arms, standardised, float32, shape (num_samples, 2).

    A point at distance r = 1 + 0.3 z along an arm, 0.1 z' across it, is turned by the arm's angle and by
    exp(r) / 4: the pinwheel of Johnson et al. 2016 (arXiv:1603.06277).

    Arguments as in `swiss_roll`.
    """
    arm = (5 * _uniform(num_samples, generator)).floor() * (2 * math.pi / 5)
    along, across = _normal(arm.new_empty(2, num_samples), generator)
    along, across = 1 + 0.3 * along, 0.1 * across
    angle = arm + along.exp() / 4
    points = torch.stack(
        [along * angle.cos() - across * angle.sin(), along * angle.sin() + across * angle.cos()], dim=1
    )
    return _standardised(points, [0.0, 0.0], [(1 + 0.3**2 + 0.1**2) / 2] * 2, noise_std, generator)


POINT_DATASETS: dict[str, Callable[..., torch.Tensor]] = {
    "swiss_roll": swiss_roll,
    "spiral": spiral,
    "two_moons": two_moons,
    "checkerboard": checkerboard,
    "eight_gaussians": eight_gaussians,
    "pinwheel": pinwheel,
}


def _uniform(num_samples: int, generator: torch.Generator | None) -> torch.Tensor:
    return torch.rand(num_samples, generator=generator, dtype=torch.float64)


def _normal(like: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64)


def _spiral_curve(fraction: torch.Tensor) -> torch.Tensor:
    angle = 6 * math.pi * fraction.sqrt()
    return torch.stack([angle * angle.cos(), angle * angle.sin()], dim=1)


@functools.cache
def _moments(curve: Callable[[torch.Tensor], torch.Tensor]) -> tuple[list[float], list[float]]:
    """Return the mean and the variance of each coordinate along a curve, by quadrature."""
    points = curve((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)
    return points.mean(0).tolist(), points.var(0, correction=0).tolist()


def _standardised(
    points: torch.Tensor,
    mean: list[float],
    variance: list[float],
    noise_std: float,
    generator: torch.Generator | None,
) -> torch.Tensor:
    """Return points of mean 0 and variance 1 in each coordinate, so that x_t has unit variance at every t.

    The moments are those of the distribution, not of these points; noise comes on top.
    """
    centred = (points - points.new_tensor(mean)) / points.new_tensor(variance).sqrt()
    return (centred + noise_std * _normal(points, generator)).float()
