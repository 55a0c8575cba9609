"""One run: the network, its optimizer and average, and the loop over updates.

Everything random comes from streams named by the seed and the place (see seeds.py), so saving, sampling and
evaluating are observers: they change nothing of the result.
"""

import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import accelerate
import diffusers
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from diffusers.models.modeling_utils import ModelMixin
from diffusers.optimization import get_scheduler
from torch import nn
from tqdm.auto import tqdm

from .. import __version__
from ..data.datasets import TrainingData
from ..data.order import Batch
from ..evaluation.sampling import generate, save_picture
from ..learning.objectives import denoising_losses, drop_labels
from ..learning.timestep_samplers import LossAwareTimesteps, stratified_timesteps, uniform_timesteps
from ..networks.denoiser import Denoiser
from ..networks.models import build_model
from ..pipeline_ddpm_from_scratch import DDPMFromScratchPipeline
from ..runtime import cpu
from ..runtime.errors import ConfigError, NonFiniteError, RunError, Stopped, warn
from ..runtime.seeds import stream_seed
from ..runtime.stop import StopRequest
from ..runtime.storage import commit_files, disk_errors_named, require_space, temporary_folder
from ..schedulers.scheduling_ddpm_from_scratch import DDPMFromScratchScheduler
from ..schedulers.scheduling_few_step import FewStepScheduler
from ..sharing.publish import publish
from . import checkpoint
from .config import TrainingConfig
from .log import MetricsLog
from .recipe import changes_since
from .updates import sharding
from .updates.ema import WeightAverage
from .updates.updater import make_updater

VERSIONS = {
    "ddpm-from-scratch": __version__,
    "diffusers": diffusers.__version__,
    "torch": torch.__version__,
    "accelerate": accelerate.__version__,
}


class Outcome(NamedTuple):
    """What one update came to, the same in every process.

    loss: mean of the batches of all processes.
    applied: False if loss or gradient was not finite, and weights and average are as before.
    stop: whether any process was asked to stop.
    """

    loss: float
    applied: bool
    stop: bool


class _Draw(NamedTuple):
    """What is random about a batch; `weights` of the losses, None if they are all one."""

    noise: torch.Tensor
    timesteps: torch.Tensor
    weights: torch.Tensor | None
    labels: torch.Tensor | None


