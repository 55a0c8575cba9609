"""Images: decoded to one size and number of channels, cropped and mirrored by position, in network units."""

import base64
import binascii
import errno
import functools
import hashlib
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from ..runtime.errors import warn
from ..runtime.processes import rank
from ..runtime.seeds import stream_seed
from .archives import read_file
from .arrays import NUMPY_FILE, array_of, channels_of, picture_of_array
from .pixels import deep_pixels, open_picture, with_channels
from .sizes import Resolution, as_setting, sides
from .values import BYTE, DataError, Range, Values, to_network_units

IMAGE_MODES = {1: "L", 3: "RGB", 4: "RGBA"}

# A longer image than this is a mistake, and scaled to cover the size of training it would fill the memory.
MAX_SIDE_RATIO = 100

_LONGEST_PATH = 4096

FAULTS_OF_THE_MACHINE = (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT)


def decode_image(
    value: Any, channels: int, resolution: Resolution, label: str, values: Values | None = None
) -> np.ndarray:
    """Return an image as an array (H, W, channels) that just covers `resolution`, in its own shape.

    Pictures and arrays of 8 bits are uint8. All others are float32 in the network's units, scaled and resized
    in floats; whole numbers are whole in their own range afterwards, too.

    Args:
        value: an encoded picture or array file: its bytes, {"bytes", "path"}, base64 text or a path; a PIL
            image; or an array (H, W), (H, W, C) or (C, H, W) of numbers.
        channels: 1, 3 or 4 for images; the number an array has.
        resolution: height and width to cover; a square's is the length of the shorter side. Bilinear, as
            diffusers' script does.
        label: what to call the image in an error.
        values: the range of the numbers; it takes note of them.

    Raises:
        DataError: the image cannot be read, the array has another number of channels, or its numbers are
            outside their range.
    """
    values = values or Values()
    target = sides(resolution)
    pixels, known, opaque = _pixels_of(value, channels, label, values)
    _check_shape(pixels, target, label)
    if isinstance(pixels, Image.Image):
        resized = np.asarray(_resize(pixels, target))
        resized = resized[..., None] if resized.ndim == 2 else resized
        values.see(resized, BYTE)
        return resized
    colours = pixels if opaque is None else pixels[..., :-1]
    limits = values.range_of(colours, known, label)
    values.see(colours, limits)
    if pixels.dtype == np.uint8 and limits == BYTE:
        planes = [_resize(Image.fromarray(plane), target) for plane in _planes(pixels)]
        return np.stack([np.asarray(plane) for plane in planes], axis=-1)
    units = _in_units(colours, target, limits)
    if opaque is None:
        return units
    return np.concatenate([units, _in_units(pixels[..., -1:], target, (0, opaque))], axis=2)


def _planes(pixels: np.ndarray) -> list[np.ndarray]:
    return [np.ascontiguousarray(pixels[..., plane]) for plane in range(pixels.shape[2])]


def _check_shape(pixels: Image.Image | np.ndarray, target: tuple[int, int], label: str) -> None:
    """Raise DataError for an image that covers the target many times over once it covers it."""
    size = (pixels.height, pixels.width) if isinstance(pixels, Image.Image) else pixels.shape[:2]
    height, width = size[0] / target[0], size[1] / target[1]
    if max(height, width) > MAX_SIDE_RATIO * min(height, width):
        beside = "" if target[0] == target[1] else f", relative to --resolution {as_setting(*target)}"
        raise DataError(
            f"{label} is {size[1]} x {size[0]} pixels, but one side may be at most {MAX_SIDE_RATIO} times "
            f"the other{beside}."
        )


