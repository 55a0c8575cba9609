"""DeepSpeed's ZeRO, stages 1 and 2: each process has all weights, but only its part of the optimizer's state.

Stage 2 also keeps only that part of the gradient between two batches of an update. Weights, gradients and
sums of gradients are float32; under bf16 the network computes in autocast, as it does without DeepSpeed.
"""

import contextlib
import importlib.metadata
import importlib.util
import math
import os
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import compare_versions
from diffusers.models.modeling_utils import ModelMixin
from torch.distributed.device_mesh import init_device_mesh

import sharding
from config import TrainingConfig
from errors import ConfigError
from optimizers import make_optimizer

REQUIRED = "deepspeed>=0.19.8"
# Sections of a DeepSpeed configuration that Accelerate writes by itself, or that say nothing of the training.
_ALLOWED = {
    "zero_optimization", "fp16", "bf16", "train_batch_size", "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps", "gradient_clipping", "steps_per_print",
}  # fmt: skip


def check_installed() -> None:
    """Raise ConfigError if DeepSpeed was asked for and is not there, or too old."""
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


def check_plan(accelerator: Accelerator, config: TrainingConfig) -> None:
    """Refuse what this trainer cannot do with DeepSpeed.

    Raises:
        ConfigError: a stage, a place or a precision that is not supported, or settings that contradict flags.
    """
    plan = accelerator.deepspeed_plugin.deepspeed_config
    stage = plan["zero_optimization"].get("stage", 0)
    if stage not in (1, 2):
        raise ConfigError(
            f"zero_stage is {stage}, but must be 1 or 2: set it in the Accelerate configuration file. "
            "To share out the weights too, use FSDP2 (distributed_type FSDP, fsdp_version 2)."
        )
    for what in ("offload_optimizer", "offload_param"):
        device = plan["zero_optimization"].get(what, {}).get("device", "none")
        if device != "none":
            raise ConfigError(f"{what}_device is {device!r}, but must be 'none'.")
    if accelerator.mixed_precision == "fp16":
        raise ConfigError(
            "--mixed_precision is 'fp16', whose loss scale DeepSpeed would keep where no checkpoint of this "
            "trainer holds it; with DeepSpeed use bf16 or no."
        )
    others = sorted(plan.keys() - _ALLOWED)
    if others:
        raise ConfigError(
            f"the DeepSpeed configuration has {others[0]!r}, which flags of train.py decide; leave only "
            "'zero_optimization' in it."
        )
    clip = plan.get("gradient_clipping", "auto")
    if clip not in ("auto", config.max_grad_norm):
        raise ConfigError(
            f"gradient_clipping is {clip} in the Accelerate configuration, but --max_grad_norm is "
            f"{config.max_grad_norm}; leave it to the flag."
        )


class ZeroUpdater:
    """The network as DeepSpeed's engine trains it, and its optimizer; see `updater.Updater` for the methods.

    A gradient that is not finite the engine throws away by itself, in all processes alike.
    """

    def __init__(self, accelerator: Accelerator, network: ModelMixin, config: TrainingConfig):
        import deepspeed

        self.network, self._device = network, accelerator.device
        self.average_mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        self.optimizer = make_optimizer(network, config)
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        section = accelerator.deepspeed_plugin.deepspeed_config["zero_optimization"]
        settings = {
            # `optimizer_state` counts on the order of the parameters.
            "zero_optimization": {name: value for name, value in section.items() if value != "auto"}
            | {"round_robin_gradients": False},
            "zero_allow_untested_optimizer": True,
            "train_micro_batch_size_per_gpu": config.train_batch_size,
            "gradient_clipping": config.max_grad_norm,
            "steps_per_print": None,
        }
        if accelerator.mixed_precision == "bf16":
            # No module is "safe": gradients of the others would be summed over the processes in bf16.
            settings["torch_autocast"] = {
                "enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": [],
            }  # fmt: skip
        self.model, self._zero, _, _ = deepspeed.initialize(
            model=network, optimizer=self.optimizer, config=settings
        )

    def batch(self, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Return the context of one forward and backward pass, the last of an update or not."""
        self.model.set_gradient_accumulation_boundary(is_last)
        return contextlib.nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of a loss, divided by the number of batches already, to that of the update."""
        self.model.backward(loss)

    def gradient_norm(self) -> torch.Tensor:
        """Return zero: the engine takes the norm, and clips, in its step."""
        return torch.zeros((), device=self._device)

    def step(self, rates: list[float], norm: float, skip: bool) -> bool:
        """Update the weights and forget the gradient; return whether the weights were changed."""
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        if skip:
            # The engine looks at the gradient only, and that of a loss that is infinite may be finite.
            self._zero.averaged_gradients[0][0].fill_(math.nan)
        self.model.step()
        return not self._zero.overflow

    def optimizer_state(self, keep: bool) -> tuple[sharding.State, dict[str, Any]]:
        """Return the optimizer's whole tensors, on the CPU, in the processes that `keep`, and no numbers.

        Collective. The names are <parameter>.<entry>, those of a run without DeepSpeed.
        """
        from deepspeed.utils import safe_get_full_optimizer_state

        (parameters,), (flat,) = self._zero.bit16_groups, self._zero.single_partition_of_fp32_groups
        names = {parameter: name for name, parameter in self.network.named_parameters()}
        tensors = {}
        for entry, value in self.optimizer.state.get(flat, {}).items():
            if value.shape != flat.shape:  # a step count, which AdamW keeps with the first parameter
                tensors[f"{names[parameters[0]]}.{entry}"] = value.to("cpu", copy=True)
                continue
            for parameter in parameters:
                whole = safe_get_full_optimizer_state(parameter, entry)
                if keep:
                    tensors[f"{names[parameter]}.{entry}"] = whole.cpu()
        return tensors if keep else {}, {}

    def load(self, weights: sharding.State, tensors: sharding.State, numbers: dict[str, Any]) -> None:
        """Put back whole weights and what `optimizer_state` returned, of a run with DeepSpeed or without.

        Raises:
            ValueError: other names or shapes.
        """
        from deepspeed.utils import lazy_init_hp_params_optimizer_state, safe_set_full_optimizer_state

        sharding.load(sharding.weights(self.network), weights)
        self._zero.refresh_fp32_params()
        (parameters,), (flat,) = self._zero.bit16_groups, self._zero.single_partition_of_fp32_groups
        named, state = dict(self.network.named_parameters()), self.optimizer.state[flat]
        moments = {}
        for key, value in tensors.items():
            name, entry = key.rsplit(".", 1)
            if value.shape == named[name].shape:
                moments[name, entry] = value.to(self._device)
                state.setdefault(entry, torch.zeros_like(flat))
            else:
                state[entry] = value.to(self._device, copy=True)
        lazy_init_hp_params_optimizer_state(parameters, flat, self.optimizer.state)
        for (name, entry), value in moments.items():
            safe_set_full_optimizer_state(named[name], value, entry)
