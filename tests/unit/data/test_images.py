"""How one image is decoded, and what is said of one that cannot be."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_from_scratch.data import images
from ddpm_from_scratch.data.images import Augmentation, DataError, decode_image


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


def encoded(image):
    written = io.BytesIO()
    image.save(written, "png")
    return {"bytes": written.getvalue(), "path": None}


@pytest.mark.parametrize(
    ("size", "target", "covers"),
    [
        ((100, 100), (20, 12), (20, 20)),
        ((40, 100), (20, 12), (30, 12)),  # width, height of PIL; height x width of a target
        ((200, 100), (20, 12), (20, 40)),
        ((6, 10), (20, 12), (20, 12)),
        ((12, 20), (20, 12), (20, 12)),
        ((64, 48), 24, (24, 32)),
    ],
)
def test_an_image_is_scaled_in_its_shape_until_it_covers_the_size(size, target, covers):
    image = Image.new("RGB", size, (255, 0, 0))
    for value in (encoded(image), image, np.asarray(image)):
        decoded = decode_image(value, 3, target, "image 0")
        assert decoded.shape == (*covers, 3) and (decoded == (255, 0, 0)).all()


def test_a_length_is_judged_beside_the_size_that_is_asked_for():
    """What fills the memory is what covers the size many times over."""
    wide, turned = encoded(Image.new("L", (404, 4))), encoded(Image.new("L", (4, 404)))
    with pytest.raises(DataError, match="404 x 4 pixels, but one side may be at most 100 times the other.$"):
        decode_image(wide, 1, 4, "image 0")
    with pytest.raises(DataError, match="4 x 404 .* times the other, relative to --resolution 2x8"):
        decode_image(turned, 1, (2, 8), "image 0")
    assert decode_image(wide, 1, (2, 8), "image 0").shape == (2, 202, 1)


def test_a_photo_is_turned_before_its_sides_are_compared():
    photo, written = Image.new("RGB", (300, 2)), io.BytesIO()
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(written, "png", exif=exif)
    assert decode_image({"bytes": written.getvalue(), "path": None}, 3, (60, 4), "image 0").shape == (
        600,
        4,
        3,
    )


def test_crops_have_the_size_and_are_from_everywhere():
    image = np.arange(30 * 20, dtype=np.int64).reshape(30, 20, 1)
    centre = Augmentation(seed=0, resolution=(20, 12)).crop(image, 0)
    assert torch.equal(centre[0], torch.from_numpy(image[5:25, 4:16, 0]))
    crops = [Augmentation(0, (20, 12), center_crop=False).crop(image, place) for place in range(300)]
    corners = {divmod(int(crop[0, 0, 0]), 20) for crop in crops}
    assert all(crop.shape == (1, 20, 12) for crop in crops)
    assert {top for top, _ in corners} == set(range(11)) and {left for _, left in corners} == set(range(9))


def transparent(mode):
    """The left half is red, or dark grey, and whole; the right half is not there, and black beneath."""
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((200, 0, 0, 255), (0, 0, 4, 8))
    if mode == "P":
        palette = image.convert("RGB").quantize(2)
        palette.info["transparency"] = palette.getpixel((7, 0))
        return palette
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_pictures_are_drawn_on_white_and_that_is_said_once(mode, channels, capsys):
    images.say_drawn_on_white.cache_clear()
    encoded = io.BytesIO()
    transparent(mode).save(encoded, "png")
    for value in (transparent(mode), {"bytes": encoded.getvalue(), "path": None}):
        array = decode_image(value, channels, 8, "image 0")
        assert (array[:, 4:] == 255).all() and array[0, 0, 0] < 220
    assert capsys.readouterr().err.count("drawn on white") == 1


def test_transparency_that_is_kept_or_not_there_changes_nothing(capsys):
    images.say_drawn_on_white.cache_clear()
    kept = decode_image(transparent("RGBA"), 4, 8, "image 0")
    assert (kept[:, 4:] == 0).all() and (kept[:, :4] == (200, 0, 0, 255)).all()
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    whole = Image.fromarray(noise).convert("RGBA")
    assert (decode_image(whole, 3, 8, "image 0") == noise).all() and capsys.readouterr().err == ""
