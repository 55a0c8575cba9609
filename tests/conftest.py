"""Shared by all tests: the scripts of training/ are importable, and nothing reaches the network."""

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / name) for name in ("training", "benchmarks", "docs", "lesson")]

import pytest  # noqa: E402
import safetensors.torch  # noqa: E402
import torch  # noqa: E402

import runs  # noqa: E402
from ddpm_from_scratch import DDPMFromScratchPipeline, FewStepScheduler, build_model  # noqa: E402
from forks import Forks  # noqa: E402
from loopback_hub import TOKEN, LoopbackHub  # noqa: E402

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


@pytest.fixture(scope="session")
def _hub_and_forks(tmp_path_factory):
    """A Hub on loopback, and fresh processes that know it."""
    with LoopbackHub() as hub:
        home = tmp_path_factory.mktemp("hub-home")
        # With bytecode, which makes diffusers mix up versions of a file (see code_file.py).
        unwanted = ("HF_HUB_OFFLINE", "HF_TOKEN", "PYTHONDONTWRITEBYTECODE")
        known = {key: value for key, value in os.environ.items() if key not in unwanted}
        hub.environment = known | {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "ACCELERATE_USE_CPU": "true"}
        forks = Forks(hub.environment)
        yield hub, forks
        forks.close()


@pytest.fixture
def loopback_hub(_hub_and_forks):
    """A Hub on loopback without repositories."""
    hub, _ = _hub_and_forks
    hub.repositories, hub.faults, hub.requests = {}, [], []
    return hub


@pytest.fixture
def run_here(_hub_and_forks):
    """Return a function that runs a script, or "-c" and code, in a fresh process with a token of the Hub."""
    _, forks = _hub_and_forks

    def run(*command, token=TOKEN, **environment):
        return forks.run(*command, HF_TOKEN=token, **environment)

    return run


TINY_TRANSFORMER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 28,
    "patch_size": 14,
}
# As in facebook/dinov2-small, at an eighth of the size: resize to 32, crop the centre to 28.
DINOV2_PROCESSOR = {
    "crop_size": {"height": 28, "width": 28},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "BitImageProcessor",
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": 32},
}


def save_vision_model(folder, model, processor):
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.fixture
def tiny_dinov2(tmp_path):
    """The folder of a DINOv2 with random weights."""
    import transformers

    torch.manual_seed(0)
    model = transformers.Dinov2Model(transformers.Dinov2Config(**TINY_TRANSFORMER))
    return save_vision_model(tmp_path / "dinov2-tiny", model, DINOV2_PROCESSOR)


@pytest.fixture(scope="session")
def pipeline_of_the_page():
    """The pipeline that lesson/index.html was built from: its network and scheduler are in it."""
    text = (ROOT / "lesson" / "index.html").read_text()
    stored = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', text, flags=re.S)[1])
    network = build_model(stored["config"])
    network.load_state_dict(safetensors.torch.load(base64.b64decode(stored["weights"])))
    return DDPMFromScratchPipeline(network.eval(), FewStepScheduler.from_config(stored["scheduler"]))
