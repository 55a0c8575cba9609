"""The log of a run: a JSON-lines file, one row per line."""

import json
from pathlib import Path
from typing import Any

from ..runtime.storage import disk_errors_named, replace_file

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """metrics.jsonl of a run; rows after the update that a run resumes from are dropped.

    Args:
        folder: of the log.
        update: that the run starts from.
    """

    def __init__(self, folder: Path, update: int):
        self.path = folder / METRICS_FILE
        with disk_errors_named(folder):
            folder.mkdir(parents=True, exist_ok=True)
        rows = [row for row in read_log(folder) if row["step"] <= update] if update else []
        replace_file(self.path, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def write(self, row: dict[str, Any]) -> None:
        """Add a row."""
        with disk_errors_named(self.path), self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a log; none if there is no file. A last line that a crash cut short is left out."""
    path = folder / METRICS_FILE
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def is_log(path: Path) -> bool:
    """Return whether a file is the log of a run, perhaps one without a row yet."""
    try:
        with path.open() as file:
            first = file.readline()
        row = json.loads(first) if first.endswith("\n") else {}
    except (OSError, ValueError):
        return False
    return not first or (isinstance(row, dict) and row.keys() >= {"step", "loss", "lr"})
