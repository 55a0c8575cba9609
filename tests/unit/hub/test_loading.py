"""The components of a pipeline, loaded one by one; all ways to load are in tests/runs/test_loading.py."""

import pytest
import torch

from common import untrained_pipeline
from ddpm_from_scratch import DDPMFromScratchScheduler, FewStepScheduler
from ddpm_from_scratch.hub.loading import load_components, own_scheduler_class
from ddpm_from_scratch.schedulers.few_step_profile import HIDDEN_CALIBRATION


@pytest.mark.parametrize("layout", ["portable", "remote-code"])
def test_weights_and_settings_come_back_and_no_code_runs(tmp_path, layout):
    pipeline = untrained_pipeline()
    pipeline.save_pretrained(tmp_path, layout=layout)
    for path in tmp_path.rglob("*.py"):
        path.write_text("raise AssertionError('code of the folder ran')")
    options = {"trust_remote_code": True}
    components, index = load_components(tmp_path, {"unet": None, "scheduler": None}, None, None, options)
    assert index == tmp_path / "model_index.json"
    saved, loaded = pipeline.unet.state_dict(), components["unet"].state_dict()
    assert saved.keys() == loaded.keys() and all(torch.equal(saved[name], loaded[name]) for name in saved)
    assert type(components["scheduler"]) is DDPMFromScratchScheduler
    assert components["scheduler"].config.beta_schedule == "squaredcos_cap_v2"


def test_a_component_that_is_given_is_not_looked_for(tmp_path):
    pipeline = untrained_pipeline()
    pipeline.save_pretrained(tmp_path)
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    components, _ = load_components(tmp_path, {"unet": pipeline.unet, "scheduler": None}, None, None, {})
    assert components["unet"] is pipeline.unet and "scheduler" in components
    with pytest.raises(ValueError, match="is missing"):
        load_components(tmp_path, {"unet": None, "scheduler": None}, None, None, {})


def test_an_option_that_nothing_reads_is_refused_before_anything_is_fetched():
    with pytest.raises(TypeError, match="got \\['revison'\\].*DiffusionPipeline"):
        load_components("me/nowhere", {}, None, None, {"revison": "v1"})


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({}, DDPMFromScratchScheduler),
        ({"_class_name": "DDPMFromScratchScheduler", HIDDEN_CALIBRATION: None}, DDPMFromScratchScheduler),
        ({"_class_name": "DDPMScheduler"}, DDPMFromScratchScheduler),
        ({"_class_name": "DDPMScheduler", HIDDEN_CALIBRATION: None}, FewStepScheduler),
        ({"_class_name": "FewStepScheduler"}, FewStepScheduler),
    ],
    ids=str,
)
def test_the_scheduler_that_a_configuration_is_for(config, kind):
    """The portable layout names stock's class, and hides in its configuration that it was ours."""
    assert own_scheduler_class(config) is kind
