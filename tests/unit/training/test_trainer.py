"""The loop: how many updates, at what rate, and that a run resumed is the run that went straight on."""

import pytest
import torch

from ddpm_from_scratch.runtime.errors import ConfigError
from trainers import make_trainer, weights


def test_a_resumed_run_is_the_straight_one(tmp_path):
    flags = ("--label_column=label", "--label_dropout=0.2", "--optimizer=muon")
    straight, stopped, resumed = (make_trainer(tmp_path / name, *flags) for name in "abb")
    list(straight.updates())
    updates = stopped.updates()
    next(updates)
    stopped.save_checkpoint()
    next(updates)  # lost
    resumed.resume("latest")
    assert [update.number for update in resumed.updates()] == [2, 3, 4]
    assert torch.equal(weights(resumed), weights(straight))


@pytest.mark.parametrize(("batch_size", "micro", "updates"), [(16, 1, 90), (16, 4, 23), (1437, 1, 1)])
def test_an_epoch_is_every_sample_once(tmp_path, batch_size, micro, updates):
    """Of 1437 digits; the last update may begin the next epoch."""
    settings = {"train_batch_size": batch_size, "gradient_accumulation_steps": micro, "num_epochs": 1}
    trainer = make_trainer(tmp_path, max_train_steps=None, **settings)
    assert trainer.total_updates == updates


def test_the_learning_rate_is_counted_in_updates_not_in_batches(tmp_path):
    curves = []
    for micro in (1, 2):
        trainer = make_trainer(tmp_path, f"--gradient_accumulation_steps={micro}", "--lr_warmup_steps=2")
        curves.append([update.learning_rate for update in trainer.updates()])
    assert curves[0] == curves[1] == pytest.approx([5e-5, 1e-4, 5e-5, 0], abs=1e-12)


def test_a_run_that_ends_in_its_warm_up_knows_its_largest_rate(tmp_path):
    assert make_trainer(tmp_path, "--lr_warmup_steps=2").peak_of_rate == 1
    assert make_trainer(tmp_path, "--lr_warmup_steps=8").peak_of_rate == pytest.approx(3 / 8)


def test_another_recipe_is_refused_before_anything_is_loaded(tmp_path):
    trainer = make_trainer(tmp_path)
    next(trainer.updates())
    trainer.save_checkpoint()
    other = make_trainer(tmp_path, "--seed=4")
    before = weights(other)
    with pytest.raises(ConfigError, match="seed: 0 -> 4"):
        other.resume("latest")
    assert other.update == 0 and torch.equal(weights(other), before)
