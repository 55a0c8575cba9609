"""The settings of the scheduler: what is allowed, what is suspicious, and what stock can express."""

import functools
import inspect
import math
import reprlib
from collections.abc import Callable, Mapping, Set
from typing import Any

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

from .. import checks
from ..process.noise_schedules import (
    alphas_cumprod_from_betas,
    betas_for_schedule,
    given_betas,
    rescale_zero_terminal_snr,
)
from ..words import (
    ANALYTIC,
    LEARNED_VARIANCE_TYPES,
    PREDICTION_HINTS,
    PREDICTION_TYPES,
    TIMESTEP_SPACINGS,
    VARIANCE_TYPES,
)
from .few_step_profile import FewStepPlan

_BETA_RANGE_KEYS = ("beta_start", "beta_end", "scale_betas_by_length")
_SIGMOID_KEYS = ("sigmoid_start", "sigmoid_end", "sigmoid_tau")

# Schedule -> the settings that shape it.
SHAPE_KEYS: dict[str, tuple[str, ...]] = {
    "linear": _BETA_RANGE_KEYS,
    "scaled_linear": _BETA_RANGE_KEYS,
    "sigmoid": _BETA_RANGE_KEYS,
    "squaredcos_cap_v2": ("cosine_s", "max_beta"),
    "sigmoid_alpha_bar": (*_SIGMOID_KEYS, "max_beta"),
    "laplace": ("max_beta",),
}
_SHAPE_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(betas_for_schedule).parameters.items()
    if parameter.default is not parameter.empty
}

# Schedules that DDPMScheduler computes right (diffusers 0.42.1).
_STOCK_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
# Those that DPMSolverMultistepScheduler knows.
_SOLVER_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")

# Setting -> its smallest and largest value; those of `_INSIDE` must lie between.
_REAL_SETTINGS: dict[str, tuple[float, float]] = {
    "clip_sample_range": (0, math.inf),
    "sample_max_value": (1, math.inf),
    "dynamic_thresholding_ratio": (0, 1),
    "cosine_s": (0, 1),
    "max_beta": (0, 1),
    "beta_start": (0, 1),
    "beta_end": (0, 1),
    "sigmoid_start": (-100, 100),
    "sigmoid_end": (-100, 100),
    "sigmoid_tau": (0.01, 1e6),
}
_INSIDE = ("max_beta", "beta_start", "beta_end")

# No schedule needs more, and its tables are allocated.
MAX_TRAIN_TIMESTEPS = 1_000_000

# With more signal than this at the last timestep, sampling does not start from what the network was trained
# on.
_LARGEST_FINAL_ALPHA_BAR = 0.01


# What `load_config` of diffusers takes to find a configuration. It takes these and keeps silent about others.
LOADING_OPTIONS = (
    "pretrained_model_name_or_path", "return_commit_hash", "cache_dir", "local_dir", "local_dir_use_symlinks",
    "force_download", "proxies", "token", "local_files_only", "revision", "mirror", "subfolder", "user_agent",
)  # fmt: skip


def settings_named(init: Callable[..., None]) -> Callable[..., None]:
    """Return a constructor that answers an unknown keyword with a TypeError and the nearest setting."""
    settings = inspect.signature(init).parameters.keys() - {"self"}

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **options: Any) -> None:
        check_keywords(type(self).__name__, options, settings)
        init(self, *args, **options)

    return checked


def check_keywords(name: str, options: Mapping[str, Any], settings: Set[str]) -> None:
    """Raise TypeError for a keyword that is no setting, with the nearest one."""
    # A configuration keeps its own notes under names with an underscore: Scheduler(**scheduler.config) works.
    checks.keywords(name, [option for option in options if not option.startswith("_")], settings)


