"""A denoiser that is exact for mixtures of Gaussians: what is known of a diffusion in closed form."""

import math
from collections.abc import Callable
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput

from ..process.diffusion import broadcast_to_sample, check_prediction_type, scales, velocity


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

    def _parts(
        self, sample: torch.Tensor, alpha_prod_t: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the variances, those at t, the means and the samples on the axes of each covariance.

        The first dimension is the covariance, G = 1 for all components or G = K; each has M = K / G of them.
        Shapes (G, 1, D), (G, B or 1, D), (G, M, D) and (G, B, D).
        """
        own = self.variances[:, None]
        centred = sample - alpha_prod_t**0.5 * self.centre
        means = self.offsets.reshape(len(self.axes), -1, self.offsets.shape[1]) @ self.axes
        return own, alpha_prod_t * own + 1 - alpha_prod_t, means, centred @ self.axes

    def _log_joint(
        self, alpha_prod_t: torch.Tensor, variance: torch.Tensor, means: torch.Tensor, points: torch.Tensor
    ) -> torch.Tensor:
        """Return log(w_k N(x_t; sqrt(a) m_k, S_k)), shape (B, K)."""
        precision = 1 / variance
        # The square is multiplied out: matrix products in place of B x K x D differences; sums in place,
        # because B x K is large.
        logs = (alpha_prod_t**0.5 * points * precision) @ means.mT
        logs += (-0.5 * alpha_prod_t * precision) @ means.square().mT
        logs += 0.5 * (torch.log(precision / (2 * math.pi)) - points.square() * precision).sum(
            2, keepdim=True
        )
        return logs.transpose(0, 1).flatten(1) + self.log_weights

    def _responsibilities(
        self, alpha_prod_t: torch.Tensor, variance: torch.Tensor, means: torch.Tensor, points: torch.Tensor
    ) -> torch.Tensor:
        """Return r_k, shape (G, B, M)."""
        shares = torch.softmax(self._log_joint(alpha_prod_t, variance, means, points), dim=1)
        return shares.unflatten(1, means.shape[:2]).transpose(0, 1)

    def log_prob(self, sample: torch.Tensor, alpha_prod_t: float | torch.Tensor = 1.0) -> torch.Tensor:
        """Return log p_t(x_t) in nats, shape (B,); by default that of the data."""
        level = self._level(alpha_prod_t)
        _, variance, means, points = self._parts(sample.double(), level)
        return torch.logsumexp(self._log_joint(level, variance, means, points), dim=1)

    def score(self, sample: torch.Tensor, alpha_prod_t: float | torch.Tensor = 1.0) -> torch.Tensor:
        """Return grad log p_t(x_t) = sum_k r_k S_k^{-1} (sqrt(a) m_k - x_t), shape (B, D)."""
        level = self._level(alpha_prod_t)
        _, variance, means, points = self._parts(sample.double(), level)
        shares = self._responsibilities(level, variance, means, points)
        pulled = level**0.5 * shares @ means - shares.sum(2, keepdim=True) * points
        return ((pulled / variance) @ self.axes.mT).sum(0)

    def pred_original(self, sample: torch.Tensor, alpha_prod_t: float | torch.Tensor) -> torch.Tensor:
        """Return E[x_0 | x_t], shape (B, D)."""
        level = self._level(alpha_prod_t)
        own, variance, means, points = self._parts(sample.double(), level)
        shares = self._responsibilities(level, variance, means, points)
        gain = level**0.5 * own / variance
        mean = (1 - level**0.5 * gain) * (shares @ means) + shares.sum(2, keepdim=True) * gain * points
        return self.centre + (mean @ self.axes.mT).sum(0)

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
