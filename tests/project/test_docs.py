"""The pages under docs/ say what the code says, and their commands are ones that it takes."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import calibrate
import convert
import docs_images
import make_flags
from common import ROOT
from ddpm_from_scratch import DDPMFromScratchPipeline
from ddpm_from_scratch.data.datasets import load_digits
from ddpm_from_scratch.measures.metrics import sliced_wasserstein
from ddpm_from_scratch.training.config import parse_config
from foreign_networks import LucidrainsNetwork, OpenAINetwork
from tiny_cases import tiny

TRAINING_PAGE = (ROOT / "docs" / "training.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", TRAINING_PAGE, re.DOTALL)
COMMANDS = [
    line for block in BLOCKS for line in block.splitlines() if re.search(r"/(train\.py|resumable\.sh)", line)
]


def test_the_page_of_flags_is_the_dataclass():
    assert (ROOT / "docs" / "flags.md").read_text() == make_flags.page()


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_the_training_page_parse(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(line, comments=True)
    start = next(i for i, word in enumerate(words) if word.endswith(("train.py", "resumable.sh")))
    assert parse_config(words[start + 1 :]).output_dir.startswith("runs/")
    for word in words[:start]:
        assert not word.endswith((".yaml", ".sh")) or (ROOT / word).is_file(), word


def test_commands_were_found():
    assert len(COMMANDS) == 7


def test_every_configuration_file_is_in_the_table():
    for path in (ROOT / "training" / "accelerate_configs").glob("*.yaml"):
        assert f"`{path.name}`" in TRAINING_PAGE
        assert yaml.safe_load(path.read_text())["mixed_precision"] == "bf16"


def test_python_of_the_training_page_parses():
    for block in re.findall(r"```python\n(.*?)```", TRAINING_PAGE, re.DOTALL):
        compile(block, "docs/training.md", "exec")


def test_the_example_of_other_conditions_runs():
    blocks = re.findall(r"```python\n(.*?)```", TRAINING_PAGE, re.DOTALL)
    (code,) = (block for block in blocks if "class_embed_type" in block)
    names: dict = {}
    exec(compile(code, "docs/training.md", "exec"), names)
    assert len(names["images"]) == 2 and bool(names["loss"].isfinite())


@pytest.mark.filterwarnings("ignore::ddpm_from_scratch.checks.SchedulerWarning")
def test_the_example_of_starting_from_a_picture_runs(tiny_run, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits").symlink_to(tiny_run)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "publishing.md").read_text(), re.DOTALL)
    (code,) = (block for block in blocks if "strength" in block)
    names: dict = {}
    exec(compile(code.replace("steps=50", "steps=5"), "docs/publishing.md", "exec"), names)
    assert len(names["varied"]) == 4 and names["varied"][0].size == (8, 8)


def test_the_example_of_the_likelihood_page_runs(tiny_run, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits").symlink_to(tiny_run)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "likelihood.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(compile(code, "docs/likelihood.md", "exec"), names)
    assert names["bound"].bits_per_dim > 0 and len(names["bound"].terms) == 20
    for name in ("estimate", "corrected", "annealed", "again"):
        assert names[name].shape == (20, 1, 8, 8) and bool(names[name].isfinite().all()), name


def test_the_examples_of_the_few_step_page_run(tiny_run, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits").symlink_to(tiny_run)
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "few_step.md").read_text()
    names: dict = {"x_0": load_digits()[0][:8]}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(code, "docs/few_step.md", "exec"), names)
    assert len(names["images"]) == 4 and len(names["pipe"].scheduler.config.residuals) == 20
    for line in re.findall(r"^python training/calibrate.py .*$", page, re.MULTILINE):
        calibrate.make_parser().parse_args(shlex.split(line)[2:])


@pytest.mark.filterwarnings("ignore::ddpm_from_scratch.checks.SchedulerWarning")
def test_samplers_are_drawn_side_by_side(tiny_run, tmp_path):
    docs_images.few_steps(tiny_run, tmp_path / "few_steps.png", num_steps=(2, 3), num_images=4)
    with Image.open(tmp_path / "few_steps.png") as picture:
        assert min(picture.size) > 300


def test_the_example_of_other_data_runs():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "other_data.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(compile(code, "docs/other_data.md", "exec"), names)
    assert names["samples"].shape == (2, 8, 8)


@pytest.mark.filterwarnings("ignore:the scheduler has no calibration")
def test_the_loop_of_ones_own_learns_the_swiss_roll():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "own_loop.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(compile(code, "docs/own_loop.md", "exec"), names)
    data, made = names["data"], names["x_t"]
    noise = torch.randn(made.shape, generator=torch.Generator().manual_seed(0))
    assert sliced_wasserstein(made, data) < 0.5 * sliced_wasserstein(noise, data)
    assert names["averaged"].evaluations > 0


def test_the_commands_of_the_conversion_page_convert_small_files_of_those_names(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "conversion.md").read_text()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    improved = OpenAINetwork(mults=(1, 2, 2), attention=(1, 2), heads=4, out=6)
    guided = OpenAINetwork(
        width=64, mults=(1, 2), attention=(1,), head_width=64, out=6, classes=3,
        residual_resampling=True, new_order=True,
    )  # fmt: skip
    torch.save(improved.weights, "cifar10_uncond_50M_500K.pt")
    torch.save(guided.weights, "64x64_diffusion.pt")
    torch.save(LucidrainsNetwork(channels=3).file(), "results/model-100.pt")
    network, scheduler = tiny("fixed_small")
    DDPMFromScratchPipeline(unet=network, scheduler=scheduler).save_pretrained("user/old-pipeline")
    weights = Path("user/old-pipeline/unet/diffusion_pytorch_model.safetensors")
    torch.save(network.state_dict(), weights.with_suffix(".bin"))
    weights.unlink()
    lines = re.findall(r"^python training/convert.py (.*)$", page, re.MULTILINE)
    assert len(lines) == 4
    for line in lines:
        assert convert.main(shlex.split(line)) == 0, line
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict = {}
    exec(compile(code, "docs/conversion.md", "exec"), names)
    assert len(names["images"]) == 4 and names["pipe"].unet.config.time_embedding_type == "learned"
