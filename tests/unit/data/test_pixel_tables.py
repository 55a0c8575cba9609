"""Rows of tables of pixels, as Kaggle, UCI and numpy write them."""

import gzip

import numpy as np
import pytest

from ddpm_from_scratch.data.pixel_tables import is_table_of_pixels, load_table
from ddpm_from_scratch.data.values import DataError

PIXELS = np.arange(32).reshape(16, 2).T
LABELS = ["cat", "dog"]
NAMES = [f"pixel{number}" for number in range(16)]


def lines(*columns, header=None, between=","):
    rows = [[str(cell) for cell in row] for row in zip(*columns, strict=True)]
    return "\n".join(between.join(row) for row in ([header] if header else []) + rows) + "\n"


def table(folder, text, name="a.csv"):
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    return path


def load(path, label=None, channels=None, size=None, **options):
    return load_table(path, "image", label, channels, size, **options)


@pytest.mark.parametrize("between", [",", ";", "\t", " "])
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("start", ["", "﻿", "\n"])
def test_a_header_with_a_label_as_kaggle_has_it(tmp_path, between, name, start):
    text = start + lines(LABELS, *PIXELS.T, header=["label", *NAMES], between=between)
    path = table(tmp_path, text, name)
    rows = load(path, "label")
    assert is_table_of_pixels(path) and rows["label"] == LABELS
    assert rows[1]["image"].dtype == np.uint8 and np.array_equal(rows[1]["image"], PIXELS[1].reshape(4, 4))
    assert load(path).column_names == ["image"]  # the labels are no pixels, wanted or not


def test_names_by_row_and_column(tmp_path):
    names = [f"{row}x{column}" for row in range(1, 5) for column in range(1, 5)]
    path = table(tmp_path, lines([7, 8], *PIXELS.T, header=["label", *names]))
    assert np.array_equal(load(path, "label")[0]["image"].ravel(), PIXELS[0]) and load(path, "label")[
        "label"
    ] == [7, 8]


def test_pixels_come_by_their_numbers(tmp_path):
    order = sorted(range(16), key=str)  # 0, 1, 10, 11, ... as some tools sort names
    path = table(tmp_path, lines(*PIXELS.T[order], header=[NAMES[place] for place in order]))
    assert np.array_equal(load(path)[0]["image"].ravel(), PIXELS[0])


def test_columns_that_are_no_pixels_are_left_out(tmp_path):
    path = table(tmp_path, lines(["a", "b"], *PIXELS.T, LABELS, header=["id", *NAMES, "kind"]))
    assert is_table_of_pixels(path)
    assert load(path, "kind")["kind"] == LABELS and load(path)[0]["image"].shape == (4, 4)


def test_without_a_header(tmp_path):
    path = table(tmp_path, lines(*PIXELS.T))
    assert np.array_equal(load(path)[1]["image"].ravel(), PIXELS[1])
    first = table(tmp_path, lines([5, 6], *PIXELS.T))
    assert load(first, "0")["0"] == [5, 6] and np.array_equal(load(first, "0")[1]["image"].ravel(), PIXELS[1])
    last = table(tmp_path, lines(*PIXELS.T, [5, 6]))
    assert load(last, "16")["16"] == [5, 6] and np.array_equal(
        load(last, "16")[1]["image"].ravel(), PIXELS[1]
    )
    with pytest.raises(DataError, match=r"17 columns, one more .* --label_column 0 .* or 16"):
        load(last)


def test_fractions_stay_fractions(tmp_path):
    np.savetxt(tmp_path / "a.csv", PIXELS / 3, delimiter=",")
    assert np.array_equal(load(tmp_path / "a.csv")[1]["image"].ravel(), PIXELS[1] / 3)


def test_large_numbers_keep_their_kind(tmp_path):
    path = table(tmp_path, lines(*(PIXELS.T * 100)))
    assert load(path)[1]["image"].max() == 3100


def test_colours_are_planes(tmp_path):
    path = table(tmp_path, lines(*np.arange(48)[::-1, None]))
    assert load(path, channels=3)[0]["image"].shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "is empty"),
        ("\n\n", {}, "is empty"),
        (",".join(["label", *NAMES]) + "\n", {}, "no lines of numbers|cannot be read"),
        (lines(*PIXELS.T[:15]), {}, "15 numbers for each picture, which is no square"),
        (
            lines(LABELS, *PIXELS.T, header=["label", *NAMES]),
            {"label": "kind"},
            "'kind', but .* label, pixel0",
        ),
        (lines(*PIXELS.T).replace("31", "x"), {}, "could not convert string 'x'.* in line 2, column 16"),
        (lines(*PIXELS.T).replace("31", ""), {}, "could not convert string ''"),
        (lines(*PIXELS.T).replace(",31", ""), {}, "lines of one length"),
        (lines(["", "a"], *PIXELS.T, header=["label", *NAMES]), {"label": "label"}, "line 2 has no label"),
        (lines(*PIXELS.T, header=NAMES[:-1]), {}, "15 names but 16 cells"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, text, options, message):
    with pytest.raises(DataError, match=message) as caught:
        load(table(tmp_path, text), **options)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_one_line(tmp_path):
    (tmp_path / "a.csv").write_bytes(bytes(range(256)))
    (tmp_path / "a.csv.gz").write_bytes(b"no gzip")
    for name in ("a.csv", "a.csv.gz"):
        with pytest.raises(DataError, match="cannot be read"):
            is_table_of_pixels(tmp_path / name)


