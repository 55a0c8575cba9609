import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_from_scratch.data.datasets import load_training_data
from ddpm_from_scratch.data.images import DataError
from ddpm_from_scratch.training.config import TrainingConfig


@pytest.fixture
def image_folder(tmp_path):
    """Six images in two classes; wide ones, so that the crop shows."""
    generator = np.random.default_rng(0)
    for index in range(6):
        folder = tmp_path / "images" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 255, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "images"


def batches_of(data, batch_size, rank=0, world_size=1, start=0, workers=0, count=3):
    stream = data.batches(batch_size, rank, world_size, workers, start)
    return [next(stream) for _ in range(count)]


def load(folder, resolution=16, channels=None, cache=None, **options):
    return load_training_data(
        TrainingConfig(train_data_dir=str(folder), cache_dir=cache, **options), resolution, channels
    )


def test_digits_are_split_by_class_and_scaled():
    data = load_training_data(TrainingConfig(dataset_name="digits", label_column="label"), None, None)
    assert (data.num_samples, len(data.held_out), data.sample_shape, data.num_classes) == (
        1437,
        360,
        (1, 8, 8),
        10,
    )
    assert float(data.dataset.samples.min()) == -1 and float(data.dataset.samples.max()) == 1


def test_processes_share_a_batch_and_a_later_start_continues():
    config = TrainingConfig(dataset_name="digits")
    data = load_training_data(config, None, None)
    whole = torch.cat([batch["samples"] for batch in batches_of(data, 8, count=4)])
    parts = [batches_of(data, 4, rank, 2, count=4) for rank in (0, 1)]
    merged = torch.cat([torch.cat([a["samples"], b["samples"]]) for a, b in zip(*parts, strict=True)])
    assert torch.equal(whole, merged)
    assert torch.equal(batches_of(data, 8, start=16, count=1)[0]["samples"], whole[16:24])


def test_image_folder_is_decoded_cropped_and_labelled(image_folder, tmp_path):
    data = load(image_folder, cache=str(tmp_path / "cache"), label_column="label", center_crop=True)
    assert (data.num_samples, data.sample_shape, data.num_classes) == (6, (3, 16, 16), 2)
    batch = batches_of(data, 6, count=1)[0]
    assert batch["samples"].shape == (6, 3, 16, 16) and sorted(batch["labels"].tolist()) == [0, 0, 0, 1, 1, 1]
    assert -1 <= float(batch["samples"].min()) < -0.5 and 0.5 < float(batch["samples"].max()) <= 1


def test_workers_change_nothing(image_folder, tmp_path):
    data = load(image_folder, cache=str(tmp_path / "cache"), random_flip=True)
    for a, b in zip(batches_of(data, 4), batches_of(data, 4, workers=2), strict=True):
        assert torch.equal(a["samples"], b["samples"])


def test_random_crops_and_flips_differ_between_epochs(image_folder, tmp_path):
    data = load(image_folder, cache=str(tmp_path / "cache"), random_flip=True)
    wide = data.dataset.samples[0]
    assert wide.shape[1] > wide.shape[0] == 16
    crops = {data.dataset.augmentation.crop(wide, position).numpy().tobytes() for position in range(40)}
    assert len(crops) > 3


def test_grey_images_have_one_channel(image_folder, tmp_path):
    assert load(image_folder, channels=1, cache=str(tmp_path / "cache")).sample_shape == (1, 16, 16)


def test_stream_gives_every_image_once_an_epoch(image_folder, tmp_path):
    options = {
        "streaming": True,
        "max_train_steps": 1,
        "center_crop": True,
        "cache_dir": str(tmp_path / "cache"),
    }
    data = load_training_data(TrainingConfig(train_data_dir=str(image_folder), **options), 16, 3)
    assert data.num_samples is None
    first, second = (batch["samples"] for batch in batches_of(data, 6, count=2))
    key = lambda images: sorted(image.numpy().tobytes() for image in images)  # noqa: E731
    assert key(first) == key(second) and len(set(key(first))) == 6
    ranks = [batches_of(data, 3, rank, 2, count=1)[0]["samples"] for rank in (0, 1)]
    assert torch.equal(torch.cat(ranks), first)


def test_dataset_on_disk_with_array_columns_of_any_channels(tmp_path):
    import datasets

    arrays = [np.full((8, 8, 5), value, dtype=np.uint8).tolist() for value in (0, 255)]
    features = datasets.Features(
        {"pixels": datasets.Array3D((8, 8, 5), "uint8"), "kind": datasets.Value("string")}
    )
    rows = datasets.Dataset.from_dict({"pixels": arrays, "kind": ["x", "y"]}, features=features)
    rows.save_to_disk(tmp_path / "rows")
    config = TrainingConfig(
        dataset_name=str(tmp_path / "rows"), image_column="pixels", label_column="kind", channels=5
    )
    data = load_training_data(config, 8, 5)
    assert (data.sample_shape, data.num_classes) == ((5, 8, 8), 2)
    batch = batches_of(data, 2, count=1)[0]
    assert set(batch["samples"].unique().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("damage", [b"", b"not an image", None])
def test_unreadable_image_is_named(image_folder, tmp_path, damage):
    victim = image_folder / "a" / "2.png"
    victim.write_bytes(victim.read_bytes()[:60] if damage is None else damage)
    with pytest.raises(DataError, match=r"image \d .*2\.png.* cannot be read"):
        load(image_folder, cache=str(tmp_path / "cache"))


def test_missing_folder_column_and_dataset_are_named(image_folder, tmp_path):
    cache = str(tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "nowhere", tmp_path / "empty"):
        with pytest.raises(DataError, match="--train_data_dir"):
            load(folder, cache=cache)
    with pytest.raises(
        DataError, match="--image_column is 'picture', but the data set has the columns image"
    ):
        load(image_folder, cache=cache, image_column="picture")
    with pytest.raises(DataError, match="--label_column is 'kind'"):
        load(image_folder, cache=cache, label_column="kind")
    with pytest.raises(DataError, match="'nobody/nothing'.* cannot be loaded"):
        load_training_data(TrainingConfig(dataset_name="nobody/nothing", cache_dir=cache), 16, 3)


def test_digits_refuse_another_size():
    with pytest.raises(DataError, match="--resolution 8"):
        load_training_data(TrainingConfig(dataset_name="digits"), 32, None)


def test_a_label_outside_the_classes_is_named(tmp_path):
    import datasets

    features = datasets.Features({"image": datasets.Array2D((8, 8), "uint8"), "kind": datasets.ClassLabel(2)})
    rows = {"image": [np.zeros((8, 8), np.uint8)] * 2, "kind": [1, -1]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "rows")
    config = TrainingConfig(dataset_name=str(tmp_path / "rows"), label_column="kind", channels=1)
    with pytest.raises(DataError, match="label -1"):
        load_training_data(config, 8, 1)


def test_a_broken_image_in_a_worker_is_one_line(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("ddpm_from_scratch.data.datasets.MAX_BYTES_IN_MEMORY", 0)  # read on access
    data = load(image_folder, cache=str(tmp_path / "cache"))
    (image_folder / "b" / "3.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"^image \d .*3\.png.*--skip_bad_images\.$"):
        batches_of(data, 6, workers=1, count=1)
