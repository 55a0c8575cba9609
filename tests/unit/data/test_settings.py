"""What a command line says of the data, checked before any are read."""

import pytest

from ddpm_from_scratch.data.settings import DataConfig
from ddpm_from_scratch.runtime.errors import ConfigError


def test_held_out_images_are_read_as_the_training_images(tmp_path):
    config = DataConfig(
        dataset_name="me/photos", dataset_config_name="small", dataset_split="train", image_column="picture",
        label_column="kind", center_crop=True, seed=4, cache_dir="cache",
    )  # fmt: skip
    as_trained = {
        "image_column": "picture",
        "label_column": "kind",
        "center_crop": True,
        "seed": 4,
        "cache_dir": "cache",
    }
    assert config.of_reference(None, None) is None
    assert config.of_reference(None, "test") == DataConfig(
        dataset_name="me/photos", dataset_config_name="small", dataset_split="test", **as_trained
    )
    assert config.of_reference(str(tmp_path), None) == DataConfig(train_data_dir=str(tmp_path), **as_trained)
    assert config.of_reference(str(tmp_path), "unseen").dataset_split == "unseen"


def test_a_size_is_one_number_or_one_text():
    """What runs and their logs remember; squares as ever."""
    for given, kept in (
        (64, 64),
        ("64", 64),
        ("64x64", 64),
        ("48X64", "48x64"),
        ([48, 64], "48x64"),
        (None, None),
    ):
        config = DataConfig(dataset_name="me/photos", resolution=given)
        assert config.resolution == kept and type(config.resolution) is type(kept)


def test_a_reference_that_cannot_be_had_is_refused():
    with pytest.raises(ConfigError, match="held-out part of its own"):
        DataConfig(dataset_name="digits").of_reference(None, "test")
    with pytest.raises(ConfigError, match="no such folder"):
        DataConfig(dataset_name="me/photos").of_reference("nowhere", None)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "got neither"),
        ({"dataset_name": "digits", "train_data_dir": "x"}, "got both"),
        ({"dataset_name": "swissroll"}, "'swiss_roll'"),
        ({"dataset_name": "digits", "streaming": True}, "built-in data"),
        ({"dataset_name": "digits", "resolution": 0}, "--resolution is 0, but must be height x width"),
        (
            {"dataset_name": "me/photos", "resolution": "48x"},
            "--resolution is '48x', but must be height x width",
        ),
        ({"dataset_name": "digits", "value_range": (0, 16)}, "--value_range does not apply"),
        ({"train_data_dir": "x", "value_range": (1, 1)}, "--value_range is 1 1, but must be two finite"),
        ({"train_data_dir": "x", "value_range": (5, 1)}, "--value_range is 5 1, but must be"),
        ({"train_data_dir": "x", "value_range": (0, float("nan"))}, "--value_range is 0 nan, but must be"),
        ({"train_data_dir": "x", "value_range": (0, float("inf"))}, "--value_range is 0 inf, but must be"),
    ],
)
def test_data_that_cannot_be_meant_are_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        DataConfig(**settings)
