"""What a person wants at the end of a run: sample grid, loss curve, figures, model card."""

import json
import sys
from pathlib import Path
from typing import Any

from config import BUILT_IN_DATASETS, TrainingConfig
from ddpm_from_scratch.hub import model_card
from ddpm_from_scratch.plots import loss_curve
from figures import metric_names
from log import read_log
from storage import disk_errors_named, replace_file
from trainer import VERSIONS, Trainer

CARD_TEMPLATE = Path(__file__).resolve().parent.parent / "model_card.md"


def write_report(trainer: Trainer, evaluation: dict[str, Any]) -> None:
    """Write loss.png, results.json and README.md into the output folder.

    Args:
        trainer: after its last update, its pipeline exported.
        evaluation: held-out figures; empty if none were asked for.
    """
    config, data, folder = trainer.config, trainer.data, trainer.output_dir
    rows = read_log(folder / config.logging_dir)
    if rows:
        with disk_errors_named(folder / "loss.png"):
            loss_curve([row["step"] for row in rows], [row["loss"] for row in rows], folder / "loss.png")
    results = {
        "training": {
            "updates": trainer.update,
            "samples_seen": trainer.samples_seen,
            "skipped_nonfinite_updates": trainer.nonfinite_updates,
            "bad_images": data.bad_images.problems,
            "parameters": trainer.num_parameters,
            "seconds": round(trainer.train_seconds, 1),
            "num_processes": trainer.accelerator.num_processes,
            "device": str(trainer.accelerator.device),
            "mixed_precision": trainer.accelerator.mixed_precision,
            "final_loss": rows[-1]["loss"] if rows else None,
        },
        "evaluation": evaluation,
        "config": vars(config) | {"hub_token": None},
        "versions": VERSIONS,
    }
    replace_file(folder / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    metrics = {key: (name, evaluation[key]) for key, name in metric_names(evaluation).items()}
    card = model_card(
        CARD_TEMPLATE,
        model_name=folder.resolve().name,
        dataset=data.name,
        dataset_id=_hub_dataset_id(config),
        license=config.license,
        metrics=metrics,
        floors={key: evaluation[f"{key}_floor"] for key in metrics},
        evaluation=evaluation,
        results=results,
        config=config,
        repo_id=config.hub_model_id or folder.resolve().name,
        is_image=len(data.sample_shape) == 3,
        is_portable=json.loads((folder / "model_index.json").read_text())["_class_name"] == "DDPMPipeline",
        command=_command(),
    )
    replace_file(folder / "README.md", str(card).encode())


def _hub_dataset_id(config: TrainingConfig) -> str | None:
    """Return the Hub id of the data set, or None if it is built in or a local path."""
    name = config.dataset_name
    if name is None or name in BUILT_IN_DATASETS or Path(name).exists() or name.startswith((".", "/", "~")):
        return None
    return name


def _command() -> str:
    """Return the command of this run, without its secrets."""
    words, hidden = [], False
    for word in sys.argv[1:]:
        name, is_joined, _ = word.partition("=")
        is_secret = name.replace("-", "_") == "__hub_token"
        words.append("***" if hidden else f"{name}=***" if is_secret and is_joined else word)
        hidden = is_secret and not is_joined
    return " ".join(["accelerate launch training/train.py", *words])
