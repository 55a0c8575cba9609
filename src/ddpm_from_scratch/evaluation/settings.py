"""The flags that the commands on a saved pipeline share: of its training data, and of sampling."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.settings import DataConfig
from ..runtime.cli import Bounds, add_flags
from ..runtime.errors import ConfigError
from ..words import MIXED_PRECISIONS

_DATA_FLAGS = (
    "dataset_name", "dataset_config_name", "dataset_split", "train_data_dir", "image_column", "label_column",
    "resolution", "channels", "cache_dir", "center_crop", "value_range",
    "skip_bad_images",
)  # fmt: skip


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of train.py that say what the training data are."""
    group = parser.add_argument_group("training data, as in train.py")
    add_flags(group, DataConfig, _DATA_FLAGS, alone=True)


def add_network_flags(group: Any) -> None:
    """Add the flags of sampling that do not depend on the scheduler."""
    group.add_argument("--batch_size", type=int, default=250, help="samples of one batch; default 250")
    group.add_argument(
        "--guidance_scale", type=float, default=1.0, help="classifier-free guidance; default 1, none"
    )
    group.add_argument("--seed", type=int, default=0, help="seed of the samples; default 0")
    group.add_argument(
        "--mixed_precision",
        choices=MIXED_PRECISIONS,
        default="no",
        help="precision of the network; default no",
    )
    group.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="run the pipeline's own code of a network that the package does not know; read it first",
    )


def data_config(args: argparse.Namespace) -> DataConfig:
    """Return the settings of the data on a command line.

    Raises:
        ConfigError: a setting out of bounds, or no data.
    """
    return DataConfig(seed=args.seed, **{name: getattr(args, name) for name in _DATA_FLAGS})


def check_numbers(args: argparse.Namespace, **least: int) -> None:
    """Check numbers of a command line, --batch_size among them.

    Args:
        args: the values of the command line.
        least: name -> the smallest value.

    Raises:
        ConfigError: a number below that.
    """
    for name, smallest in {"batch_size": 1, **least}.items():
        Bounds(least=smallest).check(name, getattr(args, name))


def check_calibration(
    num_steps: Sequence[int], num_samples: int, num_train_timesteps: int | None = None
) -> None:
    """Check what a calibration is asked for.

    Args:
        num_steps: numbers of steps to find settings for.
        num_samples: that a candidate is judged by.
        num_train_timesteps: T, if it is known yet.

    Raises:
        ConfigError: a number out of range.
    """
    allowed = "at least 1" if num_train_timesteps is None else f"in 1..{num_train_timesteps}"
    for count in num_steps:
        if count < 1 or (num_train_timesteps is not None and count > num_train_timesteps):
            raise ConfigError(f"a number of steps is {count}, but must be {allowed}.")
    if num_samples < 2:
        raise ConfigError(f"the samples of a candidate are {num_samples}, but must be at least 2.")


def require_own_folder(folder: Path) -> None:
    """Check the folder that figures and pictures go to: what others wrote there is not replaced.

    Raises:
        ConfigError: it holds a pipeline, or files of these names that no evaluation wrote.
    """
    path = folder / "results.json"
    theirs = [folder / name for name in ("model_index.json", "samples.png", "bound.png")]
    if path.is_file():
        try:
            earlier = json.loads(path.read_bytes())
        except ValueError:  # of an evaluation that was cut short, if it begins as one
            earlier = {"likelihood": None} if path.read_bytes().startswith(b"{") else None
        is_ours = isinstance(earlier, dict) and not earlier.keys().isdisjoint({"likelihood", "num_floor"})
        theirs = theirs[:1] if is_ours else [path]
    found = ", ".join(path.name for path in theirs if path.exists())
    if found:
        raise ConfigError(
            f"--output_dir is {str(folder)!r}, which holds {found} that no evaluation wrote: choose another "
            "folder."
        )
