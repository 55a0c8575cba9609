"""Checkpoints: everything a run needs to go on, as safetensors and JSON, complete or not there at all.

A checkpoint is written to a temporary folder, its manifest last, and then renamed; the oldest is deleted
after that. The manifest holds the step, the recipe, the number of processes, the versions, and size and
SHA-256 of every file and of itself, so damage is found when a checkpoint is read.

Other programs write folders of the same names. Only one with a manifest of ours is ever deleted.
"""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ..runtime.errors import ConfigError, warn
from ..runtime.storage import (
    commit_folder,
    delete_folder,
    disk_errors_named,
    require_space,
    sha256,
    temporary_folder,
    write_file,
)

_NAME = re.compile(r"checkpoint-(\d+)$")
_FORMAT = 2
# What every manifest has, and what lies beside it.
_KEYS = {"format", "step", "files", "sha256"}
_FILES = ("state.json", "model.safetensors")


class CheckpointError(ConfigError):
    """A checkpoint that is not there or damaged; the message is one line that names it."""


def save_checkpoint(
    output_dir: Path,
    step: int,
    tensors: dict[str, dict[str, torch.Tensor]],
    state: dict[str, Any],
    about: dict[str, Any],
    keep: int | None,
) -> Path:
    """Write checkpoint-<step>, then delete the oldest ones of ours beyond `keep`; return its folder.

    Args:
        output_dir: where checkpoints live.
        step: optimizer updates done.
        tensors: file name without ending -> name -> whole tensor on the CPU.
        state: everything else, JSON.
        about: what the manifest says of the run: recipe, number of processes, versions.
        keep: checkpoints to keep; all if None.

    Raises:
        StorageError: the disk is full or fails; earlier checkpoints stay, the new one is removed.
    """
    target = output_dir / f"checkpoint-{step}"
    needed = sum(tensor.nbytes for named in tensors.values() for tensor in named.values())
    require_space(output_dir, needed, f"checkpoint {target.name}")
    temporary = None
    with disk_errors_named(target, needed):
        try:
            temporary = temporary_folder(target)
            files = {}
            for name, named in tensors.items():
                file = f"{name}.safetensors"
                files[file] = _write(temporary / file, safetensors.torch.save(named))
            files["state.json"] = _write(temporary / "state.json", json.dumps(state).encode())
            manifest = {"format": _FORMAT, "step": step, **about, "files": files}
            manifest["sha256"] = _digest_of(manifest)
            write_file(temporary / "manifest.json", json.dumps(manifest, indent=1).encode())
            if target.exists() and not is_ours(target):
                warn(f"{target.name} has no manifest that can be read; renamed to {_set_aside(target).name}")
            commit_folder(temporary, target)
        except OSError:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
            raise
    if keep is not None:
        # The new one always stays, also beside later ones of a run that was resumed from further back.
        others = [path for path in list_checkpoints(output_dir) if path != target and is_ours(path)]
        for old in others[: max(0, len(others) + 1 - keep)]:
            try:
                delete_folder(old)
            except OSError as error:  # the new one is there: no reason to end the run
                warn(f"{old.name} cannot be deleted: {error}")
    return target


def _write(path: Path, content: bytes) -> dict[str, Any]:
    """Write a file; return its entry of the manifest, made from what was meant, not from what was written."""
    write_file(path, content)
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def is_ours(folder: Path) -> bool:
    """Return whether `save_checkpoint` wrote a folder, by its manifest; of a link, False."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.keys() >= _KEYS


def is_foreign(path: Path) -> bool:
    """Return whether another program, or a person, made what has the name of a checkpoint.

    One of ours whose manifest is damaged or lost is not: its other files tell it.
    """
    return not is_ours(path.resolve()) and not all((path / name).is_file() for name in _FILES)


def what_foreign_is(path: Path) -> str:
    """Return in words what a foreign path is, that it stays, and what of it can be used."""
    found = next(
        (path / name for name in ("unet_ema", "unet") if (path / name / "config.json").is_file()), None
    )
    if found is None:
        return f"{str(path)!r} was not written by train.py, and stays as it is"
    return (
        f"{str(path)!r} is a checkpoint of diffusers' own script, and stays as it is; its weights can be "
        f"trained further in another folder with --init_from {found}"
    )


def _set_aside(path: Path) -> Path:
    """Rename a checkpoint to superseded-<name> and return the new path; nothing but ours is replaced."""
    aside, number = path.with_name(f"superseded-{path.name}"), 1
    while aside.exists() and not is_ours(aside):
        number += 1
        aside = path.with_name(f"superseded-{path.name}-{number}")
    if aside.exists():
        delete_folder(aside)
    path.rename(aside)
    return aside


def _digest_of(manifest: dict[str, Any]) -> str:
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def verify_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint after checking it alone.

    Raises:
        CheckpointError: it is missing or was changed, or the folder is of another program.
    """
    if is_foreign(folder):
        raise CheckpointError(f"{what_foreign_is(folder)}.")
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
        intact = manifest["sha256"] == _digest_of(manifest)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint file {str(path)!r} is missing or damaged ({error!r}).") from error
    if not intact:
        raise CheckpointError(f"checkpoint file {str(path)!r} is damaged.")
    if manifest["format"] != _FORMAT:
        raise CheckpointError(
            f"checkpoint {str(folder)!r} has format {manifest['format']}, but this version reads {_FORMAT}; "
            "resume it with the version that wrote it."
        )
    return manifest


