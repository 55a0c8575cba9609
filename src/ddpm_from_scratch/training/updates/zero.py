"""DeepSpeed's ZeRO, stages 1 and 2: each process has all weights, but only its part of the optimizer's state.

Stage 2 also keeps only that part of the gradient between two batches of an update. Weights, gradients and
sums of gradients are float32; under bf16 the network computes in autocast, as it does without DeepSpeed.
"""

import contextlib
import math
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.models.modeling_utils import ModelMixin
from torch.distributed.device_mesh import init_device_mesh

from ..config import TrainingConfig
from . import sharding
from .optimizers import make_optimizer
from .zero_plan import engine_section

# DeepSpeed sets this much aside in each backward pass for the gradients that it sums together: two gigabytes.
_LARGEST_BUCKET = 500_000_000


class ZeroUpdater:
    """The network as DeepSpeed's engine trains it, and its optimizer; see `updater.Updater` for the methods.

    A gradient that is not finite the engine throws away by itself, in all processes alike. To a parameter
    without gradient it applies one of zeros, with weight decay.

    Raises:
        ConfigError: a DeepSpeed configuration that this does not follow (see zero_plan.py).
    """

    def __init__(self, accelerator: Accelerator, network: ModelMixin, config: TrainingConfig):
        import deepspeed

        section = engine_section(accelerator, config)
        self.network, self._device = network, accelerator.device
        self.average_mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        self.optimizer = make_optimizer(network, config)
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        size = sum(parameter.numel() for parameter in network.parameters())
        settings = {
            "zero_optimization": {"reduce_bucket_size": min(size, _LARGEST_BUCKET)} | section,
            "zero_allow_untested_optimizer": True,
            "train_micro_batch_size_per_gpu": config.train_batch_size,
            "gradient_clipping": config.max_grad_norm,
            "steps_per_print": None,
            "timers": {"throughput": {"enabled": False}},  # each would wait for the GPU
        }
        if accelerator.mixed_precision == "bf16":
            # No module is "safe": gradients of the others would be summed over the processes in bf16.
            settings["torch_autocast"] = {
                "enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": [],
            }  # fmt: skip
        self.model, self._zero, _, _ = deepspeed.initialize(
            model=network, optimizer=self.optimizer, config=settings
        )
        # AdamW has one group of parameters, and so the engine one flat tensor, of which this is our part.
        (self._trained,), (self._part,) = self._zero.bit16_groups, self._zero.single_partition_of_fp32_groups

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
        """Update the weights and forget the gradient; return whether the weights were changed.

        `norm` is not used: the engine has its own.
        """
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        if skip:
            # The engine looks at the gradient only, and that of a loss that is infinite may be finite. Every
            # process does this, because the part of some may be nothing but padding, which is not looked at.
            self._zero.averaged_gradients[0][0].fill_(math.nan)
        self.model.step()
        return not self._zero.overflow

    def optimizer_state(self, keep: bool) -> tuple[sharding.State, dict[str, Any]]:
        """Return the optimizer's whole tensors, on the CPU, in the processes that `keep`, and no numbers.

        Collective. The names are <parameter>.<entry>, those of a run without DeepSpeed.
        """
        from deepspeed.utils import safe_get_full_optimizer_state

        names = {parameter: name for name, parameter in self.network.named_parameters()}
        tensors = {}
        for entry, value in self.optimizer.state.get(self._part, {}).items():
            if value.shape != self._part.shape:  # a step count, which AdamW keeps with the first parameter
                tensors[f"{names[self._trained[0]]}.{entry}"] = value.to("cpu", copy=True)
                continue
            for parameter in self._trained:
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
        named, state = dict(self.network.named_parameters()), self.optimizer.state[self._part]
        moments = {}
        for key, value in tensors.items():
            name, entry = key.rsplit(".", 1)
            if entry == "step":
                state[entry] = value.to(self._part.device, copy=True)
                continue
            if name not in named or value.shape != named[name].shape:
                raise ValueError(f"{key!r} of shape {tuple(value.shape)} belongs to no parameter.")
            moments[name, entry] = value
            state.setdefault(entry, torch.zeros_like(self._part))
        lazy_init_hp_params_optimizer_state(self._trained, self._part, self.optimizer.state)
        for (name, entry), value in moments.items():
            safe_set_full_optimizer_state(named[name], value, entry)
