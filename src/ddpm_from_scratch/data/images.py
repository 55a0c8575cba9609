"""Images: decoded to one size and number of channels, cropped and mirrored by position, in network units."""

import errno
import functools
import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from ..runtime.errors import ConfigError, warn
from ..runtime.seeds import stream_seed
from .archives import read_file
from .sizes import Resolution, as_setting, sides

IMAGE_MODES = {1: "L", 3: "RGB", 4: "RGBA"}

# A longer image than this is a mistake, and scaled to cover the size of training it would fill the memory.
MAX_SIDE_RATIO = 100


FAULTS_OF_THE_MACHINE = (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT)


class DataError(ConfigError):
    """Data that cannot be read; the message is one line that names the file, column or sample."""


def to_network_units(images: torch.Tensor) -> torch.Tensor:
    """Return uint8 images as float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def decode_image(value: Any, channels: int, resolution: Resolution, label: str) -> np.ndarray:
    """Return an image as a uint8 array (H, W, channels) that just covers `resolution`, in its own shape.

    Args:
        value: {"bytes", "path"} of an undecoded image column, a PIL image, or an array (H, W) or (H, W, C) of
            uint8.
        channels: 1, 3 or 4 for images; the number an array has.
        resolution: height and width to cover; a square's is the length of the shorter side. Bilinear, as
            diffusers' script does.
        label: what to call the image in an error.

    Raises:
        DataError: the image cannot be read, or the array has another number of channels.
    """
    target = sides(resolution)
    if not isinstance(value, (list, np.ndarray, dict, Image.Image)):
        raise DataError(f"{label} is {value!r:.60}, but must be an image or an array; see --image_column.")
    if isinstance(value, (list, np.ndarray)):
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise DataError(f"{label} is a list of lists of different lengths, not an array.") from error
        array = array[..., None] if array.ndim == 2 else array
        if (
            array.ndim != 3
            or array.shape[2] != channels
            or array.dtype.kind not in "iu"
            or array.min(initial=0) < 0
            or array.max(initial=0) > 255
        ):
            raise DataError(
                f"{label} is an array of shape {array.shape} and dtype {array.dtype}, but must be (H, W, "
                f"{channels}) "
                "with integers in 0..255; --channels gives their number."
            )
        planes = [
            _resize(Image.fromarray(np.ascontiguousarray(array[..., plane], dtype=np.uint8)), target)
            for plane in range(channels)
        ]
        return np.stack([np.asarray(plane) for plane in planes], axis=-1)
    try:
        if isinstance(value, dict):
            encoded = value["bytes"]
            if encoded is None:
                encoded = read_file(value["path"])
            value = Image.open(io.BytesIO(encoded))
            # As datasets does: photos lie upright, whichever way the camera was held.
            value = ImageOps.exif_transpose(value)
            _check_shape(value, target)
        resized = np.asarray(_resize(_in_mode(_in_bytes(value), IMAGE_MODES[channels]), target))
    except UnidentifiedImageError as error:  # its message is the address of a buffer
        raise DataError(f"{label} cannot be read as an image: no known format.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno in FAULTS_OF_THE_MACHINE:
            raise  # passing over the image would change the data
        raise DataError(f"{label} cannot be read as an image: {' '.join(str(error).split())}.") from error
    return resized[..., None] if resized.ndim == 2 else resized


def _in_bytes(image: Image.Image) -> Image.Image:
    """Return an image with 8 bits a channel; PIL itself would cut off what is above 255.

    Raises:
        ValueError: pixels of a kind whose range nothing tells.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.float32) / 257).round().astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(
            f"its pixels are of kind {image.mode!r}, whose range is not known: save it with 8 or 16 bits"
        )
    return image


