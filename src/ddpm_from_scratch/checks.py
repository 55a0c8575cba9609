"""Checks of arguments: one clear error that says what was got, what is allowed and what to do.

Values are normalised where nothing can be lost (10.0 -> 10, with a warning) and refused otherwise: TypeError
for a wrong kind, ValueError for a wrong value. Per call only Python types, shapes, kinds of numbers and
devices are read, so that a check never waits for an accelerator.
"""

import difflib
import math
import operator
import sys
import warnings
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch


class SchedulerWarning(UserWarning):
    """Something that is allowed, because DDPMScheduler allows it, but probably not meant."""


def warn(message: str, category: type[Warning] = SchedulerWarning) -> None:
    """Give a warning at the user's line: the innermost one outside this package and diffusers."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in (
        __name__.split(".")[0],
        "diffusers",
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def integer(name: str, value: Any, minimum: int, maximum: int | None = None) -> int:
    """Return `value` as an int in [minimum, maximum]; an integral float is taken with a warning.

    Raises:
        TypeError: not an integer.
        ValueError: out of range.
    """
    allowed = f"an integer of at least {minimum}" + ("" if maximum is None else f" and at most {maximum}")
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        warn(f"{name} is {value!r}; it is used as {int(value)}. Give an integer.")
        value = int(value)
    try:
        if isinstance(value, (bool, np.bool_)) or (isinstance(value, torch.Tensor) and value.numel() != 1):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}, but must be {allowed}.") from None
    if number < minimum or (maximum is not None and number > maximum):
        raise ValueError(f"{name} is {number}, but must be {allowed}.")
    return number


def real(
    name: str,
    value: Any,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    *,
    exclusive: bool = False,
) -> float:
    """Return `value` as a float in [minimum, maximum], or between them if `exclusive`.

    Raises:
        TypeError: not a number.
        ValueError: nan or out of range.
    """
    between, to = ("between", "and") if exclusive else ("from", "to")
    allowed = f"a number {between} {minimum:g} {to} {maximum:g}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name} is {value!r}, but must be {allowed}.")
    number = float(value)
    inside = minimum < number < maximum if exclusive else minimum <= number <= maximum
    if not inside:
        raise ValueError(f"{name} is {number!r}, but must be {allowed}.")
    return number


def flag(name: str, value: Any) -> bool:
    """Return `value` as a bool.

    Raises:
        TypeError: anything but True and False; the text "false" would count as true.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} is {value!r}, but must be True or False, without quotes.")
    return bool(value)


def choice(name: str, value: Any, allowed: Sequence[str], hints: dict[str, str] | None = None) -> str:
    """Return `value` if it is one of the `allowed` words.

    Args:
        name: of the argument.
        value: what was given.
        allowed: the words.
        hints: a wrong word in lower case -> a sentence about the right one.

    Raises:
        ValueError: another word, or no word.
    """
    if not isinstance(value, str) or value not in allowed:
        hint = (hints or {}).get(str(value).lower(), "")
        raise ValueError(f"{name} is {value!r}, but must be one of {tuple(allowed)}. {hint}".rstrip())
    return value


def keywords(name: str, given: Collection[str], allowed: Collection[str]) -> None:
    """Check the names of keyword arguments; one that nobody reads would be dropped in silence.

    Args:
        name: of what takes them.
        given: their names.
        allowed: the names that exist.

    Raises:
        TypeError: a name that does not exist, with the nearest that does.
    """
    for unknown in sorted(set(given) - set(allowed)):
        close = difflib.get_close_matches(unknown, sorted(allowed), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"its settings are {', '.join(sorted(allowed))}."
        raise TypeError(f"{name} got an unexpected keyword argument {unknown!r}; {hint}")


def samples(name: str, value: Any) -> torch.Tensor:
    """Return `value` if it is a floating-point tensor (B, ...).

    Raises:
        TypeError: no tensor, or integers.
        ValueError: no batch dimension.
    """
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} is {type(value).__name__}, but must be a torch.Tensor of shape (B, ...).")
    if value.ndim and value.is_floating_point():
        return value
    if not value.is_floating_point():
        raise TypeError(
            f"{name} has dtype {value.dtype}, but must be floating point; bring 8-bit images to [-1, 1] with "
            "images / 127.5 - 1."
        )
    raise ValueError(f"{name} has no dimension, but must have shape (B, ...).")


def samples_on_one_device(name: str, value: Any, other_name: str, other: Any) -> None:
    """Check two tensors as `samples` and `same_device` do; the right ones are passed in one look.

    Raises:
        TypeError, ValueError: as they do.
    """
    if (
        isinstance(value, torch.Tensor)
        and isinstance(other, torch.Tensor)
        and value.ndim
        and other.ndim
        and value.is_floating_point()
        and other.is_floating_point()
        and value.device == other.device
    ):
        return
    samples(other_name, other)
    samples(name, value)
    same_device(name, value, other_name, other)


def noise_like(name: str, value: Any, other_name: str, other: torch.Tensor) -> None:
    """Check noise that the caller gives for samples `other`; nothing is broadcast in silence.

    Raises:
        TypeError: no tensor, or integers.
        ValueError: another shape or device than the samples.
    """
    samples(name, value)
    if value.shape != other.shape:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}, but must have the shape of {other_name}, "
            f"{tuple(other.shape)}."
        )
    same_device(name, value, other_name, other)


def same_device(name: str, value: torch.Tensor, other_name: str, other: torch.Tensor) -> None:
    """Raise ValueError unless both are on the same device."""
    if value.device != other.device:
        raise ValueError(
            f"{name} is on {value.device} and {other_name} on {other.device}; move one to the other."
        )


def generator(value: Any, batch_size: int) -> torch.Generator | list[torch.Generator] | None:
    """Return a source of randomness: None, a torch.Generator, or a list with one for each sample.

    A list or tuple of one is that one, which serves all samples, as in diffusers.

    Raises:
        TypeError: something else.
        ValueError: a list of another length than the batch or 1.
    """
    if value is None or isinstance(value, torch.Generator):
        return value
    if not isinstance(value, (list, tuple)) or not all(isinstance(g, torch.Generator) for g in value):
        raise TypeError(
            f"generator is {value!r}, but must be a torch.Generator, a list of them or None. For a seed "
            "write torch.Generator().manual_seed(seed)."
        )
    if len(value) not in (1, batch_size):
        raise ValueError(
            f"got {len(value)} generators for {batch_size} samples; give one for each sample, or one for all."
        )
    return value[0] if len(value) == 1 else list(value)
