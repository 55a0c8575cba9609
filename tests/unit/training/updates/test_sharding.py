"""Weights sharded over processes (FSDP2): the same training as with copies, and it resumes exactly."""

import json
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from diffusers import DDPMPipeline

from common import ROOT, run_training
from ddpm_from_scratch.runtime.errors import ConfigError
from ddpm_from_scratch.training.config import TrainingConfig
from ddpm_from_scratch.training.prepare import make_accelerator
from ddpm_from_scratch.training.updates import sharding
from ddpm_from_scratch.training.updates.optimizers import make_optimizer
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


def test_a_launch_under_deepspeed_is_one_line_that_names_fsdp(monkeypatch):
    """Before anything imports DeepSpeed or looks for it, which here would be another error."""
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    file = "training/accelerate_configs/fsdp_8_gpus.yaml"
    with pytest.raises(ConfigError, match=f"is DEEPSPEED, but .*{file}") as error:
        make_accelerator(TrainingConfig(dataset_name="digits"))
    assert "\n" not in str(error.value) and (ROOT / file).is_file()


def test_a_sharded_launch_that_accelerate_answers_with_copies_is_refused(monkeypatch):
    copies = SimpleNamespace(num_processes=2, distributed_type=DistributedType.MULTI_CPU)
    monkeypatch.setenv("WORLD_SIZE", "2")
    sharding.check_launch(copies)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="needs GPUs"):
        sharding.check_launch(copies)


def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch):
    alone = SimpleNamespace(num_processes=1, distributed_type=DistributedType.NO)
    sharding.check_launch(alone)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 processes were started, but each sees 1"):
        sharding.check_launch(alone)


def test_the_first_version_of_fsdp_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    first = SimpleNamespace(num_processes=2, distributed_type=DistributedType.FSDP, is_fsdp2=False)
    with pytest.raises(ConfigError, match="must be 2"):
        sharding.check_launch(first)


def test_load_names_a_tensor_that_does_not_fit():
    live = {"weight": torch.zeros(2, 3)}
    with pytest.raises(ValueError, match="'bias'"):
        sharding.load(live, {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"'weight' has shape \(3, 2\), not \(2, 3\)"):
        sharding.load(live, {"weight": torch.zeros(3, 2)})


def test_loaded_optimizer_state_is_where_its_parameter_is():
    """A step count on the CPU beside parameters on a GPU would be read at a wrong address."""
    layer = torch.nn.Linear(2, 2, device="meta")
    optimizer = make_optimizer(layer, TrainingConfig(dataset_name="digits"))
    saved = {
        f"{name}.{entry}": torch.zeros(getattr(layer, name).shape if entry != "step" else ())
        for name in ("weight", "bias")
        for entry in ("exp_avg", "step")
    }
    sharding.load_optimizer_state(optimizer, layer, saved, {})
    values = [value for state in optimizer.state.values() for value in state.values()]
    assert len(values) == 4 and all(value.device.type == "meta" for value in values)
