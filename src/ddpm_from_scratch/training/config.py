"""The configuration of a training run: one dataclass that defines the flags, their help and their checks.

Flags keep the names of diffusers' train_unconditional.py where they mean the same. A YAML file given with
--config holds the same names; a flag on the command line wins over the file.
"""

import difflib
import math
import os
import sys
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml
from transformers.hf_argparser import HfArgumentParser

from ..runtime.cli import OneLineErrors
from ..runtime.errors import ConfigError

# The names of toy_data.POINT_DATASETS: a wrong flag is answered before torch is imported.
POINT_DATASETS = ("swiss_roll", "spiral", "two_moons", "checkerboard", "eight_gaussians", "pinwheel")
BUILT_IN_DATASETS = ("digits", *POINT_DATASETS)

# Settings that may be a path, in which ~ is the home folder.
_PATHS = (
    "output_dir", "train_data_dir", "dataset_name", "cache_dir", "resume_from_checkpoint",
    "model_config_name_or_path",
)  # fmt: skip

# What may differ when a run is resumed.
FREE, ALLOWED, FIXED = "free", "with --allow_recipe_change", "never"


def _flag(default: Any, help: str, on_resume: str = FIXED) -> Any:
    """Return the field of a flag; `on_resume` says whether a resumed run may have another value."""
    return field(default=default, metadata={"help": help, "on_resume": on_resume})


