"""Data whose diffusion is known: 2-D point sets, and a denoiser that is exact for Gaussian data."""

import math

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput

from .diffusion import broadcast_to_sample, check_prediction_type, scales, velocity


def _swiss_roll_curve(fraction: torch.Tensor) -> torch.Tensor:
    angle = 1.5 * math.pi * (1 + 2 * fraction)
    return torch.stack([angle * angle.cos(), angle * angle.sin()], dim=1)


def swiss_roll(
    num_samples: int, generator: torch.Generator | None = None, noise_std: float = 0.0
) -> torch.Tensor:
    """Return points of the 2-D Swiss roll, standardised, float32, shape (num_samples, 2).

    (phi cos phi, phi sin phi) with phi uniform in [1.5 pi, 4.5 pi], plus noise; then each coordinate has mean
    0 and variance 1 over the noise-free distribution, so that x_t has unit variance at every t.

    Args:
        num_samples: number of points.
        generator: source of the randomness.
        noise_std: standard deviation of Gaussian noise across the curve, in standardised units.
    """
    quadrature = _swiss_roll_curve((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)
    mean, std = quadrature.mean(0), quadrature.std(0, correction=0)
    points = _swiss_roll_curve(torch.rand(num_samples, generator=generator, dtype=torch.float64))
    noise = torch.randn(points.shape, generator=generator, dtype=torch.float64)
    return ((points - mean) / std + noise_std * noise).float()


POINT_DATASETS = {"swiss_roll": swiss_roll}


class GaussianDenoiser(ModelMixin, ConfigMixin):
    """The exact network for Gaussian data N(mean, covariance), for any alpha-bar table and prediction type.

    E[x_0 | x_t] = mean + sqrt(a) C (a C + (1 - a) I)^{-1} (x_t - sqrt(a) mean),   a = alpha_bar_t

    (conditioning of a joint Gaussian). Sampling with it must give back the data distribution up to
    discretisation, which is what makes it a test of a sampler.

    Args:
        mean: D numbers.
        covariance: D x D numbers, positive semi-definite.
        alphas_cumprod: alpha-bar of each timestep.
        prediction_type: what it outputs: "epsilon", "sample" or "v_prediction".
        sample_shape: shape of one sample with D numbers in all; (D,) if not given.
    """

    @register_to_config
    def __init__(
        self,
        mean: list[float],
        covariance: list[list[float]],
        alphas_cumprod: list[float],
        prediction_type: str = "epsilon",
        sample_shape: tuple[int, ...] | None = None,
    ):
        super().__init__()
        check_prediction_type(prediction_type)
        self.register_to_config(sample_shape=tuple(sample_shape or (len(mean),)))
        self.register_buffer("data_mean", torch.tensor(mean, dtype=torch.float64))
        variances, axes = torch.linalg.eigh(torch.tensor(covariance, dtype=torch.float64))
        self.register_buffer("variances", variances)
        self.register_buffer("axes", axes)
        self.register_buffer("alpha_bar_table", torch.tensor(alphas_cumprod, dtype=torch.float64))

    def pred_original(self, sample: torch.Tensor, alpha_prod_t: torch.Tensor) -> torch.Tensor:
        """Return E[x_0 | x_t] for samples (B, D) and alpha_bar_t of shape (B, 1)."""
        gain = alpha_prod_t**0.5 * self.variances / (alpha_prod_t * self.variances + 1 - alpha_prod_t)
        centred = (sample - alpha_prod_t**0.5 * self.data_mean) @ self.axes
        return self.data_mean + (gain * centred) @ self.axes.T

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
