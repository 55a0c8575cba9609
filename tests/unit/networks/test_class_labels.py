"""What a user may ask a class-conditional network for, by number and by name."""

import numpy as np
import pytest
import torch

from ddpm_from_scratch.networks.class_labels import ClassLabels

PETS = ClassLabels(4, null_label=3, names={0: "cat", 1: "dog", 2: "red fish"})


@pytest.mark.parametrize(
    ("asked", "labels"),
    [
        ("dog", [1, 1]),
        (["red fish", "cat"], [2, 0]),
        (("cat", 1), [0, 1]),
        (1, [1, 1]),
        (np.int64(2), [2, 2]),
        ([0, 2], [0, 2]),
        (np.array([2, 1]), [2, 1]),
        (torch.tensor([[1], [0]]), [1, 0]),
        (torch.tensor([1], dtype=torch.uint8), [1, 1]),
        (None, [3, 3]),
    ],
)
def test_labels_by_number_and_by_name(asked, labels):
    chosen = PETS.chosen(asked, 2)
    assert chosen.tolist() == labels and chosen.dtype == torch.int64


def test_some_classes_may_have_no_name():
    classes = ClassLabels(3, names={2: "c"})
    assert classes.chosen(["c", 1], 2).tolist() == [2, 1]


def test_a_null_class_in_the_middle_has_no_name():
    classes = ClassLabels(3, null_label=1, names={"0": "a", "2": "b"})
    assert classes.chosen(["a", "b"], 2).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("classes", "asked", "message"),
    [
        (PETS, "dgo", "'dgo', which is no class; did you mean 'dog'"),
        (PETS, "horse", "'horse', which is no class; The classes are: cat, dog, red fish"),
        (PETS, ["cat", "Cat "], "'Cat ', which is no class"),
        (PETS, 4, r"in 0..2 or their names, got \[4, 4\]"),
        (PETS, 3, "3 is the null class"),
        (PETS, -1, "in 0..2"),
        (PETS, 1.0, "one integer or name or 2 of them, got 1.0"),
        (PETS, True, "one integer or name or 2"),
        (PETS, [], "one integer or name or 2"),
        (PETS, [0, 1, 2], "one integer or name or 2"),
        (PETS, [None, 1], "one integer or name or 2"),
        (PETS, {"cat"}, "one integer or name or 2"),
        (ClassLabels(2), "cat", "have no names: pass labels in 0..1"),
        (ClassLabels(2), None, "pass class_labels in 0..1"),
        (ClassLabels(3, null_label=1), 1, "in 0..2 but 1"),
    ],
)
def test_what_is_no_class_is_said(classes, asked, message):
    with pytest.raises(ValueError, match=message):
        classes.chosen(asked, 2)


@pytest.mark.parametrize(
    ("count", "null_label", "names", "error", "message"),
    [
        (2, None, {2: "a"}, ValueError, "names the label 2, but there are 0..1"),
        (2, None, {"one": "a"}, ValueError, "names the label 'one'"),
        (3, 2, {0: "a", 2: "none"}, ValueError, "names the label 2, but there are 0..1"),
        (2, None, {0: "a", 1: "a"}, ValueError, "'a' more than once"),
        (2, None, {0: "a", 1: ""}, TypeError, "a dictionary of labels and their names"),
        (2, None, {0: 0}, TypeError, "a dictionary of labels and their names"),
        (2, None, ["a", "b"], TypeError, r"a dictionary .*, got \['a', 'b'\]"),
        (2, 2, None, ValueError, "null_class_label is 2"),
    ],
)
def test_names_that_do_not_fit_are_refused(count, null_label, names, error, message):
    with pytest.raises(error, match=message):
        ClassLabels(count, null_label, names)
