"""What DDPMFromScratchScheduler has beyond DDPMScheduler: learned variances, warnings, conversion,
compilation.

Wrong arguments are in test_bad_inputs.py, equality with stock in test_parity.py and test_contract.py.
"""

import warnings

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch._dynamo.testing import CompileCounterWithBackend

from common import seeded
from ddpm_from_scratch import BETA_SCHEDULES, DDPMFromScratchScheduler, SchedulerWarning
from ddpm_from_scratch.process.estimate import dynamic_threshold

allow_warnings = pytest.mark.filterwarnings("ignore::ddpm_from_scratch.SchedulerWarning")

X = torch.zeros(2, 3, 4, 4)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed))


def test_fixed_large_log_equals_fixed_large(generator):
    """Defect 4: stock takes the square root of a log-variance and returns NaN."""
    results = [
        DDPMFromScratchScheduler(variance_type=kind).step(X, 500, X, generator=seeded())
        for kind in ("fixed_large", "fixed_large_log")
    ]
    torch.testing.assert_close(results[0].prev_sample, results[1].prev_sample)


def test_learned_variance_is_a_log_variance():
    scheduler = DDPMFromScratchScheduler(variance_type="learned", clip_sample=False)
    x, noise = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    output = torch.cat([torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), -2.0)], dim=1)
    result = scheduler.step(output, 500, x, variance_noise=noise).prev_sample
    torch.testing.assert_close(result, torch.full_like(x, float(torch.exp(torch.tensor(-1.0)))))


def test_thresholding_takes_points_and_keeps_the_quantile():
    scheduler = DDPMFromScratchScheduler(
        thresholding=True, sample_max_value=10.0, prediction_type="sample", dynamic_thresholding_ratio=1.0
    )
    original = scheduler.step(
        torch.tensor([[4.0, -2.0], [0.5, 0.1]]), 500, torch.zeros(2, 2)
    ).pred_original_sample
    torch.testing.assert_close(original, torch.tensor([[1.0, -0.5], [0.5, 0.1]]))


@allow_warnings
def test_variance_noise_replaces_the_generator(generator):
    scheduler = DDPMFromScratchScheduler()
    noise = torch.randn(X.shape, generator=seeded(5))
    scheduler.set_timesteps(timesteps=[500, 0])
    drawn = scheduler.step(X, 500, X, generator=seeded(5)).prev_sample
    assert torch.equal(drawn, scheduler.step(X, 500, X, variance_noise=noise).prev_sample)
    with pytest.raises(ValueError, match="variance_noise"):
        scheduler.step(X, 500, X, variance_noise=noise[:1])


def test_changing_the_variance_type_in_the_config_takes_effect():
    scheduler, large = DDPMFromScratchScheduler(), DDPMFromScratchScheduler(variance_type="fixed_large")
    scheduler.set_timesteps(10)
    large.set_timesteps(10)
    scheduler.register_to_config(variance_type="fixed_large")
    assert scheduler.variance_type == "fixed_large"
    a, b = (s.step(X, 500, X, generator=seeded()).prev_sample for s in (scheduler, large))
    assert torch.equal(a, b)


@allow_warnings
def test_generator_list_makes_samples_independent_of_the_batch():
    scheduler = DDPMFromScratchScheduler(clip_sample=False)
    both = scheduler.step(X, 500, X, generator=[seeded(s) for s in (1, 2)]).prev_sample
    alone = scheduler.step(X[:1], 500, X[:1], generator=seeded(2)).prev_sample
    assert torch.equal(both[1:], alone)


def test_assigned_alphas_cumprod_takes_effect_at_once():
    ours, other = DDPMFromScratchScheduler(), DDPMFromScratchScheduler(beta_schedule="squaredcos_cap_v2")
    ours.step(X, 500, X)
    ours.alphas_cumprod = other.alphas_cumprod
    x, t = normal(2, 3, 4, 4), torch.tensor([500, 20])
    assert torch.equal(ours.add_noise(x / 4, x, t), other.add_noise(x / 4, x, t))
    a, b = (s.step(x, 499, x, variance_noise=x).prev_sample for s in (ours, other))
    assert torch.equal(a, b)


