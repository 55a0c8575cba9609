"""What bad and unusual inputs do: a clear error, an obscure one, or a silent wrong result.

    python tests/claims/bad_inputs.py         counts for DDPMScheduler and DDPMFromScratchScheduler, and of
                                              folder_shapes.py and array_shapes.py (train.py) and of
                                              command_inputs.py (all commands)
    python tests/claims/bad_inputs.py --all   and one line for every case

A bad input is answered "clear" if the scheduler's own code raises a ValueError, TypeError or
NotImplementedError whose message names the argument; "obscure" is any other exception, such as one from
inside PyTorch, and "silent" is none. An unusual but right input is "right" if the result equals a float64
reference or has a stated property, otherwise "wrong", or "refused" with an exception.

DDPMScheduler gets the benefit of the doubt: any `raise` in diffusers counts as its own, a message that shows
the wrong value counts as naming the argument, and a bad setting is followed by a step, so that a late error
counts as well. Cases are not counted for it that use what only DDPMFromScratchScheduler has, or where its
silence does no harm, such as clip_sample=0.
"""

import argparse
import contextlib
import copy
import json
import pickle
import re
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import diffusers.models.unets.unet_2d
import numpy as np
import torch
from diffusers import DDPMScheduler

import array_shapes
import command_inputs
import folder_shapes
from ddpm_from_scratch import DDPMFromScratchScheduler
from ddpm_from_scratch.data.settings import DataConfig
from ddpm_from_scratch.networks.models import image_sides

BAD_OUTCOMES = ("clear", "obscure", "silent")
RIGHT_OUTCOMES = ("right", "refused", "wrong")
NAN, INF = float("nan"), float("inf")


@dataclass(frozen=True)
class Case:
    """One input.

    Args:
        name: what is done, for people.
        call: does it to a scheduler class; of a right input, it returns whether the result is right.
        argument: regular expression for what the message of a clear error must name.
        got: regular expression for how the message should show what was given.
        stock: whether the case counts for DDPMScheduler.
    """

    name: str
    call: Callable[[type], Any]
    argument: str = ""
    got: str = ""
    stock: bool = True


def raised_by_its_own_code(error: Exception, scheduler_class: type) -> bool:
    """Return whether a `raise` in the package of a scheduler gave this error, and of a kind that is meant."""
    package = sys.modules[scheduler_class.__module__.partition(".")[0]].__path__[0]
    last = traceback.extract_tb(error.__traceback__)[-1]
    return (
        isinstance(error, (ValueError, TypeError, NotImplementedError))
        and Path(last.filename).is_relative_to(package)
        and (last.line or "").startswith("raise")
    )


def bad_outcome(case: Case, scheduler_class: type) -> tuple[str, str]:
    """Return one of `BAD_OUTCOMES` and the message of the error."""
    try:
        case.call(scheduler_class)
    except Exception as error:
        named = re.search(f"{case.argument}|{case.got}", str(error))
        clear = named and raised_by_its_own_code(error, scheduler_class)
        return "clear" if clear else "obscure", f"{type(error).__name__}: {error}"
    return "silent", ""


def right_outcome(case: Case, scheduler_class: type) -> tuple[str, str]:
    """Return one of `RIGHT_OUTCOMES` and the message of an error, if there was one."""
    try:
        return ("right" if case.call(scheduler_class) else "wrong"), ""
    except Exception as error:
        return "refused", f"{type(error).__name__}: {error}"


def shown(value: Any) -> str:
    """Return a short text for a value, on one line."""
    text = re.sub(r"\s+", " ", repr(value))
    return text if len(text) <= 40 else text[:37] + "..."


