"""Tables beside pictures or of pictures: CSV, JSON lines and Parquet, as columns of typed values."""

import csv
import io
import json
import math
import posixpath
import re
from typing import Any

from .archives import read_file
from .images import DataError

TABLE_ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
# What the column of paths may be called; the first one that a table has is taken.
PATH_COLUMNS = ("file_name", "path", "image", "filename", "file", "filepath", "image_path")

_INTEGER = re.compile(r"[+-]?(0|[1-9]\d*)")
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def read_table(path: str) -> dict[str, list[Any]]:
    """Return the columns of a table, all of one length; a cell without a value is None.

    Args:
        path: of a .csv, .tsv, .jsonl or .parquet file, also inside an archive. The cells of a CSV are
            separated by commas, semicolons or tabs, whichever its first line has most of.

    Raises:
        DataError: a file that cannot be read, or is no such table.
    """
    try:
        content = read_file(path)
        if path.lower().endswith(".parquet"):
            import pyarrow.parquet

            return pyarrow.parquet.read_table(io.BytesIO(content)).to_pydict()
        text = content.decode("utf-8-sig")
    except (OSError, ValueError) as error:  # those of pyarrow and of UTF-8 are ValueErrors
        raise DataError(f"table {path!r} cannot be read: {' '.join(str(error).split())}.") from error
    return _json_columns(path, text) if path.lower().endswith(".jsonl") else _csv_columns(path, text)


def _json_columns(path: str, text: str) -> dict[str, list[Any]]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"table {path!r}, line {number}, is no JSON: {error}.") from error
        if not isinstance(row, dict):
            raise DataError(f"table {path!r}, line {number}, is no JSON object: {line:.60}.")
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _csv_columns(path: str, text: str) -> dict[str, list[Any]]:
    between = separator(text.partition("\n")[0])
    try:
        head, *rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=between) if row]
    except ValueError:
        raise DataError(f"table {path!r} is empty.") from None
    except csv.Error as error:
        raise DataError(f"table {path!r} cannot be read: {error}.") from error
    names = [name.strip() for name in head]
    if len(set(names)) < len(names):
        raise DataError(f"table {path!r} has two columns of one name: {', '.join(names)}.")
    for number, row in enumerate(rows, 1):
        if len(row) != len(names):
            raise DataError(f"table {path!r}, row {number}, has {len(row)} cells, but {len(names)} columns.")
    return {name: _typed([row[place] for row in rows]) for place, name in enumerate(names)}


def separator(line: str, among: str = ",;\t") -> str:
    """Return what is between the cells of a line: the mark that it has most of."""
    return max(among, key=line.count)


def _typed(cells: list[str]) -> list[Any]:
    """Return the cells of a column as whole numbers, numbers or texts, whichever suits all that have a value.

    A number with a leading zero, such as 007, is a text.
    """
    given = [cell.strip() for cell in cells]
    values = [cell for cell in given if cell]
    for kind, form in ((int, _INTEGER), (float, _DECIMAL)):
        leading_zero = any(re.match(r"[+-]?0\d", value) for value in values)
        if values and not leading_zero and all(map(form.fullmatch, values)):
            return [kind(cell) if cell else None for cell in given]
    return [cell or None for cell in given]


def path_column(columns: dict[str, list[Any]], wanted: str) -> str | None:
    """Return the name of the column that holds paths, None if there is none.

    Args:
        columns: of the table.
        wanted: the name that was asked for, which comes before `PATH_COLUMNS`.
    """
    for name in (wanted, *PATH_COLUMNS):
        values = columns.get(name) or [None]
        if isinstance(values[0], str):
            return name
    return None


def file_path(value: Any, where: str) -> str:
    """Return a path of a table with "/" between folders, without "./" and the like.

    Args:
        value: of a cell.
        where: table and row, for the error.

    Raises:
        DataError: no path, or an address.
    """
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where} has {value!r} in place of a path.")
    if "://" in value:
        raise DataError(f"{where} has the address {value!r:.80}, but must be a path: download it first.")
    return posixpath.normpath(value.strip().replace("\\", "/"))


def is_missing(value: Any) -> bool:
    """Return whether a cell has no value: None, nan, or nothing but blanks."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or str(value).strip() == ""
