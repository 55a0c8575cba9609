"""A configuration is read as the scheduler that it is of reads it (tests/claims/test_configurations.py)."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
)

from ddpm_from_scratch import DDPMFromScratchScheduler, FewStepScheduler
from ddpm_from_scratch.schedulers.other_schedulers import (
    OtherConfig,
    check_process,
    defaults_of,
    scheduler_class,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*copy keyword:DeprecationWarning")
OURS = (DDPMFromScratchScheduler, FewStepScheduler)


def settings_for(config, scheduler=DDPMFromScratchScheduler, **given):
    return OtherConfig(config, OURS).settings_for(scheduler, given)


def test_names_of_schedulers_are_known():
    assert scheduler_class("DDPMScheduler") is DDPMScheduler
    assert scheduler_class("FewStepScheduler", OURS) is FewStepScheduler
    for other in ("FewStepScheduler", "UNet2DModel", "SchedulerMixin", "NoScheduler", None, ["x", "y"], 3):
        assert scheduler_class(other) is None
    assert defaults_of(PNDMScheduler)["skip_prk_steps"] is False and defaults_of(None) == {}


def test_same_settings_need_nothing():
    assert settings_for(DDPMScheduler().config) == {}
    assert settings_for({"beta_end": 0.03}) == {}
    assert settings_for(DDPMFromScratchScheduler(beta_end=0.03).config) == {}


def test_defaults_of_the_other_class_are_followed():
    expected = {"beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
    assert settings_for(HeunDiscreteScheduler().config) == expected
    assert settings_for({"_class_name": "HeunDiscreteScheduler"}) == expected
    assert settings_for(HeunDiscreteScheduler(beta_end=0.02).config) == {
        "beta_start": 0.00085, "clip_sample": False
    }  # fmt: skip
    assert settings_for(DDPMScheduler().config, FewStepScheduler) == {"clip_sample": True}
    assert settings_for(FewStepScheduler().config) == {"clip_sample": False}


def test_keys_of_others_count_only_without_a_class():
    assert OtherConfig({"use_flow_sigmas": True}).get("use_flow_sigmas") is True
    assert (
        OtherConfig({"_class_name": "DDPMScheduler", "use_flow_sigmas": True}).get("use_flow_sigmas") is None
    )
    with pytest.raises(ValueError, match="use_flow_sigmas True"):
        settings_for({"use_flow_sigmas": True})
    with pytest.raises(ValueError, match="of MineScheduler has shift and no beta_schedule"):
        settings_for({"_class_name": "MineScheduler", "shift": 2.0})
    assert settings_for({"_class_name": "MineScheduler", "beta_schedule": "linear"}) == {"clip_sample": False}


@pytest.mark.filterwarnings("ignore:alpha-bar is")
@pytest.mark.parametrize("trained_betas", [None, [0.1, 0.2, 0.5]])
def test_the_shift_of_cogvideox_is_in_the_betas(trained_betas):
    length = 1000 if trained_betas is None else 3
    source = CogVideoXDDIMScheduler(num_train_timesteps=length, trained_betas=trained_betas)
    for ours in OURS:
        table = ours.from_config(source.config).alphas_cumprod
        torch.testing.assert_close(table, source.alphas_cumprod.float(), rtol=1e-4, atol=1e-9)


def test_a_process_is_a_scheduler_with_an_alpha_bar():
    check_process(SimpleNamespace(alphas_cumprod=torch.ones(1)))
    check_process(EulerDiscreteScheduler())
    check_process(FewStepScheduler(calibration={}))
    with pytest.raises(TypeError, match="SimpleNamespace, which has no alphas_cumprod"):
        check_process(SimpleNamespace())
