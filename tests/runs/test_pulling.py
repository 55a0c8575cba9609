"""Pipelines that are not trusted, in processes of their own: pulled from a Hub, and with little memory."""

import json
import resource
import subprocess
import sys

import pytest

from loopback_hub import READ_ONLY_TOKEN, Fault
from spoiled import SPOILED

LIMITED = """
import resource, sys, ddpm_from_scratch
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + 2**28,) * 2)
try:
    ddpm_from_scratch.DDPMFromScratchPipeline.from_pretrained(sys.argv[1])
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize("case", [case for case in SPOILED if case.endswith("without end")])
def test_absurd_sizes_are_refused_before_memory_is_taken(saved, run_here, case):
    """With 256 MiB to spare, whoever allocates first dies of MemoryError."""
    name, spoil, file, text = SPOILED[case]
    folder = saved(name)
    spoil(folder)
    done = run_here("-c", LIMITED, folder)
    assert done.returncode == 0 and file in done.stdout, done.stderr
    assert text in done.stdout, "refused by whoever failed to allocate"
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY  # here it was not set


PULL = """
import json, sys, torch
from ddpm_from_scratch import DDPMFromScratchPipeline
try:
    options = json.loads(sys.argv[2])
    pipe = DDPMFromScratchPipeline.from_pretrained("me/tiny", cache_dir=sys.argv[1], **options)
except Exception as error:
    print(type(error).__name__, str(error).splitlines()[0])
else:
    print("loaded", pipe.unet.conv_in.bias.sum().item())
"""


@pytest.fixture
def pull(loopback_hub, run_here, saved, tmp_path):
    code = "import sys; from ddpm_from_scratch import push_folder; push_folder(sys.argv[1], 'tiny', tag='v1')"
    assert run_here("-c", code, saved()).returncode == 0
    cache = iter(range(100))

    def run(cache_dir=None, token=None, **options):
        cache_dir = cache_dir or tmp_path / f"cache-{next(cache)}"
        done = run_here("-c", PULL, cache_dir, json.dumps(options), token=token)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


@pytest.mark.parametrize("kind", [500, 503, "drop", "cut"])
def test_a_download_that_fails_once_comes_through(pull, loopback_hub, kind):
    assert pull().startswith("loaded")
    loopback_hub.faults.append(Fault("GET /me/tiny/resolve", kind))
    assert pull().startswith("loaded") and loopback_hub.faults[0].times == 0


def test_a_download_that_stays_short_is_refused(pull, loopback_hub, tmp_path):
    loopback_hub.faults.append(Fault("GET /me/tiny/resolve", "cut", times=-1))
    assert not pull(cache_dir=tmp_path / "short").startswith("loaded")
    loopback_hub.faults.clear()
    assert pull(cache_dir=tmp_path / "short").startswith("loaded"), "what was there in part is no obstacle"


def test_revision_offline_and_what_is_not_there(pull, loopback_hub, tmp_path):
    assert pull(revision="v1").startswith("loaded")
    assert "RevisionNotFoundError" in pull(revision="v2")
    assert pull(cache_dir=tmp_path / "kept").startswith("loaded")
    before = len(loopback_hub.requests)
    assert pull(cache_dir=tmp_path / "kept", local_files_only=True).startswith("loaded")
    assert not [each for each in loopback_hub.requests[before:] if "tiny" in each]
    assert "LocalEntryNotFoundError" in pull(local_files_only=True)
    del loopback_hub.repositories["me/tiny"]
    assert "RepositoryNotFoundError" in pull(token=READ_ONLY_TOKEN)


def test_a_fresh_home_pulls_and_goes_on_without_the_network(pull, loopback_hub, tmp_path):
    """In processes of their own, because huggingface_hub reads both variables when it is imported."""
    code = "from ddpm_from_scratch import *; DDPMFromScratchPipeline.from_pretrained('me/tiny')"
    code += "; from diffusers import DiffusionPipeline; DiffusionPipeline.from_pretrained('me/tiny')"
    for offline in ("0", "1"):
        environment = loopback_hub.environment | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": offline}
        before = len(loopback_hub.requests)
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        asked = [each for each in loopback_hub.requests[before:] if "me/tiny" in each]
        assert bool(asked) is (offline == "0")


def test_private_repositories_need_a_token(pull, loopback_hub):
    loopback_hub.repositories["me/tiny"].private = True
    assert "RepositoryNotFoundError" in pull()
    assert pull(token=READ_ONLY_TOKEN).startswith("loaded")
    assert "Error" in pull(token="hf_wrong")


def test_only_configurations_and_weights_are_downloaded(pull, loopback_hub, tmp_path):
    repository = loopback_hub.repositories["me/tiny"]
    evil = {"unet/diffusion_pytorch_model.bin": b"x", "scheduler/x.py": b"x", "big.safetensors": b"x"}
    repository.commit("main", repository.files() | evil)
    assert pull(cache_dir=tmp_path / "kept").startswith("loaded")
    names = {path.name for path in (tmp_path / "kept").rglob("*") if path.is_symlink()}
    assert names == {
        "model_index.json", "config.json", "scheduler_config.json", "diffusion_pytorch_model.safetensors",
    }  # fmt: skip