def in_message(value: Any) -> str:
    """Return a regular expression for the ways in which a message can show a value."""
    forms = [repr(value)]
    if isinstance(value, str) and value:
        forms += [value]
    if isinstance(value, (int, float)):
        forms += [str(value), f"{value:g}"]
    return "|".join(map(re.escape, forms))


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return reproducible noise."""
    return torch.randn(shape, generator=seeded(seed)).to(dtype)


def seeded(seed: int = 0) -> torch.Generator:
    """Return a generator with a seed."""
    return torch.Generator().manual_seed(seed)


# Bad inputs.

IMAGES = normal(2, 3, 4, 4)
NOISE = normal(2, 3, 4, 4, seed=1)
LEARNED = {"variance_type": "learned_range"}


def use(scheduler: Any) -> None:
    """Walk one step, so that a setting that is only looked at there shows."""
    scheduler.set_timesteps(min(4, scheduler.config.num_train_timesteps))
    scheduler.step(NOISE, scheduler.timesteps[0], IMAGES)


def bad_setting(
    key: str,
    *values: Any,
    argument: str | None = None,
    got: str | None = None,
    stock: bool = True,
    **config: Any,
) -> list[Case]:
    """Return cases that give the constructor each of these values, with a `config` that is right."""
    return [
        Case(
            f"constructor: {key}={shown(value)}" + (f" with {shown(config)}" if config else ""),
            partial(lambda scheduler_class, setting: use(scheduler_class(**setting)), setting=setting),
            argument or key,
            in_message(value) if got is None else got,
            stock,
        )
        for value in values
        for setting in [{**config, key: value}]
    ]


own_setting = partial(bad_setting, stock=False)

THREE = {"num_train_timesteps": 3}
TEN = {"num_train_timesteps": 10}

SETTINGS = [
    *bad_setting("num_train_timesteps", 0, -1, 10.5, NAN, INF, "1000", None, True, [10]),
    *bad_setting("beta_start", 0, -0.1, 1, 1.5, NAN, INF, "0.1", None, True, [0.1]),
    *bad_setting("beta_start", 1e-9, argument="beta"),
    *bad_setting("beta_end", 0, -0.02, 1, 2.0, NAN, -INF, "0.02", None),
    *bad_setting(
        "beta_end",
        0.999,
        argument="beta|alpha-bar",
        got=r"from timestep \d+ of 1000",
        rescale_betas_zero_snr=True,
    ),
    *bad_setting("beta_schedule", "cosine", "quad", "Linear", "", None, 3),
    *bad_setting("trained_betas", [0.1, NAN, 0.1], got="nan at place 1", **THREE),
    *bad_setting("trained_betas", [0.1, 0.1, NAN], got="nan at place 2", **THREE),
    *bad_setting("trained_betas", [0.0, 0.1, 0.1], got="0 at place 0", **THREE),
    *bad_setting("trained_betas", [0.1, 1.0, 0.1], got="1 at place 1", **THREE),
    *bad_setting("trained_betas", [0.1, -0.1, 0.1], got="-0.1 at place 1", **THREE),
    *bad_setting("trained_betas", [0.1, 0.1, INF], got="inf at place 2", **THREE),
    *bad_setting("trained_betas", [0.1, 0.1], got=r"\(2,\)", **THREE),
    *bad_setting("trained_betas", [0.1, 0.1, 0.1], got=r"\(3,\)"),
    *bad_setting("trained_betas", [[0.1, 0.1, 0.1]], torch.ones(1, 3) / 10, got=r"\(1, 3\)", **THREE),
    *bad_setting("trained_betas", [], got=r"\(0,\)", **THREE),
    *bad_setting("trained_betas", 0.1, got=r"\(\)", **THREE),
    *bad_setting("trained_betas", "linear", ["a", "b", "c"], [None] * 3, {"beta": 0.1}, **THREE),
    *bad_setting("trained_betas", [[0.1], [0.1, 0.2]], **THREE),
    *bad_setting("variance_type", "fixed", "Fixed_Small", "", 3, False),
    *bad_setting("prediction_type", "v", "x0", "eps", "Epsilon", None, 0),
    *bad_setting("clip_sample", "false", "no"),
    *bad_setting("thresholding", "false", "0"),
    *bad_setting("rescale_betas_zero_snr", "no"),
    *own_setting("clip_sample", 0, 1, None),
    *own_setting("thresholding", 1.0),
    *own_setting("rescale_betas_zero_snr", None),
    *bad_setting("rescale_betas_zero_snr", True, argument="zero", got="got 1", num_train_timesteps=1),
    *bad_setting("dynamic_thresholding_ratio", -0.1, 1.1, NAN, "0.9", None, thresholding=True),
    *bad_setting("clip_sample_range", -1.0, NAN, "1", None, [1.0]),
    *bad_setting("sample_max_value", 0.5, -1, NAN, "2", thresholding=True),
    *bad_setting("timestep_spacing", "karras", "Trailing", "", None, 1),
    *bad_setting("steps_offset", -1, 0.5, 1000, "1", None, True, NAN),
    *own_setting("cosine_s", -0.1, 2, NAN, beta_schedule="squaredcos_cap_v2"),
    *own_setting("max_beta", 0, 1, NAN, "1", beta_schedule="squaredcos_cap_v2"),
    *own_setting("sigmoid_tau", 0, -1, NAN, beta_schedule="sigmoid_alpha_bar"),
    *own_setting("sigmoid_start", 3.0, NAN, beta_schedule="sigmoid_alpha_bar"),
    # Both ends lie where the sigmoid is 1 in float64, and one where exp overflows.
    *own_setting("sigmoid_start", 50, argument="sigmoid", sigmoid_end=51, beta_schedule="sigmoid_alpha_bar"),
    *own_setting(
        "sigmoid_tau", 0.01, argument="sigmoid", sigmoid_start=-9, beta_schedule="sigmoid_alpha_bar"
    ),
    *own_setting("scale_betas_by_length", "yes", 1),
    *own_setting("scale_betas_by_length", True, argument="beta_end", got="0.01 to 2", **TEN),
]


def timesteps_set(scheduler_class: type, arguments: dict[str, Any], config: dict[str, Any]) -> None:
    """Call set_timesteps and walk one step."""
    scheduler = scheduler_class(**config)
    scheduler.set_timesteps(**arguments)
    scheduler.step(NOISE, scheduler.timesteps[0], IMAGES)


def bad_count(value: Any, got: str | None = None, **config: Any) -> Case:
    """Return the case of a number of steps."""
    given = {"num_inference_steps": value}
    call = partial(timesteps_set, arguments=given, config=config)
    name = f"set_timesteps: num_inference_steps={shown(value)}" + (f" with {config}" if config else "")
    return Case(name, call, "num_inference_steps", in_message(value) if got is None else got)


def bad_chain(value: Any, got: str | None = None) -> Case:
    """Return the case of custom timesteps."""
    call = partial(timesteps_set, arguments={"timesteps": value}, config={})
    name = f"set_timesteps: timesteps={shown(value)}"
    return Case(name, call, "timestep", in_message(value) if got is None else got)


BOTH = {"num_inference_steps": 10, "timesteps": [9, 0]}
CHAINS = [
    *map(bad_count, (0, -1, 10.5, NAN, INF, True, "10", 1001, [10], np.float64(2.5))),
    bad_count(torch.tensor([1, 2]), got=r"tensor\(\[1, 2\]\)"),
    bad_count(None, got="neither"),
    bad_count(1000, steps_offset=1),
    bad_count(333, got="starts at timestep 1001", steps_offset=5),
    Case("set_timesteps: both", partial(timesteps_set, arguments=BOTH, config={}), "one of", "both|one of"),
    *map(bad_chain, ([], [0, 9], [9, 9, 0], [9, 5, 7, 0], "900", 900, {9: 1}, {9, 0})),
    bad_chain([5, -1], got="-1"),
    bad_chain([1000, 0], got="1000"),
    bad_chain([2.5, 0], got="2.5"),
    bad_chain([NAN], got="nan"),
    bad_chain(["a", "b"], got="'a'"),
    bad_chain([None], got="None"),
    bad_chain([True, False], got="True"),
    bad_chain(np.array([2.5, 0.5]), got="2.5"),
    bad_chain(torch.tensor([0, 9]), got=r"\[0, 9\]"),
    bad_chain(torch.tensor([[9, 0]]), got=r"\[9, 0\]"),
]


def noised(scheduler_class: type, method: str, arguments: tuple[Any, ...]) -> None:
    """Call add_noise or get_velocity."""
    getattr(scheduler_class(), method)(*arguments)


def bad_noising(
    argument: str,
    what: str,
    got: str,
    samples: Any = IMAGES,
    noise: Any = NOISE,
    timesteps: Any = (5, 6),
    stock: bool = True,
) -> list[Case]:
    """Return the case once for add_noise and once for get_velocity."""
    timesteps = torch.tensor(timesteps) if isinstance(timesteps, tuple) else timesteps
    return [
        Case(
            f"{method}: {what}",
            partial(noised, method=method, arguments=(samples, noise, timesteps)),
            samples_name if argument == "samples" else argument,
            got,
            stock,
        )
        for method, samples_name in (("add_noise", "original_samples"), ("get_velocity", "sample"))
    ]


NOISING = [
    case
    for cases in (
        bad_noising("timesteps", "negative timesteps", "-1", timesteps=(5, -1)),
        bad_noising("timesteps", "timesteps past the end", "1000", timesteps=(5, 1000)),
        bad_noising("timesteps", "3 timesteps for 2 samples", r"\(3,\)", timesteps=(5, 6, 7)),
        bad_noising("timesteps", "2-D timesteps", r"\(2, 2\)", timesteps=torch.ones(2, 2, dtype=torch.long)),
        bad_noising("timesteps", "no timesteps", r"\(0,\)", timesteps=()),
        bad_noising("timesteps", "fractional timesteps", "0.5", timesteps=(0.5, 1.0)),
        bad_noising("timesteps", "nan as a timestep", "nan", timesteps=(NAN, 1.0)),
        bad_noising("timesteps", "inf as a timestep", "inf", timesteps=(INF, 1.0)),
        bad_noising("timesteps", "bool timesteps", "torch.bool", timesteps=(True, False)),
        bad_noising("timesteps", "complex timesteps", "torch.complex64", timesteps=(1j, 1.0)),
        bad_noising("timesteps", "a string as timesteps", "'5'", timesteps="5"),
        bad_noising("timesteps", "None as timesteps", "None", timesteps=None),
        bad_noising("noise", "noise that broadcasts", r"\(1, 3, 4, 4\)", noise=NOISE[:1]),
        bad_noising("noise", "noise of lower rank", r"\(4, 4\)", noise=NOISE[0, 0]),
        bad_noising("noise", "noise of another size", r"\(2, 3, 4, 5\)", noise=normal(2, 3, 4, 5)),
        bad_noising("noise", "integer noise", "torch.int64", noise=NOISE.long()),
        bad_noising("noise", "noise as an ndarray", "ndarray", noise=NOISE.numpy(), stock=False),
        bad_noising("noise", "None as noise", "NoneType", noise=None),
        bad_noising("noise", "noise on another device", "meta", noise=NOISE.to("meta")),
        bad_noising("samples", "uint8 images", "torch.uint8", samples=IMAGES.to(torch.uint8)),
        bad_noising(
            "samples", "complex samples", "complex64", samples=IMAGES.to(torch.complex64), stock=False
        ),
        bad_noising("samples", "samples as an ndarray", "ndarray", samples=IMAGES.numpy()),
        bad_noising("samples", "samples as a list", "list", samples=[1.0, 2.0]),
        bad_noising(
            "samples",
            "samples without a dimension",
            "no dimension",
            torch.tensor(1.0),
            torch.tensor(1.0),
            stock=False,
        ),
    )
    for case in cases
]


def stepped(scheduler_class: type, config: dict[str, Any], **arguments: Any) -> None:
    """Call step in a chain of 10."""
    scheduler = scheduler_class(**config)
    scheduler.set_timesteps(10)
    scheduler.step(**{"model_output": NOISE, "timestep": 900, "sample": IMAGES} | arguments)


def bad_step(argument: str, what: str, got: str, config: dict[str, Any] | None = None, **given: Any) -> Case:
    """Return a case of step with arguments that are right, but for those given."""
    own = "variance_noise" in given or "batch of timesteps" in what
    return Case(f"step: {what}", partial(stepped, config=config or {}, **given), argument, got, not own)


STEPS = [
    *(
        bad_step("timestep", f"timestep={shown(t)}", in_message(t), timestep=t)
        for t in (901, -1, -100, 1000, 900.5, NAN, INF, "900", None, True, {})
    ),
    bad_step("timestep", "timestep=[]", r"\(0,\)", timestep=[]),
    bad_step("timestep", "a timestep tensor outside the chain", "901", timestep=torch.tensor(901)),
    bad_step("timestep", "a fractional timestep tensor", "0.5", timestep=torch.tensor(0.5)),
    bad_step("timestep", "a bool timestep tensor", "True", timestep=torch.tensor(True)),
    bad_step("timestep", "no timestep tensor", r"\(0,\)", timestep=torch.tensor([], dtype=torch.long)),
    bad_step("timestep", "3 timesteps for 2 samples", r"\(3,\)", timestep=torch.tensor([900, 800, 700])),
    bad_step("timestep", "2-D timesteps", r"\(2, 2\)", timestep=torch.ones(2, 2, dtype=torch.long)),
    bad_step("timestep", "batch of timesteps, one outside", "801", timestep=torch.tensor([900, 801])),
    bad_step("timestep", "batch of timesteps as fractions", "0.5", timestep=[900, 0.5]),
    bad_step("timestep", "batch of timesteps as words", "'a'", timestep=["a", "b"]),
    bad_step("model_output", "output that broadcasts", r"\(1, 3, 4, 4\)", model_output=NOISE[:1]),
    bad_step("model_output", "output of one channel", r"\(2, 1, 4, 4\)", model_output=NOISE[:, :1]),
    bad_step("model_output", "output of lower rank", r"\(3, 4, 4\)", model_output=NOISE[0]),
    bad_step("model_output", "output of half the size", r"\(2, 3, 2, 2\)", model_output=normal(2, 3, 2, 2)),
    bad_step(
        "model_output", "2C channels, fixed variance", r"\(2, 6, 4, 4\)", model_output=normal(2, 6, 4, 4)
    ),
    bad_step("model_output", "C channels, learned_range", r"\(2, 3, 4, 4\)", LEARNED),
    bad_step("model_output", "C channels, learned", r"\(2, 3, 4, 4\)", {"variance_type": "learned"}),
    bad_step(
        "model_output",
        "3C channels, learned_range",
        r"\(2, 9, 4, 4\)",
        LEARNED,
        model_output=normal(2, 9, 4, 4),
    ),
    bad_step(
        "model_output",
        "1-D data, learned_range",
        r"\(4,\)",
        LEARNED,
        model_output=normal(4),
        sample=normal(2),
    ),
    bad_step("model_output", "integer output", "torch.int64", model_output=NOISE.long()),
    bad_step("model_output", "None as output", "NoneType", model_output=None),
    bad_step("model_output", "output as an ndarray", "ndarray", model_output=NOISE.numpy()),
    bad_step("model_output", "output as a tuple", "tuple", model_output=(NOISE,)),
    bad_step(
        "model_output",
        "the network's output object",
        "UNet2DOutput",
        model_output=diffusers.models.unets.unet_2d.UNet2DOutput(sample=NOISE),
    ),
    bad_step("model_output", "output on another device", "meta", model_output=NOISE.to("meta")),
    bad_step("sample", "None as sample", "NoneType", sample=None),
    bad_step("sample", "uint8 sample", "torch.uint8", sample=IMAGES.to(torch.uint8)),
    bad_step("sample", "sample as an ndarray", "ndarray", sample=IMAGES.numpy()),
    bad_step(
        "sample",
        "sample without a dimension",
        "no dimension",
        sample=torch.tensor(1.0),
        model_output=torch.tensor(1.0),
    ),
    *(
        bad_step("generator", f"generator={shown(value)}", in_message(value), generator=value)
        for value in (0, True, "cpu", [0, 1], {"seed": 0})
    ),
    bad_step("generator", "numpy's generator", "Generator", generator=np.random.default_rng(0)),
    bad_step("generator", "no generators in a list", "got 0", generator=[]),
    bad_step("generator", "3 generators for 2 samples", "got 3|length 3", generator=[seeded()] * 3),
    bad_step("variance_noise", "variance_noise that broadcasts", r"\(1, 3, 4, 4\)", variance_noise=NOISE[:1]),
    bad_step("variance_noise", "integer variance_noise", "torch.int64", variance_noise=NOISE.long()),
    bad_step("variance_noise", "variance_noise as an ndarray", "ndarray", variance_noise=NOISE.numpy()),
    bad_step("variance_noise", "variance_noise on another device", "meta", variance_noise=NOISE.to("meta")),
]


def batch_stepped(scheduler_class: type, **arguments: Any) -> None:
    """Call batch_step_no_noise in a chain of 10."""
    scheduler = scheduler_class()
    scheduler.set_timesteps(10)
    given = {"model_output": NOISE, "timesteps": torch.tensor([900, 800]), "sample": IMAGES} | arguments
    scheduler.batch_step_no_noise(**given)


def bad_batch_step(argument: str, what: str, got: str, **given: Any) -> Case:
    """Return a case of batch_step_no_noise, which DDPMScheduler lacks."""
    return Case(f"batch_step_no_noise: {what}", partial(batch_stepped, **given), argument, got, stock=False)


BATCH_STEPS = [
    bad_batch_step("timestep", "outside the chain", "850", timesteps=torch.tensor([900, 850])),
    bad_batch_step("timestep", "negative", "-1", timesteps=torch.tensor([900, -1])),
    bad_batch_step("timestep", "3 for 2 samples", r"\(3,\)", timesteps=torch.tensor([900, 800, 700])),
    bad_batch_step("timestep", "fractional", "0.5", timesteps=[900, 0.5]),
    bad_batch_step("timestep", "None", "None", timesteps=None),
    bad_batch_step("model_output", "output that broadcasts", r"\(1, 3, 4, 4\)", model_output=NOISE[:1]),
    bad_batch_step("model_output", "2C channels", r"\(2, 6, 4, 4\)", model_output=normal(2, 6, 4, 4)),
    bad_batch_step("sample", "uint8 sample", "torch.uint8", sample=IMAGES.to(torch.uint8)),
]


def previous(scheduler_class: type, timestep: Any, num_inference_steps: int | None = 10) -> None:
    """Call previous_timestep, in a chain of 10 or before set_timesteps."""
    scheduler = scheduler_class()
    if num_inference_steps is not None:
        scheduler.set_timesteps(num_inference_steps)
    scheduler.previous_timestep(timestep)


PREVIOUS = [
    *(
        Case(f"previous_timestep: {shown(t)}", partial(previous, timestep=t), "timestep", in_message(t))
        for t in (901, -1, 1000, 0.5, NAN, "900", None, True)
    ),
    Case("previous_timestep: a tensor outside", partial(previous, timestep=torch.tensor(5)), "timestep", "5"),
    *(
        Case(
            f"previous_timestep: {t} before set_timesteps",
            partial(previous, timestep=t, num_inference_steps=None),
            "timestep",
            in_message(t),
        )
        for t in (1000, -1)
    ),
]


def reconfigured(scheduler_class: type, settings: dict[str, Any]) -> None:
    """Change the configuration of a scheduler that is in use, and walk on."""
    scheduler = scheduler_class()
    scheduler.set_timesteps(10)
    scheduler.register_to_config(**settings)
    scheduler.step(NOISE, 900, IMAGES)


def loaded(scheduler_class: type, settings: dict[str, Any]) -> None:
    """Build a scheduler from a stored configuration with some values changed, and use it."""
    stored = json.loads(scheduler_class().to_json_string())
    use(scheduler_class.from_config({**stored, **settings}))


def bad_config(what: str, call: Callable[..., Any], *settings: dict[str, Any]) -> list[Case]:
    """Return a case for each changed setting."""
    return [
        Case(
            f"{what}: {key}={shown(value)}",
            partial(call, settings=setting),
            key,
            r"\(1,\)|2" if isinstance(value, list) else in_message(value),
        )
        for setting in settings
        for key, value in setting.items()
    ]


def assigned(scheduler_class: type, name: str, value: Any) -> None:
    """Assign an attribute of a scheduler that is in use, as some pipelines do, and walk on."""
    scheduler = scheduler_class()
    scheduler.set_timesteps(10)
    setattr(scheduler, name, value)
    scheduler.step(NOISE, 900, IMAGES)


def bad_attribute(name: str, value: Any, got: str) -> Case:
    """Return the case of an assignment to an attribute."""
    call = partial(assigned, name=name, value=value)
    return Case(f"assignment: scheduler.{name} = {shown(value)}", call, name.rstrip("s"), got)


CONFIGS = [
    *bad_config(
        "register_to_config, step",
        reconfigured,
        {"prediction_type": "v"},
        {"prediction_type": None},
        {"variance_type": "fixed"},
        {"variance_type": 7},
        {"clip_sample": "false"},
        {"clip_sample_range": -1.0},
        {"clip_sample_range": NAN},
        {"thresholding": "no"},
        {"beta_schedule": "cosine"},
        {"beta_end": 2.0},
        {"trained_betas": [2.0]},
        {"num_train_timesteps": 0},
        {"timestep_spacing": "karras"},
        {"steps_offset": -1},
    ),
    *bad_config(
        "from_config",
        loaded,
        {"prediction_type": "v"},
        {"variance_type": "fixed"},
        {"clip_sample": "false"},
        {"beta_schedule": "cosine"},
        {"beta_end": 2.0},
        {"trained_betas": [0.1]},
        {"num_train_timesteps": 0},
        {"timestep_spacing": "karras"},
        {"steps_offset": 0.5},
    ),
    bad_attribute("timesteps", torch.tensor([0, 900]), r"\[0, 900\]"),
    bad_attribute("timesteps", torch.tensor([1000, 900]), "1000"),
    bad_attribute("timesteps", torch.tensor([900.5, 0.0]), "900.5"),
    bad_attribute("timesteps", "900", "'900'"),
    bad_attribute("alphas_cumprod", [0.9, 0.5], r"\[0.9, 0.5\]"),
    bad_attribute("alphas_cumprod", torch.linspace(0.9, 0.1, 10), r"\(10,\)"),
    bad_attribute("alphas_cumprod", torch.full((1000,), float("nan")), "nan"),
    bad_attribute("alphas_cumprod", torch.linspace(0.9, -0.1, 1000), "-0.000"),
    bad_attribute("timesteps", None, "None"),
    bad_attribute("variance_type", "fixed", "'fixed'"),
]


def bad_size(value: Any) -> Case:
    """Return a case of a size of pictures that is none, as a setting of a run."""
    call = partial(DataConfig, "me/photos", resolution=value)
    return Case(f"--resolution: {shown(value)}", lambda _: call(), "--resolution", in_message(value), False)


def bad_sample_size(value: Any) -> Case:
    """Return a case of a size of pictures that is none, in the configuration of a network."""
    return Case(
        f"sample_size: {shown(value)}", lambda _: image_sides(value), "sample_size", in_message(value), False
    )


SIZES = [
    *map(bad_size, ("48x", "x64", "48x64x3", "48:64", "48 64", "0x5", "5x-3", "64px", "6.4e1", "auto")),
    *map(bad_size, (0, -3, 64.0, True, [48], [48, 64, 3], (48, "64"), (48, 0), {"height": 48}, 10**9)),
    *map(bad_sample_size, ([48], [48, 64, 3], "auto", "48x64", 0, -8, 8.0, True, [8, None], [], None)),
]


def converted(_scheduler_class: type, content: Any, settings: dict[str, Any]) -> None:
    """Convert a checkpoint with this content."""
    from ddpm_from_scratch.conversion.converted import convert
    from ddpm_from_scratch.conversion.settings import ConversionSettings

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "old.pt"
        torch.save(content, path)
        if content == "damaged":
            path.write_bytes(b"PK" + bytes(50))
        convert(str(path), f"{folder}/new", ConversionSettings(**settings))


def bad_conversion(what: str, argument: str, got: str, content: Any, **settings: Any) -> Case:
    """Return the case of a checkpoint of another code base that is no such thing, or not wholly."""
    settings = {"image_size": 8} | settings
    return Case(
        f"conversion: {what}",
        partial(converted, content=content, settings=settings),
        argument,
        got,
        stock=False,
    )


# The names by which these layouts are known, with tensors of no use.
OPENAI = {
    "input_blocks.0.0.weight": torch.ones(32, 3, 3, 3),
    "output_blocks.0.0.in_layers.0.weight": torch.ones(32),
    "out.2.weight": torch.ones(3, 32, 3, 3),
}
SIX = {"input_blocks.0.0.weight": torch.ones(32, 6, 3, 3), "out.2.weight": torch.ones(6, 32, 3, 3)}
LUCIDRAINS = {"init_conv.weight": torch.ones(8, 1, 7, 7)}

CONVERSIONS = [
    bad_conversion("code in the pickle", "more than weights", "argparse", {"a": argparse.Namespace()}),
    bad_conversion("a damaged file", "is damaged", "old.pt", "damaged"),
    bad_conversion("a list", "state dict", "list", [1, 2]),
    bad_conversion("nothing", "state dict", "dict", {}),
    bad_conversion("an optimizer", "weights", "optimizer", {"state": {}, "param_groups": []}),
    bad_conversion("a number among tensors", "tensors only", "int", OPENAI | {"epoch": 3}),
    bad_conversion("not finite", "finite", "'a'", OPENAI | {"a": torch.tensor(NAN)}),
    bad_conversion("integers", "floating", "int64", OPENAI | {"a": torch.tensor(1)}),
    bad_conversion("names of others", "names of", "'a.b'", {"a.b": torch.ones(2)}),
    bad_conversion("names of diffusers", "folder", "diffusers", {"conv_in.weight": torch.ones(2)}),
    bad_conversion("a classifier", "output_blocks", "classifier", {"input_blocks.0.0.weight": torch.ones(2)}),
    bad_conversion("an upsampler", "upsampler", "6 channels", OPENAI | SIX),
    bad_conversion("blocks are missing", "input_blocks", "1 ", OPENAI),
    bad_conversion("one set of weights", "weights", "raw", OPENAI, weights="raw"),
    bad_conversion("lucidrains, the network alone", "process", "betas", LUCIDRAINS),
    bad_conversion("lucidrains, OpenAI's flag", "num_heads", "4", LUCIDRAINS, num_heads=4),
]

BAD: list[Case] = [
    *SETTINGS,
    *CHAINS,
    *NOISING,
    *STEPS,
    *BATCH_STEPS,
    *PREVIOUS,
    *CONFIGS,
    *SIZES,
    *CONVERSIONS,
]


# Right inputs, and the float64 reference.


def at(scheduler: Any, timesteps: Any, like: torch.Tensor) -> torch.Tensor:
    """Return alpha-bar at timesteps in float64, broadcastable to samples."""
    timesteps = torch.as_tensor(timesteps).long().reshape(-1)
    return scheduler.alphas_cumprod.double()[timesteps].reshape(-1, *[1] * (like.ndim - 1))


def expected_noising(
    scheduler: Any, method: str, samples: torch.Tensor, noise: torch.Tensor, timesteps: Any
) -> torch.Tensor:
    """Return what add_noise or get_velocity should give, in float64."""
    alpha_bar = at(scheduler, timesteps, samples)
    signal, rest = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if method == "add_noise":
        return signal * samples.double() + rest * noise.double()
    return signal * noise.double() - rest * samples.double()


def expected_step(
    scheduler: Any, output: torch.Tensor, timesteps: Any, sample: torch.Tensor, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what step should give with a fixed_small variance: the sample and the estimate of x_0."""
    chain = scheduler.timesteps.tolist()
    after = dict(zip(chain, [*chain[1:], None], strict=True))
    ts = [int(t) for t in torch.as_tensor(timesteps).reshape(-1)]
    one = torch.ones_like(at(scheduler, 0, sample))
    alpha_bar = at(scheduler, ts, sample)
    alpha_bar_prev = [one if after[t] is None else at(scheduler, after[t], sample) for t in ts]
    alpha_bar_prev = torch.cat([one[:0], *alpha_bar_prev])
    beta = 1 - alpha_bar / alpha_bar_prev
    signal, rest = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    x, output = sample.double(), output.double()
    original = {
        "epsilon": lambda: (x - rest * output) / signal,
        "sample": lambda: output,
        "v_prediction": lambda: signal * x - rest * output,
    }[scheduler.config.prediction_type]()
    if scheduler.config.clip_sample:
        original = original.clamp(-scheduler.config.clip_sample_range, scheduler.config.clip_sample_range)
    mean = alpha_bar_prev.sqrt() * beta / (1 - alpha_bar) * original
    mean = mean + (1 - beta).sqrt() * (1 - alpha_bar_prev) / (1 - alpha_bar) * x
    std = ((1 - alpha_bar_prev) / (1 - alpha_bar) * beta).sqrt()
    return mean + std * noise.double(), original


