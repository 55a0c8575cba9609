"""The output folder of a run: what in it a run wrote, what others did, and that nothing of theirs is lost.

A run writes under fixed names. What has such a name and no mark of ours, a manifest or a log, is of somebody
else: a run neither deletes it nor writes over it, but asks for another folder.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from ..hub.upload import PIPELINE_FILES, REPORT_FILES
from ..runtime.errors import ConfigError, warn
from ..runtime.processes import rank
from ..runtime.storage import delete_folder, delete_leftovers
from ..sharing.results import RunRecord
from . import checkpoint
from .config import TrainingConfig
from .log import METRICS_FILE, is_log

# Names in a folder that a tracker gets for its own (see prepare.start_tracking).
TRACKER = "ddpm-from-scratch"
_CHECKPOINT = re.compile(r"checkpoint-\d+")
_PICTURE = re.compile(r"step-\d{7}\.png")
_WRITTEN = re.compile(
    "|".join([f"(superseded-)?{_CHECKPOINT.pattern}", "export", *map(re.escape, REPORT_FILES)])
)


def prepare_output_dir(config: TrainingConfig) -> Path:
    """Create the output folder; refuse one with files of others in the way, or with an earlier run.

    An earlier run may be resumed or overwritten; files of others may not.

    Raises:
        ConfigError: a folder that cannot be made, files of others, an earlier run, or no checkpoint to resume
            from.
    """
    folder = Path(config.output_dir)
    if rank() != 0:
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--output_dir is {config.output_dir!r}, which cannot be made: {error.strerror}."
        ) from error
    _refuse_files_of_others(folder, config)
    wanted, existing = config.resume_from_checkpoint, checkpoint.list_checkpoints(folder)
    if wanted and (existing or wanted != "latest"):
        checkpoint.candidate_checkpoints(folder, wanted)
    elif not config.overwrite_output_dir and (existing or (folder / "model_index.json").exists()):
        raise ConfigError(
            f"--output_dir {config.output_dir!r} holds an earlier run; resume it with "
            "--resume_from_checkpoint latest, start anew with --overwrite_output_dir, or choose "
            "another folder."
        )
    delete_leftovers(folder, _WRITTEN)
    return folder


def _refuse_files_of_others(folder: Path, config: TrainingConfig) -> None:
    """Raise ConfigError if what others made would be replaced by the run, or deleted to make room for it."""
    for path in sorted(folder.glob("checkpoint-*")):
        if _CHECKPOINT.fullmatch(path.name) and checkpoint.is_foreign(path):
            raise ConfigError(
                f"--output_dir {config.output_dir!r} holds {path.name}: "
                f"{checkpoint.what_foreign_is(path)}. Choose another --output_dir."
            )
    if is_run(folder):
        theirs = [path for path in _links(folder, config) if not config.resume_from_checkpoint]
    else:
        theirs = [*_links(folder, config), *_of_a_pipeline(folder)]
        theirs += [folder / name for name in REPORT_FILES if name != "README.md" and (folder / name).exists()]
        log = folder / config.logging_dir / METRICS_FILE
        theirs += [log] if log.exists() and not is_log(log) else []
    if theirs:
        names = ", ".join(dict.fromkeys(str(path.relative_to(folder)) for path in theirs[:4]))
        raise ConfigError(
            f"--output_dir {config.output_dir!r} holds {names}, which no run of train.py wrote and this one "
            "would replace: choose another --output_dir, or move them away. Nothing was changed."
        )
    if (folder / "README.md").exists() and not RunRecord.wrote_card(folder):
        warn("README.md in the output folder is not of a run, and stays: there will be no card of this run")


def is_run(folder: Path) -> bool:
    """Return whether a run wrote in a folder: it has a log, a checkpoint or a record of ours."""
    logs = any(is_log(path) for path in folder.glob(f"*/{METRICS_FILE}"))
    return (
        logs
        or RunRecord.is_there(folder)
        or any(map(checkpoint.is_ours, checkpoint.list_checkpoints(folder)))
    )


def _links(folder: Path, config: TrainingConfig) -> Iterator[Path]:
    """Yield what leads elsewhere, or is a file, where a run has its folders."""
    for path in (*checkpoint.list_checkpoints(folder), *_folders(folder, config)):
        if path.is_symlink() or path.is_file():
            yield path


def _folders(folder: Path, config: TrainingConfig) -> list[Path]:
    return [folder / name for name in ("unet", "scheduler", "samples", config.logging_dir)]


def _of_a_pipeline(folder: Path) -> list[Path]:
    return [path for pattern in PIPELINE_FILES for path in sorted(folder.glob(pattern))]


def clear_earlier_run(folder: Path, config: TrainingConfig) -> None:
    """Delete what an earlier run left in the output folder, file by file, and say what of others stays."""
    if not is_run(folder):
        return
    has_card = RunRecord.wrote_card(folder)
    # The index first: without it the rest is no pipeline, so an interruption leaves none that is mixed.
    (folder / "model_index.json").unlink(missing_ok=True)
    for path in _of_a_pipeline(folder):
        path.unlink()
    for name in REPORT_FILES:
        if name != "README.md" or has_card:
            (folder / name).unlink(missing_ok=True)
    for old in filter(checkpoint.is_ours, checkpoint.list_checkpoints(folder)):
        delete_folder(old)
    for path in folder.glob("samples/*"):
        if _PICTURE.fullmatch(path.name):
            path.unlink()
    # The logs last: by them the folder is known as a run's.
    for log in filter(is_log, list(folder.glob(f"*/{METRICS_FILE}"))):
        if (log.parent / TRACKER).is_dir():
            delete_folder(log.parent / TRACKER)
        log.unlink()
    left = []
    for path in (*_folders(folder, config), *checkpoint.list_checkpoints(folder)):
        if path.is_dir() and any(path.iterdir()):
            left.append(f"{path.name}/")
        elif path.is_dir():
            path.rmdir()
    if left:
        warn(f"{', '.join(left)} in the output folder hold what no run wrote, which stays as it is")