@dataclass
class TrainingConfig:
    """Everything that decides a run."""

    # data
    dataset_name: str | None = _flag(
        None,
        f"Built-in data ({', '.join(BUILT_IN_DATASETS)}), a dataset of the Hub, or a folder that datasets "
        "can load.",
        ALLOWED,
    )
    dataset_config_name: str | None = _flag(None, "Configuration of the dataset, if it has several.", ALLOWED)
    dataset_split: str = _flag("train", "Split of the dataset to train on.", ALLOWED)
    train_data_dir: str | None = _flag(
        None, "Folder of images to train on, instead of --dataset_name.", ALLOWED
    )
    image_column: str = _flag("image", "Column that holds the images.", ALLOWED)
    label_column: str | None = _flag(
        None, "Column that holds class labels; given, the network becomes class-conditional."
    )
    cache_dir: str | None = _flag(None, "Folder for downloaded data and models.", FREE)
    streaming: bool = _flag(
        False, "Read the dataset as a stream, without storing it; needs --max_train_steps."
    )
    shuffle_buffer_size: int = _flag(1000, "Samples held for shuffling a stream.", ALLOWED)
    resolution: int | None = _flag(
        None, "Side of the training images in pixels; the model's if not given, else 64."
    )
    channels: int | None = _flag(
        None, "Image channels: 1 (grey), 3 (RGB), 4 (RGBA), or those of an array column."
    )
    center_crop: bool = _flag(
        False, "Crop the centre of images that are not square; a random part if not given.", ALLOWED
    )
    random_flip: bool = _flag(False, "Mirror images left-right at random.", ALLOWED)
    skip_bad_images: int = _flag(
        0,
        "Images that may be unreadable; each is listed, and the next one takes its place.",
        ALLOWED,
    )
    dataloader_num_workers: int = _flag(0, "Processes that load data; 0 loads in the main process.", FREE)

    # network
    model_config_name_or_path: str | None = _flag(
        None, "A named configuration, a JSON file, a folder or a Hub id; chosen by resolution if not given."
    )

    # diffusion
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = _flag(
        "epsilon", "What the network predicts."
    )
    ddpm_num_steps: int = _flag(1000, "Number of noise levels T.")
    ddpm_num_inference_steps: int | None = _flag(
        None, "Steps of the sample grids and of evaluation; 10 if not given.", FREE
    )
    ddpm_beta_schedule: Literal[
        "linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "sigmoid_alpha_bar", "laplace"
    ] = _flag("linear", "Noise schedule.")
    beta_start: float = _flag(1e-4, "First beta of linear, scaled_linear and sigmoid.")
    beta_end: float = _flag(0.02, "Last beta of linear, scaled_linear and sigmoid.")
    rescale_betas_zero_snr: bool = _flag(False, "Rescale the schedule so that no signal is left at T.")
    guidance_scale: float = _flag(
        1.0, "Classifier-free guidance of sample grids and evaluation; 1 is none.", FREE
    )
    clip_sample: bool = _flag(
        True, "Clip the estimate of x_0 to [-1, 1] in sampling; off for data outside.", FREE
    )

    # objective
    variance_type: Literal["fixed_small", "fixed_large", "learned_range"] = _flag(
        "fixed_small",
        "Variance of the reverse steps; learned_range doubles the output channels and adds the bound.",
    )
    vlb_weight: float = _flag(
        0.001, "Weight of the variational bound that trains learned variances.", ALLOWED
    )
    label_dropout: float = _flag(
        0.0, "Probability of training without the label, for classifier-free guidance; 0.1 is usual."
    )
    timestep_sampling: Literal["uniform", "stratified", "loss_aware"] = _flag(
        "uniform", "How training timesteps are drawn."
    )
    loss_weighting: Literal["none", "min_snr"] = _flag(
        "none", "Weight of the squared error over timesteps.", ALLOWED
    )
    snr_gamma: float = _flag(5.0, "Cap on the signal-to-noise ratio of min_snr.", ALLOWED)

    # optimisation
    train_batch_size: int = _flag(16, "Samples in a batch of one process.", ALLOWED)
    gradient_accumulation_steps: int = _flag(1, "Batches of one optimizer update.", ALLOWED)
    num_epochs: int = _flag(100, "Passes over the data.", ALLOWED)
    max_train_steps: int | None = _flag(None, "Optimizer updates; wins over --num_epochs.", ALLOWED)
    optimizer: Literal["adamw", "muon"] = _flag(
        "adamw", "muon: Muon for matrices and kernels, AdamW for the rest."
    )
    learning_rate: float = _flag(1e-4, "Peak learning rate of AdamW.", ALLOWED)
    muon_learning_rate: float = _flag(0.01, "Peak learning rate of Muon.", ALLOWED)
    lr_scheduler: Literal[
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"
    ] = _flag("cosine", "Course of the learning rate, counted in optimizer updates.", ALLOWED)
    lr_warmup_steps: int = _flag(500, "Optimizer updates of linear warm-up.", ALLOWED)
    adam_beta1: float = _flag(0.95, "First beta of AdamW.", ALLOWED)
    adam_beta2: float = _flag(0.999, "Second beta of AdamW.", ALLOWED)
    adam_weight_decay: float = _flag(1e-6, "Weight decay of AdamW.", ALLOWED)
    adam_epsilon: float = _flag(1e-8, "Epsilon of AdamW.", ALLOWED)
    max_grad_norm: float = _flag(1.0, "Largest norm of the gradient; larger ones are scaled down.", ALLOWED)
    use_ema: bool = _flag(
        False, "Keep an average of the weights and export it; the raw weights are kept beside it."
    )
    ema_inv_gamma: float = _flag(1.0, "g in the decay 1 - (1 + step/g)^-p.", ALLOWED)
    ema_power: float = _flag(0.75, "p in the decay 1 - (1 + step/g)^-p; 2/3 to 1 suits most runs.", ALLOWED)
    ema_max_decay: float = _flag(0.9999, "Largest decay of the average.", ALLOWED)
    mixed_precision: Literal["no", "fp16", "bf16"] | None = _flag(
        None, "Precision of the network, the rest is float32; the launcher's, or no, if not given.", ALLOWED
    )
    max_nonfinite_steps: int = _flag(
        10, "Updates in a row whose loss or gradient is not finite after which the run stops.", FREE
    )

    # the run
    deterministic: bool = _flag(
        False, "Use deterministic kernels on a GPU, for equal weights from equal commands; slower.", FREE
    )
    output_dir: str = _flag("ddpm-model-64", "Folder for the pipeline, checkpoints, samples and logs.", FREE)
    overwrite_output_dir: bool = _flag(False, "Start anew in a folder that holds an earlier run.", FREE)
    seed: int = _flag(0, "Seed of everything random.")
    logger: Literal["jsonl", "tensorboard", "wandb", "trackio"] = _flag(
        "jsonl", "Where to log besides logs/metrics.jsonl, which is always written.", FREE
    )
    logging_dir: str = _flag("logs", "Folder for logs, inside the output folder.", FREE)
    logging_steps: int = _flag(10, "Optimizer updates between two log lines.", FREE)
    save_images_epochs: int = _flag(
        10, "Epochs between two sample grids; for a stream, a grid at each checkpoint.", FREE
    )
    save_model_epochs: int = _flag(10, "Epochs between two exports of the pipeline.", FREE)
    eval_batch_size: int = _flag(16, "Images of a sample grid.", FREE)
    checkpointing_steps: int = _flag(500, "Optimizer updates between two checkpoints.", FREE)
    checkpoints_total_limit: int | None = _flag(None, "Checkpoints to keep; all if not given.", FREE)
    resume_from_checkpoint: str | None = _flag(
        None, "A checkpoint folder, or 'latest' in the output folder.", FREE
    )
    allow_recipe_change: bool = _flag(
        False,
        "Resume with other settings, processes or data than the checkpoint's, if safe.",
        FREE,
    )
    evaluation_samples: int = _flag(
        0, "Samples to generate at the end and compare with held-out data, or with the training data.", FREE
    )
    calibrate: bool = _flag(
        False,
        "At the end, find the timesteps and the noise of 5, 10 and 20 steps that are best for this network.",
        FREE,
    )
    calibration_samples: int = _flag(
        250, "Samples that --calibrate judges a candidate by; the best by up to 32 times as many.", FREE
    )
    evaluation_features: str = _flag(
        "auto",
        "What to compare them on: auto, pixels, digit_classifier, inception, or a transformers vision model.",
        FREE,
    )

    # publishing
    push_to_hub: bool = _flag(False, "Upload the finished pipeline to the Hub.", FREE)
    hub_model_id: str | None = _flag(
        None, "Repository to upload to; the output folder's name if not given.", FREE
    )
    hub_push_exports: Literal["no", "branch", "tag"] = _flag(
        "no",
        "Upload each export of --save_model_epochs, too, to a branch or under a tag named step-<update>.",
        FREE,
    )
    hub_private_repo: bool = _flag(False, "Create the repository private.", FREE)
    hub_token: str | None = _flag(None, "Token of the Hub; better stored with 'hf auth login'.", FREE)
    license: str = _flag(
        "apache-2.0", "Licence of the trained weights, for the model card, as the Hub spells it.", FREE
    )

    # accepted for scripts that were written for the stock one
    enable_xformers_memory_efficient_attention: bool = _flag(
        False, "Ignored: PyTorch's own attention is as economical.", FREE
    )
    local_rank: int = _flag(-1, "Ignored: the launcher sets the rank in the environment.", FREE)

    def __post_init__(self) -> None:
        """Raise ConfigError for a setting outside its range, or settings that do not go together."""
        for name in _PATHS:
            if getattr(self, name) is not None:
                setattr(self, name, os.path.expanduser(getattr(self, name)))
        at_least = {
            "shuffle_buffer_size": 1, "resolution": 1, "channels": 1, "dataloader_num_workers": 0,
            "skip_bad_images": 0, "max_nonfinite_steps": 1,
            "ddpm_num_steps": 2, "ddpm_num_inference_steps": 1, "train_batch_size": 1,
            "gradient_accumulation_steps": 1, "num_epochs": 1, "max_train_steps": 1, "lr_warmup_steps": 0,
            "seed": 0, "logging_steps": 1, "save_images_epochs": 1, "save_model_epochs": 1,
            "eval_batch_size": 1,
            "checkpointing_steps": 1, "checkpoints_total_limit": 1, "evaluation_samples": 0,
            "calibration_samples": 2,
        }  # fmt: skip
        for name, minimum in at_least.items():
            self._require(name, lambda value, low=minimum: value >= low, f"at least {minimum}")
        for name in ("learning_rate", "muon_learning_rate", "adam_epsilon", "max_grad_norm", "snr_gamma",
                     "ema_inv_gamma", "ema_power"):  # fmt: skip
            self._require(name, lambda value: 0 < value < math.inf, "a finite number above 0")
        for name in ("vlb_weight", "guidance_scale"):
            self._require(name, lambda value: 0 <= value < math.inf, "a finite number of at least 0")
        self._require("label_dropout", lambda value: 0 <= value <= 1, "in [0, 1]")
        if self.label_dropout and self.label_column is None:
            raise ConfigError(
                f"--label_dropout is {self.label_dropout}, but needs labels: give --label_column."
            )
        if self.guidance_scale != 1 and not self.label_dropout:
            raise ConfigError(
                f"--guidance_scale is {self.guidance_scale}, but needs a network that was trained with "
                "--label_dropout."
            )
        for name in ("adam_beta1", "adam_beta2", "ema_max_decay"):
            self._require(name, lambda value: 0 <= value < 1, "in [0, 1)")
        self._require(
            "adam_weight_decay", lambda value: 0 <= value < math.inf, "a finite number of at least 0"
        )
        for name in ("beta_start", "beta_end"):
            self._require(name, lambda value: 0 < value < 1, "inside (0, 1)")
        self._require(
            "ddpm_num_inference_steps",
            lambda value: value <= self.ddpm_num_steps,
            f"at most --ddpm_num_steps, which is {self.ddpm_num_steps}",
        )
        if (self.dataset_name is None) == (self.train_data_dir is None):
            got = "neither" if self.dataset_name is None else "both"
            raise ConfigError(f"give exactly one of --dataset_name and --train_data_dir, got {got}.")
        name = self.dataset_name or ""
        close = difflib.get_close_matches(name, BUILT_IN_DATASETS, n=1, cutoff=0.8)
        if close and name not in BUILT_IN_DATASETS and "/" not in name and not Path(name).exists():
            raise ConfigError(f"--dataset_name is {name!r}; did you mean the built-in {close[0]!r}?")
        if self.streaming and self.max_train_steps is None:
            raise ConfigError("--streaming needs --max_train_steps: the length of a stream is not known.")
        if self.streaming and self.dataset_name in BUILT_IN_DATASETS:
            raise ConfigError(f"--streaming does not apply to the built-in data {self.dataset_name!r}.")
        if self.allow_recipe_change and not self.resume_from_checkpoint:
            raise ConfigError("--allow_recipe_change applies to --resume_from_checkpoint only.")
        if self.evaluation_samples and self.streaming:
            raise ConfigError(
                "--evaluation_samples cannot be had with --streaming: use training/evaluate.py."
            )
        if self.calibrate and self.streaming:
            raise ConfigError("--calibrate cannot be had with --streaming: use training/calibrate.py.")
        self._require("evaluation_samples", lambda value: not 0 < value < 4, "0 or at least 4")
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            raise ConfigError(
                "--rescale_betas_zero_snr leaves no signal at T, where epsilon says nothing about x_0: use "
                "--prediction_type v_prediction or sample with it."
            )
        taken = ("", ".", "..", "unet", "scheduler", "samples")
        if (
            self.logging_dir in taken
            or self.logging_dir != Path(self.logging_dir).name
            or (self.logging_dir.startswith("checkpoint-"))
        ):
            raise ConfigError(
                f"--logging_dir is {self.logging_dir!r}, but must be one name inside --output_dir that "
                "nothing else has there."
            )
        if self.hub_push_exports != "no" and not self.push_to_hub:
            raise ConfigError("--hub_push_exports applies to --push_to_hub only.")

    def recipe(self) -> dict[str, Any]:
        """Return the settings that decide the weights: all that a resumed run may not change freely."""
        return {name: getattr(self, name) for name, rule in ON_RESUME.items() if rule != FREE}

    def _require(self, name: str, holds: Any, allowed: str) -> None:
        value = getattr(self, name)
        if value is not None and not holds(value):
            raise ConfigError(f"--{name} is {value}, but must be {allowed}.")


