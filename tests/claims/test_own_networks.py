"""A network of one's own, in whatever form it is written, is as good as the exact one that it wraps."""

import functools
import re
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import nn

from common import seeded
from ddpm_from_scratch import (
    DDPMFromScratchPipeline,
    DDPMFromScratchScheduler,
    Denoiser,
    FewStepScheduler,
    calibrate,
)
from ddpm_from_scratch.density.bound import variational_bound
from ddpm_from_scratch.density.flow import flow_likelihood
from ddpm_from_scratch.learning.objectives import denoising_losses
from ddpm_from_scratch.networks.mixtures import GaussianMixtureDenoiser

PROCESS = DDPMFromScratchScheduler(
    num_train_timesteps=60,
    beta_schedule="squaredcos_cap_v2",
    prediction_type="v_prediction",
    clip_sample=False,
)
DDIM = DDIMScheduler.from_config(PROCESS.to_diffusers().config)
EXACT = GaussianMixtureDenoiser(
    [[1.0, -0.5], [-1.0, 0.7]],
    [[0.3, 0.1], [0.1, 0.2]],
    PROCESS.alphas_cumprod.tolist(),
    "v_prediction",
)


class Named(NamedTuple):
    prediction: torch.Tensor
    features: list


@dataclass
class Output:
    sample: torch.Tensor
    loss: None = None


class Plain(nn.Module):
    """A plain module; its timesteps must be one for each sample."""

    def __init__(self, form=None):
        super().__init__()
        self.network, self.form, self.sample_shape = EXACT, form or (lambda found: found), (2,)

    def forward(self, x, t):
        assert t.shape == (len(x),)
        return self.form(self.network(x, t).sample)


class Mixed(ModelMixin, ConfigMixin):
    """A diffusers model by inheritance, with a forward of its own manner."""

    @register_to_config
    def __init__(self, form=None, sample_shape=(2,)):
        super().__init__()
        self.network, self.form = EXACT, form

    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        assert timestep.shape == (len(sample),)
        return self.form(self.network(sample, timestep).sample)


class WithMore(Plain):
    """A forward with an argument that has no default."""

    def forward(self, x, t, context):
        return super().forward(x, t) + context


class WithOwnConfig(Plain):
    """A plain module whose `config` is a dictionary, and no configuration of diffusers."""

    def __init__(self):
        super().__init__()
        self.config = {"width": 3, "num_class_embeds": 7}


def function(x, t):
    return EXACT(x, t).sample


function.sample_shape = (2,)
NETWORKS = {
    "plain, tensor": Plain,
    "plain, tuple": lambda: Plain(lambda found: (found, "more")),
    "plain, dictionary": lambda: Plain(lambda found: {"sample": found}),
    "plain, named tuple": lambda: Plain(lambda found: Named(found, [])),
    "plain, dataclass": lambda: Plain(Output),
    "mixed, tensor": lambda: Mixed(lambda found: found),
    "mixed, tuple": lambda: Mixed(lambda found: (found,)),
    "mixed, .sample": lambda: Mixed(lambda found: UNet2DOutput(sample=found)),
    "own config": WithOwnConfig,
    "function": lambda: function,
    "bound argument": lambda: functools.partial(WithMore(), context=0.0),
}


@functools.cache
def truth():
    x_0 = EXACT.sample(16, seeded(1))
    noise = torch.randn(x_0.shape, generator=seeded(2), dtype=torch.float64)
    return x_0, noise, torch.arange(0, 60, 4)[:15].repeat(2)[:16]


def figures(network):
    x_0, noise, t = truth()
    denoiser = Denoiser(network, PROCESS)
    evenly = {"timesteps": range(0, 60, 4), "generator": seeded(0)}
    calibration = calibrate(denoiser, (2,), seeded(3), progress_bar=False)
    few_steps = FewStepScheduler.from_config(PROCESS.config, calibration=calibration)
    x_t = torch.randn(5, 2, generator=seeded(4), dtype=torch.float64)
    few_steps.set_timesteps(6)
    for timestep in few_steps.timesteps:
        x_t = few_steps.step(denoiser.output(x_t, timestep), timestep, x_t).prev_sample
    return {
        "loss": denoising_losses(denoiser, x_0, noise, t),
        "score": denoiser(x_0, t).score,
        "bound": variational_bound(denoiser, x_0, data_levels=None, generator=seeded(0)).nats,
        "flow": flow_likelihood(denoiser, x_0, divergence="exact", **evenly).nats,
        "calibrated timesteps": few_steps.timesteps,
        "few steps": x_t,
    }


