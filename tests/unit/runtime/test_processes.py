"""What one process does for all; with two processes: tests/runs/test_processes.py."""

import pytest

from ddpm_from_scratch.runtime.errors import ConfigError
from ddpm_from_scratch.runtime.processes import on_main


def test_alone_it_is_a_call():
    assert on_main(lambda: 3) == 3
    with pytest.raises(ConfigError, match="^here$"):
        on_main(lambda: (_ for _ in ()).throw(ConfigError("here")))