@allow_warnings
def test_changed_settings_take_effect_at_once_and_wrong_ones_are_refused_at_once():
    scheduler = DDPMFromScratchScheduler()
    scheduler.register_to_config(beta_schedule="squaredcos_cap_v2", num_train_timesteps=500)
    fresh = DDPMFromScratchScheduler(beta_schedule="squaredcos_cap_v2", num_train_timesteps=500)
    assert torch.equal(scheduler.alphas_cumprod, fresh.alphas_cumprod)
    assert torch.equal(scheduler.timesteps, fresh.timesteps)
    with pytest.raises(ValueError, match="variance_type is 'small'"):
        scheduler.register_to_config(variance_type="small")


@allow_warnings
def test_tables_do_not_depend_on_the_default_dtype():
    expected, x = DDPMFromScratchScheduler(clip_sample=False), normal(2, 3, 4, 4)
    torch.set_default_dtype(torch.float64)
    try:
        scheduler = DDPMFromScratchScheduler(clip_sample=False)
        for t in (999, 500, 0):
            a, b = (s.step(x, t, x, variance_noise=x).prev_sample for s in (scheduler, expected))
            assert torch.equal(a, b)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("timesteps", [torch.tensor([800, 300, 0]), [800, 300, 0]], ids=["tensor", "list"])
def test_assigned_timesteps_take_effect_at_once(timesteps):
    ours, other = DDPMFromScratchScheduler(), DDPMFromScratchScheduler()
    ours.set_timesteps(10)
    ours.timesteps = timesteps
    other.set_timesteps(timesteps=[800, 300, 0])
    x = normal(2, 3, 4, 4)
    a, b = (s.step(x, 800, x, variance_noise=x).prev_sample for s in (ours, other))
    assert torch.equal(a, b)


def test_step_is_differentiable():
    scheduler, x = DDPMFromScratchScheduler(clip_sample=False), normal(2, 3, 4, 4).requires_grad_()
    output = normal(2, 3, 4, 4, seed=1).requires_grad_()
    with torch.inference_mode():
        scheduler.set_timesteps(10)  # tables made here must serve autograd, too
    scheduler.step(output, 500, x, variance_noise=X).prev_sample.sum().backward()
    step = scheduler._chain.step(scheduler._chain.index(500))
    torch.testing.assert_close(
        output.grad,
        torch.full_like(x, float(-step.posterior.original * step.scales.noise / step.scales.signal)),
    )
    assert float(x.grad.std()) < 1e-6 and float(x.grad.mean()) > 0


def test_timesteps_of_another_device_are_found_by_their_place():
    scheduler = DDPMFromScratchScheduler()
    scheduler.set_timesteps(10)
    assert [scheduler._place_in_memory(t) for t in scheduler.timesteps] == list(range(10))
    assert [scheduler._place_in_memory(t) for t in scheduler.timesteps[4:]] == list(range(4, 10))
    assert scheduler._place_in_memory(scheduler.timesteps[3].clone()) is None
    scheduler.set_timesteps(10, device="meta")  # where no value can be read
    assert scheduler._position(scheduler._chain, scheduler.timesteps[3]) == 3


@pytest.mark.parametrize("part", [slice(5, None), slice(None, None, 2), slice(1, 9, 3)])
def test_place_in_memory_counts_from_the_assigned_view(part):
    scheduler = DDPMFromScratchScheduler()
    scheduler.set_timesteps(10)
    everything = scheduler.timesteps
    scheduler.timesteps = everything[part]
    kept = list(range(10))[part]
    assert [scheduler._place_in_memory(t) for t in scheduler.timesteps] == list(range(len(kept)))
    inside = [scheduler._place_in_memory(everything[i]) for i in kept]
    assert inside == list(range(len(kept)))


@allow_warnings
def test_step_works_inside_vmap():
    scheduler, x = DDPMFromScratchScheduler(), normal(2, 5, 3, 4, 4)
    mapped = torch.vmap(lambda sample: scheduler.step(sample, 0, sample).prev_sample)(x)
    assert torch.equal(mapped[1], scheduler.step(x[1], 0, x[1]).prev_sample)