def near(actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype = torch.float32) -> bool:
    """Return whether a result has the dtype and shape it should have, and the value up to its rounding."""
    tolerance = max(8 * torch.finfo(dtype).eps, 1e-5)  # coefficients are float32 even for float64 samples
    return (
        actual.dtype == dtype
        and actual.shape == expected.shape
        and torch.allclose(actual.double(), expected, rtol=tolerance, atol=tolerance)
    )


def step_is_right(
    scheduler: Any,
    timestep: Any,
    sample: torch.Tensor = IMAGES,
    output: torch.Tensor = NOISE,
    generator: Any = None,
    noise: torch.Tensor | None = None,
) -> bool:
    """Return whether one step equals the reference, for `noise` drawn from a `generator` with seed 0."""
    if noise is None:
        noise = torch.randn(sample.shape, generator=seeded(), dtype=sample.dtype)
    result = scheduler.step(output, timestep, sample, generator=generator or seeded())
    expected = expected_step(scheduler, output, timestep, sample, noise)
    actual = result.prev_sample, result.pred_original_sample
    return all(near(a.detach(), e.detach(), sample.dtype) for a, e in zip(actual, expected, strict=True))


def walk(scheduler: Any, timesteps: Sequence[Any] | None = None, **arguments: Any) -> bool:
    """Return whether a step at each of these timesteps, by default the chain, equals the reference."""
    return all(
        step_is_right(scheduler, t, **arguments)
        for t in (scheduler.timesteps if timesteps is None else timesteps)
    )


