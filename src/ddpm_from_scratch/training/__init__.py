"""One training run: its settings, what it starts from, the loop, checkpoints."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["Trainer"]


def __getattr__(name: str) -> Any:
    """Return the trainer, imported when it is first asked for: the flags of a run need no torch."""
    if name != "Trainer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .trainer import Trainer

    return Trainer
