"""The coefficients of noising, sqrt(alpha-bar) and sqrt(1 - alpha-bar), for a batch of timesteps."""

from typing import Any

import torch

from .. import checks
from ..process.diffusion import Scales, broadcast_to_sample, scales
from ..process.timesteps import checked_timesteps


class NoisingTable:
    """The scales of all T timesteps, ready for samples of any rank, dtype and device.

    Args:
        alphas_cumprod: alpha-bar, float32, shape (T,); it is copied, so that all tables are of these values.
        device: where it will be used first; other devices get their table when asked.
    """

    def __init__(self, alphas_cumprod: torch.Tensor, device: torch.device | None = None):
        with torch.inference_mode(False):
            self.alphas_cumprod = alphas_cumprod.detach().clone()
        self._tables: dict[tuple[torch.device, torch.dtype, int], torch.Tensor] = {}
        for ndim in (2, 4):  # points and images
            self._table(device or torch.device("cpu"), torch.float32, ndim)

    def _table(self, device: torch.device, dtype: torch.dtype, ndim: int) -> torch.Tensor:
        """Return the scales of all timesteps, shape (2, T, 1, ...)."""
        table = self._tables.get((device, dtype, ndim))
        if table is None:
            # At least float32, cast last: in half precision 1 - alpha_bar would round to 0 at small t.
            precise = dtype if dtype == torch.float64 else torch.float32
            with torch.inference_mode(False):
                at_t = torch.stack(scales(self.alphas_cumprod.to(device, precise))).to(dtype)
                table = at_t.reshape(2, -1, *(1,) * (ndim - 1))
            self._tables[device, dtype, ndim] = table
        return table

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
        num_train_timesteps = len(self.alphas_cumprod)
        checks.samples(name, samples)
        checks.noise_like("noise", noise, name, samples)
        timesteps = checked_timesteps(timesteps, num_train_timesteps, batch_size=len(samples), read=False)
        if timesteps.device != samples.device:
            timesteps = timesteps.to(samples.device)
        table = self._table(samples.device, samples.dtype, samples.ndim)
        if torch.compiler.is_compiling():  # a graph cannot raise for a value, so a wrong one gives nan
            outside = (timesteps < 0) | (timesteps >= num_train_timesteps)
            index = timesteps.masked_fill(outside, 0)
            outside = broadcast_to_sample(outside, samples)
            return Scales(*(column[index].masked_fill(outside, float("nan")) for column in table.unbind()))
        try:
            return Scales(*table.index_select(1, timesteps).unbind())
        except (IndexError, RuntimeError):
            checked_timesteps(timesteps, num_train_timesteps, batch_size=len(samples))  # says what is wrong
            raise