def prepared(scheduler_class: type, n: Any = 10, /, **config: Any) -> Any:
    """Return a scheduler with n timesteps set."""
    scheduler = scheduler_class(**config)
    scheduler.set_timesteps(n)
    return scheduler


def walks(*, steps: Any = 10, **config: Any) -> Callable[[type], bool]:
    """Return the call that walks a chain of a scheduler with these settings."""
    return lambda scheduler_class: walk(prepared(scheduler_class, steps, **config))


def chain_is(expected: Sequence[int], **arguments: Any) -> Callable[[type], bool]:
    """Return the call that sets timesteps and walks them."""

    def call(scheduler_class: type) -> bool:
        scheduler = scheduler_class()
        scheduler.set_timesteps(**arguments)
        return scheduler.timesteps.tolist() == list(expected) and walk(scheduler)

    return call


def steps_at(timestep: Any, **data: torch.Tensor) -> Callable[[type], bool]:
    """Return the call of a single step."""
    return lambda scheduler_class: step_is_right(prepared(scheduler_class), timestep, **data)


def with_shape(*shape: int) -> Callable[[type], bool]:
    """Return the call that walks a chain with samples of a shape."""
    data = {"sample": normal(*shape), "output": normal(*shape, seed=1)}
    return lambda scheduler_class: walk(prepared(scheduler_class, 5), **data)


