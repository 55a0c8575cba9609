"""Timesteps: which of them sampling visits, and the one check of those that a caller gives."""

import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .. import checks

# Order of the timesteps of a chain -> what they must do.
ORDERS = {
    "falling": "be in descending order without repeats, from noisy to clean",
    "rising": "be in ascending order without repeats, from clean to noisy",
    "monotone": "all rise or all fall",
    "distinct": "differ: a chain visits each once",
}


class Chain:
    """Timesteps that are visited, from noisy to clean, and where each of them is.

    Args:
        timesteps: strictly falling, in 0..T-1.
    """

    def __init__(self, timesteps: list[int]):
        self.timesteps = timesteps
        self._index_of = {t: index for index, t in enumerate(timesteps)}

    def index(self, timestep: int) -> int:
        """Return the position of `timestep` in the chain.

        Raises:
            ValueError: it is not in the chain.
        """
        index = self._index_of.get(timestep)
        if index is None:
            shown = ", ".join(map(str, self.timesteps[:5])) + (", ..." if len(self.timesteps) > 5 else "")
            raise ValueError(
                f"timestep {timestep} is not one of the {len(self.timesteps)} that set_timesteps chose "
                f"({shown}). Call step only with values of scheduler.timesteps."
            )
        return index


def spaced_timesteps(
    num_inference_steps: int, num_train_timesteps: int, timestep_spacing: str, steps_offset: int = 0
) -> list[int]:
    """Return n timesteps from noisy to clean, strictly falling, in 0..T-1.

    linspace  round(i (T - 1) / (n - 1))
    leading   i floor(T / n) + steps_offset
    trailing  round(T - i T / n) - 1                     (Lin et al. 2024, arXiv:2305.08891, table 2)

    Where T - i T / n is half-way between two integers, "trailing" rounds as DDPMScheduler's float arange
    does.

    Args:
        num_inference_steps: n in 1..T.
        num_train_timesteps: T.
        timestep_spacing: one of `TIMESTEP_SPACINGS`.
        steps_offset: added to the timesteps of "leading".

    Raises:
        ValueError: "leading" with an offset past the last timestep.
    """
    counts = np.arange(num_inference_steps)
    if timestep_spacing == "linspace":
        rising = np.linspace(0, num_train_timesteps - 1, num_inference_steps).round().astype(np.int64)
    elif timestep_spacing == "leading":
        rising = counts * (num_train_timesteps // num_inference_steps) + steps_offset
        if rising[-1] >= num_train_timesteps:
            raise ValueError(
                f"num_inference_steps={num_inference_steps} with steps_offset={steps_offset} starts at "
                f"timestep {rising[-1]}, but the last one is {num_train_timesteps - 1}. Take fewer steps or "
                "steps_offset=0."
            )
    else:
        # T - i T/n with the rounding of the float arange of DDPMScheduler, but always n of them.
        difference = (num_train_timesteps - num_train_timesteps / num_inference_steps) - num_train_timesteps
        rising = np.round(num_train_timesteps + counts * difference).astype(np.int64)[::-1] - 1
    return rising[::-1].tolist()


def check_one_given(num_inference_steps: Any, timesteps: Any) -> None:
    """Raise ValueError unless exactly one of the two is given."""
    if (num_inference_steps is None) == (timesteps is None):
        raise ValueError(
            "set_timesteps needs exactly one of num_inference_steps and timesteps, got "
            + ("both." if timesteps is not None else "neither.")
        )


def checked_timesteps(
    value: Any,
    num_train_timesteps: int,
    *,
    batch_size: int | None = None,
    order: str | None = None,
    read: bool = True,
) -> torch.Tensor:
    """Return timesteps as integers, checked, shape (S,) or, for a batch, (B,) or (1,).

    Of a batch, only values on the CPU are read: an accelerator is not waited for. It stops with an assertion
    where timesteps that are out of range are looked up.

    Args:
        value: integers in 0..T-1; a sequence, an array or a tensor, of a batch also a single one. Floats
            without a fraction are taken with a warning.
        num_train_timesteps: T.
        batch_size: B, for the timesteps of a batch: one for all samples or one for each, shape (B,) or
            (B, 1). None for those of a chain: at least one, all of them read, returned on the CPU.
        order: of a chain, one of `ORDERS`; None for any.
        read: whether values of a batch are read where that needs no wait; False where the look-up that
            follows refuses what is out of range at no cost.

    Raises:
        TypeError: not integers.
        ValueError: a wrong shape, a fraction, out of range, or not in that order.
    """
    if batch_size is None:
        return _of_a_chain(value, num_train_timesteps, order)
    if not (isinstance(value, torch.Tensor) and value.dtype == torch.int64 and value.shape == (batch_size,)):
        value = _of_a_batch(value, batch_size, num_train_timesteps)
    if read and value.is_cpu and value.numel() and not torch.compiler.is_compiling():
        try:
            low, high = (int(bound) for bound in value.aminmax())
        except RuntimeError:  # inside vmap or with fake tensors there are no values
            return value
        if low < 0 or high >= num_train_timesteps:
            raise ValueError(
                f"timesteps reach from {low} to {high}, but must be in 0..{num_train_timesteps - 1}."
            )
    return value


def _of_a_batch(value: Any, batch_size: int, num_train_timesteps: int) -> torch.Tensor:
    """Return one timestep for all samples or one for each, int64, of any value."""
    expected = f"integers in 0..{num_train_timesteps - 1}, one for all samples or shape ({batch_size},)"
    if not isinstance(value, torch.Tensor):
        try:
            value = torch.as_tensor(np.asarray(value))
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"timesteps are {reprlib.repr(value)}, but must be {expected}.") from None
    if value.numel() != 1 and value.shape not in ((batch_size,), (batch_size, 1)):
        raise ValueError(f"timesteps have shape {tuple(value.shape)}, but must be {expected}.")
    if value.dtype == torch.bool or value.is_complex():
        raise TypeError(f"timesteps have dtype {value.dtype}, but must be {expected}.")
    if value.is_floating_point():
        if not bool((value.isfinite() & (value == value.round())).all()):
            raise ValueError(f"timesteps are {reprlib.repr(value.tolist())}, but must be {expected}.")
        checks.warn(f"timesteps have dtype {value.dtype}; they are used as integers. Give an integer tensor.")
    return value.long().reshape(-1)


