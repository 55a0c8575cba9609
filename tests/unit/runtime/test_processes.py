"""What one process does for all; with two processes: tests/runs/test_processes.py."""

import pytest

from ddpm_from_scratch.runtime.errors import ConfigError
from ddpm_from_scratch.runtime.processes import on_main, rank


def test_alone_it_is_a_call():
    assert on_main(lambda: 3) == 3
    with pytest.raises(ConfigError, match="^here$"):
        on_main(lambda: (_ for _ in ()).throw(ConfigError("here")))


def test_which_process_this_is_is_known_before_they_are_started(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert rank() == 0
    monkeypatch.setenv("RANK", "3")
    assert rank() == 3
