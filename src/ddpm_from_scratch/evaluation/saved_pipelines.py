"""A saved pipeline and the data it was trained on, from the command lines of evaluate.py and calibrate.py."""

import argparse
import os
from dataclasses import fields
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from accelerate.utils.operations import convert_outputs_to_fp32

from ..data.datasets import TrainingData, load_training_data
from ..networks.models import sample_shape
from ..pipeline_ddpm_from_scratch import DDPMFromScratchPipeline
from ..runtime.cpu import keep_large_allocations
from ..runtime.errors import ConfigError
from ..training.config import TrainingConfig
from .sampling import count_classes

_DATA_FLAGS = (
    "dataset_name", "dataset_config_name", "dataset_split", "train_data_dir", "image_column", "label_column",
    "resolution", "channels", "cache_dir", "center_crop",
)  # fmt: skip


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of train.py that say what the training data are."""
    group = parser.add_argument_group("training data, as in train.py")
    for item in fields(TrainingConfig):
        if item.name in _DATA_FLAGS:
            kind = int if item.name in ("resolution", "channels") else str
            options: dict[str, Any] = {"type": kind, "default": item.default}
            if item.name == "center_crop":
                options = {"action": "store_true"}
            group.add_argument(f"--{item.name}", help=item.metadata["help"], **options)


def add_network_flags(group: Any) -> None:
    """Add the flags of sampling that do not depend on the scheduler."""
    group.add_argument("--batch_size", type=int, default=250, help="samples of one batch; default 250")
    group.add_argument(
        "--guidance_scale", type=float, default=1.0, help="classifier-free guidance; default 1, none"
    )
    group.add_argument("--seed", type=int, default=0, help="seed of the samples; default 0")
    group.add_argument(
        "--mixed_precision",
        choices=("no", "fp16", "bf16"),
        default="no",
        help="precision of the network; default no",
    )


def data_config(args: argparse.Namespace) -> TrainingConfig:
    """Return the configuration of a run on the data of a command line.

    Raises:
        ConfigError: a setting out of range.
    """
    if args.batch_size < 1:
        raise ConfigError(f"--batch_size is {args.batch_size}, but must be at least 1.")
    return TrainingConfig(seed=args.seed, **{name: getattr(args, name) for name in _DATA_FLAGS})


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


def _data_of(pipeline: DDPMFromScratchPipeline, config: TrainingConfig) -> TrainingData:
    shape = sample_shape(pipeline.unet)
    is_image = len(shape) == 3
    data = load_training_data(
        config,
        config.resolution or (shape[1] if is_image else None),
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
    args: argparse.Namespace, config: TrainingConfig | None
) -> tuple[DDPMFromScratchPipeline, TrainingData | None]:
    """Return the pipeline of a command line, on the device and in the precision to run in, and its data.

    Without a configuration there are no data.

    Raises:
        ConfigError: data that do not go with the pipeline.
    """
    pipeline = DDPMFromScratchPipeline.from_pretrained(args.pipeline, cache_dir=args.cache_dir)
    data = None if config is None else _data_of(pipeline, config)
    device = PartialState().device
    pipeline.to(device)
    if device.type == "cpu":
        keep_large_allocations()
    if args.mixed_precision != "no":
        precision = {"fp16": torch.float16, "bf16": torch.bfloat16}[args.mixed_precision]
        autocast = torch.autocast(device.type, precision)
        pipeline.unet.forward = convert_outputs_to_fp32(autocast(pipeline.unet.forward))
    return pipeline, data