def in_dtype(dtype: torch.dtype) -> Callable[[type], bool]:
    """Return the call that walks the end of a chain, where half precision is enough, in a dtype."""
    data = {"sample": IMAGES.to(dtype), "output": NOISE.to(dtype)}
    return lambda scheduler_class: walk(prepared(scheduler_class), [200, 100, 0], **data)


def noises(timesteps: Any, samples: torch.Tensor = IMAGES, noise: torch.Tensor = NOISE, **config: Any) -> Any:
    """Return the call that compares add_noise and get_velocity with the reference."""

    def call(scheduler_class: type) -> bool:
        scheduler = scheduler_class(**config)
        return all(
            near(
                getattr(scheduler, method)(samples, noise, timesteps),
                expected_noising(scheduler, method, samples, noise, timesteps),
                samples.dtype,
            )
            for method in ("add_noise", "get_velocity")
        )

    return call


def batch_of_timesteps_is_right(scheduler_class: type) -> bool:
    """Each sample at its own timestep."""
    return step_is_right(prepared(scheduler_class), torch.tensor([900, 100]))


def batch_step_is_right(scheduler_class: type) -> bool:
    """Timesteps as a list, and posterior means."""
    scheduler = prepared(scheduler_class)
    expected, _ = expected_step(scheduler, NOISE, [900, 0], IMAGES, torch.zeros_like(NOISE))
    return near(scheduler.batch_step_no_noise(NOISE, [900, 0], IMAGES), expected)


def given_noise_is_used(scheduler_class: type) -> bool:
    """The argument variance_noise replaces the generator."""
    scheduler = prepared(scheduler_class)
    expected, _ = expected_step(scheduler, NOISE, 300, IMAGES, NOISE)
    return near(scheduler.step(NOISE, 300, IMAGES, variance_noise=NOISE).prev_sample, expected)


def last_beta_may_be_one(scheduler_class: type) -> bool:
    """A schedule without signal at its end, for a network that predicts v."""
    betas = [*np.linspace(0.05, 0.3, 9), 1.0]
    return walk(
        prepared(scheduler_class, 10, trained_betas=betas, prediction_type="v_prediction", **TEN),
    )


def no_range_is_zero(scheduler_class: type) -> bool:
    """With clip_sample_range=0 every estimate of x_0 is 0."""
    scheduler = prepared(scheduler_class, clip_sample_range=0)
    return walk(scheduler) and not scheduler.step(NOISE, 500, IMAGES).pred_original_sample.any()


def infinite_range_does_not_clip(scheduler_class: type) -> bool:
    """With clip_sample_range=inf the result is that of clip_sample=False."""
    wide = prepared(scheduler_class, clip_sample_range=INF).step(NOISE, 500, IMAGES, generator=seeded())
    off = prepared(scheduler_class, clip_sample=False).step(NOISE, 500, IMAGES, generator=seeded())
    return torch.equal(wide.prev_sample, off.prev_sample)