def _covering(height: int, width: int, target: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of an image scaled until both are at least those of the target."""
    scale = max(target[0] / height, target[1] / width)
    return max(target[0], round(height * scale)), max(target[1], round(width * scale))


def _resize(image: Image.Image, target: tuple[int, int]) -> Image.Image:
    height, width = _covering(image.height, image.width, target)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _in_units(pixels: np.ndarray, target: tuple[int, int], limits: Range) -> np.ndarray:
    """Return numbers as float32 in the network's units, resized if they must be."""
    scaled = pixels.astype(np.float64)
    if _covering(pixels.shape[0], pixels.shape[1], target) != pixels.shape[:2]:
        planes = [_resize(Image.fromarray(plane), target) for plane in _planes(pixels.astype(np.float32))]
        scaled = np.stack([np.asarray(plane) for plane in planes], axis=-1).astype(np.float64)
        scaled = (np.rint(scaled) if pixels.dtype.kind in "bui" else scaled).clip(*limits)
    return to_network_units(torch.from_numpy(scaled), *limits).numpy()


def _pixels_of(
    value: Any, channels: int, label: str, values: Values
) -> tuple[Any, Range | None, float | None]:
    """Return a PIL image of 8 bits or an array (H, W, channels), its range if its file says one, a number.

    The number is what an opaque alpha has, where the last channel is one with another range than the colours;
    else None. A PIL image has the range of 8 bits, so with another one that is given it is an array.
    """
    if isinstance(value, (list, np.ndarray)):
        return picture_of_array(value, channels, label), None, None
    try:
        if isinstance(value, Image.Image):
            pixels, known = deep_pixels(value), None
        else:
            encoded = _encoded(value, label)
            if encoded.startswith(NUMPY_FILE):
                array = np.load(io.BytesIO(encoded), allow_pickle=False)
                return picture_of_array(array, channels, label), None, None
            pixels, known = open_picture(encoded)
        if channels not in IMAGE_MODES:
            raise DataError(f"{label} is a picture, but --channels is {channels}: pictures have 1, 3 or 4.")
        if isinstance(pixels, Image.Image):
            if values.given is None:
                return _in_mode(pixels, IMAGE_MODES[channels]), None, None
            pixels = _as_array(pixels, IMAGE_MODES[channels])
        whole = {1: BYTE[1], 2: 65535}.get(pixels.dtype.itemsize, 1)
        white = (values.given or known or (0, whole))[1]
        opaque = white if values.given is None or pixels.dtype.kind != "u" else whole
        if channels != 4 and pixels.shape[2] in (2, 4) and pixels[..., -1].min() < opaque:
            say_drawn_on_white()
        own_range = opaque if channels == 4 and values.given is not None else None
        return with_channels(pixels, channels, white, opaque), known, own_range
    except DataError:
        raise
    except UnidentifiedImageError as error:  # its message is the address of a buffer
        raise DataError(f"{label} cannot be read as an image: no known format.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno in FAULTS_OF_THE_MACHINE:
            raise  # passing over the image would change the data
        raise DataError(f"{label} cannot be read as an image: {' '.join(str(error).split())}.") from error


def own_channels(value: Any) -> int | None:
    """Return how many channels an array of a row has; None for a picture, which can have any.

    Raises:
        DataError: an array whose shape does not say it.
    """
    if isinstance(value, (list, np.ndarray)):
        return channels_of(array_of(value, None, "image 0").shape, "image 0")
    try:
        encoded = _encoded(value, "image 0")
        if not encoded.startswith(NUMPY_FILE):
            return None
        shape = np.load(io.BytesIO(encoded), allow_pickle=False).shape
    except (OSError, ValueError):
        return None  # what is wrong with it is said when it is decoded
    return channels_of(shape, "image 0")


def _as_array(image: Image.Image, mode: str) -> np.ndarray:
    """Return 8 bits as an array (H, W, C), with its transparency if it has one, or in a mode."""
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode in ("LA", "La") else "RGBA")
    else:
        image = image.convert(mode)
    return np.asarray(image).reshape(image.height, image.width, -1)


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
    if rank() == 0:
        warn("pictures are transparent in parts: they are drawn on white; --channels 4 keeps transparency")


def _encoded(value: Any, label: str) -> bytes:
    """Return the bytes of a picture file: given as they are, as base64 text, or by its path."""
    if isinstance(value, dict) and {"bytes", "path"} & value.keys():
        if value.get("bytes") is not None:
            return value["bytes"]
        value = value.get("path")
    elif isinstance(value, str):
        text = value
        data_url = re.match(r"data:[^,]*;base64,", text)
        if data_url is not None or (len(text) >= 32 and not os.path.exists(text)):
            try:
                decoded = base64.b64decode(
                    "".join(text[data_url.end() if data_url else 0 :].split()), validate=True
                )
                if data_url is not None or len(text) > _LONGEST_PATH or _has_known_format(decoded):
                    return decoded  # else it is a path, which can have the letters of base64 only, too
            except binascii.Error as error:
                if data_url is not None:
                    raise ValueError(f"its base64 text is damaged: {error}") from error
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if not isinstance(value, str):
        raise DataError(f"{label} is {value!r:.60}, but must be an image or an array; see --image_column.")
    if not value:
        raise DataError(f"{label} is an empty text, but must be an image or an array; see --image_column.")
    return read_file(value)


def _has_known_format(content: bytes) -> bool:
    """Return whether bytes begin as a picture or an array does."""
    if content.startswith(NUMPY_FILE):
        return True
    try:
        Image.open(io.BytesIO(content)).close()
    except UnidentifiedImageError:
        return False
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return True  # what is wrong with it is said when it is decoded
    return True


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
        values: the range of the numbers.
        dtype: of arrays that come as lists, which do not say it.
    """

    def __init__(
        self,
        rows: Any,
        column: str,
        channels: int,
        resolution: Resolution,
        values: Values | None = None,
        dtype: str | None = None,
    ):
        self.rows, self.column, self.channels, self.resolution = rows, column, channels, sides(resolution)
        self.values, self.dtype = values or Values(), dtype

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
        encoded = value.get("bytes") if isinstance(value, dict) else value
        if index is None and path is None and isinstance(encoded, bytes):
            name = f"with SHA-256 {hashlib.sha256(encoded).hexdigest()[:16]}"
        else:
            name = " ".join(filter(None, ("" if index is None else str(index), path and f"({path})")))
        label = f"image {name or 'of the stream'}"
        if isinstance(value, list):
            value = array_of(value, self.dtype, label)
        return decode_image(value, self.channels, self.resolution, label, self.values)


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
        """Return a part of `resolution` of an array (H, W, C), as (C, height, width)."""
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
