"""The configuration of every scheduler of diffusers is followed, or refused by name; none in silence."""

import warnings
from types import SimpleNamespace

import diffusers
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler, PNDMScheduler

import configurations
from common import ROOT
from configurations import CHANGED, class_of, outcome, stored
from ddpm_from_scratch import DDPMFromScratchScheduler, Denoiser, FewStepScheduler, calibrate

pytestmark = pytest.mark.filterwarnings("ignore")  # of what diffusers deprecates; outcomes count their own

SCHEDULERS = configurations.every_scheduler()
OURS = (DDPMFromScratchScheduler, FewStepScheduler)
CASES = [*((name, {}) for name in SCHEDULERS), *CHANGED]
both = pytest.mark.parametrize("ours", OURS)


def network(sample, timesteps):
    return sample


def made(name, settings):
    """The scheduler itself, if it can be made here and has an alpha-bar."""
    kind = class_of(name)
    try:
        scheduler = kind(**settings)
    except (ImportError, TypeError, ValueError, NotImplementedError):
        return None
    return scheduler if hasattr(scheduler, "alphas_cumprod") else None


def test_every_scheduler_of_diffusers_is_there():
    public = {name for name in dir(diffusers) if name.endswith("Scheduler")}
    public -= {"KarrasDiffusionSchedulers"} | {name for name in public if name.startswith(("Flax", "Onnx"))}
    assert public <= SCHEDULERS.keys() and len(SCHEDULERS) >= 49


@pytest.mark.parametrize(("name", "settings"), CASES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CASES)])
def test_a_configuration_is_followed_or_refused_by_name(name, settings):
    """As a file has it, and, if it can be made, as the scheduler has it; for both schedulers the same."""
    source = made(name, settings)
    config = stored(name, settings)
    results = [outcome(config, kind, source) for kind in OURS]
    if source is not None and "predict_epsilon" not in settings:
        results += [outcome(source.config, kind, source) for kind in OURS]
    assert len(set(results)) == 1, results
    assert results[0].startswith(("followed, ", "refused: "))
    if source is None and "beta_schedule" not in config:
        assert results[0].startswith("refused: ")


def test_the_page_has_the_printed_tables():
    assert configurations.markdown() in (ROOT / "docs" / "differences.md").read_text()


@both
def test_the_refusal_names_the_scheduler_or_its_keys(ours, tmp_path):
    flow = FlowMatchEulerDiscreteScheduler(shift=3.0)
    with pytest.raises(ValueError, match="has shift and no beta_schedule: .*flow matching"):
        ours.from_config(flow.config)
    with pytest.raises(ValueError, match="no beta_schedule"):
        ours.from_config({"shift": 3.0, "num_train_timesteps": 1000})
    flow.save_pretrained(tmp_path)
    for load in (ours.from_pretrained, ours.from_config):
        with pytest.raises(ValueError, match="of FlowMatchEulerDiscreteScheduler has shift"):
            load(tmp_path)


def test_calibration_and_denoiser_refuse_another_process_by_name():
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler has shift"):
        calibrate(Denoiser(network, FlowMatchEulerDiscreteScheduler()), (3, 4, 4))
    with pytest.raises(ValueError, match="LCMScheduler has timestep_scaling"):
        Denoiser(network, diffusers.LCMScheduler())
    with pytest.raises(TypeError, match="SimpleNamespace, which has no alphas_cumprod"):
        Denoiser(network, SimpleNamespace(config={}))
    assert Denoiser(network, diffusers.CogVideoXDDIMScheduler()).num_train_timesteps == 1000


@both
def test_predict_epsilon_of_old_configurations_is_followed(ours):
    def kind(**config):
        return ours.from_config({"_class_name": "DDPMScheduler", **config}).config.prediction_type

    assert kind(predict_epsilon=False) == "sample" and kind(predict_epsilon=True) == "epsilon"
    assert ours.from_config({"predict_epsilon": False}).config.prediction_type == "sample"
    assert kind(predict_epsilon=True, prediction_type="v_prediction") == "v_prediction"
    with pytest.raises(ValueError, match="prediction_type is 'epsilon', but predict_epsilon is False"):
        kind(predict_epsilon=False, prediction_type="epsilon")
    told = ours.from_config({"predict_epsilon": False}, prediction_type="v_prediction")
    assert told.config.prediction_type == "v_prediction"
    assert ours.from_config(told.config).config.prediction_type == "v_prediction"


@both
def test_clip_sample_is_meant_as_the_source_means_it(ours, tmp_path):
    own = ours().config.clip_sample
    pndm = PNDMScheduler(beta_schedule="scaled_linear")
    pndm.save_pretrained(tmp_path)
    for config in (pndm.config, dict(pndm.config), PNDMScheduler.load_config(tmp_path)):
        assert ours.from_config(config).config.clip_sample is False
    assert ours.from_config({**pndm.config, "clip_sample": True}).config.clip_sample is True
    assert ours.from_config(pndm.config, clip_sample=True).config.clip_sample is True
    for config in ({}, {"beta_schedule": "linear"}):
        assert ours.from_config(config).config.clip_sample is own
    ddpm = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000}
    assert ours.from_config(ddpm).config.clip_sample is True


@both
def test_sampling_settings_of_others_are_not_said_twice(ours):
    karras = diffusers.EulerDiscreteScheduler(use_karras_sigmas=True)
    with pytest.warns(UserWarning, match="does not follow use_karras_sigmas=True"):
        scheduler = ours.from_config(karras.config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for again in (*OURS, *OURS):
            scheduler = again.from_config(scheduler.config)
