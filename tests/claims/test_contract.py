"""What diffusers' own scheduler tests ask of DDPMScheduler and DDPMParallelScheduler, asked of ours."""

import copy
import inspect
import json
import logging
import pickle
import warnings

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDPMParallelScheduler,
    DDPMPipeline,
    DDPMScheduler,
    EulerDiscreteScheduler,
    UNet2DModel,
)
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin

from common import seeded
from ddpm_from_scratch import DDPMFromScratchScheduler, FewStepScheduler, SchedulerWarning

# Some tests step out of order or use few timesteps on purpose, which our scheduler warns of; the last
# is numpy's about the array protocol of torch, raised inside diffusers' KDPM2 schedulers.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ddpm_from_scratch.SchedulerWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning"),
]

FAMILY = [member.name for member in KarrasDiffusionSchedulers]
STOCK_KEYS = list(inspect.signature(DDPMScheduler.__init__).parameters)[1:]
ALL_KEYS = list(inspect.signature(DDPMFromScratchScheduler.__init__).parameters)[1:]
PREDICTIONS = ("epsilon", "v_prediction", "sample")
SHAPE = (4, 3, 8, 8)

# A value for every key that is not its default; every scheduler of the family accepts these.
CHANGED = {
    "num_train_timesteps": 50,
    "beta_start": 0.001,
    "beta_end": 0.3,
    "beta_schedule": "scaled_linear",
    "trained_betas": [0.01 * (i + 1) for i in range(50)],
    "variance_type": "learned_range",
    "clip_sample": False,
    "prediction_type": "v_prediction",
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.9,
    "clip_sample_range": 2.0,
    "sample_max_value": 3.0,
    "timestep_spacing": "trailing",
    "steps_offset": 1,
    "rescale_betas_zero_snr": True,
    "cosine_s": 0.01,
    "max_beta": 0.9,
    "sigmoid_start": -2.0,
    "sigmoid_end": 2.5,
    "sigmoid_tau": 0.5,
    "scale_betas_by_length": True,
    "residuals": [0.01 * (i + 1) for i in range(50)],
}


def normal(shape=SHAPE, seed=0):
    return torch.randn(shape, generator=seeded(seed))


def ramp():
    """Sample of diffusers' tests: 0/768, 1/768, ... with the batch as the fastest dimension."""
    return (torch.arange(768) / 768).reshape(3, 8, 8, 4).permute(3, 0, 1, 2)


def ramp_noise():
    """Noise of diffusers' tests: the same numbers, falling."""
    return (torch.arange(768).flip(-1) / 768).reshape(3, 8, 8, 4).permute(3, 0, 1, 2)


def network(sample, t):
    """Network of diffusers' tests: sample t / (t + 1)."""
    if isinstance(t, torch.Tensor):
        t = t.reshape(-1, *[1] * (sample.ndim - 1)).to(sample.dtype)
    return sample * t / (t + 1)


def keys_of(scheduler, keys=ALL_KEYS):
    return {key: scheduler.config[key] for key in keys}


def other_scheduler(name, config):
    """A scheduler of the family from `config`, or skip where an optional package is missing."""
    try:
        return getattr(diffusers, name).from_config(config)
    except ImportError as error:
        pytest.skip(str(error).strip().splitlines()[0])


@pytest.fixture
def configuration_log(caplog):
    """What diffusers logs about configurations, for example of keys that a class does not expect."""
    logger = logging.getLogger("diffusers.configuration_utils")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


# Configuration


def test_the_round_trip_value_of_every_key_is_not_its_default():
    defaults = keys_of(DDPMFromScratchScheduler())
    assert list(CHANGED) == ALL_KEYS
    assert all(CHANGED[key] != defaults[key] for key in ALL_KEYS)


def test_default_config_is_that_of_stock():
    assert keys_of(DDPMFromScratchScheduler(), STOCK_KEYS) == keys_of(DDPMScheduler(), STOCK_KEYS)


@pytest.mark.parametrize("arguments", [{}, CHANGED], ids=["defaults", "changed"])
def test_saved_config_loads_with_every_key(arguments, tmp_path, configuration_log):
    scheduler = DDPMFromScratchScheduler(**arguments)
    scheduler.save_config(tmp_path)
    loaded = DDPMFromScratchScheduler.from_config(DDPMFromScratchScheduler.load_config(tmp_path))
    assert keys_of(loaded) == keys_of(scheduler) | arguments
    assert configuration_log.text == ""


