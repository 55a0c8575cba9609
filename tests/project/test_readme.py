"""What the README prints works: its Python runs, its training commands parse, its files exist."""

import re
import shlex

import pytest

from common import ROOT
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
PUBLISHING = [line for line in SHELL if "<user>/<repo>" in line]


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_python_example_runs(code, tiny_run, tmp_path, monkeypatch):
    """With a tiny model in place of runs/digits; it has 20 timesteps, so the examples take 20 steps."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits").symlink_to(tiny_run)
    monkeypatch.chdir(tmp_path)
    code = re.sub(r"num_inference_steps=\d+", "num_inference_steps=20", code)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert len(names["images"]) in (1, 4)


@pytest.mark.parametrize("line", TRAINING)
def test_training_command_parses(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(line)
    config = parse_config(arguments[arguments.index("training/train.py") + 1 :])
    assert config.output_dir.startswith("runs/")


def test_publishing_commands_run(tiny_run, tmp_path, run_here, loopback_hub):
    """On a Hub on loopback; the model is one that any diffusers loads."""
    for name in ("training", "model_card.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits").symlink_to(tiny_run)
    for line in PUBLISHING:
        line = line.replace("<user>/<repo>", "me/digits").replace(
            "num_inference_steps=200", "num_inference_steps=20"
        )
        program, *words = shlex.split(line)
        assert program == "python"
        options = ["--num_inference_steps=20"] if "make_space" in line else []
        done = run_here(*words, *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "digit.png").exists()
    assert set(loopback_hub.repositories) == {"me/digits", "spaces/me/digits-space"}


def test_examples_were_found():
    assert len(PYTHON) == 3 and len(TRAINING) == 5 and len(PUBLISHING) == 3


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "lesson/README.md"])
def test_every_command_of_the_makefile_that_is_named_exists(page):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for name in re.findall(r"(?:^|`)make ([\w-]+)", (ROOT / page).read_text(), re.MULTILINE):
        assert name in targets, name


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 140


def test_every_folder_of_the_map_exists():
    table = re.search(r"## What is where\n\n(.*?)\n\n", README, re.DOTALL)[1]
    for row in table.splitlines()[2:]:
        for name in re.findall(r"`([^`]+/)`", row.split("|")[1]):
            assert (ROOT / name).is_dir() or (ROOT / "src" / "ddpm_from_scratch" / name).is_dir(), name


def test_every_wing_is_in_the_map():
    folders = {path.parent.name for path in (ROOT / "src" / "ddpm_from_scratch").glob("*/__init__.py")}
    table = re.search(r"## What is where\n\n(.*?)\n\n", README, re.DOTALL)[1]
    assert folders <= {name.rstrip("/").split("/")[-1] for name in re.findall(r"`([^`]+/)`", table)}
