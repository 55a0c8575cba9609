"""What the README prints works: its Python runs, its training commands parse, its files exist."""

import json
import re
import shlex
import warnings

import pytest
from diffusers import StableDiffusionPipeline

import test_swap
from common import ROOT, untrained_pipeline
from ddpm_from_scratch import DDPMFromScratchPipeline, SchedulerWarning
from ddpm_from_scratch.training.config import parse_config

README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
# The commands of the shell blocks, and those of the table "you want".
SHELL = [
    line.strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
] + re.findall(r"^\|[^|]*\| `([^`]+)` \|", README, re.MULTILINE)
TRAINING = [line for line in SHELL if "training/train.py" in line and "--help" not in line]
PUBLISHING = [line for line in SHELL if "<user>/" in line]


@pytest.fixture
def models(tiny_run, tmp_path):
    """A folder with tiny models in place of runs/...; they have 20 timesteps."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits").symlink_to(tiny_run)
    plain = untrained_pipeline(num_class_embeds=5)
    names = dict(enumerate(("animals", "faces", "food", "vehicles")))
    photos = DDPMFromScratchPipeline(plain.unet, plain.scheduler, 4, names)
    photos.save_pretrained(tmp_path / "runs" / "photos")
    return tmp_path


LATENT = [code for code in PYTHON if "StableDiffusion" in code]


@pytest.mark.parametrize("code", [code for code in PYTHON if code not in LATENT])
def test_python_example_runs(code, models, monkeypatch):
    monkeypatch.chdir(models)
    code = re.sub(r"num_inference_steps=\d+", "num_inference_steps=20", code)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert len(names["images"]) == 4


def test_python_example_of_latents_runs(tmp_path, monkeypatch):
    """With a tiny Stable Diffusion, which has embeddings in place of a text encoder."""
    pipe, inputs = test_swap.build("StableDiffusionPipeline")
    pipe.save_pretrained(tmp_path / "stable")
    embeddings = (inputs["prompt_embeds"], inputs["negative_prompt_embeds"])
    monkeypatch.setattr(StableDiffusionPipeline, "encode_prompt", lambda *_, **__: embeddings)
    load = StableDiffusionPipeline.from_pretrained
    without = {"text_encoder": None, "tokenizer": None, "safety_checker": None, "feature_extractor": None}
    monkeypatch.setattr(
        StableDiffusionPipeline,
        "from_pretrained",
        lambda name: load("stable" if name == "<user>/<repo>" else name, **without),
    )
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SchedulerWarning)
        exec(compile(LATENT[0], "README.md", "exec"), names)
    said = [str(warning.message) for warning in caught if warning.category is SchedulerWarning]
    assert len(said) == 2 and "no calibration" in said[0], said
    assert len(names["images"]) == 1
    index = json.loads((tmp_path / "runs" / "cats" / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "DPMSolverMultistepScheduler"]


@pytest.mark.parametrize("line", TRAINING)
def test_training_command_parses(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(line)
    config = parse_config(arguments[arguments.index("training/train.py") + 1 :])
    assert config.output_dir.startswith("runs/")


def test_publishing_commands_run(models, run_here, loopback_hub):
    """On a Hub on loopback; the model of the digits is one that any diffusers loads."""
    for name in ("training", "model_card.md"):
        (models / name).symlink_to(ROOT / name)
    for line in PUBLISHING:
        line = line.replace("<user>", "me").replace("<repo>", "digits")
        line = line.replace("num_inference_steps=200", "num_inference_steps=20")
        program, *words = shlex.split(line)
        assert program == "python"
        options = ["--num_inference_steps=20"] if "make_space" in line else []
        done = run_here(*words, *options, cwd=models)
        assert done.returncode == 0, done.stderr
    assert (models / "digit.png").exists()
    assert set(loopback_hub.repositories) == {"me/digits", "me/photos", "spaces/me/digits-space"}


def test_examples_were_found():
    assert len(PYTHON) == 3 and len(LATENT) == 1 and len(TRAINING) == 6 and len(PUBLISHING) == 4


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "lesson/README.md"])
def test_every_command_of_the_makefile_that_is_named_exists(page):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for name in re.findall(r"(?:^|`)make ([\w-]+)", (ROOT / page).read_text(), re.MULTILINE):
        assert name in targets, name


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 135