def test_saved_file_has_the_name_and_class_that_diffusers_looks_for(tmp_path):
    DDPMFromScratchScheduler().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert saved["_class_name"] == "DDPMFromScratchScheduler"
    assert saved["_diffusers_version"] == diffusers.__version__
    assert set(ALL_KEYS) <= set(saved)


@pytest.mark.parametrize(
    "arguments",
    [
        *({"num_train_timesteps": steps} for steps in (1, 5, 100, 1000)),
        *({"beta_start": 0.1**k, "beta_end": 2 * 0.1**k} for k in (4, 3, 2)),
        *({"beta_schedule": name} for name in ("linear", "squaredcos_cap_v2", "laplace")),
        *({"variance_type": name} for name in ("fixed_small", "fixed_large", "fixed_large_log")),
        *({"clip_sample": clip} for clip in (True, False)),
        *(
            {"thresholding": True, "sample_max_value": s, "prediction_type": p}
            for s in (1, 2)
            for p in PREDICTIONS
        ),
        *({"prediction_type": name} for name in PREDICTIONS),
        *({"rescale_betas_zero_snr": rescale} for rescale in (True, False)),
    ],
    ids=str,
)
def test_loaded_scheduler_steps_alike(arguments, tmp_path):
    scheduler = DDPMFromScratchScheduler(**arguments)
    scheduler.save_pretrained(tmp_path)
    loaded = DDPMFromScratchScheduler.from_pretrained(tmp_path)
    sample = normal()
    for t in {len(scheduler) // 2, 0}:
        a, b = (s.step(0.1 * sample, t, sample, generator=seeded()).prev_sample for s in (scheduler, loaded))
        assert torch.equal(a, b)


def test_trained_betas_of_numpy_are_saved(tmp_path):
    scheduler = DDPMFromScratchScheduler(num_train_timesteps=2, trained_betas=np.array([0.1, 0.3]))
    scheduler.save_pretrained(tmp_path)
    assert torch.equal(DDPMFromScratchScheduler.from_pretrained(tmp_path).betas, scheduler.betas)


def test_argument_of_from_config_overrides_the_config():
    config = DDPMFromScratchScheduler(**CHANGED).config
    assert DDPMFromScratchScheduler.from_config(config, timestep_spacing="linspace").config == config | {
        "timestep_spacing": "linspace"
    }


@pytest.mark.parametrize("kind", [DDPMFromScratchScheduler, FewStepScheduler])
@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("beta_strat", "'beta_start'"), ("use_corrector", ""), ("use_karras_sigmas", ""), ("x", "beta_end, ")],
)
def test_unknown_keyword_is_refused_with_the_nearest_setting(kind, wrong, nearest, tmp_path):
    kind().save_pretrained(tmp_path)
    ways = (kind, lambda **given: kind.from_config(kind().config, **given))
    for make in (*ways, lambda **given: kind.from_pretrained(tmp_path, **given)):
        with pytest.raises(TypeError, match=rf"{kind.__name__}.* {wrong!r}; .*{nearest}"):
            make(**{wrong: True})


def test_corrector_switched_off_by_another_name_is_refused():
    with pytest.raises(TypeError, match="'use_corrector'; did you mean 'corrector_order'"):
        FewStepScheduler.from_config(FewStepScheduler().config, solver_order=1, use_corrector=False)


@pytest.mark.parametrize("kind", [DDPMFromScratchScheduler, FewStepScheduler])
def test_keywords_of_diffusers_and_of_stored_configurations_pass(kind, tmp_path):
    stored = dict(diffusers.DPMSolverMultistepScheduler(use_karras_sigmas=True).config) | {"_note": 1}
    with pytest.warns(SchedulerWarning, match="does not follow use_karras_sigmas=True"):
        assert kind.from_config(stored).config["use_karras_sigmas"] is True
    kind(beta_end=0.03).save_pretrained(tmp_path / "scheduler")
    loaded = kind.from_pretrained(tmp_path, subfolder="scheduler", local_files_only=True, revision="main")
    assert loaded.config.beta_end == 0.03
    again = (kind(**loaded.config), kind.from_config(loaded.config, cache_dir=None, **loaded.config))
    assert [scheduler.config.beta_end for scheduler in again] == [0.03, 0.03]
    made, unused = kind.from_config({}, return_unused_kwargs=True, beta_end=0.03, use_karras_sigmas=True)
    assert made.config.beta_end == 0.03 and unused == {"use_karras_sigmas": True}


