"""Print what becomes of every diffusers scheduler's configuration: `python tests/claims/configurations.py`.

Each is given to `from_config` of both schedulers of this package, as a stored file has it. Followed means
measured: the same alpha-bar as that scheduler has, what its network predicts, and clipping if it clips.
tests/claims/test_configurations.py asserts it, and that docs/differences.md has what is printed here.
"""

import ast
import functools
import importlib
import inspect
import pkgutil
import re
import warnings
from pathlib import Path
from typing import Any

import diffusers.schedulers
import torch
from diffusers.configuration_utils import ConfigMixin

from ddpm_from_scratch import DDPMFromScratchScheduler, SchedulerWarning

# For settings without a default.
REQUIRED = {"mask_token_id": 5, "num_vec_classes": 4}
# Settings that are not the defaults, and change the process or seem to.
CHANGED: list[tuple[str, dict[str, Any]]] = [
    ("DDPMScheduler", {"predict_epsilon": False}),
    ("DDPMScheduler", {"predict_epsilon": False, "prediction_type": "v_prediction"}),
    ("DDPMScheduler", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}),
    ("DDPMScheduler", {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"}),
    ("DDPMScheduler", {"beta_schedule": "exp"}),
    ("DDPMScheduler", {"variance_type": "learned_range", "thresholding": True, "sample_max_value": 1.5}),
    ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    ("PNDMScheduler", {"num_train_timesteps": 2, "trained_betas": [0.1, 0.9999]}),
    ("HeunDiscreteScheduler", {"clip_sample": True}),
    ("UnCLIPScheduler", {"prediction_type": "sample", "clip_sample_range": 5.0}),
    ("CogVideoXDDIMScheduler", {"snr_shift_scale": 1.0}),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    ("LMSDiscreteScheduler", {"use_exponential_sigmas": True}),
    ("UniPCMultistepScheduler", {"use_beta_sigmas": True, "sigma_min": 0.1, "sigma_max": 80.0}),
    ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True, "final_sigmas_type": "sigma_min"}),
    ("EulerDiscreteScheduler", {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}),
    ("EulerDiscreteScheduler", {"timestep_type": "continuous", "prediction_type": "v_prediction"}),
    ("DEISMultistepScheduler", {"use_flow_sigmas": True}),
    ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}),
    ("SASolverScheduler", {"use_flow_sigmas": True}),
    ("UniPCMultistepScheduler", {"prediction_type": "flow_prediction"}),
]


def _parsed(path: Path) -> dict[str, dict[str, Any]]:
    """Return the schedulers of a module that needs what is not installed, by name, with their defaults."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef) and any("ConfigMixin" in ast.unparse(base) for base in node.bases):
            init = next(f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__")
            names = [argument.arg for argument in init.args.args][1:]
            values = [ast.literal_eval(default) for default in init.args.defaults]
            found[node.name] = dict(zip(names, values, strict=True))
    return found


@functools.cache
def every_scheduler() -> dict[str, dict[str, Any]]:
    """Return each scheduler class of the installed diffusers, by name, with its defaults."""
    found: dict[str, dict[str, Any]] = {}
    for module in pkgutil.walk_packages(diffusers.schedulers.__path__, "diffusers.schedulers."):
        if module.ispkg:
            continue
        try:
            members = vars(importlib.import_module(module.name)).values()
        except ImportError:
            found |= _parsed(Path(module.module_finder.path, module.name.rsplit(".", 1)[1] + ".py"))
            continue
        for kind in members:
            if isinstance(kind, type) and issubclass(kind, ConfigMixin) and kind.__module__ == module.name:
                found[kind.__name__] = _defaults(kind)
    return dict(sorted(found.items()))


def _defaults(kind: type) -> dict[str, Any]:
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    return {
        parameter.name: REQUIRED.get(parameter.name, 1)
        if parameter.default is parameter.empty
        else parameter.default
        for parameter in parameters
        if parameter.kind is not parameter.VAR_KEYWORD
    }


def class_of(name: str) -> type | None:
    """Return a scheduler class of diffusers that can be made here."""
    kind = getattr(diffusers, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, ConfigMixin) else None


def outcome(config: dict[str, Any], ours: type = DDPMFromScratchScheduler, source: Any = None) -> str:
    """Return what becomes of a configuration, in a few words.

    Args:
        config: of another scheduler.
        ours: the class that gets it.
        source: that scheduler; its alpha-bar must be ours then.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SchedulerWarning)
        try:
            scheduler = ours.from_config(config)
        except (ValueError, NotImplementedError) as error:
            process = re.search(r"of another process(?: \((.*?)\))?", str(error))
            if process is None:
                return f"refused: {str(error).split(',')[0]}"
            return f"refused: another process{f', {process[1]}' if process[1] else ''}"
    if source is not None:
        # Where the signal ends, some have a guard of their own.
        ends = slice(None, -1 if scheduler.config.rescale_betas_zero_snr else None)
        torch.testing.assert_close(
            scheduler.alphas_cumprod[ends], source.alphas_cumprod[ends].float(), rtol=1e-3, atol=1e-7
        )
    limit = scheduler.config.clip_sample_range
    words = ["followed", scheduler.config.prediction_type]
    if scheduler.config.thresholding:
        words.append("thresholded")
    else:
        words.append(f"clipped to {limit:g}" if scheduler.config.clip_sample else "not clipped")
    said = [re.search(r"does not follow (.*?): it", str(warning.message)) for warning in caught]
    words += [f"warns that {match[1]} is not followed" for match in said if match]
    return ", ".join(words)


def stored(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration as a file has it; those with predict_epsilon are older than prediction_type."""
    config = {"_class_name": name, **every_scheduler()[name]}
    if "predict_epsilon" in settings:
        config.pop("prediction_type")
    return config | settings


def markdown() -> str:
    """Return the two tables of docs/differences.md."""
    by_outcome: dict[str, list[str]] = {}
    for name in every_scheduler():
        by_outcome.setdefault(outcome(stored(name, {})), []).append(f"`{name}`")
    lines = ["| with its defaults | configurations of |", "|---|---|"]
    lines += [f"| {words} | {', '.join(names)} |" for words, names in sorted(by_outcome.items())]
    lines += ["", "| configuration of | with | becomes |", "|---|---|---|"]
    for name, settings in CHANGED:
        given = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        lines.append(f"| `{name}` | `{given}` | {outcome(stored(name, settings))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
