"""improved-diffusion and guided-diffusion: the converted network computes what the original does.

The original is stated again in tests/support/foreign_networks.py, with random weights.
"""

import re

import pytest
import torch
from diffusers import UNet2DModel

from common import seeded
from ddpm_from_scratch import DDPMFromScratchPipeline
from ddpm_from_scratch.conversion.openai import convert_openai, is_openai
from ddpm_from_scratch.conversion.settings import ConversionSettings
from ddpm_from_scratch.networks.guided_unet import GuidedUNet2DModel
from ddpm_from_scratch.runtime.errors import ConfigError
from foreign_networks import OpenAINetwork

GUIDED = {"residual_resampling": True, "classes": 5, "out": 6}
# name: the network, the flags, the class that it becomes. Widths are small, the form is the published one.
CASES = {
    "improved, CIFAR-10": (
        {"mults": (1, 2, 2, 2), "layers": 3, "attention": (1, 2), "heads": 4, "out": 6}, {}, UNet2DModel,
    ),
    "improved, ImageNet-64": (
        {"mults": (1, 2, 3, 4), "layers": 2, "attention": (2, 3), "heads": 4, "out": 6, "classes": 7},
        {}, GuidedUNet2DModel,
    ),
    "improved, LSUN": (
        {"mults": (1, 1, 2), "layers": 2, "attention": (2,), "heads": 1, "out": 6, "scale_shift": False},
        {"num_heads": 1}, UNet2DModel,
    ),
    "guided, 64 px": (
        {"mults": (1, 2, 3), "layers": 3, "attention": (0, 1, 2), "head_width": 16, "new_order": True}
        | GUIDED,
        {"num_head_channels": 16, "use_new_attention_order": True, "noise_schedule": "cosine"}, UNet2DModel,
    ),
    "guided, 128 px": (
        {"mults": (1, 1, 2, 3), "layers": 2, "attention": (2, 3), "heads": 4} | GUIDED, {}, GuidedUNet2DModel,
    ),
    "guided, 256 px, no classes": (
        {"mults": (1, 1, 2), "layers": 2, "attention": (1, 2), "head_width": 32} | GUIDED | {"classes": None},
        {"num_head_channels": 32}, UNet2DModel,
    ),
    "guided, 512 px": (
        {"width": 64, "mults": (0.5, 1, 2), "attention": (2,), "head_width": 32} | GUIDED,
        {"num_head_channels": 32}, GuidedUNet2DModel,
    ),
    "no attention but in the middle, residual resampling": (
        {"heads": 2, "residual_resampling": True}, {"num_heads": 2}, UNet2DModel,
    ),
    "grey, fixed variance, one level": (
        {"mults": (1,), "channels": 1, "heads": 2, "attention": (0,)}, {"num_heads": 2}, UNet2DModel,
    ),
}  # fmt: skip
SIDE = 8


def converted(network, notes=None, **flags):
    settings = ConversionSettings(**{"image_size": SIDE, **flags})
    return convert_openai(dict(network.weights), settings, [] if notes is None else notes)


def inputs(network):
    generator = seeded(1)
    sample = torch.randn(2, network.channels, SIDE, SIDE, generator=generator)
    labels = torch.tensor([0, network.classes - 1]) if network.classes else None
    return sample, torch.tensor([3, 998]), labels


@pytest.mark.parametrize("name", CASES)
def test_outputs_equal_those_of_the_original_to_1e_5(name):
    shape, flags, kind = CASES[name]
    network = OpenAINetwork(**shape)
    model, scheduler = converted(network, **flags)
    assert type(model) is kind and not model.training
    sample, timesteps, labels = inputs(network)
    with torch.no_grad():
        found, expected = model(sample, timesteps, labels).sample, network(sample, timesteps, labels)
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    learned = network.out == 2 * network.channels
    assert scheduler.config.variance_type == ("learned_range" if learned else "fixed_large")


