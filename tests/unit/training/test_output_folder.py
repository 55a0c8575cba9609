"""The output folder of a run: one that is free, and nothing of others in it is lost."""

import json

import pytest
import torch

from ddpm_from_scratch.runtime.errors import ConfigError
from ddpm_from_scratch.training import checkpoint
from ddpm_from_scratch.training.config import TrainingConfig
from ddpm_from_scratch.training.output_folder import clear_earlier_run, is_run, prepare_output_dir

ROW = json.dumps({"step": 10, "loss": 0.5, "lr": 1e-4, "samples_per_second": 3.0}) + "\n"


def config(folder, **settings):
    return TrainingConfig(**{"dataset_name": "digits", "output_dir": str(folder)} | settings)


def write(folder, *names, content="theirs"):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def earlier_run(folder):
    """Leave what a run leaves."""
    write(folder, "model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.non_ema.safetensors",
          "scheduler/scheduler_config.json", "samples/step-0000001.png", "README.md", "samples.png",
          "logs/ddpm-from-scratch/events.out.tfevents.1", content="earlier")  # fmt: skip
    write(folder, "logs/metrics.jsonl", content=ROW)
    write(folder, "results.json", content=json.dumps({"versions": {"ddpm-from-scratch": "0.2"}}))
    checkpoint.save_checkpoint(folder, 2, {"model": {"w": torch.zeros(1)}}, {}, {}, keep=None)
    return folder


def test_a_used_folder_is_refused_unless_it_is_resumed_or_overwritten(tmp_path):
    folder = earlier_run(tmp_path / "run")
    with pytest.raises(ConfigError, match="holds an earlier run.*--overwrite_output_dir"):
        prepare_output_dir(config(folder))
    for settings in ({"overwrite_output_dir": True}, {"resume_from_checkpoint": "latest"}):
        assert prepare_output_dir(config(folder, **settings)) == folder
    with pytest.raises(ConfigError, match="no such folder"):
        prepare_output_dir(config(folder, resume_from_checkpoint="checkpoint-7"))
    assert (folder / "model_index.json").exists() and checkpoint.list_checkpoints(folder)


def test_clearing_takes_a_run_and_leaves_what_is_not_of_it(tmp_path, capsys):
    folder = earlier_run(tmp_path / "run")
    clear_earlier_run(folder, config(folder))
    assert not list(folder.iterdir())
    earlier_run(folder)
    theirs = (
        "notes.txt", "checkpoint-notes/a.txt", "samples/photo.png", "samples/step-1.png", "unet/mine.pt",
        "logs/other/events.out.tfevents.1", "checkpoint-3/a.txt", "scheduler/my_scheduler.py",
    )  # fmt: skip
    write(folder, *theirs)
    clear_earlier_run(folder, config(folder))
    assert set(contents(folder)) == set(theirs)
    said = capsys.readouterr().err
    assert "stays as it is" in said and all(
        f"{name}/" in said for name in ("samples", "unet", "checkpoint-3")
    )


def test_a_card_that_a_person_changed_is_not_of_a_run(tmp_path):
    folder = earlier_run(tmp_path / "run")
    record = {"versions": {"ddpm-from-scratch": "0.3"}, "card_sha256": ["0" * 64]}
    write(folder, "results.json", content=json.dumps(record))
    clear_earlier_run(folder, config(folder))
    assert contents(folder) == {"README.md": b"earlier"}


@pytest.mark.parametrize(
    "names",
    [
        ("checkpoint-500/unet/config.json", "checkpoint-500/optimizer.bin", "model_index.json"),
        ("checkpoint-500/pytorch_model.bin",),
        ("checkpoint-7",),
        ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json"),
        ("unet/config.json", "unet/diffusion_pytorch_model.safetensors"),
        ("pipeline.py",),
        ("results.json",),
        ("samples.png",),
        ("logs/metrics.jsonl",),
        ("samples",),
        ("unet",),
    ],
)
@pytest.mark.parametrize(
    "settings", [{}, {"overwrite_output_dir": True}, {"resume_from_checkpoint": "latest"}], ids=str
)
def test_files_of_others_are_never_deleted_nor_advised_away(tmp_path, names, settings):
    folder = write(tmp_path / "run", *names)
    before = contents(folder)
    with pytest.raises(
        ConfigError, match=f"{names[0].split('/')[0]}.*[Cc]hoose another --output_dir"
    ) as caught:
        prepare_output_dir(config(folder, **settings))
    assert "--overwrite_output_dir" not in str(caught.value)
    clear_earlier_run(folder, config(folder))
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["unet", "samples", "logs", "checkpoint-9"])
def test_links_to_elsewhere_are_not_followed(tmp_path, name):
    folder, elsewhere = earlier_run(tmp_path / "run"), earlier_run(tmp_path / "elsewhere")
    if (folder / name).exists():
        (folder / name).rename(folder / f"own-{name}")
    (folder / name).symlink_to(elsewhere / ("checkpoint-2" if name == "checkpoint-9" else name))
    before = contents(elsewhere)
    with pytest.raises(ConfigError, match=name):
        prepare_output_dir(config(folder, overwrite_output_dir=True))
    assert prepare_output_dir(config(folder, resume_from_checkpoint="latest")) == folder
    assert contents(elsewhere) == before


@pytest.mark.parametrize(
    "names",
    [
        ("checkpoint-notes",),
        ("superseded-checkpoint-7/a.txt",),
        ("checkpoint-notes/a.txt",),
        ("samples/photo.png",),
        ("notes.txt", ".tmp-mine"),
        ("logs/other/events.1",),
        ("README.md",),
        ("data/0.png", "my_config.yaml"),
        ("evaluation/results.json",),
    ],
)
def test_a_folder_with_other_things_can_be_used_and_they_stay(tmp_path, names, capsys):
    folder = write(tmp_path / "run", *names)
    before = contents(folder)
    for settings in ({}, {"overwrite_output_dir": True}):
        prepare_output_dir(config(folder, **settings))
        clear_earlier_run(folder, config(folder))
    assert contents(folder) == before and not is_run(folder)
    assert ("stays" in capsys.readouterr().err) == (names == ("README.md",))


def test_leftovers_of_a_killed_run_go_and_no_others(tmp_path):
    folder = earlier_run(tmp_path / "run")
    write(
        folder,
        ".tmp-checkpoint-4/state.json",
        ".tmp-deleted-checkpoint-2/a",
        ".tmp-README.md",
        ".tmp-export/a",
    )
    write(folder, ".tmp-mine", ".tmp-checkpoint-notes/a")
    prepare_output_dir(config(folder, overwrite_output_dir=True))
    assert {path.name for path in folder.glob(".tmp-*")} == {".tmp-mine", ".tmp-checkpoint-notes"}
