"""Ranges of numbers: which are known, which are asked for, and how they become [-1, 1]."""

import numpy as np
import pytest
import torch

from ddpm_from_scratch.data.values import (
    BYTE,
    DataError,
    RangeError,
    Values,
    in_network_units,
    to_network_units,
)


def seen(*arrays, given=None):
    """Return what is known after some pictures."""
    values = Values(given)
    for array in arrays:
        array = np.asarray(array).reshape(1, -1, 1)
        values.see(array, values.range_of(array, None, "image 0"))
    return values


def test_bytes_have_the_arithmetic_that_they_always_had():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_network_units(levels), levels.float() / 127.5 - 1)


def test_digits_in_0_to_16_are_an_eighth_less_one_bit_for_bit():
    digits = torch.arange(17, dtype=torch.float64)
    assert torch.equal(to_network_units(digits, 0, 16), torch.arange(17).float() / 8 - 1)


@pytest.mark.parametrize(("low", "high"), [(-1024, 3071), (0, 1), (-1, 1), (0.5, 2.5), (2**31 - 4, 2**31)])
def test_the_ends_of_a_range_are_minus_one_and_one(low, high):
    ends = to_network_units(torch.tensor([low, (low + high) / 2, high], dtype=torch.float64), low, high)
    assert ends.dtype == torch.float32 and ends.tolist() == [-1, 0, 1]


def test_pictures_of_eight_and_of_more_bits_go_into_one_batch():
    deep = torch.full((1, 2, 2), 0.25)
    batch = in_network_units([torch.full((1, 2, 2), 255, dtype=torch.uint8), deep])
    assert batch.dtype == torch.float32 and batch[:, 0, 0, 0].tolist() == [1, 0.25]


@pytest.mark.parametrize(("kind", "high"), [(np.uint8, 255), (np.uint16, 65535), (">u2", 65535), (bool, 1)])
def test_kinds_that_say_their_range(kind, high):
    assert Values().range_of(np.zeros((1, 1, 1), kind), None, "image 0") == (0, high)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int16, np.int32, np.uint32])
def test_kinds_that_do_not_are_asked_for_with_their_numbers(kind):
    array = np.array([1, 3, 2], dtype=kind).reshape(1, 3, 1)
    with pytest.raises(RangeError, match=r"image 7 has .* from 1 to 3.*--value_range LOW HIGH") as caught:
        Values().range_of(array, None, "image 7")
    assert (caught.value.least, caught.value.most) == (1, 3)


@pytest.mark.parametrize("numbers", [[-1.0, 3], [0.0, 5]])
def test_numbers_outside_the_range_are_refused_with_the_numbers(numbers):
    with pytest.raises(DataError, match=rf"from {numbers[0]:g} to {numbers[1]:g}, but must be in 0 to 4"):
        seen(numbers, given=(0, 4))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(wrong):
    with pytest.raises(DataError, match="not finite"):
        seen([0.5, wrong], given=(0, 1))


def test_levels():
    byte, word = np.array([0, 255], np.uint8), np.array([0, 65535], np.uint16)
    assert Values().levels == 256 and seen(byte).levels == 256 and seen(word).levels == 65536
    assert seen(byte, word).levels == 65536  # 257 k of 65535 is k of 255
    assert seen(np.array([0, 16]), given=(0, 16)).levels == 17
    assert seen(np.array([-3, 4], np.int32), given=(-1024, 3071)).levels == 4096
    assert seen(np.array([0, 0.5]), given=(0, 1)).levels is None
    assert seen(np.array([0, 1]), given=(-0.5, 1.5)).levels is None
    assert seen(np.array([False, True])).levels == 2


def test_levels_that_are_not_among_those_of_deeper_pictures_are_no_levels():
    values = seen(np.array([0, 255], np.uint8))
    values.see(np.array([[[0], [4095]]], np.uint16), (0, 4095))
    assert values.levels is None


@pytest.mark.parametrize(
    ("numbers", "advice"),
    [
        (np.array([3, 3900], np.uint16), "--value_range 0 4095"),  # 12 bits in 16
        (np.array([0, 900], np.uint16), "--value_range 0 1023"),  # 10 bits
        (np.array([0, 16000], np.uint16), "--value_range 0 16383"),  # 14 bits
        (np.array([0, 16], np.uint8), "--value_range 0 16"),  # digits of scikit-learn
        (np.array([0, 1], np.uint8), "--value_range 0 1"),  # masks
        (np.array([7, 7], np.uint8), "a single value, 7"),
    ],
)
def test_data_that_use_a_small_part_of_their_range_are_told(numbers, advice):
    assert advice in seen(numbers).remark("the pictures")


def test_data_that_fill_their_range_are_not_told():
    dark, bright = np.array([0, 3], np.uint8), np.array([200, 255], np.uint8)
    assert seen(dark, bright).remark("x") is None
    assert seen(np.array([0, 16383], np.uint16) + 2**14).remark("x") is not None  # narrow, in the middle
    assert seen(np.array([0, 1], np.uint8), given=(0, 255)).remark("x") is None  # it was said
    assert Values().remark("x") is None


def test_transparency_does_not_hide_that_the_colours_are_dark():
    values = Values()
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0, 0], pixels[..., 3] = 9, 255
    values.see(pixels, BYTE)
    assert "from 0 to 9" in values.remark("x")


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_advised_range_holds_the_numbers(kind):
    """Rounded to nine digits like other numbers it would leave the ends out."""
    for seed in range(20):
        array = (np.random.default_rng(seed).standard_normal((1, 9, 1)) * 10.0 ** (seed - 10)).astype(kind)
        with pytest.raises(RangeError) as caught:
            Values().range_of(array, None, "image 0")
        advised = str(caught.value).split("such as --value_range ")[1].split(";")[0].split()
        limits = tuple(map(float, advised))
        assert Values(limits).range_of(array, None, "image 0") == limits
