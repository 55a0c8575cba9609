"""How the loss of a batch becomes an optimizer update: on one process, on copies (DDP), on shards (FSDP2).

Small networks on CPUs have their weights in one tensor.
"""

import contextlib
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from torch.nn.utils import (
    clip_grads_with_norm_,
    get_total_norm,
    parameters_to_vector,
    vector_to_parameters,
)

from ..config import TrainingConfig
from . import sharding
from .optimizers import make_optimizer

# Above this a kernel's own work takes longer than to call it once for each parameter.
_MOST_FLAT_WEIGHTS = 200_000


class Updater:
    """The network as it is trained, and its optimizer; for all that Accelerate prepares by itself.

    Args:
        accelerator: devices, processes and precision.
        network: on its device; this shards it if that was asked for.
        config: of the run.
    """

    def __init__(self, accelerator: Accelerator, network: ModelMixin, config: TrainingConfig):
        self.accelerator, self.network, self.max_grad_norm = accelerator, network, config.max_grad_norm
        sharding.configure_sharding(accelerator, network)
        trained = self._trained(network)
        optimizer = make_optimizer(trained, config)
        self.base_rates = [group["lr"] for group in optimizer.param_groups]
        self.model, self.optimizer = accelerator.prepare(network, optimizer)
        self._parameters = list(trained.parameters())
        self._clips_itself = accelerator.scaler is not None or accelerator.is_fsdp2

    def _trained(self, network: ModelMixin) -> nn.Module:
        """Return what holds the optimizer's parameters."""
        return network

    def batch(self, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Return the context of one forward and backward pass, the last of an update or not."""
        return contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.model)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of a loss, divided by the number of batches already, to that of the update."""
        self.accelerator.backward(loss)

    def gradient_norm(self) -> torch.Tensor:
        """Return the norm of the whole gradient; under shards or a loss scale, clip it at once."""
        if self._clips_itself:
            clipped = self.accelerator.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
            self._norm = sharding.full_tensor(clipped)
        else:
            self._norm = get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        return self._norm

    def step(self, rates: list[float], norm: float, skip: bool) -> bool:
        """Update the weights and forget the gradient; return whether the weights were changed.

        Args:
            rates: learning rate of each parameter group.
            norm: of the gradient, on which the processes agreed.
            skip: only forget the gradient, because it or the loss is not finite in some process.
        """
        scaler = self.accelerator.scaler
        if norm > self.max_grad_norm and not self._clips_itself:
            clip_grads_with_norm_(self._parameters, self.max_grad_norm, self._norm)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        if not skip:
            # Without a scaler Accelerate's wrapper adds only a search of the file system for a package; as it
            # adds to zero_grad() only a look at the signature.
            (self.optimizer if scaler is not None else self.optimizer.optimizer).step()
        elif scaler is not None:
            # What a scaler does after a step that it skipped: it lowers the loss scale.
            scaler.update(scaler.get_scale() * scaler.get_backoff_factor())
        self._forget_gradient()
        return not skip and not self.accelerator.optimizer_step_was_skipped

    def _forget_gradient(self) -> None:
        self.optimizer.optimizer.zero_grad()

    def optimizer_state(self, keep: bool) -> tuple[sharding.State, dict[str, Any]]:
        """Return the optimizer's whole tensors, on the CPU, in the processes that `keep`, and its numbers.

        Collective. The names are <parameter>.<entry>.
        """
        tensors, numbers = sharding.optimizer_state(self.optimizer, self.network)
        return sharding.gather(tensors, keep), numbers

    def load(self, weights: sharding.State, tensors: sharding.State, numbers: dict[str, Any]) -> None:
        """Put back whole weights and what `optimizer_state` returned (collective).

        Raises:
            ValueError: other names or shapes.
        """
        sharding.load(sharding.weights(self.network), weights)
        sharding.load_optimizer_state(self.optimizer, self.network, tensors, numbers)


class FlatUpdater(Updater):
    """An `Updater` of a small network on CPUs, whose weights share one tensor, which the optimizer updates.

    So the norm of the gradient and the step are one call each in place of one for each parameter, which for a
    small network takes longer than the arithmetic. To a parameter without gradient it applies one of zeros,
    with weight decay.
    """

    def __init__(self, accelerator: Accelerator, network: ModelMixin, config: TrainingConfig):
        super().__init__(accelerator, network, config)
        # Only now do the parameters become views: to prepare a network may copy them, and broadcasts them.
        self._flat.data.copy_(parameters_to_vector(self._named.values()))
        vector_to_parameters(self._flat, self._named.values())
        self._flat.grad = self._gradient

    def _trained(self, network: ModelMixin) -> nn.Module:
        self._named = dict(network.named_parameters())
        self._flat = nn.Parameter(parameters_to_vector(self._named.values()).detach())
        self._gradient = torch.zeros_like(self._flat)
        self._gradients = self._split(self._gradient)
        return nn.ParameterList([self._flat])

    def _split(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """Return the part of each parameter, in its shape, sharing the memory of `flat`."""
        sizes = [parameter.numel() for parameter in self._named.values()]
        parts = zip(flat.detach().split(sizes), self._named.values(), strict=True)
        return [part.view_as(parameter) for part, parameter in parts]

    def gradient_norm(self) -> torch.Tensor:
        """Return the norm of the whole gradient."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._named.values()]
        torch._foreach_copy_(self._gradients, gradients)
        self._norm = torch.linalg.vector_norm(self._gradient)
        return self._norm

    def _forget_gradient(self) -> None:
        for parameter in self._named.values():
            parameter.grad = None

    def optimizer_state(self, keep: bool) -> tuple[sharding.State, dict[str, Any]]:
        """Return the optimizer's tensors, on the CPU, in the processes that `keep`, and no numbers.

        The names are <parameter>.<entry>, those of an `Updater`.
        """
        tensors: sharding.State = {}
        for entry, value in self.optimizer.state[self._flat].items():
            if value.shape == self._flat.shape:
                parts = zip(self._named, self._split(value), strict=True)
                tensors |= {f"{name}.{entry}": part for name, part in parts}
            else:  # a step count, which AdamW keeps with the first parameter
                tensors[f"{next(iter(self._named))}.{entry}"] = value
        return sharding.gather(tensors, keep), {}

    def load(self, weights: sharding.State, tensors: sharding.State, numbers: dict[str, Any]) -> None:
        """Put back whole weights and what `optimizer_state` returned, of this kind of updater or another.

        Raises:
            ValueError: other names or shapes.
        """
        sharding.load(sharding.weights(self.network), weights)
        state: sharding.State = {}
        moments: dict[str, sharding.State] = {}
        for key, value in tensors.items():
            name, entry = key.rsplit(".", 1)
            if entry == "step":
                state[entry] = value.clone()
            else:
                moments.setdefault(entry, {})[name] = value
        for entry, named in moments.items():
            state[entry] = torch.zeros_like(self._flat)
            sharding.load(dict(zip(self._named, self._split(state[entry]), strict=True)), named)
        self.optimizer.state[self._flat] = state


def make_updater(accelerator: Accelerator, network: ModelMixin, config: TrainingConfig) -> Updater:
    """Return what updates a network in the way in which the processes were launched."""
    is_small = sum(parameter.numel() for parameter in network.parameters()) <= _MOST_FLAT_WEIGHTS
    is_plain = accelerator.device.type == "cpu" and accelerator.distributed_type != DistributedType.FSDP
    is_flat = is_small and is_plain and config.optimizer == "adamw"
    return (FlatUpdater if is_flat else Updater)(accelerator, network, config)