def verify_checkpoint(folder: Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint after checking it and every file that it lists.

    Raises:
        CheckpointError: a missing or changed file, named, or a folder of another program.
    """
    manifest = verify_manifest(folder)
    for name, expected in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"checkpoint file {str(file)!r} is missing.")
        try:
            intact = file.stat().st_size == expected["bytes"] and sha256(file) == expected["sha256"]
        except OSError as error:
            raise CheckpointError(
                f"checkpoint file {str(file)!r} cannot be read: {error.strerror}."
            ) from error
        if not intact:
            raise CheckpointError(f"checkpoint file {str(file)!r} is damaged.")
    return manifest


def load_checkpoint(
    folder: Path, manifest: dict[str, Any]
) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """Return the tensors and the state of a checkpoint that `verify_checkpoint` accepted."""
    tensors = {
        Path(name).stem: safetensors.torch.load_file(folder / name)
        for name in manifest["files"]
        if name.endswith(".safetensors")
    }
    return tensors, json.loads((folder / "state.json").read_bytes())


def list_checkpoints(output_dir: Path) -> list[Path]:
    """Return the folders of an output folder that have the name of a checkpoint, oldest first.

    Whoever made them: see `is_ours`.
    """
    found = [
        (int(match[1]), path)
        for path in output_dir.glob("checkpoint-*")
        if (match := _NAME.match(path.name)) and path.is_dir()
    ]
    return [path for _, path in sorted(found)]


def set_aside_later(output_dir: Path, resumed: Path) -> list[str]:
    """Rename the checkpoints of a folder that are later than the resumed one, and return their names.

    They belong to a branch that is given up: `latest` must not find them. Nothing happens if the resumed one
    is of another folder, nor to what another program made.
    """
    found = list_checkpoints(output_dir)
    if resumed.resolve() not in [path.resolve() for path in found]:
        return []
    step = int(resumed.resolve().name.rsplit("-", 1)[1])
    later = [path for path in found if int(path.name.rsplit("-", 1)[1]) > step and not is_foreign(path)]
    for path in later:
        _set_aside(path)
    return [path.name for path in later]


def candidate_checkpoints(output_dir: Path, wanted: str) -> list[Path]:
    """Return the folders that --resume_from_checkpoint may mean, the first choice first, not looked into.

    Args:
        output_dir: where checkpoints live.
        wanted: a folder, as a path or by its name inside `output_dir`; or "latest", which may be none.

    Raises:
        CheckpointError: the named one does not exist.
    """
    if wanted == "latest":
        return list_checkpoints(output_dir)[::-1]
    for candidate in (Path(wanted), output_dir / wanted):
        if candidate.is_dir():
            return [candidate]
    raise CheckpointError(
        f"--resume_from_checkpoint is {wanted!r}, but there is no such folder; give a checkpoint folder or "
        "'latest'."
    )


def manifest_to_resume(output_dir: Path, wanted: str | None) -> dict[str, Any] | None:
    """Return what a manifest says of the run that is to go on, its files not looked at; None if none is.

    All checkpoints of a run say the same of it, so a damaged one is no matter here.

    Args:
        output_dir: where checkpoints live.
        wanted: as in `candidate_checkpoints`; None for a run that starts anew.

    Raises:
        CheckpointError: the named one does not exist, or all are damaged.
    """
    for folder in candidate_checkpoints(output_dir, wanted) if wanted else ():
        try:
            return verify_manifest(folder)
        except CheckpointError:
            continue
    found = find_checkpoint(output_dir, wanted) if wanted else None
    return None if found is None else found[1]


def find_checkpoint(output_dir: Path, wanted: str) -> tuple[Path, dict[str, Any]] | None:
    """Return the checkpoint to resume from and its manifest, verified; arguments as in candidate_checkpoints.

    "latest" is the newest that is undamaged: a damaged one is named on standard error and passed over. None
    if there is no checkpoint at all.

    Raises:
        CheckpointError: the named one does not exist or is damaged, or all are.
    """
    problems, all_known = [], True
    for folder in candidate_checkpoints(output_dir, wanted):
        try:
            return folder, verify_checkpoint(folder)
        except CheckpointError as error:
            if wanted != "latest":
                raise
            warn(f"passing over {folder.name}: {error}")
            problems.append(str(error))
            all_known = all_known and not is_foreign(folder)
    if problems:
        instead = "with --overwrite_output_dir" if all_known else "in another folder"
        raise CheckpointError(
            f"{str(output_dir)!r} holds no undamaged checkpoint: {' '.join(problems)} Start anew {instead}."
        )
    return None
