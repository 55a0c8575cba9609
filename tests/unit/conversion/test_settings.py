"""The flags of a conversion: bounds, and what does not apply to a source is refused."""

import pytest

from ddpm_from_scratch.conversion.settings import ConversionSettings, assumed
from ddpm_from_scratch.runtime.errors import ConfigError


@pytest.mark.parametrize("name", ["image_size", "num_heads", "num_head_channels", "diffusion_steps"])
def test_numbers_are_at_least_one(name):
    with pytest.raises(ConfigError, match=f"--{name} is 0, but must be"):
        ConversionSettings(**{name: 0})


def test_a_setting_that_a_source_does_not_have_is_refused():
    settings = ConversionSettings(image_size=8, num_heads=2)
    settings.require_only(("image_size", "num_heads"), "this")
    with pytest.raises(ConfigError, match="--num_heads is 2, but this has no such setting.*--image_size"):
        settings.require_only(("image_size",), "this")
    with pytest.raises(ConfigError, match="allowed are none"):
        settings.require_only((), "this")


def test_the_side_of_the_images_must_be_said_and_fit():
    assert ConversionSettings(image_size=24).image_side(8) == 24
    with pytest.raises(ConfigError, match="--image_size is missing"):
        ConversionSettings().image_side(8)
    with pytest.raises(ConfigError, match="--image_size is 20, but must be a multiple of 8"):
        ConversionSettings(image_size=20).image_side(8)


def test_a_default_is_noted_and_a_given_value_is_not():
    notes = []
    assert assumed(4, 2, "num_heads", notes) == 2 and notes == []
    assert assumed(4, None, "num_heads", notes) == 4 and "--num_heads=4" in notes[0]
