"""How far the samples of a candidate are from the data."""

import math

import pytest
import torch

from ddpm_from_scratch.data.datasets import load_digits
from ddpm_from_scratch.evaluation.candidates import distance_from
from ddpm_from_scratch.evaluation.features import PixelFeatures
from ddpm_from_scratch.measures import metrics


def test_candidates_are_judged_by_the_root_of_frechets_distance_times_sliced_w2(digits_data, generator):
    samples = torch.rand(100, 1, 8, 8, generator=generator) * 2 - 1
    training = load_digits()[0]
    distance = distance_from(digits_data, PixelFeatures((1, 8, 8)))
    frechet = metrics.frechet_distance(samples.flatten(1), training.flatten(1))
    sliced = metrics.sliced_wasserstein(samples.flatten(1).double(), training.flatten(1).double())
    assert distance(samples) == pytest.approx(frechet**0.5 * sliced, rel=1e-6)
    assert distance(training) < 1e-3 * distance(samples)
    assert distance(samples * math.nan) == math.inf
