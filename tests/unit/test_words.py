"""Every word that a setting may be is understood by what it is a setting of."""

import ast
from typing import get_args

import pytest

from common import ROOT
from ddpm_from_scratch import DDPMFromScratchScheduler, words
from ddpm_from_scratch.data.points import POINT_DATASETS
from ddpm_from_scratch.evaluation.saved_pipelines import SAMPLERS
from ddpm_from_scratch.training.config import TrainingConfig


@pytest.mark.filterwarnings("ignore::ddpm_from_scratch.SchedulerWarning")
@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("beta_schedule", words.BETA_SCHEDULES),
        ("prediction_type", words.PREDICTION_TYPES),
        ("timestep_spacing", words.TIMESTEP_SPACINGS),
        ("variance_type", words.VARIANCE_TYPES),
    ],
)
def test_the_scheduler_knows_each_word_and_no_other(name, allowed):
    for word in allowed:
        more = {"residuals": [0.1] * 1000} if word == words.ANALYTIC else {}
        DDPMFromScratchScheduler(**{name: word}, **more).set_timesteps(10)
    with pytest.raises((ValueError, NotImplementedError), match=f"{name} is 'other', but must be one of"):
        DDPMFromScratchScheduler(**{name: "other"})


@pytest.mark.parametrize(
    "hints", [words.PREDICTION_HINTS, words.BETA_SCHEDULE_HINTS], ids=["prediction", "beta"]
)
def test_a_hint_leads_from_a_wrong_word_to_a_right_one(hints):
    right = {*words.PREDICTION_TYPES, *words.BETA_SCHEDULES}
    for wrong, hint in hints.items():
        named = [word for word in right if f"'{word}'" in hint]
        is_foreign = "another process" in hint
        assert len(named) == (0 if is_foreign else 1) and wrong not in right and wrong == wrong.lower(), wrong


def test_data_samplers_and_variances_have_the_words_of_their_modules():
    assert set(words.POINT_DATASET_NAMES) == set(POINT_DATASETS)
    assert set(words.SAMPLER_NAMES) == set(SAMPLERS)
    for word in get_args(words.TrainedVarianceType):
        assert word in words.VARIANCE_TYPES
        TrainingConfig(dataset_name="digits", variance_type=word)


def test_no_library_is_loaded_for_the_words():
    """A command line must answer before torch loads."""
    tree = ast.parse((ROOT / "src" / "ddpm_from_scratch" / "words.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert [ast.unparse(node) for node in imports] == ["from typing import Literal, get_args"]
