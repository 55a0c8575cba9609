"""A run goes on from a checkpoint with the same recipe, or says what is another."""

import pytest

from ddpm_from_scratch.runtime.errors import ConfigError
from ddpm_from_scratch.training.config import TrainingConfig
from ddpm_from_scratch.training.recipe import changes_since


def about(num_processes=1, network=None, class_names=None, **settings):
    data = {} if "train_data_dir" in settings else {"dataset_name": "digits"}
    recipe = TrainingConfig(**data, **settings).recipe()
    known = {"num_processes": num_processes, "num_samples": 1437, "network": network or {"layers": 2}}
    return {"recipe": recipe, "class_names": class_names} | known


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


def test_classes_of_other_names_or_order_are_no_run_that_goes_on():
    """Rename cat/ to zebra/, and every label means the other class."""
    earlier = about(class_names=["cat", "dog"], label_column="label")
    assert changes_since(earlier, earlier, "c-2", False) is None
    for names, says in (
        (["dog", "zebra"], "cat, dog -> label 0: dog, zebra"),
        (["cat"], "dog -> label 1: none"),
    ):
        now = about(class_names=names, label_column="label")
        with pytest.raises(ConfigError, match=f"{says}.*class_names cannot change within a run"):
            changes_since(earlier, now, "c-2", allow=True)


def test_a_manifest_without_class_names_goes_on():
    earlier = about()
    del earlier["class_names"]
    assert changes_since(earlier, about(class_names=["0", "1"]), "c-2", False) is None


def test_all_of_a_folder_and_its_folder_train_are_two_recipes(tmp_path):
    everything, part = (
        about(train_data_dir=str(tmp_path)),
        about(train_data_dir=str(tmp_path), dataset_split="train"),
    )
    with pytest.raises(ConfigError, match="dataset_split: None -> train"):
        changes_since(everything, part, "c-2", allow=False)
    assert about()["recipe"]["dataset_split"] == "train"
    del part["class_names"]  # an earlier version wrote this, also of all
    assert changes_since(part, everything, "c-2", allow=False) is None
    with pytest.raises(ConfigError, match="num_samples"):
        changes_since(part | {"num_samples": 3}, everything, "c-2", allow=False)
