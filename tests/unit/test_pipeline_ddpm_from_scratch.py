import json

import numpy as np
import pytest
import torch
from diffusers import (
    ConsistencyModelPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
)
from PIL import Image

from common import seeded
from ddpm_from_scratch import (
    DDPMFromScratchPipeline,
    DDPMFromScratchScheduler,
    FewStepScheduler,
    build_model,
    model_config,
)
from ddpm_from_scratch.networks.mixtures import GaussianMixtureDenoiser
from ddpm_from_scratch.process.diffusion import PREDICTION_TYPES

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
    model = GaussianMixtureDenoiser(
        [[0.2] * 4],
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


class ClassGaussians(GaussianMixtureDenoiser):
    """The exact network for Gaussian classes of one covariance; the last mean belongs to the null label."""

    def __init__(self, means, covariance, alphas_cumprod, prediction_type):
        super().__init__(means[:1], covariance, alphas_cumprod, prediction_type)
        self.register_to_config(num_class_embeds=len(means))
        self.means = torch.tensor(means, dtype=torch.float64)
        self.batch_sizes = []

    def forward(self, sample, timestep, class_labels):
        self.batch_sizes.append(len(sample))
        self.centre = self.means[class_labels]
        return super().forward(sample, timestep)


@pytest.mark.parametrize("guidance_scale", [0.0, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_guidance_shifts_gaussian_classes_as_in_closed_form(prediction_type, guidance_scale):
    """E[x_0 | x_t] of N(m, C) is affine in m, so guiding from N(u, C) to N(m, C) gives the exact network of
    N(u + s (m - u), C), and with the same noise the samples of that distribution."""
    means, covariance = [[1.0, 0.5], [-2.0, 0.0], [0.2, -0.1]], [[0.6, 0.3], [0.3, 0.4]]
    scheduler = DDPMFromScratchScheduler(prediction_type=prediction_type, clip_sample=False)
    table = scheduler.alphas_cumprod.tolist()
    network = ClassGaussians(means, covariance, table, prediction_type)
    pipeline = DDPMFromScratchPipeline(network, scheduler, null_class_label=2)
    pipeline.set_progress_bar_config(disable=True)
    labels = torch.tensor([0, 1, 0, 1, 1])
    guided = pipeline(
        5, seeded(), 20, class_labels=labels, guidance_scale=guidance_scale, output_type="pt"
    ).images
    assert network.batch_sizes == [5 if guidance_scale == 1 else 10] * 20
    shifted = [[u + guidance_scale * (m - u) for m, u in zip(mean, means[2], strict=True)] for mean in means]
    pipeline.unet = ClassGaussians(shifted, covariance, table, prediction_type)
    expected = pipeline(5, seeded(), 20, class_labels=labels, output_type="pt").images
    torch.testing.assert_close(guided, expected, rtol=0, atol=1e-8)


def guidable_pipeline(**overrides):
    pipeline = make_pipeline(num_class_embeds=4, **overrides)
    pipeline = DDPMFromScratchPipeline(pipeline.unet, pipeline.scheduler, null_class_label=3)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_no_labels_and_no_guidance_are_the_ends_of_the_scale():
    pipeline = guidable_pipeline()
    run = lambda **options: pipeline(2, seeded(), 5, output_type="pt", **options).images  # noqa: E731
    assert torch.equal(run(class_labels=1), run(class_labels=1, guidance_scale=1))
    torch.testing.assert_close(run(), run(class_labels=1, guidance_scale=0.0), rtol=0, atol=1e-5)
    assert not torch.allclose(run(), run(class_labels=1), atol=1e-2)


def test_guidance_leaves_a_learned_variance_alone():
    scheduler = DDPMFromScratchScheduler(**SHORT, variance_type="learned_range")
    pipeline = guidable_pipeline(out_channels=2, scheduler=scheduler)
    seen, step = [], scheduler.step

    def watched(model_output, timestep, sample, **options):
        seen.append((model_output, timestep, sample))
        return step(model_output, timestep, sample, **options)

    scheduler.step = watched
    pipeline(2, seeded(), 3, class_labels=[0, 2], guidance_scale=2.5, output_type="pt")
    assert len(seen) == 3
    for model_output, timestep, sample in seen:
        with torch.no_grad():
            conditional, null = (
                pipeline.unet(sample, timestep, class_labels=torch.tensor(labels)).sample
                for labels in ([0, 2], [3, 3])
            )
        mean = null[:, :1] + 2.5 * (conditional[:, :1] - null[:, :1])
        torch.testing.assert_close(model_output[:, :1], mean, rtol=0, atol=1e-5)
        torch.testing.assert_close(model_output[:, 1:], conditional[:, 1:], rtol=0, atol=1e-5)
        assert not torch.allclose(conditional[:, 1:], null[:, 1:], atol=1e-3)


def test_null_label_is_saved_with_the_pipeline(tmp_path):
    pipeline = guidable_pipeline()
    pipeline.save_pretrained(tmp_path)
    loaded = DDPMFromScratchPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.config.null_class_label == 3
    options = {"class_labels": 0, "guidance_scale": 3.0, "output_type": "np"}
    assert np.array_equal(
        pipeline(1, seeded(), 5, **options).images, loaded(1, seeded(), 5, **options).images
    )


def test_null_label_can_be_given_to_an_older_folder(tmp_path):
    make_pipeline(num_class_embeds=4).save_pretrained(tmp_path)
    assert DDPMFromScratchPipeline.from_pretrained(tmp_path).config.null_class_label is None
    loaded = DDPMFromScratchPipeline.from_pretrained(tmp_path, null_class_label=3)
    assert loaded.config.null_class_label == 3


def test_class_names_are_saved_and_taken_as_labels(tmp_path):
    pipeline = guidable_pipeline()
    names = {0: "cat", 1: "dog", 2: "fish"}
    named = DDPMFromScratchPipeline(pipeline.unet, pipeline.scheduler, 3, names)
    named.save_pretrained(tmp_path / "named")
    pipeline.save_pretrained(tmp_path / "unnamed")
    by_label = pipeline(2, seeded(), 3, class_labels=[1, 2], output_type="np").images
    for folder, given in (("named", None), ("unnamed", names)):
        loaded = DDPMFromScratchPipeline.from_pretrained(tmp_path / folder, id2label=given)
        loaded.set_progress_bar_config(disable=True)
        assert loaded.config.id2label == names
        images = loaded(2, seeded(), 3, class_labels=["dog", "fish"], output_type="np").images
        assert np.array_equal(images, by_label)


def test_class_names_that_do_not_fit_say_where_they_are(tmp_path):
    guidable_pipeline().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="^id2label names the label 3, but"):
        DDPMFromScratchPipeline.from_pretrained(tmp_path, id2label={3: "none"})
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"id2label": "cat"}))
    with pytest.raises(ValueError, match="model_index.json cannot be used: id2label must be"):
        DDPMFromScratchPipeline.from_pretrained(tmp_path)
    unconditional = make_pipeline()
    with pytest.raises(ValueError, match="id2label is .*not class-conditional"):
        DDPMFromScratchPipeline(unconditional.unet, unconditional.scheduler, id2label={0: "cat"})


