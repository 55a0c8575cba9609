"""What settings warn of, and what of them stock can express."""

import warnings

import pytest
import torch
from diffusers import DDPMScheduler

from common import seeded
from ddpm_from_scratch import DDPMFromScratchScheduler, FewStepScheduler, SchedulerWarning

allow_warnings = pytest.mark.filterwarnings("ignore::ddpm_from_scratch.SchedulerWarning")


X = torch.zeros(2, 3, 4, 4)


def warnings_of(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in caught if issubclass(w.category, SchedulerWarning)]


@allow_warnings
def test_zero_snr_guard_goes_when_the_network_does_not_predict_noise():
    scheduler = DDPMFromScratchScheduler(rescale_betas_zero_snr=True)
    assert float(scheduler.alphas_cumprod[-1]) > 0
    scheduler.register_to_config(prediction_type="v_prediction")
    assert float(scheduler.alphas_cumprod[-1]) == 0


@allow_warnings
@pytest.mark.parametrize("betas", [[0.1, 0.5, 1.0], [0.5, 0.9999999, 1.0]])
def test_zero_snr_guard_is_small_and_keeps_alpha_bar_falling(betas):
    table = DDPMFromScratchScheduler(3, trained_betas=betas).alphas_cumprod
    assert 0 < float(table[-1]) == min(2.0**-24, float(table[-2]) / 2)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"beta_start": 0.02, "beta_end": 0.0001}, "beta_start 0.02 is larger than beta_end 0.0001"),
        ({"beta_schedule": "squaredcos_cap_v2", "beta_end": 0.012}, "does not use beta_end"),
        ({"rescale_betas_zero_snr": True}, "zero terminal SNR"),
        ({"clip_sample_range": 0}, "clip_sample_range is 0"),
        ({"thresholding": True}, "equals plain clipping"),
        ({"num_train_timesteps": 200}, "alpha-bar is 0.132 at the last of 200"),
        ({"num_train_timesteps": 1000.0}, "num_train_timesteps is 1000.0; it is used as 1000"),
        ({}, None),
        ({"beta_schedule": "squaredcos_cap_v2"}, None),
        (
            {
                "beta_start": 0.00085,
                "beta_end": 0.012,
                "beta_schedule": "scaled_linear",
                "clip_sample": False,
            },
            None,
        ),
        ({"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}, None),
        ({"thresholding": True, "sample_max_value": 1.5}, None),
    ],
)
def test_suspicious_settings_warn_once_and_usual_ones_never(config, words):
    def build_and_use():
        scheduler = DDPMFromScratchScheduler(**config)
        for _ in range(2):
            scheduler.set_timesteps(50)
            scheduler.add_noise(X, X, torch.tensor([1, 2]))

    found = warnings_of(build_and_use)
    assert len(found) == (words is not None)
    assert words is None or words in found[0]


@pytest.mark.parametrize(
    ("config", "lost"),
    [
        ({"variance_type": "learned"}, "the learned variances are lost"),
        ({"rescale_betas_zero_snr": True}, "the start of the chain is lost"),
    ],
)
@allow_warnings
def test_to_diffusers_says_what_would_be_lost(config, lost):
    with pytest.raises(ValueError, match=lost):
        DDPMFromScratchScheduler(**config).to_diffusers()


def test_to_diffusers_turns_fixed_large_log_into_its_equal():
    ours = DDPMFromScratchScheduler(variance_type="fixed_large_log")
    x = torch.randn(2, 3, 4, 4, generator=seeded())
    a, b = (s.step(x, 500, x, generator=seeded()).prev_sample for s in (ours, ours.to_diffusers()))
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


# Stock runs with these: alpha-bar underflows from timestep 952 on.
UNDERFLOW = {"beta_start": 0.01, "beta_end": 0.2, "clip_sample": False}


@pytest.mark.parametrize("kind", [DDPMFromScratchScheduler, FewStepScheduler])
def test_alpha_bar_that_underflows_warns_and_goes_on_falling(kind):
    with pytest.warns(SchedulerWarning, match="too small for float32 from timestep 952 of 1000"):
        scheduler = kind(**UNDERFLOW)
    table = scheduler.alphas_cumprod.double()
    exact = torch.cumprod(1 - scheduler.betas.double(), dim=0)
    above = exact >= 2.0**-99
    assert bool((table[1:] < table[:-1]).all()) and float(table[-1]) == 2.0**-120
    torch.testing.assert_close(table[above], exact[above], rtol=1e-3, atol=0)
    stock = DDPMScheduler(**UNDERFLOW)
    x, noise = torch.randn(2, 4, 3, generator=seeded()).unbind()
    t = torch.tensor([0, 300, 960, 999])
    assert torch.equal(stock.add_noise(x, noise, t), scheduler.add_noise(x, noise, t))
    assert torch.equal(stock.get_velocity(x, noise, t), scheduler.get_velocity(x, noise, t))


@allow_warnings
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("kind", [DDPMFromScratchScheduler, FewStepScheduler])
def test_samples_are_right_where_alpha_bar_underflows(kind, prediction_type):
    """The exact network of N(0, 0.5^2), written for each prediction; stock's samples are nan.

    Steps as coarse as these betas leave ancestral samples at 0.467, with an end without signal or not.
    """
    scheduler = kind(**UNDERFLOW, prediction_type=prediction_type)
    is_ancestral = kind is DDPMFromScratchScheduler
    scheduler.set_timesteps(1000 if is_ancestral else 400)
    whole = spread(scheduler, prediction_type)
    cut = kind(900, trained_betas=scheduler.betas[:900].tolist(), clip_sample=False)
    cut.register_to_config(prediction_type=prediction_type)
    cut.set_timesteps(900 if is_ancestral else 400)
    assert whole == pytest.approx(spread(cut, prediction_type), abs=0.02)
    assert whole == pytest.approx(0.467 if is_ancestral else 0.5, abs=0.02)


def spread(scheduler, prediction_type):
    """Return the std of samples of the exact network."""
    generator = seeded()
    sample = torch.randn(4000, 1, generator=generator)
    for t in scheduler.timesteps:
        a = float(scheduler.alphas_cumprod[t])
        scale = 1 / (a * 0.25 + 1 - a)
        output = {
            "epsilon": (1 - a) ** 0.5 * scale * sample,
            "sample": a**0.5 * 0.25 * scale * sample,
            "v_prediction": (a * (1 - a)) ** 0.5 * 0.75 * scale * sample,
        }[prediction_type]
        sample = scheduler.step(output, t, sample, generator).prev_sample
    return float(sample.std())


@allow_warnings
def test_underflow_with_zero_snr_or_in_stock_is_refused():
    with pytest.raises(ValueError, match="with rescale_betas_zero_snr only the last timestep"):
        DDPMFromScratchScheduler(**UNDERFLOW, rescale_betas_zero_snr=True)
    for kind in (DDPMFromScratchScheduler, FewStepScheduler):
        with pytest.raises(ValueError, match="too small for float32 .* no counterpart"):
            kind(**UNDERFLOW).to_diffusers()
