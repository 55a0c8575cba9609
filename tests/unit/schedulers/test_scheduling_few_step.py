"""FewStepScheduler: exact cases, order of convergence, the contract of a scheduler, and calibrations."""

import math

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UNet2DModel,
)

from ddpm_from_scratch import (
    DDPMFromScratchPipeline,
    DDPMFromScratchScheduler,
    FewStepScheduler,
    PointDenoiser,
)
from ddpm_from_scratch.networks.mixtures import GaussianMixtureDenoiser
from ddpm_from_scratch.schedulers.exponential_adams import adams_weights, few_step, half_log_snr

SHAPE = (3, 2, 4, 4)
PREDICTIONS = ("epsilon", "sample", "v_prediction")
SCHEDULES = {
    "linear": {},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "zero SNR": {"rescale_betas_zero_snr": True},
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(shape=SHAPE, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=seeded(seed)).to(dtype)


def exact(scheduler, shape=SHAPE[1:], seed=3):
    """The exact network for a mixture of three Gaussians."""
    size = math.prod(shape)
    means = torch.randn(3, size, generator=seeded(seed), dtype=torch.float64)
    return GaussianMixtureDenoiser(
        means=(0.5 * means).tolist(),
        covariances=(0.02 * torch.eye(size)).tolist(),
        alphas_cumprod=scheduler.alphas_cumprod.tolist(),
        prediction_type=scheduler.config.prediction_type,
        sample_shape=shape,
    )


@torch.no_grad()
def sample_with(scheduler, model=None, sample=None):
    """The end of a chain from noise of seed 0; noise on the way has seed 1."""
    sample, generator = normal() if sample is None else sample, seeded(1)
    model = model or exact(scheduler)
    takes_generator = not isinstance(scheduler, DPMSolverMultistepScheduler)
    options = {"generator": generator} if takes_generator else {}
    if isinstance(scheduler, DDIMScheduler):  # otherwise it clips x_0, but not the noise that goes with it
        options["use_clipped_model_output"] = True
    for t in scheduler.timesteps:
        sample = scheduler.step(model(sample, t).sample.to(sample.dtype), t, sample, **options).prev_sample
    return sample


def only(timesteps, noise_level=0.0):
    """A calibration for the number of some timesteps."""
    return {"steps": {str(len(timesteps)): {"timesteps": list(timesteps), "noise_level": noise_level}}}


# What is known exactly.


@pytest.mark.filterwarnings("ignore:timesteps end at")
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("clip", [{"clip_sample": False}, {"clip_sample": True}], ids=str)
@pytest.mark.parametrize("noise_level", [0, 1])
def test_first_order_is_ddim_or_ddpm(schedule, prediction_type, clip, noise_level):
    if schedule == "zero SNR" and prediction_type == "epsilon":
        pytest.skip("epsilon says nothing of x_0 there")
    settings = SCHEDULES[schedule] | clip | {"prediction_type": prediction_type}
    visited = [999 - 52 * i for i in range(20)]
    ours = FewStepScheduler(
        **settings, solver_order=1, corrector_order=0, calibration=only(visited, float(noise_level))
    )
    ours.set_timesteps(20)
    if noise_level == 1:
        stock = DDPMFromScratchScheduler(**settings) if "zero" in schedule else DDPMScheduler(**settings)
        stock.set_timesteps(timesteps=visited)
    else:
        stock = DDIMScheduler(**settings)
        stock.set_timesteps(20)
        stock.timesteps = torch.tensor(visited)
        # DDIM takes the step before as t - T // n: make that the distance of our nodes.
        stock.register_to_config(num_train_timesteps=52 * 20)
    assert (sample_with(ours) - sample_with(stock)).abs().max() < 1e-4


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_predictor_is_dpm_solver_of_diffusers(schedule, prediction_type, order):
    """Order 3 of the two differs by design: theirs is a Taylor expansion."""
    settings = SCHEDULES[schedule] | {"prediction_type": prediction_type}
    stock = DPMSolverMultistepScheduler(
        **settings, solver_type="heun", solver_order=min(order, 2), timestep_spacing="trailing"
    )
    stock.set_timesteps(12)
    ours = FewStepScheduler(
        **settings, solver_order=order, corrector_order=0, calibration=only(stock.timesteps.tolist())
    )
    ours.set_timesteps(12)
    difference = (sample_with(ours) - sample_with(stock)).abs().max()
    # Noise in terms of x_0 is divided by a = 5e-5 at the start of the cosine schedule.
    rounding = 2e-2 if (schedule, prediction_type) == ("cosine", "epsilon") else 2e-5
    assert difference < rounding if order < 3 else difference > 1e-4


def test_corrector_does_the_step_again():
    """Folded into the next step, it must give what redoing the last step from its start gives."""
    nodes = [0.01, 0.2, 0.6, 0.95]
    x = {0: 0.3}
    estimate = [0.5, -0.2, 0.7, 0.1]
    places = [half_log_snr(node) for node in nodes]
    noises = [0.0, 0.4, -0.3]
    level = 0.6
    rate = 1 + level**2

    def step_from(start, index, known):
        a, s = math.sqrt(nodes[index + 1]), math.sqrt(1 - nodes[index + 1])
        h = places[index + 1] - places[index]
        weights = adams_weights(rate, h, [place - places[index] for place, _ in known])
        std = s * math.sqrt(-math.expm1(-2 * level**2 * h))
        shrink = s / math.sqrt(1 - nodes[index]) * math.exp(-(level**2) * h)
        guess = sum(w * e for w, (_, e) in zip(weights, known, strict=True))
        return shrink * start + a * guess + std * noises[index]

    known, before = list(zip(places, estimate, strict=True)), math.nan
    for index in range(3):
        start = x[index]
        if index:  # corrected with the estimate just made
            start = step_from(before, index - 1, [known[index], known[index - 1]])
        x[index + 1] = step_from(start, index, known[max(0, index - 1) : index + 1][::-1])
        before = start
    sample, history = x[0], []
    for index in range(3):
        history = [estimate[index], *history]
        step = few_step(nodes, index, len(history), 2, 2, [level] * 4)
        sample = step.sample * sample + step.noise_std * noises[index]
        sample += sum(w * e for w, e in zip(step.estimates, history, strict=False))
        assert sample == pytest.approx(x[index + 1], abs=1e-12)


# Order of convergence, against many small steps of the same kind.


def error(order, noise_level, counts):
    """RMS distance of chains of some numbers of steps from one of 960 with the same noise."""
    results, noise, start = {}, {}, normal((400, 2), dtype=torch.float64)
    finest = 960
    for count in (*counts, finest):
        # A smooth change of variables of the whole chain, not rounded to timesteps.
        u = np.linspace(0, 1, count + 1)
        nodes = (1 / (1 + np.exp(-2 * (-3 + 6 * u)))).tolist()
        model = exact(FewStepScheduler(), (2,))
        x, history = start.clone(), []
        for index in range(count):
            alpha = nodes[index]
            history = [model.pred_original(x, alpha), *history][:3]
            step = few_step(nodes, index, len(history), order, 0, [noise_level] * len(nodes))
            x = step.sample * x + sum(w * e for w, e in zip(step.estimates, history, strict=False))
            if noise_level:
                x = x + step.noise_std * brownian(noise, finest, count, index, noise_level)
        results[count] = x
    return [float((results[count] - results[finest]).square().mean().sqrt()) for count in counts]


def brownian(noise, finest, count, index, noise_level):
    """The normal noise of a large step that the small ones inside it add up to."""
    if not noise:
        noise["z"] = torch.randn((finest, 400, 2), generator=seeded(5), dtype=torch.float64)
    ratio, h = finest // count, 6 / finest
    # each small noise is shrunk by what is left of the step, exp(-tau^2 (h' - u))
    weights = torch.tensor([math.exp(-(noise_level**2) * h * (ratio - 1 - k)) for k in range(ratio)])
    inside = noise["z"][index * ratio : (index + 1) * ratio]
    return (weights[:, None, None] * inside).sum(0) / weights.square().sum().sqrt()


@pytest.mark.parametrize(("order", "slope"), [(1, 1.0), (2, 2.0)])
def test_error_of_the_ode_falls_with_the_order(order, slope):
    counts = (30, 60, 120)
    errors = error(order, 0.0, counts)
    measured = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert measured == pytest.approx(-slope, abs=0.25)


def test_strong_error_of_the_sde_with_shared_noise():
    counts = (30, 60, 120)
    measured = np.polyfit(np.log(counts), np.log(error(2, 1.0, counts)), 1)[0]
    assert -1.6 < measured < -0.8


# The contract of a scheduler.


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_step_keeps_dtype_and_shape(dtype):
    scheduler = FewStepScheduler(noise_level=0.5, calibration=only([999, 500, 100]))
    scheduler.set_timesteps(3)
    sample = normal(dtype=dtype)
    for t in scheduler.timesteps:
        output = scheduler.step(torch.zeros_like(sample), t, sample, generator=seeded())
        sample = output.prev_sample
        assert sample.dtype == output.pred_original_sample.dtype == dtype
        assert sample.shape == SHAPE and bool(sample.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_as_good_as_its_rounding(dtype):
    scheduler = FewStepScheduler(prediction_type="v_prediction", calibration=only(range(999, 0, -50)))
    scheduler.set_timesteps(20)
    precise = sample_with(scheduler)
    scheduler.set_timesteps(20)
    half = sample_with(scheduler, sample=normal(dtype=dtype))
    assert (half.float() - precise).abs().mean() < 4 * torch.finfo(dtype).eps


def test_step_leaves_its_arguments_alone():
    scheduler = FewStepScheduler(noise_level=1.0, calibration=only([999, 500, 100]))
    scheduler.set_timesteps(3)
    sample, output, noise = normal(), normal(seed=1), normal(seed=2)
    for t in scheduler.timesteps:
        scheduler.step(output, t, sample, variance_noise=noise)
    for tensor, seed in ((sample, 0), (output, 1), (noise, 2)):
        assert torch.equal(tensor, normal(seed=seed))


def test_second_run_is_the_first_run_again():
    scheduler = FewStepScheduler(calibration=only([999, 700, 400, 100]))
    scheduler.set_timesteps(4)
    first = sample_with(scheduler)
    sample_with_other = normal(seed=4)
    scheduler.step(sample_with_other, 999, sample_with_other)  # begun and left
    scheduler.set_timesteps(4)
    assert torch.equal(sample_with(scheduler), first)
    assert torch.equal(sample_with(scheduler), first)  # without set_timesteps, too


def test_chain_may_begin_in_the_middle():
    """As image-to-image pipelines do: the first estimate stands alone there."""
    visited = [999, 700, 400, 100]
    scheduler = FewStepScheduler(calibration=only(visited))
    scheduler.set_timesteps(4)
    sample_with(scheduler)  # leaves nothing behind
    scheduler.set_begin_index(2)
    sample, output = normal(), normal(seed=1)
    moved = scheduler.step(output, scheduler.timesteps[2], sample).prev_sample
    first_order = FewStepScheduler(solver_order=1, corrector_order=0, calibration=only(visited))
    first_order.set_timesteps(4)
    assert torch.allclose(moved, first_order.step(output, 400, sample).prev_sample, atol=1e-6)
    assert scheduler.step_index == 3 and scheduler.begin_index == 2


def test_changes_of_the_sample_between_steps_are_kept():
    """Inpainting replaces parts of the sample; a corrector that goes on from its own copy would undo that."""
    scheduler = FewStepScheduler(calibration=only([999, 700, 400, 100]))
    scheduler.set_timesteps(4)
    sample = scheduler.step(normal(seed=1), 999, normal()).prev_sample
    chain = scheduler._chain.step(1, 2)
    plain = scheduler.step(normal(seed=2), 700, sample).prev_sample
    scheduler.set_timesteps(4)
    sample = scheduler.step(normal(seed=1), 999, normal()).prev_sample
    # The same estimate of x_0 from a moved sample: the difference is that of the sample alone.
    moved_output = normal(seed=2) + 1.0 / chain.noise
    moved = scheduler.step(moved_output, 700, sample + 1.0).prev_sample
    assert torch.allclose(moved - plain, torch.full(SHAPE, chain.sample), atol=1e-4)


@pytest.mark.parametrize("variance_type", ["learned", "learned_range"])
def test_learned_variances_are_left_aside(variance_type):
    scheduler = FewStepScheduler(variance_type=variance_type, calibration=only([999, 500]))
    plain = FewStepScheduler(calibration=only([999, 500]))
    for one in (scheduler, plain):
        one.set_timesteps(2)
    doubled = torch.cat([normal(seed=1), normal(seed=2)], dim=1)
    ours = scheduler.step(doubled, 999, normal()).prev_sample
    assert torch.equal(ours, plain.step(normal(seed=1), 999, normal()).prev_sample)
    with pytest.raises(ValueError, match="twice the sample's channels"):
        scheduler.step(normal(), 500, normal())
    with pytest.raises(ValueError, match="the sample's shape"):
        plain.step(doubled, 500, normal())


@pytest.mark.parametrize("settings", [{"clip_sample": True}, {"thresholding": True, "sample_max_value": 2.0}])
def test_estimate_is_clipped_or_thresholded(settings):
    scheduler = FewStepScheduler(**settings, prediction_type="sample", calibration=only([999, 500]))
    ours = DDPMFromScratchScheduler(**{"clip_sample": False} | settings, prediction_type="sample")
    scheduler.set_timesteps(2)
    output = 5 * normal(seed=1)
    original = scheduler.step(output, 999, normal()).pred_original_sample
    assert torch.equal(original, ours.step(output, 999, normal(), generator=seeded()).pred_original_sample)
    assert original.abs().max() <= 1


def test_noise_of_a_list_of_generators_does_not_depend_on_the_batch():
    scheduler = FewStepScheduler(noise_level=1.0, calibration=only([999, 500]))
    scheduler.set_timesteps(2)
    together = scheduler.step(normal(), 999, normal(), generator=[seeded(i) for i in range(3)]).prev_sample
    alone = scheduler.step(normal()[1:2], 999, normal()[1:2], generator=[seeded(1)]).prev_sample
    assert torch.equal(together[1:2], alone)


def test_timestep_of_a_batch_must_be_one():
    scheduler = FewStepScheduler(calibration=only([999, 500]))
    scheduler.set_timesteps(2)
    scheduler.step(normal(), torch.tensor([999, 999, 999]), normal())
    with pytest.raises(ValueError, match="must be one integer"):
        scheduler.step(normal(), torch.tensor([500, 999, 500]), normal())
    with pytest.raises(ValueError, match="not one of the 2"):
        scheduler.step(normal(), 3, normal())


@pytest.mark.parametrize(
    "other", [DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler]
)
def test_config_goes_to_other_schedulers_and_back(other):
    settings = {"beta_start": 0.001, "beta_end": 0.03, "prediction_type": "v_prediction"}
    calibration = only([999, 500], 0.5)
    scheduler = FewStepScheduler(**settings, solver_order=3, calibration=calibration)
    there = other.from_config(scheduler.config)
    assert all(there.config[key] == value for key, value in settings.items())
    back = FewStepScheduler.from_config(there.config)
    assert all(back.config[key] == value for key, value in settings.items())
    assert back.config.calibration == calibration and back.config.solver_order == 3


def test_ancestral_scheduler_takes_the_config_without_a_word(monkeypatch):
    said = []
    monkeypatch.setattr("diffusers.configuration_utils.logger.warning", said.append)
    calibration = only([999, 500], 0.5)
    there = DDPMFromScratchScheduler.from_config(FewStepScheduler(calibration=calibration).config)
    back = FewStepScheduler.from_config(there.config)
    assert back.config.calibration == calibration and said == []


def test_saved_scheduler_keeps_its_calibration(tmp_path):
    FewStepScheduler(calibration=only([999, 500], 0.25)).save_pretrained(tmp_path)
    loaded = FewStepScheduler.from_pretrained(tmp_path)
    loaded.set_timesteps(2)
    assert loaded.timesteps.tolist() == [999, 500] and loaded.timesteps_for(2) == [999, 500]
    assert loaded._chain.step(0, 1).noise_std > 0


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"solver_order": 4}, ValueError, "solver_order is 4"),
        ({"corrector_order": -1}, ValueError, "corrector_order is -1"),
        ({"noise_level": 1.5}, ValueError, "noise_level is 1.5"),
        ({"noise_level": "high"}, TypeError, "noise_level is 'high'"),
        ({"noise_level": 1.0, "noise_scale": 1.5}, ValueError, "noise_scale is 1.5"),
        ({"noise_scale": 0.5}, ValueError, "noise_level is not given"),
        ({"noise_interval": [100, 600]}, ValueError, "noise_level is not given"),
        ({"noise_level": 1.0, "noise_interval": 600}, TypeError, "noise_interval is 600"),
        (
            {"noise_level": 1.0, "noise_interval": [600, 100]},
            ValueError,
            "second of noise_interval is 100",
        ),
        (
            {"noise_level": 1.0, "noise_interval": [0, 1000]},
            ValueError,
            "second of noise_interval is 1000",
        ),
        ({"calibration": [1, 2]}, TypeError, "must be None or what calibrate returned"),
        ({"calibration": {"stepz": {}}}, ValueError, "'stepz'"),
        ({"calibration": {"steps": {"2": {"timesteps": [3, 2]}}}}, ValueError, "must have the keys"),
        ({"calibration": {"steps": {"3": {"timesteps": [3, 2], "noise_level": 0}}}}, ValueError, "'3' steps"),
        (
            {"calibration": {"steps": {"2": {"timesteps": [2, 3], "noise_level": 0}}}},
            ValueError,
            "descending",
        ),
        ({"calibration": {"density": [1.0, 2.0]}}, ValueError, "only one of"),
        ({"calibration": {"half_log_snr": [1.0, 1.0], "density": [1.0, 2.0]}}, ValueError, "must rise"),
        ({"calibration": {"half_log_snr": [0.0, 1.0], "density": [0.0, 0.0]}}, ValueError, "everywhere"),
        ({"calibration": {"half_log_snr": [0.0, math.inf], "density": [1, 1]}}, ValueError, "not finite"),
    ],
)
def test_wrong_settings_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        FewStepScheduler(**settings)


