"""Shared by all tests: the scripts of training/ are importable, and nothing reaches the network."""

import os
import subprocess
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "training"), str(ROOT / "benchmarks")]

import pytest  # noqa: E402
import torch  # noqa: E402

import runs  # noqa: E402

torch.set_num_threads(1)  # the tensors are tiny: more threads only wait for each other


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def generator():
    return seeded()


def run_training(
    output_dir, *flags, data=("--dataset_name=digits",), launcher=(), check=True, processes=1, faults=()
):
    """Run training/train.py with a tiny network in processes of their own; later flags win.

    Args:
        launcher: what to put between the interpreter and the script; without it the run is forked from a
            process that has everything imported, which saves the ten seconds of that.
    """
    argv = runs.flags(output_dir, *flags, data=data)
    if launcher:
        command = [sys.executable, *launcher, str(ROOT / "training" / "train.py"), *argv]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    else:
        result = runs.Run(argv, processes, faults=faults).wait()
    if check:
        assert result.returncode == 0, result.stderr[-3000:]
    return result


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """The output folder of a short training run: two checkpoints, EMA, evaluation."""
    folder = tmp_path_factory.mktemp("run") / "digits"
    run_training(
        folder,
        "--use_ema",
        "--prediction_type=v_prediction",
        "--ddpm_beta_schedule=squaredcos_cap_v2",
        "--checkpointing_steps=2",
        "--evaluation_samples=8",
        "--seed=3",
    )
    return folder
