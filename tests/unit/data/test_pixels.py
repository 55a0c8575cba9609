"""Picture files of more than eight bits keep all of them."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ddpm_from_scratch.data.pixels import open_picture, with_channels


def png(pixels, interlaced=False):
    """Return a 16-bit PNG of an array (H, W, C), each line filtered by the difference to the left."""
    height, width, channels = pixels.shape
    step, lines = 2 * channels, b""
    for line in pixels.astype(">u2"):
        row = line.tobytes()
        lines += b"\1" + bytes(
            (byte - (row[i - step] if i >= step else 0)) % 256 for i, byte in enumerate(row)
        )
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def tiff(pixels, order="<", compressed=False, orientation=1):
    """Return a 16-bit RGB TIFF."""
    height, width, channels = pixels.shape
    data = pixels.astype(order + "u2").tobytes()
    data = zlib.compress(data) if compressed else data
    count, start = 10, 8 + len(data)
    depths = start + 2 + 12 * count + 4
    tags = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, depths),
        (259, 3, 1, 8 if compressed else 1),
        (262, 3, 1, 2), (273, 4, 1, 8), (274, 3, 1, orientation), (277, 3, 1, channels), (278, 3, 1, height),
        (279, 4, 1, len(data)),
    ]  # fmt: skip
    mark = b"II*\0" if order == "<" else b"MM\0*"
    result = mark + struct.pack(order + "I", start) + data + struct.pack(order + "H", count)
    for tag, kind, number, value in tags:
        inline = (
            struct.pack(order + "HH", value, 0)
            if (kind, number) == (3, 1)
            else struct.pack(order + "I", value)
        )
        result += struct.pack(order + "HHI", tag, kind, number) + inline
    return result + struct.pack(order + "I", 0) + struct.pack(f"{order}{channels}H", *[16] * channels)


def numbers(channels):
    return np.random.default_rng(channels).integers(0, 65536, (5, 7, channels)).astype(np.uint16)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits(channels):
    pixels, known = open_picture(png(numbers(channels)))
    assert pixels.dtype == np.uint16 and known is None and np.array_equal(pixels, numbers(channels))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compressed", [False, True])
def test_tiff_of_16_bits_in_colour(order, compressed):
    pixels, known = open_picture(tiff(numbers(3), order, compressed))
    assert pixels.dtype == np.uint16 and known is None and np.array_equal(pixels, numbers(3))


def test_colour_of_16_bits_lies_upright():
    pixels, _ = open_picture(tiff(numbers(3), orientation=3))
    assert np.array_equal(pixels, numbers(3)[::-1, ::-1])


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_tiff_in_grey(kind):
    encoded = io.BytesIO()
    grey = numbers(1)[..., 0].astype(kind)
    Image.fromarray(grey).save(encoded, "tiff")
    pixels, known = open_picture(encoded.getvalue())
    assert pixels.dtype == kind and known is None and np.array_equal(pixels[..., 0], grey)


@pytest.mark.parametrize("highest", [65535, 4095, 1000])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("as_text", [False, True])
def test_pgm_and_ppm_say_their_range_and_are_not_scaled(highest, channels, as_text):
    kind = {(1, False): "P5", (3, False): "P6", (1, True): "P2", (3, True): "P3"}[channels, as_text]
    given = numbers(channels) % np.uint32(highest + 1)
    data = " ".join(map(str, given.ravel())).encode() if as_text else given.astype(">u2").tobytes()
    pixels, known = open_picture(f"{kind}\n# of a camera\n7 5\n{highest}\n".encode() + data)
    assert known == (0, highest) and np.array_equal(pixels, given)


def test_a_pgm_that_is_cut_off_is_an_error():
    with pytest.raises(ValueError, match="cut off"):
        open_picture(b"P5 7 5 65535\n" + b"\0" * 20)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK"])
def test_pictures_of_eight_bits_stay_as_pillow_has_them(mode):
    encoded = io.BytesIO()
    image = Image.effect_noise((8, 6), 80).convert(mode)
    image.save(encoded, "tiff")
    opened, known = open_picture(encoded.getvalue())
    assert known is None and opened.mode == mode and opened.tobytes() == image.tobytes()


def test_channels_are_converted_as_pillow_converts_bytes():
    colours = numbers(4).astype(np.uint8)
    whole = Image.alpha_composite(Image.new("RGBA", (7, 5), "white"), Image.fromarray(colours))
    for channels, mode in ((3, "RGB"), (1, "L")):
        made = with_channels(colours, channels, 255, 255).astype(int)
        expected = np.asarray(whole.convert(mode)).reshape(made.shape).astype(int)
        assert np.abs(made - expected).max() <= 1
    assert np.array_equal(
        with_channels(colours[..., :1], 3, 255, 255), np.repeat(colours[..., :1], 3, axis=2)
    )
    with_alpha = with_channels(numbers(3), 4, 65535, 65535)
    assert np.array_equal(with_alpha[..., :3], numbers(3)) and (with_alpha[..., 3] == 65535).all()
    assert np.array_equal(with_channels(numbers(2), 4, 65535, 65535)[..., 3], numbers(2)[..., 1])


def test_deep_pictures_are_drawn_on_white_where_they_are_transparent():
    pixels = np.zeros((1, 2, 4), np.uint16)
    pixels[0, 0, 3] = 65535
    assert with_channels(pixels, 3, 65535, 65535).tolist() == [[[0, 0, 0], [65535, 65535, 65535]]]