def test_noise_is_added_in_the_interval_only_and_scaled():
    """Outside, a step is that of the flow; inside, that of the SDE with its noise multiplied."""
    visited = [900, 700, 500, 300, 100]
    steps = {}
    for name, settings in {
        "flow": {"noise_level": 0.0},
        "sde": {"noise_level": 1.0},
        "both": {"noise_level": 1.0, "noise_interval": [300, 700], "noise_scale": 0.5},
    }.items():
        scheduler = FewStepScheduler(**settings, corrector_order=0, calibration={})
        scheduler.set_timesteps(timesteps=visited)
        steps[name] = scheduler.linear_steps()
    for index, timestep in enumerate(visited):
        if timestep in (700, 500, 300):
            expected = steps["sde"][index]
            expected = expected._replace(noise_std=0.5 * expected.noise_std)
        else:
            expected = steps["flow"][index]
        assert steps["both"][index] == expected
    assert [step.noise_std > 0 for step in steps["both"]] == [False, True, True, True, False]


@pytest.mark.parametrize("kind", [FewStepScheduler, DDPMFromScratchScheduler], ids=["few steps", "ancestral"])
def test_linear_steps_are_the_steps(kind, generator):
    settings = {"noise_level": 0.7, "calibration": {}} if kind is FewStepScheduler else {}
    scheduler = kind(clip_sample=False, prediction_type="sample", **settings)
    scheduler.set_timesteps(8)
    sample = torch.randn(2, 3, 4, 4, generator=generator)
    estimates, other = [], sample
    for t, step in zip(scheduler.timesteps, scheduler.linear_steps(), strict=True):
        estimate, noise = torch.randn(2, *sample.shape, generator=generator)
        estimates.insert(0, estimate)
        sample = scheduler.step(estimate, t, sample, variance_noise=noise).prev_sample
        parts = [factor * old for factor, old in zip(step.estimates, estimates, strict=False)]
        other = step.sample * other + sum(parts) + step.noise_std * noise
        torch.testing.assert_close(sample, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arguments", [{}, {"num_inference_steps": 2, "timesteps": [3, 2]}])
def test_set_timesteps_needs_one_of_its_arguments(arguments):
    with pytest.raises(ValueError, match="exactly one of"):
        FewStepScheduler().set_timesteps(**arguments)


def test_missing_calibration_is_said_once():
    scheduler = FewStepScheduler()
    with pytest.warns(UserWarning, match="no calibration"):
        scheduler.set_timesteps(10)
    scheduler.set_timesteps(5)


def test_pipeline_makes_points(generator):
    model = PointDenoiser(sample_shape=(2,), hidden_size=16, num_blocks=1)
    pipeline = DDPMFromScratchPipeline(model, FewStepScheduler(calibration=only([999, 700, 400, 100])))
    output = pipeline(5, generator=generator, num_inference_steps=4, return_trajectory=True)
    assert output.images.shape == (5, 2) and output.trajectory.shape == (5, 5, 2)


# Which timesteps.


# Saved with a pipeline.


def small_unet(**options):
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=4, in_channels=1, out_channels=1, block_out_channels=(4,), norm_num_groups=2,
        layers_per_block=1, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
        add_attention=False, **options,
    )  # fmt: skip


