"""The course of the learning rate over a run."""

from collections.abc import Callable

import torch
from diffusers.optimization import get_scheduler

from ...runtime.errors import ConfigError
from ..config import TrainingConfig


def rate_factor(config: TrainingConfig, total_updates: int) -> Callable[[int], float]:
    """Return what the learning rates are multiplied by, as a function of the updates done.

    That is the formula of diffusers' scheduler of this name, and nothing else of it: there is no state to
    save, or to get wrong.

    Raises:
        ConfigError: a scheduler that does not go with the rate, the warm-up and the number of updates.
    """
    try:
        schedule = get_scheduler(
            config.lr_scheduler,
            torch.optim.SGD([torch.zeros(1)], lr=config.learning_rate),
            num_warmup_steps=config.lr_warmup_steps,
            num_training_steps=total_updates,
        )
        factor: Callable[[int], float] = schedule.lr_lambdas[0]
        factor(total_updates)
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigError(
            f"--lr_scheduler {config.lr_scheduler} does not go with --learning_rate "
            f"{config.learning_rate} and {config.lr_warmup_steps} of {total_updates} updates of "
            f"warm-up ({error}); change one of them."
        ) from error
    return factor
