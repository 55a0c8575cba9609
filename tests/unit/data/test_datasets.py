import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_from_scratch.data.datasets import load_digits, load_training_data
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


@pytest.fixture
def digits():
    """The digits of scikit-learn, 0..16, in the order of the built-in training data, and their labels."""
    train, labels, _, _ = load_digits()
    return ((train[:, 0] + 1) * 8).round().numpy().astype(np.uint8), labels.numpy()


def as_npz(path, images, labels):
    np.savez(path / "digits.npz", images=images, labels=labels)
    return path / "digits.npz", "label"


def as_csv(path, images, labels):
    table = np.concatenate([labels[:, None], images.reshape(len(images), -1)], axis=1)
    header = ",".join(["label", *(f"pixel{number}" for number in range(64))])
    np.savetxt(path / "digits.csv", table, fmt="%d", delimiter=",", header=header, comments="")
    return path / "digits.csv", "label"


def as_uci(path, images, labels):
    table = np.concatenate([images.reshape(len(images), -1), labels[:, None]], axis=1)
    np.savetxt(path / "optdigits.csv", table, fmt="%d", delimiter=",")
    return path / "optdigits.csv", "64"


def as_floats(path, images, labels):
    np.savez(path / "digits.npz", data=images.reshape(len(images), 64) / 1.0, target=labels)
    return path / "digits.npz", "label"


@pytest.mark.parametrize("write", [as_npz, as_csv, as_uci, as_floats])
def test_digits_of_a_file_are_the_built_in_ones_bit_for_bit(tmp_path, digits, write):
    path, column = write(tmp_path, *digits)
    options = {"label_column": column, "random_flip": True, "value_range": (0, 16)}
    ours = load(path, 8, None, **options)
    built_in = load_training_data(
        TrainingConfig(dataset_name="digits", label_column="label", random_flip=True), 8, None
    )
    assert (ours.sample_shape, ours.num_classes, ours.num_samples) == ((1, 8, 8), 10, 1437)
    assert ours.levels == (None if write is as_floats else 17)
    for mine, theirs in zip(
        batches_of(ours, 100, count=20), batches_of(built_in, 100, count=20), strict=True
    ):
        assert torch.equal(mine["samples"], theirs["samples"]) and torch.equal(
            mine["labels"], theirs["labels"]
        )


