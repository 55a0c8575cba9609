"""A moving average of a network's weights, in float32 whatever the network trains in."""

import torch
from torch import nn

from .sharding import local, weights


class WeightAverage:
    """avg <- d avg + (1 - d) weights after each update n, with d = min(1 - (1 + n / g)^-p, largest).

    The decay grows with n, so that the average forgets the first weights over a horizon of the run's own
    length (the warm-up of diffusers' EMAModel). float32, because 1 - 0.9999 is less than half a unit in the
    last place of a bfloat16 weight: such an average would never move.

    Args:
        model: the network; if its parameters are sharded over processes, so is the average.
        inv_gamma: g.
        power: p.
        max_decay: the largest d.
    """

    def __init__(self, model: nn.Module, inv_gamma: float, power: float, max_decay: float):
        self.inv_gamma, self.power, self.max_decay = inv_gamma, power, max_decay
        self.updates = 0
        live = weights(model)
        self.tensors = {name: value.float().clone() for name, value in live.items()}
        self._local = [local(value) for value in self.tensors.values()]
        # Looked up once, because that takes longer than to average; but FSDP2's shards are not the same for
        # ever.
        sharded = any(value is not local(value) for value in live.values())
        self._live = None if sharded else list(live.values())

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after one more update."""
        decay = min(1 - (1 + self.updates / self.inv_gamma) ** -self.power, self.max_decay)
        live = self._live or [local(value) for value in weights(model).values()]
        torch._foreach_lerp_(self._local, [value.float() for value in live], 1 - decay)
        self.updates += 1
