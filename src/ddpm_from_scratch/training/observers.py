"""What looks at a run after an update: log, checkpoint, samples, export.

Observers change nothing of the result: a run with others, or none, gives the same weights.
"""

import time
from typing import NamedTuple, Protocol

from tqdm.auto import tqdm

from ..runtime.errors import RunError, warn
from ..sharing.publish import publish
from .log import MetricsLog
from .run import Run


class Update(NamedTuple):
    """What one update came to, the same in every process.

    Args:
        number: of the update, from 1.
        loss: mean of the batches of all processes.
        applied: False if loss or gradient was not finite, and weights and average are as before.
        stop: whether any process was asked to stop; after the observers the run will.
        is_last: whether the run ends with this update.
        learning_rate: of the next update, of the first parameter group.
    """

    number: int
    loss: float
    applied: bool
    stop: bool
    is_last: bool
    learning_rate: float


class Observer(Protocol):
    """Looks at a run after some of its updates.

    It is asked and called in every process, and must say the same in all; one that raises ends the run.
    """

    def is_due(self, update: Update) -> bool:
        """Return whether it looks at the run after this update."""

    def __call__(self, update: Update) -> None:
        """Look at the run."""


class Log:
    """Rows of metrics.jsonl and of a tracker, every `logging_steps` updates and after the last.

    It looks at every update, because a row has the mean loss of those since the row before.

    Args:
        run: at the update that it starts from; later rows of the log are dropped.
        progress: bar to show each update and row in.
    """

    def __init__(self, run: Run, progress: tqdm):
        self.run, self.progress = run, progress
        self.first_update, self.losses = run.update, list[float]()
        self.file = None
        if run.accelerator.is_main_process:
            self.file = MetricsLog(run.output_dir / run.config.logging_dir, run.update)

    def is_due(self, update: Update) -> bool:
        """Return True."""
        return True

    def __call__(self, update: Update) -> None:
        """Take in the loss of an update, and write a row where it is time."""
        run = self.run
        self.progress.update()
        if update.applied:
            self.losses.append(update.loss)
        if not self.losses or not (update.is_last or update.number % run.config.logging_steps == 0):
            return
        row = {"loss": sum(self.losses) / len(self.losses), "lr": update.learning_rate}
        self.losses = []
        self.progress.set_postfix({"loss": f"{row['loss']:.4f}", "lr": f"{row['lr']:.1e}"})
        run.accelerator.log(row, step=update.number)
        if self.file is not None:
            seconds = time.perf_counter() - run.state.began
            rate = (update.number - self.first_update) * run.samples_per_update / seconds
            self.file.write({"step": update.number, **row, "samples_per_second": round(rate, 1)})


class Checkpoints:
    """A checkpoint every `checkpointing_steps` updates and after the last."""

    def __init__(self, run: Run):
        self.run = run

    def is_due(self, update: Update) -> bool:
        """Return whether it is time."""
        return update.is_last or update.number % self.run.config.checkpointing_steps == 0

    def __call__(self, update: Update) -> None:
        """Save."""
        self.run.save_checkpoint()


def ends_epochs(run: Run, update: Update, count: int) -> bool:
    """Return whether another `count` epochs of a run end in an update, after which it goes on.

    Of a stream, which has no epochs, a checkpoint interval counts as `count` of them.
    """
    if update.is_last or update.stop:
        return False  # what is left at the end comes from the report
    if run.data.num_samples is None:
        return update.number % run.config.checkpointing_steps == 0
    period, seen = count * run.data.num_samples, run.state.samples_seen
    return seen // period > (seen - run.samples_per_update) // period


class Samples:
    """A picture in samples/ every `save_images_steps` updates, else every `save_images_epochs` epochs."""

    def __init__(self, run: Run):
        self.run = run

    def is_due(self, update: Update) -> bool:
        """Return whether it is time; what is left at the end comes from the report."""
        steps = self.run.config.save_images_steps
        if steps is not None:
            return update.number % steps == 0 and not (update.is_last or update.stop)
        return ends_epochs(self.run, update, self.run.config.save_images_epochs)

    def __call__(self, update: Update) -> None:
        """Sample."""
        self.run.save_samples(self.run.output_dir / "samples" / f"step-{update.number:07d}.png")


class Exports:
    """The pipeline in the output folder, and on the Hub if asked for, every `save_model_epochs` epochs."""

    def __init__(self, run: Run):
        self.run = run

    def is_due(self, update: Update) -> bool:
        """Return whether it is time."""
        return ends_epochs(self.run, update, self.run.config.save_model_epochs)

    def __call__(self, update: Update) -> None:
        """Export, and push if asked for; a run goes on without an upload that fails."""
        self.run.export()
        config, name = self.run.config, f"step-{update.number}"
        if config.hub_push_exports != "no" and self.run.accelerator.is_main_process:
            try:
                publish(
                    self.run.output_dir, config.hub_model_id, private=config.hub_private_repo,
                    token=config.hub_token, with_report=False, trust_remote_code=False,
                    **{config.hub_push_exports: name},
                )  # fmt: skip
            except RunError as error:
                warn(f"{name} was not uploaded: {error}")


def standard_observers(run: Run, progress: tqdm) -> list[Observer]:
    """Return the observers of every run, in the order in which they look at it."""
    return [Log(run, progress), Checkpoints(run), Samples(run), Exports(run)]
