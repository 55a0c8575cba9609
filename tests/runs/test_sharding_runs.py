"""Weights sharded over processes (FSDP2): the same training as with copies, and it resumes exactly."""

import json
import signal

import pytest
import torch
from diffusers import DDPMPipeline

from common import run_training
from faults import AtUpdate, ShardOnCpu
from runs import digest

# With a small epsilon, Adam turns a rounding error in a gradient near zero into a whole step.
FLAGS = ("--use_ema", "--gradient_accumulation_steps=2", "--adam_epsilon=1e-4")


def sharded_run(folder, *flags, faults=(), **options):
    """Train in two processes with shards; return the run and what was seen of it."""
    folder.parent.mkdir(exist_ok=True)
    report = folder.with_suffix(".json")
    done = run_training(
        folder, *FLAGS, *flags, processes=2, faults=[ShardOnCpu(str(report)), *faults], **options
    )
    return done, json.loads(report.read_text())


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded") / "straight"
    return folder, sharded_run(folder)[1]


def test_every_parameter_is_sharded_over_two_processes(straight):
    _, seen = straight
    assert seen["num_processes"] == 2 and seen["sharded"] == seen["parameters"] > 100
    assert seen["held"] < 0.6 * seen["whole"]


def test_stopped_and_resumed_equals_straight(straight, tmp_path):
    done, _ = sharded_run(tmp_path / "run", check=False, faults=[AtUpdate(2, signal.SIGTERM, rank=1)])
    assert done.returncode == 75 and (tmp_path / "run" / "checkpoint-2").is_dir(), done.stderr
    sharded_run(tmp_path / "run", "--resume_from_checkpoint=latest")
    for variant in ("", ".non_ema"):
        name = f"unet/diffusion_pytorch_model{variant}.safetensors"
        assert digest(tmp_path / "run", name) == digest(straight[0], name)


def test_shards_and_copies_are_the_same_training(straight, tmp_path):
    run_training(tmp_path / "copies", *FLAGS, processes=2)
    pairs = zip(
        *(
            DDPMPipeline.from_pretrained(folder).unet.parameters()
            for folder in (straight[0], tmp_path / "copies")
        ),
        strict=True,
    )
    for first, second in pairs:
        # The order of sums differs; four updates move a weight by up to 2e-4.
        torch.testing.assert_close(first, second, rtol=0, atol=2e-6)


def test_muon_is_refused_because_it_needs_whole_matrices(tmp_path):
    faults = [ShardOnCpu(str(tmp_path / "report"))]
    done = run_training(tmp_path / "run", "--optimizer=muon", processes=2, faults=faults, check=False)
    assert done.returncode == 2 and "needs whole matrices" in done.stderr, done.stderr
