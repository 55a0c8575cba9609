"""Which DeepSpeed configurations the trainer follows; what it would not follow is refused, not passed over.

A configuration comes from the nested keys of an Accelerate file or from a DeepSpeed JSON that it names.
Accelerate completes it, so some entries are there although nobody wrote them.
"""

import importlib.metadata
import importlib.util
import os
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import compare_versions

from ...runtime.errors import ConfigError
from ..config import TrainingConfig

REQUIRED = "deepspeed>=0.19.8"
# Entries whose values are compared with what the flags say; their flag in words.
_OF_FLAGS = {
    "gradient_clipping": "--max_grad_norm",
    "gradient_accumulation_steps": "--gradient_accumulation_steps",
    "train_micro_batch_size_per_gpu": "--train_batch_size",
    "train_batch_size": "--train_batch_size times accumulation and processes",
}
# Entries that change nothing here, or that the trainer sets to what is allowed.
_IGNORED = {"steps_per_print", "wall_clock_breakdown", "zero_allow_untested_optimizer"}
# What of zero_optimization reaches the engine, beside what is for stage 3 only.
_PASSED_ON = {
    "stage", "overlap_comm", "contiguous_gradients", "reduce_scatter", "reduce_bucket_size",
    "allgather_partitions", "allgather_bucket_size",
}  # fmt: skip
_OFFLOADING = ("offload_optimizer", "offload_param")


def check_package(config: TrainingConfig) -> None:
    """Check, before Accelerate looks, what it would not say in one line, if DeepSpeed was asked for at all.

    Raises:
        ConfigError: DeepSpeed is not installed or too old, or nested keys contradict the flags.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() != "true":
        return
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(
            f"distributed_type is DEEPSPEED, but that package is not installed: pip install '{REQUIRED}'."
        )
    if not compare_versions("deepspeed", ">=", REQUIRED.split(">=")[1]):
        raise ConfigError(
            f"DeepSpeed is {importlib.metadata.version('deepspeed')}, which would not skip a float32 "
            f"gradient that is not finite: pip install '{REQUIRED}'."
        )
    nested = {
        name: os.environ.get(f"ACCELERATE_{name.upper()}", "auto")
        for name in ("gradient_clipping", "gradient_accumulation_steps")
    }
    _compare({name: float(value) for name, value in nested.items() if value not in ("auto", "none")}, config)


def engine_section(accelerator: Accelerator, config: TrainingConfig) -> dict[str, Any]:
    """Return the zero_optimization section for the engine, after checking the whole configuration.

    Raises:
        ConfigError: a stage, a place or a precision that is not supported, an entry that the trainer would
            not follow, one that contradicts the flags, or processes without a launcher.
    """
    if not torch.distributed.is_initialized():
        raise ConfigError(
            "distributed_type is DEEPSPEED, but the processes do not know of each other: start with "
            "accelerate launch, also a single one."
        )
    plan = accelerator.deepspeed_plugin.deepspeed_config
    section = plan["zero_optimization"]
    if section.get("stage", 0) not in (1, 2):
        raise ConfigError(
            f"zero_stage is {section.get('stage', 0)}, but must be 1 or 2: set it in the Accelerate "
            "configuration file. To share out the weights too, use distributed_type FSDP with fsdp_version 2."
        )
    for name in _OFFLOADING:
        device = (section.get(name) or {}).get("device", "none")
        if device != "none":
            raise ConfigError(f"{name}_device is {device!r}, but must be 'none'.")
    for name in section:
        if name not in (*_PASSED_ON, *_OFFLOADING) and not name.startswith("stage3_"):
            raise ConfigError(
                f"the zero_optimization section has {name!r}, which this trainer does not follow; it follows "
                f"{', '.join(sorted(_PASSED_ON))}."
            )
    _check_precision(plan, accelerator, config)
    _compare(plan, config, accelerator.num_processes)
    known = {*_OF_FLAGS, *_IGNORED, "zero_optimization", "bf16", "fp16"}
    if plan.get("communication_data_type") == "fp32":  # which Accelerate writes by itself on some GPUs
        known.add("communication_data_type")
    for name in plan:
        if name not in known:
            raise ConfigError(
                f"the DeepSpeed configuration has {name!r}, which this trainer does not follow: the flags of "
                "train.py decide. Leave only 'zero_optimization' in it."
            )
    return {name: section[name] for name in sorted(_PASSED_ON & section.keys()) if section[name] != "auto"}


def _check_precision(plan: dict[str, Any], accelerator: Accelerator, config: TrainingConfig) -> None:
    got, wanted = accelerator.mixed_precision, config.mixed_precision
    if wanted not in (None, got):
        raise ConfigError(
            f"--mixed_precision is {wanted!r}, but the DeepSpeed configuration makes it {got!r}; leave its "
            "bf16 and fp16 sections out."
        )
    if got == "fp16":
        raise ConfigError(
            "--mixed_precision is 'fp16', whose loss scale DeepSpeed would keep where no checkpoint of this "
            "trainer holds it; with DeepSpeed use bf16 or no."
        )
    others = plan.get("bf16", {}).keys() - {"enabled"}
    if others:
        raise ConfigError(
            f"the bf16 section has {min(others)!r}, which this trainer does not follow: weights and state "
            "stay float32."
        )


def _compare(plan: dict[str, Any], config: TrainingConfig, num_processes: int = 1) -> None:
    """Raise ConfigError for an entry that says otherwise than the flags."""
    batch, accumulation = config.train_batch_size, config.gradient_accumulation_steps
    values = (config.max_grad_norm, accumulation, batch, batch * accumulation * num_processes)
    for (name, flag), value in zip(_OF_FLAGS.items(), values, strict=True):
        got = plan.get(name, "auto")
        if name == "gradient_accumulation_steps" and got == 1:
            continue  # Accelerate writes it where nothing is said
        if got not in ("auto", value):
            raise ConfigError(
                f"{name} is {got:g} in the configuration for Accelerate or DeepSpeed, but {flag} makes it "
                f"{value:g}; leave it to the flags."
            )