@pytest.mark.parametrize(
    "wrong", [{"num_heads": 2}, {"use_new_attention_order": True}, {"num_head_channels": 8}]
)
def test_the_flags_of_attention_matter(wrong):
    network = OpenAINetwork(heads=4, attention=(0, 1))
    sample, timesteps, labels = inputs(network)
    model, _ = converted(network, **wrong)
    with torch.no_grad():
        found = model(sample, timesteps, labels).sample
    assert float((found - network(sample, timesteps)).abs().max()) > 1e-3


def test_what_was_read_and_what_was_assumed_is_said():
    notes = []
    converted(OpenAINetwork(heads=4, attention=(1,), classes=3), notes)
    said = "\n".join(notes)
    assert "attention at 4 px" in notes[0] and "3 classes" in notes[0] and "scale-shift" in notes[0]
    for flag in ("num_heads=4", "use_new_attention_order=False", "diffusion_steps=1000", "linear", "epsilon",
                 "fixed_large"):  # fmt: skip
        assert flag in said, flag
    notes = []
    converted(OpenAINetwork(heads=1), notes, num_heads=1, diffusion_steps=1000, noise_schedule="linear",
              prediction_type="epsilon", variance_type="fixed_small")  # fmt: skip
    assert len(notes) == 1, "one head has no order, and all else was given"


def posterior_step(output, x_t, beta, bar, bar_before, noise):
    """One step of p_sample of these code bases, with clipping and a learned range."""
    epsilon, between = output.chunk(2, dim=1)
    x_0 = ((x_t - (1 - bar) ** 0.5 * epsilon) / bar**0.5).clamp(-1, 1)
    mean = (beta * bar_before**0.5 * x_0 + (1 - bar_before) * (1 - beta) ** 0.5 * x_t) / (1 - bar)
    if bar_before == 1:
        return mean
    small, share = torch.log(beta * (1 - bar_before) / (1 - bar)), (between + 1) / 2
    return mean + torch.exp(0.5 * (share * torch.log(beta) + (1 - share) * small)) * noise


@pytest.mark.parametrize("rescale", [True, False])
def test_samples_of_the_pipeline_equal_a_plain_loop(rescale):
    """With 100 timesteps, which the network saw as they are or rescaled to 0..990."""
    network = OpenAINetwork(heads=4, **GUIDED)
    model, scheduler = converted(network, diffusion_steps=100, rescale_timesteps=rescale)
    stored = torch.linspace(1e-3, 0.2, 100, dtype=torch.float64)  # the linear betas times 1000 / 100
    torch.testing.assert_close(scheduler.betas.double(), stored, atol=1e-7, rtol=0)
    x_t, _, labels = inputs(network)
    noises, bars = [], (1 - stored).cumprod(0)
    pipeline = DDPMFromScratchPipeline(unet=model, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        batch_size=2, latents=x_t, class_labels=labels, output_type="pt", generator=seeded(4),
        num_inference_steps=5,
    ).images  # fmt: skip
    generator, visited = seeded(4), [99, 74, 50, 25, 0]
    assert pipeline.scheduler.timesteps.tolist() == visited
    for place, timestep in enumerate(visited):
        before = bars[visited[place + 1]] if place < 4 else torch.tensor(1.0, dtype=torch.float64)
        seen = torch.full((2,), timestep * (10.0 if rescale else 1.0))
        noises.append(torch.randn(x_t.shape, generator=generator) if place < 4 else None)
        beta = 1 - bars[timestep] / before
        output = network(x_t, seen, labels)
        x_t = posterior_step(output.double(), x_t.double(), beta, bars[timestep], before, noises[-1]).float()
    assert bool(images.isfinite().all()) and float(images.std()) > 0.05
    torch.testing.assert_close(images, (x_t / 2 + 0.5).clamp(0, 1), atol=2e-5, rtol=0)


