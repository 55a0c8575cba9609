"""One code for DDP and FSDP2: a real run of two processes does both (sharding_worker.py)."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

import sharding
from config import ConfigError
from conftest import ROOT

KINDS = pytest.mark.parametrize("kind", ["ddp", "fsdp"])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """For each kind what the run saw, and its states after five updates."""
    folder = tmp_path_factory.mktemp("runs")
    scripts = [str(ROOT / "tests" / name) for name in ("fsdp_on_cpu.py", "sharding_worker.py")]
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, *scripts, str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    return {
        kind: (json.loads((folder / f"{kind}.json").read_text()), torch.load(folder / f"{kind}.pt"))
        for kind in ("ddp", "fsdp")
    }


def test_two_processes_are_two_and_fsdp_shards_every_parameter(runs):
    (ddp, _), (fsdp, _) = runs["ddp"], runs["fsdp"]
    assert ddp["world_size"] == ddp["num_processes"] == fsdp["world_size"] == fsdp["num_processes"] == 2
    assert ddp["sharded_parameters"] == 0
    assert fsdp["sharded_parameters"] == fsdp["parameters"] > 100
    assert fsdp["held"] < 0.6 * fsdp["whole"]
    assert {"down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1"} < set(fsdp["units"])


@KINDS
def test_a_run_that_loads_its_gathered_state_goes_on_as_the_straight_one(runs, kind):
    saw, _ = runs[kind]
    assert saw["entries"] == ["exp_avg", "exp_avg_sq", "step"]
    assert saw["loaded_is_saved"]
    assert saw["resumed_is_straight"]


@KINDS
def test_only_the_main_process_keeps_the_gathered_state(runs, kind):
    kept = runs[kind][0]["tensors_kept"]
    assert kept == [5 * runs[kind][0]["parameters"], 0]  # weight, average and three optimizer entries


@KINDS
def test_samples_come_from_the_average_and_the_weights_come_back(runs, kind):
    saw, _ = runs[kind]
    assert saw["samples_from_ema"], saw["largest_difference"]
    assert saw["restored"]
    assert saw["sampling_observes"]
    # Else the run would not have shown that copies of the weights left by a forward pass are dropped.
    assert saw["whole_after_forward"] > 0


def test_fsdp_and_ddp_are_the_same_training(runs):
    (ddp, ddp_states), (fsdp, fsdp_states) = runs["ddp"], runs["fsdp"]
    for kind in ("model", "ema"):
        for name, tensor in ddp_states[kind].items():
            # The order of sums differs; five updates move a weight by up to 5e-3.
            torch.testing.assert_close(fsdp_states[kind][name], tensor, rtol=0, atol=2e-6)
    torch.testing.assert_close(fsdp["norms"], ddp["norms"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_a_sharded_launch_that_accelerate_answers_with_copies_is_refused(monkeypatch, variable):
    copies = SimpleNamespace(num_processes=2, distributed_type=DistributedType.MULTI_CPU)
    monkeypatch.setenv("WORLD_SIZE", "2")
    sharding.check_launch(copies)
    monkeypatch.setenv(variable, "true")
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
