"""A signal asks a run to stop; it ends in good order."""

import os
import signal
import threading

import pytest

from ddpm_from_scratch.runtime import stop
from ddpm_from_scratch.runtime.errors import Stopped


@pytest.fixture
def request_(monkeypatch):
    """An installed request, and the exit statuses it would have ended the process with."""
    before = {number: signal.getsignal(number) for number in stop.STOP_SIGNALS}
    exits = []
    monkeypatch.setattr(stop.os, "_exit", exits.append)
    installed = stop.StopRequest()
    installed.install()
    yield installed, exits
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", stop.STOP_SIGNALS)
def test_a_signal_is_noted_and_acted_on_when_asked(request_, number):
    installed, exits = request_
    installed.check()
    os.kill(os.getpid(), number)
    assert installed.agreed() and installed.signal == number and exits == []
    with pytest.raises(Stopped, match="resume_from_checkpoint latest"):
        installed.check()


def test_a_second_signal_ends_at_once_unless_it_belongs_to_the_first(request_, monkeypatch):
    installed, exits = request_
    now = [100.0]
    monkeypatch.setattr(stop.time, "monotonic", lambda: now[0])
    os.kill(os.getpid(), signal.SIGTERM)
    now[0] += stop.SAME_REQUEST_SECONDS
    os.kill(os.getpid(), signal.SIGTERM)
    assert exits == [], "the launcher's own and that to its group"
    now[0] += 0.1
    os.kill(os.getpid(), signal.SIGINT)
    assert exits == [128 + signal.SIGINT]


def test_signals_are_held_back_in_the_block_and_come_after_it(request_):
    installed, _ = request_
    with stop.stop_signals_held():
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)  # other threads do not hold it back
        assert installed.signal is None
    assert installed.signal == signal.SIGUSR1