def zero_snr_keeps_epsilon_finite(scheduler_class: type, **config: Any) -> bool:
    """Without signal, noise prediction says nothing about x_0, but nothing becomes inf or nan."""
    scheduler = prepared(scheduler_class, 1000, rescale_betas_zero_snr=True, **config)
    output = normal(2, 6, 4, 4, seed=1) if config.get("variance_type") == "learned_range" else NOISE
    results = [scheduler.step(output, t, IMAGES) for t in (999, 998, 0)]
    return all(
        bool(r.prev_sample.isfinite().all() and r.pred_original_sample.isfinite().all()) for r in results
    )


def none_is_fixed_small(scheduler_class: type) -> bool:
    """Stored configurations of DPM solvers have variance_type None."""
    stored = dict(diffusers.DPMSolverMultistepScheduler().config)
    ours = scheduler_class.from_config(stored)
    ours.set_timesteps(10)
    return stored["variance_type"] is None and walk(ours)


def config_of(other: type, **config: Any) -> Callable[[type], bool]:
    """Return the call that takes over the configuration of another scheduler."""

    def call(scheduler_class: type) -> bool:
        stored = other(**config).config
        scheduler = scheduler_class.from_config(stored)
        scheduler.set_timesteps(10)
        return (
            torch.equal(scheduler.betas, other(**config).betas)
            and scheduler.config.prediction_type == stored.prediction_type
            and walk(scheduler)
        )

    return call


def unknown_keys_are_ignored(scheduler_class: type) -> bool:
    """A key of a newer version changes nothing."""
    scheduler = scheduler_class.from_config({"beta_end": 0.03, "invented_key": 1})
    return torch.equal(scheduler.betas, scheduler_class(beta_end=0.03).betas)


def survives(copied: Callable[[Any], Any]) -> Callable[[type], bool]:
    """Return the call that copies a scheduler in the middle of a chain and walks on with the copy."""
    return lambda scheduler_class: walk(copied(prepared(scheduler_class)), [500, 400, 0])


def saved_and_loaded(scheduler: Any) -> Any:
    """Return the scheduler that a folder brings back."""
    with tempfile.TemporaryDirectory() as folder:
        scheduler.save_pretrained(folder)
        loaded_scheduler = type(scheduler).from_pretrained(folder)
    loaded_scheduler.set_timesteps(timesteps=scheduler.timesteps.tolist())
    return loaded_scheduler


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Any:
    """Change the dtype of new tensors for a while."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def built_under(context: Callable[[], Any], beta_schedule: str = "linear") -> Callable[[type], bool]:
    """Return the call that builds a scheduler inside a context and uses it outside."""

    def call(scheduler_class: type) -> bool:
        with context():
            scheduler = prepared(scheduler_class, beta_schedule=beta_schedule)
        usual = scheduler_class(beta_schedule=beta_schedule)
        return torch.equal(scheduler.alphas_cumprod, usual.alphas_cumprod) and walk(scheduler)

    return call


def gradient_is_right(scheduler: Any) -> bool:
    """The gradient of a step reaches the sample and the output."""
    data = [(x.clone().requires_grad_(), x.double().requires_grad_()) for x in (NOISE, IMAGES)]
    (output, output64), (sample, sample64) = data
    scheduler.step(output, 300, sample, generator=seeded()).prev_sample.sum().backward()
    expected_step(scheduler, output64, 300, sample64, torch.zeros_like(NOISE))[0].sum().backward()
    return all(near(x.grad, x64.grad) for x, x64 in data)


def prepared_in_inference_mode(scheduler_class: type) -> bool:
    """Timesteps set in inference mode, the gradient wanted outside."""
    scheduler = scheduler_class(clip_sample=False)
    with torch.inference_mode():
        scheduler.set_timesteps(10)
    return gradient_is_right(scheduler)


def noising_has_a_gradient(scheduler_class: type) -> bool:
    """Noising inside inference mode first, then with a gradient."""
    scheduler = scheduler_class()
    with torch.inference_mode():
        scheduler.add_noise(IMAGES, NOISE, torch.tensor([5, 6]))
    samples = IMAGES.clone().requires_grad_()
    scheduler.add_noise(samples, NOISE, torch.tensor([5, 6])).sum().backward()
    return near(samples.grad, at(scheduler, [5, 6], IMAGES).sqrt().expand_as(IMAGES))


def in_inference_mode(scheduler_class: type) -> bool:
    """Sampling as a pipeline does it."""
    with torch.inference_mode():
        return walk(prepared(scheduler_class))


def channels_last_stays(scheduler_class: type) -> bool:
    """The memory format of the sample is that of the result."""
    scheduler = prepared(scheduler_class)
    sample, output = (x.contiguous(memory_format=torch.channels_last) for x in (IMAGES, NOISE))
    result = scheduler.step(output, 500, sample, generator=seeded()).prev_sample
    same = step_is_right(scheduler, 500, sample, output)
    return same and result.is_contiguous(memory_format=torch.channels_last)


def inputs_stay_as_they_were(scheduler_class: type) -> bool:
    """A step does not write into its arguments, whatever the network predicts."""
    for prediction_type in ("epsilon", "sample", "v_prediction"):
        scheduler = prepared(scheduler_class, prediction_type=prediction_type)
        sample, output = 3 * IMAGES, 3 * NOISE
        if not walk(scheduler, [900, 0], sample=sample, output=output):
            return False
        if not (torch.equal(sample, 3 * IMAGES) and torch.equal(output, 3 * NOISE)):
            return False
    return True


def changed_config_counts(scheduler_class: type) -> bool:
    """What register_to_config changes, the next step uses."""
    scheduler = prepared(scheduler_class)
    first = walk(scheduler, [500])
    scheduler.register_to_config(prediction_type="v_prediction", clip_sample=False)
    return first and walk(scheduler, [400])


def last_call_counts(scheduler_class: type) -> bool:
    """Calling set_timesteps again replaces the chain."""
    scheduler = prepared(scheduler_class, 10)
    scheduler.set_timesteps(timesteps=[7, 3])
    scheduler.set_timesteps(4)
    return scheduler.timesteps.tolist() == [750, 500, 250, 0] and walk(scheduler)


def a_slice_is_a_chain(scheduler_class: type) -> bool:
    """Some pipelines assign the part of the timesteps that they visit."""
    scheduler = prepared(scheduler_class)
    scheduler.timesteps = scheduler.timesteps[5:]
    return walk(scheduler)


def half_precision_noise_is_kept(scheduler_class: type) -> bool:
    """At the first timestep of bf16 data, the noise is 1 % of the result and not 0."""
    zeros, noise = torch.zeros(2, 8, dtype=torch.bfloat16), normal(2, 8, dtype=torch.bfloat16)
    scheduler = scheduler_class()
    noisy = scheduler.add_noise(zeros, noise, torch.tensor([0, 0]))
    wanted = expected_noising(scheduler, "add_noise", zeros, noise, [0, 0])
    return bool(((noisy.double() - wanted).abs() <= 0.01 * wanted.abs()).all())


def previous_is(timestep: Any, expected: int, n: int | None = 10) -> Callable[[type], bool]:
    """Return the call that asks for the timestep after another."""

    def call(scheduler_class: type) -> bool:
        scheduler = scheduler_class() if n is None else prepared(scheduler_class, n)
        return int(scheduler.previous_timestep(timestep)) == expected

    return call


def thresholding_is_a_quantile(scheduler_class: type, shape: tuple[int, ...]) -> bool:
    """Dynamic thresholding of x_0 itself, against numpy's quantile."""
    config = {"thresholding": True, "sample_max_value": 3.0, "prediction_type": "sample"}
    scheduler = prepared(scheduler_class, **config)
    x_0 = 3 * normal(*shape, seed=2)
    rows = x_0.double().reshape(shape[0], -1).numpy()
    limit = np.clip(np.quantile(np.abs(rows), 0.995, axis=1, keepdims=True), 1, 3.0)
    expected = torch.from_numpy(np.clip(rows, -limit, limit) / limit).reshape(shape)
    return near(scheduler.step(x_0, 500, normal(*shape)).pred_original_sample, expected)


