"""How far the samples of a candidate are from the data."""

import math

import pytest
import torch

from ddpm_from_scratch import DDPMFromScratchPipeline, FewStepScheduler, build_model, model_config
from ddpm_from_scratch.data.datasets import load_digits
from ddpm_from_scratch.evaluation.candidates import distance_from, keep_best_so_far
from ddpm_from_scratch.evaluation.features import PixelFeatures
from ddpm_from_scratch.learning.calibration import Candidate
from ddpm_from_scratch.measures import metrics
from ddpm_from_scratch.schedulers.few_step_profile import FewStepPlan


def test_candidates_are_judged_by_the_root_of_frechets_distance_times_sliced_w2(digits_data, generator):
    samples = torch.rand(100, 1, 8, 8, generator=generator) * 2 - 1
    training = load_digits()[0]
    distance = distance_from(digits_data, PixelFeatures((1, 8, 8)))
    frechet = metrics.frechet_distance(samples.flatten(1), training.flatten(1))
    sliced = metrics.sliced_wasserstein(samples.flatten(1).double(), training.flatten(1).double())
    assert distance(samples) == pytest.approx(frechet**0.5 * sliced, rel=1e-6)
    assert distance(training) < 1e-3 * distance(samples)
    assert distance(samples * math.nan) == math.inf


def test_a_search_that_is_stopped_keeps_the_best_of_what_most_samples_judged():
    earlier = FewStepPlan([900, 400, 100], 1.0).entry()
    scheduler = FewStepScheduler(calibration={"steps": {"3": earlier}})
    pipeline = DDPMFromScratchPipeline(build_model(model_config("tiny")), scheduler)
    plans = [FewStepPlan([900, last], 0.0) for last in (10, 20, 30, 40)]
    judged = [
        Candidate("between", plan, count, distance)
        for plan, count, distance in zip(plans, (8, 32, 32, 32), (0.1, 0.5, 0.3, math.inf), strict=True)
    ]
    calibration = keep_best_so_far(pipeline, judged)
    assert calibration["steps"] == {"2": plans[2].entry(), "3": earlier}
    assert pipeline.scheduler.timesteps_for(2) == [900, 30] and pipeline.scheduler.timesteps_for(3)[1] == 400