@functools.cache
def exact_figures():
    return figures(EXACT)


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_figure_is_that_of_the_exact_network(kind):
    network = NETWORKS[kind]()
    found = figures(network)
    for name, expected in exact_figures().items():
        torch.testing.assert_close(found[name], expected, rtol=1e-6, atol=1e-6, msg=name)
    x_0, _, t = truth()
    level = PROCESS.alphas_cumprod[t].double()[:, None]
    torch.testing.assert_close(found["score"], EXACT.score(x_0, level), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scheduler", [PROCESS, DDIM])
@pytest.mark.parametrize("kind", [name for name in NETWORKS if name != "bound argument"])
def test_the_pipeline_gives_the_samples_of_the_exact_network(kind, scheduler):
    images = []
    for network in (EXACT, NETWORKS[kind]()):
        pipeline = DDPMFromScratchPipeline(network, scheduler)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.to("cpu")
        assert pipeline.device.type == "cpu"
        latents = torch.randn(4, 2, generator=seeded(5), dtype=torch.float64)
        images.append(pipeline(4, seeded(6), num_inference_steps=8, latents=latents).images)
        assert pipeline(2, seeded(6), num_inference_steps=2).images.shape == (2, 2)
    # A function has no precision to follow: float32.
    torch.testing.assert_close(*map(torch.from_numpy, images), rtol=0, atol=1e-5)


class Sized(Plain):
    """A prediction of the wrong shape."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, x, t):
        return x.new_zeros(*self.size)


class NoTime(Plain):
    def forward(self, x):
        return x


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (WithMore, TypeError, r"called as network\(sample, timesteps\).*'context'.*functools.partial"),
        (
            NoTime,
            TypeError,
            r"called as network\(sample, timesteps\), which its arguments \(x\) do not",
        ),
        (lambda: Sized((4, 1)), ValueError, r"shape \(4, 1\) for samples of shape \(4, 2\)"),
        (lambda: Sized((1, 2)), ValueError, r"shape \(1, 2\) for samples of shape \(4, 2\)"),
        (lambda: Plain(lambda found: None), TypeError, "returned NoneType, but its forward must return"),
        (
            lambda: Plain(lambda found: {"pred": found}),
            TypeError,
            "returned dict, but its forward must",
        ),
    ],
)
@pytest.mark.parametrize("scheduler", [PROCESS, DDIM], ids=["ours", "DDIM"])
def test_a_network_that_cannot_be_used_is_one_clear_error(make, error, message, scheduler):
    pipeline = DDPMFromScratchPipeline(make(), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    with pytest.raises(error, match=message):
        pipeline(4, num_inference_steps=2)


def test_labels_for_a_network_that_takes_none_are_one_clear_error():
    with pytest.raises(TypeError, match=re.escape("network(sample, timesteps, class_labels=labels)")):
        Denoiser(Plain(), PROCESS, labels=1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_plain_module_samples_in_its_own_precision(dtype):
    class Net(nn.Module):
        sample_shape = (2,)

        def __init__(self):
            super().__init__()
            self.counter = nn.Parameter(torch.tensor(1), requires_grad=False)  # no precision of anything
            self.layer = nn.Linear(2, 2)

        def forward(self, x, t):
            return self.layer(x)

    pipeline = DDPMFromScratchPipeline(Net(), PROCESS).to(dtype)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.dtype == dtype and pipeline.unet.layer.weight.dtype == dtype
    samples = pipeline(2, seeded(0), num_inference_steps=3, output_type="pt").images
    assert samples.dtype == dtype and bool(samples.isfinite().all())


@pytest.mark.parametrize("shape", ["2", 2, (0,), (2.0,), ()])
def test_a_sample_shape_that_is_none_is_one_clear_error(shape):
    network = Plain()
    network.sample_shape = shape
    with pytest.raises(ValueError, match="sample_shape .* but must have the shape of one sample"):
        DDPMFromScratchPipeline(network, PROCESS)()


def test_without_a_shape_the_error_says_what_to_give_and_latents_do():
    network = Plain()
    del network.sample_shape
    pipeline = DDPMFromScratchPipeline(network, PROCESS)
    pipeline.set_progress_bar_config(disable=True)
    with pytest.raises(ValueError, match="Plain is not known: give .*sample_shape.*or pass latents"):
        pipeline()
    latents = torch.randn(3, 2, dtype=torch.float64)
    assert pipeline(3, latents=latents, num_inference_steps=2).images.shape == (3, 2)


def test_a_diffusers_model_without_a_single_tensor_samples():
    class Empty(ModelMixin, ConfigMixin):
        @register_to_config
        def __init__(self, sample_shape=(2,)):
            super().__init__()

        def forward(self, sample, timestep):
            return 0.5 * sample

    pipeline = DDPMFromScratchPipeline(Empty(), PROCESS).to("cpu")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.dtype == torch.float32 and pipeline(2, num_inference_steps=2).images.shape == (2, 2)
