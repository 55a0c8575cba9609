"""The processes of a run: which one this is, and work that one does for all of them."""

import os
import pickle
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")


def rank() -> int:
    """Return the number of this process among those of the run, 0 if it is alone; known before any start."""
    return int(os.environ.get("RANK", 0))


def on_main(work: Callable[[], Result]) -> Result:
    """Return in every process what `work` gave in the main one, the only one that does it.

    All processes must call it; they wait for the main one. If `work` raises, the same error is raised in all,
    so that none waits for a process that has ended.

    Args:
        work: takes nothing; what it returns or raises must be picklable where there are several processes.

    Raises:
        Exception: what `work` raised; in the other processes a RuntimeError with its text if it cannot be
            sent.
    """
    # Not before it is needed: torch takes seconds to load, and `rank` is for command lines, too.
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    state = PartialState()
    if state.num_processes == 1:
        return work()
    outcome: list[Any] = [None, None]
    if state.is_main_process:
        try:
            outcome[0] = work()
            pickle.dumps(outcome[0])
        except Exception as error:
            outcome = [None, error]
    sent = [outcome[0], _sendable(outcome[1])]
    broadcast_object_list(sent)
    result, failure = outcome if state.is_main_process else sent
    if failure is not None:
        raise failure
    return result


def _sendable(error: Exception | None) -> Exception | None:
    """Return an error, or one with its text if it is lost on the way: not all can be made from a pickle."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
