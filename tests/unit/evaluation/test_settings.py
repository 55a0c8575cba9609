"""The settings that evaluate.py and calibrate.py share."""

import argparse

import pytest

from ddpm_from_scratch.data.settings import DataConfig
from ddpm_from_scratch.evaluation.settings import (
    add_data_flags,
    add_network_flags,
    check_calibration,
    check_numbers,
    data_config,
    require_own_folder,
)
from ddpm_from_scratch.runtime.errors import ConfigError


def parsed(*argv):
    parser = argparse.ArgumentParser()
    add_data_flags(parser)
    add_network_flags(parser)
    return parser.parse_args(argv)


def test_the_data_of_a_command_line_are_those_of_training():
    """The seed with them, which parts what is held out."""
    flags = ("--dataset_name=digits", "--label_column=label", "--resolution=8", "--center_crop", "--seed=3")
    flags = (*flags, "--skip_bad_images=2")
    settings = {
        "label_column": "label",
        "resolution": 8,
        "center_crop": True,
        "seed": 3,
        "skip_bad_images": 2,
    }
    assert data_config(parsed(*flags)) == DataConfig(dataset_name="digits", **settings)
    assert data_config(parsed("--dataset_name=digits")) == DataConfig(dataset_name="digits")


def test_a_number_below_its_least_is_named():
    args = parsed("--batch_size=0")
    args.num_samples = 1
    with pytest.raises(ConfigError, match="--batch_size is 0, but must be at least 1"):
        check_numbers(args)
    args.batch_size = 1
    check_numbers(args, num_samples=1)
    with pytest.raises(ConfigError, match="--num_samples is 1, but must be at least 2"):
        check_numbers(args, num_samples=2)


@pytest.mark.parametrize(
    ("num_steps", "num_samples", "says"),
    [
        ([5, 0], 10, "number of steps is 0"),
        ([21], 10, r"is 21, but must be in 1\.\.20"),
        ([5], 1, "at least 2"),
    ],
)
def test_a_calibration_of_what_cannot_be_is_refused(num_steps, num_samples, says):
    check_calibration([1, 20], 2, 20)
    with pytest.raises(ConfigError, match=says):
        check_calibration(num_steps, num_samples, 20)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("results.json", '{"config": {}, "command": ""}'),
        ("results.json", "[1, 2]"),
        ("results.json", "my notes"),
        ("samples.png", "mine"),
        ("bound.png", "mine"),
        ("model_index.json", "{}"),
    ],
)
def test_figures_replace_no_file_of_others(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=f"holds {name} that no evaluation wrote: choose another"):
        require_own_folder(tmp_path)


@pytest.mark.parametrize("content", ['{"likelihood": {}}', '{"num_floor": 3}', '{"num_fl'])
def test_figures_replace_earlier_ones(tmp_path, content):
    require_own_folder(tmp_path / "new")
    for name in ("results.json", "samples.png", "bound.png", "notes.txt"):
        (tmp_path / name).write_text(content)
    require_own_folder(tmp_path)
