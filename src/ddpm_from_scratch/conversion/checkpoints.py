"""Tensors of files that other programs pickled, read without running anything of them.

`torch.load(weights_only=True)` builds tensors and plain containers and refuses everything else.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..runtime.errors import ConfigError
from ..words import ForeignWeights

Tensors = dict[str, torch.Tensor]

# Where files keep their weights: the averaged ones, the raw ones.
_AVERAGE = ("ema", "ema_state_dict", "model_ema", "state_dict_ema")
_RAW = ("model", "state_dict", "model_state_dict")
# What wrappers (DDP, torch.compile) put before every name.
_WRAPPERS = ("module.", "_orig_mod.")


def unpickled(path: Path) -> Any:
    """Return what a file holds: tensors in plain containers.

    Raises:
        ConfigError: it is missing, damaged, or holds more than that.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|class) ([A-Za-z_][\w.]*)", str(error))
        if found is None:
            raise ConfigError(f"{path} is damaged, or no file of torch.save; it must be one.") from error
        raise ConfigError(
            f"{path} asks for {found[1]}, which is more than weights and could run code: a file must hold "
            "tensors only. Where you trust it, load it there and save torch.save(model.state_dict(), path)."
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, SafetensorError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{path} cannot be read as weights ({reason}): it must be a file of torch.save, whole."
        ) from error


def weights_of(content: Any, choice: ForeignWeights | None, path: Path, notes: list[str]) -> Tensors:
    """Return the state dict that a checkpoint holds, with the names that its network gave.

    Args:
        content: as `unpickled` returned it: a state dict, or a dict of an averaged and a raw one.
        choice: which of two; the averaged one if not given.
        path: for messages.
        notes: gets what was chosen and which prefixes were taken off.

    Raises:
        ConfigError: no weights, those of an optimizer, or not the ones that were asked for.
    """
    if not isinstance(content, Mapping) or not content:
        raise ConfigError(
            f"{path} holds a {type(content).__name__}, but must hold a state dict: names and tensors."
        )
    if {"state", "param_groups"} <= set(content):
        raise ConfigError(
            f"{path} holds the state of an optimizer, but must hold weights: give the file beside it, "
            "such as ema_0.9999_*.pt or model*.pt."
        )
    sets = {
        kind: next((content[name] for name in names if isinstance(content.get(name), Mapping)), None)
        for kind, names in (("average", _AVERAGE), ("raw", _RAW))
    }
    there = [kind for kind, found in sets.items() if found]
    if there:
        chosen = choice or there[0]
        if chosen not in there:
            raise ConfigError(
                f"--weights is {chosen!r}, but {path} must have them and has {there[0]} ones only."
            )
        others = f"; it has {there[1 - there.index(chosen)]} ones, too" if len(there) > 1 else ""
        notes.append(f"weights: the {chosen} ones of {path.name}{others}")
        content = sets[chosen] or {}
    elif choice is not None:
        raise ConfigError(
            f"--weights is {choice!r}, but {path} has one set of weights only: it must be left out."
        )
    return _without_wrappers(_checked(content, path), notes)


def _checked(content: Mapping[Any, Any], path: Path) -> Tensors:
    """Return weights as float32 tensors by name; counters that are no weights stay as they are.

    Raises:
        ConfigError: a name or value that no state dict has, or a number that is not finite.
    """
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ConfigError(
                f"{path} has {name!r} as a {type(value).__name__}, but a state dict must have tensors only: "
                "save torch.save(model.state_dict(), path)."
            )
        if value.layout != torch.strided or value.is_quantized or value.is_complex() or value.is_meta:
            raise ConfigError(
                f"{path} has {name!r} as a {value.dtype} that is no plain tensor, but must be one."
            )
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ConfigError(f"{path} has {name!r} with numbers that are not finite; weights must be.")
    return dict(content)


def _without_wrappers(weights: Tensors, notes: list[str]) -> Tensors:
    """Return weights without the names of wrappers around the network."""
    found = True
    while found:
        found = False
        for wrapper in _WRAPPERS:
            if weights and all(name.startswith(wrapper) for name in weights):
                weights, found = {name.removeprefix(wrapper): value for name, value in weights.items()}, True
                notes.append(f"names: without {wrapper!r} in front of each")
    return weights


def as_float32(weights: Tensors, notes: list[str]) -> Tensors:
    """Return weights in float32, and note it if they were not.

    Raises:
        ConfigError: weights that are no floating-point numbers.
    """
    for name, value in weights.items():
        if not value.is_floating_point():
            raise ConfigError(f"the file has {name!r} as {value.dtype}, but weights must be floating point.")
    others = sorted({str(value.dtype) for value in weights.values()} - {"torch.float32"})
    if others:
        notes.append(f"weights: {', '.join(others)} in the file, saved as float32")
    return {name: value.float().clone().contiguous() for name, value in weights.items()}
