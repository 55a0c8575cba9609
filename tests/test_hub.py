import json

import pytest
import torch
from diffusers import DDPMScheduler

from ddpm_from_scratch import (
    DDPMFromScratchPipeline,
    DDPMFromScratchScheduler,
    build_model,
    hub,
    model_config,
)

SCHEDULERS = [
    {"beta_schedule": "sigmoid_alpha_bar", "sigmoid_tau": 0.7},
    {"beta_schedule": "laplace"},
    {"beta_schedule": "squaredcos_cap_v2", "cosine_s": 0.02},
    {"beta_schedule": "squaredcos_cap_v2", "max_beta": 0.5},
    {"beta_schedule": "linear", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    {"trained_betas": [0.1, 0.2, 0.999], "num_train_timesteps": 3},
    {"num_train_timesteps": 50, "scale_betas_by_length": True},
]


@pytest.mark.parametrize("config", SCHEDULERS)
def test_stock_scheduler_has_the_same_table_after_saving(config, tmp_path):
    scheduler = DDPMFromScratchScheduler(**config)
    DDPMFromScratchPipeline(build_model(model_config("tiny")), scheduler).save_pretrained(tmp_path)
    stock = DDPMScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    assert torch.equal(stock.alphas_cumprod, scheduler.alphas_cumprod)
    back = DDPMFromScratchPipeline.from_pretrained(tmp_path).scheduler
    assert type(back) is DDPMFromScratchScheduler and torch.equal(
        back.alphas_cumprod, scheduler.alphas_cumprod
    )
    own = {key: value for key, value in config.items() if key != "trained_betas"}
    assert {key: back.config[key] for key in own} == own


def test_saving_a_loaded_pipeline_again_stays_portable(tmp_path):
    pipeline = DDPMFromScratchPipeline(build_model(model_config("tiny")), DDPMFromScratchScheduler())
    pipeline.save_pretrained(tmp_path / "one")
    DDPMFromScratchPipeline.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    one, two = (json.loads((tmp_path / name / "model_index.json").read_text()) for name in ("one", "two"))
    assert one["_class_name"] == two["_class_name"] == "DDPMPipeline"
    assert two["scheduler"] == ["diffusers", "DDPMScheduler"] and two["unet"] == ["diffusers", "UNet2DModel"]


@pytest.mark.parametrize(
    ("model", "scheduler"),
    [
        ({"num_class_embeds": 3}, {}),
        ({"channels": 4}, {}),
        ({}, {"variance_type": "learned"}),
    ],
)
def test_what_stock_cannot_run_is_not_called_portable(model, scheduler):
    unet = build_model(model_config("tiny", **model))
    assert not hub.stock_pipeline_can_run(unet, DDPMFromScratchScheduler(**scheduler))


def test_save_and_push_in_one_call_is_refused(tmp_path):
    pipeline = DDPMFromScratchPipeline(build_model(model_config("tiny")), DDPMFromScratchScheduler())
    with pytest.raises(ValueError, match="push_folder"):
        pipeline.save_pretrained(tmp_path, push_to_hub=True)


def test_folder_without_a_pipeline_is_not_pushed(tmp_path):
    with pytest.raises(ValueError, match=r"no model_index\.json"):
        hub.push_folder(tmp_path, "user/name")
