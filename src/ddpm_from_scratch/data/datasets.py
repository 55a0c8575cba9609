"""Training data: the built-in digits and points, image folders, and datasets of the Hub or on disk."""

import itertools
import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..data.points import POINT_DATASETS
from ..runtime.errors import warn
from ..runtime.privacy import without_folders
from ..runtime.processes import rank
from .images import IMAGE_MODES, Augmentation, BadImages, Decoder, own_channels
from .labels import Labels, read_labels
from .listing import Listing, RowCount
from .order import Batch, ImageStream, PositionDataset, load_batches, positions_of
from .rows import load_rows, read_rows
from .settings import DataConfig
from .sizes import Resolution, as_setting, sides
from .values import DataError, RangeError, Values, in_network_units

# Images that are looked at before a run begins: as long as their numbers use a small part of their range, and
# where that is not known.
NUM_LOOKED_AT, NUM_LOOKED_AT_FOR_RANGE = 16, 2000
# Decoded images are kept in memory up to this size.
MAX_BYTES_IN_MEMORY = 4 * 2**30
NUM_POINTS = 50_000
DIGITS_NAME = "scikit-learn handwritten digits"


@dataclass
class TrainingData:
    """What a run trains on.

    Args:
        dataset: batches by positions, or None for a stream.
        stream: rows of a streaming data set, or None.
        sample_shape: shape of one sample, (C, H, W) or (D,).
        num_classes: number of class labels, or None without labels.
        held_out: samples that are not trained on, in the network's units, shape (M, ...), or None.
        name: what the data are, in words.
        bad_images: the images that could not be read.
        levels: how many values a number of the data can have; None for continuous data.
        class_names: names of the classes by label, or None without labels.
        files: how many files are used, and how many are left out for each reason; None for other data.
    """

    dataset: PositionDataset | None
    stream: ImageStream | None
    sample_shape: tuple[int, ...]
    num_classes: int | None
    held_out: torch.Tensor | None
    name: str
    bad_images: BadImages = field(default_factory=lambda: BadImages(0))
    levels: int | None = 256
    class_names: list[str] | None = None
    files: dict[str, Any] | None = None

    @property
    def num_samples(self) -> int | None:
        """Samples of one epoch; None for a stream."""
        return None if self.dataset is None else self.dataset.num_samples

    def batches(
        self,
        batch_size: int,
        rank: int,
        world_size: int,
        num_workers: int,
        start: int,
        stream_state: dict[str, Any] | None = None,
    ) -> Iterator[Batch]:
        """Yield the endless batches of one process, from position `start` of the sequence on.

        Each is {"samples": (B, ...) float32, "labels": (B,) int64 if there are labels, "stream_state": of a
        stream}. A run goes on with the batches after one by starting at the next position, from the
        `stream_state` of that batch.

        Raises:
            DataError: more images cannot be read than `bad_images` allows.
        """
        if self.stream is not None:
            items = self.stream.items(batch_size, rank, world_size, start, stream_state)
            loaded = load_batches(self.stream, items, num_workers)
        else:
            assert self.dataset is not None  # one of the two is there
            loaded = load_batches(
                self.dataset, positions_of(batch_size, rank, world_size, start), num_workers
            )
        try:
            for batch in loaded:
                self.bad_images.add(batch.pop("problems"))
                yield batch
        except DataError as error:  # that of a worker has a traceback before its message
            raise DataError(str(error).strip().splitlines()[-1].split("DataError: ")[-1]) from error


