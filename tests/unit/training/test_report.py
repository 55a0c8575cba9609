"""What the record of a run says, and what it must not say."""

import json
import sys

import pytest

from ddpm_from_scratch.training.report import write_report
from trainers import make_trainer


@pytest.fixture
def report(tmp_path, monkeypatch):
    """Return a function that writes the report of a short run that was started with some words."""

    def write(*words, **settings):
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        trainer = make_trainer(tmp_path / "run", "--max_train_steps=2", **settings)
        trainer.run()
        trainer.export()
        write_report(trainer, {}, "me/digits")
        folder = tmp_path / "run"
        return json.loads((folder / "results.json").read_text()), (folder / "README.md").read_text(), trainer

    return write


def test_the_record_counts_what_was_trained(report):
    results, card, trainer = report("--dataset_name=digits")
    training = results["training"]
    assert (training["updates"], training["samples_seen"], training["num_processes"]) == (2, 32, 1)
    assert training["parameters"] == sum(value.numel() for value in trainer.state.network.parameters())
    rows = (trainer.output_dir / "logs" / "metrics.jsonl").read_text().splitlines()
    assert (
        training["final_loss"] == json.loads(rows[-1])["loss"] and (trainer.output_dir / "loss.png").exists()
    )
    nothing = {"hub_id": None, "class_names": None, "files": None}
    assert results["data"] == {"name": trainer.data.name, "sample_shape": [1, 8, 8]} | nothing
    assert 'from_pretrained("me/digits")' in card and "updates | 2 of 16 samples" in card


@pytest.mark.parametrize("spelling", [["--hub_token=hf_canary"], ["--hub-token", "hf_canary"]])
def test_neither_secrets_nor_folders_of_this_machine_are_recorded(report, tmp_path, spelling):
    results, card, _ = report(*spelling, f"--output_dir={tmp_path}/run", hub_token="hf_canary")
    written = json.dumps(results) + card
    assert "hf_canary" not in written and str(tmp_path) not in written
    assert "***" in results["command"] and results["command"].endswith("run")
