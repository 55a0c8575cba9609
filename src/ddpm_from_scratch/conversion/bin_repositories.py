"""Pipelines and networks of diffusers whose weights are pickled (`.bin`), saved again as safetensors."""

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

from diffusers import UNet2DModel
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from safetensors.torch import save_file

from ..hub.requests import CONNECTION_ERRORS, patiently
from ..hub.safe_loading import check_model, component_folder, read_json
from ..pipeline_ddpm_from_scratch import DDPMFromScratchPipeline
from ..runtime.errors import ConfigError
from .checkpoints import as_float32, unpickled, weights_of

_WEIGHTS = "diffusion_pytorch_model"
_UNREACHABLE: tuple[type[Exception], ...] = (
    HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError, *CONNECTION_ERRORS,
)  # fmt: skip
_CONFIGS = ("model_index.json", "config.json", "scheduler_config.json")


def convert_repository(source: str, output_dir: Path, notes: list[str]) -> None:
    """Save the pipeline, or the network, of a folder or repository with weights as `.bin`.

    The pickle becomes safetensors in a folder aside, and what is saved is loaded from there as any other
    pipeline, with all its checks. Names of layers from before diffusers 0.18 are diffusers' own to translate.

    Args:
        source: a folder or a repository's id.
        output_dir: for the result.
        notes: gets what was found.

    Raises:
        ConfigError: it cannot be reached, has no such weights, or they are not those of its configuration.
    """
    folder = _fetched(source)
    inside = component_folder(folder, "unet")
    weights = _weights(inside, notes)
    with tempfile.TemporaryDirectory() as name:
        aside = Path(name)
        unet = aside / "unet"
        unet.mkdir()
        save_file(weights, unet / f"{_WEIGHTS}.safetensors")
        try:
            shutil.copy(inside / "config.json", unet)
            if (folder / "model_index.json").is_file():
                shutil.copy(folder / "model_index.json", aside)
                (aside / "scheduler").mkdir()
                scheduler = component_folder(folder, "scheduler")
                shutil.copy(scheduler / "scheduler_config.json", aside / "scheduler")
                DDPMFromScratchPipeline.from_pretrained(aside).save_pretrained(output_dir)
                notes.append("pipeline: its configurations are those of the repository")
                return
            kind = read_json(unet / "config.json").get("_class_name")
            if kind != "UNet2DModel":
                raise ConfigError(f"{inside / 'config.json'} is of a {kind}, but must be of a UNet2DModel.")
            check_model(unet, UNet2DModel)
            UNet2DModel.from_pretrained(unet, use_safetensors=True).save_pretrained(output_dir)
            notes.append("network alone: the folder has no model_index.json, so no scheduler was saved")
        except FileNotFoundError as error:
            raise ConfigError(f"{error.filename} is missing: the repository must have it.") from error
        except ValueError as error:
            raise ConfigError(str(error).replace(str(aside), source)) from error


def _fetched(source: str) -> Path:
    """Return the folder of a repository: the given one, or one downloaded from the Hub.

    Raises:
        ConfigError: neither a folder nor a repository that can be read.
    """
    if Path(source).expanduser().is_dir():
        return Path(source).expanduser()
    names = [*_CONFIGS, f"{_WEIGHTS}*.bin", f"{_WEIGHTS}.bin.index.json"]
    patterns = [*names, *(f"unet/{name}" for name in names), "scheduler/scheduler_config.json"]
    download = functools.partial(snapshot_download, source, allow_patterns=patterns)
    try:
        return Path(patiently(download, errors=(HfHubHTTPError,)))
    except _UNREACHABLE as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"source is {source!r}, but must be a file, a folder, or a repository of the Hub that can be "
            f"read ({reason})."
        ) from error


def _weights(folder: Path, notes: list[str]) -> dict[str, Any]:
    """Return the weights of a folder's `.bin` file or shards.

    Raises:
        ConfigError: there are none, or there are safetensors already.
    """
    single, index = folder / f"{_WEIGHTS}.bin", folder / f"{_WEIGHTS}.bin.index.json"
    files = [single] if single.is_file() else []
    if not files and index.is_file():
        named = read_json(index).get("weight_map")
        names = set(named.values()) if isinstance(named, dict) else set()
        files = [folder / Path(str(name)).name for name in sorted(map(str, names))]
    others = sorted(path.name for path in folder.glob("*.bin") if path not in files)
    if not files:
        if list(folder.glob("*.safetensors")):
            raise ConfigError(
                f"{folder} has weights as safetensors, which must not be converted: load it as it is."
            )
        found = f"; there is {', '.join(others)}" if others else ""
        raise ConfigError(f"{folder} must have {single.name}, and does not{found}.")
    if others:
        notes.append(f"left where they are: {', '.join(others)}")
    weights: dict[str, Any] = {}
    for path in files:
        weights |= weights_of(unpickled(path), None, path, notes)
    notes.append(f"weights: {len(weights)} tensors of {', '.join(path.name for path in files)}")
    return as_float32(weights, notes)
