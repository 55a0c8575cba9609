"""Settings that are given and do nothing are said, those that are not given are not."""

import pytest

from ddpm_from_scratch.runtime.unused import Only, unused

RULES = {"power": (Only("average"),), "rank": "the launcher sets it", "two": (Only("a", (1, 2)), Only("b"))}


@pytest.mark.parametrize(
    ("only", "value", "holds"),
    [
        (Only("x"), True, True), (Only("x"), None, False), (Only("x"), 0, False), (Only("x"), "name", True),
        (Only("x", ("a", "b")), "b", True), (Only("x", ("a", "b")), "c", False),
        (Only("x", (None,)), None, True), (Only("x", (None,)), 3, False),
        (Only("x", unless=("a",)), None, True), (Only("x", unless=("a",)), "a", False),
    ],
)  # fmt: skip
def test_a_condition_holds_for_its_values(only, value, holds):
    assert only.holds({"x": value}) == holds


def test_one_line_for_each_that_is_given_and_does_nothing():
    settings = {"average": False, "power": 1, "rank": 0, "a": 3, "b": False, "other": 1}
    assert unused([], settings, RULES) == []
    assert unused(["other", "power", "rank", "two"], settings, RULES) == [
        "--power is given, but only --average uses it.",
        "--rank is given, but has no effect: the launcher sets it.",
        "--two is given, but only --a 1 or 2 uses it.",
    ]
    assert unused(["power", "two"], settings | {"average": True, "a": 1, "b": True}, RULES) == []


def test_what_switches_another_off_is_named_with_its_value():
    assert Only("steps", (None,)).in_words({"steps": 9}) == "with --steps 9 it does nothing"
    assert Only("stream", (False,)).in_words({"stream": True}) == "with --stream it does nothing"
    assert Only("name", unless=("a",)).in_words({"name": "a"}) == "with --name a it does nothing"
