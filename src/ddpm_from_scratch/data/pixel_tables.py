"""Tables of pixels as rows of pictures: text files with the numbers of one picture in each line."""

import csv
import gzip
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from .array_files import LABEL_NAMES, ArrayRows, shape_of_row
from .values import BYTE, DataError

PIXEL_TABLE_ENDINGS = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
# A table with fewer numbers in a line than this is no table of pixels.
_FEWEST_PIXELS = 4


def is_table_of_pixels(path: Path) -> bool:
    """Return whether the lines of a table are numbers, but for a few cells.

    Raises:
        DataError: it cannot be read.
    """
    _, second, _, _ = _first_lines(path)
    numbers = sum(map(_is_number, second))
    return numbers >= _FEWEST_PIXELS and numbers > len(second) / 2


def load_table(
    path: Path,
    image_column: str,
    label_column: str | None,
    channels: int | None,
    size: tuple[int, int] | None,
) -> ArrayRows:
    """Return the rows of a table of pixels, with the columns `image_column` and `label_column`.

    With a header, pixels are the columns whose names end in a number, in the order of these numbers, or all
    but the labels. Without one, columns are called by their place, "0" for the first.

    Args:
        path: of the file: commas, semicolons, tabs or blanks between numbers.
        image_column: what to call the pictures.
        label_column: name or place of the labels, or "label" for a usual name; None for none.
        channels: of the pictures, plane after plane; None for 1.
        size: height and width of the pictures, if they have as many numbers; else they are square.

    Raises:
        DataError: a file that cannot be read, cells that are no numbers, or numbers that are no square.
    """
    first, second, between, skipped = _first_lines(path)
    has_names = not all(map(_is_number, first))
    if has_names and second is first:
        raise DataError(
            f"{str(path)!r} has names of columns, but no lines of numbers: give one for each picture."
        )
    if has_names and len(second) != len(first):
        raise DataError(
            f"{path.name} has {len(first)} names but {len(second)} cells in the line below: give a name for "
            "each."
        )
    names = first if has_names else [str(place) for place in range(len(first))]
    label = _label_name(names, label_column, path.name)
    others = [name for name in names if name != label]
    numbered = [name for name in others if re.search(r"\d$", name)]
    pixels = others
    if has_names and len(numbered) >= _FEWEST_PIXELS:
        pixels = sorted(numbered, key=_numbers_in)
    count, planes = len(pixels), channels or 1
    if (
        not has_names
        and label is None
        and not _is_square(count / planes)
        and _is_square((count - 1) / planes)
    ):
        raise DataError(
            f"{path.name} has no names of columns and {count} columns, one more than pixels: say which has "
            f"the labels with --label_column 0 (the first) or {count - 1} (the last), or leave it out of the "
            "file."
        )
    shape = shape_of_row(count, path.name, channels, size)
    skipped = skipped if has_names else 0
    numbers = _numbers(path, between, skipped, [names.index(name) for name in pixels])
    columns: dict[str, Any] = {image_column: numbers.reshape(-1, *shape)}
    if label_column is not None:
        columns[label_column] = _labels(path, between, skipped, names.index(str(label)))
    return ArrayRows(columns)


def _first_lines(path: Path) -> tuple[list[str], list[str], str, int]:
    """Return the cells of the first two lines that are not empty, what is between cells, and a number.

    The number is how many lines of the file end with the first of them.
    """
    opened: Any = gzip.open if path.suffix == ".gz" else open
    lines: list[str] = []
    end_of_first = 0
    try:
        with opened(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    end_of_first = end_of_first or number
                    lines.append(line)
                if len(lines) == 2:
                    break
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise DataError(f"{str(path)!r} cannot be read: {' '.join(str(error).split())}.") from error
    if not lines:
        raise DataError(f"{str(path)!r} is empty, but must have a picture in each line.")
    between = max(",;\t ", key=lines[-1].strip().count)
    cells = [
        line.split()
        if between == " "
        else [cell.strip() for cell in next(csv.reader([line], delimiter=between))]
        for line in lines
    ]
    return cells[0], cells[-1], between, end_of_first


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_square(count: float) -> bool:
    return count > 0 and count.is_integer() and math.isqrt(int(count)) ** 2 == count


def _numbers_in(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", name))


def _label_name(names: list[str], given: str | None, file: str) -> str | None:
    """Return the column of the labels, wanted or only to be told from the pixels; None if there is none.

    Raises:
        DataError: the one that is wanted is not there.
    """
    if given in names:
        return given
    usual = [name for name in names if name.lower() in LABEL_NAMES]
    if given in (None, "label") and len(usual) == 1:
        return usual[0]
    if given is not None:
        shown = ", ".join(names[:4]) + (f", ... {names[-1]}" if len(names) > 4 else "")
        raise DataError(f"--label_column is {given!r}, but {file} has the columns {shown}.")
    return None


def _read(path: Path, between: str, skipped: int, places: list[int], kind: Any) -> np.ndarray:
    return np.loadtxt(
        path, kind, comments=None, delimiter=None if between == " " else between, skiprows=skipped,
        usecols=places, quotechar='"', ndmin=2, encoding="utf-8-sig",
    )  # fmt: skip


def _numbers(path: Path, between: str, skipped: int, places: list[int]) -> np.ndarray:
    """Return the cells of columns as one array: bytes, whole numbers, or fractions.

    Raises:
        DataError: a cell that is empty or no number, lines of different lengths, or none.
    """
    try:
        try:
            numbers = _read(path, between, skipped, places, np.int64)
        except ValueError:
            return _read(path, between, skipped, places, np.float64)
    except (ValueError, OSError, EOFError) as error:
        text = re.sub(r"; use `usecols`.*", "", " ".join(str(error).split()))
        raise DataError(
            f"{str(path)!r} must have a number in each cell, in lines of one length: {text}"
        ) from error
    return numbers.astype(np.uint8) if numbers.min() >= BYTE[0] and numbers.max() <= BYTE[1] else numbers


def _labels(path: Path, between: str, skipped: int, place: int) -> np.ndarray:
    """Return the labels of all lines, whole numbers if they are."""
    labels = np.char.strip(_read(path, between, skipped, [place], str)[:, 0])
    if (labels == "").any():
        raise DataError(
            f"{path.name}: line {int((labels == '').argmax()) + 1} has no label: give one or leave it out."
        )
    for kind in (np.int64, np.float64):
        try:
            return labels.astype(kind)
        except ValueError:
            continue
    return labels
