"""Checkpoints: everything a run needs to go on, as safetensors and JSON, complete or not there at all.

A checkpoint is written to a temporary folder, its manifest (sizes and SHA-256 of the files) last, and then
renamed; so a folder named checkpoint-<step> is complete, and damage is found when it is read.
"""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from config import ConfigError

_NAME = re.compile(r"checkpoint-(\d+)$")


class CheckpointError(ConfigError):
    """A checkpoint that is not there or damaged; the message is one line that names it."""


def save_checkpoint(
    output_dir: Path,
    step: int,
    tensors: dict[str, dict[str, torch.Tensor]],
    state: dict[str, Any],
    keep: int | None,
) -> Path:
    """Write checkpoint-<step> and delete the oldest ones beyond `keep`; return its folder.

    Args:
        output_dir: where checkpoints live.
        step: optimizer updates done.
        tensors: file name without ending -> name -> tensor.
        state: everything else, JSON.
        keep: checkpoints to keep; all if None.
    """
    target, temporary = output_dir / f"checkpoint-{step}", output_dir / f".tmp-checkpoint-{step}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, named in tensors.items():
        save_file(
            {key: value.contiguous() for key, value in named.items()}, temporary / f"{name}.safetensors"
        )
    (temporary / "state.json").write_text(json.dumps({"step": step, **state}, indent=1))
    written = sorted(temporary.iterdir())
    manifest = {file.name: {"bytes": file.stat().st_size, "sha256": _sha256(file)} for file in written}
    (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1))
    for path in (*temporary.iterdir(), temporary):
        _fsync(path)
    if target.exists():
        shutil.rmtree(target)
    temporary.rename(target)
    _fsync(output_dir)
    if keep is not None:
        # The new one always stays, also beside later ones of a run that was resumed from further back.
        others = [path for path in list_checkpoints(output_dir) if path != target]
        for old in others[: max(0, len(others) + 1 - keep)]:
            shutil.rmtree(old)
    return target


def load_checkpoint(folder: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """Return the tensors and the state of a checkpoint, after checking every file against the manifest.

    Raises:
        CheckpointError: a missing or changed file, named.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {str(folder)!r} has no readable manifest.json ({error})."
        ) from error
    for name, expected in manifest.items():
        file = folder / name
        if (
            not file.is_file()
            or file.stat().st_size != expected["bytes"]
            or _sha256(file) != expected["sha256"]
        ):
            raise CheckpointError(
                f"checkpoint file {str(file)!r} is missing or damaged; resume from another checkpoint."
            )
    tensors = {file.stem: load_file(file) for file in sorted(folder.glob("*.safetensors"))}
    return tensors, json.loads((folder / "state.json").read_text())


def list_checkpoints(output_dir: Path) -> list[Path]:
    """Return the checkpoint folders of an output folder, oldest first; other folders are ignored."""
    found = [
        (int(match[1]), path) for path in output_dir.glob("checkpoint-*") if (match := _NAME.match(path.name))
    ]
    return [path for _, path in sorted(found)]


def find_checkpoint(output_dir: Path, wanted: str) -> Path:
    """Return the folder that --resume_from_checkpoint names: a path, or 'latest'.

    Raises:
        CheckpointError: there is none.
    """
    if wanted == "latest":
        checkpoints = list_checkpoints(output_dir)
        if not checkpoints:
            raise CheckpointError(
                f"--resume_from_checkpoint is 'latest', but {str(output_dir)!r} holds no checkpoint."
            )
        return checkpoints[-1]
    for candidate in (Path(wanted), output_dir / wanted):
        if candidate.is_dir():
            return candidate
    raise CheckpointError(f"--resume_from_checkpoint is {wanted!r}, but there is no such folder.")


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the state of an optimizer as named tensors and JSON."""
    packed = optimizer.state_dict()
    tensors, numbers = {}, {}
    for index, entries in packed["state"].items():
        for name, value in entries.items():
            (tensors if isinstance(value, torch.Tensor) else numbers)[f"{index}.{name}"] = value
    return tensors, {"param_groups": packed["param_groups"], "numbers": numbers}


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], state: dict[str, Any]
) -> None:
    """Put back what `pack_optimizer` returned."""
    entries: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **state["numbers"]}.items():
        index, name = key.split(".", 1)
        entries.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": entries, "param_groups": state["param_groups"]})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
