"""A run goes on from a checkpoint with the same recipe, or says what is another."""

import pytest

from ddpm_from_scratch.runtime.errors import ConfigError
from ddpm_from_scratch.training.config import TrainingConfig
from ddpm_from_scratch.training.recipe import changes_since


def about(num_processes=1, network=None, **settings):
    recipe = TrainingConfig(dataset_name="digits", **settings).recipe()
    known = {"num_processes": num_processes, "num_samples": 1437, "network": network or {"layers": 2}}
    return {"recipe": recipe} | known


def test_the_same_recipe_is_no_change_wherever_it_writes_and_logs():
    assert changes_since(about(output_dir="a", logging_steps=1), about(output_dir="b"), "c-2", False) is None


def test_another_batch_size_is_listed_and_must_be_accepted():
    earlier, now = about(train_batch_size=16), about(train_batch_size=8, num_processes=2)
    with pytest.raises(ConfigError, match="'c-2'.*train_batch_size: 16 -> 8.*--allow_recipe_change"):
        changes_since(earlier, now, "c-2", allow=False)
    accepted = changes_since(earlier, now, "c-2", allow=True)
    assert "train_batch_size: 16 -> 8" in accepted and "num_processes: 1 -> 2 (the samples" in accepted


@pytest.mark.parametrize(
    ("now", "name"), [(about(use_ema=True), "use_ema"), (about(network={"layers": 3}), "network")]
)
def test_what_no_run_survives_cannot_be_accepted(now, name):
    with pytest.raises(ConfigError, match=f"{name} cannot change within a run"):
        changes_since(about(), now, "c-2", allow=True)
