"""The coefficients of noising, sqrt(alpha-bar) and sqrt(1 - alpha-bar), for a batch of timesteps."""

from typing import Any

import torch

from . import checks
from .diffusion import Scales, scales


class NoisingTable:
    """The scales of all T timesteps.

    Args:
        alphas_cumprod: alpha-bar, float32, shape (T,).
    """

    def __init__(self, alphas_cumprod: torch.Tensor):
        self._alphas_cumprod = alphas_cumprod
        self._tables: dict[tuple[torch.device, torch.dtype], torch.Tensor] = {}

    def scales_at(
        self, timesteps: Any, samples: torch.Tensor, noise: torch.Tensor, name: str
    ) -> Scales[torch.Tensor]:
        """Return the scales at a batch of timesteps, shape (B, 1, ...), in the dtype of `samples`.

        Args:
            timesteps: integers in 0..T-1, shape (B,), or one for all.
            samples: shape (B, ...), floating point.
            noise: same shape.
            name: what the caller calls the samples, for messages.

        Raises:
            TypeError: samples, noise or timesteps of a wrong kind.
            ValueError: a wrong shape, or timesteps out of range (CPU; an accelerator stops with an
                assertion).
        """
        num_train_timesteps = len(self._alphas_cumprod)
        checks.samples(name, samples)
        checks.samples("noise", noise)
        checks.same_shape("noise", noise, name, samples)
        checks.same_device("noise", noise, name, samples)
        timesteps = checks.timesteps(timesteps, len(samples), num_train_timesteps).to(samples.device)
        # At least float32, cast last: in half precision 1 - alpha_bar would round to 0 at small t.
        key = (samples.device, torch.promote_types(samples.dtype, torch.float32))
        if key not in self._tables:
            with torch.inference_mode(False):
                self._tables[key] = torch.stack(scales(self._alphas_cumprod.to(*key)))
        if torch.compiler.is_compiling():
            at_t = self._tables[key].index_select(1, timesteps)
        else:
            try:
                at_t = self._tables[key].index_select(1, timesteps)
            except (IndexError, RuntimeError):
                low, high = (int(bound) for bound in timesteps.aminmax())
                raise ValueError(
                    f"timesteps reach from {low} to {high}, but must be in 0..{num_train_timesteps - 1}."
                ) from None
        return Scales(*at_t.to(samples.dtype).reshape(2, -1, *(1,) * (samples.ndim - 1)).unbind(0))