TRAILING = {"timestep_spacing": "trailing"}
LINSPACE = {"timestep_spacing": "linspace"}
TEN_BETAS = np.linspace(0.05, 0.3, 10)
STRIDED = normal(2, 4, 4, 3).permute(0, 3, 1, 2)
EXPANDED = normal(1, 3, 4, 4).expand(2, -1, -1, -1)


def trailing_chain_has_n(scheduler_class: type, n: int, num_train_timesteps: int) -> bool:
    """A trailing chain starts at the last timestep and has n steps, all in range."""
    scheduler = prepared(scheduler_class, n, num_train_timesteps=num_train_timesteps, **TRAILING)
    chain = scheduler.timesteps.tolist()
    return len(chain) == n and chain[0] == num_train_timesteps - 1 and chain[-1] >= 0


RIGHT: list[Case] = [
    Case("constructor: T=1", walks(steps=1, num_train_timesteps=1)),
    Case("constructor: T=2, n=T", walks(steps=2, num_train_timesteps=2)),
    Case("constructor: T=777", walks(num_train_timesteps=777)),
    Case("constructor: T=1000.0", walks(num_train_timesteps=1000.0)),
    Case("constructor: T as numpy int", walks(num_train_timesteps=np.int64(500))),
    Case("constructor: betas as numpy floats", walks(beta_start=np.float32(1e-4), beta_end=np.float64(0.02))),
    Case("constructor: a flag as numpy bool", walks(clip_sample=np.bool_(False))),
    Case("constructor: integer clip_sample_range", walks(clip_sample_range=1)),
    Case("constructor: trained_betas as list", walks(trained_betas=TEN_BETAS.tolist(), **TEN)),
    Case("constructor: trained_betas as tuple", walks(trained_betas=tuple(TEN_BETAS.tolist()), **TEN)),
    Case("constructor: trained_betas as ndarray", walks(trained_betas=TEN_BETAS, **TEN)),
    Case("constructor: trained_betas as float32", walks(trained_betas=TEN_BETAS.astype(np.float32), **TEN)),
    Case("constructor: trained_betas as tensor", walks(trained_betas=torch.from_numpy(TEN_BETAS), **TEN)),
    Case("constructor: last beta 1, v_prediction", last_beta_may_be_one),
    Case("constructor: beta_start > beta_end", walks(beta_start=0.02, beta_end=1e-4)),
    Case("constructor: beta_start = beta_end", walks(beta_start=0.01, beta_end=0.01)),
    Case(
        "constructor: betas that the schedule ignores", walks(beta_schedule="squaredcos_cap_v2", beta_end=0.5)
    ),
    Case("constructor: clip_sample_range=0", no_range_is_zero),
    Case("constructor: clip_sample_range=inf", infinite_range_does_not_clip),
    Case("constructor: variance_type None, as DPM solvers store it", none_is_fixed_small),
    Case("constructor: zero SNR, v", walks(rescale_betas_zero_snr=True, prediction_type="v_prediction")),
    Case("constructor: zero SNR, epsilon", zero_snr_keeps_epsilon_finite),
    Case(
        "constructor: zero SNR, epsilon, fixed_large",
        partial(zero_snr_keeps_epsilon_finite, variance_type="fixed_large"),
    ),
    Case(
        "constructor: zero SNR, epsilon, learned_range",
        partial(zero_snr_keeps_epsilon_finite, variance_type="learned_range"),
    ),
    Case("constructor: on the meta device", built_under(lambda: torch.device("meta"))),
    *(
        Case(
            f"constructor: {dtype} by default, {schedule}",
            built_under(partial(default_dtype, dtype), schedule),
        )
        for dtype in (torch.float64, torch.bfloat16)
        for schedule in ("linear", "sigmoid")
    ),
    Case("constructor: in inference mode", built_under(torch.inference_mode)),
    Case("set_timesteps: n=1", walks(steps=1)),
    Case("set_timesteps: n=T", walks(steps=50, num_train_timesteps=50)),
    Case("set_timesteps: n=1, linspace", walks(steps=1, **LINSPACE)),
    Case("set_timesteps: n=T, linspace", walks(steps=50, num_train_timesteps=50, **LINSPACE)),
    Case(
        "set_timesteps: n=51, T=777, trailing", partial(trailing_chain_has_n, n=51, num_train_timesteps=777)
    ),
    Case("set_timesteps: n=484, trailing", partial(trailing_chain_has_n, n=484, num_train_timesteps=1000)),
    Case("set_timesteps: n=10.0", walks(steps=10.0)),
    Case("set_timesteps: n as numpy int", walks(steps=np.int32(10))),
    Case("set_timesteps: n as tensor", walks(steps=torch.tensor(10))),
    Case("set_timesteps: a list", chain_is([900, 50, 0], timesteps=[900, 50, 0])),
    Case("set_timesteps: a tuple", chain_is([900, 50, 0], timesteps=(900, 50, 0))),
    Case("set_timesteps: a range", chain_is([900, 600, 300, 0], timesteps=range(900, -1, -300))),
    Case("set_timesteps: an ndarray", chain_is([900, 50, 0], timesteps=np.array([900, 50, 0]))),
    Case("set_timesteps: a tensor", chain_is([900, 50, 0], timesteps=torch.tensor([900, 50, 0]))),
    Case("set_timesteps: integral floats", chain_is([900, 50, 0], timesteps=[900.0, 50.0, 0.0])),
    Case("set_timesteps: one timestep", chain_is([5], timesteps=[5])),
    Case("set_timesteps: a chain that does not end at 0", chain_is([900, 50, 20], timesteps=[900, 50, 20])),
    Case("set_timesteps: again", last_call_counts),
    Case("set_timesteps: in inference mode, then a gradient", prepared_in_inference_mode),
    Case("add_noise, get_velocity: int32 timesteps", noises(torch.tensor([5, 999], dtype=torch.int32))),
    Case("add_noise, get_velocity: one timestep for all", noises(torch.tensor([300]))),
    Case("add_noise, get_velocity: a 0-d timestep", noises(torch.tensor(300))),
    Case("add_noise, get_velocity: integral float timesteps", noises(torch.tensor([5.0, 6.0])), stock=False),
    Case("add_noise, get_velocity: a list of timesteps", noises([5, 6]), stock=False),
    Case("add_noise, get_velocity: (B,) data", noises(torch.tensor([1, 2, 3]), normal(3), normal(3, seed=1))),
    Case(
        "add_noise, get_velocity: (B, 2) data", noises(torch.tensor([7]), normal(3, 2), normal(3, 2, seed=1))
    ),
    Case(
        "add_noise, get_velocity: video",
        noises(torch.tensor([1, 2]), normal(2, 3, 2, 4, 4), normal(2, 3, 2, 4, 4, seed=1)),
    ),
    Case(
        "add_noise, get_velocity: no samples",
        noises(torch.tensor([], dtype=torch.long), IMAGES[:0], NOISE[:0]),
    ),
    Case("add_noise, get_velocity: strided data", noises(torch.tensor([5, 6]), STRIDED, EXPANDED)),
    Case("add_noise, get_velocity: float64", noises(torch.tensor([5, 6]), IMAGES.double(), NOISE.double())),
    Case("add_noise, get_velocity: float16", noises(torch.tensor([5, 600]), IMAGES.half(), NOISE.half())),
    Case("add_noise: the noise of bf16 data at t=0", half_precision_noise_is_kept),
    Case("add_noise: a gradient after inference mode", noising_has_a_gradient),
    Case("step: (B, 2) points", with_shape(6, 2)),
    Case("step: (B,) numbers", with_shape(6)),
    Case("step: (B, C, length) series", with_shape(2, 3, 8)),
    Case("step: (B, C, frames, H, W) video", with_shape(2, 3, 2, 4, 4)),
    Case("step: no samples", with_shape(0, 3, 4, 4)),
    Case("step: data without pixels", with_shape(2, 3, 0)),
    Case("step: strided data", steps_at(500, sample=STRIDED, output=EXPANDED)),
    Case("step: channels_last", channels_last_stays),
    Case("step: float64", in_dtype(torch.float64)),
    Case("step: bfloat16", in_dtype(torch.bfloat16)),
    Case("step: float16", in_dtype(torch.float16)),
    Case("step: before set_timesteps", lambda cls: walk(cls(), [999, 500, 0])),
    Case("step: from the middle of the chain (img2img)", lambda cls: walk(prepared(cls), [400, 300, 200, 0])),
    Case("step: the same timestep again (RePaint)", lambda cls: walk(prepared(cls), [500, 500, 600, 500])),
    Case("step: a second walk", lambda cls: walk(s := prepared(cls)) and walk(s)),
    Case("step: integral float timestep", steps_at(900.0)),
    Case("step: numpy timestep", steps_at(np.int64(900))),
    Case("step: 0-d tensor timestep", steps_at(torch.tensor(900))),
    Case("step: int32 tensor timestep", steps_at(torch.tensor(900, dtype=torch.int32))),
    Case("step: (1,) tensor timestep", steps_at(torch.tensor([900]))),
    Case("step: float tensor timestep", steps_at(torch.tensor(900.0)), stock=False),
    Case("step: (B,) timesteps", batch_of_timesteps_is_right, stock=False),
    Case(
        "step: (0,) timesteps for no samples",
        steps_at(torch.tensor([], dtype=torch.long), sample=IMAGES[:0], output=NOISE[:0]),
        stock=False,
    ),
    Case("step: variance_noise", given_noise_is_used, stock=False),
    Case("batch_step_no_noise: a list of timesteps", batch_step_is_right, stock=False),
    Case(
        "step: one generator in a list", lambda cls: step_is_right(prepared(cls), 900, generator=[seeded()])
    ),
    Case(
        "step: a generator for each sample",
        lambda cls: step_is_right(
            prepared(cls),
            900,
            generator=[seeded(3), seeded(4)],
            noise=torch.cat([normal(1, 3, 4, 4, seed=seed) for seed in (3, 4)]),
        ),
    ),
    Case("step: requires_grad", lambda cls: gradient_is_right(prepared(cls, clip_sample=False))),
    Case("step: requires_grad and clipping", lambda cls: gradient_is_right(prepared(cls))),
    Case("step: inputs that are used again", inputs_stay_as_they_were),
    Case("step: inference mode", in_inference_mode),
    Case("step: thresholding of images", partial(thresholding_is_a_quantile, shape=(2, 3, 4, 4))),
    Case("step: thresholding of points", partial(thresholding_is_a_quantile, shape=(5, 2))),
    Case("step: after register_to_config", changed_config_counts),
    Case("previous_timestep: in a chain", previous_is(900, 800)),
    Case("previous_timestep: at the end", previous_is(0, -1)),
    Case("previous_timestep: before set_timesteps", previous_is(torch.tensor(7), 6, n=None)),
    Case("from_config: unknown keys", unknown_keys_are_ignored),
    Case("from_config: of DDIM", config_of(diffusers.DDIMScheduler, beta_schedule="scaled_linear")),
    Case("from_config: of PNDM", config_of(diffusers.PNDMScheduler, steps_offset=1)),
    Case("from_config: of DPM solver", config_of(diffusers.DPMSolverMultistepScheduler)),
    Case(
        "from_config: of Euler", config_of(diffusers.EulerDiscreteScheduler, prediction_type="v_prediction")
    ),
    Case("assignment: the end of the timesteps (img2img)", a_slice_is_a_chain),
    Case("a deep copy", survives(copy.deepcopy)),
    Case("a pickled copy", survives(lambda scheduler: pickle.loads(pickle.dumps(scheduler)))),
    Case("a saved and loaded copy", survives(saved_and_loaded)),
]


