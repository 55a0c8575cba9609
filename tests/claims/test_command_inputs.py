"""Every row of tests/claims/command_inputs.py: bad ones are refused in one line, right ones followed."""

import pytest

from command_inputs import INPUTS, right, verdict


@pytest.mark.parametrize("one", INPUTS, ids=[one.what for one in INPUTS])
def test_a_bad_input_of_a_command_is_answered_and_a_right_one_followed(one):
    kind, said = verdict(one)
    assert kind == ("clear" if one.is_bad else "right"), said


def test_a_result_that_is_not_right_and_a_word_too_many_show():
    assert (
        verdict(right("", lambda _: False))[0] == verdict(right("", lambda _: True, "a word"))[0] == "wrong"
    )


def test_no_input_is_there_twice():
    assert len({one.what for one in INPUTS}) == len(INPUTS)
