"""Every word that a setting may be, in one place.

Nothing is imported here, so that a command line knows the words, and refuses others, before torch loads. A
`Literal` is for the type of a setting; the tuple beside it has the same words, for checks and messages.
"""

from typing import Literal, get_args

# What a network predicts; diffusers' words.
PredictionType = Literal["epsilon", "sample", "v_prediction"]
PREDICTION_TYPES: tuple[str, ...] = get_args(PredictionType)
# The word people often say -> the word that diffusers uses for it.
PREDICTION_HINTS = {
    "x0": "A network that predicts x_0 has prediction_type 'sample' in diffusers.",
    "x_0": "A network that predicts x_0 has prediction_type 'sample' in diffusers.",
    "original": "A network that predicts x_0 has prediction_type 'sample' in diffusers.",
    "v": "A network that predicts v has prediction_type 'v_prediction' in diffusers.",
    "velocity": "A network that predicts v has prediction_type 'v_prediction' in diffusers.",
    "eps": "A network that predicts the noise has prediction_type 'epsilon' in diffusers.",
    "noise": "A network that predicts the noise has prediction_type 'epsilon' in diffusers.",
    "flow_prediction": "A network of flow matching is of another process; keep its own scheduler.",
    "trigflow": "A network of a consistency model (TrigFlow) is of another process; keep its own scheduler.",
}

# Noise schedules; diffusers' words, and this package's own.
BetaSchedule = Literal[
    "linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "sigmoid_alpha_bar", "laplace"
]
BETA_SCHEDULES: tuple[str, ...] = get_args(BetaSchedule)
BETA_SCHEDULE_HINTS = {
    "cosine": "The cosine schedule of Nichol & Dhariwal (2021) is called 'squaredcos_cap_v2' in diffusers.",
    "jabri": "The sigmoid schedule of Jabri et al. (2022) is called 'sigmoid_alpha_bar' here.",
    "quad": "Betas that are linear in their square root are called 'scaled_linear' in diffusers.",
}

# Variances of the reverse steps; those that training prepares a network for, and all that sampling takes.
TrainedVarianceType = Literal["fixed_small", "fixed_large", "learned_range"]
ANALYTIC = "analytic"
LEARNED_VARIANCE_TYPES = ("learned", "learned_range")
VARIANCE_TYPES = (
    "fixed_small",
    "fixed_small_log",
    "fixed_large",
    "fixed_large_log",
    *LEARNED_VARIANCE_TYPES,
    ANALYTIC,
)

# Which timesteps sampling visits.
TIMESTEP_SPACINGS = ("linspace", "leading", "trailing")

# How training timesteps are drawn, and the weight of the loss over them.
TimestepSampling = Literal["uniform", "stratified", "loss_aware"]
LossWeighting = Literal["none", "min_snr"]
LOSS_WEIGHTINGS: tuple[str, ...] = get_args(LossWeighting)

# Weights of other code bases: their noise schedules, in their words, and which of two sets to take.
ForeignSchedule = Literal["linear", "cosine"]
ForeignWeights = Literal["average", "raw"]

# What a pipeline returns images as, and how one is saved (see hub/layouts.py).
OUTPUT_TYPES = ("pil", "np", "pt")
LAYOUTS = ("portable", "remote-code")

# How the divergence of the probability flow is computed.
DIVERGENCES = ("exact", "hutchinson")

# Data that need no files: scikit-learn's digits, and points drawn from formulas (see data/points.py).
POINT_DATASET_NAMES = ("swiss_roll", "spiral", "two_moons", "checkerboard", "eight_gaussians", "pinwheel")
BUILT_IN_DATASETS = ("digits", *POINT_DATASET_NAMES)

# What samples are compared on.
BUILT_IN_FEATURES = ("pixels", "coordinates", "digit_classifier", "inception")
# Small, self-supervised, and agrees with people better than Inception does (Stein et al. 2023,
# arXiv:2306.04675).
DEFAULT_VISION_MODEL = "facebook/dinov2-small"

# The samplers of this package, by short names; the numbers of steps that calibration finds settings for.
SamplerName = Literal["few_step", "ddpm"]
SAMPLER_NAMES: tuple[str, ...] = get_args(SamplerName)
DEFAULT_NUM_STEPS = (5, 10, 20)

# The run: optimizer, course of its learning rate, precision of the network, log, what is published when.
OptimizerName = Literal["adamw", "muon"]
LearningRateCourse = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"
]
MixedPrecision = Literal["no", "fp16", "bf16"]
MIXED_PRECISIONS: tuple[str, ...] = get_args(MixedPrecision)
LoggerName = Literal["jsonl", "tensorboard", "wandb", "trackio"]
PublishedExports = Literal["no", "branch", "tag"]
