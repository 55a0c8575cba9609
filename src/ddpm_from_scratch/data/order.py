"""Which sample comes when: one endless sequence, epoch after epoch, each in its own random order.

Batch k of a run is positions [k B, (k + 1) B) of that sequence, split over the processes. So every sample is
seen once an epoch, a batch may reach over the end of an epoch, and a run resumes by starting at a later
position. A stream is shuffled in blocks; where a block began is part of a run's state, so that a stream, too,
resumes where it stopped.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..runtime.seeds import stream_seed
from ..runtime.stop import ignore_stop_signals, stop_signals_held
from .images import Augmentation, Decoder
from .rows import read_rows
from .values import DataError, in_network_units, to_network_units

Batch = dict[str, Any]


def _read(decode: Callable[[], torch.Tensor], problems: list[str]) -> torch.Tensor | None:
    """Return an image, or None after adding what is wrong with it to `problems`."""
    try:
        return decode()
    except DataError as error:
        problems.append(str(error))
        return None


def positions_of(batch_size: int, rank: int, world_size: int, start: int) -> Iterator[list[int]]:
    """Yield the positions of each batch of one process, from position `start` on, without end."""
    for number in itertools.count():
        first = start + (number * world_size + rank) * batch_size
        yield list(range(first, first + batch_size))


def load_batches(
    dataset: "PositionDataset | ImageStream", items: Iterable[list[Any]], num_workers: int
) -> Iterator[Batch]:
    """Yield `dataset.__getitems__` of each list of items, in order; 0 workers: loaded here."""
    if num_workers == 0:
        return map(dataset.__getitems__, items)
    loader: DataLoader = DataLoader(
        dataset,
        batch_sampler=items,
        num_workers=num_workers,
        collate_fn=_as_is,
        worker_init_fn=ignore_stop_signals,
    )
    with stop_signals_held():  # its workers start here
        return iter(loader)


def _as_is(batch: Any) -> Any:
    """Return a batch that the data set has collated already; a function, so that workers can be spawned."""
    return batch


class PositionDataset(Dataset):
    """Samples by position in the endless, shuffled sequence.

    Args:
        samples: a float tensor (N, ...) in the network's units, a uint8 tensor (N, C, H, W), or a sequence of
            arrays (H, W, C), uint8 or in the network's units, decoded now or on access.
        labels: shape (N,), or None.
        seed: of the order.
        augmentation: of images; None for other data.
    """

    def __init__(
        self,
        samples: Sequence[Any] | Decoder | torch.Tensor,
        labels: torch.Tensor | None,
        seed: int,
        augmentation: Augmentation | None = None,
    ):
        self.samples, self.labels, self.seed, self.augmentation = samples, labels, seed, augmentation
        self.num_samples = len(samples)
        self._epoch, self._order = -1, torch.empty(0)

    def _order_of(self, epoch: int) -> torch.Tensor:
        """Return the order of an epoch; that of the last one asked for is kept."""
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(stream_seed(self.seed, "order", epoch))
            self._epoch, self._order = epoch, torch.randperm(self.num_samples, generator=generator)
        return self._order

    def indices_at(self, positions: Sequence[int]) -> list[int]:
        """Return which samples stand at consecutive positions of the sequence."""
        indices: list[int] = []
        first, end = positions[0], positions[0] + len(positions)
        while first < end:
            epoch, offset = divmod(first, self.num_samples)
            part = self._order_of(epoch)[offset : offset + end - first].tolist()
            indices += part
            first += len(part)
        return indices

    def __getitems__(self, positions: list[int]) -> Batch:
        """Return the batch of some positions; "problems" lists the images that cannot be read.

        In place of such an image stands the next one of the data set that can.
        """
        problems: list[str] = []
        samples, indices = self._cropped(self.indices_at(positions), positions, problems)
        if self.augmentation is not None:
            samples = self.augmentation.flip(samples, positions)
        batch: Batch = {"samples": samples, "problems": problems}
        if self.labels is not None:
            batch["labels"] = self.labels[indices]
        return batch

    def plain(self, indices: Sequence[int]) -> torch.Tensor:
        """Return samples by their own numbers, cropped as in training but not mirrored, shape (B, ...)."""
        return self._cropped(indices, indices, [])[0]

    def _cropped(
        self, indices: Sequence[int], positions: Sequence[int], problems: list[str]
    ) -> tuple[torch.Tensor, Sequence[int]]:
        """Return samples in the network's units, cropped by the streams of `positions`, and their numbers."""
        if isinstance(self.samples, torch.Tensor):
            samples = self.samples[torch.from_numpy(np.asarray(indices))]
        else:
            images = self.samples
            pairs = [self._readable(images, i, p, problems) for i, p in zip(indices, positions, strict=True)]
            indices = [index for index, _ in pairs]
            samples = in_network_units([image for _, image in pairs])
        return (to_network_units(samples) if samples.dtype == torch.uint8 else samples), indices

    def _readable(
        self, images: Sequence[Any] | Decoder, index: int, position: int, problems: list[str]
    ) -> tuple[int, torch.Tensor]:
        """Return the image at an index, or after it, and where it was found."""
        assert self.augmentation is not None  # arrays are images
        crop = self.augmentation.crop

        def cropped(candidate: int) -> torch.Tensor:
            return crop(images[candidate], position)

        for candidate in (*range(index, self.num_samples), *range(index)):
            image = _read(functools.partial(cropped, candidate), problems)
            if image is not None:
                return candidate, image
        raise DataError(f"none of the {self.num_samples} images can be read; the first: {problems[0]}")


