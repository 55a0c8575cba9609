"""Bit-for-bit equality with diffusers' DDPMScheduler on float32 CPU, wherever that one is right."""

import inspect
import itertools

import pytest
import torch
from diffusers import DDPMScheduler

from ddpm_from_scratch import DDPMFromScratchScheduler

# What is compared here is walked through in any order, with random samples, at any number of steps.
pytestmark = pytest.mark.filterwarnings("ignore::ddpm_from_scratch.SchedulerWarning")

SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
PREDICTIONS = ("epsilon", "sample", "v_prediction")
VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "learned_range")
SPACINGS = ("leading", "linspace", "trailing")
CLIPS = ({"clip_sample": True}, {"clip_sample": False}, {"thresholding": True, "sample_max_value": 2.0})
SHAPES = ((3, 2), (2, 3, 4, 4))


def pair(**config):
    return DDPMScheduler(**config), DDPMFromScratchScheduler(**config)


def seeded():
    return torch.Generator().manual_seed(7)


def stock_is_wrong(config, chain, t):
    """Defect 3: stock adds the full noise to the last sample of a chain that does not end at 0."""
    return t == chain[-1] and t > 0 and config["variance_type"] in ("fixed_large", "learned_range")


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("beta_schedule", SCHEDULES)
def test_step_is_bit_equal(beta_schedule, prediction_type, generator):
    compared = 0
    for variance_type, spacing, clip, steps in itertools.product(
        VARIANCES, SPACINGS, CLIPS, (1, 7, 50, 1000)
    ):
        config = {
            "beta_schedule": beta_schedule,
            "prediction_type": prediction_type,
            "variance_type": variance_type,
        }
        stock, ours = pair(timestep_spacing=spacing, **config, **clip)
        stock.set_timesteps(steps)
        ours.set_timesteps(steps)
        assert torch.equal(stock.timesteps, ours.timesteps)
        chain = stock.timesteps.tolist()
        for shape in SHAPES:
            if "thresholding" in clip and len(shape) == 2:
                continue  # defect 9: stock raises TypeError
            for t in sorted({chain[0], chain[len(chain) // 2], chain[-2 if steps > 1 else -1], chain[-1]}):
                sample = torch.randn(shape, generator=generator)
                channels = shape[1] * (2 if variance_type == "learned_range" else 1)
                output = torch.randn(shape[0], channels, *shape[2:], generator=generator)
                a = stock.step(output, t, sample, generator=seeded())
                b = ours.step(output, t, sample, generator=seeded())
                assert torch.equal(a.pred_original_sample, b.pred_original_sample), (
                    config,
                    spacing,
                    clip,
                    steps,
                    t,
                )
                if not stock_is_wrong(config, chain, t):
                    assert torch.equal(a.prev_sample, b.prev_sample), (config, spacing, clip, steps, t)
                    compared += 1
    assert compared > 400


@pytest.mark.parametrize(
    "config",
    [
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
        {"num_train_timesteps": 37, "beta_start": 0.001, "beta_end": 0.3},
        {"trained_betas": [0.01, 0.02, 0.3], "num_train_timesteps": 3},
        *({"beta_schedule": name} for name in SCHEDULES),
    ],
)
def test_tables_are_bit_equal(config):
    stock, ours = pair(**config)
    for table in ("betas", "alphas", "alphas_cumprod", "timesteps"):
        assert torch.equal(getattr(stock, table), getattr(ours, table)), table


@pytest.mark.parametrize("shape", [(5, 2), (5, 3, 4, 4), (5, 2, 3, 4, 4)])
@pytest.mark.parametrize("beta_schedule", SCHEDULES)
def test_add_noise_and_velocity_are_bit_equal(beta_schedule, shape, generator):
    stock, ours = pair(beta_schedule=beta_schedule)
    x, noise = (torch.randn(shape, generator=generator) for _ in range(2))
    for timesteps in (torch.tensor([0, 1, 500, 998, 999]), torch.tensor([321])):
        assert torch.equal(stock.add_noise(x, noise, timesteps), ours.add_noise(x, noise, timesteps))
        assert torch.equal(stock.get_velocity(x, noise, timesteps), ours.get_velocity(x, noise, timesteps))


@pytest.mark.parametrize("steps_offset", [0, 1])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_timesteps_are_equal_for_every_number_of_steps(spacing, steps_offset):
    stock, ours = pair(timestep_spacing=spacing, steps_offset=steps_offset)
    different = 0
    for steps in range(1, 1000):
        stock.set_timesteps(steps)
        ours.set_timesteps(steps)
        chain = ours.timesteps
        assert (
            len(chain) == steps and bool((chain[:-1] > chain[1:]).all()) and 0 <= chain[-1] <= chain[0] <= 999
        )
        different += not torch.equal(stock.timesteps, chain)
    assert different == (62 if spacing == "trailing" else 0)  # defect 1: stock returns one timestep too many


def test_custom_timesteps_are_bit_equal(generator):
    stock, ours = pair()
    chain = [900, 500, 123, 4, 0]
    for scheduler in (stock, ours):
        scheduler.set_timesteps(timesteps=chain)
    assert torch.equal(stock.timesteps, ours.timesteps)
    for t in chain:
        x, output = (torch.randn(2, 3, 4, 4, generator=generator) for _ in range(2))
        a, b = (s.step(output, t, x, generator=seeded()).prev_sample for s in (stock, ours))
        assert torch.equal(a, b)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_full_loop_of_1000_steps_is_bit_equal(prediction_type):
    results = []
    for scheduler in pair(prediction_type=prediction_type):
        source = seeded()
        x = torch.randn(4, 3, 4, 4, generator=source)
        for t in scheduler.timesteps:
            x = scheduler.step(torch.sin(3 * x + t / 100), t, x, generator=source).prev_sample
        results.append(x)
    assert torch.equal(*results)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("variance_type", VARIANCES)
def test_step_is_bit_equal_in_other_precisions(variance_type, prediction_type, dtype, generator):
    for spacing, clip_sample in itertools.product(SPACINGS, (True, False)):
        config = {
            "prediction_type": prediction_type,
            "variance_type": variance_type,
            "clip_sample": clip_sample,
        }
        stock, ours = pair(timestep_spacing=spacing, **config)
        for scheduler in (stock, ours):
            scheduler.set_timesteps(7)
        for t in stock.timesteps[:-1]:  # the last step is defect 3
            x = torch.randn(2, 3, 8, 8, generator=generator).to(dtype)
            channels = 6 if variance_type == "learned_range" else 3
            output = torch.randn(2, channels, 8, 8, generator=generator).to(dtype)
            a, b = (s.step(output, t, x, generator=seeded()) for s in (stock, ours))
            assert b.prev_sample.dtype == dtype and torch.equal(a.prev_sample, b.prev_sample)
            assert torch.equal(a.pred_original_sample, b.pred_original_sample)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_add_noise_keeps_the_noise_of_small_timesteps(dtype):
    """Defect 8: stock rounds alpha-bar to half before 1 - alpha-bar, so the first timesteps get no noise at
    all."""
    stock, ours = pair()
    zeros, ones, first = torch.zeros(1, 4, dtype=dtype), torch.ones(1, 4, dtype=dtype), torch.tensor([0])
    assert float(stock.add_noise(zeros, ones, first)[0, 0]) == 0
    assert float(ours.add_noise(zeros, ones, first)[0, 0]) == pytest.approx(0.01, rel=0.01)


def test_the_fifteen_keys_have_the_same_names_order_and_defaults():
    stock, ours = (
        list(inspect.signature(c.__init__).parameters.values())[1:]
        for c in (DDPMScheduler, DDPMFromScratchScheduler)
    )
    assert len(stock) == 15
    for a, b in zip(stock, ours, strict=False):
        assert (a.name, a.default) == (b.name, b.default)
    step = list(inspect.signature(DDPMScheduler.step).parameters)
    assert list(inspect.signature(DDPMFromScratchScheduler.step).parameters)[: len(step)] == step
    assert "eta" not in inspect.signature(DDPMFromScratchScheduler.step).parameters
