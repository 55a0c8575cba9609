"""The coefficients of every step of a reverse chain, computed once, on the host.

A chain visits some timesteps from noisy to clean, and each step needs a handful of numbers. They are kept as
0-dimensional CPU tensors, which PyTorch passes to any kernel by value: no lookup and no wait for an
accelerator, and less work per operation than a Python float. For a batch of timesteps, and inside a compiled
graph, the same numbers come from one table by tensor indexing.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..process.diffusion import Posterior, Scales, broadcast_to_sample, posterior, scales, step_beta
from ..process.timesteps import Chain
from ..words import ANALYTIC

# The smallest variance, so that its logarithm exists; diffusers' value.
_MIN_VARIANCE = 1e-20


class Step(NamedTuple):
    """The coefficients of one step: 0-dimensional tensors, or (B, 1, ...) for a batch of timesteps.

    `log_variances` are the smallest and the largest that a network with variance_type "learned_range" can
    choose.
    """

    scales: Scales[torch.Tensor]
    posterior: Posterior[torch.Tensor]
    noise_std: torch.Tensor
    log_variances: tuple[torch.Tensor, ...]
    is_last: bool | torch.Tensor
    adds_noise: bool


class ReverseChain(Chain):
    """The steps of a chain through `timesteps`, from noisy to clean.

    Args:
        alphas_cumprod: alpha-bar of all T training timesteps, float32, shape (T,).
        timesteps: those that are visited, strictly falling, in 0..T-1.
        variance_type: one of `VARIANCE_TYPES`; decides the standard deviation of the added noise.
        residuals: E|x_0 - x_0_hat|^2 / D at all T timesteps, for analytic variances (see `residuals.py`).
    """

    def __init__(
        self,
        alphas_cumprod: torch.Tensor,
        timesteps: list[int],
        variance_type: str,
        residuals: Sequence[float] | None = None,
    ):
        super().__init__(timesteps)
        self._num_train_timesteps = len(alphas_cumprod)
        with torch.inference_mode(False):
            self._visited = torch.tensor(timesteps, device="cpu")
            alpha_prod = alphas_cumprod.cpu()[self._visited]
            at_them = None if residuals is None else alpha_prod.new_tensor(residuals)[self._visited]
            self._table = self._coefficients(alpha_prod, variance_type, at_them)
        self._steps: list[Step | None] = [None] * len(self.timesteps)
        self._on_device: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    @staticmethod
    def _coefficients(
        alpha_prod: torch.Tensor, variance_type: str, residuals: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the table: one row for each step and a last one of nan, one column for each coefficient."""
        alpha_prod_prev = torch.cat([alpha_prod[1:], alpha_prod.new_ones(1)])
        to_prev, beta = posterior(alpha_prod, alpha_prod_prev), step_beta(alpha_prod, alpha_prod_prev)
        variance = to_prev.variance.clamp(min=_MIN_VARIANCE)
        if variance_type == "fixed_small_log":
            noise_std = torch.exp(0.5 * torch.log(variance))
        elif variance_type in ("fixed_large", "fixed_large_log"):
            noise_std = beta**0.5
        elif variance_type == ANALYTIC:
            assert residuals is not None
            noise_std = (to_prev.variance + to_prev.original**2 * residuals) ** 0.5
        else:
            noise_std = variance**0.5
        # The posterior of the last step has no variance; `_MIN_VARIANCE` of it is below float32 resolution.
        # DDPMScheduler adds it too, so keeping it keeps results and random streams equal bit for bit.
        noise_std[-1] = variance[-1] ** 0.5
        columns = [*scales(alpha_prod), *to_prev._replace(variance=variance), noise_std]
        if variance_type == "learned_range":
            columns += [torch.log(variance), torch.log(beta)]
        table = torch.stack(columns, dim=1)
        return torch.cat([table, torch.full_like(table[:1], float("nan"))])

    @staticmethod
    def _step(values: Sequence[torch.Tensor], is_last: bool | torch.Tensor, adds_noise: bool) -> Step:
        signal, noise, original, sample, variance, noise_std, *log_variances = values
        to_prev = Posterior(original, sample, variance)
        return Step(Scales(signal, noise), to_prev, noise_std, tuple(log_variances), is_last, adds_noise)

    def step(self, index: int) -> Step:
        """Return the coefficients of the step at a position of the chain, 0 being the noisiest."""
        step = self._steps[index]
        if step is None:
            is_last, adds_noise = index == len(self.timesteps) - 1, self.timesteps[index] > 0
            step = self._steps[index] = self._step(self._table[index].unbind(), is_last, adds_noise)
        return step

    def steps(self, timesteps: torch.Tensor, sample: torch.Tensor) -> Step:
        """Return the coefficients at a batch of timesteps, shape (B, 1, ...) with the rank of `sample`.

        The values of `timesteps` are only read where that needs no wait. On an accelerator, a timestep
        outside the chain gives nan.

        Raises:
            ValueError: a timestep that is not in the chain (CPU).
        """
        table, index_of = self.tables_on(sample.device)
        if timesteps.device.type == "cpu" and not torch.compiler.is_compiling():
            found = [self.index(t) for t in timesteps.tolist()]
            index = torch.tensor(found, dtype=torch.int64, device=sample.device)
        else:
            timesteps = timesteps.to(sample.device)
            outside = (timesteps < 0) | (timesteps > self._num_train_timesteps)
            index = index_of[timesteps.masked_fill(outside, self._num_train_timesteps)]
        is_last = broadcast_to_sample(index, sample) == len(self.timesteps) - 1
        values = [broadcast_to_sample(column, sample) for column in table[index].unbind(1)]
        step = self._step(values, is_last, adds_noise=True)
        at_zero = broadcast_to_sample(timesteps.to(sample.device), sample) == 0
        return step._replace(noise_std=step.noise_std.masked_fill(at_zero, 0.0))

    def tables_on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the table and the position of each training timestep, kept on `device` once it is made."""
        if device not in self._on_device:
            with torch.inference_mode(False):
                nowhere = len(self.timesteps)
                index_of = torch.full((self._num_train_timesteps + 1,), nowhere, device="cpu")
                index_of[self._visited] = torch.arange(nowhere, device="cpu")
                self._on_device[device] = self._table.to(device), index_of.to(device)
        return self._on_device[device]
