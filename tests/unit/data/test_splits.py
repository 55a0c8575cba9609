import pytest

from ddpm_from_scratch.data.images import DataError
from ddpm_from_scratch.data.splits import are_splits, rows_of_split, words_of_split

LENGTHS = {"train": 10, "my test": 4, "val": 2}


@pytest.mark.parametrize(
    ("split", "rows"),
    [
        ("train", [("train", range(10))]),
        ("my test", [("my test", range(4))]),
        ("train[:3]", [("train", range(3))]),
        ("train[-20%:]", [("train", range(8, 10))]),
        ("train[2:4]+val", [("train", range(2, 4)), ("val", range(2))]),
    ],
)
def test_names_and_slices(split, rows):
    assert rows_of_split(LENGTHS, split, "x") == rows


@pytest.mark.parametrize("split", ["nonsense", "", "train[", "train[:200%]", "train[a:b]", "test[:2]"])
def test_any_other_is_one_line_with_the_names(split):
    with pytest.raises(DataError, match="x has train, my test, val; give one"):
        rows_of_split(LENGTHS, split, "x")


@pytest.mark.parametrize("split", ["train[:2]+train[1:]", "train+train", "val+train+val[:1]"])
def test_a_row_is_in_one_part_only(split):
    with pytest.raises(DataError, match="rows in common"):
        rows_of_split(LENGTHS, split, "x")


def test_words_of_one_split():
    assert words_of_split("Val") == words_of_split("validation") and "valid" in words_of_split("dev")
    assert words_of_split("mine") == ("mine",)
    assert are_splits(["Train", "eval"]) and not are_splits(["train", "cat"])
