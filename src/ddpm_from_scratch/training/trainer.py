"""The loop of a run: from fresh weights or a checkpoint, update after update, to the last.

Everything random comes from streams named by the seed and the place (draws.py), so saving, sampling and
evaluating are observers (observers.py): they change nothing of the result.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from ..data.datasets import TrainingData
from ..data.order import Batch
from ..learning.objectives import denoising_losses
from ..networks.denoiser import Denoiser
from ..runtime.errors import NonFiniteError, Stopped, say, warn
from ..runtime.processes import on_main
from ..runtime.stop import StopRequest
from . import checkpoint
from .config import TrainingConfig
from .draws import Draws
from .observers import Observer, Update, standard_observers
from .recipe import changes_since
from .run import Run
from .start import Start
from .updates.rates import rate_factor

# The settings that the course of the learning rate is made of.
_COURSE = ("max_train_steps", "num_epochs", "lr_scheduler", "lr_warmup_steps", "learning_rate")


class Trainer(Run):
    """A run and the loop that drives it. Arguments as those of `Run`."""

    def __init__(
        self,
        config: TrainingConfig,
        network: dict[str, Any],
        data: TrainingData,
        start: Start | None,
        accelerator: Accelerator,
        stop: StopRequest | None = None,
    ):
        super().__init__(config, network, data, start, accelerator, stop)
        self.denoiser = Denoiser(self.state.updater.model, self.scheduler)
        self.draws = Draws(config, accelerator, self.state.network, self.state.loss_aware, self.null_label)
        self._plan_updates()

    def _plan_updates(self) -> None:
        """Set the number of updates, and with it the course of the learning rate."""
        self._rate_factor, self.total_updates = self._course(self.config)

    def _course(self, config: TrainingConfig) -> tuple[Callable[[int], float], int]:
        """Return the course of the learning rate by a configuration, and the number of updates it is over."""
        if config.max_train_steps is not None:
            total = config.max_train_steps
        else:
            assert self.data.num_samples is not None  # TrainingConfig asks a stream for max_train_steps
            left = config.num_epochs * self.data.num_samples - self.state.samples_seen
            total = self.update + max(0, math.ceil(left / self.samples_per_update))
        return rate_factor(config, total), total

    @property
    def learning_rates(self) -> list[float]:
        """The learning rate of each parameter group for the next update."""
        return [rate * self._rate_factor(self.update) for rate in self.state.updater.base_rates]

    @property
    def peak_of_rate(self) -> float:
        """The largest factor of the learning rates in the run; below 1 if it ends before its warm-up."""
        if self.total_updates > self.config.lr_warmup_steps:
            return 1.0
        return max(map(self._rate_factor, range(self.total_updates)), default=1.0)

    def resume(self, wanted: str) -> None:
        """Continue from a checkpoint of the same recipe; "latest" starts anew where there is none yet.

        Raises:
            ConfigError: a missing or damaged checkpoint, or one of another recipe.
        """
        is_main = self.accelerator.is_main_process
        found = on_main(lambda: checkpoint.find_checkpoint(self.output_dir, wanted))
        if found is None:
            if is_main:
                say(f"{str(self.output_dir)!r} holds no checkpoint yet; starting anew")
            return
        folder, manifest = found
        changes = changes_since(manifest, self._about(), str(folder), self.config.allow_recipe_change)
        if changes and is_main:
            warn(f"resuming with another recipe: {changes}")
        self.state.load(folder, manifest)
        self._plan_updates()
        if is_main:
            self._say_jump_of_rate(manifest["recipe"])
        if is_main:
            for later in checkpoint.set_aside_later(self.output_dir, folder):
                warn(f"{later} is no longer of this run; renamed")

    def _say_jump_of_rate(self, recipe: dict[str, Any]) -> None:
        """Say by how much the learning rate differs from what it was to be here in the run so far."""
        known = {name: recipe[name] for name in _COURSE if name in recipe}
        planned, total = self._course(dataclasses.replace(self.config, **known))
        before, now = planned(self.update), self._rate_factor(self.update)
        if total != self.total_updates and not math.isclose(before, now, rel_tol=0.01, abs_tol=1e-6):
            warn(
                f"the learning rate goes from {before:.0%} of its peak to {now:.0%} here: its course is laid "
                f"over {self.total_updates} updates now, and was over {total}"
            )

    def run(self, observers: Sequence[Observer] = ()) -> None:
        """Train to the last update; log, save, sample and export where it is due.

        Args:
            observers: that look at the run after those.

        Raises:
            Stopped: a signal asked for it; a checkpoint of the last update was saved.
            RunError: as in `updates`, or what an observer raises.
        """
        progress = tqdm(
            total=self.total_updates, initial=self.update, desc="training", unit="update",
            disable=not self.accelerator.is_main_process,
        )  # fmt: skip
        with progress:
            observers = [*standard_observers(self, progress), *observers]
            try:
                for update in self.updates():
                    for observer in observers:
                        if observer.is_due(update):
                            observer(update)
            except Stopped:  # also by an observer, while it samples
                self._save_and_stop()
        self._require_trained()

    def _require_trained(self) -> None:
        """Raise NonFiniteError if no update of the whole run was applied: the weights are fresh."""
        if self.update and not self.state.applied_updates:
            raise NonFiniteError(
                f"none of the {self.update} updates was applied, as loss or gradient was never finite: "
                "nothing was trained, and no pipeline is saved. With --mixed_precision fp16 the first ones "
                "look for a loss scale: give the run more, or use bf16 or no; else lower --learning_rate."
            )

    def updates(self) -> Iterator[Update]:
        """Train from the current update to the last, and yield each when it is done.

        Raises:
            Stopped: a signal asked for it; a checkpoint of the last update was saved.
            NonFiniteError: loss or gradient was not finite too often in a row.
            StorageError: the disk is full or fails.
            DataError: too many images cannot be read.
        """
        config, accelerator, state = self.config, self.accelerator, self.state
        batches = self.data.batches(
            config.train_batch_size,
            accelerator.process_index,
            accelerator.num_processes,
            config.dataloader_num_workers,
            state.samples_seen,
            state.stream_state,
        )
        state.began = time.perf_counter()
        try:
            while self.update < self.total_updates:
                update = self.train_update(batches)
                self._check_nonfinite(update)
                yield update
                if update.stop:
                    self._save_and_stop()
        finally:  # also of a loop that is left before its end
            state.count_seconds()

    def _save_and_stop(self) -> NoReturn:
        self.save_checkpoint()
        raise Stopped(
            f"stopped after update {self.update} of {self.total_updates}, which is saved in "
            f"checkpoint-{self.update}; go on with --resume_from_checkpoint latest."
        ) from None

    def train_update(self, batches: Iterator[Batch]) -> Update:
        """Do one optimizer update; skip it in all processes if its loss or gradient is not finite."""
        config, accelerator, state = self.config, self.accelerator, self.state
        updater = state.updater
        if not state.network.training:
            updater.model.train()
        total = torch.zeros((), device=accelerator.device)
        seen = []
        for micro in range(config.gradient_accumulation_steps):
            batch = next(batches)
            state.stream_state = batch.get("stream_state")
            samples = batch["samples"].to(accelerator.device, non_blocking=True)
            labels = batch["labels"].to(accelerator.device, non_blocking=True) if "labels" in batch else None
            is_last = micro == config.gradient_accumulation_steps - 1
            with updater.batch(is_last):
                draw = self.draws(samples, labels, self.update, micro)
                losses = denoising_losses(
                    self.denoiser.with_labels(draw.labels), samples, draw.noise, draw.timesteps,
                    loss_weighting=config.loss_weighting,
                    snr_gamma=config.snr_gamma, vlb_weight=config.vlb_weight, data_levels=self.data.levels,
                )  # fmt: skip
                weighted = losses if draw.weights is None else draw.weights * losses
                weighted = weighted.mean() / config.gradient_accumulation_steps
                updater.backward(weighted)
            total += weighted.detach()
            seen.append((draw.timesteps, losses.detach()))
        norm = updater.gradient_norm()
        asked = total.new_tensor(self.stop.signal is not None)
        # One small collective call, in which the processes agree on what this update was: a sum is not finite
        # if it is so in any of them.
        status = torch.stack([total, norm, asked])
        if accelerator.num_processes > 1:
            status = accelerator.reduce(status, "sum")
        loss, length, stop = status.tolist()
        loss, length = loss / accelerator.num_processes, length / accelerator.num_processes
        applied = updater.step(self.learning_rates, length, skip=not math.isfinite(loss + length))
        state.applied_updates += applied
        if applied and state.ema is not None:
            state.ema.update(state.network)
        if applied and state.loss_aware is not None:
            drawn, losses = (accelerator.gather(torch.cat(values)) for values in zip(*seen, strict=True))
            state.loss_aware.update(drawn, losses)
        state.update += 1
        state.samples_seen += self.samples_per_update
        is_last = self.update == self.total_updates
        return Update(self.update, loss, applied, bool(stop), is_last, self.learning_rates[0])

    def _check_nonfinite(self, update: Update) -> None:
        """Count skipped updates; raise NonFiniteError after too many in a row."""
        scaler, state = self.accelerator.scaler, self.state
        # Half precision starts with a loss scale that is too large, and finds the right one by skipping.
        is_search = scaler is not None and math.isfinite(update.loss) and scaler.get_scale() >= 1
        if update.applied or is_search:
            state.nonfinite_in_row = 0
            return
        state.nonfinite_updates += 1
        state.nonfinite_in_row += 1
        text = f"loss {update.loss}" if not math.isfinite(update.loss) else "the gradient is not finite"
        if self.accelerator.is_main_process:
            warn(f"update {update.number} skipped: {text}")
        if state.nonfinite_in_row >= self.config.max_nonfinite_steps:
            raise NonFiniteError(
                f"{text} in {state.nonfinite_in_row} updates in a row, up to update {update.number}; nothing "
                "of them was kept. Lower --learning_rate, lengthen --lr_warmup_steps or use "
                "--mixed_precision bf16, and resume from a checkpoint."
            )