def size_is(value: Any, expected: int | str) -> Case:
    """Return a case of a size of pictures, spelled as people do."""
    return Case(
        f"--resolution: {shown(value)}",
        lambda _: DataConfig("me/photos", resolution=value).resolution == expected,
        stock=False,
    )


RIGHT += [
    *(
        size_is(value, "48x64")
        for value in ("48x64", "48X64", "48 x 64", "48×64", "48,64", (48, 64), [48, 64])
    ),
    *(size_is(value, 64) for value in (64, "64", " 64 ", "64x64", np.int64(64), (64, 64))),
    Case("sample_size: a list of JSON", lambda _: image_sides([48, 64]) == (48, 64), stock=False),
]


def table(outcomes: dict[str, list[tuple[str, str]]], kinds: Sequence[str]) -> list[str]:
    """Return lines with the count of each kind of outcome for each scheduler."""
    lines = [" " * 28 + "".join(f"{kind:>9}" for kind in (*kinds, "of"))]
    for name, results in outcomes.items():
        counts = Counter(kind for kind, _ in results)
        lines.append(f"  {name:26}" + "".join(f"{n:9}" for n in (*(counts[k] for k in kinds), len(results))))
    return lines


def outcomes_of_commands(is_bad: bool) -> dict[str, list[tuple[str, str]]]:
    """Return how the bad or the right rows of the other files are answered, and what is printed."""
    folders = [shape for shape in folder_shapes.SHAPES if (shape.used is None) == is_bad]
    arrays = [shape for shape in array_shapes.SHAPES if (shape.sample is None) == is_bad]
    inputs = [one for one in command_inputs.INPUTS if one.is_bad == is_bad]
    return {
        "folders, archives, lists": list(map(folder_shapes.verdict, folders)),
        "arrays and deep pictures": list(map(array_shapes.verdict, arrays)),
        "settings, folders, weights": list(map(command_inputs.verdict, inputs)),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--all", action="store_true", help="one line for every case, with the message")
    every = parser.parse_args().all
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    groups = (("bad inputs", BAD, bad_outcome, BAD_OUTCOMES), ("right", RIGHT, right_outcome, RIGHT_OUTCOMES))
    for title, cases, outcome, kinds in groups:
        outcomes = {
            cls.__name__: [outcome(case, cls) for case in cases if case.stock or cls is not DDPMScheduler]
            for cls in (DDPMScheduler, DDPMFromScratchScheduler)
        }
        print(f"{title if title != 'right' else 'unusual but right inputs'}")
        print("\n".join(table(outcomes, kinds)))
        if every:
            for name, results in outcomes.items():
                shown_cases = [case for case in cases if case.stock or name != "DDPMScheduler"]
                print(f"\n{name}")
                for case, (kind, message) in zip(shown_cases, results, strict=True):
                    print(f"  {kind:8} {case.name}" + (f" -> {message.splitlines()[0]}" if message else ""))
            print()
    for title, is_bad, kinds in (("bad", True, BAD_OUTCOMES), ("unusual but right", False, RIGHT_OUTCOMES)):
        outcomes = outcomes_of_commands(is_bad)
        print(f"{title}, given to the commands")
        print("\n".join(table(outcomes | {"all of these": sum(outcomes.values(), [])}, kinds)))
        if every:
            for results in outcomes.values():
                print("\n".join(f"  {kind:8} {message.splitlines()[:1]}" for kind, message in results))


if __name__ == "__main__":
    main()
