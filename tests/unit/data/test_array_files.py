"""Rows of .npy and .npz: shapes, names, splits, and what is refused."""

import pickle

import numpy as np
import pytest

from ddpm_from_scratch.data.array_files import load_arrays, shape_of_row
from ddpm_from_scratch.data.values import DataError

IMAGES = np.arange(6 * 4 * 4, dtype=np.uint8).reshape(6, 4, 4)
LABELS = np.array([3, 1, 4, 1, 5, 9])


def npy(folder, array):
    np.save(folder / "a.npy", array)
    return folder / "a.npy"


def npz(folder, **arrays):
    np.savez(folder / "a.npz", **arrays)
    return folder / "a.npz"


def load(path, split=None, label=None, image="image", channels=None, size=None):
    return load_arrays(path, split, image, label, channels, size)


@pytest.mark.parametrize(
    ("shape", "of_one"),
    [
        ((6, 4, 5), (4, 5)),
        ((6, 9, 5, 3), (9, 5, 3)),
        ((6, 3, 4, 5), (3, 4, 5)),
        ((6, 1, 4, 5), (1, 4, 5)),
        ((6, 16), (4, 4)),
        ((1, 784), (28, 28)),
    ],
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_shapes_of_an_npy(tmp_path, shape, of_one, order):
    array = np.random.default_rng(0).random(shape)
    rows = load(npy(tmp_path, np.asarray(array, order=order)))
    assert len(rows) == shape[0] and rows.column_names == ["image"]
    assert np.array_equal(rows[len(rows) - 1]["image"], array[-1].reshape(of_one))


def test_rows_of_colours_are_planes_if_their_number_is_said(tmp_path):
    path = npy(tmp_path, np.arange(2 * 48).reshape(2, 48))
    assert load(path, channels=3)[0]["image"].shape == (3, 4, 4)
    with pytest.raises(DataError, match="48 numbers .* no square with --channels 1: give --channels"):
        load(path)


def test_an_npy_stays_on_the_disk_in_workers_too(tmp_path):
    rows = load(npy(tmp_path, IMAGES), split="train[2:5]")
    assert isinstance(rows.columns["image"], np.memmap)
    sent = pickle.dumps(rows)
    again = pickle.loads(sent)
    assert isinstance(again.columns["image"], np.memmap) and len(sent) < 1000 + len(str(tmp_path))
    assert len(again) == 3 and np.array_equal(again[0]["image"], IMAGES[2])
    flat = pickle.loads(pickle.dumps(load(npy(tmp_path, IMAGES.reshape(6, 16)))))
    assert np.array_equal(flat[5]["image"], IMAGES[5])


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images", "labels"),
        ("image", "label"),
        ("x", "y"),
        ("X", "Y"),
        ("data", "target"),
        ("arr_0", "arr_1"),
    ],
)
def test_usual_names_in_an_npz(tmp_path, images, labels):
    path = npz(tmp_path, **{images: IMAGES, labels: LABELS, "note": np.array("x")})
    rows = load(path, label="label")
    assert rows.column_names == ["image", "label"] and rows["label"] == LABELS.tolist()
    row = rows[2]
    assert np.array_equal(row["image"], IMAGES[2]) and row["label"] == 4 and type(row["label"]) is int
    assert load(path).column_names == ["image"]


def test_the_given_names_in_an_npz(tmp_path):
    path = npz(tmp_path, images=IMAGES, masks=IMAGES[::-1], kinds=LABELS, y=LABELS[::-1])
    rows = load(path, image="masks", label="kinds")
    assert rows.column_names == ["masks", "kinds"] and np.array_equal(rows[0]["masks"], IMAGES[5])
    assert rows["kinds"] == LABELS.tolist()


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("X_train", "Y_train", "X_test", "Y_test"),
        ("images_train", "labels_train", "images_test", "labels_test"),
    ],
)
def test_splits_by_the_words_in_names(tmp_path, names):
    path = npz(tmp_path, **dict(zip(names, (IMAGES, LABELS, IMAGES[:2], LABELS[:2]), strict=True)))
    assert [len(load(path, split, label="label")) for split in (None, "train", "test")] == [6, 6, 2]
    assert load(path, "train[:50%]", label="label")["label"] == [3, 1, 4]
    with pytest.raises(DataError, match="none of which .* split 'validation'"):
        load(path, "validation")


@pytest.mark.parametrize("split", ["test", "nonsense", "val", "nonsense[:2]", "test[:50%]", "train+test"])
@pytest.mark.parametrize("flag", ["image", "label"])
def test_a_split_that_the_given_array_is_not_of_is_refused(tmp_path, split, flag):
    """Else held-out pictures would be those of training."""
    path = npz(tmp_path, a_train=IMAGES, b_train=LABELS, test_images=IMAGES, val_images=IMAGES)
    given = {"image": "a_train"} if flag == "image" else {"image": "val_images", "label": "b_train"}
    with pytest.raises(DataError, match="--dataset_split is .*, but --(image|label)_column is the array"):
        load(path, split, **given)


def test_the_split_of_a_given_array(tmp_path):
    path = npz(tmp_path, a=IMAGES, b_val=IMAGES[:4])
    lengths = [len(load(path, split, image="a")) for split in (None, "train", "all", "train[:2]", "all[1:]")]
    assert lengths == [6, 6, 6, 2, 5]
    lengths = [len(load(path, split, image="b_val")) for split in ("val", "validation", "valid[:50%]", None)]
    assert lengths == [4, 4, 2, 4]