def test_constructor_shows_its_settings():
    for kind in (DDPMFromScratchScheduler, FewStepScheduler):
        assert list(inspect.signature(kind).parameters)[:2] == ["num_train_timesteps", "beta_start"]


def test_unknown_key_of_a_config_is_ignored_and_named(configuration_log):
    config = dict(DDPMFromScratchScheduler().config) | {"unexpected": True}
    assert keys_of(DDPMFromScratchScheduler.from_config(config)) == keys_of(DDPMFromScratchScheduler())
    assert "'unexpected': True" in configuration_log.text


def test_config_values_are_found_as_attributes_only_with_a_deprecation():
    scheduler = DDPMFromScratchScheduler()
    with pytest.warns(FutureWarning, match="beta_end"):
        assert scheduler.beta_end == 0.02
    with pytest.raises(AttributeError, match="'DDPMFromScratchScheduler' object has no attribute 'missing'"):
        _ = scheduler.missing


# The family of compatible schedulers


def test_compatibles_are_the_whole_family():
    ours, stock = DDPMFromScratchScheduler().compatibles, DDPMScheduler().compatibles
    assert {c.__name__ for c in stock} == set(FAMILY)
    assert set(ours) == {*stock, DDPMFromScratchScheduler, FewStepScheduler}


@pytest.mark.parametrize("arguments", [{}, CHANGED], ids=["defaults", "changed"])
@pytest.mark.parametrize("name", FAMILY)
def test_no_key_is_lost_on_the_way_through_another_scheduler(name, arguments):
    """Except, by default, where the other one means something else: its own betas, or no clipping."""
    scheduler = DDPMFromScratchScheduler(**arguments)
    other = other_scheduler(name, scheduler.config)
    expected = keys_of(scheduler)
    if not arguments:
        expected |= {key: other.config.get(key, expected[key]) for key in ("beta_start", "beta_end")}
        expected["clip_sample"] = other.config.get("clip_sample", False)
    if name == "EDMEulerScheduler":
        with pytest.raises(ValueError, match="sigma_data and no beta_schedule"):
            DDPMFromScratchScheduler.from_config(other.config)
        return
    assert keys_of(DDPMFromScratchScheduler.from_config(other.config)) == expected


@pytest.mark.parametrize("name", FAMILY)
def test_another_scheduler_understands_the_keys_it_knows(name):
    other = other_scheduler(name, DDPMFromScratchScheduler(**CHANGED).config)
    known = set(CHANGED) & set(inspect.signature(type(other).__init__).parameters)
    assert {"num_train_timesteps", "prediction_type"} <= known
    assert keys_of(other, known) == {key: CHANGED[key] for key in known}


@pytest.mark.parametrize("name", FAMILY)
def test_settings_of_another_scheduler_arrive(name):
    class_ = getattr(diffusers, name)
    other_scheduler(name, {})
    settings = {key: CHANGED[key] for key in CHANGED if key in inspect.signature(class_.__init__).parameters}
    if name != "DDPMScheduler":
        settings.pop("variance_type", None)  # the solvers mean something else by it
    other = class_(**settings)
    if name == "EDMEulerScheduler":
        with pytest.raises(ValueError, match="sigma_data and no beta_schedule"):
            DDPMFromScratchScheduler.from_config(other.config)
        return
    assert keys_of(DDPMFromScratchScheduler.from_config(other.config), settings) == settings


def test_at_least_ten_of_the_family_can_be_built_here():
    built = 0
    for name in FAMILY:
        try:
            getattr(diffusers, name).from_config(DDPMFromScratchScheduler().config)
        except ImportError:
            continue
        built += 1
    assert built >= 10


def test_defaults_of_the_class_are_not_carried_to_another_class():
    euler = EulerDiscreteScheduler.from_config(DDPMFromScratchScheduler().config)
    assert euler.config.timestep_spacing == "linspace"
    assert DDPMFromScratchScheduler.from_config(euler.config).config.timestep_spacing == "leading"


