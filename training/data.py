"""Training data: the built-in digits and points, image folders, and datasets of the Hub or on disk.

A data set here answers to positions in one endless sequence: epoch after epoch, each in its own random order.
Batch k of a run is positions [k B, (k + 1) B) of that sequence, split over the processes. So every sample is
seen once an epoch, a batch may reach over the end of an epoch, and a run resumes by starting at a later
position.
"""

import io
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm.auto import tqdm

from config import ConfigError, TrainingConfig
from ddpm_from_scratch.toy_data import POINT_DATASETS
from seeds import stream_seed

# Decoded images are kept in memory up to this size.
MAX_BYTES_IN_MEMORY = 4 * 2**30
NUM_POINTS = 50_000

_IMAGE_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class DataError(ConfigError):
    """Data that cannot be read; the message is one line that names the file, column or sample."""


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
    """

    dataset: "PositionDataset | None"
    stream: "ImageStream | None"
    sample_shape: tuple[int, ...]
    num_classes: int | None
    held_out: torch.Tensor | None
    name: str

    @property
    def num_samples(self) -> int | None:
        """Samples of one epoch; None for a stream."""
        return None if self.dataset is None else self.dataset.num_samples

    def batches(
        self, batch_size: int, rank: int, world_size: int, num_workers: int, start: int
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Return the endless batches of one process, from batch number `start` on.

        Each is {"samples": (B, ...) float32, "labels": (B,) int64 if there are labels}.
        """
        if self.stream is not None:
            return self.stream.batches(batch_size, rank, world_size, start)
        sampler = _Positions(batch_size, rank, world_size, start)
        loader: DataLoader = DataLoader(
            self.dataset,  # type: ignore[arg-type]
            batch_sampler=sampler,
            num_workers=num_workers,
            collate_fn=_as_is,
            persistent_workers=False,
        )
        return iter(loader)


