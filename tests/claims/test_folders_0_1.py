"""Folders that version 0.1 wrote load and sample as they did.

The folders and what came of them are in fixtures/folders_0_1.tar.xz (see fixtures/make_folders_0_1.py.txt);
that a checkpoint goes on is in tests/runs/test_folders_0_1.py.
"""

import json

import pytest
import torch
from safetensors.torch import load_file

from loopback_hub import Repository

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
