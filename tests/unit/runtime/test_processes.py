"""What one process does for all: its result or its error reaches each."""

import json
import os
import subprocess
import sys

import pytest

import runs
from ddpm_from_scratch.runtime.errors import ConfigError
from ddpm_from_scratch.runtime.processes import on_main

IN_TWO_PROCESSES = """
import json, os, sys
from accelerate import PartialState
from ddpm_from_scratch.runtime.errors import StorageError
from ddpm_from_scratch.runtime.processes import on_main

class Odd(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} {second}")

class Local(Exception):
    def __reduce__(self):
        raise TypeError("cannot be sent")

def fail(error):
    calls.append(0)
    raise error

def tried(work):
    try:
        return on_main(work)
    except Exception as error:
        return [type(error).__name__, str(error)]

state, calls = PartialState(cpu=True), []
seen = [
    tried(lambda: calls.append(0) or state.process_index),
    tried(lambda: fail(StorageError("full"))),
    tried(lambda: fail(Odd("two", "words"))),
    tried(lambda: fail(Local("here"))),
    tried(lambda: (lambda: 0)),
    tried(lambda: "at last"),
]
with open(sys.argv[1] + str(state.process_index), "w") as file:
    json.dump([seen, len(calls)], file)
state.destroy_process_group()
"""


def test_alone_it_is_a_call():
    assert on_main(lambda: 3) == 3
    with pytest.raises(ConfigError, match="^here$"):
        on_main(lambda: (_ for _ in ()).throw(ConfigError("here")))


def test_result_and_error_of_the_main_process_reach_all(tmp_path):
    """Also an error that a pickle cannot bring over, and none of them leaves a process waiting."""
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(runs._free_port())}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", IN_TWO_PROCESSES, str(tmp_path / "seen")],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    (main, main_calls), (other, other_calls) = (
        json.loads((tmp_path / f"seen{rank}").read_text()) for rank in range(2)
    )
    assert (main_calls, other_calls) == (4, 0)
    assert main[0] == other[0] == 0 and main[-1] == other[-1] == "at last"
    assert main[1] == other[1] == ["StorageError", "full"]
    assert main[2] == ["Odd", "two words"] and other[2] == ["RuntimeError", "Odd: two words"]
    assert main[3] == ["Local", "here"] and other[3] == ["RuntimeError", "Local: here"]
    assert main[4][0] == other[4][0] and "pickle" in main[4][1], "a result that cannot be sent is an error"