def checked_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that had to be normalised, after checking all of them.

    Raises:
        TypeError, ValueError: a setting that is not allowed, with what is.
    """
    num_train_timesteps = checks.integer(
        "num_train_timesteps", config["num_train_timesteps"], 1, MAX_TRAIN_TIMESTEPS
    )
    settings: dict[str, Any] = {"num_train_timesteps": num_train_timesteps}
    if "steps_offset" in config:
        settings["steps_offset"] = checks.integer(
            "steps_offset", config["steps_offset"], 0, num_train_timesteps - 1
        )
    settings |= {
        name: checks.real(name, config[name], *bounds, exclusive=name in _INSIDE)
        for name, bounds in _REAL_SETTINGS.items()
    }
    if not settings["sigmoid_start"] < settings["sigmoid_end"]:
        raise ValueError(
            f"sigmoid_start is {settings['sigmoid_start']:g} and sigmoid_end {settings['sigmoid_end']:g}, "
            "but the start must be below the end."
        )
    flags = ("clip_sample", "thresholding", "rescale_betas_zero_snr", "scale_betas_by_length")
    settings |= {name: checks.flag(name, config[name]) for name in flags}
    # Stored configurations of diffusers' DPM solvers have None, which DDPMScheduler takes as this.
    settings["variance_type"] = "fixed_small" if config["variance_type"] is None else config["variance_type"]
    checks.choice("variance_type", settings["variance_type"], VARIANCE_TYPES)
    if "residuals" in config:
        _check_residuals(config["residuals"], settings["variance_type"], num_train_timesteps)
    if "timestep_spacing" in config:
        checks.choice("timestep_spacing", config["timestep_spacing"], TIMESTEP_SPACINGS)
    checks.choice("prediction_type", config["prediction_type"], PREDICTION_TYPES, PREDICTION_HINTS)
    trained_betas = config["trained_betas"]
    if trained_betas is not None:
        given_betas(trained_betas, num_train_timesteps)
    if isinstance(trained_betas, torch.Tensor):
        settings["trained_betas"] = trained_betas.tolist()
    return {name: value for name, value in settings.items() if not _same(value, config[name])}


def _check_residuals(residuals: Any, variance_type: str, num_train_timesteps: int) -> None:
    if residuals is None and variance_type != ANALYTIC:
        return
    is_list = isinstance(residuals, (list, tuple)) and len(residuals) == num_train_timesteps
    if not is_list or not all(checks.real("a residual", value, 0, math.inf) > 0 for value in residuals):
        raise ValueError(
            f"variance_type is {variance_type!r} and residuals {reprlib.repr(residuals)}, but they must be "
            f"{num_train_timesteps} positive numbers, one for each timestep, which 'analytic' needs: give "
            "residual_curve(...).tolist()."
        )


def _same(checked: Any, given: Any) -> bool:
    return type(checked) is type(given) and checked == given


def betas_from_settings(config: Mapping[str, Any]) -> torch.Tensor:
    """Return the betas that checked settings mean, float32, shape (T,), before any zero-SNR rescaling.

    Raises:
        NotImplementedError: unknown beta_schedule.
        ValueError, TypeError: betas outside (0, 1), or trained_betas that are not T of them.
    """
    num_train_timesteps, beta_schedule = config["num_train_timesteps"], config["beta_schedule"]
    if config["trained_betas"] is not None:
        return given_betas(config["trained_betas"], num_train_timesteps)
    shape = {key: config[key] for key in _SHAPE_DEFAULTS}
    try:
        betas = betas_for_schedule(beta_schedule, num_train_timesteps, **shape)
    except ArithmeticError:  # numbers so extreme that alpha-bar is 0 or constant in floating point
        betas = torch.full((1,), math.nan)
    if not bool(((betas > 0) & (betas < 1)).all()):
        used = ", ".join(f"{key}={config[key]}" for key in SHAPE_KEYS[beta_schedule])
        raise ValueError(
            f"beta_schedule {beta_schedule!r} with num_train_timesteps={num_train_timesteps}, {used} gives "
            f"betas from {betas.min():g} to {betas.max():g}, but every beta must be inside (0, 1)."
        )
    return betas


def schedule_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the tables depend on, in a form that can be compared."""
    # The prediction type decides about the guard of a last timestep without signal.
    names = (
        "num_train_timesteps",
        "beta_schedule",
        "rescale_betas_zero_snr",
        "prediction_type",
        *_SHAPE_DEFAULTS,
    )
    given = config["trained_betas"]
    return {name: config[name] for name in names} | {"trained_betas": None if given is None else tuple(given)}


