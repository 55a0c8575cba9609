"""A saved pipeline and the data it was trained on, for evaluate.py and calibrate.py."""

import os
import shutil
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from accelerate.utils.operations import convert_outputs_to_fp32
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from ..data.datasets import TrainingData, load_training_data
from ..data.settings import DataConfig
from ..hub.cards import layout_of
from ..hub.requests import CONNECTION_ERRORS
from ..hub.upload import PIPELINE_FILES
from ..networks.models import sample_shape
from ..pipeline_ddpm_from_scratch import DDPMFromScratchPipeline
from ..runtime.cpu import keep_large_allocations
from ..runtime.errors import ConfigError
from ..runtime.storage import commit_files, disk_errors_named, temporary_folder
from ..schedulers.scheduling_ddpm_from_scratch import DDPMFromScratchScheduler
from ..schedulers.scheduling_few_step import FewStepScheduler
from .sampling import count_classes

_NOT_FETCHED: tuple[type[Exception], ...] = (
    HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError,
    *CONNECTION_ERRORS,
)  # fmt: skip
SAMPLERS = {"few_step": FewStepScheduler, "ddpm": DDPMFromScratchScheduler}


def find_processes() -> PartialState:
    """Return the state of the processes that were launched, of which this is one.

    Raises:
        ConfigError: they cannot see each other.
    """
    # As Accelerator does; PartialState alone does not look at the variable.
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if state.num_processes != launched:
        raise ConfigError(
            f"{launched} processes were launched, but this one sees {state.num_processes}: on CPUs set "
            "ACCELERATE_USE_CPU=true."
        )
    return state


def _data_of(pipeline: DDPMFromScratchPipeline, config: DataConfig) -> TrainingData:
    shape = sample_shape(pipeline.unet)
    is_image = len(shape) == 3
    data = load_training_data(
        config,
        config.resolution or (shape[1:] if is_image else None),
        config.channels or (shape[0] if is_image else None),
    )
    if data.sample_shape != shape:
        raise ConfigError(
            f"the pipeline makes samples of shape {shape}, but {data.name} has {data.sample_shape}."
        )
    num_classes = count_classes(pipeline)
    if data.num_classes not in (None, num_classes):
        raise ConfigError(
            f"--label_column {config.label_column!r} has {data.num_classes} classes, but the pipeline "
            f"{num_classes or 'none'}."
        )
    return data


def load_pipeline_and_data(
    name: str,
    config: DataConfig | None,
    *,
    cache_dir: str | None = None,
    mixed_precision: str = "no",
    sampler: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[DDPMFromScratchPipeline, TrainingData | None]:
    """Return a pipeline on the device and in the precision to run in, and the data of a configuration.

    Args:
        name: folder or Hub id of the pipeline.
        config: of its training data; without one there are no data.
        cache_dir: folder for downloaded pipelines.
        mixed_precision: of the network: "no", "fp16" or "bf16".
        sampler: "few_step" or "ddpm", in place of the pipeline's own.
        trust_remote_code: run the pipeline's code of a network whose class is not known.

    Raises:
        ConfigError: data that do not go with the pipeline.
    """
    try:
        pipeline = DDPMFromScratchPipeline.from_pretrained(
            name, cache_dir=cache_dir, trust_remote_code=trust_remote_code
        )
    except _NOT_FETCHED as error:
        raise ConfigError(
            f"pipeline is {name!r}: there is no such folder, and of the Hub it cannot be had "
            f"({str(error).splitlines()[0]}). Give the folder of a pipeline; or download it where there is a "
            f"connection, hf download {name}, and leave HF_HUB_OFFLINE unset."
        ) from error
    data = None if config is None else _data_of(pipeline, config)
    device = PartialState().device
    pipeline.to(device)
    if device.type == "cpu":
        keep_large_allocations()
    if mixed_precision != "no":
        precision = {"fp16": torch.float16, "bf16": torch.bfloat16}[mixed_precision]
        autocast = torch.autocast(device.type, precision)
        pipeline.unet.forward = convert_outputs_to_fp32(autocast(pipeline.unet.forward))
    if sampler is not None:
        pipeline.scheduler = SAMPLERS[sampler].from_config(pipeline.scheduler.config)
    return pipeline, data


def save_scheduler(pipeline: DDPMFromScratchPipeline, folder: Path) -> None:
    """Replace the scheduler of a saved pipeline, and what depends on it; the weights stay as they are.

    Raises:
        ConfigError: a scheduler that cannot be saved in the layout of the folder.
        StorageError: the disk is full or fails.
    """
    with disk_errors_named(folder):
        temporary = temporary_folder(folder / "calibrated")
        try:
            pipeline.save_pretrained(temporary, layout=layout_of(folder))
        except ValueError as error:
            shutil.rmtree(temporary)
            raise ConfigError(str(error)) from error
        shutil.rmtree(temporary / "unet")
        written = {path.name for path in (temporary / "scheduler").iterdir()}
        commit_files(temporary, folder, last="model_index.json")
        for name in PIPELINE_FILES:  # the code of the scheduler before; other files there are not ours
            if name.startswith("scheduler/") and Path(name).name not in written:
                (folder / name).unlink(missing_ok=True)
