import json

import numpy as np
import pytest
import torch
from diffusers import (
    ConsistencyModelPipeline,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LDMPipeline,
    VQModel,
)
from diffusers.models.unets.unet_2d import UNet2DOutput
from PIL import Image
from torch.nn.parallel import DataParallel

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


class ConditionGaussians(GaussianMixtureDenoiser):
    """The exact network for points whose mean is the condition: (c, 2 c) of a number, a vector itself."""

    def __init__(self, class_embed_type, alphas_cumprod, prediction_type="v_prediction"):
        super().__init__([[0.0, 0.0]], [[0.3, 0.1], [0.1, 0.2]], alphas_cumprod, prediction_type)
        self.register_to_config(class_embed_type=class_embed_type)

    def forward(self, sample, timestep, class_labels):
        is_number = self.config.class_embed_type == "timestep"
        self.centre = torch.stack([class_labels, 2 * class_labels], 1) if is_number else class_labels
        self.centre = self.centre.double()
        return super().forward(sample, timestep)


@pytest.mark.parametrize("guidance_scale", [1.0, 2.5])
@pytest.mark.parametrize(
    ("kind", "asked", "null_label", "mean", "null_mean"),
    [
        ("timestep", 0.75, -1, [0.75, 1.5], [-1, -2]),
        ("timestep", -2, 0.5, [-2, -4], [0.5, 1.0]),
        ("timestep", None, 0.5, [0.5, 1.0], [0.5, 1.0]),
        ("identity", [1.5, -0.5], 0, [1.5, -0.5], [0, 0]),
        ("identity", np.array([[0.25, 3.0]]), 0, [0.25, 3.0], [0, 0]),
        ("projection", torch.tensor([-2.0, 1.0]), 0.0, [-2.0, 1.0], [0, 0]),
    ],
)
def test_samples_have_the_mean_that_was_asked_for(kind, asked, null_label, mean, null_mean, guidance_scale):
    scheduler = DDPMFromScratchScheduler(
        num_train_timesteps=100, scale_betas_by_length=True, prediction_type="v_prediction", clip_sample=False
    )
    network = ConditionGaussians(kind, scheduler.alphas_cumprod.tolist())
    pipeline = DDPMFromScratchPipeline(network, scheduler, null_label)
    pipeline.set_progress_bar_config(disable=True)
    if asked is None:
        guidance_scale = 1.0
    found = pipeline(4000, seeded(), class_labels=asked, guidance_scale=guidance_scale).images
    expected = [u + guidance_scale * (m - u) for m, u in zip(mean, null_mean, strict=True)]
    np.testing.assert_allclose(found.mean(0), expected, rtol=0, atol=5 * (0.3 / 4000) ** 0.5)


def test_a_pipeline_of_other_conditions_is_saved_with_what_stands_for_none(tmp_path):
    for kind, null_label in (("timestep", -0.5), ("identity", 0)):
        pipeline = DDPMFromScratchPipeline(
            build_model(model_config("tiny", class_embed_type=kind)),
            DDPMFromScratchScheduler(**SHORT),
            null_label,
        )
        pipeline.set_progress_bar_config(disable=True)
        pipeline.save_pretrained(tmp_path / kind)
        loaded = DDPMFromScratchPipeline.from_pretrained(tmp_path / kind)
        loaded.set_progress_bar_config(disable=True)
        assert loaded.config.null_class_label == null_label
        asked = {"class_labels": 0.5 if kind == "timestep" else [0.5] * 32, "guidance_scale": 2.0}
        images = [pipe(2, seeded(), 3, output_type="pt", **asked).images for pipe in (pipeline, loaded)]
        torch.testing.assert_close(*images, rtol=0, atol=1e-5)
        assert not torch.allclose(images[0], pipeline(2, seeded(), 3, output_type="pt").images, atol=1e-3)
        with pytest.raises(ValueError, match="class_labels must be one (number|vector of 32)"):
            pipeline(2, class_labels="dog")


STARTED = [
    DDPMScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
]