def tables_from_settings(config: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the betas and alpha-bar that checked settings mean, each float32, shape (T,).

    Raises:
        NotImplementedError, ValueError, TypeError: as in `betas_from_settings`, or a beta that is 0 in
            float32, or zero terminal SNR where alpha-bar underflows before.
    """
    betas = betas_from_settings(config)
    if config["rescale_betas_zero_snr"]:
        betas = rescale_zero_terminal_snr(betas)
    alphas_cumprod = alphas_cumprod_from_betas(betas)
    levels = torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod])
    falls = levels[1:] < levels[:-1]
    falls[:-1] &= alphas_cumprod[:-1] > 0
    if not bool(falls.all()):
        place = int((~falls).nonzero()[0])
        if levels[place] > torch.finfo(torch.float32).tiny:
            raise ValueError(
                f"beta is {betas[place]:g} at timestep {place}, but in float32 that adds no noise at all: "
                "every beta must be at least 1e-7."
            )
        small = f"alpha-bar is too small for float32 from timestep {place} of {len(betas)} on"
        if config["rescale_betas_zero_snr"]:
            raise ValueError(
                f"{small}, but with rescale_betas_zero_snr only the last timestep may have no signal. Use "
                "smaller betas or fewer timesteps."
            )
        checks.warn(
            f"{small}: these timesteps are noise, and their alpha-bar is set to values that go on falling. "
            "Use smaller betas or fewer timesteps."
        )
        alphas_cumprod = _falling_on(alphas_cumprod)
    return betas, alphas_cumprod


def _falling_on(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """Return alpha-bar with another end where there is no signal: it falls from 2^-100 to 2^-120.

    There x_t is the noise itself in every precision, and a step only has to keep it so, which it does for any
    alpha-bar that falls. All that is above stays.
    """
    first = int((alphas_cumprod >= 2.0**-100).sum())
    tail = 2.0 ** torch.linspace(-100, -120, len(alphas_cumprod) - first + 1, dtype=torch.float64)[1:]
    return torch.cat([alphas_cumprod[:first], tail.to(alphas_cumprod.dtype)])


def check_alphas_cumprod(alphas_cumprod: Any, num_train_timesteps: int) -> None:
    """Check alpha-bar, which code outside may have assigned.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: not T numbers between 0 and 1; only the last may be 0.
    """
    must = f"must be a float tensor of shape ({num_train_timesteps},), above 0 and below 1"
    if not isinstance(alphas_cumprod, torch.Tensor) or not alphas_cumprod.is_floating_point():
        raise TypeError(f"alphas_cumprod was assigned {reprlib.repr(alphas_cumprod)}, but {must}.")
    if alphas_cumprod.shape != (num_train_timesteps,):
        raise ValueError(f"alphas_cumprod was assigned shape {tuple(alphas_cumprod.shape)}, but {must}.")
    allowed = (alphas_cumprod > 0) & (alphas_cumprod < 1)
    allowed[-1] |= alphas_cumprod[-1] == 0
    if not bool(allowed.all()):
        place = int((~allowed).nonzero()[0])
        raise ValueError(
            f"alphas_cumprod was assigned {alphas_cumprod[place]:.9g} for timestep {place}, but {must}."
        )


def warn_about(config: Mapping[str, Any], alphas_cumprod: torch.Tensor) -> None:
    """Warn about settings that are allowed, because DDPMScheduler allows them, but probably not meant."""
    used = SHAPE_KEYS[config["beta_schedule"]] if config["trained_betas"] is None else ()
    unused = [key for key, default in _SHAPE_DEFAULTS.items() if key not in used and config[key] != default]
    if used and unused:
        checks.warn(
            f"beta_schedule {config['beta_schedule']!r} does not use {', '.join(unused)}; leave them out, or "
            "choose another schedule."
        )
    if "beta_start" in used and config["beta_start"] > config["beta_end"]:
        checks.warn(
            f"beta_start {config['beta_start']:g} is larger than beta_end {config['beta_end']:g}: most noise "
            "is added first. Swap them if that is not meant."
        )
    final = float(alphas_cumprod[-1])
    if final > _LARGEST_FINAL_ALPHA_BAR:
        checks.warn(
            f"alpha-bar is {final:.3g} at the last of {len(alphas_cumprod)} timesteps: signal is left where "
            "sampling starts from pure noise. Use larger betas (scale_betas_by_length=True does it for any "
            "number of timesteps), more timesteps, or rescale_betas_zero_snr=True with v_prediction."
        )
    if config["clip_sample"] and not config["thresholding"] and config["clip_sample_range"] == 0:
        checks.warn("clip_sample_range is 0: every estimate of x_0 becomes 0. Use 1.0 for images in [-1, 1].")
    if config["thresholding"] and config["sample_max_value"] == 1:
        checks.warn(
            "thresholding with sample_max_value=1.0 equals plain clipping to [-1, 1]. Set sample_max_value "
            "larger."
        )


def stock_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with which stock DDPMScheduler has the same betas and samples the same.

    A schedule that stock lacks goes out as `trained_betas`.

    Args:
        config: checked settings of one of this package's schedulers.

    Raises:
        ValueError: stock cannot express it; the message says what would be lost.
    """
    variance_type = config["variance_type"]
    if variance_type == "learned":
        raise ValueError(
            "variance_type 'learned' has no counterpart in diffusers: DDPMScheduler takes the square root of "
            "the network's log-variance, so the learned variances are lost (nan). Train with "
            "'learned_range', or choose a fixed variance_type."
        )
    if variance_type == ANALYTIC and "residuals" in config:
        raise ValueError(
            "variance_type 'analytic' has no counterpart in diffusers, so the measured variances are lost. "
            "Choose a fixed variance_type."
        )
    alphas_cumprod = _refuse_underflow(config)
    if alphas_cumprod[-1] == 0 and config["prediction_type"] == "epsilon":
        raise ValueError(
            "zero terminal SNR with prediction_type 'epsilon' has no counterpart in diffusers: DDPMScheduler "
            "divides by alpha-bar = 0 at the first step, so the start of the chain is lost (inf). Use "
            "'v_prediction'."
        )
    stock = _with_betas(config, DDPMScheduler, _STOCK_SCHEDULES)
    # The same standard deviation; DDPMScheduler takes the square root of a logarithm there (nan).
    same = {"fixed_large_log": "fixed_large", ANALYTIC: "fixed_small"}  # few steps have their own noise
    stock["variance_type"] = same.get(variance_type, variance_type)
    return stock


def _refuse_underflow(config: Mapping[str, Any]) -> torch.Tensor:
    """Return alpha-bar; raise ValueError where it is not that of the betas, because it underflows."""
    betas, alphas_cumprod = tables_from_settings(config)
    if not torch.equal(alphas_cumprod, alphas_cumprod_from_betas(betas)):
        raise ValueError(
            "alpha-bar is too small for float32 at the last timesteps, which has no counterpart in "
            "diffusers: it divides by 0 there, so all samples are lost (nan). Use smaller betas."
        )
    return alphas_cumprod


def _with_betas(config: Mapping[str, Any], kind: type, schedules: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings that a scheduler of diffusers knows, with trained_betas for schedules it lacks."""
    names = list(inspect.signature(kind).parameters)
    stock = {key: config[key] for key in names if key in config}
    own_shape = [
        key for key, default in _SHAPE_DEFAULTS.items() if key not in stock and config[key] != default
    ]
    known = config["beta_schedule"] in schedules and not own_shape
    if config["trained_betas"] is not None or not known:
        stock["trained_betas"] = betas_from_settings(config).tolist()
    return stock


def dpm_solver_settings(config: Mapping[str, Any], plan: FewStepPlan) -> tuple[dict[str, Any], list[str]]:
    """Return the settings of the nearest DPMSolverMultistepScheduler, and what it does not keep, in words.

    Args:
        config: checked settings of a FewStepScheduler.
        plan: how it takes the number of steps that it takes if nobody says.

    Raises:
        ValueError: alpha-bar that underflows.
    """
    _refuse_underflow(config)
    clips, limit = config["clip_sample"] and not config["thresholding"], config["clip_sample_range"]
    solver = _with_betas(config, DPMSolverMultistepScheduler, _SOLVER_SCHEDULES) | {
        "algorithm_type": "sde-dpmsolver++" if plan.noise_level >= 0.5 else "dpmsolver++",
        "solver_type": "heun",
        "timestep_spacing": "trailing",
        # With a largest threshold of 1, dynamic thresholding is clipping to [-1, 1] for any ratio.
        "thresholding": config["thresholding"] or (clips and limit == 1),
        "variance_type": config["variance_type"]
        if config["variance_type"] in LEARNED_VARIANCE_TYPES
        else None,
    }
    if clips:
        solver["sample_max_value"] = 1.0
    lost = []
    if config["calibration"]:
        lost.append("the calibrated timesteps (give the pipeline timesteps=scheduler.timesteps_for(n))")
    if plan.noise_level not in (0, 1) or (
        plan.noise_level and (plan.noise_interval is not None or plan.noise_scale != 1)
    ):
        lost.append(f"how much noise is added, and where (now that of {solver['algorithm_type']!r})")
    if config["solver_order"] == 3:
        lost.append("the weights of third order (it has others)")
    if config["corrector_order"] > 1:
        lost.append("the corrector")
    if clips and limit != 1:
        lost.append(f"the clipping to [-{limit:g}, {limit:g}]")
    return solver, lost
