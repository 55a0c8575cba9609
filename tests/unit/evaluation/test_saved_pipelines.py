"""A saved pipeline with its data, and a scheduler put in place of its own."""

import pytest
import torch

from common import save_images, untrained_pipeline
from ddpm_from_scratch import DDPMFromScratchPipeline, DDPMFromScratchScheduler, FewStepScheduler
from ddpm_from_scratch.data.datasets import load_reference
from ddpm_from_scratch.data.settings import DataConfig
from ddpm_from_scratch.evaluation.saved_pipelines import (
    find_processes,
    load_pipeline_and_data,
    save_scheduler,
)
from ddpm_from_scratch.runtime.errors import ConfigError

CALIBRATION = {"steps": {"3": {"timesteps": [19, 12, 4], "noise_level": 0.5}}}


def test_processes_that_do_not_see_each_other_are_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert find_processes().num_processes == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 processes were launched, but this one sees 1"):
        find_processes()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"dataset_name": "swiss_roll"}, r"shape \(1, 8, 8\), but .*\(2,\)"),
        ({"dataset_name": "digits", "label_column": "label"}, "10 classes, but the pipeline none"),
    ],
)
def test_data_that_do_not_go_with_the_pipeline_are_refused(tmp_path, settings, says):
    untrained_pipeline().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=says):
        load_pipeline_and_data(str(tmp_path), DataConfig(**settings))


def test_another_sampler_and_precision_can_be_asked_for(tmp_path):
    pipeline = untrained_pipeline()
    pipeline.save_pretrained(tmp_path)
    loaded, data = load_pipeline_and_data(str(tmp_path), None, mixed_precision="bf16", sampler="few_step")
    assert data is None and type(loaded.scheduler) is FewStepScheduler
    assert loaded.scheduler.config.num_train_timesteps == 20
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output, exact = loaded.unet(x, 5).sample, pipeline.unet(x, 5).sample
    assert output.dtype == torch.float32 and not torch.equal(output, exact)
    torch.testing.assert_close(output, exact, rtol=0, atol=0.05)  # bfloat16 has three digits


def test_data_are_read_in_the_size_of_the_pipeline(tmp_path):
    """Held-out pictures, too, whatever their own size."""
    untrained_pipeline(sample_size=(20, 12), channels=3).save_pretrained(tmp_path / "pipe")
    images = str(save_images(tmp_path / "images", 3, seed=0))
    config = DataConfig(train_data_dir=images, cache_dir=str(tmp_path / "cache"))
    _, data = load_pipeline_and_data(str(tmp_path / "pipe"), config)
    assert data.sample_shape == (3, 20, 12)
    assert load_reference(config.of_reference(images, None), data.sample_shape).sample_shape == (3, 20, 12)
    turned = DataConfig(train_data_dir=images, cache_dir=str(tmp_path / "cache"), resolution="12x20")
    with pytest.raises(ConfigError, match=r"shape \(3, 20, 12\), but .*\(3, 12, 20\)"):
        load_pipeline_and_data(str(tmp_path / "pipe"), turned)


@pytest.mark.parametrize("layout", ["portable", "remote-code"])
def test_a_scheduler_is_replaced_and_the_weights_are_not_touched(tmp_path, layout):
    untrained_pipeline().save_pretrained(tmp_path, layout=layout)
    unet = {path: path.stat().st_mtime_ns for path in (tmp_path / "unet").iterdir()}
    pipeline = DDPMFromScratchPipeline.from_pretrained(tmp_path)
    assert type(pipeline.scheduler) is DDPMFromScratchScheduler
    few = FewStepScheduler.from_config(pipeline.scheduler.config, calibration=CALIBRATION)
    save_scheduler(DDPMFromScratchPipeline(pipeline.unet, few), tmp_path)
    again = DDPMFromScratchPipeline.from_pretrained(tmp_path)
    assert type(again.scheduler) is FewStepScheduler and again.scheduler.config.calibration == CALIBRATION
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "unet").iterdir()} == unet
    code = {"remote-code": ["scheduling_few_step.py"], "portable": []}[layout]
    assert [path.name for path in (tmp_path / "scheduler").glob("*.py")] == code
    assert not list(tmp_path.glob(".tmp-*")), "nothing is left behind"


def test_a_scheduler_that_the_layout_cannot_hold_leaves_the_folder_as_it_was(tmp_path):
    untrained_pipeline().save_pretrained(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    pipeline = DDPMFromScratchPipeline.from_pretrained(tmp_path)
    residuals = [0.1] * 20
    analytic = DDPMFromScratchScheduler.from_config(
        pipeline.scheduler.config, variance_type="analytic", residuals=residuals
    )
    with pytest.raises(ConfigError, match="layout is 'portable', but stock diffusers cannot"):
        save_scheduler(DDPMFromScratchPipeline(pipeline.unet, analytic), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["me/no-such-model", "no/such/folder", "nowhere"])
def test_a_pipeline_that_cannot_be_fetched_is_one_line_with_what_to_do(tmp_path, name):
    """Offline, as all tests are."""
    with pytest.raises(ConfigError, match=f"pipeline is '{name}': there is no such folder.*hf download"):
        load_pipeline_and_data(name, None, cache_dir=str(tmp_path))
