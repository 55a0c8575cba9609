"""Sizes of pictures as people write them: height first, and nothing is guessed."""

import numpy as np
import pytest

from ddpm_from_scratch.data.sizes import as_sample_size, as_setting, order_in_words, sides
from ddpm_from_scratch.runtime.errors import ConfigError


@pytest.mark.parametrize(
    "given",
    ["48x64", "48X64", "48 x 64", " 48x64 ", "48×64", "48*64", "48,64", "48, 64", "048x064", (48, 64),
     [48, 64], (np.int64(48), 64)],
)  # fmt: skip
def test_height_comes_first_in_every_spelling(given):
    assert sides(given) == (48, 64)


@pytest.mark.parametrize("given", [64, "64", " 64", "64x64", (64, 64), np.int64(64)])
def test_one_number_is_a_square(given):
    assert sides(given) == (64, 64) and as_setting(*sides(given)) == 64 and as_sample_size(64, 64) == 64


@pytest.mark.parametrize(
    "given",
    ["", "x", "x64", "48x", "48x64x3", "48 64", "48:64", "48-64", "0x5", "5x0", "-3", "-3x4", "3x-4",
     "48.0x64", "6e1", "64px", "4_8", "auto", "nan", "(48, 64)", 0, -3, 64.0, True, [48], [48, 64, 3],
     (48, True), (48, "64"), (48, 6.5), (0, 4), [], {}, 2**15, "16385x4", "9" * 30],
)  # fmt: skip
def test_what_is_no_size_is_one_line_that_says_what_is(given):
    with pytest.raises(
        ConfigError, match=r"--resolution is .* must be height x width .*48x64.* 64"
    ) as caught:
        sides(given)
    assert "\n" not in str(caught.value)


def test_a_size_is_written_so_that_it_can_be_read():
    for size in ((48, 64), (64, 48), (7, 7)):
        assert sides(as_setting(*size)) == size and sides(as_sample_size(*size)) == size
    assert (as_setting(48, 64), as_sample_size(48, 64)) == ("48x64", (48, 64))


def test_the_order_is_said_where_there_is_one():
    assert order_in_words((3, 48, 64)) == ", 48 high, 64 wide"
    assert order_in_words((3, 64, 64)) == order_in_words((2,)) == ""
