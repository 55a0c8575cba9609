"""A checkpoint that version 0.1 wrote goes on as it would have (see tests/fixtures)."""

import functools
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from common import run_training
from runs import WEIGHTS


def test_checkpoint_goes_on_as_in_0_1(folders_0_1, tmp_path):
    shutil.copytree(folders_0_1 / "run", tmp_path, dirs_exist_ok=True)
    run_training(
        Path("output"),
        "--model_config_name_or_path=network.json",  # as the recipe of the checkpoint has it
        "--use_ema",
        "--max_train_steps=4",
        "--resume_from_checkpoint=checkpoint-2",
        faults=[functools.partial(os.chdir, tmp_path)],
    )
    stored = load_file(folders_0_1 / "continued.safetensors")
    weights = load_file(tmp_path / "output" / "checkpoint-4" / "model.safetensors")
    average = load_file(tmp_path / "output" / WEIGHTS)
    weights |= {f"average/{name}": value for name, value in average.items()}
    assert weights.keys() == stored.keys()
    if json.loads((folders_0_1 / "made_on.json").read_text()) == this_machine():
        assert all(torch.equal(value, stored[name]) for name, value in weights.items())
    else:  # rounding differs; a tenth of what one update at the learning rate of 1e-4 changes
        torch.testing.assert_close(weights, stored, rtol=0, atol=1e-5)


def this_machine():
    """Return what sums are rounded by: the processor and the torch."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    name = next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), "unknown")
    return {
        "processor": f"{name}, {torch.backends.cpu.get_cpu_capability()}",
        "torch": torch.__version__,
    }
