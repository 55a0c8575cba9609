"""Numbers of pictures and arrays: the range that they may have, and how it becomes [-1, 1].

Eight bits have the range 0 to 255 and stay bytes until they are used. All else becomes float32 in the
network's units at once, so that nothing of its precision is lost.
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from typing import Any

import numpy as np
import torch

from ..runtime.errors import ConfigError

Range = tuple[float, float]

BYTE: Range = (0, 255)
# Whole numbers whose kind says how large they may be. Fractions and wider kinds say nothing of it.
_RANGES: dict[tuple[str, int], Range] = {("b", 1): (0, 1), ("u", 1): BYTE, ("u", 2): (0, 65535)}
# Data that fill less of their range than this look grey to the network.
SMALL_PART = 1 / 4


class DataError(ConfigError):
    """Data that cannot be read; the message is one line that names the file, column or sample."""


class RangeError(DataError):
    """Numbers whose range is not known.

    Args:
        who: has them, with the verb.
        kind: of numbers.
        least: the smallest.
        most: the largest.
    """

    def __init__(self, who: str, kind: Any, least: float, most: float):
        self.kind, self.least, self.most = kind, least, most
        super().__init__(
            f"{who} numbers of kind {kind} from {least:.9g} to {most:.9g}, whose range is not "
            f"known (8 bits are in 0..255, 16 unsigned bits in 0..65535): give it with --value_range LOW "
            f"HIGH, such as --value_range {_rounded(least, ROUND_FLOOR)} {_rounded(most, ROUND_CEILING)}; "
            "LOW becomes -1 and HIGH 1."
        )


def _rounded(number: float, way: str) -> str:
    """Return a number with nine digits, rounded up or down so that a range with this end holds it."""
    return f"{float(Context(prec=9, rounding=way).create_decimal(number)):.9g}"


def range_in_words(limits: Range) -> str:
    """Return a range as text."""
    return f"{limits[0]:.9g} to {limits[1]:.9g}"


def to_network_units(pixels: torch.Tensor, low: float = 0, high: float = 255) -> torch.Tensor:
    """Return numbers as float32 with low at -1 and high at 1; whole ones are computed in float32."""
    shifted = pixels.float() if not pixels.is_floating_point() else pixels
    shifted = shifted - low if low else shifted
    return (shifted / ((high - low) / 2) - 1).float()


def in_network_units(images: list[torch.Tensor]) -> torch.Tensor:
    """Return pictures of one size, each of bytes or in network units already, as float32 in [-1, 1]."""
    if all(image.dtype == torch.uint8 for image in images):
        return to_network_units(torch.stack(images))
    return torch.stack([to_network_units(image) if image.dtype == torch.uint8 else image for image in images])


class Values:
    """The range of the numbers of a data set, and what has been seen of them.

    Args:
        given: smallest and largest number, of --value_range; None for the range of each picture's kind.
    """

    def __init__(self, given: Range | None = None):
        self.given = given
        # Of each range that was met: the smallest and the largest number seen.
        self.seen: dict[Range, Range] = {}
        self.has_fractions = False
        self.num_seen = 0

    def range_of(self, pixels: np.ndarray, known: Range | None, label: str) -> Range:
        """Return the range of a picture's numbers, which are all inside it.

        Args:
            pixels: the numbers.
            known: their range if their file says it, in place of that of their kind.
            label: what to call the picture in an error.

        Raises:
            RangeError: nothing says the range.
            DataError: numbers outside the range, or not finite.
        """
        kind = pixels.dtype
        least, most = pixels.min(), pixels.max()
        if not (np.isfinite(least) and np.isfinite(most)):
            raise DataError(f"{label} has numbers that are not finite, but all must be.")
        limits = self.given or known or _RANGES.get((kind.kind, kind.itemsize))
        if limits is None:
            raise RangeError(f"{label} has", kind, float(least), float(most))
        if least < limits[0] or most > limits[1]:
            advice = (
                "give the range of all data with --value_range"
                if self.given is None
                else "--value_range must hold the numbers of all data"
            )
            raise DataError(
                f"{label} has numbers from {least:.9g} to {most:.9g}, but must be in "
                f"{range_in_words(limits)}: {advice}."
            )
        return limits

    def see(self, pixels: np.ndarray, limits: Range) -> None:
        """Take note of a picture's numbers; a plane of transparency, the fourth or second, does not count."""
        colours = pixels[..., : {2: 1, 4: 3}.get(pixels.shape[-1])]
        before = self.seen.get(limits, (np.inf, -np.inf))
        least, most = float(colours.min()), float(colours.max())
        self.seen[limits] = (min(before[0], least), max(before[1], most))
        self.has_fractions |= pixels.dtype.kind == "f"
        self.num_seen += 1

    @property
    def levels(self) -> int | None:
        """How many values a number of the data can have; None for fractions, which are continuous.

        Where pictures of several depths are mixed, the levels of the deepest, if those of the others are
        among them: 65536 has all of 256.
        """
        steps = [high - low for low, high in self.seen] or [255]
        finest = max(steps)
        whole = all(float(limit).is_integer() for limits in self.seen for limit in limits)
        if self.has_fractions or not whole or any(finest % step for step in steps):
            return None
        return int(finest) + 1

    def remark(self, who: str) -> str | None:
        """Return what to say of data that use a small part of their range; None if they do not.

        Args:
            who: what was looked at.
        """
        if self.given is not None or not self.seen:
            return None
        if any(most - least >= SMALL_PART * (high - low) for (low, high), (least, most) in self.seen.items()):
            return None
        (low, high), (least, most) = max(self.seen.items(), key=lambda item: item[0][1])
        if least == most:
            return f"{who} have a single value, {least:.9g} of {range_in_words((low, high))}."
        # Cameras have 10, 12 or 14 bits; the brightest of all pictures need not reach the top of them.
        top = 2 ** int(most).bit_length() - 1 if high > BYTE[1] else most
        return (
            f"{who} have numbers from {least:.9g} to {most:.9g}, a small part of "
            f"{range_in_words((low, high))}: the network sees little contrast. "
            f"--value_range {low:.9g} {top:.9g} spreads them."
        )
