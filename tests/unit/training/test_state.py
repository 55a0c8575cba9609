"""The state of a run: what is saved is what is loaded, and nothing that is not finite is kept."""

import math

import pytest
import torch

from ddpm_from_scratch.runtime.errors import ConfigError, NonFiniteError
from ddpm_from_scratch.training.checkpoint import verify_checkpoint
from trainers import make_trainer, weights


def test_a_saved_state_is_loaded_whole(tmp_path):
    """Weights, average, optimizer and counters: the next update is the same."""
    flags = ("--use_ema", "--timestep_sampling=loss_aware")
    first, second = (make_trainer(tmp_path / name, *flags) for name in "ab")
    updates = first.updates()
    next(updates)
    next(updates)
    first.save_checkpoint()
    folder = tmp_path / "a" / "checkpoint-2"
    second.state.load(folder, verify_checkpoint(folder))
    assert torch.equal(weights(first), weights(second)) and second.update == 2
    next(updates)
    next(second.updates())
    assert torch.equal(weights(first), weights(second)) and first.state.samples_seen == 48
    assert second.state.samples_seen == 48 and first.state.ema.updates == second.state.ema.updates == 3
    for name, value in first.state.ema.tensors.items():
        assert torch.equal(value, second.state.ema.tensors[name]), name
    counts = [trainer.state.loss_aware.state_dict()["counts"] for trainer in (first, second)]
    assert torch.equal(*counts) and int(counts[0].sum()) == 48


def test_a_checkpoint_without_an_average_does_not_fit_a_run_with_one(tmp_path):
    make_trainer(tmp_path / "a").save_checkpoint()
    folder = tmp_path / "a" / "checkpoint-0"
    with pytest.raises(ConfigError, match="checkpoint-0' does not fit this configuration.*ema"):
        make_trainer(tmp_path / "b", "--use_ema").state.load(folder, verify_checkpoint(folder))


@pytest.mark.parametrize("where", ["network", "average"])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, where):
    trainer = make_trainer(tmp_path / "run", "--use_ema")
    state = trainer.state
    tensors = state.ema.tensors if where == "average" else dict(state.network.named_parameters())
    with torch.no_grad():
        next(iter(tensors.values())).view(-1)[0] = math.nan
    for save, what in ((trainer.save_checkpoint, "the checkpoint"), (trainer.export, "the pipeline")):
        with pytest.raises(NonFiniteError, match=f"{what} was not written"):
            save()
    assert not list(tmp_path.rglob("*.safetensors"))


def test_networks_of_its_own_draw_nothing_and_share_nothing(tmp_path):
    trainer = make_trainer(tmp_path / "run")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    raw = trainer.state.raw_network()
    assert torch.equal(torch.rand(1), expected), "the random stream went on"
    before = weights(trainer)
    with torch.no_grad():
        next(raw.parameters()).add_(1)
    assert torch.equal(weights(trainer), before)
