"""Every row of tests/claims/array_shapes.py: what is read, what is said, and the page's table."""

import pytest

import array_shapes
from common import ROOT

SHAPES = array_shapes.SHAPES


@pytest.mark.parametrize("shape", SHAPES, ids=[f"{shape.what} {shape.flags}" for shape in SHAPES])
def test_arrays_are_read_as_they_are_or_refused_in_one_line(shape):
    kind, said = array_shapes.verdict(shape)
    assert kind == ("clear" if shape.sample is None else "right"), said


def test_the_page_has_the_printed_table():
    assert array_shapes.markdown() in (ROOT / "docs" / "arrays.md").read_text()
