"""Whether a run may go on from a checkpoint: what differs between two recipes, and which of it may differ."""

from typing import Any

from ..runtime.cli import ALLOWED, FIXED
from ..runtime.errors import ConfigError
from .config import ON_RESUME

# What a checkpoint says of its run beside the settings, and what follows when it differs.
_CIRCUMSTANCES = (
    ("network", ""),
    ("num_processes", "the samples go on in the same order, their noise has other streams"),
    ("num_samples", "the data set has changed"),
)


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
    changes = [
        (name, earlier["recipe"].get(name), value, "")
        for name, value in now["recipe"].items()
        if earlier["recipe"].get(name) != value
    ]
    changes += [
        (name, earlier[name], now[name], remark)
        for name, remark in _CIRCUMSTANCES
        if earlier[name] != now[name]
    ]
    if not changes:
        return None
    listed = "; ".join(
        f"{name}: {old} -> {new}" + (f" ({remark})" if remark else "") for name, old, new, remark in changes
    )
    rules = {"network": FIXED} | ON_RESUME
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
