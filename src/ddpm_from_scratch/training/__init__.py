"""One training run: its settings, what it starts from, the loop, checkpoints."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .observers import Observer, Update
    from .trainer import Trainer

_PUBLIC = {"Observer": "observers", "Trainer": "trainer", "Update": "observers"}

__all__ = ["Observer", "Trainer", "Update"]


def __getattr__(name: str) -> Any:
    """Return a public name, imported when it is first asked for: the flags of a run need no torch."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