def _stands_in(shard: Any, place: int) -> dict[str, Any]:
    """Return where a stream stands that has come so far in a shard."""
    return {"shard": place, "source": shard.state_dict()}


class ImageStream(Dataset):
    """Images of a data set that is read as a stream, shuffled in blocks.

    An epoch goes over the shards of the data set in a random order and over their rows in blocks of
    `buffer_size`, each in a random order. Only one block of undecoded rows is held in memory.

    Args:
        decoder: of the rows, a datasets.IterableDataset.
        augmentation: of the images.
        seed: of the order.
        buffer_size: rows of a block.
        to_label: label column and a function from its value to a class, or None.
    """

    def __init__(
        self,
        decoder: Decoder,
        augmentation: Augmentation,
        seed: int,
        buffer_size: int,
        to_label: tuple[str, Callable[[Any], int]] | None = None,
    ):
        self.decoder, self.augmentation, self.seed = decoder, augmentation, seed
        self.buffer_size, self.to_label = buffer_size, to_label

    def items(
        self, batch_size: int, rank: int, world_size: int, start: int, state: dict[str, Any] | None
    ) -> Iterator[list[Any]]:
        """Yield the items of each batch of one process: (position, row, state of the block that it is from).

        Args:
            batch_size: of one process.
            rank: of this process.
            world_size: number of processes.
            start: first position.
            state: of the last batch before it; None reads the stream from its beginning.
        """
        first = state or {"epoch": 0, "shard": 0, "source": None, "position": 0}
        rows = self._rows(first)
        for positions in positions_of(batch_size, rank, world_size, start):
            own = (row for row in rows if row[0] >= positions[0])
            yield list(itertools.islice(own, batch_size))

    def _rows(self, state: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any], dict[str, Any]]]:
        for began, block in self._blocks(state):
            generator = torch.Generator().manual_seed(stream_seed(self.seed, "order", 1, began["position"]))
            order = torch.randperm(len(block), generator=generator).tolist()
            for offset, index in enumerate(order):
                yield began["position"] + offset, block[index], began

    def _blocks(self, state: dict[str, Any]) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        position = state["position"]
        for epoch in itertools.count(state["epoch"]):
            block, began = [], position
            for row, after in self._epoch(epoch, state["shard"], state["source"]):
                block.append(row)
                if len(block) == self.buffer_size:
                    yield state, block
                    position, block = position + len(block), []
                    state = {"epoch": epoch, **after(), "position": position}
            if block:
                yield state, block
                position += len(block)
            if position == began and state["source"] is None:
                raise DataError("the stream has no rows.")
            state = {"epoch": epoch + 1, "shard": 0, "source": None, "position": position}

    def _epoch(
        self, epoch: int, first_shard: int, source: dict[str, Any] | None
    ) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
        """Yield the rows of an epoch, each with a function that tells where the stream stands after it."""
        rows = self.decoder.rows
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "order", 0, epoch))
        order = torch.randperm(rows.num_shards, generator=generator).tolist()
        for place in range(first_shard, len(order)):
            shard = rows.shard(len(order), order[place])
            if source is not None:
                shard.load_state_dict(source)
                source = None
            for row in read_rows(shard):
                yield row, functools.partial(_stands_in, shard, place)

    def __getitems__(self, items: list[tuple[int, dict[str, Any], dict[str, Any]]]) -> Batch:
        """Return the batch of some items, with the "stream_state" to resume from after it.

        In place of an image that cannot be read stands the next one of the batch that can.
        """
        problems: list[str] = []
        images = [self._decode(row, position, problems) for position, row, _ in items]
        readable = {place: image for place, image in enumerate(images) if image is not None}
        if not readable:
            raise DataError(f"none of the {len(items)} images of a batch can be read: {problems[0]}")
        first = min(readable)
        places = [next((r for r in readable if r >= place), first) for place in range(len(items))]
        samples = in_network_units([readable[place] for place in places])
        positions = [position for position, _, _ in items]
        batch: Batch = {
            "samples": self.augmentation.flip(samples, positions),
            "problems": problems,
            "stream_state": items[0][2],
        }
        if self.to_label is not None:
            column, to_label = self.to_label
            batch["labels"] = torch.tensor([to_label(items[place][1][column]) for place in places])
        return batch

    def _decode(self, row: dict[str, Any], position: int, problems: list[str]) -> torch.Tensor | None:
        return _read(lambda: self.augmentation.crop(self.decoder.decode(row), position), problems)
