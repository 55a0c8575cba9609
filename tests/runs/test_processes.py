"""What one process does for all: its result or its error reaches each."""

import json

from runs import Run

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


def test_result_and_error_of_the_main_process_reach_all(tmp_path):
    """Also an error that a pickle cannot bring over, and none of them leaves a process waiting."""
    (tmp_path / "two.py").write_text(IN_TWO_PROCESSES)
    done = Run([str(tmp_path / "seen")], processes=2, script=tmp_path / "two.py").wait(120)
    assert done.returncode == 0, done.stderr
    (main, main_calls), (other, other_calls) = (
        json.loads((tmp_path / f"seen{rank}").read_text()) for rank in range(2)
    )
    assert (main_calls, other_calls) == (4, 0)
    assert main[0] == other[0] == 0 and main[-1] == other[-1] == "at last"
    assert main[1] == other[1] == ["StorageError", "full"]
    assert main[2] == ["Odd", "two words"] and other[2] == ["RuntimeError", "Odd: two words"]
    assert main[3] == ["Local", "here"] and other[3] == ["RuntimeError", "Local: here"]
    assert main[4][0] == other[4][0] and "pickle" in main[4][1], "a result that cannot be sent is an error"