def test_schedule_and_prediction_are_as_given():
    network = OpenAINetwork(heads=1)
    _, scheduler = converted(
        network, diffusion_steps=4000, noise_schedule="cosine", rescale_timesteps=False,
        prediction_type="sample", variance_type="fixed_small",
    )  # fmt: skip
    config = scheduler.config
    assert (config.beta_schedule, config.num_train_timesteps) == ("squaredcos_cap_v2", 4000)
    assert (config.prediction_type, config.variance_type) == ("sample", "fixed_small")


def changed(**changes):
    weights = dict(OpenAINetwork(heads=4, attention=(1,)).weights)
    for name, value in changes.items():
        name = name.replace("__", ".")
        weights.pop(name, None)
        if value is not None:
            weights[name] = value
    return weights


BAD = {
    "a weight is missing": (changed(middle_block__1__norm__bias=None), {}, "lacks 'middle_block.1.norm.b"),
    "a weight too many": (changed(middle_block__3__x__weight=torch.ones(1)), {}, "has 'middle_block.3.x.w"),
    "another shape": (changed(out__0__weight=torch.ones(8)), {}, r"'out.0.weight' of shape \(8,\)"),
    "a classifier": (changed(out__2__weight=None), {}, "classifier"),
    "an upsampler": (OpenAINetwork(channels=6, out=6, heads=4).weights, {}, "6 channels.*upsampler"),
    "an upsampler's output": (OpenAINetwork(channels=6, out=3, heads=4).weights, {}, "upsampler"),
    "resampling without convolution": (
        changed(input_blocks__2__0__op__weight=None, input_blocks__2__0__op__bias=None), {}, "conv_resample",
    ),
    "widths of another code base": (
        {name: value[:24] if name.startswith("input_blocks.1.0.out_layers.3") else value
         for name, value in changed().items()}, {}, "24 wide.*multiple of 32",
    ),
    "a level with more layers": (
        {name.replace("output_blocks.3", "output_blocks.4"): value for name, value in changed().items()}
        | {"output_blocks.3.0.x.weight": torch.ones(1)}, {}, "same number of layers",
    ),
    "no size": (changed(), {"image_size": None}, "--image_size is missing"),
    "a size that does not fit": (changed(), {"image_size": 9}, "--image_size is 9.*multiple of 2"),
    "heads that do not divide": (changed(), {"num_heads": 5}, "--num_heads is 5, but must divide 64"),
    "head channels that do not divide": (changed(), {"num_head_channels": 48}, "--num_head_channels is 48"),
    "both": (changed(), {"num_heads": 2, "num_head_channels": 16}, "only one may be given"),
    "rescaling not said": (changed(), {"diffusion_steps": 4000}, "--rescale_timesteps must be given"),
    "a learned variance": (changed(), {"variance_type": "learned_range"}, "must be a fixed one"),
    "a fixed variance": (
        OpenAINetwork(heads=4, out=6).weights, {"variance_type": "fixed_small"}, "must be learned_range",
    ),
    "rescaled, and half as wide": (
        OpenAINetwork(width=64, mults=(0.5, 1), heads=1).weights,
        {"num_heads": 1, "diffusion_steps": 500, "rescale_timesteps": True}, "no counterpart in UNet2DModel",
    ),
    "integers": (changed(out__0__weight=torch.ones(32, dtype=torch.int64)), {}, "'out.0.weight' as torch.i"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_converted_is_refused_in_one_line(name):
    weights, flags, says = BAD[name]
    settings = ConversionSettings(**{"image_size": SIDE, **flags})
    with pytest.raises(ConfigError, match=says) as error:
        convert_openai(dict(weights), settings, [])
    assert "\n" not in str(error.value) and re.search("must|may", str(error.value))


def test_the_layout_is_known_by_its_names():
    assert is_openai(changed()) and not is_openai({"down_blocks.0.x": 1, "init_conv.weight": 2})
