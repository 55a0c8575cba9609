"""~ is the home folder in every path that any command takes."""

import pytest

import calibrate
import evaluate
import make_space
import publish

# Command -> a command line of nothing but paths, and the names of the settings that they end in.
PATHS = {
    evaluate: (
        "~/p --dataset_name=~/d --train_data_dir=~/t --cache_dir=~/c --reference_data_dir=~/r"
        " --output_dir=~/o --features ~/f auto",
        {
            "pipeline",
            "dataset_name",
            "train_data_dir",
            "cache_dir",
            "reference_data_dir",
            "features",
            "output_dir",
        },
    ),
    calibrate: (
        "~/p --dataset_name=~/d --train_data_dir=~/t --cache_dir=~/c --features=~/f",
        {"pipeline", "dataset_name", "train_data_dir", "cache_dir", "features"},
    ),
    publish: ("~/p", {"folder"}),
    make_space: ("~/p --output_dir=~/o", {"model", "output_dir"}),
}

# What speaks of a folder and is none: names inside one, or of a repository.
NO_PATHS = ("help", "repo_id", "reference_split", "dataset_split")


@pytest.mark.parametrize("command", PATHS, ids=lambda command: command.__name__)
def test_a_tilde_is_the_home_folder_in_every_path_of_a_command(command, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    line, names = PATHS[command]
    found = vars(command.make_parser().parse_args(line.split()))
    for name in names:
        values = found[name] if isinstance(found[name], list) else [found[name]]
        assert str(values[0]).startswith(f"{tmp_path}/") and values[1:] in ([], ["auto"]), name


@pytest.mark.parametrize("command", PATHS, ids=lambda command: command.__name__)
def test_no_path_of_a_command_is_left_out_here(command):
    """A new flag that names a folder by its help must be in the table."""
    for action in command.make_parser()._actions:
        if "older" in (action.help or "") and action.nargs != 0 and action.dest not in NO_PATHS:
            assert action.dest in PATHS[command][1], action.dest