def test_portable_index_has_no_null_label(tmp_path):
    make_pipeline().save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert set(index) == {"_class_name", "_diffusers_version", "unet", "scheduler"}
    assert DDPMFromScratchPipeline.from_pretrained(tmp_path).config.null_class_label is None


@pytest.mark.parametrize(
    ("overrides", "null_label", "arguments", "message"),
    [
        ({}, None, {"guidance_scale": 2.0}, "has no null_class_label"),
        (
            {"num_class_embeds": 4},
            None,
            {"class_labels": 0, "guidance_scale": 2.0},
            "trained with label dropout",
        ),
        ({"num_class_embeds": 4}, 3, {"guidance_scale": 2.0}, "class_labels are missing"),
        ({"num_class_embeds": 4}, 3, {"class_labels": 0, "guidance_scale": -1.0}, "guidance_scale is -1"),
        ({"num_class_embeds": 4}, 3, {"class_labels": 0, "guidance_scale": float("nan")}, "guidance_scale"),
        ({"num_class_embeds": 4}, 3, {"class_labels": 0, "guidance_scale": float("inf")}, "must be finite"),
        ({"num_class_embeds": 4}, 3, {"class_labels": 3}, r"in 0\.\.2, got \[3\]\. 3 is the null class"),
        ({"num_class_embeds": 4}, 1, {"class_labels": 1}, r"in 0\.\.3 but 1, got"),
        ({"num_class_embeds": 4}, 3, {"class_labels": 4}, r"in 0\.\.2, got"),
        ({"num_class_embeds": 4}, None, {"class_labels": 4}, r"in 0\.\.3, got \[4\]\.$"),
    ],
)
def test_guidance_that_cannot_be_is_refused(overrides, null_label, arguments, message):
    pipeline = make_pipeline(**overrides)
    pipeline = DDPMFromScratchPipeline(pipeline.unet, pipeline.scheduler, null_label)
    with pytest.raises(ValueError, match=message):
        pipeline(**arguments)


