"""Files of arrays as rows of pictures: .npy, and .npz with pictures and labels found by their names."""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .arrays import IMAGE_CHANNELS, channel_axis
from .listing import RowCount
from .splits import rows_of_split, words_of_split
from .values import DataError

ARRAY_ENDINGS = (".npy", ".npz")

IMAGE_NAMES = ("image", "images", "img", "imgs", "x", "data", "pixels", "samples", "pictures", "arr_0")
LABEL_NAMES = ("label", "labels", "y", "target", "targets", "class", "classes", "arr_1")


class ArrayRows:
    """Rows of a data set whose pictures are arrays.

    Args:
        columns: name -> values, as many in each; arrays on disk are read as they are needed.
        places: of the rows in the arrays; all if not given.
        unused: names of what the file has beside the columns.
    """

    features: dict[str, Any] = {}
    num_shards = 1

    def __init__(
        self, columns: dict[str, np.ndarray], places: range | None = None, unused: Sequence[str] = ()
    ):
        self.columns, self.column_names, self.unused = columns, list(columns), tuple(unused)
        self.num_in_file = len(next(iter(columns.values())))
        self.places = range(self.num_in_file) if places is None else places
        self.num_rows, self._next = len(self.places), 0

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.num_rows

    def __getitem__(self, key: int | str) -> Any:
        """Return a row as a dict, or all values of a column."""
        if isinstance(key, str):
            return self.columns[key][self.places.start : self.places.stop].tolist()
        place = self.places[key]
        return {
            name: values[place].item() if values.ndim == 1 else values[place]
            for name, values in self.columns.items()
        }

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the rows, from where a stream stands."""
        for index in range(self._next, len(self)):
            self._next = index + 1
            yield self[index]

    def count(self, source: str) -> RowCount:
        """Return how many of the rows of the file are used."""
        return RowCount(source, self.num_rows, self.num_in_file - self.num_rows, self.unused)

    def shard(self, num_shards: int, index: int) -> "ArrayRows":
        """Return the rows to read as a stream; they are one shard."""
        return self.to_iterable_dataset()

    def to_iterable_dataset(self) -> "ArrayRows":
        """Return the rows to read as a stream."""
        return ArrayRows(self.columns, self.places)

    def state_dict(self) -> dict[str, Any]:
        """Return where a stream stands."""
        return {"next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a stream stood."""
        self._next = state["next"]

    def of_split(self, split: str | None, what: str) -> "ArrayRows":
        """Return the rows of a split: "train" or "all", which are all rows, or a slice of that.

        Raises:
            DataError: another split.
        """
        if split is None:
            return self
        parts = rows_of_split({"train": self.num_rows, "all": self.num_rows}, split, what)
        if len(parts) > 1:
            raise DataError(f"--dataset_split is {split!r}, but {what} is one part: give one slice of it.")
        places = parts[0][1]
        return ArrayRows(self.columns, self.places[places.start : places.stop], self.unused)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a worker needs; an array on disk is opened there, not copied."""
        columns = {name: _OnDisk.of(values) for name, values in self.columns.items()}
        return self.__dict__ | {"columns": columns}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the arrays on disk again."""
        self.__dict__.update(state)
        self.columns = {
            name: values.opened() if isinstance(values, _OnDisk) else values
            for name, values in self.columns.items()
        }


class _OnDisk:
    """An array on disk, without its numbers."""

    def __init__(self, path: str, shape: tuple[int, ...]):
        self.path, self.shape = path, shape

    @classmethod
    def of(cls, values: np.ndarray) -> Any:
        base: Any = values
        while base is not None and not getattr(base, "filename", None):
            base = getattr(base, "base", None)
        return values if base is None else cls(str(base.filename), values.shape)

    def opened(self) -> np.ndarray:
        return np.load(self.path, mmap_mode="r", allow_pickle=False).reshape(self.shape)


def load_arrays(
    path: Path,
    split: str | None,
    image_column: str,
    label_column: str | None,
    channels: int | None,
    size: tuple[int, int] | None,
) -> ArrayRows:
    """Return the rows of a file of arrays, with the columns `image_column` and `label_column`.

    Args:
        path: of the file; an .npy is not read into memory.
        split: "train", also where names tell no splits apart, and "all"; another whose word is in the names
            of an .npz, given or found; or a slice of one.
        image_column: name of the pictures in an .npz; "image" finds them by other usual names, too.
        label_column: name of the labels likewise, for which "label" stands; None for none.
        channels: of the pictures; None if not known.
        size: height and width of pictures that are written as rows of numbers; None if not known.

    Raises:
        DataError: a file that cannot be read, or arrays that cannot be told apart or do not fit.
    """
    opened = _opened(path)
    if isinstance(opened, np.ndarray):
        if label_column is not None:
            raise DataError(
                f"--label_column is {label_column!r}, but {path.name} has pictures only: save both with "
                "numpy.savez(path, images=..., labels=...)."
            )
        return ArrayRows({image_column: pictures(opened, path.name, channels, size)}).of_split(
            split, path.name
        )
    part, bracket, rest = (split or "train").partition("[")
    with opened:
        names = [_name_of(opened, image_column, "image", IMAGE_NAMES, part, path.name)]
        name = names[0]
        images = pictures(_member(opened, name, path), f"{name!r} of {path.name}", channels, size)
        columns = {image_column: images}
        if label_column is not None:
            name = _name_of(opened, label_column, "label", LABEL_NAMES, part, path.name)
            names.append(name)
            labels = _member(opened, name, path)
            columns[label_column] = _labels(labels, len(images), f"{name!r} of {path.name}")
        unused = [name for name in opened.files if name not in names]
    return ArrayRows(columns, unused=unused).of_split(f"all[{rest}" if bracket else None, path.name)


