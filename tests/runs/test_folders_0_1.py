"""Folders that version 0.1 wrote load and sample as they did, and a checkpoint goes on as it would have.

The folders and what came of them are in fixtures/folders_0_1.tar.xz (see fixtures/make_folders_0_1.py.txt).
"""

import functools
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from common import run_training
from loopback_hub import Repository
from runs import WEIGHTS

PORTABLE = ("portable", "portable-few-step")
REMOTE_CODE = ("remote-code", "remote-code-points")
# Their index names modules of the package, so that they need it; of a repository diffusers itself takes only
# modules that are in it.
STOCK = ("stock", "stock-few-step")

# One process for each way to load: the folder and its repository, by everyone's class and by ours.
CELL = """
import json, sys
how = json.loads(sys.argv[1])
if how["blocked"]:
    sys.modules["ddpm_from_scratch"] = None
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file

load = {"stock": lambda source: DiffusionPipeline.from_pretrained(source, **how["options"])}
if not how["blocked"]:
    from ddpm_from_scratch import DDPMFromScratchPipeline
    load["ours"] = DDPMFromScratchPipeline.from_pretrained
samples = {}
for where, source in how["sources"].items():
    for who in load if where == "folder" else set(load) & set(how["from_hub"]):
        pipeline = load[who](source)
        pipeline.set_progress_bar_config(disable=True)
        images = pipeline(**how["call"], generator=torch.Generator().manual_seed(0)).images
        samples[f"{where}/{who}"] = torch.from_numpy(images).contiguous()
save_file(samples, how["out"])
"""


@pytest.mark.parametrize(
    ("name", "blocked"),
    [(name, False) for name in (*PORTABLE, *REMOTE_CODE, *STOCK)]
    + [(name, True) for name in (*PORTABLE, *REMOTE_CODE)],
)
def test_folder_and_repository_load_and_sample_as_in_0_1(
    folders_0_1, name, blocked, loopback_hub, run_here, tmp_path
):
    files = {
        str(path.relative_to(folders_0_1 / name)): path.read_bytes()
        for path in (folders_0_1 / name).rglob("*")
        if path.is_file()
    }
    # A repository for each test: what diffusers keeps of one must not answer for the other.
    repository = f"me/{name}-{blocked}"
    loopback_hub.repositories[repository] = Repository(private=False)
    loopback_hub.repositories[repository].commit("main", files)
    how = {
        "blocked": blocked,
        "options": {"trust_remote_code": True} if name in REMOTE_CODE else {},
        "sources": {"folder": str(folders_0_1 / name), "hub": repository},
        "from_hub": ["ours"] if name in STOCK else ["ours", "stock"],
        "call": json.loads((folders_0_1 / "calls.json").read_text())[name],
        "out": str(tmp_path / "samples.safetensors"),
    }
    done = run_here("-c", CELL, json.dumps(how))
    assert done.returncode == 0, done.stderr
    stored, samples = load_file(folders_0_1 / "samples.safetensors"), load_file(how["out"])
    assert len(samples) == (2 if blocked else 3 if name in STOCK else 4)
    for key, drawn in samples.items():
        # Not equal to the bit: another processor rounds the network's sums in another order.
        torch.testing.assert_close(drawn, stored[f"{name}/{key.split('/')[1]}"], rtol=0, atol=1e-6)


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
