"""What a page is made of; that it computes the same is in tests/runs/test_space.py."""

import json

import pytest
import torch

from common import untrained_pipeline
from ddpm_from_scratch import DDPMFromScratchPipeline, DDPMFromScratchScheduler, FewStepScheduler
from ddpm_from_scratch.runtime.errors import ConfigError
from ddpm_from_scratch.sharing.space import WEIGHTS, chain_steps, make_space
from loopback_hub import TOKEN
from make_space import main as make_space_command


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("kind", [DDPMFromScratchScheduler, FewStepScheduler])
def test_the_table_of_a_chain_walks_as_the_scheduler_does(kind, prediction_type, generator):
    """As network.js does it: x_0 from sample and output, clipped, then the next sample from the estimates."""
    settings = {"calibration": {}, "clip_sample": True} if kind is FewStepScheduler else {}
    scheduler = kind(20, beta_schedule="squaredcos_cap_v2", prediction_type=prediction_type, **settings)
    rows = chain_steps(scheduler, 5)
    sample = torch.randn(2, 3, 4, 4, generator=generator)
    page, estimates = sample.clone(), []
    for t, row in zip(scheduler.timesteps, rows, strict=True):
        output, noise = torch.randn(2, *sample.shape, generator=generator)
        sample = scheduler.step(output, t, sample, variance_noise=noise).prev_sample
        estimate = (row["sample"] * page + row["output"] * output).clamp(-row["clip"], row["clip"])
        estimates.insert(0, estimate)
        parts = (factor * old for factor, old in zip(row["estimates"], estimates, strict=False))
        page = row["keep"] * page + sum(parts) + row["noise"] * noise
        torch.testing.assert_close(page, sample, rtol=1e-4, atol=1e-4)
        assert row["timestep"] == int(t)


def test_a_page_of_a_folder_has_the_weights_beside_it(tmp_path):
    pipeline = untrained_pipeline()
    pipeline.save_pretrained(tmp_path / "model")
    make_space(str(tmp_path / "model"), tmp_path / "page", 4, None, None)
    settings = json.loads((tmp_path / "page" / "settings.json").read_text())
    assert (tmp_path / "page" / WEIGHTS).read_bytes() == (tmp_path / "model" / WEIGHTS).read_bytes()
    assert settings["weights_url"] == WEIGHTS and len(settings["steps"]) == 4
    assert settings["sample_shape"] == [1, 8, 8] and str(tmp_path) not in json.dumps(settings)


@pytest.mark.parametrize("name", ["README.md", "index.html", "settings.json"])
def test_a_page_replaces_no_file_of_others(tmp_path, name):
    untrained_pipeline().save_pretrained(tmp_path / "model")
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / name).write_text("[1]")
    (tmp_path / "page" / "photo.png").write_text("mine")
    with pytest.raises(ConfigError, match=f"holds {name} of something else"):
        make_space(str(tmp_path / "model"), tmp_path / "page", 4, None, None)
    assert (tmp_path / "page" / name).read_text() == "[1]"
    (tmp_path / "page" / name).unlink()
    for _ in range(2):  # a page takes the place of a page
        make_space(str(tmp_path / "model"), tmp_path / "page", 4, None, None)
    assert (tmp_path / "page" / "photo.png").read_text() == "mine"


@pytest.mark.parametrize(
    "arguments", [["--space_id=me/page"], ["--space_id=me/page", "--output_dir=kept"], []]
)
def test_a_folder_is_left_only_if_it_is_asked_for(tmp_path, hub_here, monkeypatch, capsys, arguments):
    untrained_pipeline().save_pretrained(tmp_path / "model")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert make_space_command(["../model", f"--token={TOKEN}", *arguments]) == 0
    left = {"--space_id=me/page": [], "--output_dir=kept": ["kept"]}.get(
        (arguments or [""])[-1], ["model-space"]
    )
    assert [path.name for path in (tmp_path / "here").iterdir()] == left
    said = capsys.readouterr().out
    assert ("pushed to" in said) == bool(arguments) and ("saved to" in said) == bool(left)


def test_what_does_nothing_for_a_page_is_said_or_refused(tmp_path, capsys, monkeypatch):
    untrained_pipeline().save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert make_space_command(["model", "--private"]) == 0
    assert "--private is given, but only --space_id uses it" in capsys.readouterr().err
    assert make_space_command(["model", "--revision=main"]) == 2
    assert "'model' is a folder, which has none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("scheduler", "overrides", "message"),
    [
        ({"thresholding": True, "sample_max_value": 2.0}, {}, "dynamic thresholding"),
        ({"variance_type": "learned_range"}, {"out_channels": 2}, "learned variances"),
        ({}, {"down_block_types": ("DownBlock2D", "SkipDownBlock2D")}, "SkipDownBlock2D"),
        ({}, {"act_fn": "gelu"}, "act_fn 'gelu'"),
    ],
)
def test_what_the_page_cannot_run_is_named_and_nothing_written(tmp_path, scheduler, overrides, message):
    network = untrained_pipeline(**overrides).unet
    DDPMFromScratchPipeline(network, DDPMFromScratchScheduler(**scheduler)).save_pretrained(
        tmp_path / "model"
    )
    with pytest.raises(ConfigError, match=message):
        make_space(str(tmp_path / "model"), tmp_path / "page", None, None, None)
    assert not (tmp_path / "page").exists()


def test_more_steps_than_there_are_are_refused():
    with pytest.raises(ConfigError, match="--num_inference_steps"):
        chain_steps(DDPMFromScratchScheduler(20, beta_schedule="squaredcos_cap_v2"), 5000)
