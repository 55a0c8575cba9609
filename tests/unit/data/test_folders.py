from pathlib import Path

import pytest
import torch

import folder_shapes
from ddpm_from_scratch.data.datasets import load_reference, load_training_data
from ddpm_from_scratch.training.config import TrainingConfig


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of 2 x 6 pictures in two classes, also as a zip, in the current folder."""
    files = tuple(f"{name}/{number}.png" for name in ("cat", "train") for number in range(6))
    folder_shapes.write(tmp_path, files)
    folder_shapes.zipped()(tmp_path)
    monkeypatch.chdir(tmp_path)


def stream_of(source):
    config = TrainingConfig(
        train_data_dir=source, streaming=True, max_train_steps=1, label_column="label", shuffle_buffer_size=5
    )
    return load_training_data(config, 4, 3)


@pytest.mark.parametrize("source", ["photos", "photos.zip"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_goes_on_exactly_where_it_stopped_on_any_number_of_processes(photos, source, workers):
    batches = stream_of(source).batches(4, 0, 1, 0, 0)
    whole = [next(batches) for _ in range(6)]
    again = stream_of(source).batches(4, 0, 1, workers, 8, whole[1]["stream_state"])
    later = [next(again) for _ in range(4)]
    halves = [stream_of(source).batches(2, rank, 2, 0, 0) for rank in (0, 1)]
    for number, batch in enumerate(whole):
        parts = [next(half) for half in halves]
        for name in ("samples", "labels"):
            assert torch.equal(torch.cat([part[name] for part in parts]), batch[name])
            assert number < 2 or torch.equal(later[number - 2][name], batch[name])


def test_a_zip_gives_the_samples_of_its_folder(photos):
    folder, archive = (
        load_training_data(TrainingConfig(train_data_dir=source, label_column="label"), 4, 3)
        for source in ("photos", "photos.zip")
    )
    assert torch.equal(folder.dataset.samples, archive.dataset.samples)
    assert folder.class_names == archive.class_names == ["cat", "train"]
    assert folder.files == archive.files == {"used": 12, "left_out": {}}


def test_a_reference_is_listed_as_the_training_pictures_are(photos, capsys):
    config = TrainingConfig(train_data_dir="photos", label_column="label")
    reference = load_reference(config.of_reference("photos.zip", None), (3, 4, 4))
    assert reference.num_samples == 12 and "12 found in photos.zip, 12 used" in capsys.readouterr().out
    part = load_reference(config.of_reference(None, "train[:2]"), (3, 4, 4))
    assert part.num_samples == 2
    said = capsys.readouterr().out
    assert "12 found in photos, 2 used, 10 left out" in said and "(not in --dataset_split train[:2])" in said
    with pytest.raises(ValueError, match="reference images cannot be used.*has cat, train, all"):
        load_reference(config.of_reference(None, "test"), (3, 4, 4))


def test_only_the_main_process_says_what_was_found(photos, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    load_training_data(TrainingConfig(train_data_dir="photos"), 4, 3)
    assert "found" not in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["dataset_name", "train_data_dir", "reference_data_dir"])
@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("empty", "holds no files"), ("texts", "it has no pictures"),
        ("notes.doc", r"a file; give .*\.npy, \.npz, \.zip, \.tar, \.csv"),
    ],
)  # fmt: skip
def test_an_error_names_the_flag_by_which_the_data_came(flag, source, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder_shapes.write(tmp_path, (), "empty")
    folder_shapes.write(tmp_path, ("a.txt=words",), "texts")
    (tmp_path / "notes.doc").write_text("words")
    with pytest.raises(ValueError, match=f"--{flag} is '{source}',.* {says}"):
        if flag == "reference_data_dir":
            load_reference(TrainingConfig(dataset_name="a/b").of_reference(source, None), (3, 4, 4))
        else:
            load_training_data(TrainingConfig(**{flag: source}), 4, 3)


def test_an_archive_and_a_list_may_be_given_as_a_dataset(photos, tmp_path):
    (tmp_path / "list.csv").write_text("path\nphotos/cat/0.png\n")
    for source, count in (("photos.zip", 12), ("list.csv", 1)):
        assert load_training_data(TrainingConfig(dataset_name=source), 4, 3).num_samples == count


@pytest.mark.parametrize("split", ["all[:2]+all[1:]", "cat+all", "train+train[:1]"])
def test_no_picture_is_taken_twice(photos, split):
    with pytest.raises(ValueError, match="rows in common"):
        load_training_data(TrainingConfig(train_data_dir="photos", dataset_split=split), 4, 3)


def test_rows_without_a_picture_are_no_pictures_found(photos, capsys):
    rows = "\n".join(f"cat/{number}.png,x" for number in range(9))
    Path("photos/metadata.csv").write_text(f"file_name,kind\n{rows}\n")
    data = load_training_data(TrainingConfig(train_data_dir="photos", label_column="kind"), 4, 3)
    said = capsys.readouterr().out
    assert "12 found in photos, 6 used" in said and "no picture: cat/6.png, cat/7.png, cat/8.png" in said
    assert data.files["left_out"] == {
        "no row in the metadata": 6,
        "a row of the metadata, but no picture": 3,
    }


def test_a_slice_of_a_list_counts_what_it_leaves_out(photos, capsys):
    Path("list.csv").write_text("path\n" + "".join(f"photos/cat/{number}.png\n" for number in range(6)))
    load_training_data(TrainingConfig(train_data_dir="list.csv", dataset_split="all[:4]"), 4, 3)
    assert "6 found in list.csv, 4 used, 2 left out" in capsys.readouterr().out
