"""What a run is beside its loop: the state that it trains, and the files that it leaves."""

import math
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..data.datasets import TrainingData
from ..evaluation.sampling import generate, names_of_samples, save_picture
from ..pipeline_ddpm_from_scratch import DDPMFromScratchPipeline
from ..runtime.errors import warn
from ..runtime.processes import on_main
from ..runtime.stop import StopRequest
from ..runtime.storage import commit_files, disk_errors_named, require_space, temporary_folder
from ..schedulers.scheduling_ddpm_from_scratch import DDPMFromScratchScheduler
from ..schedulers.scheduling_few_step import FewStepScheduler
from .config import TrainingConfig
from .recipe import about_run
from .start import Start
from .state import RunState

# Fewer points do not show the shape that they come from.
_LEAST_POINTS = 1000


class Run:
    """One run, which a `Trainer` drives. All processes must call each method.

    Args:
        config: of the run.
        network: configuration of the network.
        data: to train on.
        start: the trained weights to start from; None for fresh ones.
        accelerator: devices, processes and precision.
        stop: whether the run was asked to stop.
    """

    def __init__(
        self,
        config: TrainingConfig,
        network: dict[str, Any],
        data: TrainingData,
        start: Start | None,
        accelerator: Accelerator,
        stop: StopRequest | None = None,
    ):
        self.config, self.network_config, self.data, self.accelerator = config, network, data, accelerator
        self.start = start
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
        weights = None if start is None else start.weights(network, bool(config.label_dropout))
        self.state = RunState(config, network, data, accelerator, weights)
        # Of the sampler; none yet, which is meant, so that nothing is said about it.
        self.calibration: dict[str, Any] = {}
        self.null_label = data.num_classes if config.label_dropout else None
        self.samples_per_update = (
            config.train_batch_size * accelerator.num_processes * config.gradient_accumulation_steps
        )

    @property
    def update(self) -> int:
        """Updates done."""
        return self.state.update

    @property
    def num_parameters(self) -> int:
        """Parameters of the network."""
        return self.state.num_parameters

    def require_space(self) -> None:
        """Raise StorageError unless two checkpoints and the pipeline fit on the disk."""
        copies = {"adamw": 2, "muon": 1}[self.config.optimizer] + 1 + self.config.use_ema
        pipeline = 1 + self.config.use_ema
        require_space(self.output_dir, 4 * self.num_parameters * (2 * copies + pipeline), "this run")

    def save_checkpoint(self) -> None:
        """Write the state of the run after this update, from the main process; all wait for it."""
        if self.state.saved_update != self.update:
            self.state.save(self.output_dir, self._about(), self.config.checkpoints_total_limit)

    def _about(self) -> dict[str, Any]:
        data = self.data.num_samples, self.data.class_names
        return about_run(self.config, self.network_config, *data, self.accelerator, self.start)

    def pipeline(self) -> DDPMFromScratchPipeline:
        """Return a pipeline of its own with the averaged weights; it samples by few steps."""
        scheduler = FewStepScheduler.from_config(self.scheduler.config, calibration=self.calibration)
        names: dict[int | str, str] = {
            label: name for label, name in enumerate(self.data.class_names or ()) if name
        }
        if all(name == str(label) for label, name in names.items()):
            names = {}  # numbers that say no more than the labels
        return DDPMFromScratchPipeline(
            self.state.averaged_network(), scheduler, self.null_label, names or None
        )

    def export(self) -> None:
        """Save the pipeline; with EMA, the raw weights beside the averaged ones as variant 'non_ema'.

        Every file is replaced whole, so the folder holds a loadable pipeline at any moment after the first.
        """
        self.state.require_finite("the pipeline")
        pipeline = self.pipeline()
        raw = None if self.state.ema is None else self.state.raw_network()

        def save() -> None:
            needed = 4 * self.num_parameters * (1 if raw is None else 2)
            require_space(self.output_dir, needed, "the pipeline")
            with disk_errors_named(self.output_dir, needed):
                temporary = temporary_folder(self.output_dir / "export")
                # One file of weights: parts of two exports can never be mixed.
                pipeline.save_pretrained(temporary, max_shard_size="10TB")
                if raw is not None:
                    raw.save_pretrained(temporary / "unet", variant="non_ema", max_shard_size="10TB")
                commit_files(temporary, self.output_dir, last="model_index.json")

        on_main(save)

    def save_samples(self, path: Path) -> None:
        """Save a picture of samples, always of the same noise, made by all processes.

        Raises:
            Stopped: a signal asked for it.
        """
        config, accelerator = self.config, self.accelerator
        is_points = len(self.data.sample_shape) == 1
        count = max(config.eval_batch_size, _LEAST_POINTS) if is_points else config.eval_batch_size
        pipeline = self.pipeline()
        try:
            samples = generate(
                pipeline, count, batch_size=math.ceil(count / accelerator.num_processes),
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
                save_picture(samples, path, self.data.held_out, names_of_samples(pipeline, count))
