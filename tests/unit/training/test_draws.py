"""The draws of a batch depend on the seed, the update, the batch and the process, and on nothing else."""

from types import SimpleNamespace

import pytest
import torch

from ddpm_from_scratch.learning.timestep_samplers import LossAwareTimesteps
from ddpm_from_scratch.training.config import TrainingConfig
from ddpm_from_scratch.training.draws import Draws

SAMPLES, LABELS = torch.zeros(8, 1, 4, 4), torch.arange(8)


def draws(rank=0, processes=1, network=None, **settings):
    config = TrainingConfig(dataset_name="digits", train_batch_size=8, label_column="label", **settings)
    where = SimpleNamespace(process_index=rank, num_processes=processes)
    sampler = LossAwareTimesteps(config.ddpm_num_steps) if config.timestep_sampling == "loss_aware" else None
    return Draws(config, where, network or torch.nn.Linear(1, 1), sampler, 10)


@pytest.mark.parametrize("sampling", ["uniform", "stratified", "loss_aware"])
def test_a_draw_is_the_same_whatever_was_drawn_before(sampling):
    settings = {"timestep_sampling": sampling, "gradient_accumulation_steps": 2, "label_dropout": 0.5}
    one, other = (draws(**settings) for _ in range(2))
    other(SAMPLES, LABELS, 3, 1)
    torch.manual_seed(99)
    first, again = one(SAMPLES, LABELS, 4, 0), other(SAMPLES, LABELS, 4, 0)
    for name in ("noise", "timesteps", "labels"):
        assert torch.equal(getattr(first, name), getattr(again, name)), name
    assert 0 < int((first.labels == 10).sum()) < 8


@pytest.mark.parametrize(
    ("settings", "where"), [({"seed": 1}, (4, 0)), ({}, (5, 0)), ({}, (4, 1)), ({"rank": 1}, (4, 0))]
)
def test_another_seed_update_batch_or_process_draws_anew(settings, where):
    first = draws(processes=2)(SAMPLES, LABELS, 4, 0)
    other = draws(processes=2, **settings)(SAMPLES, LABELS, *where)
    assert not torch.equal(first.noise, other.noise) and not torch.equal(first.timesteps, other.timesteps)


def test_the_strata_of_an_update_are_shared_by_its_batches_and_processes():
    """Each of 32 strata of 10 timesteps has one, over two processes of two batches."""
    settings = {"timestep_sampling": "stratified", "gradient_accumulation_steps": 2, "ddpm_num_steps": 320}
    drawn = [
        draws(rank, 2, **settings)(SAMPLES, LABELS, 4, micro).timesteps for rank in (0, 1) for micro in (0, 1)
    ]
    assert sorted((torch.cat(drawn) // 10).tolist()) == list(range(32))


def test_dropout_is_seeded_only_where_there_is_some():
    found = []
    for layer in (torch.nn.Dropout(0.5), torch.nn.Dropout(0.0)):
        each = []
        for update in (4, 4, 5):
            torch.manual_seed(update + len(each))
            draws(network=layer)(SAMPLES, LABELS, update, 0)
            each.append(float(torch.rand(())))
        found.append(each)
    with_dropout, without = found
    assert with_dropout[0] == with_dropout[1] != with_dropout[2] and without[0] != without[1]
