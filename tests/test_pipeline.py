import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
)
from PIL import Image

from conftest import seeded
from ddpm_from_scratch import DDPMFromScratchPipeline, DDPMFromScratchScheduler, build_model, model_config
from ddpm_from_scratch.toy_data import GaussianDenoiser

SHORT = {"num_train_timesteps": 20, "beta_schedule": "squaredcos_cap_v2"}


def make_pipeline(name="tiny", scheduler=None, **overrides):
    torch.manual_seed(0)
    pipeline = DDPMFromScratchPipeline(
        build_model(model_config(name, **overrides)).eval(),
        scheduler or DDPMFromScratchScheduler(**SHORT),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_images_equal_the_stock_pipeline():
    ours = make_pipeline()
    stock = DDPMPipeline(ours.unet, DDPMScheduler(**SHORT))
    stock.set_progress_bar_config(disable=True)
    for output_type in ("np", "pt"):
        a = ours(2, seeded(), 10, output_type=output_type).images
        b = stock(2, seeded(), 10, output_type=output_type).images
        assert np.array_equal(a, b)
    assert np.array_equal(
        np.asarray(ours(1, seeded(), 10).images[0]), np.asarray(stock(1, seeded(), 10).images[0])
    )


def test_default_visits_all_training_timesteps():
    pipeline, seen = make_pipeline(), []
    pipeline(callback_on_step_end=lambda pipe, index, t, tensors: seen.append(int(t)))
    assert seen == list(range(19, -1, -1))


@pytest.mark.parametrize(
    "scheduler",
    [
        DDPMFromScratchScheduler,
        DDIMScheduler,
        EulerDiscreteScheduler,
        HeunDiscreteScheduler,
        DPMSolverMultistepScheduler,
    ],
)
def test_any_scheduler_gives_the_data_distribution(scheduler):
    """Exact network for data with std 0.5: a loop that forgets init_noise_sigma or scale_model_input is far
    off."""
    config = {"timestep_spacing": "linspace", "beta_start": 1e-4, "beta_end": 0.02} | (
        {"clip_sample": False} if "DD" in scheduler.__name__ else {}
    )
    swapped = scheduler(**config)
    model = GaussianDenoiser(
        [0.2] * 4,
        np.diag([0.25] * 4).tolist(),
        DDPMScheduler().alphas_cumprod.tolist(),
        sample_shape=(1, 2, 2),
    )
    pipeline = DDPMFromScratchPipeline(model, swapped)
    pipeline.set_progress_bar_config(disable=True)
    final = pipeline(4000, seeded(), 100, return_trajectory=True, output_type="np").trajectory[-1]
    assert float(final.mean()) == pytest.approx(0.2, abs=0.03)
    assert float(final.std()) == pytest.approx(0.5, abs=0.05)  # ancestral sampling in 100 steps: .468


def test_stock_scheduler_becomes_ours_and_others_stay():
    assert isinstance(make_pipeline(scheduler=DDPMScheduler()).scheduler, DDPMFromScratchScheduler)
    assert isinstance(make_pipeline(scheduler=DDIMScheduler()).scheduler, DDIMScheduler)


def test_output_types_and_tuple():
    pipeline = make_pipeline(channels=3)
    assert isinstance(pipeline(2, seeded()).images[0], Image.Image)
    assert pipeline(2, seeded(), output_type="np").images.shape == (2, 8, 8, 3)
    (tensor,) = pipeline(2, seeded(), output_type="pt", return_dict=False)
    assert tensor.shape == (2, 3, 8, 8) and 0 <= tensor.min() <= tensor.max() <= 1


def test_trajectory_starts_at_the_latents_and_ends_at_the_images():
    pipeline, latents = make_pipeline(), torch.randn(2, 1, 8, 8, generator=seeded())
    output = pipeline(2, seeded(), 5, latents=latents, output_type="pt", return_trajectory=True)
    assert output.trajectory.shape == (6, 2, 1, 8, 8)
    assert torch.equal(output.trajectory[0], latents)
    assert torch.equal((output.trajectory[-1] / 2 + 0.5).clamp(0, 1), output.images)


def test_generator_list_makes_a_sample_independent_of_the_batch():
    pipeline = make_pipeline()
    both = pipeline(2, [seeded(1), seeded(2)], 5, output_type="pt").images
    alone = pipeline(1, seeded(2), 5, output_type="pt").images
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-5)  # convolutions of another batch size


def test_callback_can_replace_the_latents():
    images = make_pipeline()(
        1, seeded(), 5, output_type="pt", callback_on_step_end=lambda *a: {"latents": torch.zeros(1, 1, 8, 8)}
    ).images
    assert torch.equal(images, torch.full((1, 1, 8, 8), 0.5))


def test_class_labels_reach_the_network():
    pipeline = make_pipeline(num_class_embeds=3)
    a, b = (pipeline(1, seeded(), 5, class_labels=label, output_type="np").images for label in (0, 2))
    assert not np.array_equal(a, b)
    assert pipeline(2, seeded(), 5, class_labels=[0, 2], output_type="np").images.shape == (2, 8, 8, 1)
    for wrong in (None, 3, [0, 1, 2], 0.5):
        with pytest.raises(ValueError, match="class_labels|class-conditional"):
            pipeline(2, class_labels=wrong)
    with pytest.raises(ValueError, match="not class-conditional"):
        make_pipeline()(class_labels=1)


def test_bfloat16_pipeline_makes_pictures():
    pipeline = make_pipeline().to(torch.bfloat16)
    assert isinstance(pipeline(1, seeded(), 5).images[0], Image.Image)


def test_points_are_sampled_and_saved(tmp_path):
    pipeline = make_pipeline("points", DDPMFromScratchScheduler(**SHORT, clip_sample=False))
    points = pipeline(7, seeded()).images
    assert points.shape == (7, 2) and isinstance(points, np.ndarray)
    pipeline.save_pretrained(tmp_path)
    loaded = DDPMFromScratchPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    np.testing.assert_allclose(loaded(7, seeded()).images, points, rtol=1e-5)
    with pytest.raises(ValueError, match="'pil' needs images"):
        pipeline(output_type="pil")


def test_learned_variance_network_runs_under_schedulers_without_one():
    pipeline = make_pipeline(
        out_channels=2, scheduler=DDPMFromScratchScheduler(variance_type="learned_range")
    )
    assert pipeline(1, seeded(), 3, output_type="pt").images.shape == (1, 1, 8, 8)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    assert pipeline(1, seeded(), 3, output_type="pt").images.shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 0},
        {"batch_size": 1.5},
        {"batch_size": 3, "generator": [seeded()]},
        {"output_type": "jpg"},
        {"batch_size": 2, "latents": torch.zeros(1, 1, 8, 8)},
        {"callback_on_step_end_tensor_inputs": ["noise"]},
        {"num_inference_steps": 0},
        {"num_inference_steps": 21},
    ],
)
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="must be|give one|make them|only"):
        make_pipeline()(**arguments)
