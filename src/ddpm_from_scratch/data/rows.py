"""The rows of a data set, images not decoded: of a folder, an archive, a list, on disk, or of the Hub."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..hub.requests import offline_words
from ..runtime.errors import RunError
from .array_files import ARRAY_ENDINGS, ArrayRows, load_arrays
from .folders import picture_rows
from .images import FAULTS_OF_THE_MACHINE, DataError
from .listing import Listing, RowCount
from .pixel_tables import PIXEL_TABLE_ENDINGS, is_table_of_pixels, load_table
from .settings import DataConfig
from .sizes import Resolution, sides
from .splits import rows_of_split

# A folder with one of these is a data set of the Hub that was copied here, which `datasets` reads.
_OF_DATASETS = ("*.parquet", "*.arrow")


@contextlib.contextmanager
def causes_named(what: str, repository: str | None = None) -> Iterator[None]:
    """Turn an error of a library that reads data into one line with its innermost cause.

    Args:
        what: cannot be done if it fails, such as "data set 'x' cannot be loaded".
        repository: of the Hub that is asked for, if one is.

    Raises:
        DataError: the line. A fault of the machine stays as it is.
    """
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FAULTS_OF_THE_MACHINE:
            raise
        if repository is not None and (words := offline_words(repository, error, "dataset")) is not None:
            raise DataError(f"{what}: {words}") from error
        inner: BaseException = error
        while (cause := inner.__cause__ or inner.__context__) is not None:
            inner = cause
        message, reason = " ".join(str(error).split()), " ".join(str(inner).split())
        if inner is not error and reason not in message:
            message += f" ({type(inner).__name__}: {reason})"
        raise DataError(f"{what}: {message or type(error).__name__}") from error


def read_rows(rows: Iterable[Any], what: str = "the stream cannot be read") -> Iterator[Any]:
    """Yield rows; an error in reading one is one line.

    Args:
        rows: of a data set.
        what: the beginning of the line.

    Raises:
        DataError: a row cannot be read.
    """
    with causes_named(what):
        yield from rows


def load_rows(
    config: DataConfig, channels: int | None, resolution: Resolution, *, with_labels: bool = True
) -> tuple[Any, Listing | RowCount | None]:
    """Return the rows of a configuration, and what was found if they are of files here.

    They are a datasets.Dataset, a datasets.IterableDataset of a data set of the Hub that is streamed, or
    ArrayRows.

    Args:
        config: of the data.
        channels: of the pictures; None if not known.
        resolution: height and width of pictures that are written as rows of numbers, if they have as many.
        with_labels: read the labels; if not, a table's are only told from its pixels.

    Raises:
        DataError: they cannot be read.
    """
    arrays = _array_rows(config, channels, sides(resolution), with_labels)
    if arrays is not None:
        return arrays, arrays.count(str(config.train_data_dir or config.dataset_name))
    source = config.train_data_dir or _files_of_pictures(config.dataset_name)
    if source is not None:
        columns = config.image_column, config.label_column if with_labels else None
        return picture_rows(source, config.dataset_split, *columns, config.flag_of_data)
    import datasets

    name = str(config.dataset_name)
    split = config.dataset_split or "train"
    with causes_named(f"data set {name!r}, split {split!r}, cannot be loaded", name):
        if any((Path(name) / mark).is_file() for mark in ("state.json", "dataset_dict.json")):
            return _saved_rows(name, config.dataset_split), None
        rows = datasets.load_dataset(
            name,
            config.dataset_config_name,
            split=split,
            streaming=config.streaming,
            cache_dir=config.cache_dir,
        )
    return rows, None


def _array_rows(
    config: DataConfig, channels: int | None, size: tuple[int, int], with_labels: bool
) -> ArrayRows | None:
    """Return the rows of a file of arrays or a table of pixels; None for other data."""
    source = config.train_data_dir or config.dataset_name or ""
    path, lower = Path(source), source.lower()
    if not path.is_file():
        return None
    images, labels = config.image_column, config.label_column
    if lower.endswith(ARRAY_ENDINGS):
        return load_arrays(
            path, config.dataset_split, images, labels if with_labels else None, channels, size
        )
    if lower.endswith(PIXEL_TABLE_ENDINGS) and is_table_of_pixels(path, images):
        rows = load_table(path, images, labels, channels, size, with_labels=with_labels)
        return rows.of_split(config.dataset_split, path.name)
    return None


def _files_of_pictures(name: str | None) -> str | None:
    """Return the name of a data set if it is a file, or a folder that `datasets` would read nothing of."""
    folder = Path(name or "")
    if folder.is_file():
        return name
    if name is None or not folder.is_dir() or (folder / "state.json").is_file():
        return None
    if (folder / "dataset_dict.json").is_file() or (folder / "README.md").is_file():
        return None
    return None if any(next(folder.rglob(form), None) for form in _OF_DATASETS) else name


def _saved_rows(name: str, split: str | None) -> Any:
    """Return the rows of a data set that was saved by `save_to_disk`."""
    import datasets

    saved = datasets.load_from_disk(name)
    if isinstance(saved, datasets.Dataset):
        if split is None:
            return saved
        parts = {str(saved.split or "train"): saved}
    else:
        parts = {str(part): rows for part, rows in saved.items()}
    lengths = {part: len(rows) for part, rows in parts.items()}
    chosen = [
        parts[part] if len(places) == lengths[part] else parts[part].select(places)
        for part, places in rows_of_split(lengths, split or "train", repr(name))
    ]
    return chosen[0] if len(chosen) == 1 else datasets.concatenate_datasets(chosen)