def _of_a_chain(value: Any, num_train_timesteps: int, order: str | None) -> torch.Tensor:
    """Return timesteps that are visited one after another, in that order."""
    given = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)):
        raise TypeError(
            f"timesteps are {reprlib.repr(given)}, but must be a list of integers in "
            f"0..{num_train_timesteps - 1}."
        )
    floats = [t for t in given if isinstance(t, float)]
    if floats and all(t.is_integer() for t in floats):
        checks.warn("timesteps are floats; they are used as integers. Give integers.")
        given = [int(t) if isinstance(t, float) else t for t in given]
    chain = [checks.integer("a timestep", t, 0, num_train_timesteps - 1) for t in given]
    if not chain:
        raise ValueError("timesteps are [], but there must be at least one.")
    rises, falls = (
        all((b - a) * sign > 0 for a, b in zip(chain, chain[1:], strict=False)) for sign in (1, -1)
    )
    distinct = len(set(chain)) == len(chain)
    kept = {"falling": falls, "rising": rises, "monotone": rises or falls, "distinct": distinct}
    if order is not None and not kept[order]:
        raise ValueError(f"timesteps are {reprlib.repr(chain)}, but must {ORDERS[order]}.")
    return torch.tensor(chain, device="cpu")


def check_signal(timesteps: torch.Tensor, alphas_cumprod: torch.Tensor, prediction_type: str) -> None:
    """Raise ValueError for a timestep where the noise says nothing of x_0, because alpha-bar is 0 there.

    Args:
        timesteps: in 0..T-1, shape (S,).
        alphas_cumprod: alpha-bar, falling, shape (T,).
        prediction_type: what the network predicts; only "epsilon" needs signal.
    """
    highest = int(timesteps.max())  # alpha-bar falls
    if prediction_type == "epsilon" and float(alphas_cumprod[highest]) == 0:
        raise ValueError(
            f"alpha_bar of timestep {highest} is 0 (rescale_betas_zero_snr), where epsilon says nothing of "
            "x_0: leave it out of the timesteps, or take a network that predicts v."
        )