@pytest.mark.parametrize("layout", ["portable", "remote-code"])
@pytest.mark.parametrize("calibration", [None, only([999, 500, 60], 0.5)], ids=["none", "calibrated"])
@pytest.mark.filterwarnings("ignore:the scheduler has no calibration")
def test_saved_pipeline_carries_the_calibration(layout, calibration, tmp_path):
    scheduler = FewStepScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", calibration=calibration
    )
    pipeline = DDPMFromScratchPipeline(small_unet(), scheduler)
    pipeline.save_pretrained(tmp_path, layout=layout)
    run = {"batch_size": 2, "num_inference_steps": 3, "output_type": "np"}
    before = pipeline(**run, generator=seeded()).images
    trusted = {"trust_remote_code": True} if layout == "remote-code" else {}
    loaded = [DDPMFromScratchPipeline.from_pretrained(tmp_path)]
    if layout == "remote-code":
        loaded.append(DiffusionPipeline.from_pretrained(tmp_path, **trusted))
    else:  # the pipeline's own code, on what stock diffusers loads
        stock = DiffusionPipeline.from_pretrained(tmp_path)
        assert type(stock.scheduler) is DDPMScheduler
        loaded.append(DDPMFromScratchPipeline(stock.unet, stock.scheduler))
    for one in loaded:
        assert type(one.scheduler).__name__ == "FewStepScheduler"
        assert one.scheduler.config.calibration == calibration
        assert np.array_equal(one(**run, generator=seeded()).images, before)


