"""What a run starts from: a network that fits the data."""

import json

import pytest

from common import save_images
from ddpm_from_scratch import model_config
from ddpm_from_scratch.runtime.errors import ConfigError
from ddpm_from_scratch.training.config import TrainingConfig
from ddpm_from_scratch.training.prepare import choose_model_and_data


def config(folder, **settings):
    return TrainingConfig(**{"dataset_name": "digits", "output_dir": str(folder)} | settings)


def test_the_network_is_made_to_fit_the_data():
    """One more class stands for none, and a learned variance takes a second half of the channels."""
    settings = {"label_column": "label", "label_dropout": 0.1, "variance_type": "learned_range"}
    network, data, _ = choose_model_and_data(config("unused", model_config_name_or_path="tiny", **settings))
    assert data.num_classes == 10 and network["num_class_embeds"] == 11
    assert (network["sample_size"], network["in_channels"], network["out_channels"]) == (8, 1, 2)
    network, _, _ = choose_model_and_data(config("unused", dataset_name="swiss_roll"))
    assert network["_class_name"] == "PointDenoiser" and tuple(network["sample_shape"]) == (2,)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"model_config_name_or_path": "points"}, "UNet2DModel"),
        ({"label_column": "colour"}, "--label_column"),
        ({"resolution": 32}, "--resolution 8"),
        ({"dataset_name": "swiss_roll", "model_config_name_or_path": "tiny"}, "the data are points"),
        ({"dataset_name": "swiss_roll", "variance_type": "learned_range"}, "which needs images"),
    ],
)
def test_what_does_not_go_together_is_named(settings, names):
    with pytest.raises(ConfigError, match=names):
        choose_model_and_data(config("unused", **settings))


def test_a_resolution_that_the_network_cannot_halve_is_named(tmp_path):
    images = {"dataset_name": None, "train_data_dir": str(save_images(tmp_path / "images", 2, seed=0))}
    for resolution, says in (
        (15, "--resolution is 15.*multiple of 2. Use 14 or 16,"),
        ("15x6", "--resolution is 15x6.*multiple of 2. Use 14x6 or 16x6,"),
        ((1, 5), "--resolution is 1x5.*multiple of 2. Use 2x6,"),
        ("16x5", "--resolution is 16x5.*multiple of 2. Use 16x4 or 16x6,"),
    ):
        with pytest.raises(ConfigError, match=says):
            choose_model_and_data(
                config(tmp_path, **images, cache_dir=str(tmp_path / "cache"), resolution=resolution,
                       model_config_name_or_path="tiny", channels=3)
            )  # fmt: skip


@pytest.mark.parametrize(
    ("resolution", "sample_size", "widths"),
    [
        ("20x12", (20, 12), (64, 128, 128)),
        ("8x4", (8, 4), (32, 64)),
        ("48x64", (48, 64), (128, 256, 256, 256)),
        ("64x32", (64, 32), (128, 128, 256, 256, 512, 512)),
        ("64x64", 64, (128, 128, 256, 256, 512, 512)),
        (40, 40, (128, 256, 256, 256)),
    ],
)
def test_a_network_is_found_for_each_size(tmp_path, resolution, sample_size, widths):
    """The longer side decides; where that one's network cannot halve both sides, one that can."""
    folder = save_images(tmp_path / "images", 2, seed=0)
    settings = {"dataset_name": None, "train_data_dir": str(folder), "cache_dir": str(tmp_path / "cache")}
    network, data, _ = choose_model_and_data(config(tmp_path, **settings, resolution=resolution))
    assert network["sample_size"] == sample_size and network["block_out_channels"] == widths
    height, width = (sample_size, sample_size) if isinstance(sample_size, int) else sample_size
    assert data.sample_shape == (3, height, width)


@pytest.mark.parametrize("size", [[20, 12], [12, 12], 12])
def test_the_size_of_a_network_that_is_given_is_that_of_the_pictures(tmp_path, size):
    folder = save_images(tmp_path / "images", 2, seed=0)
    (tmp_path / "unet.json").write_text(json.dumps(model_config("tiny", channels=3, sample_size=size)))
    settings = {"dataset_name": None, "train_data_dir": str(folder), "cache_dir": str(tmp_path / "cache")}
    settings |= {"model_config_name_or_path": str(tmp_path / "unet.json")}
    network, data, _ = choose_model_and_data(config(tmp_path, **settings))
    assert network["sample_size"] == ((20, 12) if size == [20, 12] else 12)
    assert data.sample_shape == ((3, 20, 12) if size == [20, 12] else (3, 12, 12))


def test_a_size_of_a_network_that_is_none_is_named(tmp_path):
    for size in ([48], [48, 64, 3], "auto"):
        (tmp_path / "unet.json").write_text(json.dumps(model_config("tiny") | {"sample_size": size}))
        with pytest.raises(ConfigError, match=r"--model_config_name_or_path: .*unet.json.*sample_size is"):
            choose_model_and_data(config(tmp_path, model_config_name_or_path=str(tmp_path / "unet.json")))


# diffusers gives huggingface_hub an argument that it no longer knows.
@pytest.mark.filterwarnings("ignore:The `local_dir_use_symlinks`:UserWarning")
@pytest.mark.parametrize(
    ("settings", "begins", "fetched"),
    [
        ({"dataset_name": "me/cats"}, "data set 'me/cats', split 'train', cannot be loaded: ",
         "cats --repo-type dataset"),
        ({"dataset_name": "me/cats", "streaming": True, "max_train_steps": 1}, "data set 'me/cats'.*: ",
         "cats --repo-type dataset"),
        ({"model_config_name_or_path": "me/unet"}, "--model_config_name_or_path: ", "unet"),
        ({"init_from": "me/unet"}, "--init_from 'me/unet': ", "unet"),
    ],
)  # fmt: skip
def test_offline_what_was_looked_for_and_what_can_be_done_are_said_in_one_line(
    settings, begins, fetched, tmp_path
):
    with pytest.raises(ConfigError, match=f"^{begins}offline .*: the .* is no folder here") as caught:
        choose_model_and_data(config("unused", cache_dir=str(tmp_path), **settings))
    assert f"hf download me/{fetched} --local-dir" in str(caught.value) and "\n" not in str(caught.value)
