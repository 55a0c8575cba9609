from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, PNDMScheduler

from ddpm_from_scratch.process import diffusion as d
from ddpm_from_scratch.process import estimate as e


def test_guidance_means_the_same_for_every_prediction_type(generator):
    x0, eps, other = torch.randn(3, 3, 2, generator=generator, dtype=torch.float64)
    at_t = d.scales(torch.tensor([[0.99], [0.5], [0.05]], dtype=torch.float64))
    xt = d.add_noise(x0, eps, at_t)
    guided = {}
    for prediction_type in d.PREDICTION_TYPES:
        both = []
        for noise in (eps, other):  # two estimates for the same x_t
            original = d.to_original(noise, xt, at_t, "epsilon")
            both.append(d.training_target(original, noise, at_t, prediction_type))
        guided[prediction_type] = d.to_original(e.guided_output(*both, 3.0), xt, at_t, prediction_type)
    for prediction_type in d.PREDICTION_TYPES:
        torch.testing.assert_close(guided[prediction_type], guided["epsilon"], rtol=0, atol=1e-6)
    torch.testing.assert_close(e.guided_output(eps, other, 1.0), eps)
    assert torch.equal(e.guided_output(eps, other, 0.0), other)


def test_a_learned_variance_is_the_second_half_of_the_channels(generator):
    output, sample = torch.randn(2, 6, 4, generator=generator), torch.zeros(2, 3, 4)
    prediction, variance = e.split_variance(output, sample, "learned_range")
    assert torch.equal(prediction, output[:, :3]) and torch.equal(variance, output[:, 3:])
    assert e.split_variance(sample, sample, "fixed_small") == (sample, None)


@pytest.mark.parametrize(
    ("channels", "variance_type", "needed"),
    [
        (3, "learned_range", "twice the sample's channels"),
        (5, "learned", "twice the sample's channels"),
        (6, "fixed_small", "the sample's shape"),
        (6, None, "the sample's shape"),
    ],
)
def test_channels_that_do_not_fit_the_variance_type_are_refused(channels, variance_type, needed):
    shapes = rf"\(2, {channels}, 4\) and sample \(2, 3, 4\)"
    with pytest.raises(ValueError, match=f"{shapes}, but variance_type {variance_type!r} needs {needed}"):
        e.split_variance(torch.zeros(2, channels, 4), torch.zeros(2, 3, 4), variance_type)


def test_clipping_follows_the_settings_of_ours_and_of_stock():
    x0 = torch.tensor([[-3.0, 0.5, 2.0]])
    assert e.clipped(x0, DDPMScheduler(clip_sample_range=2.0).config).tolist() == [[-2.0, 0.5, 2.0]]
    assert e.clipped(x0, DDIMScheduler().config).tolist() == [[-1.0, 0.5, 1.0]]
    for config in (DDPMScheduler(clip_sample=False).config, PNDMScheduler().config, SimpleNamespace()):
        assert e.clipped(x0, config) is x0
    thresholding = DDPMScheduler(thresholding=True, sample_max_value=10.0, dynamic_thresholding_ratio=0.5)
    limit = np.quantile([3.0, 0.5, 2.0], 0.5)
    expected = torch.tensor([[-3.0, 0.5, 2.0]]).clamp(-limit, limit) / limit
    torch.testing.assert_close(e.clipped(x0, thresholding.config), expected)
