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
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert set_aside_later(tmp_path, tmp_path.parent / "checkpoint-3") == []
    assert set_aside_later(tmp_path, tmp_path / "checkpoint-9") == ["checkpoint-10"]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint-3", "checkpoint-9", "superseded-checkpoint-10"]
