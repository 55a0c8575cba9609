"""Pictures as users have them, and samples as networks have them."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_from_scratch.networks.pictures import output_type_for, pictures_of, samples_of


def sample(channels, count=2, height=4, width=6):
    """Samples whose pictures are exact in 8 bits."""
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(256, (count, channels, height, width), generator=generator)
    return levels / 127.5 - 1


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_pictures_come_back_as_the_samples_that_they_were(channels, output_type):
    samples = sample(channels)
    if channels == 4:
        samples[:, 3] = 1
    back = samples_of(pictures_of(samples, output_type), (channels, 4, 6))
    torch.testing.assert_close(back, samples, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "given",
    [
        lambda x: list(x),
        lambda x: x[0],
        lambda x: (x * 255).round().to(torch.uint8),
        lambda x: (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy(),
        lambda x: list(x.permute(0, 2, 3, 1).numpy()),
        lambda x: x[0].permute(1, 2, 0).double().numpy(),
        lambda x: [pictures_of(x * 2 - 1, "pil")[0], x[1]],
        lambda x: pictures_of(x * 2 - 1, "pil")[0].convert("RGBA"),
        lambda x: (pictures_of(x * 2 - 1, "pil")[0],),
        lambda x: x.flip(-1).flip(-1).requires_grad_(),
    ],
)
def test_every_form_of_the_same_pictures(given):
    samples = sample(3)
    found = samples_of(given(samples / 2 + 0.5), (3, 4, 6))
    assert found.dtype == torch.float32 and not found.requires_grad
    torch.testing.assert_close(found, samples[: len(found)], rtol=0, atol=1e-6)


def test_grey_pictures_may_lack_their_channel_and_colours_become_grey():
    samples = sample(1)
    grey = (samples[0, 0] / 2 + 0.5).numpy()
    torch.testing.assert_close(samples_of(grey, (1, 4, 6)), samples[:1], rtol=0, atol=1e-6)
    red = Image.new("RGB", (6, 4), (255, 0, 0))
    assert samples_of(red, (1, 4, 6)).unique().tolist() == pytest.approx([76 / 127.5 - 1])
    palette = red.convert("P")
    assert samples_of(palette, (3, 4, 6))[0, :, 0, 0].tolist() == [1, -1, -1]


@pytest.mark.parametrize("given", [[0.5, -2.0], np.array([0.5, -2.0]), torch.tensor([[0.5, -2.0]])])
def test_data_that_are_no_pictures_stay_in_their_units(given):
    assert samples_of(given, (2,)).tolist() == [[0.5, -2.0]]
    assert pictures_of(torch.tensor([[0.5, -2.0]]), "np").tolist() == [[0.5, -2.0]]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (Image.new("RGB", (4, 6)), ValueError, r"shape \(6, 4, 3\), but must have \(4, 6, 3\).*resize..6, 4"),
        (np.zeros((3, 4, 6)), ValueError, r"must have \(4, 6, 3\)"),
        (torch.zeros(4, 6, 3), ValueError, r"must have \(3, 4, 6\)"),
        (torch.zeros(1, 1, 3, 4, 6), ValueError, "must have"),
        (sample(3), ValueError, r"values from -1 to .* are in \[0, 1\]"),
        (torch.full((3, 4, 6), 200.0), ValueError, "from 0..255 by x / 255"),
        (torch.full((3, 4, 6), math.nan), ValueError, "not finite"),
        (torch.zeros(3, 4, 6, dtype=torch.int64), TypeError, "dtype torch.int64, but must be uint8 or"),
        (Image.new("RGBA", (6, 4), (0, 0, 0, 100)), ValueError, "partly transparent"),
        (Image.new("I;16", (6, 4)), TypeError, "mode 'I;16'"),
        (Image.new("F", (6, 4)), TypeError, "mode 'F'"),
        ("cat.png", TypeError, "image has str, but must be PIL images"),
        ([], ValueError, "empty list"),
        ([Image.new("RGB", (6, 4)), None], TypeError, "image has NoneType"),
    ],
)
def test_what_is_no_picture_for_the_network_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        samples_of(given, (3, 4, 6))


@pytest.mark.parametrize(
    ("given", "shape", "error", "message"),
    [
        (Image.new("RGB", (6, 4)), (2, 4, 6), TypeError, "samples have 2 channels"),
        (Image.new("RGB", (6, 4)), (2,), TypeError, "must be an array or a tensor"),
        (torch.zeros(2, 3), (2,), ValueError, r"must have \(2,\)"),
        (torch.zeros(2, dtype=torch.int64), (2,), TypeError, "must be floating point"),
    ],
)
def test_what_does_not_fit_other_samples_is_refused(given, shape, error, message):
    with pytest.raises(error, match=message):
        samples_of(given, shape)


def test_the_output_type_suits_the_samples():
    assert output_type_for(None, (2, 3, 8, 8)) == "pil" and output_type_for(None, (2, 5)) == "np"
    with pytest.raises(ValueError, match="output_type is 'jpg'"):
        output_type_for("jpg", (2, 3, 8, 8))
    with pytest.raises(ValueError, match="'pil' needs images with 1, 3 or 4 channels"):
        output_type_for("pil", (2, 2, 8, 8))