def test_array_of_timesteps_is_a_batch():
    scheduler, x = DDPMFromScratchScheduler(), normal(2, 3, 4, 4)
    a, b = (scheduler.step(x, t, x, variance_noise=x).prev_sample for t in (np.array([500, 400]), [500, 400]))
    assert torch.equal(a, b)


def test_variance_of_a_learned_type_and_of_another_type():
    scheduler, v = DDPMFromScratchScheduler(variance_type="learned_range"), torch.tensor([-1.0, 1.0])
    small, large = (
        float(scheduler._get_variance(500, variance_type=t)) for t in ("fixed_small", "fixed_large")
    )
    assert small < large
    torch.testing.assert_close(scheduler._get_variance(500, v), torch.tensor([small, large]))
    fixed = DDPMFromScratchScheduler()
    torch.testing.assert_close(fixed._get_variance(500, v, "learned_range"), torch.tensor([small, large]))
    torch.testing.assert_close(fixed._get_variance(500, v, "learned"), v.exp())
    assert float(fixed._get_variance(500, v)) == pytest.approx(small)


def test_quantile_of_more_elements_than_torch_takes_equals_numpys():
    x = normal(1, 16_000_001)
    expected = float(np.quantile(x.abs().numpy(), 0.995))
    limited = dynamic_threshold(x, 0.995, largest=10.0)
    assert float(limited.abs().max()) == 1
    torch.testing.assert_close(limited[x.abs() < expected], (x / expected)[x.abs() < expected])


# Warnings


def warnings_of(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in caught if issubclass(w.category, SchedulerWarning)]


@pytest.mark.parametrize("steps", [501, 600, 999, 334])
def test_leading_that_leaves_out_the_noisiest_timesteps_warns_with_the_number(steps):
    (message,) = warnings_of(lambda: DDPMFromScratchScheduler().set_timesteps(steps))
    start = 999 // steps * (steps - 1)
    assert f"starts at timestep {start}" in message and "trailing" in message


