"""Observers look at a run and change nothing of it; a run that is stopped saves a checkpoint first."""

import json
import math
import re
import signal
from types import SimpleNamespace

import pytest
import torch

import runs
from common import ROOT
from ddpm_from_scratch.runtime.errors import NonFiniteError, Stopped
from ddpm_from_scratch.training import Update, observers
from trainers import make_trainer, weights


@pytest.fixture
def trainer(tmp_path):
    return make_trainer(tmp_path / "run")


class Watch:
    """Calls a function with every update that is in `due`, or with every one."""

    def __init__(self, look, due=None):
        self.look, self.due = look, due

    def is_due(self, update):
        return self.due is None or update.number in self.due

    def __call__(self, update):
        self.look(update)


def test_the_example_of_the_page_runs(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "training.md").read_text()
    section = page[page.index("## Your own observer") :]
    (code,) = re.findall(r"```python\n(.*?)```", section[: section.index("\n## ")], re.DOTALL)
    observer = code[code.index("class ") : code.index("\ntrainer.run")]
    assert sum(map(bool, observer.splitlines())) == 5, "five lines, as promised"
    monkeypatch.chdir(tmp_path)
    flags = [f"--config={ROOT}/training/configs/digits.yaml", *runs.TINY, "--output_dir=runs/watched"]
    given = '["--config=training/configs/digits.yaml", "--output_dir=runs/watched"]'
    assert given in code
    code = code.replace(given, repr(flags)).replace("% 100", "% 2")
    exec(compile(code, "docs/training.md", "exec"), {})
    printed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if "tensor" in line]
    assert printed == ["2", "4"] and (tmp_path / "runs" / "watched" / "model_index.json").is_file()


def test_observers_change_nothing(tmp_path):
    """Not even one that draws random numbers and lets the network sample."""
    alone, watched = make_trainer(tmp_path / "a"), make_trainer(tmp_path / "b", "--checkpointing_steps=1")
    numbers = [update.number for update in alone.updates()]
    watched.run([Watch(lambda _: (torch.rand(3), watched.save_samples(tmp_path / "b" / "x.png")))])
    assert numbers == [1, 2, 3, 4] and torch.equal(weights(alone), weights(watched))
    assert not (tmp_path / "a").exists(), "the generator alone writes nothing"


def test_observers_come_after_those_of_the_run_where_they_are_due(trainer):
    seen = []

    def look(update):
        rows = (trainer.output_dir / "logs" / "metrics.jsonl").read_text().splitlines()
        seen.append((update.number, json.loads(rows[-1])["step"], trainer.state.saved_update))

    trainer.run([Watch(look, due=(2, 4))])
    assert seen == [(2, 2, None), (4, 4, 4)]


def test_an_update_says_what_it_was(trainer):
    updates = list(trainer.updates())
    assert [update.is_last for update in updates] == [False, False, False, True]
    assert all(update.applied and not update.stop and math.isfinite(update.loss) for update in updates)
    assert updates[-1].learning_rate == trainer.learning_rates[0]


@pytest.mark.parametrize("whole", [True, False], ids=["run", "generator"])
def test_a_request_to_stop_saves_a_checkpoint_and_ends_the_loop(trainer, whole):
    """After the observers, so that they see the last update; nothing is sampled or exported any more."""
    seen = []

    def look(update):
        seen.append((update.number, update.stop))
        trainer.stop.signal = signal.SIGTERM

    with pytest.raises(Stopped, match="stopped after update 2 of 4.*checkpoint-2"):
        if whole:
            trainer.run([Watch(look)])
        for update in trainer.updates():
            look(update)
    assert seen == [(1, False), (2, True)] and (trainer.output_dir / "checkpoint-2").is_dir()


def test_stopping_in_an_observer_saves_a_checkpoint(trainer):
    def look(update):
        trainer.stop.signal = signal.SIGTERM
        trainer.save_samples(trainer.output_dir / "x.png")

    with pytest.raises(Stopped, match="stopped after update 3 of 4"):
        trainer.run([Watch(look, due=(3,))])
    assert (trainer.output_dir / "checkpoint-3").is_dir() and not (trainer.output_dir / "x.png").exists()


def test_no_observer_sees_an_update_that_ends_the_run(tmp_path, monkeypatch):
    trainer, seen = make_trainer(tmp_path / "run", "--max_nonfinite_steps=2"), []
    before = trainer.state.updater.gradient_norm
    monkeypatch.setattr(trainer.state.updater, "gradient_norm", lambda: before() * math.nan)
    with pytest.raises(NonFiniteError, match="2 updates in a row"):
        trainer.run([Watch(lambda update: seen.append((update.number, update.applied)))])
    assert seen == [(1, False)] and trainer.state.nonfinite_updates == 2


def fake_run(seen, num_samples=100, per_update=10, **config):
    settings = {"checkpointing_steps": 3, "save_images_epochs": 1, "save_model_epochs": 2}
    return SimpleNamespace(
        config=SimpleNamespace(save_images_steps=None, **settings | config),
        data=SimpleNamespace(num_samples=num_samples),
        state=SimpleNamespace(samples_seen=seen),
        samples_per_update=per_update,
    )


@pytest.mark.parametrize(
    ("number", "ends", "due"),
    [
        (9, {}, {"Checkpoints"}),
        (10, {}, {"Samples"}),
        (20, {}, {"Samples", "Exports"}),
        (20, {"stop": True}, set()),
        (20, {"is_last": True}, {"Checkpoints"}),
        (21, {"stop": True}, {"Checkpoints"}),
        (22, {}, set()),
    ],
)
def test_when_observers_are_due(number, ends, due):
    update = Update(number, 0.5, True, ends.get("stop", False), ends.get("is_last", False), 1e-3)
    run = fake_run(seen=10 * number)
    kinds = (observers.Checkpoints, observers.Samples, observers.Exports)
    assert {kind.__name__ for kind in kinds if kind(run).is_due(update)} == due


def test_a_batch_over_the_end_of_an_epoch_ends_it_once():
    updates = [
        number
        for number in range(1, 11)
        if observers.ends_epochs(
            fake_run(seen=30 * number, per_update=30), Update(number, 0, True, False, False, 0), 1
        )
    ]
    assert updates == [4, 7, 10]


def test_of_a_stream_a_checkpoint_interval_counts_as_an_epoch():
    run = fake_run(seen=30, num_samples=None)
    assert observers.Exports(run).is_due(Update(6, 0, True, False, False, 0))
    assert not observers.Exports(run).is_due(Update(7, 0, True, False, False, 0))


@pytest.mark.parametrize(
    ("flags", "numbers"), [(["--save_images_steps=1"], [1, 2, 3]), (["--save_images_steps=3"], [3])]
)
def test_pictures_are_made_every_so_many_updates(tmp_path, flags, numbers):
    """However many epochs that is; the last update has its picture from the report."""
    trainer = make_trainer(tmp_path / "run", *flags)
    trainer.run()
    pictures = sorted((tmp_path / "run" / "samples").glob("*.png"))
    assert [int(path.stem.split("-")[1]) for path in pictures] == numbers