class Trainer:
    """One run, from fresh weights or a checkpoint to the last update.

    Args:
        config: of the run.
        network: configuration of the network.
        data: to train on.
        accelerator: devices, processes and precision.
        stop: whether the run was asked to stop.
    """

    def __init__(
        self,
        config: TrainingConfig,
        network: dict[str, Any],
        data: TrainingData,
        accelerator: Accelerator,
        stop: StopRequest | None = None,
    ):
        self.config, self.network_config, self.data, self.accelerator = config, network, data, accelerator
        self.stop = stop or StopRequest()
        self.output_dir = Path(config.output_dir)
        self.scheduler = DDPMFromScratchScheduler(
            num_train_timesteps=config.ddpm_num_steps,
            beta_start=config.beta_start,
            beta_end=config.beta_end,
            beta_schedule=config.ddpm_beta_schedule,
            prediction_type=config.prediction_type,
            rescale_betas_zero_snr=config.rescale_betas_zero_snr,
            variance_type=config.variance_type,
            clip_sample=config.clip_sample,
        )
        set_seed(stream_seed(config.seed, "model") % 2**32)
        self.network: ModelMixin = build_model(network).to(accelerator.device)
        if accelerator.device.type == "cpu":
            cpu.keep_large_allocations()
            if accelerator.mixed_precision == "bf16" and data.sample_shape[-1] <= 32:
                cpu.use_plain_attention(self.network)
        self._has_dropout = any(
            isinstance(layer, nn.Dropout) and layer.p > 0 for layer in self.network.modules()
        )
        self.num_parameters = sum(parameter.numel() for parameter in self.network.parameters())
        self.updater = make_updater(accelerator, self.network, config)
        self.model = self.updater.model
        self.ema = None
        if config.use_ema:
            self.ema = WeightAverage(
                self.network, config.ema_inv_gamma, config.ema_power, config.ema_max_decay
            )
        # Of the sampler; none yet, which is meant, so that nothing is said about it.
        self.calibration: dict[str, Any] = {}
        self.null_label = data.num_classes if config.label_dropout else None
        self.loss_aware = (
            LossAwareTimesteps(config.ddpm_num_steps) if config.timestep_sampling == "loss_aware" else None
        )
        self.samples_per_update = (
            config.train_batch_size * accelerator.num_processes * config.gradient_accumulation_steps
        )
        self.update = self.samples_seen = self.nonfinite_updates = self.nonfinite_in_row = 0
        self.stream_state: dict[str, Any] | None = None
        self.saved_update: int | None = None
        self.train_seconds = 0.0
        self.began = time.perf_counter()
        self._plan_updates()

    def _plan_updates(self) -> None:
        """Set the number of updates, and with it the course of the learning rate."""
        config = self.config
        if config.max_train_steps is not None:
            self.total_updates = config.max_train_steps
        else:
            assert self.data.num_samples is not None  # TrainingConfig asks a stream for max_train_steps
            left = config.num_epochs * self.data.num_samples - self.samples_seen
            self.total_updates = self.update + max(0, math.ceil(left / self.samples_per_update))
        # Only the formula is used, as a function of the update: no state to save, or to get wrong.
        try:
            schedule = get_scheduler(
                config.lr_scheduler,
                torch.optim.SGD([torch.zeros(1)], lr=config.learning_rate),
                num_warmup_steps=config.lr_warmup_steps,
                num_training_steps=self.total_updates,
            )
            self._rate_factor = schedule.lr_lambdas[0]
            self._rate_factor(self.total_updates)
        except (ValueError, ZeroDivisionError) as error:
            raise ConfigError(
                f"--lr_scheduler {config.lr_scheduler} does not go with --learning_rate "
                f"{config.learning_rate} and {config.lr_warmup_steps} of {self.total_updates} updates of "
                f"warm-up ({error}); change one of them."
            ) from error

    @property
    def learning_rates(self) -> list[float]:
        """The learning rate of each parameter group for the next update."""
        return [rate * self._rate_factor(self.update) for rate in self.updater.base_rates]

    @property
    def peak_of_rate(self) -> float:
        """The largest factor of the learning rates in the run; below 1 if it ends before its warm-up."""
        if self.total_updates > self.config.lr_warmup_steps:
            return 1.0
        return max(map(self._rate_factor, range(self.total_updates)), default=1.0)

    def run(self) -> None:
        """Train from the current update to the last.

        Raises:
            Stopped: a signal asked for it; a checkpoint of the last update was saved.
            NonFiniteError: loss or gradient was not finite too often in a row.
            StorageError: the disk is full or fails.
            DataError: too many images cannot be read.
        """
        config, accelerator = self.config, self.accelerator
        is_main = accelerator.is_main_process
        batches = self.data.batches(
            config.train_batch_size,
            accelerator.process_index,
            accelerator.num_processes,
            config.dataloader_num_workers,
            self.samples_seen,
            self.stream_state,
        )
        log = MetricsLog(self.output_dir / config.logging_dir, self.update) if is_main else None
        progress = tqdm(
            total=self.total_updates, initial=self.update, desc="training", unit="update", disable=not is_main
        )
        self.began, first_update, losses = time.perf_counter(), self.update, []
        with progress:
            while self.update < self.total_updates:
                outcome = self.train_update(batches)
                progress.update()
                if outcome.applied:
                    losses.append(outcome.loss)
                if self._is_due("log") and losses:
                    row = {"loss": sum(losses) / len(losses), "lr": self.learning_rates[0]}
                    losses = []
                    progress.set_postfix({"loss": f"{row['loss']:.4f}", "lr": f"{row['lr']:.1e}"})
                    accelerator.log(row, step=self.update)
                    if log is not None:
                        seconds = time.perf_counter() - self.began
                        rate = (self.update - first_update) * self.samples_per_update / seconds
                        log.write({"step": self.update, **row, "samples_per_second": round(rate, 1)})
                self._check_nonfinite(outcome)
                self._observe(outcome.stop)
        self.train_seconds += time.perf_counter() - self.began
        self.began = time.perf_counter()

    def _observe(self, stop: bool) -> None:
        """Save, sample and export where it is due; raise Stopped, after saving, if the run is to stop."""
        try:
            if self._is_due("checkpoint"):
                self.save_checkpoint()
            if stop:
                raise Stopped
            if self._is_due("samples"):
                self.save_samples(self.output_dir / "samples" / f"step-{self.update:07d}.png")
            if self._is_due("export"):
                self.export()
                self._publish_export()
        except Stopped:
            self.save_checkpoint()
            raise Stopped(
                f"stopped after update {self.update} of {self.total_updates}, which is saved in "
                f"checkpoint-{self.update}; go on with --resume_from_checkpoint latest."
            ) from None

    def _is_due(self, what: str) -> bool:
        """Return whether an observer looks at the run after this update."""
        config, is_last = self.config, self.update == self.total_updates
        if what == "log":
            return is_last or self.update % config.logging_steps == 0
        if what == "checkpoint":
            return is_last or self.update % config.checkpointing_steps == 0
        every = {"samples": config.save_images_epochs, "export": config.save_model_epochs}[what]
        if is_last:
            return False  # what is left at the end comes from the report
        if self.data.num_samples is None:  # of a stream, a checkpoint interval counts as an epoch
            return self.update % config.checkpointing_steps == 0
        period = every * self.data.num_samples
        return self.samples_seen // period > (self.samples_seen - self.samples_per_update) // period

    def train_update(self, batches: Iterator[Batch]) -> Outcome:
        """Do one optimizer update; skip it in all processes if its loss or gradient is not finite."""
        config, accelerator = self.config, self.accelerator
        if not self.network.training:
            self.model.train()
        total = torch.zeros((), device=accelerator.device)
        seen = []
        for micro in range(config.gradient_accumulation_steps):
            batch = next(batches)
            self.stream_state = batch.get("stream_state")
            samples = batch["samples"].to(accelerator.device, non_blocking=True)
            labels = batch["labels"].to(accelerator.device, non_blocking=True) if "labels" in batch else None
            is_last = micro == config.gradient_accumulation_steps - 1
            with self.updater.batch(is_last):
                draw = self._draw(samples, labels, micro)
                losses = denoising_losses(
                    Denoiser(self.model, self.scheduler, draw.labels), samples, draw.noise, draw.timesteps,
                    loss_weighting=config.loss_weighting,
                    snr_gamma=config.snr_gamma, vlb_weight=config.vlb_weight, data_levels=self.data.levels,
                )  # fmt: skip
                weighted = losses if draw.weights is None else draw.weights * losses
                weighted = weighted.mean() / config.gradient_accumulation_steps
                self.updater.backward(weighted)
            total += weighted.detach()
            seen.append((draw.timesteps, losses.detach()))
        norm = self.updater.gradient_norm()
        asked = total.new_tensor(self.stop.signal is not None)
        # One small collective call, in which the processes agree on what this update was: a sum is not finite
        # if it is so in any of them.
        status = torch.stack([total, norm, asked])
        if accelerator.num_processes > 1:
            status = accelerator.reduce(status, "sum")
        loss, length, stop = status.tolist()
        loss, length = loss / accelerator.num_processes, length / accelerator.num_processes
        applied = self.updater.step(self.learning_rates, length, skip=not math.isfinite(loss + length))
        if applied and self.ema is not None:
            self.ema.update(self.network)
        if applied and self.loss_aware is not None:
            drawn, losses = (accelerator.gather(torch.cat(values)) for values in zip(*seen, strict=True))
            self.loss_aware.update(drawn, losses)
        self.update += 1
        self.samples_seen += self.samples_per_update
        return Outcome(loss, applied, bool(stop))

    def _draw(self, samples: torch.Tensor, labels: torch.Tensor | None, micro: int) -> _Draw:
        """Return what is random about a batch, from the streams of this update, batch and process."""
        config, accelerator = self.config, self.accelerator
        where = (self.update, micro, accelerator.process_index)
        size, num_steps, device = len(samples), config.ddpm_num_steps, samples.device

        def stream(purpose: str, on: torch.device | str = "cpu") -> torch.Generator:
            return torch.Generator(on).manual_seed(stream_seed(config.seed, purpose, *where))

        if self._has_dropout:
            self._seed_dropout(stream_seed(config.seed, "dropout", *where))
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
            part = accelerator.process_index * config.gradient_accumulation_steps + micro
            timesteps = stratified_timesteps(
                size, num_steps, generator, first_stratum=part * size, num_strata=self.samples_per_update
            )
        return _Draw(noise, timesteps.to(device), None if weights is None else weights.to(device), labels)

    def _seed_dropout(self, seed: int) -> None:
        """Seed what layers draw from; torch.manual_seed takes a millisecond for devices not there."""
        torch.default_generator.manual_seed(seed)
        if self.accelerator.device.type != "cpu":
            getattr(torch, self.accelerator.device.type).manual_seed(seed)

    def _check_nonfinite(self, outcome: Outcome) -> None:
        """Count skipped updates; raise NonFiniteError after too many in a row."""
        scaler = self.accelerator.scaler
        # Half precision starts with a loss scale that is too large, and finds the right one by skipping.
        is_search = scaler is not None and math.isfinite(outcome.loss) and scaler.get_scale() >= 1
        if outcome.applied or is_search:
            self.nonfinite_in_row = 0
            return
        self.nonfinite_updates += 1
        self.nonfinite_in_row += 1
        text = f"loss {outcome.loss}" if not math.isfinite(outcome.loss) else "the gradient is not finite"
        if self.accelerator.is_main_process:
            warn(f"update {self.update} skipped: {text}")
        if self.nonfinite_in_row >= self.config.max_nonfinite_steps:
            raise NonFiniteError(
                f"{text} in {self.nonfinite_in_row} updates in a row, up to update {self.update}; nothing of "
                "them was kept. Lower --learning_rate, lengthen --lr_warmup_steps or use --mixed_precision "
                "bf16, and resume from a checkpoint."
            )

    def _require_finite(self, what: str) -> None:
        """Raise NonFiniteError rather than keep weights that are not finite."""
        averages = {} if self.ema is None else self.ema.tensors
        values = [*sharding.weights(self.network).values(), *averages.values()]
        bad = torch.stack([~torch.isfinite(sharding.local(value)).all() for value in values]).sum()
        if self.accelerator.reduce(bad, "sum").item():
            raise NonFiniteError(
                f"{what} was not written, because weights are not finite after update {self.update}; lower "
                "--learning_rate and resume from a checkpoint."
            )

    # ---- what observes the run

    def averaged_network(self) -> ModelMixin:
        """Return a network of its own with the averaged weights, or the raw ones without EMA, in float32."""
        return self._plain_network(sharding.weights(self.network) if self.ema is None else self.ema.tensors)

    def _plain_network(self, weights: sharding.State) -> ModelMixin:
        """Return a network that is neither sharded nor autocast, with copies of some weights (collective)."""
        with torch.random.fork_rng(devices=[]):
            network = build_model(self.network_config)
        network.load_state_dict(sharding.gather(weights, keep=True))
        return network.to(self.accelerator.device).eval()

    def pipeline(self) -> DDPMFromScratchPipeline:
        """Return a pipeline of its own with the averaged weights; it samples by few steps."""
        scheduler = FewStepScheduler.from_config(self.scheduler.config, calibration=self.calibration)
        return DDPMFromScratchPipeline(self.averaged_network(), scheduler, self.null_label)

    def save_samples(self, path: Path) -> None:
        """Save a picture of samples, always of the same noise, made by all processes."""
        config, accelerator = self.config, self.accelerator
        is_points = len(self.data.sample_shape) == 1
        count = max(config.eval_batch_size, 1000) if is_points else config.eval_batch_size
        try:
            samples = generate(
                self.pipeline(), count, batch_size=math.ceil(count / accelerator.num_processes),
                num_inference_steps=config.ddpm_num_inference_steps, seed=config.seed, purpose="samples",
                guidance_scale=config.guidance_scale, on_step=self.stop.check,
            ).samples  # fmt: skip
        except FloatingPointError as error:  # the same in every process; the weights are finite
            if accelerator.is_main_process:
                warn(f"no picture after update {self.update}: {error}")
            return
        if accelerator.is_main_process:
            with disk_errors_named(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                save_picture(samples, path, self.data.held_out)

    def save_checkpoint(self) -> None:
        """Write the state of the run after this update, from the main process; all wait for it."""
        if self.saved_update == self.update:
            return
        self._require_finite("the checkpoint")
        accelerator = self.accelerator
        # Each process has met its own; from here on all know of all.
        known = self.data.bad_images
        known.problems = list(dict.fromkeys(gather_object(known.problems)))
        live = {"model": sharding.weights(self.network)}
        if self.ema is not None:
            live["ema"] = self.ema.tensors
        if self.loss_aware is not None:
            live["timesteps"] = self.loss_aware.state_dict()
        keep = accelerator.is_main_process
        tensors = {name: sharding.gather(named, keep) for name, named in live.items()}
        tensors["optimizer"], optimizer_numbers = self.updater.optimizer_state(keep)
        scaler = accelerator.scaler
        state = {
            "samples_seen": self.samples_seen,
            "stream_state": self.stream_state,
            "optimizer": optimizer_numbers,
            "ema_updates": self.ema.updates if self.ema is not None else 0,
            "nonfinite_updates": self.nonfinite_updates,
            "nonfinite_in_row": self.nonfinite_in_row,
            "bad_images": self.data.bad_images.problems,
            "train_seconds": self.train_seconds + time.perf_counter() - self.began,
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        if accelerator.is_main_process:
            checkpoint.save_checkpoint(
                self.output_dir,
                self.update,
                tensors,
                state,
                self._about(),
                self.config.checkpoints_total_limit,
            )
        self.saved_update = self.update
        accelerator.wait_for_everyone()

    def _about(self) -> dict[str, Any]:
        """Return what the manifest of a checkpoint says of the run."""
        return {
            "recipe": self.config.recipe() | {"mixed_precision": self.accelerator.mixed_precision},
            "network": json.loads(json.dumps(self.network_config)),
            "num_samples": self.data.num_samples,
            "num_processes": self.accelerator.num_processes,
            "versions": VERSIONS,
        }

    def export(self) -> None:
        """Save the pipeline; with EMA, the raw weights beside the averaged ones as variant 'non_ema'.

        Every file is replaced whole, so the folder holds a loadable pipeline at any moment after the first.
        """
        self._require_finite("the pipeline")
        pipeline = self.pipeline()
        raw = None if self.ema is None else self._plain_network(sharding.weights(self.network))
        if self.accelerator.is_main_process:
            needed = 4 * self.num_parameters * (1 if raw is None else 2)
            require_space(self.output_dir, needed, "the pipeline")
            with disk_errors_named(self.output_dir, needed):
                temporary = temporary_folder(self.output_dir / "export")
                # One file of weights: parts of two exports can never be mixed.
                pipeline.save_pretrained(temporary, max_shard_size="10TB")
                if raw is not None:
                    raw.save_pretrained(temporary / "unet", variant="non_ema", max_shard_size="10TB")
                commit_files(temporary, self.output_dir, last="model_index.json")
        self.accelerator.wait_for_everyone()

    def _publish_export(self) -> None:
        """Upload the pipeline as of this update if asked for; a run goes on without an upload that fails."""
        config, name = self.config, f"step-{self.update}"
        if config.hub_push_exports != "no" and self.accelerator.is_main_process:
            try:
                publish(
                    self.output_dir, config.hub_model_id, private=config.hub_private_repo,
                    token=config.hub_token, with_report=False, **{config.hub_push_exports: name},
                )  # fmt: skip
            except RunError as error:
                warn(f"{name} was not uploaded: {error}")

    def require_space(self) -> None:
        """Raise StorageError unless two checkpoints and the pipeline fit on the disk."""
        copies = {"adamw": 2, "muon": 1}[self.config.optimizer] + 1 + self.config.use_ema
        pipeline = 1 + self.config.use_ema
        require_space(self.output_dir, 4 * self.num_parameters * (2 * copies + pipeline), "this run")

    def resume(self, wanted: str) -> None:
        """Continue from a checkpoint of the same recipe; "latest" starts anew where there is none yet.

        Raises:
            ConfigError: a missing or damaged checkpoint, or one of another recipe.
        """
        shared: list[Any] = [None, None]
        if self.accelerator.is_main_process:
            try:
                shared = [checkpoint.find_checkpoint(self.output_dir, wanted), None]
            except ConfigError as error:
                shared = [None, str(error)]
        found, failure = broadcast_object_list(shared)
        if failure is not None:
            raise ConfigError(failure)
        if found is None:
            if self.accelerator.is_main_process:
                print(
                    f"train.py: {str(self.output_dir)!r} holds no checkpoint yet; starting anew",
                    file=sys.stderr,
                )
            return
        folder, manifest = found
        changes = changes_since(manifest, self._about(), str(folder), self.config.allow_recipe_change)
        if changes and self.accelerator.is_main_process:
            warn(f"resuming with another recipe: {changes}")
        tensors, state = checkpoint.load_checkpoint(folder, manifest)
        try:
            self.updater.load(tensors["model"], tensors["optimizer"], state["optimizer"])
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
            self.ema.updates = state["ema_updates"]
        if state["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.update = self.saved_update = manifest["step"]
        self.samples_seen, self.stream_state = state["samples_seen"], state["stream_state"]
        self.nonfinite_updates = state["nonfinite_updates"]
        self.nonfinite_in_row = state["nonfinite_in_row"]
        self.train_seconds = state["train_seconds"]
        self.data.bad_images.problems = state["bad_images"]
        self._plan_updates()
        if self.accelerator.is_main_process:
            for later in checkpoint.set_aside_later(self.output_dir, folder):
                warn(f"{later} is no longer of this run; renamed")
