"""Train a diffusion model: accelerate launch training/train.py --config training/configs/digits.yaml.

Reads top to bottom: load the data, build network and scheduler, run the updates, sample, save, measure, write
the card. The flags are in config.py, the data in data.py, checkpoints in checkpoint.py.
"""

import contextlib
import json
import math
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import set_seed
from diffusers.models.modeling_utils import ModelMixin
from diffusers.optimization import get_scheduler
from torch.optim.swa_utils import AveragedModel
from tqdm.auto import tqdm

import checkpoint
from config import BUILT_IN_DATASETS, ConfigError, TrainingConfig, parse_config
from data import TrainingData, load_training_data
from ddpm_from_scratch import DDPMFromScratchPipeline, DDPMFromScratchScheduler, __version__
from ddpm_from_scratch.hub import model_card, push_folder
from ddpm_from_scratch.models import MODEL_CONFIGS, build_model, load_model_config, model_config
from ddpm_from_scratch.objectives import denoising_losses, stratified_timesteps, uniform_timesteps
from ddpm_from_scratch.plots import loss_curve, point_cloud, sample_grid
from evaluate import METRIC_NAMES, evaluate, format_results
from optimizers import make_optimizer
from seeds import stream_seed

# Settings that may change when a run resumes: they do not decide its weights.
NOT_IN_THE_RECIPE = {
    "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "logger", "logging_dir", "logging_steps",
    "save_images_epochs", "save_model_epochs", "eval_batch_size", "evaluation_samples",
    "ddpm_num_inference_steps",
    "checkpointing_steps", "checkpoints_total_limit", "dataloader_num_workers", "cache_dir", "clip_sample",
    "push_to_hub", "hub_model_id", "hub_private_repo", "hub_token", "license", "local_rank",
}  # fmt: skip
CARD_TEMPLATE = Path(__file__).resolve().parent.parent / "model_card.md"


def choose_model_and_data(config: TrainingConfig) -> tuple[dict[str, Any], TrainingData]:
    """Return the network's configuration and the data, made to agree on size, channels and classes.

    Raises:
        ConfigError: they cannot agree.
    """
    chosen, named = config.model_config_name_or_path, config.model_config_name_or_path in MODEL_CONFIGS
    given: dict[str, Any] = {}
    if chosen is not None:
        try:
            given = load_model_config(chosen, cache_dir=config.cache_dir)
        except ValueError as error:
            raise ConfigError(f"--model_config_name_or_path: {error}") from error
    size = given.get("sample_size")
    resolution = config.resolution or (size if isinstance(size, int) else None)
    channels = config.channels or (None if named else given.get("in_channels"))
    data = load_training_data(config, resolution, channels)
    if len(data.sample_shape) == 1:
        network = given or model_config("points")
        if network.get("_class_name") != "PointDenoiser":
            raise ConfigError(
                f"--model_config_name_or_path is {chosen!r}, an image network, but the data are points."
            )
        return network | {"sample_shape": data.sample_shape}, data
    channels, side = data.sample_shape[0], data.sample_shape[1]
    if given.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise ConfigError(f"--model_config_name_or_path is {chosen!r}, but images need a UNet2DModel.")
    if chosen is None or named:
        name = chosen or ("digits" if side <= 8 else "small-32" if side <= 32 else "ddpm-256")
        given = model_config(name, channels=channels)
    elif (given.get("in_channels", 3), given.get("out_channels", 3)) != (channels, channels):
        raise ConfigError(
            f"--model_config_name_or_path {chosen!r} has {given.get('in_channels', 3)} input and "
            f"{given.get('out_channels', 3)} output channels, but the data have {channels}."
        )
    factor = 2 ** (len(given.get("block_out_channels", (0,) * 4)) - 1)
    if side % factor:
        raise ConfigError(
            f"--resolution is {side}, but this network halves it to the end: use a multiple of {factor}."
        )
    if given.get("num_class_embeds") not in (None, data.num_classes):
        raise ConfigError(
            f"--model_config_name_or_path {chosen!r} has {given['num_class_embeds']} classes, but the data "
            "have "
            f"{data.num_classes or 'none'}; give the labels with --label_column."
        )
    if config.push_to_hub and channels not in (1, 3):
        raise ConfigError(
            f"--push_to_hub needs images of 1 or 3 channels, which stock diffusers can run, got {channels}."
        )
    given = given | {"sample_size": side}
    if data.num_classes is not None:
        given["num_class_embeds"] = data.num_classes
    return given, data