def test_a_table_of_paths_is_no_table_of_pixels(tmp_path):
    assert not is_table_of_pixels(table(tmp_path, "file_name,label\na.png,1\nb.png,2\n"))
    assert not is_table_of_pixels(
        table(tmp_path, "file_name,x,y,w,h,n,text,more,words\na.png,1,2,3,4,a,b,c,d\n")
    )
    boxes = "bbox_1,bbox_2,bbox_3,bbox_4,label"
    assert not is_table_of_pixels(table(tmp_path, f"file_name,{boxes}\na.png,1,2,3,4,0\n"))
    assert not is_table_of_pixels(table(tmp_path, "file_name,width,height,x1,x2\na.png,9,9,3,4\n"))
    photos = table(tmp_path, f"photo,{boxes}\na.png,1,2,3,4,0\n")
    assert not is_table_of_pixels(photos, "photo") and is_table_of_pixels(photos)
    assert is_table_of_pixels(table(tmp_path, f"image,{boxes}\n7,1,2,3,4,0\n"))  # a number of the row


@pytest.mark.parametrize("start", [0, 1])
def test_a_line_that_only_counts_is_a_header(tmp_path, start):
    """As pandas and other tools write it; the first column is "0" as without a header."""
    counted = [str(start + place) for place in range(17)]
    rows = load(table(tmp_path, lines(*PIXELS.T, header=counted[:16])))
    assert len(rows) == 2 and np.array_equal(rows[0]["image"].ravel(), PIXELS[0])
    first = load(table(tmp_path, lines([5, 6], *PIXELS.T, header=counted)), "0")
    assert first["0"] == [5, 6] and np.array_equal(first[1]["image"].ravel(), PIXELS[1])
    last = load(table(tmp_path, lines(*PIXELS.T, [5, 6], header=counted)), counted[-1])
    assert last[counted[-1]] == [5, 6] and np.array_equal(last[1]["image"].ravel(), PIXELS[1])
    with pytest.raises(DataError, match=f"17 columns, one more .* --label_column 0 .* or {counted[-1]}"):
        load(table(tmp_path, lines(*PIXELS.T, [5, 6], header=counted)))


@pytest.mark.parametrize("by_pixel", [False, True])
def test_columns_of_one_colour_are_one_plane(tmp_path, by_pixel):
    names = [f"{colour}{number}" for colour in "rgb" for number in range(16)]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 48))
    order = sorted(range(48), key=lambda place: place % 16) if by_pixel else range(48)
    path = table(tmp_path, lines(*(pixels.T[place] for place in order), header=[names[p] for p in order]))
    assert np.array_equal(load(path, channels=3)[1]["image"], pixels[1].reshape(3, 4, 4))


@pytest.mark.parametrize("header", [None, [str(place) for place in range(17)], ["kind", *NAMES]])
def test_labels_that_are_not_read_are_no_pixels(tmp_path, header):
    """Of held-out pictures, which may have the column or not."""
    label = "kind" if header and "kind" in header else "0"
    path = table(tmp_path, lines([5, 6], *PIXELS.T, header=header))
    without = table(tmp_path, lines(*PIXELS.T, header=header[1:] if label == "kind" else None), "b.csv")
    for rows in (load(path, label, with_labels=False), load(without, label, with_labels=False)):
        assert rows.column_names == ["image"] and np.array_equal(rows[1]["image"].ravel(), PIXELS[1])


def test_a_line_without_a_label_is_named_as_an_editor_counts(tmp_path):
    text = lines(["a", "", "c"], *np.concatenate([PIXELS, PIXELS[:1]]).T, header=["label", *NAMES])
    with pytest.raises(DataError, match="line 5 has no label"):
        load(table(tmp_path, "\n" + text.replace("\na", "\n\na")), "label")


def test_a_table_is_of_the_size_that_is_asked_for(tmp_path):
    assert load(table(tmp_path, lines(*PIXELS.T)), size=(8, 2))[0]["image"].shape == (8, 2)


def test_columns_that_are_not_read_are_said(tmp_path):
    rows = load(table(tmp_path, lines(["a", "b"], *PIXELS.T, LABELS, header=["id", *NAMES, "kind"])), "kind")
    assert rows.unused == ("id",)
    assert rows.count("a.csv").summary() == "2 found in a.csv, 2 used; not read: id"
