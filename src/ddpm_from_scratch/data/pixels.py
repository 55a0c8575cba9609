"""The pixels of a picture file in the precision that the file has them in.

Pillow keeps eight bits of a colour. The other eight of 16-bit colour are had by reading the file again with
the bytes of each number taken in the other order.
"""

import io
import math
import re
import sys
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from .values import BYTE, Range

# Weights of red, green and blue in grey: ITU-R 601-2, as Pillow has them.
_GREY = np.array([299, 587, 114]) / 1000

_OTHER_ORDER = {";16B": ";16L", ";16L": ";16B", ";16N": ";16B" if sys.byteorder == "little" else ";16L"}
# The header of PGM and PPM: kind, width, height, largest value, with comments between.
_NETPBM = re.compile(rb"(P[2356])" + 3 * rb"(?:\s|#[^\n]*\n)+(\d+)" + rb"\s")


def open_picture(encoded: bytes) -> tuple[Image.Image | np.ndarray, Range | None]:
    """Return a picture file as a PIL image of 8 bits, or as an array (H, W, C) if it has more, and its range.

    The range is None where the kind of the array says it, or nothing does. Photos lie upright, whichever way
    the camera was held.

    Raises:
        OSError, SyntaxError, ValueError: a file that cannot be read.
    """
    image = Image.open(io.BytesIO(encoded))
    header = _NETPBM.match(encoded)
    if header is not None and int(header[4]) > BYTE[1]:
        return _netpbm(header, encoded[header.end() :]), (0, int(header[4]))
    raw = _raw_mode(image)
    if raw == "LA;16B" and image.mode == "RGBA":
        grey = _read_as(encoded, "RGBA")  # grey high, grey low, alpha high, alpha low
        return grey[..., ::2] * np.uint16(256) + grey[..., 1::2], None
    if raw[-4:] in _OTHER_ORDER and image.mode in ("RGB", "RGBA"):
        low = _read_as(encoded, raw[:-4] + _OTHER_ORDER[raw[-4:]])
        return np.asarray(ImageOps.exif_transpose(image)) * np.uint16(256) + low, None
    return deep_pixels(ImageOps.exif_transpose(image)), None


def deep_pixels(image: Image.Image) -> Image.Image | np.ndarray:
    """Return an image of 8 bits as it is, one of more as an array (H, W, 1) of uint16, int32 or float32."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[..., None]
    if image.mode in ("I", "F"):
        return np.asarray(image)[..., None]
    return image


def with_channels(pixels: np.ndarray, channels: int, white: float, opaque: float) -> np.ndarray:
    """Return an array (H, W, C) with another number of channels, as Pillow converts pictures.

    Where alpha is lost, the picture is drawn on white.

    Args:
        pixels: grey, grey and alpha, RGB or RGBA.
        channels: 1, 3 or 4.
        white: the largest number of the colours' range.
        opaque: what an opaque alpha has.
    """
    count = pixels.shape[2]
    colours = pixels[..., : 1 if count < 3 else 3]
    if channels != 4 and count in (2, 4):
        alpha = pixels[..., -1:] / opaque
        white = white if pixels.dtype.kind == "f" else math.floor(white)
        kind = pixels.dtype if white <= opaque else np.dtype(np.int64)
        colours = _as_kind(colours * alpha + white * (1 - alpha), kind)
    if channels == 1 and count > 2:
        colours = _as_kind((colours @ _GREY)[..., None], colours.dtype)
    elif channels > 1 and count < 3:
        colours = np.repeat(colours, 3, axis=2)
    if channels != 4:
        return colours
    alpha = pixels[..., count - 1 :] if count in (2, 4) else np.full_like(pixels[..., :1], opaque)
    return np.concatenate([colours, alpha], axis=2)


def _as_kind(numbers: np.ndarray, kind: np.dtype) -> np.ndarray:
    return (np.rint(numbers) if kind.kind in "iu" else numbers).astype(kind)


def _raw_mode(image: Any) -> str:
    """Return how the bytes of a picture file lie, as Pillow calls it."""
    arguments = image.tile[0][3] if image.tile else ""
    raw = arguments[0] if isinstance(arguments, tuple) else arguments
    return raw if isinstance(raw, str) else ""


def _read_as(encoded: bytes, raw: str) -> np.ndarray:
    """Return the bytes of a picture file that is read as if they lay in another way."""
    image: Any = Image.open(io.BytesIO(encoded))
    as_tile: Any = getattr(type(image.tile[0]), "_make", tuple)  # a named tuple since Pillow 11
    image.tile = [
        as_tile((*tile[:3], (raw, *tile[3][1:]) if isinstance(tile[3], tuple) else raw))
        for tile in image.tile
    ]
    return np.asarray(ImageOps.exif_transpose(image))


def _netpbm(header: re.Match[bytes], data: bytes) -> np.ndarray:
    """Return a PGM or PPM file of more than 8 bits as an array (H, W, C), not scaled to its largest value."""
    width, height = int(header[2]), int(header[3])
    shape = (height, width, 3 if header[1] in (b"P3", b"P6") else 1)
    if header[1] in (b"P2", b"P3"):
        numbers = np.array(re.sub(rb"#[^\n]*", b"", data).split()[: math.prod(shape)], dtype=np.uint16)
    else:
        numbers = np.frombuffer(data[: 2 * math.prod(shape)], dtype=">u2").astype(np.uint16)
    if numbers.size < math.prod(shape):
        raise ValueError("it is cut off")
    return numbers.reshape(shape)
