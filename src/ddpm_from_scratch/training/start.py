"""Trained weights that a run starts from: where they are, what they were trained for, how they fit."""

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from huggingface_hub.errors import RepositoryNotFoundError

from ..hub.layouts import class_settings
from ..hub.requests import CONNECTION_ERRORS, offline_words
from ..hub.safe_loading import check_model, component_folder, fetch, named, read_json, variants
from ..networks.adaptation import ADAPTABLE, Weights, adapted, as_stored, differences
from ..networks.models import MODEL_CONFIGS, PointDenoiser
from ..runtime.errors import ConfigError, say, warn
from ..runtime.privacy import without_folders
from ..runtime.processes import rank
from ..schedulers.scheduler_settings import SHAPE_KEYS, tables_from_settings
from ..schedulers.scheduling_ddpm_from_scratch import DDPMFromScratchScheduler
from . import checkpoint
from .config import TrainingConfig

_UNREACHABLE: tuple[type[Exception], ...] = (OSError, ValueError, *CONNECTION_ERRORS)
# What --init_variant calls the weights beside the averaged ones -> the variant that an export saves them as.
_RAW = {"raw": "non_ema"}
_KINDS = {"UNet2DModel": UNet2DModel, "PointDenoiser": PointDenoiser}
# Setting of a run -> that of a scheduler.
_PROCESS = {
    "prediction_type": "prediction_type",
    "ddpm_num_steps": "num_train_timesteps",
    "ddpm_beta_schedule": "beta_schedule",
    "beta_start": "beta_start",
    "beta_end": "beta_end",
    "rescale_betas_zero_snr": "rescale_betas_zero_snr",
    "variance_type": "variance_type",
    "clip_sample": "clip_sample",
}
_SCHEDULE = ("ddpm_num_steps", "ddpm_beta_schedule", "beta_start", "beta_end", "rescale_betas_zero_snr")
# Variances that training prepares nothing for -> the one that samples alike.
_VARIANCES = {
    "fixed_small_log": "fixed_small",
    "fixed_large_log": "fixed_large",
    "analytic": "fixed_small",
    "learned": "fixed_small",  # its outputs are left out: those of learned_range mean something else
}
_LEARNED = ("prediction_type", *_SCHEDULE)  # what the weights know; the rest is of sampling


@dataclass(frozen=True)
class Start:
    """What a run with --init_from starts from.

    Args:
        name: the folder or the Hub id, as it was given.
        hub_id: that id, None for a folder.
        network: configuration of the network that the weights are of.
        process: settings of a run -> what the weights were trained with; empty if that is not known.
        null_label: the class that stands for none, if there is one.
        folder: of the weights; None for a run that goes on from a checkpoint, which has its own.
        variant: of the weights.
    """

    name: str
    hub_id: str | None
    network: dict[str, Any]
    process: dict[str, Any]
    null_label: int | None = None
    folder: Path | None = None
    variant: str | None = None

    def record(self) -> dict[str, Any]:
        """Return what a checkpoint says of it, so that a run can go on without the weights."""
        return {"hub_id": self.hub_id, "process": self.process}

    def about(self) -> dict[str, Any]:
        """Return what results.json and the card say of it, without folders of this machine."""
        return {"name": without_folders(self.name), "hub_id": self.hub_id}

    def weights(self, network: Mapping[str, Any], drops: bool) -> Weights | None:
        """Return the weights, in float32, made to fit a network; None if a checkpoint has them.

        Args:
            network: its configuration.
            drops: whether its last class stands for none.
        """
        if self.folder is None:
            return None
        kind = _KINDS[self.network["_class_name"]]
        model = kind.from_pretrained(str(self.folder), variant=self.variant, use_safetensors=True)
        loaded = {name: value.float() for name, value in model.state_dict().items()}
        return adapted(loaded, self.network, network, self.null_label, drops)


def find_start(config: TrainingConfig) -> Start | None:
    """Return what a run starts from; None without --init_from.

    A run that goes on from a checkpoint needs the weights no more, so they are not looked for.

    Raises:
        ConfigError: nothing there, damaged weights, or weights of another kind of network or process.
    """
    if config.init_from is None:
        return None
    manifest = checkpoint.manifest_to_resume(Path(config.output_dir), config.resume_from_checkpoint)
    if manifest is not None:
        return Start(config.init_from, network=manifest["network"], **manifest.get("start", _NO_RECORD))
    try:
        return _open(config)
    except ValueError as error:
        raise ConfigError(f"--init_from {config.init_from!r}: {error}") from error