def _as_is(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a batch that the data set has collated already; a function, so that workers can be spawned."""
    return batch


class _Positions(Sampler[list[int]]):
    """The positions of each batch of one process, without end."""

    def __init__(self, batch_size: int, rank: int, world_size: int, start: int):
        self.batch_size, self.rank, self.world_size, self.start = batch_size, rank, world_size, start

    def __iter__(self) -> Iterator[list[int]]:
        for number in itertools.count(self.start):
            first = (number * self.world_size + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))


@dataclass(frozen=True)
class Augmentation:
    """Cropping and mirroring of images, decided by a random stream of the position in the sequence.

    Args:
        seed: of the run.
        resolution: side to crop to.
        center_crop: crop the centre, not a random part.
        random_flip: mirror at random.
    """

    seed: int
    resolution: int
    center_crop: bool = True
    random_flip: bool = False

    def _uniform(self, position: int, which: int) -> float:
        """Return the random number `which` of a position, uniform in [0, 1)."""
        return stream_seed(self.seed, "augmentation", position, which) / 2**63

    def crop(self, image: np.ndarray, position: int) -> torch.Tensor:
        """Return a square part of a uint8 array (H, W, C), as (C, resolution, resolution)."""
        side = self.resolution
        slack = (image.shape[0] - side, image.shape[1] - side)
        if self.center_crop:
            top, left = slack[0] // 2, slack[1] // 2
        else:
            top, left = (int(self._uniform(position, 1 + axis) * (slack[axis] + 1)) for axis in (0, 1))
        return torch.from_numpy(image[top : top + side, left : left + side].copy()).permute(2, 0, 1)

    def flip(self, samples: torch.Tensor, positions: list[int]) -> torch.Tensor:
        """Return the images (B, C, H, W), each mirrored left-right with probability 1/2 if asked for."""
        if not self.random_flip:
            return samples
        flips = torch.tensor([self._uniform(position, 0) < 0.5 for position in positions])
        return torch.where(flips[:, None, None, None], samples.flip(-1), samples)


class PositionDataset(Dataset):
    """Samples by position in the endless, shuffled sequence.

    Args:
        samples: a float tensor (N, ...) in the network's units, a uint8 tensor (N, C, H, W), or a sequence of
            uint8 arrays (H, W, C), decoded now or on access.
        labels: shape (N,), or None.
        seed: of the order.
        augmentation: of images; None for other data.
    """

    def __init__(
        self,
        samples: Sequence[Any],
        labels: torch.Tensor | None,
        seed: int,
        augmentation: Augmentation | None = None,
    ):
        self.samples, self.labels, self.seed, self.augmentation = samples, labels, seed, augmentation
        self.num_samples = len(samples)
        self._epoch, self._order = -1, torch.empty(0)

    def index_at(self, position: int) -> int:
        """Return which sample stands at a position of the sequence."""
        epoch, offset = divmod(position, self.num_samples)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(stream_seed(self.seed, "order", epoch))
            self._epoch, self._order = epoch, torch.randperm(self.num_samples, generator=generator)
        return int(self._order[offset])

    def __getitems__(self, positions: list[int]) -> dict[str, torch.Tensor]:
        """Return the batch of some positions."""
        indices = [self.index_at(position) for position in positions]
        if isinstance(self.samples, torch.Tensor):
            samples = self.samples[indices]
        else:
            assert self.augmentation is not None  # arrays are images
            crop = self.augmentation.crop
            samples = torch.stack([crop(self.samples[i], p) for i, p in zip(indices, positions, strict=True)])
        if samples.dtype == torch.uint8:
            samples = to_network_units(samples)
        if self.augmentation is not None:
            samples = self.augmentation.flip(samples, positions)
        batch = {"samples": samples}
        if self.labels is not None:
            batch["labels"] = self.labels[indices]
        return batch


def to_network_units(images: torch.Tensor) -> torch.Tensor:
    """Return uint8 images as float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def decode_image(value: Any, channels: int, resolution: int, label: str) -> np.ndarray:
    """Return an image as a uint8 array (H, W, channels) whose shorter side is `resolution`.

    Args:
        value: {"bytes", "path"} of an undecoded image column, a PIL image, or an array (H, W) or (H, W, C) of
            uint8.
        channels: 1, 3 or 4 for images; the number an array has.
        resolution: length of the shorter side; bilinear, as diffusers' script does.
        label: what to call the image in an error.

    Raises:
        DataError: the image cannot be read, or the array has another number of channels.
    """
    if isinstance(value, (list, np.ndarray)):
        array = np.asarray(value)
        array = array[..., None] if array.ndim == 2 else array
        if (
            array.ndim != 3
            or array.shape[2] != channels
            or array.dtype.kind not in "iu"
            or array.max(initial=0) > 255
        ):
            raise DataError(
                f"{label} is an array of shape {array.shape} and dtype {array.dtype}, but must be (H, W, "
                f"{channels}) "
                "with integers in 0..255; --channels gives their number."
            )
        planes = [
            _resize(Image.fromarray(np.ascontiguousarray(array[..., plane], dtype=np.uint8)), resolution)
            for plane in range(channels)
        ]
        return np.stack([np.asarray(plane) for plane in planes], axis=-1)
    try:
        if isinstance(value, dict):
            encoded = value["bytes"]
            if encoded is None:
                with fsspec.open(
                    value["path"], "rb"
                ) as file:  # a local path, inside an archive, or on the Hub
                    encoded = file.read()
            # As datasets does: photos lie upright, whichever way the camera was held.
            value = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
        resized = np.asarray(_resize(value.convert(_IMAGE_MODES[channels]), resolution))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{label} cannot be read as an image: {' '.join(str(error).split())}.") from error
    return resized[..., None] if resized.ndim == 2 else resized


def _resize(image: Image.Image, resolution: int) -> Image.Image:
    scale = resolution / min(image.size)
    width, height = (max(resolution, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


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


def load_training_data(config: TrainingConfig, resolution: int | None, channels: int | None) -> TrainingData:
    """Return the data that a configuration names, checked and, where they fit, decoded into memory.

    Args:
        config: the run's configuration.
        resolution: side of the images; None for 64, or the built-in data's own.
        channels: image channels; None for 3, or the data's own.

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
        )
    return _image_data(config, resolution or 64, channels)


def _digits_data(config: TrainingConfig, resolution: int | None, channels: int | None) -> TrainingData:
    if (resolution or 8) != 8 or (channels or 1) != 1:
        raise DataError(
            f"the digits have --resolution 8 and --channels 1, got {resolution or 8} and {channels or 1}; "
            "choose a model "
            "of that size, such as --model_config_name_or_path digits."
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
        held_out=held_out,
        name="scikit-learn handwritten digits",
    )


def _load_rows(config: TrainingConfig) -> Any:
    """Return the rows of an image folder or a data set, images not decoded."""
    import datasets

    options: dict[str, Any] = {"split": config.dataset_split, "cache_dir": config.cache_dir}
    try:
        if config.train_data_dir is not None:
            folder = Path(config.train_data_dir)
            if not folder.is_dir():
                raise DataError(
                    f"--train_data_dir is {config.train_data_dir!r}, but there is no such folder."
                )
            if not any(file.is_file() for file in folder.rglob("*")):
                raise DataError(
                    f"--train_data_dir is {config.train_data_dir!r}, but that folder holds no files."
                )
            return datasets.load_dataset(
                "imagefolder", data_dir=str(folder), streaming=config.streaming, **options
            )
        assert config.dataset_name is not None  # TrainingConfig has checked it
        if (Path(config.dataset_name) / "state.json").is_file():
            rows = datasets.load_from_disk(config.dataset_name)
            return rows.to_iterable_dataset() if config.streaming else rows
        return datasets.load_dataset(
            config.dataset_name, config.dataset_config_name, streaming=config.streaming, **options
        )
    except DataError:
        raise
    except (ValueError, OSError, ConnectionError, datasets.exceptions.DatasetsError) as error:
        source = config.dataset_name or config.train_data_dir
        message = " ".join(str(error).split())
        raise DataError(
            f"data set {source!r}, split {config.dataset_split!r}, cannot be loaded: {message}"
        ) from error


def _check_column(rows: Any, column: str, flag: str) -> None:
    columns = rows.column_names or list(
        next(iter(rows), {})
    )  # a stream may know its columns by its rows only
    if column not in columns:
        raise DataError(f"{flag} is {column!r}, but the data set has the columns {', '.join(columns)}.")


def _image_data(config: TrainingConfig, resolution: int, channels: int | None) -> TrainingData:
    import datasets

    rows = _load_rows(config)
    _check_column(rows, config.image_column, "--image_column")
    features = rows.features or {}
    if isinstance(features.get(config.image_column), datasets.Image):
        rows = rows.cast_column(config.image_column, datasets.Image(decode=False))
        if channels not in (None, *_IMAGE_MODES):
            raise DataError(
                f"--channels is {channels}, but images have {tuple(_IMAGE_MODES)}; other data need an array "
                "column."
            )
    channels = channels or 3
    to_label, num_classes = None, None
    if config.label_column is not None:
        _check_column(rows, config.label_column, "--label_column")
        to_label, num_classes = _label_reader(rows, config.label_column)
    decoder = _Decoder(rows, config.image_column, channels, resolution)
    augmentation = Augmentation(config.seed, resolution, config.center_crop, config.random_flip)
    dataset, stream = None, None
    if config.streaming:
        stream = ImageStream(decoder, augmentation, config, to_label)
    else:
        labels = None
        if to_label is not None:
            labels = torch.tensor([to_label(value) for value in rows[config.label_column]])
        dataset = PositionDataset(decoder.decode_all(), labels, config.seed, augmentation)
    name = config.dataset_name or Path(config.train_data_dir or "").resolve().name
    return TrainingData(dataset, stream, (channels, resolution, resolution), num_classes, None, name)


def _label_reader(rows: Any, column: str) -> tuple[Any, int]:
    """Return a function from a label value to 0..n-1, and n."""
    feature = (rows.features or {}).get(column)
    if hasattr(feature, "num_classes"):
        return int, feature.num_classes
    if not hasattr(rows, "num_rows"):
        raise DataError(
            f"--label_column {column!r} of a stream must be a ClassLabel, to know how many classes exist."
        )
    values = sorted(set(rows[column]))
    index = {value: number for number, value in enumerate(values)}
    return index.__getitem__, len(values)


class _Decoder(Sequence):
    """The images of a data set, decoded on access; errors name the file or the row."""

    def __init__(self, rows: Any, column: str, channels: int, resolution: int):
        self.rows, self.column, self.channels, self.resolution = rows, column, channels, resolution

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        return self.decode(self.rows[index], index)

    def decode(self, row: dict[str, Any], index: int) -> np.ndarray:
        value = row[self.column]
        path = value.get("path") if isinstance(value, dict) else None
        label = f"image {index}" + (f" ({path})" if path else f" of column {self.column!r}")
        return decode_image(value, self.channels, self.resolution, label)

    def decode_all(self) -> Sequence[Any]:
        """Return all images decoded if they fit in memory, one tensor if all are square; else this."""
        if not len(self):
            raise DataError("the data set has no rows.")
        first = self[0]
        if first.nbytes * len(self) > MAX_BYTES_IN_MEMORY:
            return self
        hidden = int(os.environ.get("LOCAL_RANK", 0)) != 0
        progress = tqdm(range(len(self)), desc="decoding images", unit="image", disable=hidden)
        images = [self[index] for index in progress]
        if all(image.shape[:2] == (self.resolution, self.resolution) for image in images):
            return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()  # type: ignore[return-value]
        return images


class ImageStream:
    """Batches from a data set that is read as a stream; each epoch in another order of a shuffle buffer."""

    def __init__(self, decoder: _Decoder, augmentation: Augmentation, config: TrainingConfig, to_label: Any):
        self.decoder, self.augmentation, self.config, self.to_label = decoder, augmentation, config, to_label
        first = next(iter(decoder.rows), None)
        if first is None:
            raise DataError("the stream has no rows.")
        decoder.decode(first, 0)

    def _rows(self) -> Iterator[dict[str, Any]]:
        shuffled = self.decoder.rows.shuffle(
            seed=stream_seed(self.config.seed, "order") % 2**32, buffer_size=self.config.shuffle_buffer_size
        )
        for epoch in itertools.count():
            shuffled.set_epoch(epoch)
            yield from shuffled

    def batches(
        self, batch_size: int, rank: int, world_size: int, start: int
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Return the endless batches of one process; rows that are not its own are read but not decoded."""
        rows = enumerate(self._rows())
        for positions in _Positions(batch_size, rank, world_size, start):
            own = itertools.islice((row for row in rows if row[0] >= positions[0]), batch_size)
            batch = [row for _, row in own]
            images = [
                self.augmentation.crop(self.decoder.decode(row, position), position)
                for position, row in zip(positions, batch, strict=True)
            ]
            result = {"samples": self.augmentation.flip(to_network_units(torch.stack(images)), positions)}
            if self.to_label is not None:
                result["labels"] = torch.tensor(
                    [self.to_label(row[self.config.label_column]) for row in batch]
                )
            yield result
