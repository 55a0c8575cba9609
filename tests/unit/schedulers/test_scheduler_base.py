"""The state of a scheduler may be assigned or changed in place: it is followed or refused, never ignored."""

import copy
import pickle

import pytest
import torch
from diffusers.configuration_utils import FrozenDict

from common import seeded
from ddpm_from_scratch import DDPMFromScratchScheduler, FewStepScheduler

CLASSES = (DDPMFromScratchScheduler, FewStepScheduler)
SAMPLE, OUTPUT = torch.randn(2, 2, 3, 4, generator=seeded(1)).unbind()
both = pytest.mark.parametrize("scheduler_class", CLASSES)
pytestmark = pytest.mark.filterwarnings("ignore::ddpm_from_scratch.checks.SchedulerWarning")


def halved(table):
    return 0.5 * table


def assigned(scheduler):
    scheduler.alphas_cumprod = halved(scheduler.alphas_cumprod)


def changed_in_place(scheduler):
    scheduler.alphas_cumprod.mul_(0.5)


def changed_by_element(scheduler):
    for index in range(len(scheduler)):
        scheduler.alphas_cumprod[index] *= 0.5


def changed_by_a_view(scheduler):
    scheduler.alphas_cumprod[:].mul_(0.5)


def augmented(scheduler):
    scheduler.alphas_cumprod *= 0.5


def changed_in_inference_mode(scheduler):
    with torch.inference_mode():
        scheduler.alphas_cumprod.mul_(0.5)


def assigned_in_inference_mode_then_changed(scheduler):
    with torch.inference_mode():
        scheduler.alphas_cumprod = scheduler.alphas_cumprod * 2 / 3
    scheduler.alphas_cumprod.mul_(0.75)


CHANGES = (
    assigned,
    changed_in_place,
    changed_by_element,
    changed_by_a_view,
    augmented,
    changed_in_inference_mode,
    assigned_in_inference_mode_then_changed,
)
changes = pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)


def made(scheduler_class, **config):
    scheduler = scheduler_class(num_train_timesteps=100, beta_end=0.1, clip_sample=False, **config)
    scheduler.set_timesteps(10)
    return scheduler


def halved_from_the_start(scheduler_class):
    """A scheduler that never had another table."""
    scheduler = made(scheduler_class)
    table = halved(scheduler.alphas_cumprod)
    ratio = torch.cat([table[:1], table[1:] / table[:-1]]).double()
    other = made(scheduler_class, trained_betas=(1 - ratio).tolist())
    torch.testing.assert_close(other.alphas_cumprod, table, rtol=1e-5, atol=0)
    return other


def walk(scheduler, timesteps=None):
    generator, sample = seeded(), SAMPLE
    for t in scheduler.timesteps if timesteps is None else timesteps:
        sample = scheduler.step(OUTPUT, t, sample, generator).prev_sample
    return sample


def noised(scheduler):
    return scheduler.add_noise(SAMPLE, OUTPUT, torch.tensor([3, 60]))


def same(result, expected):
    torch.testing.assert_close(result, expected, rtol=2e-3, atol=2e-4)  # betas of a rounded table


@both
@changes
def test_a_step_and_noising_follow_another_table(scheduler_class, change):
    for call in (walk, noised):
        scheduler, expected = made(scheduler_class), call(halved_from_the_start(scheduler_class))
        before = call(scheduler)
        change(scheduler)
        same(call(scheduler), expected)
        assert (before - expected).abs().max() > 0.01


@both
@changes
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s)), copy.copy])
def test_a_copy_knows_of_a_change_just_before(scheduler_class, change, copied):
    scheduler = made(scheduler_class)
    walk(scheduler)
    change(scheduler)
    same(walk(copied(scheduler)), walk(halved_from_the_start(scheduler_class)))


@both
def test_set_timesteps_after_a_change_in_place_is_that_of_the_new_table(scheduler_class):
    scheduler, other = made(scheduler_class), halved_from_the_start(scheduler_class)
    scheduler.alphas_cumprod.mul_(0.5)
    for chosen in (scheduler, other):
        chosen.set_timesteps(10)
    assert scheduler.timesteps.tolist() == other.timesteps.tolist()
    same(walk(scheduler), walk(other))