@pytest.mark.parametrize("layout", ["HW", "HWC", "CHW"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_arrays_give_the_same_in_memory_on_access_and_in_workers(tmp_path, monkeypatch, layout, kind):
    images = np.random.default_rng(0).integers(0, 256, (7, 20, 16, 1 if layout == "HW" else 3)).astype(kind)
    images = {"HW": images[..., 0], "HWC": images, "CHW": images.transpose(0, 3, 1, 2)}[layout]
    np.save(tmp_path / "a.npy", images)
    options = {"resolution": 8, "value_range": None if kind is np.uint8 else (0, 255), "random_flip": True}
    held = load(tmp_path / "a.npy", **options)
    assert held.sample_shape == ((1 if layout == "HW" else 3), 8, 8)
    assert held.levels == (None if kind is np.float32 else 256)
    monkeypatch.setattr("ddpm_from_scratch.data.datasets.MAX_BYTES_IN_MEMORY", 0)
    read = load(tmp_path / "a.npy", **options)
    assert isinstance(read.dataset.samples.rows.columns["image"], np.memmap)
    for a, b, c in zip(
        *(batches_of(data, 5, workers=n) for data, n in ((held, 0), (read, 0), (read, 1))), strict=True
    ):
        assert torch.equal(a["samples"], b["samples"]) and torch.equal(a["samples"], c["samples"])


def test_an_array_of_exact_size_is_not_resampled(tmp_path):
    images = np.random.default_rng(0).random((3, 8, 8))
    np.save(tmp_path / "a.npy", images)
    data = load(tmp_path / "a.npy", 8, value_range=(0, 1))
    assert torch.equal(data.dataset.plain([0, 1, 2])[:, 0], (torch.from_numpy(images) / 0.5 - 1).float())


def test_an_array_as_a_stream_gives_every_picture_once_an_epoch(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(6 * 64).reshape(6, 8, 8).astype(np.uint16), y=np.arange(6) % 2)
    options = {"streaming": True, "max_train_steps": 1, "value_range": (0, 400), "shuffle_buffer_size": 4}
    data = load(tmp_path / "a.npz", 8, **options)
    assert data.num_samples is None and data.sample_shape == (1, 8, 8) and data.levels == 401
    first, second = (batch["samples"] for batch in batches_of(data, 6, count=2))
    key = lambda images: sorted(image.numpy().tobytes() for image in images)  # noqa: E731
    assert key(first) == key(second) and len(set(key(first))) == 6


def test_bad_pictures_of_an_array_are_passed_over(tmp_path):
    images = np.random.default_rng(0).random((6, 8, 8))
    images[2, 3, 3] = np.nan
    np.save(tmp_path / "a.npy", images)
    with pytest.raises(DataError, match="image 2 has numbers that are not finite.*--skip_bad_images"):
        load(tmp_path / "a.npy", 8, value_range=(0, 1))
    data = load(tmp_path / "a.npy", 8, value_range=(0, 1), skip_bad_images=1)
    assert (
        torch.equal(data.dataset.samples[2], data.dataset.samples[3]) and len(data.bad_images.problems) == 1
    )


def test_a_range_that_is_not_known_is_asked_for_with_the_numbers_of_all_data(tmp_path):
    np.save(tmp_path / "a.npy", np.linspace(-3, 5, 4 * 64).reshape(4, 8, 8))
    with pytest.raises(DataError, match="the images have .* float64 from -3 to 5.*--value_range -3 5"):
        load(tmp_path / "a.npy", 8)


def test_pictures_of_8_and_16_bits_may_be_mixed(tmp_path):
    eight = np.random.default_rng(0).integers(0, 256, (8, 8)).astype(np.uint8)
    (tmp_path / "images").mkdir()
    Image.fromarray(eight).save(tmp_path / "images" / "0.png")
    Image.fromarray(eight.astype(np.uint16) * 257).save(tmp_path / "images" / "1.png")
    data = load(tmp_path / "images", 8, 1, str(tmp_path / "cache"))
    both = data.dataset.plain([0, 1])
    torch.testing.assert_close(both[0], both[1], rtol=0, atol=1e-7)
    assert data.levels == 65536 and torch.equal(both[0, 0], torch.from_numpy(eight).float() / 127.5 - 1)


def test_twelve_bits_in_sixteen_are_told_once(tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(np.full((8, 8), 100 + 1900 * index, np.uint16)).save(folder / f"{index}.png")
    load(folder, 8, 1, str(tmp_path / "cache"))
    said = capsys.readouterr().err
    assert said.count("warning:") == 1 and "from 100 to 3900, a small part of 0 to 65535" in said
    assert "--value_range 0 4095" in said
    data = load(folder, 8, 1, str(tmp_path / "cache"), value_range=(0, 4095))
    assert "warning" not in capsys.readouterr().err and data.levels == 4096
    assert float(data.dataset.samples.max()) > 0.9


COLUMNS = {
    "Array2D": ("Array2D((8, 8), 'uint16')", 1),
    "Array3D, CHW": ("Array3D((3, 8, 8), 'uint16')", 3),
    "lists": ("List(List(Value('uint16')))", 1),
    "lists of lists of lists": ("List(List(List(Value('uint16'))))", 3),
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("streaming", [False, True])
def test_columns_of_arrays_keep_their_kind(tmp_path, name, streaming):
    import datasets

    text, channels = COLUMNS[name]
    feature = eval(text, vars(datasets))
    arrays = np.random.default_rng(0).integers(0, 65536, (4, channels, 8, 8)).astype(np.uint16)
    given = [array if channels == 3 else array[0] for array in arrays]
    rows = datasets.Dataset.from_dict(
        {"image": [array.tolist() for array in given]}, features=datasets.Features({"image": feature})
    )
    rows.save_to_disk(tmp_path / "rows")
    options = {"streaming": True, "max_train_steps": 1} if streaming else {}
    data = load_training_data(TrainingConfig(dataset_name=str(tmp_path / "rows"), **options), 8, None)
    assert data.sample_shape == (channels, 8, 8) and data.levels == 65536
    if not streaming:
        assert torch.equal(
            data.dataset.samples, ((torch.from_numpy(arrays.astype(float))) / 32767.5 - 1).float()
        )


@pytest.mark.parametrize("kind", ["binary", "base64", "data", "path", "npy"])
def test_columns_of_bytes_and_texts(tmp_path, kind):
    import base64
    import io

    import datasets

    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    values = []
    for index, array in enumerate(pixels):
        file = io.BytesIO()
        np.save(file, array) if kind == "npy" else Image.fromarray(array).save(file, "png")
        (tmp_path / f"{index}.png").write_bytes(file.getvalue())
        text = base64.b64encode(file.getvalue()).decode()
        values.append(
            {"binary": file.getvalue(), "npy": file.getvalue(), "base64": text,
             "data": f"data:image/png;base64,{text}", "path": str(tmp_path / f"{index}.png")}[kind]
        )  # fmt: skip
    datasets.Dataset.from_dict({"image": values}).save_to_disk(tmp_path / "rows")
    data = load_training_data(TrainingConfig(dataset_name=str(tmp_path / "rows")), 8, None)
    assert torch.equal(data.dataset.samples, torch.from_numpy(pixels).permute(0, 3, 1, 2))
