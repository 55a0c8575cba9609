"""The settings that say what the training data are: flags of train.py, and most of them of other commands."""

import difflib
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..runtime.cli import ALLOWED, FREE, check_bounds, expand_home, flag
from ..runtime.errors import ConfigError
from ..runtime.unused import Only
from ..words import BUILT_IN_DATASETS, POINT_DATASET_NAMES
from .sizes import as_setting, sides

# What only pictures in files have, and what no built-in data have.
_PICTURES = Only("dataset_name", unless=POINT_DATASET_NAMES)
_FILES = Only("dataset_name", unless=BUILT_IN_DATASETS)


@dataclass
class DataConfig:
    """What a run trains on, and how it is read."""

    dataset_name: str | None = flag(
        None,
        f"Built-in data ({', '.join(BUILT_IN_DATASETS)}), a dataset of the Hub, or a folder that datasets "
        "can load.",
        on_resume=ALLOWED,
        is_path=True,
        replaces=("train_data_dir", "dataset_config_name", "dataset_split"),
    )
    dataset_config_name: str | None = flag(
        None,
        "Configuration of the dataset, if it has several.",
        on_resume=ALLOWED,
        used_with=(Only("dataset_name"), _FILES),
    )
    dataset_split: str | None = flag(
        None,
        "Split, or a slice such as train[:90%]; of a folder, a folder in it, or all. If not given, train of "
        "a dataset, and all of a folder.",
        on_resume=ALLOWED,
        used_with=_FILES,
    )
    train_data_dir: str | None = flag(
        None,
        "Images to train on, instead of --dataset_name: a folder, a .zip or .tar, or a table of paths.",
        on_resume=ALLOWED,
        is_path=True,
        replaces=("dataset_name", "dataset_config_name", "dataset_split"),
    )
    image_column: str = flag("image", "Column that holds the images.", on_resume=ALLOWED, used_with=_FILES)
    label_column: str | None = flag(
        None, "Column that holds class labels; given, the network becomes class-conditional."
    )
    cache_dir: str | None = flag(None, "Folder for downloaded data and models.", on_resume=FREE, is_path=True)
    streaming: bool = flag(
        False, "Read the dataset as a stream, without storing it; needs --max_train_steps."
    )
    shuffle_buffer_size: int = flag(
        1000, "Samples held for shuffling a stream.", on_resume=ALLOWED, least=1, used_with=Only("streaming")
    )
    resolution: int | str | None = flag(
        None,
        "Size of the training images in pixels, height x width: 48x64, or 64 for 64x64; the model's if not "
        "given, else 64.",
        used_with=_PICTURES,
    )
    channels: int | None = flag(
        None,
        "Image channels: 1 (grey), 3 (RGB), 4 (RGBA), or those of an array column.",
        least=1,
        used_with=_PICTURES,
    )
    value_range: tuple[float, float] | None = flag(
        None,
        "Smallest and largest number of pixels, which become -1 and 1; known of 8 and 16 bits.",
    )
    center_crop: bool = flag(
        False,
        "Crop the centre of images of another shape than --resolution; a random part if not given.",
        on_resume=ALLOWED,
        used_with=_FILES,
    )
    random_flip: bool = flag(
        False, "Mirror images left-right at random.", on_resume=ALLOWED, used_with=_PICTURES
    )
    skip_bad_images: int = flag(
        0,
        "Images that may be unreadable; each is listed, and the next one takes its place.",
        on_resume=ALLOWED,
        least=0,
        used_with=_FILES,
    )
    dataloader_num_workers: int = flag(
        0, "Processes that load data; 0 loads in the main process.", on_resume=FREE, least=0
    )
    seed: int = flag(0, "Seed of everything random.", least=0)

    def __post_init__(self) -> None:
        """Raise ConfigError for a setting outside its bounds, or data that cannot be meant."""
        expand_home(self)
        check_bounds(self)
        if self.resolution is not None:
            self.resolution = as_setting(*sides(self.resolution))
        self._check_value_range()
        if (self.dataset_name is None) == (self.train_data_dir is None):
            got = "neither" if self.dataset_name is None else "both"
            raise ConfigError(f"give exactly one of --dataset_name and --train_data_dir, got {got}.")
        self.flag_of_data = "--dataset_name" if self.train_data_dir is None else "--train_data_dir"
        name = self.dataset_name or ""
        close = difflib.get_close_matches(name, BUILT_IN_DATASETS, n=1, cutoff=0.8)
        if close and name not in BUILT_IN_DATASETS and "/" not in name and not Path(name).exists():
            raise ConfigError(f"--dataset_name is {name!r}; did you mean the built-in {close[0]!r}?")
        if self.label_column is not None and name in POINT_DATASET_NAMES:
            raise ConfigError(
                f"--label_column is {self.label_column!r}, but the points {name!r} have no labels."
            )
        if self.streaming and self.dataset_name in BUILT_IN_DATASETS:
            raise ConfigError(f"--streaming does not apply to the built-in data {self.dataset_name!r}.")

    def _check_value_range(self) -> None:
        if self.value_range is None:
            return
        low, high = self.value_range = (float(self.value_range[0]), float(self.value_range[1]))
        if not (math.isfinite(high - low) and low < high):
            raise ConfigError(
                f"--value_range is {low:g} {high:g}, but must be two finite numbers, the smaller one first."
            )
        if self.dataset_name in BUILT_IN_DATASETS:
            raise ConfigError(f"--value_range does not apply to the built-in data {self.dataset_name!r}.")

    def of_reference(self, folder: str | None, split: str | None) -> "DataConfig | None":
        """Return the settings of held-out images that are read as the training images; None without any.

        The column of the labels stays, for tables in which it must be told from the pixels.

        Args:
            folder: of the images, in place of the data set; or an archive or a list of them.
            split: of the folder or data set.

        Raises:
            ConfigError: no such folder, or data that have a held-out part of their own.
        """
        if folder is None and split is None:
            return None
        if self.dataset_name in BUILT_IN_DATASETS:
            raise ConfigError(f"{self.dataset_name!r} has a held-out part of its own: give no reference.")
        if folder is not None and not Path(folder).exists():
            raise ConfigError(f"--reference_data_dir is {folder!r}, but there is no such folder.")
        settings: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(DataConfig)}
        settings["dataset_split"] = split
        if folder is not None:
            settings |= {"train_data_dir": folder, "dataset_name": None, "dataset_config_name": None}
        reference = DataConfig(**settings)
        if folder is not None:
            reference.flag_of_data = "--reference_data_dir"
        return reference