def test_scheduler_that_was_chosen_over_a_calibration_stays(tmp_path):
    few = FewStepScheduler(calibration=only([999, 500, 60], 0.5))
    pipeline = DDPMFromScratchPipeline(small_unet(), DDPMFromScratchScheduler.from_config(few.config))
    pipeline.save_pretrained(tmp_path)
    assert type(DDPMFromScratchPipeline.from_pretrained(tmp_path).scheduler) is DDPMFromScratchScheduler


def test_pipeline_takes_ten_steps_if_nobody_says():
    pipeline = DDPMFromScratchPipeline(small_unet(), FewStepScheduler(calibration=only(range(990, 0, -50))))
    assert pipeline(return_trajectory=True).trajectory.shape[0] == 11
    of_few = FewStepScheduler(num_train_timesteps=4, beta_schedule="squaredcos_cap_v2", calibration={})
    assert of_few.default_num_inference_steps == 4


@pytest.mark.parametrize(
    ("count", "last"), [(1, 999), (5, 50), (10, 50), (25, 39), (50, 19), (100, 9), (1000, 0)]
)
def test_without_a_calibration_the_chain_ends_where_networks_like_it(count, last):
    scheduler = FewStepScheduler(calibration={})  # known to be none, so without a warning
    scheduler.set_timesteps(count)
    assert len(scheduler.timesteps) == count and int(scheduler.timesteps[-1]) == last
    noisy = [
        t
        for t, step in zip(scheduler.timesteps.tolist(), scheduler.linear_steps(), strict=True)
        if step.noise_std
    ]
    assert noisy == [t for t in scheduler.timesteps.tolist()[:-1] if t <= 599]


