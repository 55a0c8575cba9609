"""What is written is there whole, as it was before, or not at all."""

import errno
import hashlib
import os
import re

import pytest

from ddpm_from_scratch.runtime import storage
from ddpm_from_scratch.runtime.errors import StorageError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def full_disk(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_earlier_file_and_says_the_bytes(tmp_path, monkeypatch):
    storage.replace_file(tmp_path / "a", b"before")
    monkeypatch.setattr(storage.os, "fsync", full_disk)
    with pytest.raises(StorageError, match=r"writing of 5 bytes to .*/a' failed.*bytes are free"):
        storage.replace_file(tmp_path / "a", b"after")
    assert (tmp_path / "a").read_bytes() == b"before" and names(tmp_path) == ["a"]


def test_other_errors_are_not_called_those_of_a_disk(tmp_path):
    with pytest.raises(FileNotFoundError):
        storage.replace_file(tmp_path / "no" / "a", b"x")


def test_a_folder_takes_the_place_of_an_earlier_one_at_once(tmp_path):
    for content in ("first", "second"):
        temporary = storage.temporary_folder(tmp_path / "model")
        (temporary / content).write_text(content)
        assert names(temporary) == [content], "nothing of an interrupted write"
        storage.commit_folder(temporary, tmp_path / "model")
    assert names(tmp_path) == ["model"] and names(tmp_path / "model") == ["second"]


def test_the_last_file_comes_last(tmp_path, monkeypatch):
    temporary, placed = storage.temporary_folder(tmp_path / "run"), []
    (temporary / "unet").mkdir()
    for name in ("model_index.json", "unet/weights", "z"):
        (temporary / name).write_text("x")
    replace = os.replace
    monkeypatch.setattr(storage.os, "replace", lambda old, new: (placed.append(new.name), replace(old, new)))
    storage.commit_files(temporary, tmp_path / "run", last="model_index.json")
    assert placed == ["weights", "z", "model_index.json"]
    assert names(tmp_path) == ["run"] and names(tmp_path / "run") == ["model_index.json", "unet", "z"]


def test_leftovers_go_and_nothing_else(tmp_path):
    storage.temporary_folder(tmp_path / "checkpoint-1")
    (tmp_path / ".tmp-README.md").write_text("half")
    for name in ("kept", ".tmp-mine"):
        (tmp_path / name).write_text("x")
    storage.delete_leftovers(tmp_path, re.compile(r"checkpoint-\d+|README.md"))
    assert names(tmp_path) == [".tmp-mine", "kept"]


def test_too_little_space_is_said_before_anything_is_written(tmp_path):
    storage.require_space(tmp_path / "new" / "run", 1, "a run")
    with pytest.raises(StorageError, match=r"a run needs 1,000,000,000,000,000,000 bytes below"):
        storage.require_space(tmp_path / "new" / "run", 10**18, "a run")


def test_sha256_is_that_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert storage.sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
