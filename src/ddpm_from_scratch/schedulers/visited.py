"""The timesteps that a pipeline visits with any scheduler: a number of them, given ones, or the last part."""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch

from .. import checks

#: How much of the chain is run on a picture if nobody says, as in diffusers.
DEFAULT_STRENGTH = 0.8


def default_num_inference_steps(scheduler: Any) -> int:
    """Return how many timesteps are visited if nobody says: few with a scheduler that is made for few."""
    num_train_timesteps = scheduler.config.num_train_timesteps
    return getattr(scheduler, "default_num_inference_steps", num_train_timesteps)


def visited_timesteps(
    scheduler: Any,
    num_inference_steps: Any = None,
    timesteps: Sequence[int] | None = None,
    strength: float | None = None,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Tell a scheduler which timesteps to visit, and return those that are visited, shape (S,).

    Args:
        scheduler: of this package or of diffusers.
        num_inference_steps: n timesteps, spaced as the scheduler does; its default if nothing is given.
        timesteps: falling timesteps instead.
        strength: in (0, 1], to visit only the last floor(n strength) of the n timesteps; None for all.
        device: of the timesteps.

    Raises:
        ValueError, TypeError: a number that is not allowed, both of the first two, a scheduler that takes no
            timesteps, or a strength that leaves none.
    """
    if timesteps is None:
        if num_inference_steps is None:
            num_inference_steps = default_num_inference_steps(scheduler)
        count = checks.integer("num_inference_steps", num_inference_steps, 1)
        scheduler.set_timesteps(count, device=device)
    else:
        if num_inference_steps is not None:
            raise ValueError(
                f"num_inference_steps is {num_inference_steps!r} and timesteps are given, too: give one."
            )
        if "timesteps" not in inspect.signature(scheduler.set_timesteps).parameters:
            raise ValueError(
                f"timesteps are given, but {type(scheduler).__name__} takes none: give num_inference_steps, "
                "or take DDPMFromScratchScheduler or FewStepScheduler."
            )
        scheduler.set_timesteps(timesteps=_as_list(timesteps), device=device)
        count = len(timesteps)
    if strength is None:
        return scheduler.timesteps
    strength = checks.real("strength", strength, 0, 1)
    kept = math.floor(count * strength + 1e-9)  # 0.58 of 50 is 29
    if kept < 1:
        raise ValueError(
            f"strength is {strength:g}, which leaves none of {count} timesteps: at least {1 / count:.3g} "
            "leaves one."
        )
    begin = (count - kept) * getattr(scheduler, "order", 1)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    return scheduler.timesteps[begin:]


def _as_list(timesteps: Any) -> list[int]:
    """Return timesteps as the list that every scheduler takes."""
    return timesteps.tolist() if hasattr(timesteps, "tolist") else list(timesteps)
