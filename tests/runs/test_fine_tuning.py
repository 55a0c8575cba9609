"""Runs that start from the weights of another run: of other classes, channels and size, and resumed."""

import hashlib
import json
import shutil

import pytest
import safetensors.torch
import torch
import yaml

from common import ROOT, run_training, save_images
from ddpm_from_scratch import DDPMFromScratchPipeline
from runs import Run

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
RAW = "unet/diffusion_pytorch_model.non_ema.safetensors"


def fine_tune(source, output_dir, *flags, data=("--dataset_name=digits",), processes=1):
    """Run train.py with the preset of fine-tuning for 5 updates of the smallest network there is."""
    preset = yaml.safe_load((ROOT / "training" / "configs" / "fine_tune.yaml").read_text())
    del preset["train_data_dir"]
    argv = [
        *(f"--{name}={value}" for name, value in preset.items()), *data, f"--init_from={source}",
        f"--output_dir={output_dir}", "--max_train_steps=5", "--lr_warmup_steps=1", "--train_batch_size=8",
        "--eval_batch_size=4", "--checkpointing_steps=2", "--logging_steps=1",
        "--checkpoints_total_limit=9", *flags,
    ]  # fmt: skip
    return Run(argv, processes).wait()


def digest(folder, name=WEIGHTS):
    return hashlib.sha256((folder / name).read_bytes()).hexdigest()


def test_a_run_goes_on_from_the_averaged_weights_and_the_card_says_so(tiny_run, tmp_path):
    done = fine_tune(tiny_run, tmp_path / "tuned", "--learning_rate=1e-12", "--optimizer=adamw")
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"starting from the default weights of {tiny_run}" in done.stdout
    source, tuned = (
        safetensors.torch.load_file(folder / WEIGHTS) for folder in (tiny_run, tmp_path / "tuned")
    )
    for name, value in source.items():
        torch.testing.assert_close(tuned[name], value, rtol=0, atol=1e-9)
    pipeline = DDPMFromScratchPipeline.from_pretrained(tmp_path / "tuned")
    config = pipeline.scheduler.config
    assert (config.prediction_type, config.num_train_timesteps) == ("v_prediction", 20)
    card = (tmp_path / "tuned" / "README.md").read_text()
    assert f"| fine-tuned from | {tiny_run.name} |" in card and str(tiny_run.parent) not in card
    assert "base_model" not in card
    results = json.loads((tmp_path / "tuned" / "results.json").read_text())
    assert results["started_from"] == {"name": tiny_run.name, "hub_id": None}
    assert results["config"]["prediction_type"] == "v_prediction"
    manifest = json.loads((tmp_path / "tuned" / "checkpoint-4" / "manifest.json").read_text())
    assert manifest["recipe"]["init_from"] == str(tiny_run)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_resumed_run_needs_the_weights_no_more_and_ends_the_same(tiny_run, tmp_path, processes):
    source = shutil.copytree(tiny_run, tmp_path / "source")
    flags = ("--init_variant=raw", "--label_column=label", "--label_dropout=0.2")
    whole = fine_tune(source, tmp_path / "whole", *flags, processes=processes)
    assert whole.returncode == 0, whole.stderr[-3000:]
    assert whole.stdout.count("no classes to 11") == 1  # said by one process
    part = tmp_path / "part"
    assert fine_tune(source, part, *flags, processes=processes).returncode == 0
    for later in part.glob("checkpoint-[345]"):
        shutil.rmtree(later)
    shutil.rmtree(part / "unet")
    shutil.rmtree(source)
    resumed = fine_tune(source, part, *flags, "--resume_from_checkpoint=latest", processes=processes)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert "from update 2 on" in resumed.stdout
    for name in (WEIGHTS, RAW):
        assert digest(part, name) == digest(tmp_path / "whole", name)
    assert (part / "scheduler" / "scheduler_config.json").read_bytes() == (
        tmp_path / "whole" / "scheduler" / "scheduler_config.json"
    ).read_bytes()


def test_another_size_and_colour_in_half_precision(tiny_run, tmp_path):
    images = save_images(tmp_path / "images", 4, seed=0)
    done = fine_tune(
        tiny_run, tmp_path / "tuned", "--resolution=16", "--channels=3", "--mixed_precision=bf16",
        f"--cache_dir={tmp_path / 'cache'}", data=(f"--train_data_dir={images}",),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "made for 8 px, goes on at 16 px" in done.stdout and "grey to RGB" in done.stdout
    pipeline = DDPMFromScratchPipeline.from_pretrained(tmp_path / "tuned")
    assert pipeline(2, num_inference_steps=3, output_type="pt").images.shape == (2, 3, 16, 16)


def test_weights_that_are_not_there_end_in_one_line(tmp_path):
    done = run_training(tmp_path / "run", f"--init_from={tmp_path / 'nothing'}", check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert "--init_from" in line and "there is no such folder" in line