@pytest.mark.parametrize("kind", STARTED)
def test_image_to_image_is_the_loop_of_stock(kind):
    """Noise to the step of the strength, then the rest of the chain, with one generator for all noise."""
    config = {**SHORT, "timestep_spacing": "linspace"}
    pipeline, strength = make_pipeline(scheduler=kind(**config)), 0.6
    picture = torch.rand(1, 1, 8, 8, generator=seeded(3))
    made = pipeline(2, seeded(), 10, image=picture, strength=strength, output_type="pt").images

    scheduler, generator = kind(**config), seeded()
    scheduler.set_timesteps(10)
    timesteps = scheduler.timesteps[4 * scheduler.order :]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(4 * scheduler.order)
    noise = torch.randn(2, 1, 8, 8, generator=generator)
    sample = scheduler.add_noise((picture * 2 - 1).expand(2, 1, 8, 8), noise, timesteps[:1].repeat(2))
    takes_generator = {"generator": generator} if kind is not HeunDiscreteScheduler else {}
    with torch.no_grad():
        for t in timesteps:
            output = pipeline.unet(scheduler.scale_model_input(sample, t), t).sample
            sample = scheduler.step(output, t, sample, **takes_generator).prev_sample
    torch.testing.assert_close(made, (sample / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-5)


def gaussian_pipeline(
    kind=DDPMFromScratchScheduler, length=100, mean=(1.0, -0.5), variance=(0.3, 0.05), **config
):
    scheduler = kind(
        num_train_timesteps=length, beta_start=0.1 / length, beta_end=20 / length, clip_sample=False, **config
    )
    network = GaussianMixtureDenoiser(
        [list(mean)],
        np.diag(variance).tolist(),
        scheduler.alphas_cumprod.tolist(),
        scheduler.config.prediction_type,
    )
    pipeline = DDPMFromScratchPipeline(network, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("strength", [0.2, 0.5, 0.8, 1.0])
def test_image_to_image_of_a_gaussian_is_the_closed_form_of_ancestral_sampling(strength):
    """x_t is normal, and every step is an affine map of x_t and noise: mean and variance follow exactly."""
    count, steps, start = 20_000, 25, [2.0, 1.0]
    pipeline = gaussian_pipeline()
    made = pipeline(count, seeded(), steps, image=start, strength=strength).images
    m, c, y = (np.array(values) for values in ([1.0, -0.5], [0.3, 0.05], start))
    table = pipeline.scheduler.alphas_cumprod.double().tolist()
    visited = pipeline.scheduler.timesteps.tolist()[steps - int(steps * strength) :]
    mean, variance = table[visited[0]] ** 0.5 * y, np.full(2, 1 - table[visited[0]])
    for index, t in enumerate(visited):
        a, before = table[t], table[visited[index + 1]] if index + 1 < len(visited) else 1.0
        alpha = a / before
        gain = a**0.5 * c / (a * c + 1 - a)  # of E[x_0 | x_t] in x_t
        of_x0, of_x = before**0.5 * (1 - alpha) / (1 - a), alpha**0.5 * (1 - before) / (1 - a)
        slope = of_x0 * gain + of_x
        mean = slope * mean + of_x0 * (m - gain * a**0.5 * m)
        variance = slope**2 * variance + (1 - alpha) * (1 - before) / (1 - a)
    assert np.all(abs(made.mean(0) - mean) < 5 * (variance / count) ** 0.5)
    assert np.all(abs(made.var(0) / variance - 1) < 5 * (2 / count) ** 0.5)


@pytest.mark.parametrize("strength", [0.3, 0.7])
def test_image_to_image_of_a_gaussian_is_the_closed_form_of_the_probability_flow(strength):
    """The flow takes N(sqrt(a) m, a c + 1 - a) to N(m, c) by one affine map; DDIM follows it."""
    count, start = 4000, [2.0, 1.0]
    pipeline = gaussian_pipeline(DDIMScheduler, 1000)
    made = pipeline(count, seeded(), 500, image=start, strength=strength).images
    m, c, y = (np.array(values) for values in ([1.0, -0.5], [0.3, 0.05], start))
    a = float(pipeline.scheduler.alphas_cumprod[pipeline.scheduler.timesteps[round(500 * (1 - strength))]])
    gain = (c / (a * c + 1 - a)) ** 0.5
    mean, variance = m + gain * a**0.5 * (y - m), gain**2 * (1 - a)
    assert np.all(abs(made.mean(0) - mean) < 5 * (variance / count) ** 0.5 + 0.01)
    assert np.all(abs(made.var(0) / variance - 1) < 5 * (2 / count) ** 0.5 + 0.02)


@pytest.mark.filterwarnings("ignore:the scheduler has no calibration")
def test_a_few_steps_start_from_a_picture_too_and_converge_to_the_flow():
    pipeline = gaussian_pipeline(FewStepScheduler, 1000, noise_level=0.0)
    m, c, y = (np.array(values) for values in ([1.0, -0.5], [0.3, 0.05], [2.0, 1.0]))
    errors = []
    for steps in (10, 20, 80):
        made = pipeline(4000, seeded(), steps, image=[2.0, 1.0], strength=0.5).images
        a = float(pipeline.scheduler.alphas_cumprod[pipeline.scheduler.timesteps[steps // 2]])
        gain = (c / (a * c + 1 - a)) ** 0.5
        errors.append(float(abs(made.mean(0) - m - gain * a**0.5 * (y - m)).max()))
    np.testing.assert_allclose(made.std(0), gain * (1 - a) ** 0.5, rtol=0.05)
    assert errors[2] < 0.02 and errors[1] < 0.06 and errors[2] < errors[1] < errors[0]


def test_a_weak_start_keeps_the_picture_and_every_form_of_it_is_the_same():
    pipeline = make_pipeline()
    pictures = pipeline(2, seeded(), 5, output_type="pil").images
    forms = (pictures, np.stack([np.asarray(picture) for picture in pictures])[..., None] / 255)
    made = [pipeline(generator=seeded(), image=form, strength=0.1, output_type="pt").images for form in forms]
    assert made[0].shape == (2, 1, 8, 8)
    torch.testing.assert_close(made[0], made[1], rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:timesteps end at")
def test_a_chain_may_start_at_a_step():
    """The second half of a chain, from where the first half ended, gives what the whole chain gives."""
    pipeline = make_pipeline()
    noise = lambda: seeded(7)  # noqa: E731
    whole = pipeline(2, noise(), timesteps=list(range(19, -1, -1)), return_trajectory=True, output_type="pt")
    drawn = noise()
    torch.randn(2, 1, 8, 8, generator=drawn)
    for _ in range(10):
        torch.randn(2, 1, 8, 8, generator=drawn)
    half = pipeline(
        generator=drawn, latents=whole.trajectory[10], timesteps=torch.arange(9, -1, -1), output_type="pt"
    ).images
    torch.testing.assert_close(half, whole.images, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"strength": 0.5}, ValueError, "strength is 0.5, but there is no image"),
        ({"image": torch.zeros(1, 8, 8), "latents": torch.zeros(1, 1, 8, 8)}, ValueError, "both given"),
        ({"image": torch.zeros(3, 1, 8, 8), "batch_size": 2}, ValueError, "image has 3 pictures"),
        ({"image": Image.new("L", (8, 9))}, ValueError, "resize"),
        ({"image": torch.zeros(1, 8, 8), "strength": 0.01}, ValueError, "leaves none of 20 timesteps"),
        ({"image": torch.zeros(1, 8, 8), "strength": 2}, ValueError, "strength is 2"),
        ({"timesteps": [5, 9]}, ValueError, "descending"),
        ({"timesteps": [9, 0], "num_inference_steps": 2}, ValueError, "give one"),
        ({"image": "cat.png"}, TypeError, "image has str"),
    ],
)
def test_a_start_that_cannot_be_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        make_pipeline()(**arguments)


def test_a_callback_can_end_the_loop():
    pipeline, seen = make_pipeline(), []

    def stop_at_the_third(pipe, index, timestep, tensors):
        seen.append(index)
        pipe._interrupt = index == 2
        return {}

    output = pipeline(1, seeded(), 5, callback_on_step_end=stop_at_the_third, return_trajectory=True)
    assert seen == [0, 1, 2] and len(output.trajectory) == 4
    assert len(pipeline(1, seeded(), 5, return_trajectory=True).trajectory) == 6  # not the next one


def test_as_many_samples_as_there_are_latents_if_nobody_says():
    latents = torch.randn(3, 1, 8, 8, generator=seeded())
    assert make_pipeline()(latents=latents, output_type="pt").images.shape == latents.shape


@pytest.mark.parametrize("kind", [DDPMPipeline, DDIMPipeline, DDPMFromScratchPipeline])
def test_from_pipe_shares_the_network_both_ways(kind):
    ours = make_pipeline()
    there = kind.from_pipe(ours)
    there.set_progress_bar_config(disable=True)
    back = DDPMFromScratchPipeline.from_pipe(there)
    back.set_progress_bar_config(disable=True)
    assert there.unet is back.unet is ours.unet
    assert type(there.scheduler) is (DDIMScheduler if kind is DDIMPipeline else DDPMFromScratchScheduler)
    assert back.scheduler is there.scheduler
    options = {"generator": seeded(), "num_inference_steps": 5, "output_type": "np"}
    theirs = there(batch_size=2, **options).images
    mine = back(batch_size=2, **options | {"generator": seeded()}).images
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6)


def test_from_pipe_makes_a_stock_scheduler_ours_and_keeps_others():
    unet = make_pipeline().unet
    made = DDPMFromScratchPipeline.from_pipe(DDPMPipeline(unet, DDPMScheduler(**SHORT)))
    assert (
        type(made.scheduler) is DDPMFromScratchScheduler and made.scheduler.config.num_train_timesteps == 20
    )
    euler = EulerDiscreteScheduler()
    assert DDPMFromScratchPipeline.from_pipe(made, scheduler=euler).scheduler is euler


def test_from_pipe_brings_null_label_and_names_back():
    network = make_pipeline(num_class_embeds=4).unet
    ours = DDPMFromScratchPipeline(network, DDPMFromScratchScheduler(**SHORT), 3, {1: "dog"})
    for stock in (ConsistencyModelPipeline.from_pipe(ours), ours):
        back = DDPMFromScratchPipeline.from_pipe(stock)
        assert (back.config.null_class_label, back.config.id2label) == (3, {1: "dog"})
        assert DDPMFromScratchPipeline.from_pipe(stock, null_class_label=0).config.null_class_label == 0


def test_from_pipe_leaves_the_dtype_of_the_network_that_is_shared():
    ours = make_pipeline().to(torch.bfloat16)
    assert DDPMFromScratchPipeline.from_pipe(ours).unet.dtype == torch.bfloat16
    assert DDPMFromScratchPipeline.from_pipe(ours, dtype=torch.float32).unet.dtype == torch.float32


def test_from_pipe_refuses_what_it_would_lose():
    unet = make_pipeline().unet
    latent = LDMPipeline(VQModel(norm_num_groups=1), unet, DDIMScheduler())
    with pytest.raises(ValueError, match="LDMPipeline has the components .'scheduler', 'unet', 'vqvae'."):
        DDPMFromScratchPipeline.from_pipe(latent)
    with pytest.raises(TypeError, match="from_pipe got an unexpected keyword argument 'null_label'"):
        DDPMFromScratchPipeline.from_pipe(make_pipeline(), null_label=1)


@pytest.mark.parametrize(
    ("wrap", "settings"),
    [
        (DataParallel, {}),
        (DataParallel, {"num_class_embeds": 4}),
        (lambda network: torch.compile(network, backend="eager"), {}),
    ],
)
def test_a_wrapped_network_is_called_through_its_wrapper_and_saved_without(wrap, settings, tmp_path):
    plain, label = make_pipeline(**settings), 1 if settings else None
    options = {"class_labels": label, "output_type": "pt"}
    expected = plain(2, seeded(), 3, **options).images
    wrapper, calls = wrap(plain.unet), []
    wrapper.register_forward_hook(lambda *_: calls.append(1))
    at_once = DDPMFromScratchPipeline(wrapper, plain.scheduler, 3 if settings else None)
    later = DDPMFromScratchPipeline(plain.unet, plain.scheduler, 3 if settings else None)
    later.unet = wrapper
    for number, pipe in enumerate((at_once, later)):
        pipe.set_progress_bar_config(disable=True)
        torch.testing.assert_close(pipe(2, seeded(), 3, **options).images, expected, rtol=0, atol=1e-6)
        assert len(calls) == 3 * (number + 1)
        pipe.save_pretrained(tmp_path / str(number))
        index = json.loads((tmp_path / str(number) / "model_index.json").read_text())
        assert index["unet"] == ["diffusers", "UNet2DModel"]
        loaded = DDPMFromScratchPipeline.from_pretrained(tmp_path / str(number))
        loaded.set_progress_bar_config(disable=True)
        torch.testing.assert_close(loaded(2, seeded(), 3, **options).images, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_nan_is_one_error_at_the_first_step_where_it_happens(value, output_type):
    def fail(network, given, output):
        return UNet2DOutput(sample=output.sample * value) if int(given[1]) <= 13 else output

    pipeline = make_pipeline()
    pipeline.unet.register_forward_hook(fail)
    with pytest.raises(FloatingPointError, match="output is not finite at timestep 12, in float32"):
        pipeline(2, seeded(), 5, output_type=output_type)


def test_nan_in_latents_or_from_a_callback_is_not_blamed_on_the_network():
    pipeline, nan = make_pipeline(), torch.full((1, 1, 8, 8), float("nan"))
    with pytest.raises(FloatingPointError, match="input is not finite at timestep 16.*latents"):
        pipeline(1, seeded(), 5, latents=nan)
    with pytest.raises(FloatingPointError, match="last sample is not: .*callback_on_step_end"):
        pipeline(1, seeded(), 5, callback_on_step_end=lambda _, i, *__: {"latents": nan} if i == 4 else {})


def test_float16_that_overflows_is_told_what_to_do():
    pipeline = make_pipeline("points", DDPMFromScratchScheduler(**SHORT, clip_sample=False))
    torch.nn.init.constant_(pipeline.unet.project[1].bias, 1e6)
    with pytest.raises(FloatingPointError, match="in float16. float16 ends at 65504: try bfloat16"):
        pipeline.to(torch.float16)(2, seeded(), 2)


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
        {"batch_size": 1, "latents": torch.zeros(2, 1, 8, 8)},
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
