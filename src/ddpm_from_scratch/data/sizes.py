"""The size of pictures as a setting: 64 for 64 x 64, 48x64 for 48 high and 64 wide. Height comes first.

That is the order of diffusers' arguments and of tensors, (B, C, H, W).
"""

import operator
import re
from collections.abc import Sequence
from typing import Any

from ..runtime.errors import ConfigError

# One side of a square, both sides as text, or (height, width).
Resolution = int | str | Sequence[int]
# A picture of 16384 x 16384 is the largest that a saved pipeline may make.
MOST = 2**14
_SPELLED = re.compile(r"([0-9]+)(?:\s*[xX×*,]\s*([0-9]+))?")


def sides(resolution: Resolution) -> tuple[int, int]:
    """Return height and width of 64, "64", "48x64" or (48, 64), in pixels.

    Raises:
        ConfigError: anything else, or a side that is not from 1 to `MOST`.
    """
    found: list[int] = []
    if isinstance(resolution, str):
        spelled = _SPELLED.fullmatch(resolution.strip())
        found = [int(side) for side in spelled.groups() if side is not None] if spelled else []
    elif isinstance(resolution, (list, tuple)):
        found = [_whole(side) for side in resolution] if len(resolution) == 2 else []
    else:
        found = [_whole(resolution)]
    if not found or not all(1 <= side <= MOST for side in found):
        raise ConfigError(
            f"--resolution is {resolution!r}, but must be height x width in pixels, such as 48x64, or one "
            f"number for squares, such as 64; each of at least 1 and at most {MOST}."
        )
    return found[0], found[-1]


def _whole(side: Any) -> int:
    """Return a number that is whole; 0, which no side is, of anything else."""
    try:
        return 0 if isinstance(side, bool) else operator.index(side)
    except TypeError:
        return 0


def as_setting(height: int, width: int) -> int | str:
    """Return a size as it is written in settings: 64, or "48x64"."""
    return height if height == width else f"{height}x{width}"


def as_sample_size(height: int, width: int) -> int | tuple[int, int]:
    """Return a size as a network's configuration has it: 64, or (48, 64)."""
    return height if height == width else (height, width)


def order_in_words(sample_shape: tuple[int, ...]) -> str:
    """Return ", 48 high, 64 wide" of (C, 48, 64); nothing of squares and points, which have no order."""
    *_, height, width = (0, *sample_shape)
    return "" if len(sample_shape) == 1 or height == width else f", {height} high, {width} wide"