def prepare_output_dir(config: TrainingConfig) -> Path:
    """Create the output folder; refuse one that holds an earlier run unless it is resumed or overwritten."""
    folder = Path(config.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--output_dir is {config.output_dir!r}, which cannot be made: {error.strerror}."
        ) from error
    if config.resume_from_checkpoint:
        checkpoint.find_checkpoint(folder, config.resume_from_checkpoint)
    elif not config.overwrite_output_dir and (
        checkpoint.list_checkpoints(folder) or (folder / "model_index.json").exists()
    ):
        raise ConfigError(
            f"--output_dir {config.output_dir!r} holds an earlier run; resume it with "
            "--resume_from_checkpoint "
            "latest, start anew with --overwrite_output_dir, or choose another folder."
        )
    return folder


def clear_earlier_run(folder: Path, config: TrainingConfig) -> None:
    """Delete what an earlier run left in the output folder, and nothing else."""
    for old in (
        *checkpoint.list_checkpoints(folder),
        *map(folder.joinpath, ("samples", "unet", "scheduler")),
    ):
        shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(folder / config.logging_dir, ignore_errors=True)
    for name in ("model_index.json", "results.json", "README.md", "samples.png", "loss.png"):
        (folder / name).unlink(missing_ok=True)


class Trainer:
    """One run: the network, its optimizer and average, and the loop over updates."""

    def __init__(
        self, config: TrainingConfig, network: dict[str, Any], data: TrainingData, accelerator: Accelerator
    ):
        self.config, self.data, self.accelerator = config, data, accelerator
        self.output_dir = Path(config.output_dir)
        self.scheduler = DDPMFromScratchScheduler(
            num_train_timesteps=config.ddpm_num_steps,
            beta_start=config.beta_start,
            beta_end=config.beta_end,
            beta_schedule=config.ddpm_beta_schedule,
            prediction_type=config.prediction_type,
            rescale_betas_zero_snr=config.rescale_betas_zero_snr,
            clip_sample=config.clip_sample,
        )
        set_seed(stream_seed(config.seed, "model") % 2**32)
        model = build_model(network)
        self.num_parameters = sum(parameter.numel() for parameter in model.parameters())
        optimizer = make_optimizer(model, config)
        self.samples_per_update = (
            config.train_batch_size * accelerator.num_processes * config.gradient_accumulation_steps
        )
        if config.max_train_steps is not None:
            self.total_updates = config.max_train_steps
        else:
            assert data.num_samples is not None  # TrainingConfig asks a stream for max_train_steps
            self.total_updates = math.ceil(config.num_epochs * data.num_samples / self.samples_per_update)
        # Not prepared by Accelerate, which would advance it num_processes times an update.
        self.lr_scheduler = get_scheduler(
            config.lr_scheduler,
            optimizer,
            num_warmup_steps=config.lr_warmup_steps,
            num_training_steps=self.total_updates,
        )
        self.network = model.to(accelerator.device)
        self.ema = self._make_ema(self.network) if config.use_ema else None
        self.model, self.optimizer = accelerator.prepare(self.network, optimizer)
        self.update = 0
        self.train_seconds = 0.0
        self.began = time.perf_counter()

    def _make_ema(self, model: ModelMixin) -> AveragedModel:
        """Return a float32 average of the weights with decay min(1 - (1 + n/g)^-p, max) after n updates."""
        config = self.config

        def average(
            averaged: list[torch.Tensor], current: list[torch.Tensor], count: torch.Tensor | int
        ) -> None:
            decay = 1 - (1 + float(count) / config.ema_inv_gamma) ** -config.ema_power
            torch._foreach_lerp_(averaged, current, 1 - min(decay, config.ema_max_decay))

        return AveragedModel(model, multi_avg_fn=average).eval()

    def run(self) -> None:
        """Train from the current update to the last."""
        config, accelerator = self.config, self.accelerator
        batches = self.data.batches(
            config.train_batch_size,
            accelerator.process_index,
            accelerator.num_processes,
            config.dataloader_num_workers,
            start=self.update * config.gradient_accumulation_steps,
        )
        log = (
            _Log(self.output_dir / config.logging_dir / "metrics.jsonl", self.update)
            if accelerator.is_main_process
            else None
        )
        progress = tqdm(
            total=self.total_updates, initial=self.update, desc="training", unit="update",
            disable=not accelerator.is_main_process,
        )  # fmt: skip
        self.began, first_update, losses = time.perf_counter(), self.update, []
        while self.update < self.total_updates:
            losses.append(self._train_update(batches))
            self.update += 1
            progress.update()
            # Before anything is saved, the loss since the last look is known to be finite.
            due = self.update % config.checkpointing_steps == 0 or self.update == self.total_updates
            if (
                due
                or self._epochs_passed(config.save_model_epochs)
                or self.update % config.logging_steps == 0
            ):
                loss = accelerator.reduce(torch.stack(losses).mean(), "mean").item()
                losses = []
                if not math.isfinite(loss):
                    raise ConfigError(
                        f"the loss is {loss} after update {self.update}; lower --learning_rate or use "
                        "--mixed_precision bf16. "
                        "Nothing was saved since the last checkpoint."
                    )
                row = {"loss": loss, "lr": self.lr_scheduler.get_last_lr()[0]}
                progress.set_postfix({"loss": f"{loss:.4f}", "lr": f"{row['lr']:.1e}"})
                accelerator.log(row, step=self.update)
                if log is not None:
                    rate = (
                        (self.update - first_update)
                        * self.samples_per_update
                        / (time.perf_counter() - self.began)
                    )
                    log.write({"step": self.update, **row, "samples_per_second": round(rate, 1)})
            self._observe()
        progress.close()
        self.train_seconds += time.perf_counter() - self.began

    def _train_update(self, batches: Any) -> torch.Tensor:
        """Do one optimizer update; return the mean loss of its batches in this process."""
        config, accelerator = self.config, self.accelerator
        self.model.train()
        total = torch.zeros((), device=accelerator.device)
        for micro in range(config.gradient_accumulation_steps):
            batch = next(batches)
            samples = batch["samples"].to(accelerator.device, non_blocking=True)
            labels = batch["labels"].to(accelerator.device, non_blocking=True) if "labels" in batch else None
            is_last = micro == config.gradient_accumulation_steps - 1
            with contextlib.nullcontext() if is_last else accelerator.no_sync(self.model):
                noise, timesteps = self._draw(samples, micro)
                loss = denoising_losses(
                    self.model, self.scheduler, samples, noise, timesteps, class_labels=labels,
                    loss_weighting=config.loss_weighting, snr_gamma=config.snr_gamma,
                ).mean() / config.gradient_accumulation_steps  # fmt: skip
                accelerator.backward(loss)
            total += loss.detach()
        accelerator.clip_grad_norm_(self.model.parameters(), config.max_grad_norm)
        self.optimizer.step()
        if not accelerator.optimizer_step_was_skipped:
            self.lr_scheduler.step()
            if self.ema is not None:
                self.ema.update_parameters(self.network)
        self.optimizer.zero_grad()
        return total

    def _draw(self, samples: torch.Tensor, micro: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return noise and timesteps of a batch, from the stream of this update, batch and process."""
        config, accelerator = self.config, self.accelerator
        where = (self.update, micro, accelerator.process_index)
        torch.manual_seed(stream_seed(config.seed, "dropout", *where))
        generator = torch.Generator(samples.device).manual_seed(stream_seed(config.seed, "noise", *where))
        noise = torch.randn(samples.shape, generator=generator, device=samples.device)
        # On the CPU, because not every device has the float64 of the strata.
        generator = torch.Generator().manual_seed(stream_seed(config.seed, "timesteps", *where))
        size, num_steps = len(samples), config.ddpm_num_steps
        if config.timestep_sampling == "uniform":
            timesteps = uniform_timesteps(size, num_steps, generator)
        else:
            part = accelerator.process_index * config.gradient_accumulation_steps + micro
            timesteps = stratified_timesteps(
                size, num_steps, generator, first_stratum=part * size, num_strata=self.samples_per_update
            )
        return noise, timesteps.to(samples.device)

    def _observe(self) -> None:
        """Save a checkpoint, a sample grid or the pipeline where one is due; none of them changes the run."""
        config = self.config
        if self.update % config.checkpointing_steps == 0 and self.update < self.total_updates:
            self.save_checkpoint()
        if not self.accelerator.is_main_process or self.update == self.total_updates:
            return
        if self._epochs_passed(config.save_images_epochs):
            self.save_samples(self.output_dir / "samples" / f"step-{self.update:07d}.png")
        if self._epochs_passed(config.save_model_epochs):
            self.export()

    def _epochs_passed(self, every: int) -> bool:
        """Return whether this update completed `every` epochs; of a stream, a checkpoint interval."""
        if self.data.num_samples is None:
            return self.update % self.config.checkpointing_steps == 0
        now, before = (
            (update * self.samples_per_update) // (every * self.data.num_samples)
            for update in (self.update, self.update - 1)
        )
        return now > before

    def pipeline(self) -> DDPMFromScratchPipeline:
        """Return a pipeline with the averaged weights, or the raw ones without EMA."""
        model = self.ema.module if self.ema is not None else self.network
        scheduler = DDPMFromScratchScheduler.from_config(self.scheduler.config)
        return DDPMFromScratchPipeline(model.eval(), scheduler)

    def save_samples(self, path: Path) -> None:
        """Save a picture of samples, always of the same noise."""
        path.parent.mkdir(parents=True, exist_ok=True)
        pipeline, config = self.pipeline(), self.config
        pipeline.set_progress_bar_config(desc="sampling", leave=False)
        is_points = len(self.data.sample_shape) == 1
        count = max(config.eval_batch_size, 1000) if is_points else config.eval_batch_size
        options: dict[str, Any] = {}
        if self.data.num_classes is not None:
            options["class_labels"] = torch.arange(count) % self.data.num_classes
        generator = torch.Generator().manual_seed(stream_seed(config.seed, "samples"))
        samples = pipeline(
            count, generator, config.ddpm_num_inference_steps, output_type="np", **options
        ).images
        if is_points:
            reference = None if self.data.held_out is None else self.data.held_out.numpy()
            point_cloud(samples, path, reference)
            return
        scale = max(1, 48 // samples.shape[1])
        drawable = samples if samples.shape[-1] in (1, 3) else samples[..., :1]
        sample_grid(drawable, pixel_size=scale).save(path)

    def export(self) -> None:
        """Save the pipeline; with EMA, the raw weights beside the averaged ones as variant 'non_ema'."""
        self.pipeline().save_pretrained(self.output_dir)
        if self.ema is not None:
            self.network.save_pretrained(self.output_dir / "unet", variant="non_ema")

    def save_checkpoint(self) -> None:
        """Write the state of the run after this update, from the main process."""
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            optimizer_tensors, optimizer_state = checkpoint.pack_optimizer(self.optimizer)
            tensors = {"model": self.network.state_dict(), "optimizer": optimizer_tensors}
            if self.ema is not None:
                tensors["ema"] = self.ema.state_dict()
            scaler = self.accelerator.scaler
            state = {
                "config": vars(self.config) | {"hub_token": None},
                "num_processes": self.accelerator.num_processes,
                "optimizer": optimizer_state,
                "lr_scheduler": self.lr_scheduler.state_dict(),
                "train_seconds": self.train_seconds + time.perf_counter() - self.began,
                "scaler": scaler.state_dict() if scaler is not None else None,
            }
            limit = self.config.checkpoints_total_limit
            checkpoint.save_checkpoint(self.output_dir, self.update, tensors, state, limit)
        self.accelerator.wait_for_everyone()

    def resume(self, folder: Path) -> None:
        """Continue from a checkpoint of the same recipe."""
        tensors, state = checkpoint.load_checkpoint(folder)
        if state["num_processes"] != self.accelerator.num_processes:
            raise ConfigError(
                f"checkpoint {str(folder)!r} was written by {state['num_processes']} processes, but this run "
                "has "
                f"{self.accelerator.num_processes}; resume with the same number."
            )
        changed = {
            name: (state["config"].get(name), value)
            for name, value in vars(self.config).items()
            if name not in NOT_IN_THE_RECIPE and state["config"].get(name) != value
        }
        if changed:
            listed = ", ".join(f"{name}: {old} -> {new}" for name, (old, new) in changed.items())
            raise ConfigError(
                f"checkpoint {str(folder)!r} was written with other settings ({listed}); resume with the "
                "same ones."
            )
        try:
            self.network.load_state_dict(tensors["model"])
            if self.ema is not None:
                self.ema.load_state_dict(tensors["ema"])
            checkpoint.unpack_optimizer(self.optimizer, tensors["optimizer"], state["optimizer"])
        except (KeyError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"checkpoint {str(folder)!r} does not fit this configuration: {reason}"
            ) from error
        self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        if state["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.update, self.train_seconds = state["step"], state["train_seconds"]


class _Log:
    """A JSON-lines file of the run; lines after the update that a run resumes from are dropped."""

    def __init__(self, path: Path, update: int):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = read_log(path) if update else []
        path.write_text("".join(json.dumps(row) + "\n" for row in rows if row["step"] <= update))

    def write(self, row: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON-lines file; none if it is missing."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write_report(trainer: Trainer) -> None:
    """Write what a person wants at the end: sample grid, loss curve, figures, model card."""
    config, data, folder = trainer.config, trainer.data, trainer.output_dir
    trainer.save_samples(folder / "samples.png")
    rows = read_log(folder / config.logging_dir / "metrics.jsonl")
    if rows:
        loss_curve([row["step"] for row in rows], [row["loss"] for row in rows], folder / "loss.png")
    evaluation: dict[str, Any] = {}
    if config.evaluation_samples:
        evaluation = evaluate(
            trainer.pipeline(), str(config.dataset_name), config.evaluation_samples,
            config.ddpm_num_inference_steps, config.seed,
        )  # fmt: skip
        print(format_results(evaluation))
    results = {
        "training": {
            "updates": trainer.update,
            "samples_seen": trainer.update * trainer.samples_per_update,
            "parameters": trainer.num_parameters,
            "seconds": round(trainer.train_seconds, 1),
            "num_processes": trainer.accelerator.num_processes,
            "device": str(trainer.accelerator.device),
            "mixed_precision": trainer.accelerator.mixed_precision,
            "final_loss": rows[-1]["loss"] if rows else None,
        },
        "evaluation": evaluation,
        "config": vars(config) | {"hub_token": None},
        "versions": {
            "ddpm-from-scratch": __version__,
            "diffusers": diffusers.__version__,
            "torch": torch.__version__,
            "accelerate": accelerate.__version__,
        },
    }
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    metrics = {key: (name, evaluation[key]) for key, name in METRIC_NAMES.items() if key in evaluation}
    floors = {key: evaluation[f"{key}_floor"] for key in metrics}
    card = model_card(
        CARD_TEMPLATE,
        model_name=folder.resolve().name,
        dataset=data.name,
        dataset_id=_hub_dataset_id(config),
        license=config.license,
        metrics=metrics,
        floors=floors,
        evaluation=evaluation,
        results=results,
        config=config,
        repo_id=config.hub_model_id or folder.resolve().name,
        is_image=len(data.sample_shape) == 3,
        is_portable=json.loads((folder / "model_index.json").read_text())["_class_name"] == "DDPMPipeline",
        command=_command(),
    )
    card.save(folder / "README.md")


def _hub_dataset_id(config: TrainingConfig) -> str | None:
    """Return the Hub id of the data set, or None if it is built in or a local path."""
    name = config.dataset_name
    if name is None or name in BUILT_IN_DATASETS or Path(name).exists() or name.startswith((".", "/", "~")):
        return None
    return name


def _command() -> str:
    """Return the command of this run, without its secrets."""
    words, hidden = [], False
    for word in sys.argv[1:]:
        words.append("***" if hidden else "--hub_token=***" if word.startswith("--hub_token=") else word)
        hidden = word == "--hub_token"
    return " ".join(["accelerate launch training/train.py", *words])


def train(config: TrainingConfig) -> None:
    """Run one training from configuration to model card.

    Raises:
        ConfigError: anything the user can mend; raised before the network is built, where it can be known by
        then.
    """
    output_dir = (
        prepare_output_dir(config) if int(os.environ.get("RANK", 0)) == 0 else Path(config.output_dir)
    )
    network, data = choose_model_and_data(config)
    trackers = None if config.logger == "jsonl" else config.logger
    available = [str(tracker.value) for tracker in get_available_trackers()]
    if trackers is not None and trackers not in available:
        raise ConfigError(
            f"--logger is {trackers!r}, but that package is not installed: pip install {trackers}."
        )
    try:
        accelerator = Accelerator(
            mixed_precision=config.mixed_precision,
            log_with=trackers,
            project_dir=str(output_dir / config.logging_dir),
        )
    except ValueError as error:
        raise ConfigError(
            f"--mixed_precision {config.mixed_precision}, --logger {config.logger}: {error}"
        ) from error
    if accelerator.is_main_process and not config.resume_from_checkpoint:
        clear_earlier_run(output_dir, config)
    accelerator.wait_for_everyone()
    if trackers is not None:
        settings = {
            k: v for k, v in vars(config).items() if k != "hub_token" and isinstance(v, (int, float, str))
        }
        accelerator.init_trackers("ddpm-from-scratch", settings)
    trainer = Trainer(config, network, data, accelerator)
    if config.resume_from_checkpoint:
        trainer.resume(checkpoint.find_checkpoint(output_dir, config.resume_from_checkpoint))
    if accelerator.is_main_process:
        print(
            f"{type(trainer.network).__name__} with {trainer.num_parameters:,} parameters on "
            f"{data.name}, samples "
            f"{data.sample_shape}; {trainer.total_updates} updates of {trainer.samples_per_update} samples "
            "on "
            f"{accelerator.num_processes} process(es), {accelerator.device}, precision "
            f"{accelerator.mixed_precision}"
        )
    trainer.run()
    trainer.save_checkpoint()
    if accelerator.is_main_process:
        trainer.export()
        write_report(trainer)
        print(f"saved to {output_dir}")
        if config.push_to_hub:
            repo_id = config.hub_model_id or output_dir.resolve().name
            url = push_folder(output_dir, repo_id, private=config.hub_private_repo, token=config.hub_token)
            print(f"pushed to {url}")
    accelerator.wait_for_everyone()
    accelerator.end_training()


def main(argv: list[str] | None = None) -> int:
    """Parse the flags, train, and return the exit status: 0, or 2 with one line on what to mend."""
    config = parse_config(argv)
    try:
        train(config)
    except ConfigError as error:
        rank = int(os.environ.get("RANK", 0))
        who = f"train.py, process {rank}" if rank else "train.py"
        print(f"{who}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
