"""Arrays as pictures: which axis holds the channels, and what kind of numbers they are."""

from collections.abc import Collection
from typing import Any

import numpy as np

from .values import DataError

NUMPY_FILE = b"\x93NUMPY"
IMAGE_CHANNELS = (1, 3, 4)


def channel_axis(shape: tuple[int, ...], channels: int | None, label: str) -> int | None:
    """Return which axis of an array of one picture is that of the channels: 0 or 2; None for (H, W).

    It is the one whose length is the number of channels, or 1, 3 or 4 if that is not given. If both could be,
    it is the one that leaves a square.

    Args:
        shape: (H, W), (H, W, C) or (C, H, W).
        channels: how many; None if not known.
        label: what to call the array in an error.

    Raises:
        DataError: another number of axes or channels, or one cannot tell.
    """
    if len(shape) == 2 and channels in (None, 1):
        return None
    allowed: Collection[int] = IMAGE_CHANNELS if channels is None else (channels,)
    fits = [axis for axis in (2, 0) if len(shape) == 3 and shape[axis] in allowed]
    if len(fits) == 2:
        square = [axis for axis in fits if shape[1] == shape[2 - axis]]
        fits = square if len(square) == 1 else fits
    if len(fits) == 1:
        return fits[0]
    if not fits:
        count = "C" if channels is None else channels
        raise DataError(
            f"{label} is an array of shape {shape}, but must be {'(H, W), ' if channels in (None, 1) else ''}"
            f"(H, W, {count}) or ({count}, H, W)"
            + (" with C of 1, 3 or 4" if channels is None else "")
            + "; --channels gives their number."
        )
    raise DataError(
        f"{label} is an array of shape {shape}, of which the first or the last axis can be the channels: "
        "give their number with --channels, or square arrays (H, W, C)."
    )


def channels_of(shape: tuple[int, ...], label: str) -> int:
    """Return how many channels an array of one picture has, by its shape alone; see `channel_axis`."""
    axis = channel_axis(shape, None, label)
    return 1 if axis is None else shape[axis]


def array_of(value: Any, dtype: str | None, label: str) -> np.ndarray:
    """Return lists of lists as an array.

    Raises:
        DataError: they are no array.
    """
    try:
        return np.asarray(value, dtype=dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(
            f"{label} is a list of lists of different lengths, not an array of numbers."
        ) from error


def picture_of_array(value: Any, channels: int, label: str) -> np.ndarray:
    """Return an array of a picture as (H, W, channels); whole numbers in 0..255 of any kind as bytes.

    Raises:
        DataError: not of that shape, or no numbers.
    """
    array = value if isinstance(value, np.ndarray) else array_of(value, None, label)
    axis = channel_axis(array.shape, channels, label)
    if array.dtype.kind not in "buif":
        raise DataError(f"{label} is an array of {array.dtype}, but must be one of numbers.")
    if not array.size:
        raise DataError(f"{label} is an array of shape {array.shape}, but must have at least one pixel.")
    array = array[..., None] if axis is None else np.moveaxis(array, axis, -1)
    is_wide = array.dtype.kind == "i" or (array.dtype.kind == "u" and array.dtype.itemsize > 2)
    if is_wide and array.min() >= 0 and array.max() <= 255:
        return array.astype(np.uint8)
    return array