def load_digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return scikit-learn's handwritten digits: train, train labels, held out, held-out labels.

    1,437 images to train and 360 held out, split by class with seed 0; float32 in [-1, 1], shape (N, 1, 8,
    8); values 0..16 are divided by 8, minus 1. (Alpaydin & Kaynak 1998, UCI Optical Recognition of
    Handwritten Digits.)
    """
    import sklearn.datasets
    from sklearn.model_selection import train_test_split

    digits = sklearn.datasets.load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(digits.target)
    train, held_out = train_test_split(
        np.arange(len(images)), test_size=360, random_state=0, stratify=digits.target
    )
    return images[train], labels[train], images[held_out], labels[held_out]


def load_training_data(
    config: DataConfig, resolution: Resolution | None, channels: int | None, *, with_labels: bool = True
) -> TrainingData:
    """Return the data that a configuration names, checked and, where they fit, decoded into memory.

    Args:
        config: the run's configuration.
        resolution: height and width of the images; None for 64 x 64, or the built-in data's own.
        channels: image channels; None for 3, or the data's own.
        with_labels: read the labels that the configuration names; if not, they are only told from the pixels
            of a table.

    Raises:
        DataError: a missing folder, data set, split or column, or an image that cannot be read.
    """
    if config.dataset_name == "digits":
        return _digits_data(config, resolution, channels)
    if config.dataset_name in POINT_DATASETS:
        make = POINT_DATASETS[config.dataset_name]
        generator = torch.Generator().manual_seed(0)
        points = make(NUM_POINTS + 2000, generator=generator)
        return TrainingData(
            dataset=PositionDataset(points[:NUM_POINTS], None, config.seed),
            stream=None,
            sample_shape=(2,),
            num_classes=None,
            held_out=points[NUM_POINTS:],
            name=f"2-D points: {config.dataset_name}",
            levels=None,
        )
    return _image_data(config, resolution or 64, channels, with_labels)


def load_reference(config: DataConfig | None, shape: tuple[int, ...]) -> TrainingData | None:
    """Return held-out images in the size of the training images; None if none are given.

    Args:
        config: see `DataConfig.of_reference`.
        shape: (C, H, W) of the images.

    Raises:
        DataError: images that cannot be read.
    """
    if config is None:
        return None
    try:
        return load_training_data(config, shape[1:], shape[0], with_labels=False)
    except DataError as error:
        raise DataError(f"the reference images cannot be used: {error}") from error


def _digits_data(config: DataConfig, resolution: Resolution | None, channels: int | None) -> TrainingData:
    size = as_setting(*sides(resolution or 8))
    if size != 8 or (channels or 1) != 1:
        raise DataError(
            f"the digits have --resolution 8 and --channels 1, got {size} and {channels or 1}; "
            "leave these out, and choose a network or a pipeline of that size."
        )
    if config.label_column not in (None, "label"):
        raise DataError(f"--label_column is {config.label_column!r}, but the digits have only 'label'.")
    train, labels, held_out, _ = load_digits()
    with_labels = config.label_column is not None
    return TrainingData(
        dataset=PositionDataset(
            train,
            labels if with_labels else None,
            config.seed,
            Augmentation(config.seed, 8, True, config.random_flip),
        ),
        stream=None,
        sample_shape=(1, 8, 8),
        num_classes=10 if with_labels else None,
        class_names=[str(digit) for digit in range(10)] if with_labels else None,
        held_out=held_out,
        name=DIGITS_NAME,
        levels=17,
    )


def _check_column(rows: Any, column: str, flag: str) -> None:
    columns = rows.column_names or list(next(read_rows(rows), {}))  # a stream may have them in its rows only
    if column not in columns:
        raise DataError(f"{flag} is {column!r}, but the data set has the columns {', '.join(columns)}.")


def _image_data(
    config: DataConfig, resolution: Resolution, channels: int | None, with_labels: bool
) -> TrainingData:
    import datasets

    rows, listing = load_rows(config, channels, resolution, with_labels=with_labels)
    _check_column(rows, config.image_column, "--image_column")
    features: dict[str, Any] = dict(rows.features or {})
    if isinstance(features.get(config.image_column), datasets.Image):
        rows = rows.cast_column(config.image_column, datasets.Image(decode=False))
        if channels not in (None, *IMAGE_MODES):
            raise DataError(
                f"--channels is {channels}, but images have {tuple(IMAGE_MODES)}; other data need an array "
                "column."
            )
    kind = _kind_of_numbers(features.get(config.image_column))
    first: dict[str, Any] = next(read_rows(rows), {})
    channels = channels or own_channels(first.get(config.image_column)) or 3
    classes, numbers = None, None
    if config.label_column is not None and with_labels:
        _check_column(rows, config.label_column, "--label_column")
        classes = read_labels(rows, config.label_column)
        if hasattr(rows, "num_rows"):
            numbers = torch.tensor([classes.number(value) for value in rows[config.label_column]])
    files = None if listing is None else _say(listing, classes, numbers)
    if config.streaming and hasattr(rows, "num_rows"):
        rows = rows.to_iterable_dataset()
    values = Values(config.value_range)
    decoder = Decoder(rows, config.image_column, channels, resolution, values, kind)
    augmentation = Augmentation(config.seed, resolution, config.center_crop, config.random_flip)
    bad_images = BadImages(config.skip_bad_images)
    dataset, stream = None, None
    if config.streaming:
        labelled = None if classes is None else (classes.column, classes.number)
        stream = ImageStream(decoder, augmentation, config.seed, config.shuffle_buffer_size, labelled)
        _check_first(((None, row) for row in read_rows(rows)), decoder, bad_images)
    else:
        images, found_at = _decode_all(decoder, bad_images)
        labels = None if numbers is None else numbers[found_at]
        dataset = PositionDataset(images, labels, config.seed, augmentation)
    if rank() == 0:
        for problem in bad_images.problems:
            warn(f"passing over it: {problem}")
    remark = values.remark(f"the pixels of the {'first ' if values.num_seen <= NUM_LOOKED_AT else ''}images")
    if remark is not None and rank() == 0:
        warn(remark)
    return TrainingData(
        dataset=dataset,
        stream=stream,
        sample_shape=(channels, *sides(resolution)),
        num_classes=None if classes is None else len(classes.names),
        held_out=None,
        name=without_folders(config.dataset_name or str(Path(config.train_data_dir or "").resolve())),
        bad_images=bad_images,
        levels=values.levels,
        class_names=None if classes is None else classes.names,
        files=files,
    )


def _say(listing: Listing | RowCount, classes: Labels | None, numbers: torch.Tensor | None) -> dict[str, Any]:
    """Print once what was found of files, and return it for the record."""
    counts = None
    if classes is not None and numbers is not None:
        counted = numbers.bincount(minlength=len(classes.names)).tolist()
        counts = dict(zip(classes.names, counted, strict=True))
    if rank() == 0:
        print(f"data: {listing.summary(counts)}", flush=True)
    return listing.record()


def _kind_of_numbers(feature: Any) -> str | None:
    """Return the kind of the numbers in a column of arrays, which its rows do not say; None for another."""
    while hasattr(feature, "feature"):  # of lists in lists
        feature = feature.feature
    name = str(getattr(feature, "dtype", ""))
    return name if name in ("bool", *(f"{kind}{bits}" for kind in ("int", "uint", "float")
                                      for bits in (8, 16, 32, 64))) else None  # fmt: skip


def _check_first(
    rows: Iterator[tuple[int | None, Any]], decoder: Decoder, bad_images: BadImages
) -> np.ndarray:
    """Return the first image that can be read; look at more, if its numbers use a small part of their range.

    Raises:
        DataError: none can be read.
        RangeError: nothing says the range of the numbers.
    """
    first = None
    for index, row in rows:
        try:
            image = decoder.decode(row, index)
        except RangeError as error:
            raise _with_other_rows(error, rows, decoder) from error
        except DataError as error:
            if first is None:
                bad_images.add([str(error)])
            continue
        first = image if first is None else first
        if decoder.values.num_seen == NUM_LOOKED_AT or decoder.values.remark("") is None:
            break
    if first is not None:
        return first
    raise DataError("the data set has no rows." if not bad_images.problems else bad_images.problems[0])


def _with_other_rows(
    error: RangeError, rows: Iterator[tuple[int | None, Any]], decoder: Decoder
) -> RangeError:
    """Return the error of a picture whose range is not known, with the numbers of more rows."""
    least, most = error.least, error.most
    seen = itertools.islice(rows, NUM_LOOKED_AT_FOR_RANGE)
    for index, row in seen:
        try:
            decoder.decode(row, index)
        except RangeError as other:
            least, most = min(least, other.least), max(most, other.most)
        except DataError:
            continue
    is_all = next(rows, None) is None
    return RangeError("the images have" if is_all else "the first images have", error.kind, least, most)


def _decode_all(decoder: Decoder, bad_images: BadImages) -> tuple[Sequence[Any] | Decoder, list[int]]:
    """Return all images, decoded if they fit in memory, in one tensor if none needs a crop; and their rows.

    In place of an image that cannot be read stands the next one that can.
    """
    count = len(decoder)
    first = _check_first(((i, decoder.rows[i]) for i in range(count)), decoder, bad_images)
    if first.nbytes * count > MAX_BYTES_IN_MEMORY:
        return decoder, list(range(count))
    hidden = int(os.environ.get("LOCAL_RANK", 0)) != 0
    images: dict[int, np.ndarray] = {}
    for index in tqdm(range(count), desc="decoding images", unit="image", disable=hidden):
        try:
            images[index] = decoder[index]
        except RangeError as error:
            raise _with_other_rows(error, ((i, decoder.rows[i]) for i in range(count)), decoder) from error
        except DataError as error:
            bad_images.add([str(error)])
    readable = sorted(images)
    found_at = [readable[bisect_left(readable, index) % len(readable)] for index in range(count)]
    if len({image.dtype for image in images.values()}) > 1:
        images = {i: in_network_units([torch.tensor(image)])[0].numpy() for i, image in images.items()}
    if all(image.shape[:2] == decoder.resolution for image in images.values()):
        stacked = np.stack([images[index] for index in found_at])
        return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous(), found_at  # type: ignore[return-value]
    return [images[index] for index in found_at], found_at
