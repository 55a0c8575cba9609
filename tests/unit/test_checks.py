"""Checks say what was got, what is allowed and what to do; what is right goes through unchanged."""

import math

import numpy as np
import pytest
import torch

from ddpm_from_scratch import checks


@pytest.mark.parametrize("value", [3, np.int64(3), torch.tensor(3)], ids=repr)
def test_an_integer_of_any_kind_is_an_int(value):
    assert type(checks.integer("n", value, 1, 3)) is int and checks.integer("n", value, 1) == 3


def test_an_integral_float_is_taken_with_a_warning():
    with pytest.warns(checks.SchedulerWarning, match="n is 10.0; it is used as 10"):
        assert checks.integer("n", 10.0, 1) == 10


@pytest.mark.parametrize(
    ("value", "error"),
    [
        *((wrong, TypeError) for wrong in (True, "3", 2.5, torch.tensor([1, 2]), None)),
        *((wrong, ValueError) for wrong in (0, 6)),
    ],
    ids=repr,
)
def test_what_is_no_integer_in_range_is_refused_with_the_range(value, error):
    with pytest.raises(error, match="n is .*must be an integer of at least 1 and at most 5"):
        checks.integer("n", value, 1, 5)


@pytest.mark.parametrize("value", [0.0, 1.0, math.nan, math.inf, -math.inf])
def test_a_number_must_lie_between_and_nan_lies_nowhere(value):
    with pytest.raises(ValueError, match="x is .*between 0 and 1"):
        checks.real("x", value, 0, 1, exclusive=True)
    if value in (0.0, 1.0):
        assert checks.real("x", value, 0, 1) == value


def test_a_word_for_false_is_not_true():
    assert checks.flag("clip", np.bool_(False)) is False
    for value in ("false", 0, 1, None):
        with pytest.raises(TypeError, match="clip is .*without quotes"):
            checks.flag("clip", value)


def test_a_wrong_word_is_answered_with_the_right_ones_and_a_hint():
    with pytest.raises(ValueError, match="kind is 'EPS', but must be one of .*'epsilon'.* Say epsilon.$"):
        checks.choice("kind", "EPS", ("epsilon", "sample"), {"eps": "Say epsilon."})


def test_an_unknown_keyword_is_answered_with_the_nearest():
    checks.keywords("f", {"size"}, {"size", "seed"})
    with pytest.raises(TypeError, match="f got an unexpected keyword argument 'sede'; did you mean 'seed'"):
        checks.keywords("f", {"sede"}, {"size", "seed"})
    with pytest.raises(TypeError, match="its settings are seed, size"):
        checks.keywords("f", {"xyz"}, {"size", "seed"})


@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        ([0.5], TypeError, "list, but must be a torch.Tensor"),
        (torch.zeros(2, dtype=torch.uint8), TypeError, "images / 127.5 - 1"),
        (torch.tensor(0.5), ValueError, "no dimension"),
    ],
    ids=["list", "integers", "no batch"],
)
def test_samples_are_floating_point_with_a_batch(value, error, says):
    right = torch.zeros(2, 3)
    assert checks.samples("sample", right) is right
    for check in (
        lambda: checks.samples("sample", value),
        lambda: checks.samples_on_one_device("sample", value, "model_output", right),
        lambda: checks.noise_like("sample", value, "original_samples", right),
    ):
        with pytest.raises(error, match=f"sample .*{says}"):
            check()


def test_nothing_is_broadcast_and_nothing_moved_between_devices():
    samples = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"noise has shape \(1, 3\), but must have the shape of x, \(4, 3\)"):
        checks.noise_like("noise", torch.zeros(1, 3), "x", samples)
    for check in (checks.noise_like, checks.samples_on_one_device):
        with pytest.raises(ValueError, match="noise is on meta and x on cpu; move one"):
            check("noise", torch.zeros(4, 3, device="meta"), "x", samples)


def test_a_source_of_randomness_for_all_or_for_each():
    one, two = torch.Generator(), torch.Generator()
    assert checks.generator(None, 3) is None and checks.generator([one], 3) is checks.generator(one, 3) is one
    assert checks.generator((one, two), 2) == [one, two]
    with pytest.raises(ValueError, match="got 2 generators for 3 samples"):
        checks.generator([one, two], 3)
    for wrong in (0, [0, 1], "cpu"):
        with pytest.raises(TypeError, match="manual_seed"):
            checks.generator(wrong, 2)
