"""Which axis of an array holds the channels."""

import numpy as np
import pytest

from ddpm_from_scratch.data.arrays import array_of, channel_axis, channels_of, picture_of_array
from ddpm_from_scratch.data.values import DataError


@pytest.mark.parametrize(
    ("shape", "channels", "axis"),
    [
        ((28, 28), None, None),
        ((28, 28), 1, None),
        ((28, 28, 1), None, 2),
        ((1, 28, 28), None, 0),
        ((20, 30, 3), None, 2),
        ((3, 20, 30), None, 0),
        ((4, 20, 30), None, 0),
        ((20, 30, 5), 5, 2),
        ((5, 20, 30), 5, 0),
        ((3, 8, 8), 3, 0),
        ((8, 3, 3), 3, 2),
        ((3, 3, 4), None, 2),  # a square of 3, not 3 channels of 3 x 4
        ((3, 4, 4), None, 0),
        ((4, 4, 1), 1, 2),
        ((4, 4, 1), 4, 0),  # as was said
        ((1, 28, 28), 1, 0),
    ],
)
def test_the_axis_of_the_channels(shape, channels, axis):
    assert channel_axis(shape, channels, "image 0") == axis
    if channels is None:
        assert channels_of(shape, "image 0") == (1 if axis is None else shape[axis])


@pytest.mark.parametrize(
    ("shape", "channels", "message"),
    [
        ((3, 3, 3), None, "first or the last axis"),
        ((3, 9, 3), 3, "first or the last axis"),
        ((8, 8, 5), None, "--channels"),
        ((8, 8, 3), 1, r"must be \(H, W\), \(H, W, 1\) or \(1, H, W\)"),
        ((8, 8), 3, r"must be \(H, W, 3\) or \(3, H, W\)"),
        ((8,), None, r"\(8,\), but must be"),
        ((2, 8, 8, 3), 3, r"\(2, 8, 8, 3\), but must be"),
        ((), None, r"\(\), but must be"),
    ],
)
def test_what_one_cannot_tell_is_asked_for(shape, channels, message):
    with pytest.raises(DataError, match=message):
        channel_axis(shape, channels, "image 0")


def test_whole_numbers_of_a_wide_kind_are_bytes_if_they_fit():
    assert picture_of_array(np.array([[0, 255]] * 2), 1, "x").dtype == np.uint8
    assert picture_of_array(np.array([[0, 256]] * 2), 1, "x").dtype == np.int64
    assert picture_of_array(np.array([[0, 255]] * 2, np.uint16), 1, "x").dtype == np.uint16
    assert picture_of_array(np.array([[0, 255]] * 2, ">u2"), 1, "x").dtype == ">u2"
    assert picture_of_array(np.array([[0, 255]] * 2, np.float32), 1, "x").dtype == np.float32


def test_lists_have_the_kind_that_their_column_says():
    assert array_of([[0, 5]], "uint16", "x").dtype == np.uint16
    for wrong in ([[1, 2], [3]], [["a"]], [[None]]):
        with pytest.raises(DataError, match="x is .* not an array"):
            array_of(wrong, "uint16", "x")