# Setting -> what a resumed run may do with it.
ON_RESUME: dict[str, str] = {item.name: item.metadata["on_resume"] for item in fields(TrainingConfig)}


class _Parser(OneLineErrors, HfArgumentParser):
    """A parser of the configuration whose errors are one line."""


def _make_parser() -> _Parser:
    hints = get_type_hints(TrainingConfig)
    # HfArgumentParser hands all metadata to argparse, which knows only the help.
    flags = make_dataclass(
        "Flags",
        [
            (
                item.name,
                hints[item.name],
                field(default=item.default, metadata={"help": item.metadata["help"]}),
            )
            for item in fields(TrainingConfig)
        ],
    )
    parser = _Parser(flags, prog="train.py", description="Train a diffusion model.", allow_abbrev=False)
    parser.add_argument(
        "--config", metavar="FILE.yaml", help="File with any of these settings; flags win over it."
    )
    return parser


def _flags_of_file(path: str, parser: _Parser) -> list[str]:
    """Return the settings of a YAML file as command-line flags, so that both are checked alike."""
    try:
        settings = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        parser.error(f"--config {path!r} cannot be read: {error.strerror}.")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        parser.error(f"--config {path!r} is not valid YAML: {' '.join(str(error).split())}.")
    if not isinstance(settings, dict):
        parser.error(f"--config {path!r} must hold 'name: value' lines.")
    names = [item.name for item in fields(TrainingConfig)]
    flags: list[str] = []
    for name, value in settings.items():
        if name not in names:
            close = difflib.get_close_matches(str(name), names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "see --help for the names."
            parser.error(f"--config {path!r} has an unknown setting {name!r}; {hint}")
        if name == "mixed_precision" and value is False:
            value = "no"  # YAML reads a bare no as false
        if isinstance(value, (dict, list)):
            parser.error(f"--config {path!r}: {name} must be one value, got {value!r}.")
        if value is not None:
            flags.append(f"--{name}={value}")
    return flags


def parse_config(argv: list[str] | None = None) -> TrainingConfig:
    """Return the configuration of a command line; print one line and exit with status 2 if it cannot be used.

    Args:
        argv: the flags; those of this process if not given.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = _make_parser()
    config_only = OneLineErrors(prog="train.py", add_help=False, allow_abbrev=False)
    config_only.add_argument("--config")
    chosen = config_only.parse_known_args(argv)[0].config
    from_file = _flags_of_file(chosen, parser) if chosen else []
    namespace, unknown = parser.parse_known_args([*from_file, *argv])
    if unknown:
        known = [f"--{item.name}" for item in fields(TrainingConfig)]
        close = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
        hint = f"did you mean {close[0]}?" if close else "see --help for the flags."
        parser.error(f"unknown argument {unknown[0]!r}; {hint}")
    try:
        return TrainingConfig(**{item.name: getattr(namespace, item.name) for item in fields(TrainingConfig)})
    except ConfigError as error:
        parser.error(str(error))
