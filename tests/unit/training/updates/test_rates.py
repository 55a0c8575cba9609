"""The course of the learning rate."""

import math

import pytest

from ddpm_from_scratch.runtime.errors import ConfigError
from ddpm_from_scratch.training.config import TrainingConfig
from ddpm_from_scratch.training.updates.rates import rate_factor


def config(**settings):
    return TrainingConfig(dataset_name="digits", **settings)


def test_a_cosine_rises_over_the_warm_up_and_falls_to_nothing():
    factor = rate_factor(config(lr_scheduler="cosine", lr_warmup_steps=4), total_updates=20)
    assert [factor(n) for n in range(5)] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    for n in range(4, 21):
        assert factor(n) == pytest.approx(0.5 * (1 + math.cos(math.pi * (n - 4) / 16)))


def test_a_schedule_that_does_not_go_with_its_numbers_is_named_before_the_run():
    """Polynomial falls to 1e-7, not to nothing, so the rate must be above; its warm-up must leave updates."""
    for settings in ({"learning_rate": 1e-8}, {"lr_warmup_steps": 4}):
        with pytest.raises(ConfigError, match="--lr_scheduler polynomial .* of 4 updates"):
            rate_factor(config(lr_scheduler="polynomial", **{"lr_warmup_steps": 1} | settings), 4)