_NO_RECORD: dict[str, Any] = {"hub_id": None, "process": {}}


def _open(config: TrainingConfig) -> Start:
    """Return the weights that --init_from names, after checking them.

    Raises:
        ValueError: as in `find_start`.
    """
    name, variant = str(config.init_from), _RAW.get(config.init_variant or "", config.init_variant)
    root = _fetched(name, variant, config)
    if (root / "manifest.json").is_file() and (root / "model.safetensors").is_file():
        raise ValueError("that is a checkpoint; give the folder of its run, which holds the pipeline.")
    folder = component_folder(root, "unet")
    if not (folder / "config.json").is_file():
        raise ValueError("there is neither unet/config.json nor config.json; give a pipeline's folder.")
    if folder == root and root.name == "unet" and (root.parent / "model_index.json").is_file():
        root = root.parent
    index = read_json(root / "model_index.json") if (root / "model_index.json").is_file() else {}
    parts = {key for key, value in index.items() if isinstance(value, list) and not key.startswith("_")}
    if parts - {"unet", "scheduler"}:
        raise ValueError(
            f"that pipeline has the components {', '.join(sorted(parts))}, but only one of a unet and a "
            "scheduler works on samples themselves, as must be."
        )
    network = _network(read_json(folder / "config.json"))
    there = variants(folder)
    if there and variant not in there:
        known = [{"None": "the default", "non_ema": "raw"}.get(str(one), str(one)) for one in there]
        raise ValueError(
            f"--init_variant is {config.init_variant!r}, but the weights there are {', '.join(known)}; give "
            "one of these, or leave it out for the default."
        )
    check_model(folder, _KINDS[network["_class_name"]], variant)
    path = component_folder(root, "scheduler") / "scheduler_config.json"
    process = _process(path, config) if path.is_file() else {}
    hub_id = None if Path(name).exists() else name
    null_label = class_settings(index)["null_class_label"]
    return Start(name, hub_id, network, process, null_label, folder, variant)


def _fetched(name: str, variant: str | None, config: TrainingConfig) -> Path:
    """Return the folder that was named, or one downloaded from the Hub."""
    if Path(name).is_file():
        raise ValueError("that is a file; give the folder that holds config.json and the weights beside it.")
    if not Path(name).is_dir() and (name.startswith((".", "/")) or name.count("/") > 1):
        raise ValueError("there is no such folder; give one, or a Hub id.")
    try:
        return fetch(name, variant, cache_dir=config.cache_dir, token=config.hub_token)
    except RepositoryNotFoundError as error:
        raise ValueError(
            "there is no such folder, and the Hub has no such repository, or it is private: give another, "
            "or log in with 'hf auth login'."
        ) from error
    except _UNREACHABLE as error:
        if (words := offline_words(name, error)) is not None:
            raise ValueError(words) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"there is no such folder, and it cannot be had from the Hub ({reason}); give a folder."
        ) from error


