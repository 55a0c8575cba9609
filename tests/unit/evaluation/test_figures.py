"""Figures that catch a copy, their floors and their names."""

import pytest
import torch

from common import seeded
from ddpm_from_scratch.data.datasets import load_digits
from ddpm_from_scratch.evaluation.figures import Columns, figures, metric_names
from ddpm_from_scratch.measures import metrics


def digit_columns(copies=0.0, has_held_out=True):
    """Pixels of half of the training digits as samples, the other half as training data; some are copies."""
    train, _, held_out, _ = load_digits()
    train, held_out = train.flatten(1), held_out.flatten(1)
    made, training = train[:700].clone(), train[700:]
    count = int(copies * len(made))
    made[:count] = training[:count] + 0.02 * torch.randn(count, 64, generator=seeded())
    return Columns(made, training, held_out if has_held_out else None)


@pytest.mark.parametrize("has_held_out", [True, False])
def test_copied_training_set_is_flagged_and_fresh_data_are_not(has_held_out):
    fresh, tenth, copied = (
        figures(digit_columns(copies, has_held_out), "pixels") for copies in (0.0, 0.1, 1.0)
    )
    assert fresh["near_copies_pixels_in_words"].startswith("No sign of copying")
    assert fresh["near_copies_pixels_p_value"] > 0.001
    assert (
        0.5
        < fresh["near_copies_pixels_median_distance"] / fresh["near_copies_pixels_median_distance_floor"]
        < 2
    )
    for found, least in ((tenth, 0.1), (copied, 1.0)):
        assert found["near_copies_pixels_in_words"].startswith("Possible copying")
        assert found["near_copies_pixels"] >= least and found["near_copies_pixels_p_value"] < 1e-6
    if not has_held_out:  # judged against what it copied, it looks better than any fresh data
        assert copied["frechet_distance_pixels"] < 0.5 * fresh["frechet_distance_pixels"]


def test_floor_is_the_figure_of_training_samples():
    columns = digit_columns()
    first = figures(columns, "x")
    floor, reference = columns.floor_pair
    again = figures(Columns(floor, columns.training, reference), "x")
    for key in ("frechet_distance_x", "kernel_distance_x", "precision_x", "recall_x"):
        assert again[key] == again[f"{key}_floor"] == first[f"{key}_floor"] != first[key]
    usual = metrics.nearest_distances(columns.held_out, columns.training).median()
    assert first["near_copies_x_median_distance_floor"] == float(usual)


def test_without_held_out_data_the_floor_is_of_two_parts_of_the_training_data():
    floor, reference = digit_columns(has_held_out=False).floor_pair
    together = torch.cat([floor, reference])
    assert len(floor) == 368 and len(together) == 737  # half of the training data, and the rest
    assert len(torch.unique(together, dim=0)) == len(torch.unique(load_digits()[0][700:].flatten(1), dim=0))


def test_fid_means_inception_and_every_name_tells_the_features():
    results = {"sample_shape": [3, 8, 8], "features": {"inception": "", "dinov2-small": "", "pixels": ""}}
    names = metric_names(results)
    for key, name in names.items():
        features = [word for word in ("inception", "dinov2-small", "pixels") if word in name.lower()]
        assert features and (key == "sliced_w2" or key.endswith(features[0])), key
        assert (name.startswith("FID") or name.startswith("KID")) <= (features == ["inception"])
        assert ("not FID" in name) == (key.startswith("frechet") and "inception" not in key)
    assert names["frechet_distance_inception"].startswith("FID: ")