def pictures(array: np.ndarray, what: str, channels: int | None, size: tuple[int, int] | None) -> np.ndarray:
    """Return an array of pictures (N, H, W), (N, H, W, C) or (N, C, H, W); rows of numbers are shaped.

    Args:
        array: also (N, pixels).
        what: to call it in an error.
        channels: of the pictures; None if not known.
        size: height and width of pictures that are written as rows of numbers; None if not known.

    Raises:
        DataError: another shape.
    """
    if array.ndim > 1 and not len(array):
        raise DataError(f"{what} is an array of shape {array.shape}, but must have at least one picture.")
    if array.ndim == 2:
        return array.reshape(len(array), *shape_of_row(array.shape[1], what, channels, size))
    if array.ndim == 3 and array.shape[2] in IMAGE_CHANNELS and array.shape[1] != array.shape[2]:
        raise DataError(
            f"{what} is an array of shape {array.shape}, which is one picture: many must be (N, H, W), "
            "(N, H, W, C) or (N, C, H, W), or a folder with one .npy for each."
        )
    if array.ndim not in (3, 4):
        raise DataError(
            f"{what} is an array of shape {array.shape}, but pictures must be (N, H, W), (N, H, W, C), "
            "(N, C, H, W) or (N, pixels)."
        )
    channel_axis(array.shape[1:], channels if array.ndim == 4 else None, f"a picture of {what}")
    return array


def shape_of_row(
    count: int, what: str, channels: int | None, size: tuple[int, int] | None
) -> tuple[int, ...]:
    """Return the shape (H, W) or (C, H, W) of a picture that is written as a row of numbers.

    Args:
        count: how many numbers.
        what: to call them in an error.
        channels: None for 1.
        size: height and width, if they have as many numbers; else they are square.

    Raises:
        DataError: they are no square.
    """
    channels = channels or 1
    planes = () if channels == 1 else (channels,)
    if size is not None and size[0] * size[1] * channels == count:
        return (*planes, *size)
    root = round((count / channels) ** 0.5)
    if count and channels * root * root == count:
        return (*planes, root, root)
    raise DataError(
        f"{what} has {count} numbers for each picture, which is no square with --channels {channels}: give "
        "--channels for colours, plane after plane, --resolution HEIGHTxWIDTH for other shapes, or leave out "
        "what is no pixel."
    )


def _opened(path: Path) -> Any:
    """Return the array of an .npy, on disk, or the archive of an .npz.

    Raises:
        DataError: it cannot be read.
    """
    with path.open("rb") as file:
        is_archive = file.read(2) == b"PK"
    if is_archive and not zipfile.is_zipfile(path):
        raise DataError(f"{str(path)!r} is cut off: give a whole file.")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    if any(words in str(error) for words in ("allow_pickle", "Object arrays", "Python objects")):
        return DataError(
            f"{str(path)!r} has Python objects, which can run code when read, or is no file of numpy: "
            "save numbers of one kind and shape with numpy.save or numpy.savez."
        )
    reason = " ".join(str(error).split()).rstrip(".")
    return DataError(f"{str(path)!r} cannot be read ({reason}): give a file of numpy.save or numpy.savez.")


def _member(arrays: Any, name: str, path: Path) -> np.ndarray:
    try:
        return arrays[name]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _unreadable(path, error) from error


def _name_of(
    arrays: Any, given: str, stands_for_all: str, usual: Sequence[str], split: str, file: str
) -> str:
    """Return the name of the array that is meant.

    Raises:
        DataError: there is none, or several.
    """
    names, flag = list(arrays.files), f"--{stands_for_all}_column"
    words = words_of_split(split)
    if given != stands_for_all:
        if given not in names:
            raise DataError(
                f"{flag} is {given!r}, but must be one of the arrays of {file}: {', '.join(names)}."
            )
        if split not in ("train", "all") and not any(word in _parts(given) for word in words):
            raise DataError(
                f"--dataset_split is {split!r}, but {flag} is the array {given!r} of {file}, whose name has "
                f"no such word: name the array of that split ({', '.join(names)}), or leave the flag out."
            )
        return given
    with_split = [name for name in names for word in words if _without(name, word) in usual]
    plain = [name for name in names if name.lower() in usual] if split in ("train", "all") else []
    for found in (with_split, plain):
        if len(found) == 1:
            return found[0]
        if found:
            raise DataError(f"{file} has the arrays {', '.join(names)}: give {flag}.")
    what = "pictures" if stands_for_all == "image" else "labels"
    raise DataError(
        f"{file} has the arrays {', '.join(names) or 'none'}, none of which has a usual name for {what} of "
        f"the split {split!r}: give {flag}."
    )


def _without(name: str, word: str) -> str:
    """Return the name of an array without the word for a split; empty if it does not have it."""
    parts = _parts(name)
    return "_".join(part for part in parts if part != word) if word in parts else ""


def _parts(name: str) -> list[str]:
    return name.lower().split("_")


def _labels(labels: np.ndarray, count: int, what: str) -> np.ndarray:
    """Return labels of shape (N,).

    Raises:
        DataError: another shape or number of them.
    """
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.shape != (count,):
        raise DataError(
            f"{what} has the shape {labels.shape}, but must have one label for each of the {count} pictures."
        )
    return flat
