"""The timesteps that a pipeline visits with any scheduler."""

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
)

from ddpm_from_scratch import DDPMFromScratchScheduler, FewStepScheduler
from ddpm_from_scratch.schedulers.visited import default_num_inference_steps, visited_timesteps


def test_the_number_of_steps_if_nobody_says():
    assert default_num_inference_steps(DDPMScheduler(num_train_timesteps=7)) == 7
    short = {"num_train_timesteps": 20, "beta_schedule": "squaredcos_cap_v2"}
    few = FewStepScheduler(**short)
    assert default_num_inference_steps(few) == few.default_num_inference_steps
    assert len(visited_timesteps(DDPMFromScratchScheduler(**short))) == 20


@pytest.mark.parametrize("kind", [DDPMFromScratchScheduler, DDIMScheduler, DPMSolverMultistepScheduler])
@pytest.mark.parametrize(
    ("count", "strength", "kept"), [(50, 0.8, 40), (50, 0.58, 29), (10, 1, 10), (10, 0.1, 1), (7, 0.5, 3)]
)
def test_strength_keeps_the_last_part_of_the_chain(kind, count, strength, kept):
    scheduler = kind()
    visited = visited_timesteps(scheduler, np.int64(count), strength=strength)
    assert len(visited) == kept and torch.equal(visited, scheduler.timesteps[count - kept :])


def test_schedulers_that_evaluate_twice_keep_their_pairs():
    scheduler = HeunDiscreteScheduler()
    visited = visited_timesteps(scheduler, 10, strength=0.5)
    assert torch.equal(visited, scheduler.timesteps[10:]) and scheduler.begin_index == 10


def test_schedulers_that_count_their_steps_are_told_where_they_begin():
    for scheduler in (EulerDiscreteScheduler(), DPMSolverMultistepScheduler()):
        visited_timesteps(scheduler, 10, strength=0.3)
        assert scheduler.begin_index == 7


@pytest.mark.filterwarnings("ignore:timesteps end at")
@pytest.mark.parametrize(
    "given", [[90, 50, 3], np.array([90, 50, 3]), torch.tensor([90, 50, 3]), (90, 50, 3)]
)
@pytest.mark.parametrize("kind", [DDPMFromScratchScheduler, FewStepScheduler, DDPMScheduler])
def test_timesteps_may_be_given(kind, given):
    assert visited_timesteps(kind(), timesteps=given).tolist() == [90, 50, 3]
    assert visited_timesteps(kind(), timesteps=given, strength=0.67).tolist() == [50, 3]


@pytest.mark.parametrize(
    ("scheduler", "options", "error", "message"),
    [
        (DDIMScheduler(), {"timesteps": [9, 0]}, ValueError, "DDIMScheduler takes none"),
        (DDPMScheduler(), {"timesteps": [9, 0], "num_inference_steps": 2}, ValueError, "give one"),
        (DDPMScheduler(), {"num_inference_steps": True}, TypeError, "num_inference_steps is True"),
        (DDPMScheduler(), {"num_inference_steps": 10, "strength": 0}, ValueError, "leaves none of 10"),
        (DDPMScheduler(), {"num_inference_steps": 10, "strength": 0.05}, ValueError, "at least 0.1 leaves"),
        (DDPMScheduler(), {"num_inference_steps": 10, "strength": 1.2}, ValueError, "strength is 1.2"),
        (DDPMScheduler(), {"num_inference_steps": 10, "strength": "1"}, TypeError, "strength is '1'"),
        (DDPMScheduler(), {"num_inference_steps": 10, "strength": float("nan")}, ValueError, "strength is"),
        (DDPMFromScratchScheduler(), {"timesteps": [0, 9]}, ValueError, "descending"),
    ],
)
def test_what_cannot_be_visited_is_refused(scheduler, options, error, message):
    with pytest.raises(error, match=message):
        visited_timesteps(scheduler, **options)
