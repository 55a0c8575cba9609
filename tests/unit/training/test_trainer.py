"""The loop: how many updates, at what rate, and that a run resumed is the run that went straight on."""

import re

import pytest
import torch

from ddpm_from_scratch.runtime.errors import ConfigError, NonFiniteError
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


def never_finite(trainer):
    trainer.state.updater.gradient_norm = lambda: torch.tensor(float("nan"))
    return trainer


def test_a_run_of_which_no_update_was_applied_does_not_end_well(tmp_path):
    """Fewer than --max_nonfinite_steps, and also in two parts; one that was applied is enough."""
    trainer = never_finite(make_trainer(tmp_path / "a", "--max_nonfinite_steps=9", "--checkpointing_steps=2"))
    with pytest.raises(NonFiniteError, match="none of the 4 updates was applied.*no pipeline is saved"):
        trainer.run()
    resumed = make_trainer(tmp_path / "a", "--max_nonfinite_steps=9")
    resumed.resume("latest")
    with pytest.raises(NonFiniteError, match="none of the 4 updates"):
        resumed.run()
    once = make_trainer(tmp_path / "b", "--max_nonfinite_steps=9", "--checkpointing_steps=1")
    updates = once.updates()
    next(updates)
    once.save_checkpoint()
    rest = never_finite(make_trainer(tmp_path / "b", "--max_nonfinite_steps=9"))
    rest.resume("latest")
    rest.run()
    assert rest.state.applied_updates == 1 and rest.state.nonfinite_updates == 3


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--max_train_steps=8"], "from 50% of its peak to 93%.*over 8 updates now, and was over 4"),
        (["--max_train_steps=5"], "from 50% of its peak to 75%"),
        (["--max_train_steps=8", "--lr_scheduler=constant"], ""),
        ([], ""),
    ],
)
def test_a_jump_of_the_learning_rate_is_said_when_a_run_is_resumed_for_longer(tmp_path, flags, says, capsys):
    first = make_trainer(tmp_path, "--lr_scheduler=" + ("constant" if len(flags) > 1 else "cosine"))
    updates = first.updates()
    for _ in range(3):
        next(updates)
    first.save_checkpoint()
    resumed = make_trainer(tmp_path, "--allow_recipe_change", "--resume_from_checkpoint=latest", *flags)
    capsys.readouterr()
    resumed.resume("latest")
    said = [line for line in capsys.readouterr().err.splitlines() if "of its peak" in line]
    assert len(said) == bool(says) and (not says or re.search(says, said[0]))
