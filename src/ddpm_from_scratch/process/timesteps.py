"""Which timesteps sampling visits: a spacing and a number of steps, or a list that the caller gives."""

import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import checks

TIMESTEP_SPACINGS = ("linspace", "leading", "trailing")


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


def given_timesteps(timesteps: Any, num_train_timesteps: int) -> list[int]:
    """Return timesteps that the caller gives as a list of ints, checked: strictly falling, in 0..T-1.

    Raises:
        TypeError: no sequence of integers.
        ValueError: empty, not strictly falling, or out of range.
    """
    if hasattr(timesteps, "tolist"):
        timesteps = timesteps.tolist()
    if not isinstance(timesteps, Sequence) or isinstance(timesteps, (str, bytes)):
        raise TypeError(
            f"timesteps is {reprlib.repr(timesteps)}, but must be a list of integers from noisy to clean."
        )
    floats = [t for t in timesteps if isinstance(t, float)]
    if floats and all(t.is_integer() for t in floats):
        checks.warn("custom timesteps are floats; they are used as integers. Give integers.")
        timesteps = [int(t) if isinstance(t, float) else t for t in timesteps]
    chain = [checks.integer("a custom timestep", t, 0, num_train_timesteps - 1) for t in timesteps]
    if not chain or any(later >= earlier for earlier, later in zip(chain, chain[1:], strict=False)):
        raise ValueError(
            f"timesteps must be in descending order without repeats and not empty, got {reprlib.repr(chain)}."
        )
    return chain
