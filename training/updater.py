"""How the loss of a batch becomes an optimizer update: on one process, on copies (DDP), on shards (FSDP2).

Under DeepSpeed `zero.ZeroUpdater` is in its place.
"""

import contextlib
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from diffusers.models.modeling_utils import ModelMixin
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

import sharding
from config import TrainingConfig
from optimizers import make_optimizer
from zero import ZeroUpdater


class Updater:
    """The network as it is trained, and its optimizer; for all that Accelerate prepares by itself.

    Args:
        accelerator: devices, processes and precision.
        network: on its device; this shards it if that was asked for.
        config: of the run.
    """

    # Where the average of the weights is to be shared out, although the weights are not.
    average_mesh: DeviceMesh | None = None

    def __init__(self, accelerator: Accelerator, network: ModelMixin, config: TrainingConfig):
        self.accelerator, self.network, self.max_grad_norm = accelerator, network, config.max_grad_norm
        sharding.configure_sharding(accelerator, network)
        optimizer = make_optimizer(network, config)
        self.base_rates = [group["lr"] for group in optimizer.param_groups]
        self.model, self.optimizer = accelerator.prepare(network, optimizer)
        self._parameters = list(self.model.parameters())
        self._clips_itself = accelerator.scaler is not None or accelerator.is_fsdp2

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
        self.optimizer.optimizer.zero_grad()
        return not skip and not self.accelerator.optimizer_step_was_skipped

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


def make_updater(
    accelerator: Accelerator, network: ModelMixin, config: TrainingConfig
) -> Updater | ZeroUpdater:
    """Return what updates a network in the way in which the processes were launched."""
    kind = ZeroUpdater if accelerator.distributed_type == DistributedType.DEEPSPEED else Updater
    return kind(accelerator, network, config)
