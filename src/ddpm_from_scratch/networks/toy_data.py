"""Data whose diffusion is known: 2-D point sets, and a denoiser that is exact for mixtures of Gaussians."""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput

from ..process.diffusion import broadcast_to_sample, check_prediction_type, scales, velocity


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


class GaussianMixtureDenoiser(ModelMixin, ConfigMixin):
    """The exact network for data from a mixture of Gaussians, for any alpha-bar table and prediction type.

    p(x_0) = sum_k w_k N(m_k, C_k),   p_t(x_t) = sum_k w_k N(sqrt(a) m_k, S_k),   S_k = a C_k + (1 - a) I
    E[x_0 | x_t] = sum_k r_k (m_k + sqrt(a) C_k S_k^{-1} (x_t - sqrt(a) m_k)),    a = alpha_bar_t

    with r_k the probability of component k given x_t (conditioning of a joint Gaussian). What a sampler, a
    score or a likelihood makes of it can be compared with closed form. One mean is a single Gaussian; many
    means with one narrow covariance are a data set with a little noise, such as the digits.

    All is computed in float64. The methods besides `forward` take samples (B, D) and alpha_bar_t, which is 1
    for the data themselves, as a number or of shape (B, 1).

    Args:
        means: K lists of D numbers.
        covariances: D x D numbers for all components, or K times D x D; positive semi-definite.
        alphas_cumprod: alpha-bar of each timestep.
        prediction_type: what it outputs: "epsilon", "sample" or "v_prediction".
        weights: of the components, K numbers of any sum; equal ones if not given.
        sample_shape: shape of one sample with D numbers in all; (D,) if not given.
    """

    @register_to_config
    def __init__(
        self,
        means: list[list[float]],
        covariances: list[list[float]] | list[list[list[float]]],
        alphas_cumprod: list[float],
        prediction_type: str = "epsilon",
        weights: list[float] | None = None,
        sample_shape: tuple[int, ...] | None = None,
    ):
        super().__init__()
        check_prediction_type(prediction_type)
        centres = torch.tensor(means, dtype=torch.float64)
        spreads = torch.tensor(covariances, dtype=torch.float64)
        if centres.ndim != 2 or spreads.shape[-2:] != (centres.shape[1],) * 2 or spreads.ndim not in (2, 3):
            raise ValueError(
                f"means have shape {tuple(centres.shape)} and covariances {tuple(spreads.shape)}, but must "
                "be (K, D), and (D, D) or (K, D, D)."
            )
        count = torch.ones(len(centres), dtype=torch.float64)
        shares = count if weights is None else torch.tensor(weights, dtype=torch.float64)
        if shares.shape != count.shape or (spreads.ndim == 3 and len(spreads) != len(centres)):
            raise ValueError(
                f"there are {len(centres)} means, but {len(shares)} weights and {len(spreads)} covariances."
            )
        shape = tuple(sample_shape or (centres.shape[1],))
        if math.prod(shape) != centres.shape[1]:
            raise ValueError(f"sample_shape is {shape}, but a sample has {centres.shape[1]} numbers.")
        if not (bool((shares >= 0).all()) and float(shares.sum()) > 0):
            raise ValueError(f"weights are {shares.tolist()[:8]}, but must be positive, or some of them 0.")
        self.register_to_config(sample_shape=shape)
        if not torch.allclose(spreads, spreads.mT):
            raise ValueError("covariances must be symmetric: the numbers at (i, j) and (j, i) equal.")
        variances, axes = torch.linalg.eigh(spreads if spreads.ndim == 3 else spreads[None])
        if float(variances.min()) < -1e-6 * float(variances.max()):
            raise ValueError(
                f"a covariance has the variance {float(variances.min()):.3g} along one axis, but none may be "
                "negative."
            )
        # Means from their centre, because squares of small numbers keep more digits.
        self.register_buffer("centre", centres.mean(0))
        self.register_buffer("offsets", centres - centres.mean(0))
        self.register_buffer("variances", variances.clamp(min=0))
        self.register_buffer("axes", axes)
        self.register_buffer("log_weights", torch.log(shares / shares.sum()))
        self.register_buffer("alpha_bar_table", torch.tensor(alphas_cumprod, dtype=torch.float64))

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        """Go to another device, but stay in float64."""
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)

    def _level(self, alpha_prod_t: float | torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(alpha_prod_t, dtype=torch.float64, device=self.centre.device)

    def _groups(
        self, sample: torch.Tensor, alpha_prod_t: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Return, for each covariance, its variances, those at t, its means and the samples on its axes."""
        centred = sample - alpha_prod_t**0.5 * self.centre
        # A covariance of all components, or one for each.
        means = [self.offsets] if len(self.axes) == 1 else self.offsets[:, None].unbind()
        return [
            (own, alpha_prod_t * own + 1 - alpha_prod_t, offsets @ axes, centred @ axes)
            for own, offsets, axes in zip(self.variances, means, self.axes, strict=True)
        ]

    def _log_joint(self, sample: torch.Tensor, alpha_prod_t: torch.Tensor) -> torch.Tensor:
        """Return log(w_k N(x_t; sqrt(a) m_k, S_k)), shape (B, K)."""
        logs = []
        for _, variance, means, points in self._groups(sample, alpha_prod_t):
            # The square is multiplied out: matrix products in place of B x K x D differences.
            precision = torch.broadcast_to(1 / variance, points.shape)
            square = (points.square() * precision).sum(1, keepdim=True)
            square = square - 2 * alpha_prod_t**0.5 * (points * precision) @ means.T
            square = square + alpha_prod_t * precision @ means.square().T
            logs.append(-0.5 * (square - torch.log(precision / (2 * math.pi)).sum(1, keepdim=True)))
        return torch.cat(logs, dim=1) + self.log_weights

    def _responsibilities(self, sample: torch.Tensor, alpha_prod_t: torch.Tensor) -> list[torch.Tensor]:
        """Return r_k, parted by covariance."""
        shares = torch.softmax(self._log_joint(sample, alpha_prod_t), dim=1)
        return list(shares.split(len(self.offsets) // len(self.axes), dim=1))

    def log_prob(self, sample: torch.Tensor, alpha_prod_t: float | torch.Tensor = 1.0) -> torch.Tensor:
        """Return log p_t(x_t) in nats, shape (B,); by default that of the data."""
        return torch.logsumexp(self._log_joint(sample.double(), self._level(alpha_prod_t)), dim=1)

    def score(self, sample: torch.Tensor, alpha_prod_t: float | torch.Tensor = 1.0) -> torch.Tensor:
        """Return grad log p_t(x_t) = sum_k r_k S_k^{-1} (sqrt(a) m_k - x_t), shape (B, D)."""
        sample, alpha_prod_t = sample.double(), self._level(alpha_prod_t)
        shares = self._responsibilities(sample, alpha_prod_t)
        parts = self._groups(sample, alpha_prod_t)
        total = torch.zeros_like(sample)
        for share, axes, (_, variance, means, points) in zip(shares, self.axes, parts, strict=True):
            pulled = alpha_prod_t**0.5 * share @ means - share.sum(1, keepdim=True) * points
            total = total + (pulled / variance) @ axes.T
        return total

    def pred_original(self, sample: torch.Tensor, alpha_prod_t: float | torch.Tensor) -> torch.Tensor:
        """Return E[x_0 | x_t], shape (B, D)."""
        sample, alpha_prod_t = sample.double(), self._level(alpha_prod_t)
        shares = self._responsibilities(sample, alpha_prod_t)
        parts = self._groups(sample, alpha_prod_t)
        total = torch.zeros_like(sample) + self.centre
        for share, axes, (own, variance, means, points) in zip(shares, self.axes, parts, strict=True):
            gain = alpha_prod_t**0.5 * own / variance
            mean = (1 - alpha_prod_t**0.5 * gain) * (share @ means)
            total = total + (mean + share.sum(1, keepdim=True) * gain * points) @ axes.T
        return total

    def posterior_covariance(self, sample: torch.Tensor, alpha_prod_t: float | torch.Tensor) -> torch.Tensor:
        """Return Cov[x_0 | x_t], shape (B, D, D); takes memory for B x K x D numbers.

        sum_k r_k ((1 - a) C_k S_k^{-1} + d_k d_k^T),   d_k = E[x_0 | x_t, k] - E[x_0 | x_t]
        """
        sample, alpha_prod_t = sample.double(), self._level(alpha_prod_t)
        mean = self.pred_original(sample, alpha_prod_t) - self.centre
        shares = self._responsibilities(sample, alpha_prod_t)
        parts = self._groups(sample, alpha_prod_t)
        total = sample.new_zeros(*sample.shape, sample.shape[1])
        for share, axes, (own, variance, means, points) in zip(shares, self.axes, parts, strict=True):
            gain = torch.broadcast_to(alpha_prod_t**0.5 * own / variance, points.shape)
            spread = torch.broadcast_to((1 - alpha_prod_t) * own / variance, points.shape)
            within = axes @ torch.diag_embed(spread * share.sum(1, keepdim=True)) @ axes.T
            estimates = means + gain[:, None] * (points[:, None] - alpha_prod_t[..., None] ** 0.5 * means)
            deviations = estimates @ axes.T - mean[:, None]
            total = total + within + deviations.mT @ (share[..., None] * deviations)
        return total

    def sample(self, num_samples: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Return x_0 drawn from the mixture, float64, shape (num_samples, D)."""
        source, device = "cpu" if generator is None else generator.device, self.centre.device
        shares = self.log_weights.exp().to(source)
        which = torch.multinomial(shares, num_samples, replacement=True, generator=generator).to(device)
        shape = num_samples, len(self.centre)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64, device=source).to(device)
        group = which if len(self.axes) > 1 else torch.zeros_like(which)
        scaled = (self.variances[group].sqrt() * noise)[..., None]
        return self.centre + self.offsets[which] + (self.axes[group] @ scaled)[..., 0]

    def _alpha_bar(self, timestep: torch.Tensor) -> torch.Tensor:
        """Return alpha_bar; between timesteps sqrt(1 / alpha_bar - 1) is linear, as in diffusers' Euler."""
        below = timestep.long()
        above = (below + 1).clamp(max=len(self.alpha_bar_table) - 1)
        sigmas = (1 / self.alpha_bar_table - 1) ** 0.5
        sigma = torch.lerp(sigmas[below], sigmas[above], (timestep - below).double())
        return torch.where(timestep == below, self.alpha_bar_table[below], 1 / (1 + sigma**2))

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor | float) -> UNet2DOutput:
        """Return the prediction at x_t, shape (B, ...), in the dtype of `sample`; computed in float64.

        Schedulers such as Euler ask for timesteps between two of the table.
        """
        flat = sample.flatten(1).double()
        timestep = torch.as_tensor(timestep, device=sample.device).reshape(-1)
        alpha_prod_t = broadcast_to_sample(self._alpha_bar(timestep), flat)
        original = self.pred_original(flat, alpha_prod_t)
        at_t = scales(alpha_prod_t)
        epsilon = (flat - at_t.signal * original) / at_t.noise
        output = {
            "epsilon": epsilon,
            "sample": original,
            "v_prediction": velocity(original, epsilon, at_t),
        }[self.config.prediction_type]
        return UNet2DOutput(sample=output.reshape(sample.shape).to(sample.dtype))
