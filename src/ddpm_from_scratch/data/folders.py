"""Rows of pictures from a folder, an archive, or a list of paths; with labels from folders or from tables."""

import os
import posixpath
from pathlib import Path
from typing import Any

from ..runtime.errors import warn
from .archives import ARCHIVE_ENDINGS, PACKED_ENDINGS
from .array_files import ARRAY_ENDINGS
from .images import DataError
from .labels import folder_classes, folders_around
from .listing import METADATA_NAMES, File, Listing, choose_pictures, list_archive, list_folder, some
from .splits import are_splits, refuse_doubles, rows_of_split
from .tables import TABLE_ENDINGS, file_path, is_missing, path_column, read_table

NO_ROW = "no row in the metadata"
NO_PATHS = "a table without file_name"
NOT_IN_SPLIT = "not in --dataset_split {}"

Table = dict[str, list[Any]]


def picture_rows(
    source: str,
    split: str | None,
    image_column: str,
    label_column: str | None,
    given_as: str = "--train_data_dir",
) -> tuple[Any, Listing]:
    """Return the pictures of a folder, archive or list as a datasets.Dataset, and what was found.

    Args:
        source: literal path of a folder, a .zip or .tar, or a table with a column of paths.
        split: a folder below it, "all", a slice of either, or None for all.
        image_column: what a table calls its column of paths, if it has one of that name.
        label_column: of a table, or "label" for the folders; None without labels.
        given_as: the flag that errors name.

    Raises:
        DataError: no such file or folder, no pictures in it, or labels that cannot be had.
    """
    lower = source.lower()
    if not os.path.exists(source):
        raise DataError(f"{given_as} is {source!r}, but there is no such folder.")
    if os.path.isfile(source) and lower.endswith(TABLE_ENDINGS):
        return _list_rows(source, split, image_column, label_column)
    if os.path.isfile(source) and not lower.endswith(ARCHIVE_ENDINGS):
        what = "an archive that must be unpacked first" if lower.endswith(PACKED_ENDINGS) else "a file"
        raise DataError(
            f"{given_as} is {source!r}, {what}; give a folder, or a file that ends in "
            f"{', '.join(ARRAY_ENDINGS + ARCHIVE_ENDINGS + TABLE_ENDINGS)}."
        )
    return _folder_rows(source, split, label_column, given_as)


def _folder_rows(
    source: str, split: str | None, label_column: str | None, given_as: str
) -> tuple[Any, Listing]:
    listing = list_archive(source) if os.path.isfile(source) else list_folder(source)
    if not listing.files and not listing.left_out:
        raise DataError(f"{given_as} is {source!r}, but that folder holds no files.")
    tables = _take_tables(listing)
    choose_pictures(listing)
    if not listing.files:
        raise DataError(f"{given_as} is {source!r}, but it has no pictures: {listing.summary()}.")
    rows_of = _rows_by_name(tables)
    present = {file.name for file in listing.files}
    for name in rows_of:
        if name not in present:
            listing.missing.append(name)
    below = [file.name for file in listing.files] if split is None else _take_split(listing, split)
    labels: list[Any] | None = None
    if label_column is not None:
        known = sorted({column for _, _, table in tables for column in table})
        if label_column in known:
            listing.keep([file for file in listing.files if file.name in rows_of], NO_ROW)
            labels = [rows_of[file.name].get(label_column) for file in listing.files]
            _refuse_gaps(labels, [file.name for file in listing.files], label_column)
        elif label_column == "label":
            labels = folder_classes(below, source)
            return _rows(listing.files, labels, label_column, sorted(set(labels))), listing
        else:
            columns = ", ".join(dict.fromkeys(["image", *known, "label"]))
            raise DataError(
                f"--label_column is {label_column!r}, but the data set has the columns {columns}."
            )
    elif split is None:
        _say_splits(below, source)
    if not listing.files:
        raise DataError(f"{given_as} is {source!r}, but no picture is left: {listing.summary()}.")
    return _rows(listing.files, labels, label_column), listing


def _take_tables(listing: Listing) -> list[tuple[str, str, Table]]:
    """Take the metadata out of a listing; return the folder, the column of paths and the columns of each."""
    tables = []
    for file in [file for file in listing.files if posixpath.basename(file.name) in METADATA_NAMES]:
        columns = read_table(file.path)
        name = path_column(columns, "file_name")
        if name is None:
            listing.leave_out(NO_PATHS, file.name)
        else:
            tables.append((posixpath.dirname(file.name), name, columns))
        listing.files.remove(file)
    return tables


