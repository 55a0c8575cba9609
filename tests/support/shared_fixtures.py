"""The fixtures of all tests."""

import base64
import json
import os
import re
import shutil
import tarfile

import pytest
import safetensors.torch
import torch

from common import DINOV2_PROCESSOR, ROOT, TINY_TRANSFORMER, run_training, save_vision_model, seeded
from ddpm_from_scratch import DDPMFromScratchPipeline, FewStepScheduler, build_model
from forks import Forks
from loopback_hub import TOKEN, LoopbackHub
from spoiled import pipeline_of

torch.set_num_threads(1)  # the tensors are tiny: more threads only wait for each other


@pytest.fixture
def generator():
    return seeded()


@pytest.fixture(scope="session")
def digits_data():
    """The built-in digits, as a training run has them."""
    from ddpm_from_scratch.data.datasets import load_training_data
    from ddpm_from_scratch.training.config import TrainingConfig

    return load_training_data(TrainingConfig(dataset_name="digits", output_dir="unused"), None, None)


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
def finished_run(tmp_path_factory):
    """The output folder of a run of this process, with its record; the figures in it are made up."""
    from ddpm_from_scratch.training.report import write_report
    from trainers import make_trainer

    trainer = make_trainer(tmp_path_factory.mktemp("finished") / "digits", "--max_train_steps=2")
    trainer.run()
    trainer.export()
    figures = {"sample_shape": [1, 8, 8], "features": {}, "sliced_w2": 0.25, "sliced_w2_floor": 0.125}
    how = {"num_samples": 8, "scheduler": "FewStepScheduler", "network_evaluations": 10, "num_floor": 8}
    write_report(trainer, figures | how | {"reference": "held-out samples"}, "digits")
    return trainer.output_dir


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


@pytest.fixture(scope="session")
def _hub_of_this_process():
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture
def hub_here(_hub_of_this_process, tmp_path_factory, monkeypatch):
    """A Hub on loopback without repositories, which this process takes for the Hub."""
    hub = _hub_of_this_process
    hub.repositories, hub.faults, hub.requests = {}, [], []
    known = "huggingface_hub.constants"
    monkeypatch.setattr(f"{known}.ENDPOINT", hub.url)
    pages = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(f"{known}.HUGGINGFACE_CO_URL_TEMPLATE", pages)
    monkeypatch.setattr(f"{known}.HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub-cache")))
    monkeypatch.setattr(f"{known}.HF_HUB_OFFLINE", False)
    return hub


@pytest.fixture
def run_here(_hub_and_forks):
    """Return a function that runs a script, or "-c" and code, in a fresh process with a token of the Hub."""
    _, forks = _hub_and_forks

    def run(*command, token=TOKEN, **environment):
        return forks.run(*command, HF_TOKEN=token, **environment)

    return run


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


@pytest.fixture(scope="session")
def folders_0_1(tmp_path_factory):
    """The folders that version 0.1 wrote; not to be changed."""
    folder = tmp_path_factory.mktemp("folders_0_1")
    with tarfile.open(ROOT / "tests" / "fixtures" / "folders_0_1.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="session")
def _saved_pipelines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    for name in ("tiny", "points"):
        pipeline_of(name).save_pretrained(folder / name)
    pipeline_of("tiny").save_pretrained(folder / "shards", max_shard_size="60KB")
    return folder


@pytest.fixture
def saved(_saved_pipelines, tmp_path):
    """Return a function that gives a copy of a saved pipeline to spoil."""

    def copy(name="tiny"):
        return shutil.copytree(_saved_pipelines / name, tmp_path / name)

    return copy
