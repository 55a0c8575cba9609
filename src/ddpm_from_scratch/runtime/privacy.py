"""What a run writes for others names no machine."""

from pathlib import Path
from typing import Any


def without_folders(value: Any) -> Any:
    """Return a setting without the folders of a path that leads outside: "/home/me/photos" -> "photos"."""
    leads_out = isinstance(value, str) and value.startswith(("/", "~", "..", "file:"))
    return Path(value).name if leads_out else value
