"""Tables of pixels as rows of pictures: text files with the numbers of one picture in each line."""

import csv
import gzip
import itertools
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from .array_files import LABEL_NAMES, ArrayRows, shape_of_row
from .tables import PATH_COLUMNS, separator
from .values import BYTE, DataError

PIXEL_TABLE_ENDINGS = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
# A table with fewer numbers in a line than this is no table of pixels.
_FEWEST_PIXELS = 4


def is_table_of_pixels(path: Path, image_column: str = "image") -> bool:
    """Return whether the lines of a table are numbers, but for a few cells, none of them a path.

    Args:
        path: of the file.
        image_column: what a column of paths may be called, beside its usual names.

    Raises:
        DataError: it cannot be read.
    """
    first, second, _, _ = _first_lines(path)
    for name, cell in zip(first, second, strict=False):
        if name in (image_column, *PATH_COLUMNS) and cell != name and cell and not _is_number(cell):
            return False
    numbers = sum(map(_is_number, second))
    return numbers >= _FEWEST_PIXELS and numbers > len(second) / 2


def load_table(
    path: Path,
    image_column: str,
    label_column: str | None,
    channels: int | None,
    size: tuple[int, int] | None,
    *,
    with_labels: bool = True,
) -> ArrayRows:
    """Return the rows of a table of pixels, with the columns `image_column` and `label_column`.

    With a header, pixels are the columns whose names end in a number: those of one text before it together,
    such as r0, r1, ..., in the order of their numbers. If there are none, all but the labels. Without a
    header, columns are called by their place, "0" for the first. A line that counts from 0 or 1 is a header.

    Args:
        path: of the file: commas, semicolons, tabs or blanks between numbers.
        image_column: what to call the pictures.
        label_column: name or place of the labels, or "label" for a usual name; None for none.
        channels: of the pictures, plane after plane; None for 1.
        size: height and width of the pictures, if they have as many numbers; else they are square.
        with_labels: read the labels; if not, their column is only told from the pixels, where it is there.

    Raises:
        DataError: a file that cannot be read, cells that are no numbers, or numbers that are no square.
    """
    first, second, between, skipped = _first_lines(path)
    has_names = not all(map(_is_number, first)) or _only_counts(first)
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
    only_counts = _only_counts(names)
    if only_counts and not with_labels and _is_shape(len(names), channels, size):
        label = None  # held-out pictures may have no labels
    else:
        label = _label_name(names, label_column, path.name, with_labels)
    others = [name for name in names if name != label]
    numbered = [name for name in others if re.search(r"\d$", name)]
    pixels = others
    if has_names and len(numbered) >= _FEWEST_PIXELS:
        texts = list(dict.fromkeys(map(_text_of, numbered)))
        pixels = sorted(numbered, key=lambda name: (texts.index(_text_of(name)), _numbers_in(name)))
    count = len(pixels)
    if (
        only_counts
        and label is None
        and not _is_shape(count, channels, size)
        and _is_shape(count - 1, channels, size)
    ):
        raise DataError(
            f"{path.name} has no names of columns and {count} columns, one more than pixels: say which has "
            f"the labels with --label_column 0 (the first) or {names[-1]} (the last), or leave it out of the "
            "file."
        )
    shape = shape_of_row(count, path.name, channels, size)
    skipped = skipped if has_names else 0
    numbers = _numbers(path, between, skipped, [names.index(name) for name in pixels])
    columns: dict[str, Any] = {image_column: numbers.reshape(-1, *shape)}
    if label_column is not None and with_labels:
        columns[label_column] = _labels(path, between, skipped, names.index(str(label)))
    used = {*pixels, label if label_column in columns else None}
    return ArrayRows(columns, unused=[name for name in names if name not in used])


def _opened(path: Path) -> Any:
    opened: Any = gzip.open if path.suffix == ".gz" else open
    return opened(path, "rt", encoding="utf-8-sig")


def _first_lines(path: Path) -> tuple[list[str], list[str], str, int]:
    """Return the cells of the first two lines that are not empty, what is between cells, and a number.

    The number is how many lines of the file end with the first of them.
    """
    lines: list[str] = []
    end_of_first = 0
    try:
        with _opened(path) as file:
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
    between = separator(lines[-1].strip(), ",;\t ")
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


def _only_counts(cells: list[str]) -> bool:
    """Return whether cells are 0, 1, 2, ... or 1, 2, 3, ..., the names that tools give to columns."""
    return len(cells) >= _FEWEST_PIXELS and any(
        all(cell == str(place + start) for place, cell in enumerate(cells)) for start in (0, 1)
    )


def _is_shape(count: int, channels: int | None, size: tuple[int, int] | None) -> bool:
    try:
        return bool(shape_of_row(count, "", channels, size))
    except DataError:
        return False


def _text_of(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _numbers_in(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", name))


def _label_name(names: list[str], given: str | None, file: str, is_wanted: bool) -> str | None:
    """Return the column of the labels, wanted or only to be told from the pixels; None if there is none.

    Raises:
        DataError: the one that is wanted is not there.
    """
    if given in names:
        return given
    if given == "0" and _only_counts(names):
        return names[0]
    usual = [name for name in names if name.lower() in LABEL_NAMES]
    if (given in (None, "label") or not is_wanted) and len(usual) == 1:
        return usual[0]
    if given is not None and is_wanted:
        shown = ", ".join(names[:4]) + (f", ... {names[-1]}" if len(names) > 4 else "")
        raise DataError(f"--label_column is {given!r}, but {file} has the columns {shown}.")
    return None


def _read(path: Path, between: str, skipped: int, places: list[int], kind: Any) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Input line")  # of empty lines, which are no rows
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
        if place := re.search(
            r"at row (\d+)(,| with)", text
        ):  # numpy counts from 0 in one, from 1 in the other
            line = _line_of_row(path, skipped, int(place[1]) - (place[2] == " with"))
            text = text.replace(place[0], f"in line {line}{place[2]}")
        raise DataError(
            f"{str(path)!r} must have a number in each cell, in lines of one length: {text}"
        ) from error
    return numbers.astype(np.uint8) if numbers.min() >= BYTE[0] and numbers.max() <= BYTE[1] else numbers


def _line_of_row(path: Path, skipped: int, row: int) -> int:
    """Return the number of the line of a row, the first row being 0; empty lines are no rows."""
    with _opened(path) as file:
        filled = (number for number, line in enumerate(file, 1) if number > skipped and line.strip())
        return next(itertools.islice(filled, row, None))


def _labels(path: Path, between: str, skipped: int, place: int) -> np.ndarray:
    """Return the labels of all lines, whole numbers if they are."""
    labels = np.char.strip(_read(path, between, skipped, [place], str)[:, 0])
    if (labels == "").any():
        line = _line_of_row(path, skipped, int((labels == "").argmax()))
        raise DataError(f"{path.name}: line {line} has no label: give one or leave it out.")
    for kind in (np.int64, np.float64):
        try:
            return labels.astype(kind)
        except ValueError:
            continue
    return labels
