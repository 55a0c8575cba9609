import datasets
import pytest

from ddpm_from_scratch.data.images import DataError
from ddpm_from_scratch.data.labels import folder_classes, folders_around, read_labels


def labels_of(values):
    return read_labels(datasets.Dataset.from_dict({"label": values}), "label")


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["b", "a", "b"], ["a", "b"]),
        ([10, 9, 10], ["9", "10"]),
        ([1.0, 0.0, 1.0], ["0", "1"]),
        ([1000001.0, 1000002.0], ["1000001", "1000002"]),
        ([True, False], ["False", "True"]),
        ([-1, 5], ["-1", "5"]),
    ],
)
def test_classes_are_the_values_in_order(values, names):
    labels = labels_of(values)
    assert labels.names == names
    assert [labels.names[labels.number(value)] for value in values] == [
        str(int(value)) if isinstance(value, float) else str(value) for value in values
    ]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.5, 1.0], "0.5"),
        ([float("nan"), 1.0], "nan"),
        ([float("inf")], "inf"),
        (["a", None], "no value in row 1 of 2"),
        ([[1], [2]], "no labels"),
        ([{"a": 1}], "no labels"),
    ],
)
def test_what_is_no_label_is_refused(values, words):
    with pytest.raises(DataError, match=words):
        labels_of(values)


def test_a_class_label_keeps_its_names_also_those_without_a_sample():
    features = datasets.Features({"label": datasets.ClassLabel(names=["x", "y", "z"])})
    labels = read_labels(datasets.Dataset.from_dict({"label": [2, 0]}, features=features), "label")
    assert labels.names == ["x", "y", "z"] and labels.number(2) == 2
    with pytest.raises(DataError, match="label 3"):
        labels.number(3)


def test_numbers_of_rows_are_warned_of_and_classes_are_not(capsys):
    labels_of([f"photo {number}" for number in range(20)])
    assert "nearly each with one" in capsys.readouterr().err
    labels_of(["a", "b", "c", "d", "e"] * 2)
    labels_of(["a", "b"])
    assert capsys.readouterr().err == ""


def test_a_stream_needs_a_class_label():
    rows = datasets.Dataset.from_dict({"label": ["a"]}).to_iterable_dataset()
    with pytest.raises(DataError, match="ClassLabel"):
        read_labels(rows, "label")


def test_folders_around_all_are_passed_over():
    assert folders_around(["p/q/cat/1", "p/q/dog/1"]) == "p/q/"
    assert folders_around(["cat/1", "dog/1"]) == folders_around(["cat/1"]) == folders_around(["1"]) == ""
    assert folders_around(["p/q/cat/1", "p/q/dog/1"], ["q"]) == "p/"
    assert folder_classes(["p/cat/1", "p/dog/x/1"], "photos") == ["cat", "dog"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["1.png"], "no class folders"),
        (["cat/1.png", "2.png"], "loose pictures: 2.png"),
        (["p/cat/1.png", "p/2.png"], r"of photos/p/ there are loose"),
        (["Train/1.png", "VAL/1.png"], "look like splits"),
        (["train/1.png"], "look like splits"),
    ],
)
def test_folders_that_are_no_classes_are_refused(names, words):
    with pytest.raises(DataError, match=words):
        folder_classes(names, "photos")
