"""How one image is decoded, and what is said of one that cannot be."""

import io

import numpy as np
import pytest
from PIL import Image

from ddpm_from_scratch.data.images import DataError, decode_image


def test_array_with_values_outside_a_byte_is_refused():
    for value in (-1, 256):
        with pytest.raises(DataError, match="0..255"):
            decode_image(np.full((8, 8, 1), value), 1, 8, "image 0")


def test_a_column_that_holds_no_images_is_named():
    with pytest.raises(DataError, match="image 0 is 7.*--image_column"):
        decode_image(7, 3, 8, "image 0")


def test_array_with_other_channels_is_refused():
    with pytest.raises(DataError, match=r"must be \(H, W, 3\)"):
        decode_image(np.zeros((8, 8, 2), dtype=np.uint8), 3, 8, "image 0")


def test_photos_lie_upright():
    """As datasets.Image does: a camera's orientation tag is obeyed."""
    photo, encoded = Image.new("RGB", (32, 16)), io.BytesIO()
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(encoded, "jpeg", exif=exif)
    array = decode_image({"bytes": encoded.getvalue(), "path": None}, 3, 8, "image 0")
    assert array.shape == (16, 8, 3)


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_sixteen_bits_of_grey_are_scaled_to_eight(mode):
    levels = np.linspace(0, 65535, 64 * 64).astype(int).reshape(64, 64)
    image = Image.fromarray(levels.astype("<u2" if mode == "I;16" else ">u2"))
    assert image.mode == mode
    decoded = decode_image(image, channels=3, resolution=64, label="image 0")
    assert np.abs(decoded / 255 - levels[..., None] / 65535).max() <= 0.5 / 255 + 1e-6


def test_pixels_of_unknown_range_are_refused():
    with pytest.raises(DataError, match="image 0 .* kind 'F'.* 8 or 16 bits"):
        decode_image(Image.new("F", (8, 8)), channels=1, resolution=8, label="image 0")
