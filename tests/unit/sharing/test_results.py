"""The record of a run: results.json and the card are written together, and say the same."""

import dataclasses
import json
import shutil

import pytest

from ddpm_from_scratch.data.datasets import load_training_data
from ddpm_from_scratch.data.settings import DataConfig
from ddpm_from_scratch.runtime.errors import ConfigError
from ddpm_from_scratch.sharing.results import RunRecord

LIKELIHOOD = {
    "unit": "bits per dimension", "variance_type": "fixed_small", "num_samples": 3, "num_held_out": 360,
    "num_training_samples": 0, "num_terms": 5, "num_timesteps": 20, "first_timestep": 0, "data_levels": 17,
    "bounds": {"fixed_small": {
        "total": 1.25, "standard_error": None, "prior": 0.25, "steps": 0.5, "decoder": 0.5}},
}  # fmt: skip


@pytest.fixture
def run(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "run")


def files(folder):
    return {name: (folder / name).read_bytes() for name in ("results.json", "README.md")}


def test_what_is_read_and_written_is_the_same(run):
    before = files(run)
    for name in before:
        (run / name).touch()
    RunRecord.read(run).write()
    assert files(run) == before


def test_a_record_that_says_more_changes_nothing_before_it_is_written(run):
    before, record = files(run), RunRecord.read(run)
    more = record.with_repository("me/digits").with_calibration().with_likelihood(LIKELIHOOD)
    assert files(run) == before and record == RunRecord.read(run)
    more.write()
    assert RunRecord.read(run) == more != record
    card = (run / "README.md").read_text()
    assert 'from_pretrained("me/digits")' in card and "Measured before" in card and "| 1.2500 |" in card


def test_a_card_that_a_person_changed_stays_and_that_is_said(run, capsys):
    """Publishing, calibrating and evaluating write the record anew, and would lose it."""
    (run / "README.md").write_text("my own words")
    RunRecord.read(run).with_repository("me/digits").write()
    assert (run / "README.md").read_text() == "my own words" and not RunRecord.wrote_card(run)
    assert "README.md was written or changed by hand" in capsys.readouterr().err
    assert RunRecord.read(run).results["repo_id"] == "me/digits"
    (run / "README.md").unlink()
    RunRecord.read(run).write()
    assert 'from_pretrained("me/digits")' in (run / "README.md").read_text() and RunRecord.wrote_card(run)


def test_a_record_of_before_cards_were_marked_is_written_as_ever(run):
    results = json.loads((run / "results.json").read_text())
    del results["card_sha256"]
    (run / "results.json").write_text(json.dumps(results))
    RunRecord.read(run).with_repository("me/digits").write()
    assert 'from_pretrained("me/digits")' in (run / "README.md").read_text()


def test_later_figures_take_the_place_of_earlier_ones(run):
    record = RunRecord.read(run)
    figures = record.results["evaluation"] | {"sliced_w2": 0.125, "sliced_w2_floor": 0.0625}
    record.with_calibration().with_evaluation(figures).write()
    card = (run / "README.md").read_text()
    assert "| 0.1250 | 0.0625 |" in card and "Measured before" not in card
    assert RunRecord.read(run).with_evaluation({}).has_figures is False


def test_figures_of_other_data_or_of_fewer_samples_do_not_take_the_place_of_the_runs(run):
    """The card names the data of training; four samples say less than eight."""
    config = DataConfig(dataset_name="digits")
    data = load_training_data(config, None, None)
    record, why = RunRecord.read(run), RunRecord.read(run).why_kept
    assert why("evaluation", {"num_samples": 8}, config, data) is None
    assert "those of 8 samples, more than 4" in why("evaluation", {"num_samples": 4}, config, data)
    assert why("likelihood", {"num_samples": 1}, config, data) is None
    assert "more than 2" in record.with_likelihood(LIKELIHOOD).why_kept(
        "likelihood", {"num_samples": 2}, config, data
    )
    other = dataclasses.replace(data, name="photos")
    assert "trained on other data" in why("evaluation", {"num_samples": 99}, config, other)
    part = DataConfig(dataset_name="digits", dataset_split="train[:5]")
    assert "trained on other data" in why("evaluation", {"num_samples": 99}, part, data)


def test_a_run_without_figures_has_none_from_before_its_calibration(run):
    record = RunRecord.read(run)
    record = RunRecord(run, record.results | {"evaluation": {}})
    assert record.with_calibration() == record and not record.has_figures


def test_a_record_of_an_earlier_version_is_named_and_left_alone(run):
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps({"training": results["training"]}))
    before = files(run)
    with pytest.raises(ConfigError, match="earlier version.*delete it"):
        RunRecord.read(run)
    assert RunRecord.find(run) is None and files(run) == before


def test_a_folder_that_is_not_of_a_run_has_no_record(tmp_path):
    assert RunRecord.find(tmp_path) is None
    (tmp_path / "results.json").write_text("{}")
    assert RunRecord.find(tmp_path) is None


def test_results_stay_as_they_were_if_no_card_can_be_written(run):
    before, record = files(run), RunRecord.read(run)
    with pytest.raises(KeyError):
        RunRecord(run, record.results | {"data": {}}).write()
    assert files(run) == before


def test_the_card_names_what_was_fine_tuned_and_its_id_if_it_has_one(run):
    record = RunRecord.read(run)
    assert record.results["started_from"] is None and "fine-tuned" not in (run / "README.md").read_text()
    for hub_id in ("me/first", None):
        started_from = {"name": hub_id or "first", "hub_id": hub_id}
        RunRecord(run, record.results | {"started_from": started_from}).write()
        card = (run / "README.md").read_text()
        assert f"| fine-tuned from | {started_from['name']} |" in card
        assert ("base_model: me/first" in card) is (hub_id is not None)
