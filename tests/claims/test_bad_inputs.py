"""Every bad input gets a clear error, every unusual but right one the right result."""

import re

import pytest

from bad_inputs import BAD, RIGHT, bad_outcome, right_outcome
from ddpm_from_scratch import DDPMFromScratchScheduler

pytestmark = pytest.mark.filterwarnings("ignore::ddpm_from_scratch.SchedulerWarning")

# How a message says what is allowed.
ALLOWED = "must|needs|[Gg]ive|Call step only|Take fewer|move one|may have"


def name(case):
    return case.name


@pytest.mark.parametrize("case", BAD, ids=name)
def test_bad_input_raises_an_error_that_says_what_was_got_and_what_is_allowed(case):
    outcome, message = bad_outcome(case, DDPMFromScratchScheduler)
    assert outcome == "clear", message
    for part in (case.argument, case.got, ALLOWED):
        assert re.search(part, message), f"{part!r} is not in {message!r}"


@pytest.mark.parametrize("case", RIGHT, ids=name)
def test_unusual_input_gives_the_right_result(case):
    assert right_outcome(case, DDPMFromScratchScheduler) == ("right", "")


def test_there_are_at_least_150_bad_inputs():
    assert len({case.name for case in BAD}) >= 150
    assert all(case.argument and case.got for case in BAD)


def test_there_are_at_least_50_unusual_but_right_inputs():
    assert len({case.name for case in RIGHT}) >= 50
