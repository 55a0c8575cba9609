"""Class labels: what of a column or of folders is a class, its number and its name."""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ..runtime.errors import warn
from .images import DataError
from .listing import some
from .splits import are_splits

# From this number of classes on, and this part of them with one sample, labels are taken for numbers of rows.
_MANY_CLASSES, _NEARLY_ALL = 5, 0.9


@dataclass(frozen=True)
class Labels:
    """The classes of a label column.

    Args:
        column: its name.
        numbers: value of a row to the number of its class.
        names: of the classes, by number.
    """

    column: str
    numbers: dict[Any, int]
    names: list[str]

    def number(self, value: Any) -> int:
        """Return the class of a value of the column.

        Raises:
            DataError: it is none.
        """
        try:
            return self.numbers[value]
        except (KeyError, TypeError):
            raise DataError(
                f"--label_column {self.column!r} has the label {value!r}, but must be in "
                f"0..{len(self.numbers) - 1}; leave out the rows without a label."
            ) from None


def read_labels(rows: Any, column: str) -> Labels:
    """Return the classes of a column: a ClassLabel, whole numbers or texts.

    Args:
        rows: a data set or a stream.
        column: that holds the labels.

    Raises:
        DataError: values that are no labels.
    """
    feature: Any = (rows.features or {}).get(column)
    if getattr(feature, "num_classes", None) is not None:
        names = [str(name) for name in feature.names]
        return Labels(column, {number: number for number in range(len(names))}, names)
    if not hasattr(rows, "num_rows"):
        raise DataError(
            f"--label_column {column!r} of a stream must be a ClassLabel, to know how many classes exist."
        )
    values = list(rows[column])
    if None in values:
        raise DataError(
            f"--label_column {column!r} has no value in row {values.index(None)} of {len(values)}: fill it "
            "in, or leave out the rows without a label."
        )
    try:
        classes = _classes(set(values), column)
    except TypeError as error:
        raise DataError(
            f"--label_column {column!r} has values that are no labels ({error}); use a column of whole "
            "numbers or texts, without gaps."
        ) from error
    labels = Labels(column, {value: number for number, value in enumerate(classes)}, [
        str(int(value) if isinstance(value, float) else value) for value in classes
    ])  # fmt: skip
    _look_at_counts(Counter(values), column)
    return labels


def _classes(values: set[Any], column: str) -> list[Any]:
    for value in values:
        if isinstance(value, float) and not (math.isfinite(value) and value.is_integer()):
            raise DataError(
                f"--label_column {column!r} has the value {value!r}, but classes must be whole numbers or "
                "texts: quantities are no classes."
            )
    return sorted(values)


def _look_at_counts(counts: Counter, column: str) -> None:
    alone = sum(count == 1 for count in counts.values())
    if len(counts) >= _MANY_CLASSES and alone >= _NEARLY_ALL * len(counts):
        warn(
            f"--label_column {column!r} has {len(counts):,} classes for {counts.total():,} pictures, nearly "
            "each with one: it looks like a number of the row, not a class."
        )


def folders_around(names: Sequence[str], wanted: Collection[str] = ()) -> str:
    """Return the path of the folders that hold all files and folders below them, such as "photos/", or "".

    Args:
        names: of the files, with "/" between folders.
        wanted: names of folders that are not passed over.
    """
    around = ""
    while True:
        below = [name.removeprefix(around) for name in names]
        folders = {name.partition("/")[0] for name in below}
        if len(folders) != 1 or folders & set(wanted) or all(name.count("/") < 2 for name in below):
            return around
        around += folders.pop() + "/"


def folder_classes(names: Sequence[str], source: str) -> list[str]:
    """Return the class of each picture: the first folder that it is in.

    Folders around all the others are passed over, such as the one that many zips begin with. Deeper folders
    belong to the class above them.

    Args:
        names: of the pictures, with "/" between folders.
        source: what they are in, for the error.

    Raises:
        DataError: pictures in no class folder, or folders that look like splits.
    """
    around = folders_around(names)
    below = [name.removeprefix(around) for name in names]
    classes = [name.partition("/")[0] for name in below]
    loose = [name for name in below if "/" not in name]
    folders = sorted({name.partition("/")[0] for name in below if "/" in name})
    where = f"{source}/{around}".replace("//", "/")
    if not folders:
        raise DataError(
            f"--label_column is 'label', but {where} has no class folders: all its pictures lie loose. Make "
            "a folder for each class, add a metadata.csv with file_name and label, or leave the flag out."
        )
    if loose:
        raise DataError(
            f"--label_column is 'label', but beside the class folders {some(folders, 3)} of {where} there "
            f"are loose pictures: {some(loose, 3)}; move them into a class folder, or leave the flag out."
        )
    if are_splits(folders):
        raise DataError(
            f"--label_column is 'label', but the folders of {where} are {some(folders, 3)}, which look like "
            "splits, not classes: choose one with --dataset_split, and have class folders in it."
        )
    return classes
