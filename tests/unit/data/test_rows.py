import errno

import datasets
import numpy as np
import pytest
import torch

import folder_shapes
from ddpm_from_scratch.data.datasets import load_reference, load_training_data
from ddpm_from_scratch.data.images import DataError
from ddpm_from_scratch.data.rows import causes_named, read_rows
from ddpm_from_scratch.training.config import TrainingConfig


def broken_rows(good=0):
    """Yield rows, then fail as datasets does: with the cause behind other errors."""
    for number in range(good):
        yield {"image": folder_shapes.picture(number)[0]}
    try:
        try:
            raise OSError("the\nfile ends early")
        except OSError as error:
            raise ValueError("cannot parse") from error
    except ValueError as error:
        raise datasets.exceptions.DatasetGenerationError("An error occurred") from error


def test_the_innermost_cause_is_in_the_line():
    with pytest.raises(DataError, match=r"^x: An error occurred \(OSError: the file ends early\)$"):
        list(read_rows(broken_rows(), "x"))


def test_a_fault_of_the_machine_stays_as_it_is():
    with pytest.raises(OSError, match="disk") as caught, causes_named("x"):
        raise OSError(errno.EIO, "disk")
    assert not isinstance(caught.value, DataError)


@pytest.mark.parametrize("good", [0, 5])
def test_a_stream_that_fails_is_one_line_at_its_start_and_later(monkeypatch, good):
    features = datasets.Features({"image": datasets.Image()})
    rows = datasets.IterableDataset.from_generator(broken_rows, gen_kwargs={"good": good}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: rows)
    config = TrainingConfig(dataset_name="a/b", streaming=True, max_train_steps=1, shuffle_buffer_size=2)
    with pytest.raises(DataError, match=r"^the stream cannot be read: .*OSError: the file ends early"):
        batches = load_training_data(config, 4, 3).batches(2, 0, 1, 0, 0)
        for _ in range(4):
            next(batches)


def test_the_split_of_a_dataset_of_the_hub_is_train_unless_one_is_asked_for(monkeypatch):
    asked = []

    def load(*args, split, **options):
        asked.append(split)
        raise ValueError("stop")

    monkeypatch.setattr(datasets, "load_dataset", load)
    for split in (None, "test[:3]"):
        with pytest.raises(DataError, match="'a/b', split .* cannot be loaded: stop"):
            load_training_data(TrainingConfig(dataset_name="a/b", dataset_split=split), 4, 3)
    assert asked == ["train", "test[:3]"]


def test_a_folder_that_datasets_can_read_is_left_to_it(tmp_path):
    (tmp_path / "data").mkdir()
    rows = datasets.Dataset.from_dict({"image": [[[[0] * 3] * 4] * 4] * 3})
    rows.to_parquet(tmp_path / "data" / "train.parquet")
    config = TrainingConfig(dataset_name=str(tmp_path), cache_dir=str(tmp_path / "cache"))
    assert load_training_data(config, 4, 3).num_samples == 3


@pytest.fixture
def table(tmp_path):
    """Labels and four pictures of 64 numbers, without a header."""
    numbers = np.random.default_rng(0).integers(0, 256, (4, 64))
    np.savetxt(tmp_path / "a.csv", np.column_stack([[0, 1, 0, 1], numbers]), "%d", ",")
    return tmp_path / "a.csv", numbers


def test_a_table_has_the_size_of_the_network(table):
    """Which evaluate, calibrate and --init_from give beside the configuration."""
    path, numbers = table
    config = TrainingConfig(train_data_dir=str(path), label_column="0")
    data = load_training_data(config, (16, 4), 1)
    assert data.sample_shape == (1, 16, 4)
    expected = torch.tensor(numbers.reshape(4, 1, 16, 4)) / 127.5 - 1
    assert torch.allclose(data.dataset.plain(range(4)), expected.float(), atol=1e-6)


def test_a_reference_leaves_the_labels_of_a_table_out(table, capsys):
    path, _ = table
    config = TrainingConfig(train_data_dir=str(path), label_column="0", dataset_split="train[:2]")
    reference = load_reference(config.of_reference(None, "train[2:]"), (1, 8, 8))
    assert reference.num_samples == 2 and reference.num_classes is None
    assert "data: 4 found in" in capsys.readouterr().out


def test_a_reference_is_not_the_training_array(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros((4, 8, 8), np.uint8))
    config = TrainingConfig(train_data_dir=str(tmp_path / "a.npz"), image_column="a")
    with pytest.raises(DataError, match="--dataset_split is 'test', but --image_column is the array 'a'"):
        load_reference(config.of_reference(None, "test"), (1, 8, 8))
