"""Stopping a run in good order: a signal is noted, and the run acts on it at the end of an update."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from accelerate import PartialState
from accelerate.utils import reduce

from .errors import Stopped

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

# Launchers and schedulers send the same signal to a process twice: as its parent and to its group. What comes
# within this time of the first belongs to it.
SAME_REQUEST_SECONDS = 1.0


class StopRequest:
    """Whether somebody asked this run to stop: the first signal asks, a second one exits at once.

    All processes stop together, so that none waits for another: `agreed` is a collective call.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._since = 0.0

    def install(self) -> None:
        """Note SIGTERM, SIGINT and SIGUSR1 from now on."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._since = signal.Signals(number), now
        elif now - self._since > SAME_REQUEST_SECONDS:
            os._exit(128 + number)

    def agreed(self) -> bool:
        """Return whether any process was asked to stop; every process gets the same answer."""
        state = PartialState()
        requested = self.signal is not None
        if state.num_processes == 1:
            return requested
        return bool(reduce(torch.tensor(float(requested), device=state.device), "sum").item())

    def check(self) -> None:
        """Raise Stopped in every process if any was asked to stop; for work after a checkpoint."""
        if self.agreed():
            raise Stopped("stopped while sampling; go on with --resume_from_checkpoint latest.")


@contextmanager
def stop_signals_held() -> Iterator[None]:
    """Hold stop signals back until the end of the block; for ever in the processes that are started in it.

    A worker of a data loader would otherwise die of a signal that comes before `ignore_stop_signals`.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_stop_signals(_: int = 0) -> None:
    """Leave the signals of a process group to the process that trains; for the workers of a data loader."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