def test_null_label_that_the_network_lacks_is_refused():
    for overrides, label, message in (
        ({}, 0, "not class-conditional"),
        ({"num_class_embeds": 4}, 4, "null_class_label is 4"),
        ({"num_class_embeds": 4}, -1, "null_class_label is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            DDPMFromScratchPipeline(
                build_model(model_config("tiny", **overrides)), DDPMFromScratchScheduler(), label
            )
    with pytest.raises(TypeError, match="guidance_scale is '2'"):
        guidable_pipeline()(class_labels=0, guidance_scale="2")


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
        {"batch_size": 3, "generator": [seeded()] * 2},
        {"batch_size": 1, "generator": []},
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


@pytest.mark.parametrize("name", ["batch_size", "num_inference_steps"])
@pytest.mark.parametrize("value", [True, 2.5, "10"])
def test_a_number_of_another_kind_is_refused(name, value):
    with pytest.raises(TypeError, match=f"{name} is {value!r}, but must be an integer of at least 1"):
        make_pipeline()(**{name: value})


@pytest.mark.parametrize("scheduler", [DDPMFromScratchScheduler, FewStepScheduler, DDIMScheduler])
def test_a_number_of_steps_of_zero_is_one_error_with_any_scheduler(scheduler):
    with pytest.raises(ValueError, match="num_inference_steps is 0, but must be an integer of at least 1"):
        make_pipeline(scheduler=scheduler(**SHORT))(num_inference_steps=0)


@pytest.mark.filterwarnings("ignore:the scheduler has no calibration")
@pytest.mark.parametrize("scheduler", [DDPMFromScratchScheduler, FewStepScheduler, DDIMScheduler])
def test_one_generator_serves_all_in_a_list_a_tuple_or_alone(scheduler):
    pipeline = make_pipeline(scheduler=scheduler(**SHORT))
    alone, *others = (
        pipeline(np.int64(2), generator, 3, output_type="pt").images
        for generator in (seeded(), [seeded()], (seeded(),))
    )
    assert alone.shape == (2, 1, 8, 8) and all(torch.equal(images, alone) for images in others)
    listed, tupled = (
        pipeline(2, kind([seeded(1), seeded(2)]), 3, output_type="pt").images for kind in (list, tuple)
    )
    assert torch.equal(listed, tupled)
    second = pipeline(1, seeded(2), 3, output_type="pt").images
    torch.testing.assert_close(listed[1:], second, rtol=0, atol=1e-3)  # the batch changes the rounding


@pytest.mark.parametrize("generator", [0, [seeded(), 1]])
def test_a_seed_in_place_of_a_generator_is_refused(generator):
    with pytest.raises(TypeError, match="must be a torch.Generator.*manual_seed"):
        make_pipeline()(batch_size=2, generator=generator)


def test_stock_pipeline_samples_a_class_conditional_network_as_the_readme_says():
    ours = make_pipeline(num_class_embeds=4)
    stock = ConsistencyModelPipeline(ours.unet, DDPMScheduler(**SHORT))
    stock.set_progress_bar_config(disable=True)
    made = stock(2, class_labels=[1, 3], num_inference_steps=20, generator=seeded(), output_type="np").images
    mine = ours(2, seeded(), 20, class_labels=[1, 3], output_type="np").images
    np.testing.assert_allclose(made, mine, rtol=0, atol=1e-5)
