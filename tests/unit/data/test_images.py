"""How one image is decoded, and what is said of one that cannot be."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_from_scratch.data import images
from ddpm_from_scratch.data.images import Augmentation, DataError, decode_image
from ddpm_from_scratch.data.values import Values


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
def test_sixteen_bits_of_grey_are_kept(mode):
    levels = np.linspace(0, 65535, 64 * 64).astype(int).reshape(64, 64)
    image = Image.fromarray(levels.astype("<u2" if mode == "I;16" else ">u2"))
    assert image.mode == mode
    values = Values()
    decoded = decode_image(image, channels=3, resolution=64, label="image 0", values=values)
    assert decoded.dtype == np.float32 and values.levels == 65536
    assert np.array_equal(((decoded.astype(float) + 1) * 32767.5).round(), np.repeat(levels[..., None], 3, 2))


def test_pixels_of_unknown_range_are_refused():
    with pytest.raises(DataError, match="image 0 .* float32 from 0 to 0.*--value_range LOW HIGH"):
        decode_image(Image.new("F", (8, 8)), channels=1, resolution=8, label="image 0")
    with pytest.raises(DataError, match="image 0 .* int32 from 5 to 5.*--value_range LOW HIGH"):
        decode_image(Image.new("I", (8, 8), 5), channels=1, resolution=8, label="image 0")


def file_of(image):
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
    for value in (file_of(image), image, np.asarray(image)):
        decoded = decode_image(value, 3, target, "image 0")
        assert decoded.shape == (*covers, 3) and (decoded == (255, 0, 0)).all()


def test_a_length_is_judged_beside_the_size_that_is_asked_for():
    """What fills the memory is what covers the size many times over."""
    wide, turned = file_of(Image.new("L", (404, 4))), file_of(Image.new("L", (4, 404)))
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


def ramp(kind=np.uint8, channels=3):
    """Return an array (6, 8, channels)."""
    return np.arange(6 * 8 * channels).reshape(6, 8, channels).astype(kind)


def decode(value, channels=3, resolution=6, given=None):
    return decode_image(value, channels, resolution, "image 0", Values(given))


def encoded(array, form="png"):
    file = io.BytesIO()
    Image.fromarray(array).save(file, form)
    return file.getvalue()


def numpy_file(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    "given",
    [
        ramp(),
        ramp().transpose(2, 0, 1),
        ramp(np.int64),
        ramp().tolist(),
        np.asfortranarray(ramp()),
        ramp(">i4"),
        numpy_file(ramp()),
        numpy_file(ramp(np.int16).transpose(2, 0, 1)),
        encoded(ramp()),
        bytearray(encoded(ramp(), "bmp")),
        {"bytes": encoded(ramp()), "path": None},
        {"bytes": encoded(ramp())},
        base64.b64encode(encoded(ramp())).decode(),
        base64.encodebytes(encoded(ramp())).decode(),
        "data:image/png;base64," + base64.b64encode(encoded(ramp())).decode(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_picture_in_any_wrapping_is_the_same(given):
    assert np.array_equal(decode(given), ramp())


def test_a_path_as_text(tmp_path):
    for name, content in (
        ("a.png", encoded(ramp())),
        ("a.npy", numpy_file(ramp())),
        ("noend", encoded(ramp())),
    ):
        (tmp_path / name).write_bytes(content)
        assert np.array_equal(decode(str(tmp_path / name)), ramp())
    with pytest.raises(DataError, match="image 0 cannot be read.*No such file"):
        decode(str(tmp_path / "nowhere.png"))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("wrap", [lambda array: array, lambda array: array.tolist(), numpy_file])
def test_floats_are_kept(kind, wrap):
    numbers = (ramp(kind) / 256).astype(kind)
    decoded = decode(wrap(numbers), given=(0, 1))
    assert decoded.dtype == np.float32
    assert np.array_equal(decoded, (numbers.astype(np.float64) * 2 - 1).astype(np.float32))


def test_floats_are_resized_in_floats_and_stay_inside_their_range():
    numbers = np.random.default_rng(0).random((40, 48, 1))
    decoded = decode(numbers, channels=1, resolution=10, given=(0, 1))
    small = Image.fromarray((numbers[..., 0]).astype(np.float32)).resize((12, 10), Image.Resampling.BILINEAR)
    assert decoded.shape == (10, 12, 1) and len(np.unique(decoded)) > 100
    np.testing.assert_allclose(decoded[..., 0], np.asarray(small) * 2 - 1, atol=1e-6)
    ends = decode(np.round(numbers), channels=1, resolution=60, given=(0.0, 1.0))
    assert ends.min() >= -1 and ends.max() <= 1


def test_whole_numbers_are_whole_in_their_own_range_when_resized():
    numbers = np.random.default_rng(0).integers(0, 4096, (40, 48, 1))
    values = Values((0, 4095))
    decoded = decode_image(numbers, 1, 10, "image 0", values)
    levels = (decoded.astype(float) + 1) * 2047.5
    assert values.levels == 4096 and np.abs(levels - levels.round()).max() < 1e-3


def test_sixteen_bits_are_resized_as_eight_are_but_finer():
    deep = np.random.default_rng(0).integers(0, 65536, (40, 40, 1)).astype(np.uint16)
    eight = decode((deep / 257).round().astype(np.uint8), channels=1, resolution=10)
    fine = (decode(deep, channels=1, resolution=10) + 1) * 127.5
    assert np.abs(fine - eight).max() < 1.5


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_eight_bits_stay_what_pillow_makes_of_them(mode, channels):
    picture = Image.effect_noise((20, 14), 90).convert(mode)
    given = picture.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels]).resize(
        (10, 7), Image.Resampling.BILINEAR
    )
    decoded = decode(picture, channels, 7)
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, np.asarray(given).reshape(7, 10, channels))


def test_a_range_spreads_pictures_of_eight_bits():
    mask = encoded(np.array([[0, 1], [1, 0]], np.uint8))
    assert decode(mask, 1, 2, (0, 1))[..., 0].tolist() == [[-1, 1], [1, -1]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([["a"]]), "array of <U1.*one of numbers"),
        (np.zeros((2, 2), "M8[s]"), "datetime64.*one of numbers"),
        (np.zeros((2, 2), complex), "complex128.*one of numbers"),
        (np.zeros((0, 8)), "at least one pixel"),
        (np.zeros((2, 3, 4, 5)), r"shape \(2, 3, 4, 5\), but must be"),
        (np.zeros(9), r"shape \(9,\), but must be"),
        (np.zeros((1, 7, 1)), "first or the last axis"),
        ([[1, 2], [3]], "different lengths"),
        ([[None, 2], [3, 4]], "must be one of numbers"),
        (np.zeros((2, 500), np.uint8), "100 times"),
        (numpy_file(np.array([[{}]], object)), "cannot be read as an image.*allow_pickle"),
        (numpy_file(ramp())[:90], "cannot be read as an image"),
        ("", "an empty text"),
        ("data:image/png;base64,AAA=A", "base64 text is damaged"),
        ({"pixels": 3}, "must be an image or an array"),
        (None, "image 0 is None"),
        ("data:image/png;base64," + base64.b64encode(b"no picture at all").decode(), "no known format"),
        (base64.b64encode(b"no picture at all, only a few words").decode(), "No such file"),
        ("/data/of/pictures/that/are/not/there/001", "No such file"),
        (base64.b64encode(b"no picture at all, only words" * 200).decode(), "no known format"),
        (b"", "no known format"),
    ],
)
def test_what_is_no_picture_is_one_clear_line(value, message):
    with pytest.raises(DataError, match=message) as caught:
        decode(value, channels=1)
    assert "\n" not in str(caught.value)


def see_through(mode):
    """Return a picture of 0 to 16 whose right half is transparent, in 8 bits."""
    pixels = np.zeros((2, 2, len(mode)), np.uint8)
    pixels[:, 0, -1] = 255
    pixels[..., :-1] = np.where(np.arange(2)[:, None, None] == 0, 16, 4)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("high", [16, 16.5, 1000])
def test_transparency_and_a_range(mode, high):
    """White is the top of the range; alpha has the range of its own kind."""
    picture = see_through(mode)
    units = np.array([16, 4]) / high * 2 - 1
    for channels in (1, 3):
        drawn = decode(file_of(picture), channels, 2, (0, high))
        assert np.allclose(drawn[:, 0], units[:, None], atol=1e-6)
        assert np.allclose(drawn[:, 1], np.floor(high) / high * 2 - 1)
    kept = decode(file_of(picture), 4, 2, (0, high))
    assert np.allclose(kept[..., :3], units[:, None, None], atol=1e-6)
    assert kept[..., 3].tolist() == [[1, -1], [1, -1]]


def test_an_opaque_picture_with_a_range_has_the_alpha_of_one():
    kept = decode(encoded(np.full((2, 2, 3), 16, np.uint8)), 4, 2, (0, 16))
    assert (kept == 1).all()
    deep = decode(encoded(np.full((2, 2), 4095, np.uint16)), 4, 2, (0, 4095))
    assert (deep == 1).all()


def test_colours_outside_a_range_are_refused_beside_transparency_too():
    with pytest.raises(DataError, match="from 4 to 16, but must be in 0 to 15"):
        decode(see_through("RGBA"), 4, 2, (0, 15))
