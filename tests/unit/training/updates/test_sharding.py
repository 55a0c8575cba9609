"""Launches that cannot shard are refused, and what is loaded is where it belongs.

Runs in processes of their own are in tests/runs/test_sharding_runs.py.
"""

import sys
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

from common import ROOT
from ddpm_from_scratch.runtime.errors import ConfigError
from ddpm_from_scratch.training.config import TrainingConfig
from ddpm_from_scratch.training.prepare import make_accelerator
from ddpm_from_scratch.training.updates import sharding
from ddpm_from_scratch.training.updates.optimizers import make_optimizer


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
