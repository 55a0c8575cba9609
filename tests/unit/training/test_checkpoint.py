"""A checkpoint is complete, or named as damaged, or not there at all."""

import errno

import pytest
import torch

from ddpm_from_scratch.runtime.errors import StorageError
from ddpm_from_scratch.training import checkpoint
from ddpm_from_scratch.training.checkpoint import (
    CheckpointError,
    find_checkpoint,
    load_checkpoint,
    manifest_to_resume,
    save_checkpoint,
    set_aside_later,
    verify_checkpoint,
)


def test_the_newest_checkpoint_stays_also_beside_later_ones(tmp_path):
    for step in (3, 10, 6):
        save_checkpoint(tmp_path, step, {"model": {"w": torch.zeros(1)}}, {}, {}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-6"]


@pytest.fixture
def saved(tmp_path):
    tensors = {"model": {"w": torch.arange(3.0)}, "ema": {"w": torch.ones(2, dtype=torch.float64)}}
    return save_checkpoint(
        tmp_path, 7, tensors, {"samples_seen": 112}, {"recipe": {"seed": 3}}, keep=None
    ), tensors


def test_what_is_saved_is_loaded(saved):
    folder, tensors = saved
    manifest = verify_checkpoint(folder)
    loaded, state = load_checkpoint(folder, manifest)
    assert (manifest["step"], manifest["recipe"], state) == (7, {"seed": 3}, {"samples_seen": 112})
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name]["w"], tensors[name]["w"]) for name in tensors)


@pytest.mark.parametrize("file", ["model.safetensors", "ema.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["a bit", "cut short", "missing"])
def test_damage_of_any_file_is_named(saved, file, damage):
    victim = saved[0] / file
    content = bytearray(victim.read_bytes())
    if damage == "missing":
        victim.unlink()
    elif damage == "cut short":
        victim.write_bytes(content[:-1])
    else:
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    with pytest.raises(CheckpointError, match=file):
        verify_checkpoint(saved[0])


def test_latest_passes_over_a_damaged_one_and_a_named_one_does_not(tmp_path, capsys):
    for step in (2, 10):
        save_checkpoint(tmp_path, step, {"model": {"w": torch.zeros(1)}}, {}, {}, keep=None)
    (tmp_path / "checkpoint-10" / "state.json").write_text("[]")
    folder, manifest = find_checkpoint(tmp_path, "latest")
    assert folder.name == "checkpoint-2" and manifest["step"] == 2
    assert "passing over checkpoint-10" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="state.json"):
        find_checkpoint(tmp_path, "checkpoint-10")
    with pytest.raises(CheckpointError, match="no such folder"):
        find_checkpoint(tmp_path, "checkpoint-3")
    assert find_checkpoint(tmp_path / "checkpoint-2", "latest") is None


def test_a_disk_that_fills_up_leaves_the_earlier_ones_and_nothing_of_the_new(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, {"model": {"w": torch.zeros(1)}}, {}, {}, keep=1)
    before, write_file = sorted(tmp_path.rglob("*")), checkpoint.write_file

    def fills_up(path, content):
        if path.name == "manifest.json":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_file(path, content)

    monkeypatch.setattr(checkpoint, "write_file", fills_up)
    with pytest.raises(StorageError, match="checkpoint-2"):
        save_checkpoint(tmp_path, 2, {"model": {"w": torch.zeros(1)}}, {}, {}, keep=1)
    assert sorted(tmp_path.rglob("*")) == before and verify_checkpoint(tmp_path / "checkpoint-1")


def test_later_ones_are_set_aside_only_of_the_folder_that_is_resumed(tmp_path):
    for step in (3, 9, 10):
        save(tmp_path, step)
    (tmp_path / "checkpoint-11").mkdir()
    assert set_aside_later(tmp_path, tmp_path.parent / "checkpoint-3") == []
    assert set_aside_later(tmp_path, tmp_path / "checkpoint-9") == ["checkpoint-10"]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint-11", "checkpoint-3", "checkpoint-9", "superseded-checkpoint-10"]


def save(folder, step, keep=None):
    return save_checkpoint(folder, step, {"model": {"w": torch.zeros(1)}}, {}, {}, keep=keep)


def diffusers_checkpoint(path):
    """Leave what diffusers' own script leaves."""
    for name in ("unet/config.json", "unet/diffusion_pytorch_model.safetensors", "unet_ema/config.json",
                 "optimizer.bin", "scheduler.bin", "random_states_0.pkl"):  # fmt: skip
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("theirs")
    return path


def test_a_limit_deletes_none_that_others_wrote(tmp_path):
    """Of diffusers' script, of transformers, with somebody's manifest, a link to another disk."""
    diffusers_checkpoint(tmp_path / "checkpoint-1")
    for step, files in ((2, ("model.safetensors", "trainer_state.json")), (3, ("manifest.json",)), (4, ())):
        (tmp_path / f"checkpoint-{step}").mkdir()
        for name in files:
            (tmp_path / f"checkpoint-{step}" / name).write_text('{"name": "my app", "files": []}')
    elsewhere = save(tmp_path / "elsewhere", 5)
    (tmp_path / "checkpoint-5").symlink_to(elsewhere)
    (tmp_path / "checkpoint-notes").mkdir()
    before = {path for path in tmp_path.rglob("*")}
    for step in (6, 7, 8):
        save(tmp_path, step, keep=1)
    after = {path for path in tmp_path.rglob("*")}
    assert before <= after and not (tmp_path / "checkpoint-6").exists() and verify_checkpoint(elsewhere)


def test_a_checkpoint_takes_the_place_of_none_that_others_wrote(tmp_path, capsys):
    for name in ("checkpoint-7", "superseded-checkpoint-7"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("mine")
    save(tmp_path, 7)
    assert verify_checkpoint(tmp_path / "checkpoint-7")["step"] == 7
    assert (tmp_path / "superseded-checkpoint-7-2" / "notes.txt").read_text() == "mine"
    assert "superseded-checkpoint-7-2" in capsys.readouterr().err


def test_what_another_program_wrote_is_named_with_what_can_be_used_of_it(tmp_path, capsys):
    theirs = diffusers_checkpoint(tmp_path / "checkpoint-500")
    with pytest.raises(
        CheckpointError, match=r"diffusers' own script.*--init_from \S+checkpoint-500/unet_ema"
    ):
        verify_checkpoint(theirs)
    with pytest.raises(CheckpointError, match="in another folder") as caught:
        find_checkpoint(tmp_path, "latest")
    assert "--overwrite_output_dir" not in str(caught.value)
    (tmp_path / "checkpoint-3").mkdir()
    with pytest.raises(CheckpointError, match="was not written by train.py"):
        find_checkpoint(tmp_path, str(tmp_path / "checkpoint-3"))
    save(tmp_path, 4)
    assert find_checkpoint(tmp_path, "latest")[1]["step"] == 4
    assert "passing over checkpoint-500" in capsys.readouterr().err


def test_what_a_run_that_goes_on_was_is_known_without_its_files(saved, tmp_path):
    folder, _ = saved
    (folder / "model.safetensors").unlink()
    for wanted in ("latest", "checkpoint-7", str(folder)):
        assert manifest_to_resume(tmp_path, wanted)["recipe"] == {"seed": 3}
    assert manifest_to_resume(tmp_path, None) is None
    assert manifest_to_resume(tmp_path / "elsewhere", "latest") is None
    (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="checkpoint"):
        manifest_to_resume(tmp_path, "latest")
