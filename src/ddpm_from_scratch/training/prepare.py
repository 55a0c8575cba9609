"""What a run starts from: the data, a network that fits them, the Hub, the devices."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedType, InitProcessGroupKwargs

from ..data.datasets import TrainingData, load_training_data
from ..data.sizes import as_sample_size, as_setting
from ..hub.requests import offline_words
from ..hub.upload import check_token, prepare_repository
from ..networks.models import MODEL_CONFIGS, load_model_config, model_config
from ..runtime.errors import ConfigError
from ..runtime.privacy import without_folders
from ..runtime.processes import rank
from ..sharing.publish import hub_errors
from ..words import BUILT_IN_DATASETS
from .config import TrainingConfig
from .output_folder import TRACKER
from .start import Start, check_agreement, check_fit, find_start, follow_process, warn_of_fresh_weights
from .updates.sharding import check_launch, refuse_deepspeed

# A process that waits longer than this for another one takes it for dead.
PROCESS_TIMEOUT = timedelta(minutes=10)


def choose_model_and_data(config: TrainingConfig) -> tuple[dict[str, Any], TrainingData, Start | None]:
    """Return the network's configuration and the data, made to agree, and the weights to start from.

    They agree on size, channels and classes. A `Trainer` takes the three after `config`.
    With --init_from the network is that of the weights, and what `config` says of the process becomes
    theirs where it was not given.

    Raises:
        ConfigError: they cannot agree.
    """
    start = find_start(config)
    if start is not None:
        follow_process(config, start)
    else:
        warn_of_fresh_weights(config)
    chosen, named = config.model_config_name_or_path, config.model_config_name_or_path in MODEL_CONFIGS
    given: dict[str, Any] = {}
    if chosen is not None:
        try:
            given = load_model_config(chosen, cache_dir=config.cache_dir)
        except ValueError as error:
            words = (offline_words(chosen, error) if "/" in chosen else None) or error
            raise ConfigError(f"--model_config_name_or_path: {words}") from error
    flag = "--model_config_name_or_path"
    if start is not None:
        check_agreement(config, start, given)
        flag, chosen, given, named = "--init_from", start.name, start.network, False
    is_built_in = start is not None and config.dataset_name in BUILT_IN_DATASETS  # which have their own
    resolution = config.resolution or (None if is_built_in else given.get("sample_size"))
    channels = config.channels or (None if named or is_built_in else given.get("in_channels"))
    data = load_training_data(config, resolution, channels)
    if len(data.sample_shape) == 1:
        if config.variance_type == "learned_range":
            raise ConfigError("--variance_type is 'learned_range', which needs images; the data are points.")
        network = given or model_config("points")
        if network.get("_class_name") != "PointDenoiser":
            raise ConfigError(f"{flag} is {chosen!r}, an image network, but the data are points.")
        network = network | {"sample_shape": data.sample_shape}
        if start is not None:
            check_fit(config, start, network)
        return network, data, start
    channels, height, width = data.sample_shape
    outputs = channels * (2 if config.variance_type == "learned_range" else 1)
    if given.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise ConfigError(f"{flag} is {chosen!r}, but images need a UNet2DModel.")
    if chosen is None or named:
        given = model_config(chosen or _network_for(height, width), channels=channels, out_channels=outputs)
    elif start is None and (given.get("in_channels", 3), given.get("out_channels", 3)) != (channels, outputs):
        raise ConfigError(
            f"--model_config_name_or_path {chosen!r} has {given.get('in_channels', 3)} input and "
            f"{given.get('out_channels', 3)} output channels, but the data and --variance_type "
            f"{config.variance_type} need {channels} and {outputs}."
        )
    _check_size(height, width, given)
    classes = data.num_classes
    if classes is not None and config.label_dropout:
        classes += 1  # the last one means "no label"
    if start is not None:
        fitted = {
            "sample_size": as_sample_size(height, width),
            "in_channels": channels,
            "out_channels": outputs,
        }
        given = given | fitted | {"num_class_embeds": classes}
        check_fit(config, start, given)
    if given.get("num_class_embeds") not in (None, classes):
        raise ConfigError(
            f"--model_config_name_or_path {chosen!r} has {given['num_class_embeds']} classes, but the data "
            f"with --label_dropout {config.label_dropout} have {classes or 'none'}; give the labels with "
            "--label_column."
        )
    given = given | {"sample_size": as_sample_size(height, width)}
    return given | ({} if classes is None else {"num_class_embeds": classes}), data, start


def _network_for(height: int, width: int) -> str:
    """Return the name of a network for images of a size, if none is asked for."""
    side = max(height, width)
    if side <= 32:
        return "digits" if side <= 8 else "small-32"
    # ddpm-256 halves each side five times, which 48 x 64 does not bear; ddpm-cifar10 three times, with
    # attention at half of the size, which is dear from there on.
    halves_well = not (height % 32 or width % 32)
    return "ddpm-256" if halves_well or side > 128 else "ddpm-cifar10"


def _check_size(height: int, width: int, network: dict[str, Any]) -> None:
    """Raise ConfigError, with the nearest sizes that do, unless a network can halve both sides to the end."""
    factor = 2 ** (len(network.get("block_out_channels", (0,) * 4)) - 1)
    if not (height % factor or width % factor):
        return
    below = as_setting(height // factor * factor, width // factor * factor)
    above = as_setting(-(-height // factor) * factor, -(-width // factor) * factor)
    fitting = f"{below} or {above}" if min(height, width) >= factor else f"{above}"
    raise ConfigError(
        f"--resolution is {as_setting(height, width)}, but this network halves both sides to the end: each "
        f"must be a multiple of {factor}. Use {fitting}, or another --model_config_name_or_path."
    )


def check_hub_token(config: TrainingConfig) -> None:
    """See, before any data are read, whether the Hub takes the token of a run that is to be published.

    Raises:
        UploadError: no token, a wrong one, or no connection.
    """
    if config.push_to_hub and rank() == 0:
        with hub_errors(upload="--push_to_hub: "):
            check_token(_repo_id(config), config.hub_token)


def _repo_id(config: TrainingConfig) -> str:
    return config.hub_model_id or Path(config.output_dir).resolve().name


def prepare_hub(config: TrainingConfig) -> str:
    """Return what the card calls the model: the repository, or the folder if the run is not for the Hub.

    If it is to be published, the repository is created now.

    Raises:
        ConfigError: a name that the Hub does not take.
        UploadError: no token, a wrong one, or no connection.
    """
    if not config.push_to_hub:
        return config.hub_model_id or without_folders(config.output_dir)
    repo_id = _repo_id(config)
    if rank() != 0:
        return repo_id
    with hub_errors("--hub_model_id: ", "--push_to_hub: "):
        return prepare_repository(repo_id, private=config.hub_private_repo, token=config.hub_token)


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """Return Accelerate's view of devices, processes, precision and trackers.

    Raises:
        ConfigError: a package that is not installed, a precision that the device lacks, or a way to launch
            that this trainer does not know.
    """
    tracker = None if config.logger == "jsonl" else config.logger
    if tracker is not None and tracker not in [str(known.value) for known in get_available_trackers()]:
        raise ConfigError(
            f"--logger is {tracker!r}, but that package is not installed: pip install {tracker}."
        )
    refuse_deepspeed()
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    # Batches are accumulated by the trainer, which divides the loss itself.
    os.environ.pop("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", None)
    try:
        accelerator = Accelerator(
            mixed_precision=config.mixed_precision,
            log_with=tracker,
            project_dir=str(Path(config.output_dir) / config.logging_dir),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PROCESS_TIMEOUT)],
        )
    except ValueError as error:
        where = f"--mixed_precision {config.mixed_precision}, --logger {config.logger}"
        raise ConfigError(f"{where}: {error}") from error
    check_launch(accelerator)
    if config.optimizer == "muon" and accelerator.distributed_type == DistributedType.FSDP:
        raise ConfigError(
            "--optimizer is 'muon', which needs whole matrices, but FSDP shards them: use adamw."
        )
    return accelerator


def start_tracking(config: TrainingConfig, accelerator: Accelerator) -> None:
    """Begin the log of a tracker, if one was chosen; like the card, it gets no folders of this machine."""
    if config.logger != "jsonl":
        known = {
            name: without_folders(value)
            for name, value in vars(config).items()
            if name != "hub_token" and isinstance(value, (int, float, str))
        }
        accelerator.init_trackers(TRACKER, known)
