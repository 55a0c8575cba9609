"""Every row of tests/claims/folder_shapes.py: what is used, what is said, and the page's table."""

import pytest

import folder_shapes
from common import ROOT

SHAPES = folder_shapes.SHAPES


@pytest.mark.parametrize("shape", SHAPES, ids=[shape.what for shape in SHAPES])
def test_every_picture_is_used_or_named(shape):
    kind, printed = folder_shapes.verdict(shape)
    assert kind == ("clear" if shape.used is None else "right"), printed
    assert "\n" not in printed


def test_a_file_that_is_neither_used_nor_counted_shows():
    shape = folder_shapes.SHAPES[0]
    fewer = folder_shapes.Outcome(6, "data: 7 found in photos, 6 used")
    assert folder_shapes.is_silent(shape, fewer)


def test_there_are_at_least_60_shapes():
    assert len({(shape.what, shape.labels, str(shape.flags)) for shape in SHAPES}) >= 60


def test_the_page_has_the_printed_table():
    assert folder_shapes.markdown() in (ROOT / "docs" / "data.md").read_text()