@both
@pytest.mark.parametrize(("value", "says"), [(2.0, "assigned 2 for timestep 5"), (-1.0, "assigned -1 for")])
def test_a_wrong_value_in_the_table_is_refused_each_time_until_it_is_mended(scheduler_class, value, says):
    scheduler = made(scheduler_class)
    expected, kept = walk(scheduler), float(scheduler.alphas_cumprod[5])
    scheduler.alphas_cumprod[5] = value
    for call in (walk, noised, lambda scheduler: scheduler.set_timesteps(10), walk):
        with pytest.raises(ValueError, match=says):
            call(scheduler)
    scheduler.alphas_cumprod[5] = kept
    assert torch.equal(walk(scheduler), expected)


@both
def test_a_wrong_assignment_is_refused_at_once_and_changes_nothing(scheduler_class):
    scheduler = made(scheduler_class)
    table, timesteps, config, expected = (
        scheduler.alphas_cumprod,
        scheduler.timesteps,
        scheduler.config,
        walk(scheduler),
    )
    with pytest.raises(ValueError, match="alphas_cumprod"):
        scheduler.alphas_cumprod = torch.full((100,), 2.0)
    with pytest.raises(TypeError, match="alphas_cumprod"):
        scheduler.alphas_cumprod = [0.5] * 100
    with pytest.raises(ValueError, match="descending order"):
        scheduler.timesteps = torch.tensor([0, 5])
    with pytest.raises(ValueError, match="prediction_type"):
        scheduler._internal_dict = FrozenDict({**config, "prediction_type": "noise"})
    with pytest.raises(ValueError, match="beta_end"):
        scheduler.register_to_config(beta_end=2.0)
    assert scheduler.alphas_cumprod is table and scheduler.timesteps is timesteps
    assert scheduler.config is config and torch.equal(walk(scheduler), expected)


@both
def test_timesteps_that_are_changed_in_place_are_followed(scheduler_class):
    scheduler, chain = made(scheduler_class), made(scheduler_class).timesteps.tolist()
    walk(scheduler)
    chain[1] += 1
    scheduler.timesteps[1] += 1
    assert scheduler.step(OUTPUT, chain[1], SAMPLE, seeded()).prev_sample.isfinite().all()
    expected = made(scheduler_class)
    expected.timesteps = torch.tensor(chain)
    scheduler._last_index = None
    assert torch.equal(walk(scheduler), walk(expected))
    with pytest.raises(ValueError, match="is not one of the 10"):
        scheduler.step(OUTPUT, chain[1] - 1, SAMPLE)
    if scheduler_class is DDPMFromScratchScheduler:
        scheduler.timesteps[2] += 1
        assert int(scheduler.previous_timestep(chain[1])) == chain[2] + 1


@both
@pytest.mark.parametrize(("value", "says"), [(0, "descending order"), (100, "a timestep is 100")])
def test_wrong_timesteps_in_place_are_refused_until_they_are_chosen_anew(scheduler_class, value, says):
    scheduler = made(scheduler_class)
    expected = walk(scheduler)
    scheduler.timesteps[0] = value
    for _ in range(2):
        with pytest.raises(ValueError, match=says):
            walk(scheduler)
    scheduler.set_timesteps(10)
    assert torch.equal(walk(scheduler), expected)


@both
def test_a_configuration_that_is_assigned_takes_effect(scheduler_class):
    """StableDiffusionPipeline.__init__ does so to change steps_offset."""
    scheduler = made(scheduler_class)
    walk(scheduler)
    scheduler._internal_dict = FrozenDict({**scheduler.config, "prediction_type": "sample", "beta_end": 0.2})
    expected = made(scheduler_class)
    expected.register_to_config(prediction_type="sample", beta_end=0.2)
    assert scheduler.config.prediction_type == "sample"
    assert torch.equal(walk(scheduler), walk(expected)) and torch.equal(noised(scheduler), noised(expected))


@both
def test_a_moved_table_keeps_the_chain(scheduler_class):
    """Pipelines of diffusers write `scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(device)`."""
    scheduler = made(scheduler_class)
    expected, chain = walk(scheduler), scheduler._chain
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to("cpu")
    scheduler.timesteps = scheduler.timesteps.to("cpu")
    assert scheduler._chain is chain
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to("cpu", copy=True)
    assert torch.equal(walk(scheduler), expected)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_copy_goes_on_with_the_estimates_of_the_walk(copied):
    """Its tensors have versions of their own, but the same values."""
    scheduler = made(FewStepScheduler)
    scheduler.alphas_cumprod.mul_(0.9)
    first, *rest = scheduler.timesteps.tolist()
    scheduler.step(OUTPUT, first, SAMPLE, seeded())
    assert torch.equal(walk(copied(scheduler), rest), walk(scheduler, rest))
