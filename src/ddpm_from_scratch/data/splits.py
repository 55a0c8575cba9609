"""Which rows `--dataset_split` means, of data that are here: names, and slices such as train[:90%]."""

from collections.abc import Mapping

from .images import DataError
from .listing import some


def rows_of_split(lengths: Mapping[str, int], split: str, what: str) -> list[tuple[str, range]]:
    """Return which rows of which parts a split means, in its order.

    Args:
        lengths: name of each part to its number of rows.
        split: a name, a slice of one (train[:100], train[80%:]), or several joined by "+".
        what: the data, for the error.

    Raises:
        DataError: no such part, or a slice that cannot be read; the message has the names.
    """
    import datasets

    if split in lengths:
        return [(split, range(lengths[split]))]
    try:
        parts = datasets.ReadInstruction.from_spec(split).to_absolute(dict(lengths))
        return [(part.splitname, range(part.from_, part.to)) for part in parts]
    except (ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())
        why = "" if reason.startswith("Unknown split") else f" ({reason})"
        raise DataError(
            f"--dataset_split is {split!r}, but {what} has {some(list(lengths), 12)}; give one of them, a "
            f"slice such as {next(iter(lengths))}[:90%], or leave the flag out{why}."
        ) from error
