"""The configuration of a training run: one dataclass that defines the flags, their help and their checks.

Flags keep the names of diffusers' train_unconditional.py where they mean the same. A YAML file given with
--config holds the same names; a flag on the command line wins over the file. The flags of the data are in
data/settings.py.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..data.settings import DataConfig
from ..runtime.cli import ALLOWED, FREE, GIVEN, flag, parse_settings
from ..runtime.errors import ConfigError
from ..runtime.unused import Only
from ..words import (
    BetaSchedule,
    LearningRateCourse,
    LoggerName,
    LossWeighting,
    MixedPrecision,
    OptimizerName,
    PredictionType,
    PublishedExports,
    TimestepSampling,
    TrainedVarianceType,
)

# The schedules that are given by their first and last beta.
_BY_BETAS = Only("ddpm_beta_schedule", ("linear", "scaled_linear", "sigmoid"))
# What else has a name in the output folder.
_TAKEN_NAMES = ("", ".", "..", "unet", "scheduler", "samples")


@dataclass
class TrainingConfig(DataConfig):
    """Everything that decides a run."""

    # network
    model_config_name_or_path: str | None = flag(
        None,
        "A named configuration, a JSON file, a folder or a Hub id; chosen by resolution if not given.",
        is_path=True,
    )

    # what it starts from
    init_from: str | None = flag(
        None,
        "Trained weights to start from: a pipeline's folder, its unet folder or a Hub id. Network and "
        "process are then theirs.",
        is_path=True,
    )
    init_variant: str | None = flag(
        None, "Which of these weights: raw for those beside averaged ones, or a variant such as fp16."
    )

    # diffusion
    prediction_type: PredictionType = flag("epsilon", "What the network predicts.")
    ddpm_num_steps: int = flag(1000, "Number of noise levels T.", least=2)
    ddpm_num_inference_steps: int | None = flag(
        None, "Steps of the sample grids and of evaluation; 10 if not given.", on_resume=FREE, least=1
    )
    ddpm_beta_schedule: BetaSchedule = flag("linear", "Noise schedule.")
    beta_start: float = flag(
        1e-4,
        "First beta of linear, scaled_linear and sigmoid.",
        above=0,
        below=1,
        used_with=_BY_BETAS,
    )
    beta_end: float = flag(
        0.02,
        "Last beta of linear, scaled_linear and sigmoid.",
        above=0,
        below=1,
        used_with=_BY_BETAS,
    )
    rescale_betas_zero_snr: bool = flag(False, "Rescale the schedule so that no signal is left at T.")
    guidance_scale: float = flag(
        1.0, "Classifier-free guidance of sample grids and evaluation; 1 is none.", on_resume=FREE, least=0
    )
    clip_sample: bool = flag(
        True, "Clip the estimate of x_0 to [-1, 1] in sampling; off for data outside.", on_resume=FREE
    )

    # objective
    variance_type: TrainedVarianceType = flag(
        "fixed_small",
        "Variance of the reverse steps; learned_range doubles the output channels and adds the bound.",
    )
    vlb_weight: float = flag(
        0.001,
        "Weight of the variational bound that trains learned variances.",
        on_resume=ALLOWED,
        least=0,
        used_with=Only("variance_type", ("learned_range",)),
    )
    label_dropout: float = flag(
        0.0,
        "Probability of training without the label, for classifier-free guidance; 0.1 is usual.",
        least=0,
        most=1,
    )
    timestep_sampling: TimestepSampling = flag("uniform", "How training timesteps are drawn.")
    loss_weighting: LossWeighting = flag(
        "none", "Weight of the squared error over timesteps.", on_resume=ALLOWED
    )
    snr_gamma: float = flag(
        5.0,
        "Cap on the signal-to-noise ratio of min_snr.",
        on_resume=ALLOWED,
        above=0,
        used_with=Only("loss_weighting", ("min_snr",)),
    )

    # optimisation
    train_batch_size: int = flag(16, "Samples in a batch of one process.", on_resume=ALLOWED, least=1)
    gradient_accumulation_steps: int = flag(1, "Batches of one optimizer update.", on_resume=ALLOWED, least=1)
    num_epochs: int = flag(
        100,
        "Passes over the data.",
        on_resume=ALLOWED,
        least=1,
        used_with=Only("max_train_steps", (None,)),
        replaces=("max_train_steps",),
    )
    max_train_steps: int | None = flag(
        None, "Optimizer updates; wins over --num_epochs.", on_resume=ALLOWED, least=1
    )
    optimizer: OptimizerName = flag("adamw", "muon: Muon for matrices and kernels, AdamW for the rest.")
    learning_rate: float = flag(1e-4, "Peak learning rate of AdamW.", on_resume=ALLOWED, above=0)
    muon_learning_rate: float = flag(
        0.01,
        "Peak learning rate of Muon.",
        on_resume=ALLOWED,
        above=0,
        used_with=Only("optimizer", ("muon",)),
    )
    lr_scheduler: LearningRateCourse = flag(
        "cosine", "Course of the learning rate, counted in optimizer updates.", on_resume=ALLOWED
    )
    lr_warmup_steps: int = flag(
        500,
        "Optimizer updates of linear warm-up.",
        on_resume=ALLOWED,
        least=0,
        used_with=Only("lr_scheduler", unless=("constant",)),
    )
    adam_beta1: float = flag(0.95, "First beta of AdamW.", on_resume=ALLOWED, least=0, below=1)
    adam_beta2: float = flag(0.999, "Second beta of AdamW.", on_resume=ALLOWED, least=0, below=1)
    adam_weight_decay: float = flag(1e-6, "Weight decay of AdamW.", on_resume=ALLOWED, least=0)
    adam_epsilon: float = flag(1e-8, "Epsilon of AdamW.", on_resume=ALLOWED, above=0)
    max_grad_norm: float = flag(
        1.0, "Largest norm of the gradient; larger ones are scaled down.", on_resume=ALLOWED, above=0
    )
    use_ema: bool = flag(
        False, "Keep an average of the weights and export it; the raw weights are kept beside it."
    )
    ema_inv_gamma: float = flag(
        1.0, "g in the decay 1 - (1 + step/g)^-p.", on_resume=ALLOWED, above=0, used_with=Only("use_ema")
    )
    ema_power: float = flag(
        0.75,
        "p in the decay 1 - (1 + step/g)^-p; 2/3 to 1 suits most runs.",
        on_resume=ALLOWED,
        above=0,
        used_with=Only("use_ema"),
    )
    ema_max_decay: float = flag(
        0.9999,
        "Largest decay of the average.",
        on_resume=ALLOWED,
        least=0,
        below=1,
        used_with=Only("use_ema"),
    )
    mixed_precision: MixedPrecision | None = flag(
        None,
        "Precision of the network, the rest is float32; the launcher's, or no, if not given.",
        on_resume=ALLOWED,
    )
    max_nonfinite_steps: int = flag(
        10,
        "Updates in a row whose loss or gradient is not finite after which the run stops.",
        on_resume=FREE,
        least=1,
    )

    # the run
    deterministic: bool = flag(
        False,
        "Use deterministic kernels on a GPU, for equal weights from equal commands; slower.",
        on_resume=FREE,
    )
    output_dir: str = flag(
        "ddpm-model-64",
        "Folder for the pipeline, checkpoints, samples and logs.",
        on_resume=FREE,
        is_path=True,
    )
    overwrite_output_dir: bool = flag(
        False,
        "Start anew in a folder that holds an earlier run; files of others stay.",
        on_resume=FREE,
        used_with=Only("resume_from_checkpoint", (None,)),
    )
    logger: LoggerName = flag(
        "jsonl", "Where to log besides logs/metrics.jsonl, which is always written.", on_resume=FREE
    )
    logging_dir: str = flag("logs", "Folder for logs, inside the output folder.", on_resume=FREE)
    logging_steps: int = flag(10, "Optimizer updates between two log lines.", on_resume=FREE, least=1)
    save_images_epochs: int = flag(
        10,
        "Epochs between two sample grids; for a stream, a grid at each checkpoint.",
        on_resume=FREE,
        least=1,
        used_with=(Only("streaming", (False,)), Only("save_images_steps", (None,))),
    )
    save_images_steps: int | None = flag(
        None,
        "Optimizer updates between two sample grids, in place of --save_images_epochs.",
        on_resume=FREE,
        least=1,
    )
    save_model_epochs: int = flag(
        10,
        "Epochs between two exports of the pipeline; for a stream, one at each checkpoint.",
        on_resume=FREE,
        least=1,
        used_with=Only("streaming", (False,)),
    )
    eval_batch_size: int = flag(16, "Images of a sample grid.", on_resume=FREE, least=1)
    checkpointing_steps: int = flag(
        500, "Optimizer updates between two checkpoints.", on_resume=FREE, least=1
    )
    checkpoints_total_limit: int | None = flag(
        None, "Checkpoints to keep; all if not given.", on_resume=FREE, least=1
    )
    resume_from_checkpoint: str | None = flag(
        None, "A checkpoint folder, or 'latest' in the output folder.", on_resume=FREE, is_path=True
    )
    allow_recipe_change: bool = flag(
        False,
        "Resume with other settings, processes or data than the checkpoint's, if safe.",
        on_resume=FREE,
    )
    evaluation_samples: int = flag(
        0,
        "Samples to generate at the end and compare with held-out data, or with the training data.",
        on_resume=FREE,
        least=0,
    )
    calibrate: bool = flag(
        False,
        "At the end, find the timesteps and the noise of 5, 10 and 20 steps that are best for this network.",
        on_resume=FREE,
    )
    calibration_samples: int = flag(
        250,
        "Samples that --calibrate judges a candidate by; the best by up to 32 times as many.",
        on_resume=FREE,
        least=2,
        used_with=Only("calibrate"),
    )
    evaluation_features: str = flag(
        "auto",
        "What to compare them on: auto, pixels, digit_classifier, inception, or a transformers vision model.",
        on_resume=FREE,
        is_path=True,
        used_with=Only("evaluation_samples"),
    )

    # publishing
    push_to_hub: bool = flag(False, "Upload the finished pipeline to the Hub.", on_resume=FREE)
    hub_model_id: str | None = flag(
        None, "Repository to upload to; the output folder's name if not given.", on_resume=FREE
    )
    hub_push_exports: PublishedExports = flag(
        "no",
        "Upload each export of --save_model_epochs, too, to a branch or under a tag named step-<update>.",
        on_resume=FREE,
    )
    hub_private_repo: bool = flag(
        False, "Create the repository private.", on_resume=FREE, used_with=Only("push_to_hub")
    )
    hub_token: str | None = flag(
        None,
        "Token of the Hub; better stored with 'hf auth login'.",
        on_resume=FREE,
        used_with=Only("push_to_hub"),
    )
    license: str = flag(
        "apache-2.0",
        "Licence of the trained weights, for the model card, as the Hub spells it.",
        on_resume=FREE,
    )

    # accepted for scripts that were written for the stock one
    enable_xformers_memory_efficient_attention: bool = flag(
        False,
        "Ignored: PyTorch's own attention is as economical.",
        on_resume=FREE,
        used_with="PyTorch's own attention is as economical",
    )
    local_rank: int = flag(
        -1,
        "Ignored: the launcher sets the rank in the environment.",
        on_resume=FREE,
        used_with="the launcher sets the rank in the environment",
    )
    preserve_input_precision: bool = flag(
        False,
        "Ignored: pictures of 16 bits and more are read as fine as they are.",
        on_resume=FREE,
        used_with="pictures of 16 bits and more are read as fine as they are",
    )

    def __post_init__(self) -> None:
        """Raise ConfigError for a setting outside its range, or settings that do not go together."""
        super().__post_init__()
        if self.label_dropout and self.label_column is None:
            raise ConfigError(
                f"--label_dropout is {self.label_dropout}, but needs labels: give --label_column."
            )
        if self.guidance_scale != 1 and not self.label_dropout:
            raise ConfigError(
                f"--guidance_scale is {self.guidance_scale}, but needs a network that was trained with "
                "--label_dropout."
            )
        if self.init_variant is not None and self.init_from is None:
            raise ConfigError("--init_variant applies to --init_from only.")
        self._check_start_survives()
        if self.init_from is None:
            self.check_process()  # else when what is not given is known
        if self.streaming and self.max_train_steps is None:
            raise ConfigError("--streaming needs --max_train_steps: the length of a stream is not known.")
        if self.allow_recipe_change and not self.resume_from_checkpoint:
            raise ConfigError("--allow_recipe_change applies to --resume_from_checkpoint only.")
        if self.evaluation_samples and self.streaming:
            raise ConfigError(
                "--evaluation_samples cannot be had with --streaming: use training/evaluate.py."
            )
        if self.calibrate and self.streaming:
            raise ConfigError("--calibrate cannot be had with --streaming: use training/calibrate.py.")
        if 0 < self.evaluation_samples < 4:
            raise ConfigError(
                f"--evaluation_samples is {self.evaluation_samples}, but must be 0 or at least 4."
            )
        if (
            self.logging_dir in _TAKEN_NAMES
            or self.logging_dir != Path(self.logging_dir).name
            or (self.logging_dir.startswith("checkpoint-"))
        ):
            raise ConfigError(
                f"--logging_dir is {self.logging_dir!r}, but must be one name inside --output_dir that "
                "nothing else has there."
            )
        if self.hub_push_exports != "no" and not self.push_to_hub:
            raise ConfigError("--hub_push_exports applies to --push_to_hub only.")

    def check_process(self) -> None:
        """Raise ConfigError for settings of the process that do not go together."""
        steps = self.ddpm_num_inference_steps
        if steps is not None and steps > self.ddpm_num_steps:
            raise ConfigError(
                f"--ddpm_num_inference_steps is {steps}, but must be at most --ddpm_num_steps, which is "
                f"{self.ddpm_num_steps}."
            )
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            raise ConfigError(
                "--rescale_betas_zero_snr leaves no signal at T, where epsilon says nothing about x_0: use "
                "--prediction_type v_prediction or sample with it."
            )

    def _check_start_survives(self) -> None:
        """Raise ConfigError if --overwrite_output_dir would delete the weights to start from."""
        if self.init_from is None or not self.overwrite_output_dir or not Path(self.init_from).exists():
            return
        source, output = Path(self.init_from).resolve(), Path(self.output_dir).resolve()
        if source == output or output in source.parents:
            raise ConfigError(
                f"--init_from is {self.init_from!r}, which --overwrite_output_dir would delete: give another "
                "--output_dir."
            )

    def is_given(self, name: str) -> bool:
        """Return whether a command line or its file gave a setting; else, whether it is not the default."""
        given: Collection[str] | None = vars(self).get(GIVEN)
        return getattr(self, name) != _DEFAULTS[name] if given is None else name in given

    def recipe(self) -> dict[str, Any]:
        """Return the settings that decide the weights: all that a resumed run may not change freely."""
        settings = {name: getattr(self, name) for name, rule in ON_RESUME.items() if rule != FREE}
        is_here = self.train_data_dir is not None or Path(self.dataset_name or "").exists()
        # Of files here no split means all, which "train" does not.
        return settings | {"dataset_split": self.dataset_split or (None if is_here else "train")}


_DEFAULTS: dict[str, Any] = {item.name: item.default for item in fields(TrainingConfig)}
# Setting -> what a resumed run may do with it.
ON_RESUME: dict[str, str] = {item.name: item.metadata["on_resume"] for item in fields(TrainingConfig)}


def parse_config(argv: Sequence[str] | None = None) -> TrainingConfig:
    """Return the configuration of a command line; print one line and exit with status 2 if it cannot be used.

    Args:
        argv: the flags; those of this process if not given.
    """
    return parse_settings(TrainingConfig, "train.py", "Train a diffusion model.", argv)