def _check_shape(image: Image.Image, target: tuple[int, int]) -> None:
    """Raise ValueError for an image that covers the target many times over once it covers it."""
    height, width = image.height / target[0], image.width / target[1]
    if max(height, width) > MAX_SIDE_RATIO * min(height, width):
        beside = "" if target[0] == target[1] else f", relative to --resolution {as_setting(*target)}"
        raise ValueError(
            f"it is {image.width} x {image.height} pixels, but one side may be at most "
            f"{MAX_SIDE_RATIO} times the other{beside}"
        )


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Return an image in a mode of PIL; where it loses its transparency, it is drawn on white.

    PIL itself would show what lies under the transparent parts, which is black in most files.
    """
    if mode != "RGBA" and image.has_transparency_data:
        whole = image.convert("RGBA")
        if whole.getchannel("A").getextrema() != (255, 255):
            say_drawn_on_white()
            image = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole)
    return image.convert(mode)


@functools.cache
def say_drawn_on_white() -> None:
    """Say once that pictures are transparent, and what becomes of that."""
    if int(os.environ.get("RANK", 0)) == 0:
        warn("pictures are transparent in parts: they are drawn on white; --channels 4 keeps transparency")


def _resize(image: Image.Image, target: tuple[int, int]) -> Image.Image:
    """Return an image scaled until both sides are at least those of the target, height and width."""
    scale = max(target[0] / image.height, target[1] / image.width)
    height, width = max(target[0], round(image.height * scale)), max(target[1], round(image.width * scale))
    return image.resize((width, height), Image.Resampling.BILINEAR)


class BadImages:
    """The images that cannot be read: listed, and refused beyond a limit.

    Args:
        limit: how many may be passed over.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.problems: list[str] = []

    def add(self, problems: Sequence[str]) -> None:
        """Take in what could not be read; what is known already does not count again.

        Raises:
            DataError: more than the limit.
        """
        self.problems += [problem for problem in problems if problem not in self.problems]
        if len(self.problems) <= self.limit:
            return
        if not self.limit:
            raise DataError(f"{self.problems[0]} Mend or remove it, or pass over it with --skip_bad_images.")
        raise DataError(
            f"{len(self.problems)} images cannot be read, more than --skip_bad_images {self.limit}: "
            f"{' '.join(self.problems)}"
        )


class Decoder:
    """The images of a data set, decoded on access; errors name the file or the row.

    Args:
        rows: of a data set, images not decoded, or arrays.
        column: that holds the images.
        channels: of the result.
        resolution: height and width that the result covers.
    """

    def __init__(self, rows: Any, column: str, channels: int, resolution: Resolution):
        self.rows, self.column, self.channels, self.resolution = rows, column, channels, sides(resolution)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.rows)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return one image."""
        return self.decode(self.rows[index], index)

    def decode(self, row: dict[str, Any], index: int | None = None) -> np.ndarray:
        """Return the image of a row; an error names its index, its file, or its SHA-256 if it has neither."""
        value = row[self.column]
        path = value.get("path") if isinstance(value, dict) else None
        if index is None and path is None and isinstance(value, dict):
            name = f"with SHA-256 {hashlib.sha256(value['bytes'] or b'').hexdigest()[:16]}"
        else:
            name = " ".join(filter(None, ("" if index is None else str(index), path and f"({path})")))
        return decode_image(value, self.channels, self.resolution, f"image {name or 'of the stream'}")


@dataclass(frozen=True)
class Augmentation:
    """Cropping and mirroring of images, decided by a random stream of the position in the sequence.

    Args:
        seed: of the run.
        resolution: height and width to crop to.
        center_crop: crop the centre, not a random part.
        random_flip: mirror at random.
    """

    seed: int
    resolution: Resolution
    center_crop: bool = True
    random_flip: bool = False

    def _uniform(self, position: int, which: int) -> float:
        """Return the random number `which` of a position, uniform in [0, 1)."""
        return stream_seed(self.seed, "augmentation", position, which) / 2**63

    def crop(self, image: np.ndarray, position: int) -> torch.Tensor:
        """Return a part of `resolution` of a uint8 array (H, W, C), as (C, height, width)."""
        height, width = sides(self.resolution)
        slack = (image.shape[0] - height, image.shape[1] - width)
        if self.center_crop:
            top, left = slack[0] // 2, slack[1] // 2
        else:
            top, left = (int(self._uniform(position, 1 + axis) * (slack[axis] + 1)) for axis in (0, 1))
        return torch.from_numpy(image[top : top + height, left : left + width].copy()).permute(2, 0, 1)

    def flip(self, samples: torch.Tensor, positions: list[int]) -> torch.Tensor:
        """Return the images (B, C, H, W), each mirrored left-right with probability 1/2 if asked for."""
        if not self.random_flip:
            return samples
        flips = torch.tensor([self._uniform(position, 0) < 0.5 for position in positions])
        return torch.where(flips[:, None, None, None], samples.flip(-1), samples)
