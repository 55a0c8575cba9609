"""Whether a run may go on from a checkpoint: what a checkpoint says of its run, and what of it may differ."""

import json
from typing import Any

import accelerate
import diffusers
import torch
from accelerate import Accelerator

from .. import __version__
from ..runtime.cli import ALLOWED, FIXED
from ..runtime.errors import ConfigError
from .config import ON_RESUME, TrainingConfig
from .start import Start

VERSIONS = {
    "ddpm-from-scratch": __version__,
    "diffusers": diffusers.__version__,
    "torch": torch.__version__,
    "accelerate": accelerate.__version__,
}

# What a checkpoint says of its run beside the settings, and what follows when it differs.
_CIRCUMSTANCES = (
    ("network", ""),
    ("num_processes", "the samples go on in the same order, their noise has other streams"),
    ("num_samples", "the data set has changed"),
    ("class_names", "labels would change their meaning"),
)


def about_run(
    config: TrainingConfig,
    network: dict[str, Any],
    num_samples: int | None,
    class_names: list[str] | None,
    accelerator: Accelerator,
    start: Start | None = None,
) -> dict[str, Any]:
    """Return what the manifest of a checkpoint says of its run.

    Args:
        config: of the run.
        network: configuration of the network.
        num_samples: samples of one epoch; None for a stream.
        class_names: names of the classes by label; None without labels.
        accelerator: processes and precision.
        start: the trained weights that it started from, if it did.
    """
    recipe = config.recipe() | {"mixed_precision": accelerator.mixed_precision}
    about = {
        "recipe": json.loads(json.dumps(recipe)),  # as it is read again
        "network": json.loads(json.dumps(network)),
        "num_samples": num_samples,
        "class_names": class_names,
        "num_processes": accelerator.num_processes,
        "versions": VERSIONS,
    }
    return about if start is None else about | {"start": start.record()}


def changes_since(earlier: dict[str, Any], now: dict[str, Any], checkpoint: str, allow: bool) -> str | None:
    """Return in words how a run differs from the one that wrote a checkpoint, None if it does not.

    Args:
        earlier: what the manifest of the checkpoint says of its run.
        now: the same of this run.
        checkpoint: where it is, for the message.
        allow: whether changes were accepted with --allow_recipe_change.

    Raises:
        ConfigError: a change that was not accepted, or that no run can survive.
    """
    recipe = _recipe_of(earlier, now["recipe"])
    changes = [
        (name, recipe.get(name), value, "")
        for name, value in now["recipe"].items()
        if recipe.get(name) != value
    ]
    changes += [
        (name, *_differing(earlier[name], now[name]), remark)
        for name, remark in _CIRCUMSTANCES
        if name in earlier and earlier[name] != now[name]
    ]
    if not changes:
        return None
    listed = "; ".join(
        f"{name}: {old} -> {new}" + (f" ({remark})" if remark else "") for name, old, new, remark in changes
    )
    rules = {"network": FIXED, "class_names": FIXED} | ON_RESUME
    forbidden = [name for name, *_ in changes if rules.get(name, ALLOWED) != ALLOWED]
    if forbidden:
        raise ConfigError(
            f"checkpoint {checkpoint!r} was written with another recipe ({listed}); "
            f"{', '.join(forbidden)} cannot change within a run: resume with the same, or start anew."
        )
    if not allow:
        raise ConfigError(
            f"checkpoint {checkpoint!r} was written with another recipe ({listed}); resume with the "
            "same one, or accept the change with --allow_recipe_change."
        )
    return listed


def _recipe_of(earlier: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe of a checkpoint, as it is written now.

    Before manifests had class names, no --dataset_split was written as "train", also for files, of which it
    means all. That their number is the same is checked beside this.
    """
    recipe = earlier["recipe"]
    is_vague = "class_names" not in earlier and recipe.get("dataset_split") == "train"
    return recipe | {"dataset_split": None} if is_vague and now["dataset_split"] is None else recipe


def _differing(old: Any, new: Any) -> tuple[Any, Any]:
    """Return two values for a message; of two long lists, the entries from where they differ."""
    if not (isinstance(old, list) and isinstance(new, list)):
        return old, new
    first = next((i for i, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), None)
    first = min(len(old), len(new)) if first is None else first
    return tuple(f"label {first}: {', '.join(each[first : first + 3]) or 'none'}" for each in (old, new))  # type: ignore[return-value]