@pytest.mark.parametrize("stock_class", [DDPMScheduler, DDPMParallelScheduler])
def test_saved_stock_scheduler_loads_as_ours(stock_class, tmp_path, configuration_log):
    stock = stock_class(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    stock.save_pretrained(tmp_path)
    ours = DDPMFromScratchScheduler.from_pretrained(tmp_path)
    assert keys_of(ours, STOCK_KEYS) == keys_of(stock, STOCK_KEYS)
    assert configuration_log.text == ""
    a, b = (s.step(normal(), 500, normal(seed=1), generator=seeded()).prev_sample for s in (stock, ours))
    assert torch.equal(a, b)


@pytest.mark.parametrize("stock_class", [DDPMScheduler, DDPMParallelScheduler])
def test_our_saved_scheduler_loads_as_stock(stock_class, tmp_path):
    ours = DDPMFromScratchScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    ours.save_pretrained(tmp_path)
    stock = stock_class.from_pretrained(tmp_path)
    assert type(stock) is stock_class and keys_of(ours, STOCK_KEYS) == keys_of(stock, STOCK_KEYS)
    a, b = (s.step(normal(), 500, normal(seed=1), generator=seeded()).prev_sample for s in (stock, ours))
    assert torch.equal(a, b)


# Copies, and life as a component of a pipeline


@pytest.mark.parametrize("chain", [{"num_inference_steps": 10}, {"timesteps": [800, 30, 4]}], ids=str)
@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copied_scheduler_goes_on_with_the_same_chain(duplicate, chain):
    scheduler = DDPMFromScratchScheduler(prediction_type="v_prediction")
    scheduler.set_timesteps(**chain)
    first, *rest = scheduler.timesteps
    sample = scheduler.step(normal(), first, normal(seed=1), generator=seeded()).prev_sample
    results = []
    for s in (scheduler, duplicate(scheduler)):
        assert torch.equal(s.timesteps, scheduler.timesteps)
        x, source = sample, seeded(1)
        for t in rest:
            x = s.step(x, t, x, generator=source).prev_sample
        results.append(x)
    assert torch.equal(*results)


def test_deepcopy_has_a_chain_of_its_own():
    scheduler = DDPMFromScratchScheduler()
    copy.deepcopy(scheduler).set_timesteps(10)
    assert len(scheduler.timesteps) == 1000 and scheduler.num_inference_steps is None
    assert scheduler.previous_timestep(501) == 500


def test_stock_pipeline_saves_and_loads_our_scheduler(tmp_path):
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(4, 8),
        norm_num_groups=2,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    pipeline = DDPMPipeline(unet.eval(), DDPMFromScratchScheduler(sigmoid_tau=0.7))
    pipeline.save_pretrained(tmp_path)
    loaded = DDPMPipeline.from_pretrained(tmp_path)
    assert isinstance(pipeline.scheduler, SchedulerMixin)
    assert type(loaded.scheduler) is DDPMFromScratchScheduler
    assert keys_of(loaded.scheduler) == keys_of(pipeline.scheduler)
    images = []
    for p in (pipeline, loaded):
        p.set_progress_bar_config(disable=True)
        images.append(p(2, seeded(), num_inference_steps=4, output_type="np").images)
    assert np.array_equal(*images)


# Devices, dtypes and shapes. A meta tensor has no values, so whatever works on one never waits for a device.


def test_timesteps_are_put_on_the_device():
    scheduler = DDPMFromScratchScheduler()
    for arguments in ({"num_inference_steps": 10}, {"timesteps": [5, 1]}):
        scheduler.set_timesteps(device="meta", **arguments)
        assert scheduler.timesteps.device.type == "meta"
    scheduler.set_timesteps(10)
    assert scheduler.timesteps.device.type == "cpu"


@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned_range"])
@pytest.mark.parametrize("clip", [{"clip_sample": True}, {"thresholding": True}], ids=str)
@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_loop_over_device_timesteps_needs_no_values_of_tensors(prediction_type, clip, learned):
    variance = {"variance_type": "learned_range"} if learned else {}
    scheduler = DDPMFromScratchScheduler(prediction_type=prediction_type, **variance, **clip)
    scheduler.set_timesteps(10, device="meta")
    sample = torch.empty(SHAPE, device="meta")
    steps = 0
    for t in scheduler.timesteps:
        output = torch.cat([sample, sample], dim=1) if learned else sample
        result = scheduler.step(output, t, sample)
        sample, steps = result.prev_sample, steps + 1
        assert result.pred_original_sample.device.type == "meta"
    assert (steps, sample.shape, sample.device.type) == (10, SHAPE, "meta")


def test_second_loop_over_device_timesteps_starts_over():
    scheduler, sample = DDPMFromScratchScheduler(), torch.empty(SHAPE, device="meta")
    for _ in range(2):
        scheduler.set_timesteps(3, device="meta")
        for t in scheduler.timesteps:
            sample = scheduler.step(sample, t, sample).prev_sample
    assert sample.shape == SHAPE


@pytest.mark.parametrize("method", ["add_noise", "get_velocity"])
def test_forward_process_needs_no_values_of_tensors(method):
    scheduler = DDPMFromScratchScheduler()
    scheduler.set_timesteps(100, device="meta")
    x, noise = (torch.empty(SHAPE, device="meta") for _ in range(2))
    for timesteps in (scheduler.timesteps[5][None], scheduler.timesteps[:4]):
        result = getattr(scheduler, method)(x, noise, timesteps)
        assert (result.shape, result.device.type) == (SHAPE, "meta")


def test_forward_process_takes_timesteps_of_another_device():
    scheduler, x = DDPMFromScratchScheduler(), torch.empty(SHAPE, device="meta")
    assert scheduler.add_noise(x, x, torch.tensor([0, 1, 500, 999])).device.type == "meta"


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_step_keeps_the_dtype(dtype, variance_type):
    for prediction_type in PREDICTIONS:
        scheduler = DDPMFromScratchScheduler(variance_type=variance_type, prediction_type=prediction_type)
        sample = normal().to(dtype)
        output = torch.cat([sample, sample], dim=1) if variance_type == "learned_range" else sample
        for t in (999, 500, 0):
            result = scheduler.step(output, t, sample, generator=seeded())
            assert result.prev_sample.dtype == result.pred_original_sample.dtype == dtype


@pytest.mark.parametrize("method", ["add_noise", "get_velocity"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_forward_process_keeps_the_dtype(dtype, method):
    scheduler, x = DDPMFromScratchScheduler(), normal().to(dtype)
    assert getattr(scheduler, method)(x, x, torch.tensor([0, 1, 500, 999])).dtype == dtype


@pytest.mark.parametrize("shape", [(4, 2), (4, 3, 8, 8), (4, 3, 2, 8, 8)], ids=str)
@pytest.mark.parametrize("thresholding", [False, True], ids=["clip", "threshold"])
def test_step_keeps_the_shape(shape, thresholding):
    scheduler = DDPMFromScratchScheduler(thresholding=thresholding)
    for t in (1, 0):
        result = scheduler.step(normal(shape), t, normal(shape, 1))
        assert result.prev_sample.shape == result.pred_original_sample.shape == shape


# One step


@pytest.mark.parametrize("t", [999, 500, 0])
def test_tuple_and_object_have_the_same_tensors(t):
    scheduler, sample = DDPMFromScratchScheduler(), normal()
    as_object = scheduler.step(0.1 * sample, t, sample, generator=seeded())
    as_tuple = scheduler.step(0.1 * sample, t, sample, generator=seeded(), return_dict=False)
    assert type(as_object) is DDPMSchedulerOutput and list(as_object) == [
        "prev_sample",
        "pred_original_sample",
    ]
    assert type(as_tuple) is tuple and len(as_tuple) == 2
    assert torch.equal(as_tuple[0], as_object.prev_sample)
    assert torch.equal(as_tuple[1], as_object.pred_original_sample)


def test_list_of_generators_draws_the_noise_of_stock():
    a, b = (
        scheduler.step(normal(), 500, normal(seed=1), generator=[seeded(i) for i in range(4)]).prev_sample
        for scheduler in (DDPMScheduler(), DDPMFromScratchScheduler())
    )
    assert torch.equal(a, b)


def test_step_leaves_its_arguments_alone():
    scheduler, output, sample = DDPMFromScratchScheduler(), normal(), normal(seed=1)
    scheduler.step(output, 500, sample)
    assert torch.equal(output, normal()) and torch.equal(sample, normal(seed=1))


def test_timestep_may_be_an_integer_or_a_tensor():
    results = [
        DDPMFromScratchScheduler().step(normal(), t, normal(seed=1), generator=seeded()).prev_sample
        for t in (500, torch.tensor(500), np.int64(500))
    ]
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_small_log"])
@pytest.mark.parametrize(("t", "variance"), [(0, 0.0), (487, 0.00979), (999, 0.02)])
def test_variance_of_the_added_noise(t, variance, variance_type):
    """Reference values and tolerance of diffusers' tests of DDPMScheduler."""
    scheduler, zeros = DDPMFromScratchScheduler(variance_type=variance_type), torch.zeros(1, 1, 2, 2)
    noise = scheduler.step(zeros, t, zeros, variance_noise=torch.ones_like(zeros)).prev_sample
    assert float((noise**2 - variance).abs().sum()) < 1e-5


@pytest.mark.parametrize("variance_type", ["fixed_large", "fixed_large_log"])
@pytest.mark.parametrize("t", [487, 999])
def test_large_variance_of_the_added_noise_is_beta(t, variance_type):
    scheduler, zeros = DDPMFromScratchScheduler(variance_type=variance_type), torch.zeros(1, 1, 2, 2)
    noise = scheduler.step(zeros, t, zeros, variance_noise=torch.ones_like(zeros)).prev_sample
    torch.testing.assert_close(noise**2, scheduler.betas[t].expand_as(zeros), rtol=1e-4, atol=0)


# Full loops of diffusers' tests, with their reference values


def full_loop(scheduler, sample, timesteps):
    source = torch.manual_seed(0)
    for t in timesteps:
        sample = scheduler.step(network(sample, t), t, sample, generator=source).prev_sample
    return sample


@pytest.mark.parametrize(
    ("prediction_type", "total", "mean"),
    [("epsilon", 258.9606, 0.3372), ("v_prediction", 202.0296, 0.2631)],
)
def test_full_loop_has_the_reference_values(prediction_type, total, mean):
    """Reference values of diffusers' tests of DDPMScheduler."""
    scheduler = DDPMFromScratchScheduler(prediction_type=prediction_type)
    result = full_loop(scheduler, ramp(), range(999, -1, -1)).abs()
    assert abs(float(result.sum()) - total) < 1e-2
    assert abs(float(result.mean()) - mean) < 1e-3


def noised_loop(scheduler):
    timesteps = scheduler.timesteps[(len(scheduler) - 2) * scheduler.order :]
    return full_loop(scheduler, scheduler.add_noise(ramp(), ramp_noise(), timesteps[:1]), timesteps)


def test_full_loop_from_a_noised_sample_has_the_reference_values():
    """Reference values of diffusers' tests of DDPMScheduler."""
    result = noised_loop(DDPMFromScratchScheduler()).abs()
    assert abs(float(result.sum()) - 387.9466) < 1e-2
    assert abs(float(result.mean()) - 0.5051) < 1e-3


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_full_loops_equal_stock_in_every_element(prediction_type):
    stock, ours = (c(prediction_type=prediction_type) for c in (DDPMScheduler, DDPMFromScratchScheduler))
    assert torch.equal(*(full_loop(s, ramp(), range(999, -1, -1)) for s in (stock, ours)))
    assert torch.equal(*(noised_loop(s) for s in (stock, ours)))


@pytest.mark.parametrize("chain", [{}, {"num_inference_steps": 50}, {"timesteps": [900, 500, 0]}], ids=str)
def test_full_loop_warns_of_nothing(chain):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler = DDPMFromScratchScheduler()
        for _ in range(2):
            if chain:
                scheduler.set_timesteps(**chain)
            full_loop(scheduler, ramp(), scheduler.timesteps)


# Chains of timesteps


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ({"timesteps": [100, 87, 50, 51, 0]}, "descending order"),
        ({"timesteps": [100, 87, 87, 0]}, "descending order"),
        ({"timesteps": [100, 87, 50, 1, 0], "num_inference_steps": 5}, "one of"),
        ({"timesteps": [1000]}, "timestep"),
        ({"timesteps": [1001, 0]}, "timestep"),
        ({"num_inference_steps": 1001}, "num_inference_steps"),
    ],
    ids=str,
)
def test_chain_that_stock_refuses_is_refused_alike(chain, message):
    for scheduler in (DDPMScheduler(), DDPMFromScratchScheduler()):
        with pytest.raises(ValueError, match=message):
            scheduler.set_timesteps(**chain)


@pytest.mark.parametrize(
    "chain",
    [
        {},
        {"num_inference_steps": 1},
        {"num_inference_steps": 7},
        {"num_inference_steps": 1000},
        {"timesteps": [100, 87, 50, 1, 0]},
        {"timesteps": [999]},
    ],
    ids=str,
)
def test_previous_timestep_is_that_of_stock(chain):
    stock, ours = DDPMScheduler(), DDPMFromScratchScheduler()
    if chain:
        stock.set_timesteps(**chain)
        ours.set_timesteps(**chain)
    expected = [int(stock.previous_timestep(t)) for t in stock.timesteps]
    assert expected[-1] == -1
    assert [int(ours.previous_timestep(t)) for t in ours.timesteps] == expected
    assert [int(ours.previous_timestep(int(t))) for t in ours.timesteps] == expected


def test_custom_timesteps_are_visited_and_forgotten_by_the_next_chain():
    scheduler = DDPMFromScratchScheduler()
    scheduler.set_timesteps(timesteps=[100, 87, 50, 1, 0])
    assert scheduler.custom_timesteps is True and scheduler.timesteps.tolist() == [100, 87, 50, 1, 0]
    scheduler.set_timesteps(5)
    assert scheduler.custom_timesteps is False and scheduler.timesteps.tolist() == [800, 600, 400, 200, 0]


@pytest.mark.parametrize("steps", [1, 5, 100, 1000])
def test_length_is_the_number_of_training_timesteps(steps):
    scheduler = DDPMFromScratchScheduler(num_train_timesteps=steps)
    scheduler.set_timesteps(1)
    assert len(scheduler) == len(scheduler.betas) == steps


# What other code reads


@pytest.mark.parametrize("stock_class", [DDPMScheduler, DDPMParallelScheduler])
def test_every_public_name_of_stock_exists(stock_class):
    def public(scheduler):
        return {name for name in dir(scheduler) if not name.startswith("_")}

    assert public(stock_class()) - public(DDPMFromScratchScheduler()) == set()


@pytest.mark.parametrize("chain", [None, 10])
def test_attributes_equal_those_of_stock(chain):
    stock, ours = DDPMScheduler(), DDPMFromScratchScheduler()
    if chain:
        stock.set_timesteps(chain)
        ours.set_timesteps(chain)
    for name in ("init_noise_sigma", "order", "num_inference_steps", "custom_timesteps", "variance_type"):
        assert getattr(ours, name) == getattr(stock, name), name
    for name in ("betas", "alphas", "alphas_cumprod", "one", "timesteps"):
        a, b = getattr(ours, name), getattr(stock, name)
        assert torch.equal(a, b) and (a.dtype, a.device) == (b.dtype, b.device), name
    assert (ours.order, ours.init_noise_sigma) == (1, 1.0)


def test_scheduler_does_not_promise_a_begin_index():
    """Pipelines call set_begin_index where it exists; stock has none."""
    for scheduler in (DDPMScheduler(), DDPMFromScratchScheduler()):
        assert not hasattr(scheduler, "set_begin_index")


def test_scale_model_input_returns_the_sample():
    scheduler, sample = DDPMFromScratchScheduler(), normal()
    assert scheduler.scale_model_input(sample, 0.0) is sample
    assert scheduler.scale_model_input(sample) is sample


@pytest.mark.parametrize(
    "method",
    ["set_timesteps", "step", "add_noise", "get_velocity", "scale_model_input", "previous_timestep"],
)
def test_methods_take_the_arguments_of_stock_in_the_same_order(method):
    stock, ours = (
        list(inspect.signature(getattr(c, method)).parameters.values())
        for c in (DDPMScheduler, DDPMFromScratchScheduler)
    )
    assert [(p.name, p.default) for p in ours[: len(stock)]] == [(p.name, p.default) for p in stock]
    assert all(p.default is not inspect.Parameter.empty for p in ours[len(stock) :])


# What DDPMParallelScheduler adds: a timestep for each sample


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize(
    ("chain", "timesteps"),
    [
        ({}, [999, 500, 1, 0]),
        ({"num_inference_steps": 50}, [0, 980, 980, 20]),
        ({"timesteps": [900, 500, 100]}, [100, 900, 500, 100]),
    ],
    ids=["all", "spaced", "custom"],
)
def test_step_of_a_batch_of_timesteps_equals_single_steps(chain, timesteps, variance_type):
    output = normal((4, 6 if variance_type == "learned_range" else 3, 8, 8))
    sample, noise = normal(seed=1), normal(seed=2)
    for prediction_type in PREDICTIONS:
        scheduler = DDPMFromScratchScheduler(prediction_type=prediction_type, variance_type=variance_type)
        if chain:
            scheduler.set_timesteps(**chain)
        batch = scheduler.step(output, torch.tensor(timesteps), sample, variance_noise=noise)
        single = [
            scheduler.step(output[i : i + 1], t, sample[i : i + 1], variance_noise=noise[i : i + 1])
            for i, t in enumerate(timesteps)
        ]
        for name in ("prev_sample", "pred_original_sample"):
            expected = torch.cat([result[name] for result in single])
            torch.testing.assert_close(batch[name], expected, rtol=1e-6, atol=1e-7)


def test_batch_of_timesteps_takes_points_and_generators():
    scheduler, timesteps = DDPMFromScratchScheduler(), torch.tensor([999, 500, 0])
    output, sample = normal((3, 2)), normal((3, 2), 1)
    batch = scheduler.step(output, timesteps, sample, generator=[seeded(i) for i in range(3)]).prev_sample
    for i, t in enumerate(timesteps):
        rows = slice(i, i + 1)
        alone = scheduler.step(output[rows], t, sample[rows], generator=seeded(i)).prev_sample
        torch.testing.assert_close(batch[rows], alone, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "timesteps", [[999, 500], [999, 500, 0, 3, 4], [999, 500, 1, 1000], [999, 500, 1, -1]]
)
def test_batch_of_wrong_timesteps_is_refused(timesteps):
    with pytest.raises(ValueError, match="timestep"):
        DDPMFromScratchScheduler().step(normal(), torch.tensor(timesteps), normal())


def batch_of_three():
    """Three samples with 4 rows each, and the timesteps 0, 1, 2 for them, as diffusers' test has it."""
    samples = torch.cat([ramp(), ramp() + 0.1, ramp() - 0.1])
    return samples, torch.arange(3).repeat_interleave(4)


def test_batch_step_no_noise_has_the_reference_values():
    """Reference values of diffusers' test of DDPMParallelScheduler."""
    samples, timesteps = batch_of_three()
    scheduler = DDPMFromScratchScheduler()
    result = scheduler.batch_step_no_noise(network(samples, timesteps), timesteps, samples).abs()
    assert abs(float(result.sum()) - 1153.1833) < 1e-2
    assert abs(float(result.mean()) - 0.5005) < 1e-3


@pytest.mark.parametrize(
    "config",
    [
        {"clip_sample": True},
        {"thresholding": True, "sample_max_value": 2.0},
        {"clip_sample": False, "variance_type": "learned_range"},
    ],
    ids=str,
)
@pytest.mark.parametrize("steps", [None, 50])
def test_batch_step_no_noise_equals_stock(steps, config):
    timesteps, sample = torch.tensor([980, 500, 20, 0]), normal(seed=1)
    output = normal((4, 6 if "variance_type" in config else 3, 8, 8))
    for prediction_type in PREDICTIONS:
        results = []
        for class_ in (DDPMParallelScheduler, DDPMFromScratchScheduler):
            scheduler = class_(prediction_type=prediction_type, **config)
            if steps:
                scheduler.set_timesteps(steps)
            results.append(scheduler.batch_step_no_noise(output, timesteps, sample))
        torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_batch_step_no_noise_is_the_step_without_its_noise(spacing):
    """Stock takes an even spacing for granted; ours follows the chain, whatever it is."""
    scheduler = DDPMFromScratchScheduler(timestep_spacing=spacing)
    scheduler.set_timesteps(7)
    timesteps = scheduler.timesteps[[0, 3, 3, 6]]
    output, sample = normal(), normal(seed=1)
    result = scheduler.batch_step_no_noise(output, timesteps, sample)
    for i, t in enumerate(timesteps):
        rows = slice(i, i + 1)
        noise = torch.zeros_like(sample[rows])
        expected = scheduler.step(output[rows], t, sample[rows], variance_noise=noise).prev_sample
        torch.testing.assert_close(result[rows], expected, rtol=1e-6, atol=1e-7)


def test_batch_step_no_noise_takes_a_list_of_integers():
    samples, timesteps = batch_of_three()
    scheduler, output = DDPMFromScratchScheduler(), network(samples, timesteps)
    a = scheduler.batch_step_no_noise(output, timesteps, samples)
    b = scheduler.batch_step_no_noise(output, timesteps.tolist(), samples)
    assert type(a) is torch.Tensor and torch.equal(a, b)


def test_batch_step_no_noise_draws_nothing():
    state = torch.get_rng_state()
    samples, timesteps = batch_of_three()
    DDPMFromScratchScheduler().batch_step_no_noise(network(samples, timesteps), timesteps, samples)
    assert torch.equal(torch.get_rng_state(), state)
