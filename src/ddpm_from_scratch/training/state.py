"""What a checkpoint holds of a run: the network, its optimizer and average, and how far the run has come."""

import math
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from diffusers.models.modeling_utils import ModelMixin

from ..data.datasets import TrainingData
from ..learning.timestep_samplers import LossAwareTimesteps
from ..networks.models import build_model
from ..runtime import cpu
from ..runtime.errors import ConfigError, NonFiniteError
from ..runtime.processes import on_main
from ..runtime.seeds import stream_seed
from . import checkpoint
from .config import TrainingConfig
from .updates import sharding
from .updates.ema import WeightAverage
from .updates.updater import make_updater


class RunState:
    """The state of a run after some update, at first that of its weights to begin with.

    Its counters: `update`, updates done, and `applied_updates` of them that changed the weights;
    `samples_seen`; `nonfinite_updates`, updates skipped because of what is not finite, and
    `nonfinite_in_row` of them without one between that was applied; `train_seconds` until `began`;
    `stream_state`, where in a stream of data; `saved_update`, that of the latest checkpoint.

    Args:
        config: of the run.
        network: configuration of the network.
        data: to train on; which of its images cannot be read is part of the state.
        accelerator: devices, processes and precision.
        weights: trained ones to start from; fresh if not given.
    """

    def __init__(
        self,
        config: TrainingConfig,
        network: dict[str, Any],
        data: TrainingData,
        accelerator: Accelerator,
        weights: sharding.State | None = None,
    ):
        self.network_config, self.bad_images, self.accelerator = network, data.bad_images, accelerator
        set_seed(stream_seed(config.seed, "model") % 2**32)
        self.network: ModelMixin = build_model(network)
        if weights is not None:
            self.network.load_state_dict(weights)
        self.network.to(accelerator.device)
        if accelerator.device.type == "cpu":
            cpu.keep_large_allocations()
            if accelerator.mixed_precision == "bf16" and math.prod(data.sample_shape[1:]) <= 32 * 32:
                cpu.use_plain_attention(self.network)
        self.num_parameters = sum(parameter.numel() for parameter in self.network.parameters())
        self.updater = make_updater(accelerator, self.network, config)
        self.ema = None
        if config.use_ema:
            self.ema = WeightAverage(
                self.network, config.ema_inv_gamma, config.ema_power, config.ema_max_decay
            )
        self.loss_aware = (
            LossAwareTimesteps(config.ddpm_num_steps) if config.timestep_sampling == "loss_aware" else None
        )
        self.update = self.applied_updates = 0
        self.samples_seen = self.nonfinite_updates = self.nonfinite_in_row = 0
        self.stream_state: dict[str, Any] | None = None
        self.saved_update: int | None = None
        self.train_seconds, self.began = 0.0, time.perf_counter()

    def count_seconds(self) -> None:
        """Add the time since `began` to that of training, and begin anew."""
        now = time.perf_counter()
        self.train_seconds, self.began = self.train_seconds + now - self.began, now

    def require_finite(self, what: str) -> None:
        """Raise NonFiniteError rather than keep weights that are not finite."""
        averages = {} if self.ema is None else self.ema.tensors
        values = [*sharding.weights(self.network).values(), *averages.values()]
        bad = torch.stack([~torch.isfinite(sharding.local(value)).all() for value in values]).sum()
        if self.accelerator.reduce(bad, "sum").item():
            raise NonFiniteError(
                f"{what} was not written, because weights are not finite after update {self.update}; lower "
                "--learning_rate and resume from a checkpoint."
            )

    def averaged_network(self) -> ModelMixin:
        """Return a network of its own with the averaged weights, or the raw ones without EMA, in float32."""
        return self.raw_network() if self.ema is None else self._plain_network(self.ema.tensors)

    def raw_network(self) -> ModelMixin:
        """Return a network of its own with the weights as they are trained."""
        return self._plain_network(sharding.weights(self.network))

    def _plain_network(self, weights: sharding.State) -> ModelMixin:
        """Return a network that is neither sharded nor autocast, with copies of some weights (collective)."""
        with torch.random.fork_rng(devices=[]):
            network = build_model(self.network_config)
        network.load_state_dict(sharding.gather(weights, keep=True))
        return network.to(self.accelerator.device).eval()

    def save(self, output_dir: Path, about: dict[str, Any], keep: int | None) -> None:
        """Write a checkpoint, from the main process; all must call it, and wait for it.

        Arguments and errors as in `checkpoint.save_checkpoint`.
        """
        self.require_finite("the checkpoint")
        # Each process has met its own; from here on all know of all.
        self.bad_images.problems = list(dict.fromkeys(gather_object(self.bad_images.problems)))
        is_main = self.accelerator.is_main_process
        tensors = {name: sharding.gather(named, is_main) for name, named in self._live().items()}
        tensors["optimizer"], optimizer_numbers = self.updater.optimizer_state(is_main)
        scaler = self.accelerator.scaler
        numbers = {
            "samples_seen": self.samples_seen,
            "stream_state": self.stream_state,
            "optimizer": optimizer_numbers,
            "ema_updates": self.ema.updates if self.ema is not None else 0,
            "applied_updates": self.applied_updates,
            "nonfinite_updates": self.nonfinite_updates,
            "nonfinite_in_row": self.nonfinite_in_row,
            "bad_images": self.bad_images.problems,
            "train_seconds": self.train_seconds + time.perf_counter() - self.began,
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        on_main(lambda: checkpoint.save_checkpoint(output_dir, self.update, tensors, numbers, about, keep))
        self.saved_update = self.update

    def _live(self) -> dict[str, sharding.State]:
        """Return the tensors of a checkpoint, but for the optimizer's: file -> name -> tensor."""
        live = {"model": sharding.weights(self.network)}
        if self.ema is not None:
            live["ema"] = self.ema.tensors
        if self.loss_aware is not None:
            live["timesteps"] = self.loss_aware.state_dict()
        return live

    def load(self, folder: Path, manifest: dict[str, Any]) -> None:
        """Take over the state of a checkpoint that was verified (collective).

        Raises:
            ConfigError: it is of another network, optimizer or average.
        """
        tensors, numbers = checkpoint.load_checkpoint(folder, manifest)
        try:
            self.updater.load(tensors["model"], tensors["optimizer"], numbers["optimizer"])
            if self.ema is not None:
                sharding.load(self.ema.tensors, tensors["ema"])
            if self.loss_aware is not None:
                self.loss_aware.load_state_dict(tensors["timesteps"])
        except (KeyError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"checkpoint {str(folder)!r} does not fit this configuration: {reason}"
            ) from error
        if self.ema is not None:
            self.ema.updates = numbers["ema_updates"]
        if numbers["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(numbers["scaler"])
        self.update = self.saved_update = manifest["step"]
        self.samples_seen, self.stream_state = numbers["samples_seen"], numbers["stream_state"]
        self.nonfinite_updates = numbers["nonfinite_updates"]
        # Earlier versions did not count those that the search for a loss scale skipped.
        self.applied_updates = numbers.get("applied_updates", self.update - self.nonfinite_updates)
        self.nonfinite_in_row = numbers["nonfinite_in_row"]
        self.train_seconds = numbers["train_seconds"]
        self.bad_images.problems = numbers["bad_images"]