def _network(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a network with all its settings, of a stored one.

    Raises:
        ValueError: a network that cannot be trained here.
    """
    name = stored.get("_class_name", "UNet2DModel")
    if name not in _KINDS:
        raise ValueError(f"the weights are of a {name}, but must be of one of {', '.join(_KINDS)}.")
    settings = list(inspect.signature(_KINDS[name].__init__).parameters.values())[1:]
    return {"_class_name": name} | {each.name: stored.get(each.name, each.default) for each in settings}


def _process(path: Path, config: TrainingConfig) -> dict[str, Any]:
    """Return the settings of a run that a saved scheduler stands for.

    Raises:
        ValueError: another process than DDPM's, or a noise schedule that no flags make.
    """
    stored = read_json(path)
    if "beta_schedule" not in stored:
        raise ValueError(
            f"{path.name} is of {stored.get('_class_name')}, which has no beta_schedule: the weights must be "
            "of a diffusion with betas."
        )
    with named(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run makes the same scheduler, and says what is to be said
        scheduler = DDPMFromScratchScheduler.from_config(stored)
        process = {name: scheduler.config[key] for name, key in _PROCESS.items()}
        variances = process["variance_type"]
        process["variance_type"] = _VARIANCES.get(variances, variances)
        again = DDPMFromScratchScheduler(**{_PROCESS[name]: process[name] for name in _SCHEDULE})
    (_, stored_alphas), (_, alphas) = (tables_from_settings(each.config) for each in (scheduler, again))
    if not torch.allclose(stored_alphas, alphas, rtol=1e-4, atol=1e-6):
        if not config.is_given("ddpm_beta_schedule"):
            raise ValueError(
                f"{path.name} has betas that no --ddpm_beta_schedule makes; give the schedule to train with."
            )
        process = {name: value for name, value in process.items() if name not in _SCHEDULE[1:]}
    return process


def follow_process(config: TrainingConfig, start: Start) -> None:
    """Give the settings of the process that were not given the values that the weights were trained with.

    Says in a line what was taken over, and warns of what was given and is another. `config` is changed.

    Raises:
        ConfigError: settings that do not go together.
    """
    taken, differing = [], []
    for name, value in start.process.items():
        mine = getattr(config, name)
        is_used = not name.startswith("beta_") or name in SHAPE_KEYS[config.ddpm_beta_schedule]
        if mine != value and not config.is_given(name):
            setattr(config, name, value)
            taken += [f"{name} {value}"] * is_used
        elif mine != value:
            differing += [f"--{name} is {mine}, they were trained with {value}"] * (
                is_used and name in _LEARNED
            )
    config.check_process()
    if start.folder is None or rank() != 0:
        return
    if differing:
        warn(f"--init_from {start.name}: {'; '.join(differing)}. The weights must learn that anew.")
    if not start.process:
        warn(
            f"--init_from {start.name} has no scheduler, which would say what the weights were trained for: "
            f"it is taken to be prediction_type {config.prediction_type}, {config.ddpm_num_steps} steps of "
            f"{config.ddpm_beta_schedule}."
        )
    which = start.variant or "default"
    settings = f"; from its scheduler: {', '.join(taken)}" if taken else ""
    print(f"starting from the {which} weights of {start.name}{settings}")


def check_fit(config: TrainingConfig, start: Start, network: Mapping[str, Any]) -> None:
    """Say in a line what has to change for weights to fit a network.

    Raises:
        ConfigError: they cannot be made to fit.
    """
    try:
        found = differences(start.network, network, start.null_label, bool(config.label_dropout))
    except ValueError as error:
        raise ConfigError(f"--init_from {start.name!r}: {error}") from error
    if found and start.folder is not None and rank() == 0:
        print(f"fitting the weights to the data: {'; '.join(found)}")


def check_agreement(config: TrainingConfig, start: Start, given: Mapping[str, Any]) -> None:
    """Check that a network which was named beside --init_from is the one that the weights are of.

    Args:
        config: of the run.
        start: the weights.
        given: configuration that --model_config_name_or_path names.

    Raises:
        ConfigError: they differ in more than what can be adapted.
    """
    theirs = start.network
    for name, value in given.items():
        adaptable = name in ADAPTABLE or (name.startswith("_") and name != "_class_name")
        old = theirs.get(name)
        if not adaptable and name in theirs and as_stored(value) != as_stored(old):
            raise ConfigError(
                f"--model_config_name_or_path {config.model_config_name_or_path!r} has {name} {value!r}, but "
                f"the weights of --init_from {start.name!r} have {old!r}; leave the first out: the network "
                "is that of the weights."
            )


def warn_of_fresh_weights(config: TrainingConfig) -> None:
    """Say that a network is trained from fresh weights, if it was named by what holds trained ones."""
    chosen = config.model_config_name_or_path
    if chosen is None or chosen in MODEL_CONFIGS or Path(chosen).is_file():
        return
    if rank() != 0 or config.resume_from_checkpoint:
        return
    folder = Path(chosen)
    holds = not folder.is_dir() or any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
    if holds:
        say(
            f"only the configuration of {chosen} is used, training starts from fresh weights; "
            f"--init_from {chosen} would start from its own"
        )
