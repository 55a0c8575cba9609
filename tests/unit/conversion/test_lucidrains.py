"""denoising-diffusion-pytorch: network and process of a Trainer's file, beside an independent statement."""

import pytest
import torch

from common import seeded
from ddpm_from_scratch import DDPMFromScratchPipeline
from ddpm_from_scratch.conversion.lucidrains import convert_lucidrains, is_lucidrains
from ddpm_from_scratch.conversion.settings import ConversionSettings
from ddpm_from_scratch.runtime.errors import ConfigError
from foreign_networks import LucidrainsNetwork

SIDE = 8
CASES = {
    "as its README": {"mults": (1, 2, 4), "channels": 3},
    "other widths, heads and attention": {
        "first": 24, "full": [True, False], "heads": [2, 3], "head_width": 5, "memory": 2,
    },
    "noise, cosine, min-SNR": {"objective": "pred_noise", "schedule": "cosine", "min_snr": True},
    "x_0, linear": {"objective": "pred_x0", "schedule": "linear", "timesteps": 1000},
    "v, min-SNR": {"min_snr": True},
}  # fmt: skip
PREDICTS = {"pred_noise": "epsilon", "pred_x0": "sample", "pred_v": "v_prediction"}
SCHEDULES = {"sigmoid": "sigmoid_alpha_bar", "cosine": "squaredcos_cap_v2", "linear": "linear"}


def converted(weights, notes=None, **flags):
    settings = ConversionSettings(**{"image_size": SIDE, **flags})
    return convert_lucidrains(weights, settings, [] if notes is None else notes)


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_process_are_those_of_the_original(name):
    network = LucidrainsNetwork(**CASES[name])
    notes = []
    model, scheduler = converted(network.state(), notes)
    sample = torch.randn(2, network.channels, SIDE, SIDE, generator=seeded(1))
    timesteps = torch.tensor([1, 19])
    with torch.no_grad():
        found = model(sample, timesteps).sample
    expected = network(sample, timesteps)
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    config = scheduler.config
    assert config.prediction_type == PREDICTS[CASES[name].get("objective", "pred_v")]
    assert config.beta_schedule == SCHEDULES[CASES[name].get("schedule", "sigmoid")]
    assert config.trained_betas is None and config.variance_type == "fixed_small"
    torch.testing.assert_close(
        scheduler.alphas_cumprod.double(), network.alphas_cumprod, atol=1e-6, rtol=1e-4
    )
    assert any(config.prediction_type in note for note in notes)


def test_samples_of_the_pipeline_equal_a_plain_loop():
    network = LucidrainsNetwork()
    model, scheduler = converted(network.state())
    pipeline = DDPMFromScratchPipeline(unet=model, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    x_t = torch.randn(2, 1, SIDE, SIDE, generator=seeded(3))
    images = pipeline(batch_size=2, latents=x_t, generator=seeded(4), output_type="pt").images
    generator, bars = seeded(4), torch.cat([torch.ones(1, dtype=torch.float64), network.alphas_cumprod])
    for step in reversed(range(1, 21)):
        bar, before = bars[step], bars[step - 1]
        beta = 1 - bar / before
        velocity = network(x_t, torch.full((2,), step - 1)).double()
        x_0 = (bar**0.5 * x_t - (1 - bar) ** 0.5 * velocity).clamp(-1, 1)
        x_t = (beta * before**0.5 * x_0 + (1 - before) * (1 - beta) ** 0.5 * x_t) / (1 - bar)
        if step > 1:
            noise = torch.randn(x_t.shape, generator=generator)
            x_t = x_t + (beta * (1 - before) / (1 - bar)) ** 0.5 * noise
        x_t = x_t.float()
    assert bool(images.isfinite().all()) and float(images.std()) > 0.05
    torch.testing.assert_close(images, (x_t / 2 + 0.5).clamp(0, 1), atol=1e-4, rtol=0)


def test_betas_of_no_named_schedule_are_kept_as_they_are():
    network = LucidrainsNetwork()
    network.alphas_cumprod = (1 - torch.linspace(0.01, 0.5, 20, dtype=torch.float64)).cumprod(0)
    _, scheduler = converted(network.state())
    torch.testing.assert_close(scheduler.betas, torch.linspace(0.01, 0.5, 20), atol=1e-6, rtol=0)


def test_the_average_is_inside_what_ema_pytorch_saves():
    average = LucidrainsNetwork()
    ema = LucidrainsNetwork().file(average)["ema"]
    model, _ = converted(ema)
    assert torch.equal(model.init_conv.weight, average.weights["init_conv.weight"])


def without(*names, **more):
    state = LucidrainsNetwork().state()
    return {name: value for name, value in state.items() if name not in names} | more


def renamed(old, new):
    return {name.replace(old, new): value for name, value in LucidrainsNetwork().state().items()}


BAD = {
    "the network alone": (LucidrainsNetwork().weights, {}, "not of the Unet alone"),
    "no betas": (without("betas"), {}, "lacks 'betas'"),
    "group norms": (renamed("block1.norm.g", "block1.norm.weight"), {}, "group norms, of a version before"),
    "another embedding": (without(**{"model.time_mlp.0.weights": torch.ones(8)}), {}, "a random or learned"),
    "attention of before 2.0": (renamed("0.2.norm.g", "0.2.fn.norm.g"), {}, "of a version before 2.0"),
    "no memory": (without("model.downs.0.2.mem_kv"), {}, "lacks 'downs.0.2.mem_kv'"),
    "a weight is missing": (without("model.mid_attn.norm.g"), {}, "lacks 'mid_attn.norm.g'"),
    "a weight too many": (without(**{"model.x.weight": torch.ones(8)}), {}, "has 'x.weight'"),
    "another shape": (
        without(**{"model.final_res_block.mlp.1.bias": torch.ones(8)}), {}, r"mlp\.1\.bias' of shape \(8,\)",
    ),
    "self-conditioning": (
        without(**{"model.init_conv.weight": torch.ones(16, 2, 7, 7)}), {}, "self-conditioning",
    ),
    "another prediction": (without(), {"prediction_type": "epsilon"}, "the file says 'v_prediction'"),
    "weights of a loss of no kind": (without(loss_weight=torch.full((20,), 7.0)), {}, "--prediction_type is"),
    "a learned variance": (without(), {"variance_type": "learned_range"}, "must be a fixed one"),
    "OpenAI's flags": (without(), {"num_heads": 4}, "--num_heads is 4, but a file of denoising-diffusion"),
    "no size": (without(), {"image_size": None}, "--image_size is missing"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_converted_is_refused_in_one_line(name):
    weights, flags, says = BAD[name]
    with pytest.raises(ConfigError, match=says) as error:
        converted(weights, **flags)
    assert "\n" not in str(error.value) and "must" in str(error.value)


def test_a_prediction_that_the_file_does_not_say_may_be_given():
    _, scheduler = converted(without(loss_weight=torch.full((20,), 7.0)), prediction_type="sample")
    assert scheduler.config.prediction_type == "sample"


def test_the_layout_is_known_by_its_names():
    assert is_lucidrains(without()) and is_lucidrains(LucidrainsNetwork().file()["ema"])
    assert not is_lucidrains({"conv_in.weight": 1, "time_embed.0.weight": 1})
