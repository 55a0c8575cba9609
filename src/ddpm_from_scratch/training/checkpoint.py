"""Checkpoints: everything a run needs to go on, as safetensors and JSON, complete or not there at all.

A checkpoint is written to a temporary folder, its manifest last, and then renamed; the oldest is deleted
after that. The manifest holds the step, the recipe, the number of processes, the versions, and size and
SHA-256 of every file and of itself, so damage is found when a checkpoint is read.
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
    """Write checkpoint-<step>, then delete the oldest ones beyond `keep`; return its folder.

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
            commit_folder(temporary, target)
        except OSError:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
            raise
    if keep is not None:
        # The new one always stays, also beside later ones of a run that was resumed from further back.
        others = [path for path in list_checkpoints(output_dir) if path != target]
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


def _digest_of(manifest: dict[str, Any]) -> str:
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def verify_checkpoint(folder: Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint after checking it and every file that it lists.

    Raises:
        CheckpointError: a missing or changed file, named.
    """
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
    """Return the checkpoint folders of an output folder, oldest first; other folders are ignored."""
    found = [
        (int(match[1]), path)
        for path in output_dir.glob("checkpoint-*")
        if (match := _NAME.match(path.name)) and path.is_dir()
    ]
    return [path for _, path in sorted(found)]


def set_aside_later(output_dir: Path, resumed: Path) -> list[str]:
    """Rename the checkpoints of a folder that are later than the resumed one, and return their names.

    They belong to a branch that is given up: `latest` must not find them. Nothing happens if the resumed one
    is of another folder.
    """
    found = list_checkpoints(output_dir)
    if resumed.resolve() not in [path.resolve() for path in found]:
        return []
    step = int(resumed.resolve().name.rsplit("-", 1)[1])
    later = [path for path in found if int(path.name.rsplit("-", 1)[1]) > step]
    for path in later:
        aside = path.with_name(f"superseded-{path.name}")
        if aside.exists():
            delete_folder(aside)
        path.rename(aside)
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


def find_checkpoint(output_dir: Path, wanted: str) -> tuple[Path, dict[str, Any]] | None:
    """Return the checkpoint to resume from and its manifest, verified; arguments as in candidate_checkpoints.

    "latest" is the newest that is undamaged: a damaged one is named on standard error and passed over. None
    if there is no checkpoint at all.

    Raises:
        CheckpointError: the named one does not exist or is damaged, or all are.
    """
    problems = []
    for folder in candidate_checkpoints(output_dir, wanted):
        try:
            return folder, verify_checkpoint(folder)
        except CheckpointError as error:
            if wanted != "latest":
                raise
            warn(f"passing over {folder.name}: {error}")
            problems.append(str(error))
    if problems:
        raise CheckpointError(
            f"{str(output_dir)!r} holds no undamaged checkpoint: {' '.join(problems)} Start anew with "
            "--overwrite_output_dir."
        )
    return None