def test_dpm_solver_takes_the_calibrated_timesteps():
    few = FewStepScheduler(calibration=only([999, 500, 60]))
    stock = DPMSolverMultistepScheduler.from_config(few.config)
    stock.set_timesteps(timesteps=few.timesteps_for(3))
    assert stock.timesteps.tolist() == [999, 500, 60]


@pytest.mark.parametrize("solver_order", [1, 2])
@pytest.mark.parametrize("noise_level", [0.0, 1.0])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"beta_schedule": "sigmoid", "prediction_type": "v_prediction"},
        {"clip_sample": True, "prediction_type": "sample"},
        {"thresholding": True, "sample_max_value": 1.5},
    ],
)
def test_to_diffusers_samples_the_same_on_the_same_timesteps(config, noise_level, solver_order):
    few = FewStepScheduler(
        **config, solver_order=solver_order, corrector_order=0, noise_level=noise_level, calibration={}
    )
    stock = few.to_diffusers()  # without a warning
    assert type(stock) is DPMSolverMultistepScheduler and stock.config.timestep_spacing == "trailing"
    visited, results = few.timesteps_for(20), []
    for scheduler in (few, stock):
        scheduler.set_timesteps(timesteps=visited)
        generator, sample = seeded(), normal()
        for t in visited:
            sample = scheduler.step(
                torch.sin(sample), torch.tensor(t), sample, generator=generator
            ).prev_sample
        results.append(sample)
    torch.testing.assert_close(*results, rtol=2e-3, atol=2e-3)  # its tables are float32


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"noise_level": 0.5, "corrector_order": 0}, "how much noise is added, and where .*'sde-dpmsolver"),
        ({"noise_level": 0.3, "corrector_order": 0}, "how much noise is added, and where .*'dpmsolver"),
        ({"noise_level": 1.0, "noise_interval": [9, 99], "corrector_order": 0}, "how much noise"),
        ({"noise_level": 0.0, "corrector_order": 2}, "the corrector: its"),
        (
            {"noise_level": 0.0, "corrector_order": 0, "clip_sample": True, "clip_sample_range": 3.0},
            r"\[-3, 3\]",
        ),
        ({"calibration": only([999, 500], 0.0), "corrector_order": 0}, r"timesteps_for\(n\)"),
        ({"noise_level": 0.0, "corrector_order": 0, "solver_order": 3}, "weights of third order"),
        ({}, "how much noise .*, nor the corrector"),
    ],
)
def test_to_diffusers_names_what_it_does_not_keep(config, said):
    few = FewStepScheduler(**{"calibration": {}} | config)
    with pytest.warns(UserWarning, match=f"does not keep .*{said}"):
        few.to_diffusers()


def test_to_diffusers_refuses_an_assigned_table_of_a_few_step_scheduler():
    few = FewStepScheduler(calibration={})
    few.alphas_cumprod = few.alphas_cumprod * 0.5
    with pytest.raises(ValueError, match="alphas_cumprod was assigned"):
        few.to_diffusers()
