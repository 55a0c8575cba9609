import json

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from ddpm_from_scratch import (
    DDPMFromScratchPipeline,
    DDPMFromScratchScheduler,
    build_model,
    model_config,
    push_folder,
)
from ddpm_from_scratch.hub import layouts

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
        ({"num_class_embeds": 3, "sample_size": (8, 16)}, {}),
        ({"num_class_embeds": 3, "sample_size": [8, 8]}, {}),
        ({"num_class_embeds": 3, "class_embed_type": "timestep"}, {}),
        ({"class_embed_type": "identity"}, {}),
        ({"num_class_embeds": 3, "channels": 4}, {}),
        ({"num_class_embeds": 3}, {"variance_type": "learned"}),
        ({"channels": 4}, {}),
        ({}, {"variance_type": "learned"}),
    ],
)
def test_what_stock_cannot_run_is_not_called_portable(model, scheduler):
    unet = build_model(model_config("tiny", **model))
    assert layouts.stock_pipeline(unet, DDPMFromScratchScheduler(**scheduler)) is None


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"])
@pytest.mark.parametrize("classes", [(None, None), (3, None), (0, {1: "cat", 3: "dog"}), (None, {2: "fish"})])
def test_a_class_conditional_pipeline_is_stock_with_a_note_of_its_classes(name, classes, tmp_path):
    torch.manual_seed(0)
    network = build_model(model_config("tiny", num_class_embeds=4))
    scheduler = getattr(diffusers, name)(num_train_timesteps=20, beta_schedule="squaredcos_cap_v2")
    ours = DDPMFromScratchPipeline(network, scheduler, *classes)
    ours.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "ConsistencyModelPipeline"
    assert not [key for key in index if not key.startswith("_") and key not in ("unet", "scheduler")]
    loaded = DDPMFromScratchPipeline.from_pretrained(tmp_path)
    assert (loaded.config.null_class_label, loaded.config.id2label) == classes
    stock = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
    assert type(stock) is diffusers.ConsistencyModelPipeline
    images = []
    for pipe in (ours, loaded, stock):
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        options = {"num_inference_steps": 5, "generator": generator, "output_type": "np"}
        images.append(pipe(batch_size=2, class_labels=[2, 1], **options).images)
    for other in images[1:]:
        np.testing.assert_allclose(other, images[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_what_another_pipeline_noted_of_classes_does_not_win_over_what_is_given(layout, tmp_path):
    network = build_model(model_config("tiny", num_class_embeds=4))
    first = DDPMFromScratchPipeline(network, DDPMFromScratchScheduler(), 3, {0: "cat"})
    stock = diffusers.ConsistencyModelPipeline.from_pipe(first)
    given = {"null_class_label": 0, "id2label": {1: "dog"}}
    DDPMFromScratchPipeline.from_pipe(stock, **given).save_pretrained(tmp_path, layout=layout)
    loaded = DDPMFromScratchPipeline.from_pretrained(tmp_path)
    assert {name: loaded.config[name] for name in given} == given


@pytest.mark.parametrize(
    "name", [*layouts.STOCK_PIPELINE_SCHEDULERS, "PNDMScheduler", "EulerDiscreteScheduler"]
)
def test_a_stock_scheduler_swapped_in_is_saved_in_the_layout_that_gives_its_samples(name, tmp_path):
    torch.manual_seed(0)
    pipeline = DDPMFromScratchPipeline(build_model(model_config("tiny")), DDPMFromScratchScheduler())
    pipeline.scheduler = getattr(diffusers, name).from_config(DDPMScheduler().config)
    pipeline.save_pretrained(tmp_path)
    is_portable = json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == "DDPMPipeline"
    assert is_portable is (name in layouts.STOCK_PIPELINE_SCHEDULERS)
    pipes = [pipeline, DDPMFromScratchPipeline.from_pretrained(tmp_path)]
    pipes += [diffusers.DiffusionPipeline.from_pretrained(tmp_path)] if is_portable else []
    assert type(pipes[-1].scheduler).__name__ == name
    images = []
    for pipe in pipes:
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        images.append(pipe(num_inference_steps=5, generator=generator, output_type="np").images)
    for other in images[1:]:
        # Loaded weights are mapped unaligned, which changes 5e-7 a call; these steps enlarge it.
        np.testing.assert_allclose(other, images[0], rtol=0, atol=1e-4)


def test_saving_again_in_the_other_layout_leaves_no_code_behind(tmp_path):
    pipeline = DDPMFromScratchPipeline(build_model(model_config("tiny")), DDPMFromScratchScheduler())
    pipeline.save_pretrained(tmp_path, layout="remote-code")
    assert (tmp_path / "scheduler" / "scheduling_ddpm_from_scratch.py").exists()
    pipeline.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.rglob("*.py")] == ["pipeline.py"]
    config = json.loads((tmp_path / "unet" / "config.json").read_text())
    again = DDPMFromScratchPipeline.from_pretrained(tmp_path)
    again.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "unet" / "config.json").read_text()) == config, "no folder's name"


def test_shards_of_an_earlier_save_do_not_stay(tmp_path):
    pipeline = DDPMFromScratchPipeline(build_model(model_config("tiny")), DDPMFromScratchScheduler())
    for size in ("60KB", "1GB", "60KB"):
        pipeline.save_pretrained(tmp_path, max_shard_size=size)
        DDPMFromScratchPipeline.from_pretrained(tmp_path)
        names = {path.name for path in (tmp_path / "unet").iterdir()}
        assert ("diffusion_pytorch_model.safetensors" in names) is (size == "1GB")


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        ("tiny", {"layout": "flat"}, ValueError, "layout is 'flat', but must be one of"),
        ("points", {"layout": "portable"}, ValueError, "stock diffusers cannot run"),
        ("tiny", {"private": True}, TypeError, "need push_to_hub=True"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path, model, options, error, message):
    pipeline = DDPMFromScratchPipeline(build_model(model_config(model)), DDPMFromScratchScheduler())
    with pytest.raises(error, match=message):
        pipeline.save_pretrained(tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()


def test_folder_without_a_pipeline_is_not_pushed(tmp_path):
    with pytest.raises(ValueError, match=r"no model_index\.json"):
        push_folder(tmp_path, "user/name")
