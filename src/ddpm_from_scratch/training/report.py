"""What a person wants at the end of a run: loss curve, figures, model card."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..measures.plots import loss_curve
from ..runtime.privacy import without_folders
from ..runtime.storage import disk_errors_named
from ..sharing.results import RunRecord
from ..words import BUILT_IN_DATASETS
from .config import TrainingConfig
from .log import read_log
from .recipe import VERSIONS
from .trainer import Trainer


def write_report(trainer: Trainer, evaluation: dict[str, Any], repo_id: str) -> None:
    """Write loss.png, results.json and README.md into the output folder.

    Args:
        trainer: after its last update, its pipeline exported.
        evaluation: held-out figures; empty if none were asked for.
        repo_id: where the card says that the model is.
    """
    config, data, state, folder = trainer.config, trainer.data, trainer.state, trainer.output_dir
    rows = read_log(folder / config.logging_dir)
    if rows:
        with disk_errors_named(folder / "loss.png"):
            loss_curve([row["step"] for row in rows], [row["loss"] for row in rows], folder / "loss.png")
    results = {
        "repo_id": repo_id,
        "training": {
            "updates": state.update,
            "samples_seen": state.samples_seen,
            "skipped_nonfinite_updates": state.nonfinite_updates,
            "bad_images": data.bad_images.problems,
            "parameters": state.num_parameters,
            "seconds": round(state.train_seconds, 1),
            "num_processes": trainer.accelerator.num_processes,
            "device": str(trainer.accelerator.device),
            "mixed_precision": trainer.accelerator.mixed_precision,
            "final_loss": rows[-1]["loss"] if rows else None,
        },
        "data": {
            "name": data.name,
            "hub_id": _hub_dataset_id(config),
            "sample_shape": list(data.sample_shape),
            "class_names": data.class_names,
            "files": data.files,
        },
        "started_from": None if trainer.start is None else trainer.start.about(),
        "evaluation": evaluation,
        "config": {name: without_folders(value) for name, value in asdict(config).items()}
        | {"hub_token": None},
        "command": _command(),
        "versions": VERSIONS,
    }
    RunRecord(folder, results).write()


def _hub_dataset_id(config: TrainingConfig) -> str | None:
    """Return the Hub id of the data set, or None if it is built in or a local path."""
    name = config.dataset_name
    if name is None or name in BUILT_IN_DATASETS or Path(name).exists() or name.startswith((".", "/", "~")):
        return None
    return name


def _command() -> str:
    """Return the command of this run, without its secrets and the folders of absolute paths."""
    words, hidden = [], False
    for word in sys.argv[1:]:
        name, is_joined, value = word.partition("=")
        is_secret = name.replace("-", "_") == "__hub_token"
        given = f"{name}={without_folders(value)}" if is_joined else without_folders(word)
        words.append("***" if hidden else f"{name}=***" if is_secret and is_joined else given)
        hidden = is_secret and not is_joined
    return " ".join(["accelerate launch training/train.py", *words])
