"""Every row of tests/claims/array_shapes.py: what is read, what is said, and the page's table."""

import re

import pytest

import array_shapes
from common import ROOT

SHAPES = array_shapes.SHAPES


@pytest.mark.parametrize("shape", SHAPES, ids=[f"{shape.what} {shape.flags}" for shape in SHAPES])
def test_arrays_are_read_as_they_are_or_refused_in_one_line(shape):
    if shape.sample is None:
        with pytest.raises(ValueError) as caught:
            array_shapes.read(shape)
        assert type(caught.value).__name__ in ("DataError", "RangeError", "ConfigError")
        assert re.search(shape.says, str(caught.value)) and "\n" not in str(caught.value)
    else:
        outcome = array_shapes.read(shape)
        assert array_shapes.is_right(shape, outcome), outcome
        assert re.search(shape.says, outcome.printed)


def test_the_page_has_the_printed_table():
    assert array_shapes.markdown() in (ROOT / "docs" / "arrays.md").read_text()
