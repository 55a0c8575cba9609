"""What is random about a batch: noise, timesteps, dropped labels, dropout.

Each comes from a stream of its own, named by the seed, the update, the batch and the process (see seeds.py),
so a run draws the same however often it is saved, sampled from or resumed.
"""

from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from ..learning.objectives import drop_labels
from ..learning.timestep_samplers import LossAwareTimesteps, stratified_timesteps, uniform_timesteps
from ..runtime.seeds import stream_seed
from .config import TrainingConfig


class Draw(NamedTuple):
    """What is random about a batch of B samples.

    Args:
        noise: float32, (B, ...).
        timesteps: int64, (B,).
        weights: of the losses, (B,); None if they are all one.
        labels: int64, (B,), some of them the one for no label; None without labels.
    """

    noise: torch.Tensor
    timesteps: torch.Tensor
    weights: torch.Tensor | None
    labels: torch.Tensor | None


class Draws:
    """The draws of one process of a run.

    Args:
        config: of the run.
        accelerator: devices and processes.
        network: that is trained; only one with dropout has its layers seeded.
        loss_aware: sampler of timesteps that goes by earlier losses, or None.
        null_label: label that stands for none, or None.
    """

    def __init__(
        self,
        config: TrainingConfig,
        accelerator: Accelerator,
        network: nn.Module,
        loss_aware: LossAwareTimesteps | None,
        null_label: int | None,
    ):
        self.config, self.loss_aware, self.null_label = config, loss_aware, null_label
        self.process_index, self.num_processes = accelerator.process_index, accelerator.num_processes
        self._has_dropout = any(isinstance(layer, nn.Dropout) and layer.p > 0 for layer in network.modules())

    def __call__(self, samples: torch.Tensor, labels: torch.Tensor | None, update: int, micro: int) -> Draw:
        """Return the draw of a batch, and seed what layers draw from.

        Args:
            samples: (B, ...).
            labels: (B,), or None.
            update: updates done before this one.
            micro: number of the batch within the update.
        """
        config, where = self.config, (update, micro, self.process_index)
        size, num_steps, device = len(samples), config.ddpm_num_steps, samples.device

        def stream(purpose: str, on: torch.device | str = "cpu") -> torch.Generator:
            return torch.Generator(on).manual_seed(stream_seed(config.seed, purpose, *where))

        if self._has_dropout:
            _seed_dropout(stream_seed(config.seed, "dropout", *where), device)
        noise = torch.randn(samples.shape, generator=stream("noise", device), device=device)
        if labels is not None and self.null_label is not None:
            labels = drop_labels(labels, self.null_label, config.label_dropout, stream("labels"))
        # On the CPU, because not every device has the float64 of the strata.
        generator, weights = stream("timesteps"), None
        if self.loss_aware is not None:
            timesteps, weights = self.loss_aware.sample(size, generator)
        elif config.timestep_sampling == "uniform":
            timesteps = uniform_timesteps(size, num_steps, generator)
        else:
            batches = config.gradient_accumulation_steps
            timesteps = stratified_timesteps(
                size,
                num_steps,
                generator,
                first_stratum=(self.process_index * batches + micro) * size,
                num_strata=config.train_batch_size * self.num_processes * batches,
            )
        return Draw(noise, timesteps.to(device), None if weights is None else weights.to(device), labels)


def _seed_dropout(seed: int, device: torch.device) -> None:
    """Seed what layers draw from; torch.manual_seed takes a millisecond for devices not there."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(seed)
