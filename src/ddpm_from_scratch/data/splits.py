"""Which rows `--dataset_split` means, of data that are here: names, and slices such as train[:90%]."""

from collections.abc import Collection, Hashable, Mapping

from .images import DataError
from .listing import some

# The words for a split that names of folders and arrays may have, each split's beside each other.
SPLIT_WORDS = (
    ("train", "training"),
    ("validation", "val", "valid", "dev", "eval"),
    ("test", "testing"),
)


def words_of_split(split: str) -> tuple[str, ...]:
    """Return the words that mean the same split, itself among them."""
    return next((words for words in SPLIT_WORDS if split.lower() in words), (split.lower(),))


def are_splits(folders: Collection[str]) -> bool:
    """Return whether all names of folders are words for splits."""
    return {folder.lower() for folder in folders} <= {word for words in SPLIT_WORDS for word in words}


def rows_of_split(lengths: Mapping[str, int], split: str, what: str) -> list[tuple[str, range]]:
    """Return which rows of which parts a split means, in its order.

    Args:
        lengths: name of each part to its number of rows.
        split: a name, a slice of one (train[:100], train[80%:]), or several joined by "+".
        what: the data, for the error.

    Raises:
        DataError: no such part, or a slice that cannot be read; the message has the names. Or slices that
            have rows in common.
    """
    import datasets

    if split in lengths:
        return [(split, range(lengths[split]))]
    try:
        parts = datasets.ReadInstruction.from_spec(split).to_absolute(dict(lengths))
        chosen = [(part.splitname, range(part.from_, part.to)) for part in parts]
    except (ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())
        why = "" if reason.startswith("Unknown split") else f" ({reason})"
        raise DataError(
            f"--dataset_split is {split!r}, but {what} has {some(list(lengths), 12)}; give one of them, a "
            f"slice such as {next(iter(lengths))}[:90%], or leave the flag out{why}."
        ) from error
    if len(chosen) > 1:
        refuse_doubles([(name, place) for name, places in chosen for place in places], split)
    return chosen


def refuse_doubles(rows: Collection[Hashable], split: str) -> None:
    """Raise DataError if a split has a row twice."""
    if doubled := len(rows) - len(set(rows)):
        raise DataError(
            f"--dataset_split is {split!r}, whose parts have {doubled} rows in common: join parts that do "
            "not overlap."
        )