def test_labels_of_medmnist_are_a_column(tmp_path):
    path = npz(tmp_path, train_images=IMAGES, train_labels=LABELS[:, None], val_images=IMAGES[:1])
    assert load(path, label="label")["label"] == LABELS.tolist()
    assert len(load(path, "validation")) == 1


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"images": IMAGES, "x": IMAGES}, {}, "arrays images, x: give --image_column"),
        ({"a": IMAGES, "b": LABELS}, {}, "arrays a, b, none of which .* --image_column"),
        ({"images": IMAGES}, {"label": "label"}, "none of which .* labels .*--label_column"),
        (
            {"images": IMAGES},
            {"label": "kind"},
            "--label_column is 'kind', but must be one of the arrays of a.npz: images",
        ),
        (
            {"images": IMAGES},
            {"image": "x"},
            "--image_column is 'x', but must be one of the arrays of a.npz: images",
        ),
        ({"images": IMAGES, "y": LABELS[:4]}, {"label": "label"}, r"shape \(4,\), but .* 6 pictures"),
        ({"images": IMAGES, "y": np.eye(6)}, {"label": "label"}, r"shape \(6, 6\), but .* 6 pictures"),
        ({"images": np.array([{}, []], object)}, {}, "Python objects"),
        ({"images": np.array(5)}, {}, r"shape \(\), but pictures must be"),
        ({"images": IMAGES}, {"split": "train[:"}, "--dataset_split is"),
        ({}, {}, "arrays none"),
    ],
)
def test_what_an_npz_does_not_tell_is_one_line(tmp_path, arrays, options, message):
    with pytest.raises(DataError, match=message):
        load(npz(tmp_path, **arrays), **options)


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.zeros((64, 64, 3)), {}, "which is one picture"),
        (np.zeros((2, 2, 2, 2, 2)), {}, r"\(2, 2, 2, 2, 2\), but pictures must be"),
        (np.zeros(9), {}, r"\(9,\), but pictures must be"),
        (np.zeros((0, 4, 4)), {}, "at least one picture"),
        (np.zeros((0, 16)), {}, "at least one picture"),
        (np.zeros((5, 8, 8, 7)), {}, "--channels"),
        (np.zeros((5, 8, 8, 3)), {"channels": 1}, "--channels"),
        (np.zeros((5, 0)), {}, "0 numbers"),
        (np.array([{}], object), {}, "Python objects"),
        (IMAGES, {"label": "label"}, "has pictures only.*savez"),
        (IMAGES, {"split": "test"}, "--dataset_split is 'test'"),
    ],
)
def test_what_an_npy_cannot_be_is_one_line(tmp_path, array, options, message):
    with pytest.raises(DataError, match=message):
        load(npy(tmp_path, array), **options)


@pytest.mark.parametrize("ending", ["npy", "npz"])
@pytest.mark.parametrize("damage", ["empty", "text", "cut", "pickle"])
def test_damaged_files_are_one_line(tmp_path, ending, damage):
    path = npy(tmp_path, IMAGES) if ending == "npy" else npz(tmp_path, images=IMAGES)
    content = {
        "empty": b"",
        "text": b"no array",
        "cut": path.read_bytes()[:-40],
        "pickle": pickle.dumps([1, 2]),
    }
    path.write_bytes(content[damage])
    with pytest.raises(
        DataError, match=rf"a\.{ending}' (cannot be read|is cut off|has Python objects)"
    ) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_a_stream_goes_on_where_it_stood(tmp_path):
    rows = load(npz(tmp_path, images=IMAGES, labels=LABELS), label="label")
    shard = rows.shard(rows.num_shards, 0)
    stream = iter(shard)
    assert [next(stream)["label"] for _ in range(2)] == [3, 1]
    later = rows.shard(1, 0)
    later.load_state_dict(shard.state_dict())
    assert [row["label"] for row in later] == [4, 1, 5, 9]
    assert len(list(rows)) == 6 == len(list(rows.shard(1, 0)))


def test_the_side_of_a_row():
    assert shape_of_row(784, "x", None, None) == (28, 28)
    assert shape_of_row(3072, "x", 3, (64, 64)) == (3, 32, 32)
    assert shape_of_row(240, "x", None, (20, 12)) == (20, 12)
    with pytest.raises(DataError, match="x has 785 numbers for each picture"):
        shape_of_row(785, "x", None, None)


def test_rows_are_counted_and_other_arrays_named(tmp_path):
    path = npz(tmp_path, images=IMAGES, labels=LABELS, masks=IMAGES)
    count = load(path, "train[:2]", label="label").count("a.npz")
    assert count.summary({"1": 1, "3": 1}) == (
        "6 found in a.npz, 2 used (2 classes: 1 1, 3 1), 4 left out (not in the slice of --dataset_split); "
        "not read: masks"
    )
    assert count.record() == {
        "used": 2,
        "left_out": {"not in the slice of --dataset_split": 4, "other arrays or columns": 1},
    }
    assert load(npy(tmp_path, IMAGES)).count("a.npy").summary() == "6 found in a.npy, 6 used"