@pytest.mark.parametrize("steps", [1000, 500, 250, 100, 50, 36, 10, 1000 // 3 - 1])
def test_leading_with_usual_numbers_of_steps_does_not_warn(steps):
    assert not warnings_of(lambda: DDPMFromScratchScheduler().set_timesteps(steps))


@pytest.mark.parametrize(
    "act",
    [
        lambda: DDPMFromScratchScheduler(cosine_s=0.1),
        lambda: DDPMFromScratchScheduler.from_config({"beta_schedule": "linear", "max_beta": 0.5}),
        lambda: DDPMFromScratchScheduler().set_timesteps(10.0),
        lambda: DDPMFromScratchScheduler().step(X, 500.0, X),
        lambda: DDPMFromScratchScheduler().add_noise(torch.full_like(X, 9.0), X, torch.tensor([1, 2])),
    ],
    ids=["constructor", "from_config", "set_timesteps", "step", "add_noise"],
)
def test_a_warning_names_the_line_of_the_user(act):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act()
    assert [(w.filename, w.lineno) for w in caught] == [(__file__, act.__code__.co_firstlineno)]


def test_step_warns_once_of_skipped_and_repeated_timesteps():
    scheduler = DDPMFromScratchScheduler()
    scheduler.set_timesteps(10)
    assert not warnings_of(lambda: [scheduler.step(X, t, X) for t in (500, 400, 300)])  # as img2img starts
    (message,) = warnings_of(lambda: [scheduler.step(X, t, X) for t in (100, 100, 700)])
    assert "timestep 100 after 300" in message


def test_a_new_walk_may_start_anywhere_after_a_finished_one():
    scheduler = DDPMFromScratchScheduler()
    scheduler.set_timesteps(5)
    walk = [scheduler.timesteps, scheduler.timesteps[2:], scheduler.timesteps]
    assert not warnings_of(lambda: [scheduler.step(X, t, X) for t in torch.cat(walk)])


def test_data_outside_the_clipping_range_warn_once():
    scheduler, data = DDPMFromScratchScheduler(), torch.full((2, 3, 4, 4), 3.0)
    found = warnings_of(lambda: [scheduler.add_noise(data, X, torch.tensor([1, 2])) for _ in range(2)])
    assert len(found) == 1 and "clip_sample=True" in found[0]
    for quiet in (
        DDPMFromScratchScheduler(clip_sample=False),
        DDPMFromScratchScheduler(clip_sample_range=3.0),
    ):
        assert not warnings_of(lambda q=quiet: q.add_noise(data, X, torch.tensor([1, 2])))


def test_custom_timesteps_that_do_not_end_at_zero_warn():
    (message,) = warnings_of(lambda: DDPMFromScratchScheduler().set_timesteps(timesteps=[900, 30, 4]))
    assert "end at 4" in message


# Conversion to diffusers


@allow_warnings
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    "config",
    [
        *({"beta_schedule": name} for name in BETA_SCHEDULES),
        {"beta_schedule": "squaredcos_cap_v2", "cosine_s": 0.02, "max_beta": 0.9},
        {"beta_schedule": "sigmoid_alpha_bar", "sigmoid_tau": 0.7, "timestep_spacing": "trailing"},
        {"num_train_timesteps": 50, "scale_betas_by_length": True, "variance_type": "fixed_large"},
        {"trained_betas": [0.1, 0.3, 0.9], "num_train_timesteps": 3, "variance_type": "fixed_small_log"},
        {"thresholding": True, "sample_max_value": 2.0},
    ],
)
def test_to_diffusers_samples_the_same(config, prediction_type):
    ours = DDPMFromScratchScheduler(**config, prediction_type=prediction_type)
    stock = ours.to_diffusers()
    assert type(stock) is DDPMScheduler and torch.equal(stock.alphas_cumprod, ours.alphas_cumprod)
    results = []
    for scheduler in (ours, stock):
        scheduler.set_timesteps(3)
        generator, x = seeded(), normal(2, 3, 4, 4)
        for t in scheduler.timesteps:
            x = scheduler.step(torch.sin(3 * x), t, x, generator=generator).prev_sample
        results.append(x)
    assert torch.equal(*results)


def test_to_diffusers_refuses_an_assigned_table():
    scheduler = DDPMFromScratchScheduler()
    scheduler.alphas_cumprod = scheduler.alphas_cumprod**2
    with pytest.raises(ValueError, match="alphas_cumprod was assigned"):
        scheduler.to_diffusers()


# Compilation


@allow_warnings
@pytest.mark.parametrize("return_dict", [True, False])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"prediction_type": "v_prediction", "variance_type": "learned_range", "clip_sample": False},
        {
            "thresholding": True,
            "sample_max_value": 2.0,
            "timestep_spacing": "trailing",
            "variance_type": "fixed_large",
        },
    ],
)
def test_step_compiles_to_one_graph_for_all_timesteps(config, return_dict):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    scheduler = DDPMFromScratchScheduler(**config)
    scheduler.set_timesteps(20)
    compiled = torch.compile(scheduler.step, backend=counter, fullgraph=True)
    x, noise = normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1)
    output = normal(2, 6 if scheduler.variance_type == "learned_range" else 3, 4, 4, seed=2)
    for t in scheduler.timesteps:
        a = compiled(output, t, x, return_dict=return_dict, variance_noise=noise)
        b = scheduler.step(output, t, x, return_dict=return_dict, variance_noise=noise)
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    assert counter.frame_count == 1


def test_compiled_step_draws_its_own_noise_and_takes_numbers():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    scheduler = DDPMFromScratchScheduler()
    scheduler.set_timesteps(20)
    compiled = torch.compile(scheduler.step, backend=counter, fullgraph=True)
    stds = [float(compiled(X, t, X).prev_sample.std()) for t in scheduler.timesteps.tolist()]
    assert counter.frame_count <= 3  # one for the first number, one for any other, one for 0
    assert stds[-1] == 0 and all(std > 0 for std in stds[:-1])


def test_compiled_step_gives_nan_outside_the_chain():
    """A graph cannot raise for a value; the wrong result must not look like a right one."""
    torch._dynamo.reset()
    scheduler = DDPMFromScratchScheduler()
    scheduler.set_timesteps(10)
    compiled = torch.compile(scheduler.step, backend="aot_eager", fullgraph=True)
    for t in (3, -1, 1000, 10**9):
        assert bool(compiled(X, torch.tensor(t), X).prev_sample.isnan().all()), t