def _rows_by_name(tables: list[tuple[str, str, Table]]) -> dict[str, dict[str, Any]]:
    """Return the row of each picture that has one, by its name in the listing."""
    rows: dict[str, dict[str, Any]] = {}
    for folder, paths, table in tables:
        for number, value in enumerate(table[paths], 1):
            where = f"row {number} of the metadata in {folder or 'the folder'}"
            name = posixpath.normpath(posixpath.join(folder, file_path(value, where)))
            row = {column: values[number - 1] for column, values in table.items()}
            if rows.setdefault(name, row) != row:
                raise DataError(f"{where} names {name!r}, which has another row: leave one of them.")
    return rows


def _take_split(listing: Listing, split: str) -> list[str]:
    """Keep the files of a split; return their names below its folder."""
    wanted = {split, *(part.partition("[")[0].strip() for part in split.split("+"))}
    around = folders_around([file.name for file in listing.files], wanted)
    names = [file.name.removeprefix(around) for file in listing.files]
    firsts = sorted({name.partition("/")[0] for name in names if "/" in name})
    parts: dict[str, list[tuple[File, str]]] = {first: [] for first in firsts}
    whole = parts.setdefault("all", []) if "all" not in parts else []  # a folder of that name comes first
    for file, name in zip(listing.files, names, strict=True):
        first, slash, rest = name.partition("/")
        whole.append((file, name))
        if slash:
            parts[first].append((file, rest))
    lengths = {name: len(files) for name, files in parts.items()}
    chosen = [
        parts[name][place]
        for name, places in rows_of_split(lengths, split, listing.source)
        for place in places
    ]
    refuse_doubles([file for file, _ in chosen], split)
    listing.keep([file for file, _ in chosen], NOT_IN_SPLIT.format(split))
    return [name for _, name in chosen]


def _say_splits(names: list[str], source: str) -> None:
    folders = sorted({name.partition("/")[0] for name in names})
    if len(folders) > 1 and are_splits(folders):
        one = next((folder for folder in folders if folder.lower() == "train"), folders[0])
        warn(f"all of {some(folders, 6)} in {source} are used; --dataset_split {one} takes only that.")


def _refuse_gaps(labels: list[Any], names: list[str], column: str) -> None:
    without = [name for name, label in zip(names, labels, strict=True) if is_missing(label)]
    if without:
        raise DataError(
            f"--label_column {column!r} has no value for {some(without, 3)}: fill it in, or remove the rows "
            "without a label."
        )


def _list_rows(
    source: str, split: str | None, image_column: str, label_column: str | None
) -> tuple[Any, Listing]:
    table = read_table(source)
    paths = path_column(table, image_column)
    if paths is None:
        raise DataError(
            f"table {source!r} has the columns {some(list(table), 12) or 'none'}, but needs one of paths: "
            "file_name, path or image."
        )
    if label_column is not None and label_column not in table:
        raise DataError(
            f"--label_column is {label_column!r}, but the data set has the columns {', '.join(table)}."
        )
    names = [file_path(value, f"row {n} of {source}") for n, value in enumerate(table[paths], 1)]
    files = [File(name, str(Path(source).parent / name)) for name in names]
    labels = None if label_column is None else table[label_column]
    listing = Listing(source, files)
    if split is not None:
        places = [i for _, part in rows_of_split({"all": len(files)}, split, source) for i in part]
        chosen = set(places)
        for place in (place for place in range(len(files)) if place not in chosen):
            listing.leave_out(NOT_IN_SPLIT.format(split), names[place])
        listing.files = [files[place] for place in places]
        labels = None if labels is None else [labels[place] for place in places]
    if labels is not None:
        _refuse_gaps(labels, [file.name for file in listing.files], str(label_column))
    return _rows(listing.files, labels, label_column, image_column=image_column), listing


def _rows(
    files: list[File],
    labels: list[Any] | None,
    label_column: str | None,
    classes: list[str] | None = None,
    image_column: str = "image",
) -> Any:
    """Return a datasets.Dataset of pictures that are not decoded.

    Args:
        files: of the pictures.
        labels: of each, or None.
        label_column: its name.
        classes: names of all classes, if the labels are among them.
        image_column: its name.
    """
    import datasets

    columns: dict[str, Any] = {image_column: [file.path for file in files]}
    features = datasets.Features({image_column: datasets.Image(decode=False)})
    if labels is not None:
        columns[str(label_column)] = labels
        features[str(label_column)] = (
            datasets.ClassLabel(names=classes) if classes else datasets.Features.from_arrow_schema(
                _schema_of(labels, str(label_column)))[str(label_column)]
        )  # fmt: skip
    return datasets.Dataset.from_dict(columns, features=features)


def _schema_of(labels: list[Any], column: str) -> Any:
    import pyarrow

    try:
        return pyarrow.schema([(column, pyarrow.array(labels).type)])
    except pyarrow.ArrowException as error:
        raise DataError(
            f"--label_column {column!r} has values of several kinds ({error}); use whole numbers or texts."
        ) from error
