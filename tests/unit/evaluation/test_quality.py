"""What is evaluated, and what is refused before anything is sampled."""

from types import SimpleNamespace

import pytest

from common import save_images
from ddpm_from_scratch.data.datasets import load_training_data
from ddpm_from_scratch.evaluation.quality import evaluate, load_extractors
from ddpm_from_scratch.runtime.errors import ConfigError
from ddpm_from_scratch.training.config import TrainingConfig


def test_stream_and_too_few_images_are_refused_before_anything_is_sampled(tmp_path):
    folder = save_images(tmp_path / "few", 7, 0)
    options = {"train_data_dir": str(folder), "cache_dir": str(tmp_path / "cache")}
    for more, message in (
        ({"streaming": True, "max_train_steps": 1}, "leave --streaming out"),
        ({}, "7 training samples, but needs at least 8"),
    ):
        data = load_training_data(TrainingConfig(**options, **more), 16, 3)
        with pytest.raises(ValueError, match=message):
            evaluate(None, data, num_samples=8)


def test_features_that_nobody_named_are_explained_where_they_cannot_be_had(tmp_path, monkeypatch):
    """Offline; those that somebody named are called by their name alone."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    data = SimpleNamespace(sample_shape=(3, 8, 8), name="photos")
    with pytest.raises(ConfigError, match="no features were named.*hf download.*pixels.*The reason"):
        load_extractors("auto", data, str(tmp_path))
    with pytest.raises(ConfigError, match="^features are 'facebook/dinov2-small'"):
        load_extractors("facebook/dinov2-small", data, str(tmp_path))
