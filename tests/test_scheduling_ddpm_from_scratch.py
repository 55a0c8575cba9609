import pytest
import torch

from ddpm_from_scratch import DDPMFromScratchScheduler

pytestmark = pytest.mark.filterwarnings("ignore::ddpm_from_scratch.SchedulerWarning")

X = torch.zeros(2, 3, 4, 4)


@pytest.mark.parametrize(
    "config",
    [
        {"num_train_timesteps": 0},
        {"num_train_timesteps": True},
        {"num_train_timesteps": "1000"},
        {"beta_end": 1.7},
        {"beta_start": -1.0},
        {"beta_start": float("nan")},
        {"trained_betas": [0.1] * 9},
        {"variance_type": "small"},
        {"prediction_type": "velocity"},
        {"timestep_spacing": "even"},
        {"steps_offset": -1},
        {"steps_offset": 0.5},
        {"clip_sample_range": -1.0},
        {"sample_max_value": 0.5},
        {"dynamic_thresholding_ratio": 1.5},
        {"clip_sample_range": float("nan")},
    ],
)
def test_constructor_refuses_and_names(config):
    with pytest.raises((ValueError, TypeError), match="must be|trained_betas"):
        DDPMFromScratchScheduler(**config)


def test_unknown_schedule_is_the_error_of_stock():
    with pytest.raises(NotImplementedError, match="beta_schedule is 'cosine'"):
        DDPMFromScratchScheduler(beta_schedule="cosine")


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"num_inference_steps": 0},
        {"num_inference_steps": -5},
        {"num_inference_steps": 1001},
        {"num_inference_steps": 2.5},
        {"num_inference_steps": "10"},
        {"num_inference_steps": True},
        {"num_inference_steps": 10, "timesteps": [1, 0]},
        {"timesteps": []},
        {"timesteps": [1, 2]},
        {"timesteps": [2, 2]},
        {"timesteps": [1000, 0]},
        {"timesteps": [5, -1]},
        {"timesteps": [5, 2.5]},
    ],
)
def test_set_timesteps_refuses(arguments):
    with pytest.raises((ValueError, TypeError)):
        DDPMFromScratchScheduler().set_timesteps(**arguments)


def test_steps_offset_past_the_end_is_refused_in_set_timesteps():
    with pytest.raises(ValueError, match="steps_offset"):
        DDPMFromScratchScheduler(steps_offset=1).set_timesteps(1000)


@pytest.mark.parametrize("timesteps", [[-1, 0], [0, 1000], [0, 1, 2], [0.5, 1.0]])
def test_add_noise_refuses_wrong_timesteps(timesteps):
    with pytest.raises(ValueError, match="timesteps"):
        DDPMFromScratchScheduler().add_noise(X, X, torch.tensor(timesteps))


def test_add_noise_refuses_broadcast_noise_and_integer_images():
    scheduler, t = DDPMFromScratchScheduler(), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="noise has shape"):
        scheduler.add_noise(X, X[:1], t)
    with pytest.raises(TypeError, match="floating point"):
        scheduler.add_noise(X.byte(), X.byte(), t)


def test_step_refuses_a_timestep_outside_the_chain_and_names_the_channels():
    scheduler = DDPMFromScratchScheduler()
    scheduler.set_timesteps(10)
    with pytest.raises(ValueError, match="timestep 3 is not one of the 10"):
        scheduler.step(X, 3, X)
    with pytest.raises(ValueError, match="learned_range"):
        scheduler.step(torch.zeros(2, 6, 4, 4), 900, X)
    learned = DDPMFromScratchScheduler(variance_type="learned")
    with pytest.raises(ValueError, match="needs twice the sample's channels"):
        learned.step(X, 900, X)


def test_fixed_large_log_equals_fixed_large(generator):
    """Defect 4: stock takes the square root of a log-variance and returns NaN."""
    results = [
        DDPMFromScratchScheduler(variance_type=kind).step(
            X, 500, X, generator=torch.Generator().manual_seed(0)
        )
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


def test_variance_noise_replaces_the_generator(generator):
    scheduler = DDPMFromScratchScheduler()
    noise = torch.randn(X.shape, generator=torch.Generator().manual_seed(5))
    scheduler.set_timesteps(timesteps=[500, 0])
    drawn = scheduler.step(X, 500, X, generator=torch.Generator().manual_seed(5)).prev_sample
    assert torch.equal(drawn, scheduler.step(X, 500, X, variance_noise=noise).prev_sample)
    with pytest.raises(ValueError, match="variance_noise"):
        scheduler.step(X, 500, X, variance_noise=noise[:1])


def test_changing_the_variance_type_in_the_config_takes_effect():
    scheduler, large = DDPMFromScratchScheduler(), DDPMFromScratchScheduler(variance_type="fixed_large")
    scheduler.set_timesteps(10)
    large.set_timesteps(10)
    scheduler.register_to_config(variance_type="fixed_large")
    assert scheduler.variance_type == "fixed_large"
    a, b = (
        s.step(X, 500, X, generator=torch.Generator().manual_seed(0)).prev_sample for s in (scheduler, large)
    )
    assert torch.equal(a, b)


def test_generator_list_makes_samples_independent_of_the_batch():
    scheduler = DDPMFromScratchScheduler(clip_sample=False)
    both = scheduler.step(X, 500, X, generator=[torch.Generator().manual_seed(s) for s in (1, 2)]).prev_sample
    alone = scheduler.step(X[:1], 500, X[:1], generator=torch.Generator().manual_seed(2)).prev_sample
    assert torch.equal(both[1:], alone)
