"""What a network is conditioned on, and what users may ask it for."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DataParallel

from ddpm_from_scratch import build_model, model_config
from ddpm_from_scratch.networks.class_labels import ClassLabels
from ddpm_from_scratch.networks.conditions import (
    Numbers,
    check_guidance,
    chosen_conditions,
    condition_kind,
    conditions,
)

NUMBERS, VECTORS = Numbers(False, None, -1), Numbers(True, 3, 0)


def network(**settings):
    return build_model(model_config("tiny", **settings))


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, None),
        ({"num_class_embeds": 3}, "classes"),
        ({"class_embed_type": "timestep"}, "numbers"),
        ({"class_embed_type": "timestep", "num_class_embeds": 3}, "numbers"),
        ({"class_embed_type": "identity"}, "vectors"),
    ],
)
def test_the_configuration_says_what_a_network_takes(settings, kind):
    assert condition_kind(network(**settings)) == condition_kind(DataParallel(network(**settings))) == kind


def test_a_network_without_a_configuration_says_nothing():
    assert condition_kind(nn.Linear(2, 2)) is None


def test_what_may_be_asked_for_follows_the_network():
    assert conditions(network()) is None
    assert conditions(network(num_class_embeds=3), 2) == ClassLabels(3, 2)
    assert conditions(network(class_embed_type="timestep"), -1) == NUMBERS
    assert conditions(network(class_embed_type="identity"), 0) == Numbers(True, 32, 0)


@pytest.mark.parametrize(
    ("settings", "null_label", "names", "error", "message"),
    [
        ({}, 1, None, ValueError, "null_class_label is 1, but the network is not class-conditional"),
        ({}, None, {0: "cat"}, ValueError, "id2label is .* the network is not class-conditional"),
        ({"class_embed_type": "timestep"}, None, {0: "a"}, ValueError, "conditional on numbers, not on cl"),
        ({"class_embed_type": "identity"}, 0, {0: "a"}, ValueError, "conditional on vectors, not on classes"),
        ({"class_embed_type": "identity"}, "0", None, TypeError, "null_class_label is '0'"),
        ({"class_embed_type": "identity"}, True, None, TypeError, "null_class_label is True"),
        ({"class_embed_type": "timestep"}, math.nan, None, ValueError, "null_class_label is nan"),
        ({"class_embed_type": "timestep"}, math.inf, None, ValueError, "must be a finite number"),
        ({"class_embed_type": "identity"}, [0.0, 1.0], None, TypeError, "null_class_label is"),
    ],
)
def test_a_null_label_or_names_that_do_not_fit_are_refused(settings, null_label, names, error, message):
    with pytest.raises(error, match=message):
        conditions(network(**settings), null_label, names)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (0.25, [0.25, 0.25]),
        (3, [3, 3]),
        (np.float32(0.5), [0.5, 0.5]),
        ([0.25, 1], [0.25, 1]),
        (np.array([1, 2]), [1, 2]),
        (torch.tensor([[0.5], [1.5]]), [0.5, 1.5]),
        (torch.tensor(2), [2, 2]),
        (torch.tensor([2], dtype=torch.uint8), [2, 2]),
        (None, [-1, -1]),
    ],
)
def test_numbers(asked, expected):
    chosen = NUMBERS.chosen(asked, 2)
    assert chosen.tolist() == expected and chosen.dtype == torch.float32


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([1.0, 0, 2], [[1, 0, 2]] * 2),
        (torch.tensor([[1, 2, 3]]), [[1, 2, 3]] * 2),
        (np.array([[1, 2, 3], [4, 5, 6]]), [[1, 2, 3], [4, 5, 6]]),
        ([[1, 2, 3], [4, 5, 6]], [[1, 2, 3], [4, 5, 6]]),
        (None, [[0, 0, 0]] * 2),
    ],
)
def test_vectors(asked, expected):
    chosen = VECTORS.chosen(asked, 2)
    assert chosen.tolist() == expected and chosen.dtype == torch.float32


def test_vectors_of_an_unknown_size_are_passed_on():
    assert Numbers(True).chosen(torch.ones(5), 2).shape == (2, 5)


@pytest.mark.parametrize(
    ("known", "asked", "message"),
    [
        (NUMBERS, [1, 2, 3], "class_labels must be one number, or 2 of them, all finite; got"),
        (NUMBERS, "dog", "must be one number.*got 'dog'"),
        (NUMBERS, True, "must be one number"),
        (NUMBERS, math.nan, "all finite"),
        (NUMBERS, [[1.0, 2.0]], r"of shape \(1, 2\)"),
        (NUMBERS, [], "must be one number"),
        (VECTORS, [1.0, 2.0], "one vector of 3 numbers, or 2 of them, shape .2, 3."),
        (VECTORS, 1.0, "one vector of 3 numbers"),
        (VECTORS, torch.zeros(3, 3), r"of shape \(3, 3\)"),
        (VECTORS, [1.0, math.inf, 0], "all finite"),
        (VECTORS, ["a", "b", "c"], "one vector"),
        (Numbers(False), None, "conditional on numbers: pass class_labels, one number"),
        (Numbers(True, 3), None, "conditional on vectors: pass class_labels, one vector of 3"),
        (Numbers(True, None, 0), None, "one vector of D numbers"),
        (None, 1, "not class-conditional"),
    ],
)
def test_what_a_network_does_not_know_is_refused(known, asked, message):
    with pytest.raises(ValueError, match=message):
        chosen_conditions(known, asked, 2, None)


def test_no_conditions_are_none():
    assert chosen_conditions(None, None, 2, None) is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((2.0, 1, None), ValueError, "has no null_class_label"),
        ((2.0, None, 1), ValueError, "class_labels are missing"),
        ((math.inf, 1, 1), ValueError, "must be finite"),
        (("2", 1, 1), TypeError, "guidance_scale is '2'"),
    ],
)
def test_guidance_that_cannot_be_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        check_guidance(*arguments)


def test_guidance_by_a_null_label_of_zero_is_allowed():
    check_guidance(2.0, [1.0], 0)
    check_guidance(1, None, None)
