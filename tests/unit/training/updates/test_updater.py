"""Weights in one tensor: the same training as with a tensor for each parameter, and the same checkpoints."""

import pytest
import torch

from ddpm_from_scratch import build_model, model_config
from ddpm_from_scratch.training.config import TrainingConfig
from ddpm_from_scratch.training.updates.updater import FlatUpdater, Updater, make_updater
from loops import fresh_accelerator

KINDS = {"apart": Updater, "flat": FlatUpdater}


def make(kind, name="points", **settings):
    torch.manual_seed(0)
    network = build_model(model_config(name))
    config = TrainingConfig(dataset_name="swiss_roll", **{"learning_rate": 0.01} | settings)
    return kind(fresh_accelerator("no"), network, config)


def train(updater, updates):
    """Do updates number `updates`, each of two batches, and return the norms of their gradients."""
    norms = []
    for update in updates:
        source = torch.Generator().manual_seed(update)
        for last in (False, True):
            x, t = torch.randn(16, 2, generator=source), torch.arange(16)
            with updater.batch(last):
                updater.backward((updater.model(x, t).sample - x).square().mean() / 2)
        norms.append(float(updater.gradient_norm()))
        assert updater.step(updater.base_rates, norms[-1], skip=False)
    return norms


def weights(updater):
    return torch.cat([parameter.detach().flatten() for parameter in updater.network.parameters()])


@pytest.mark.parametrize("largest", [0.1, 100.0], ids=["clipped", "not clipped"])
def test_weights_in_one_tensor_are_trained_as_weights_apart(largest):
    updaters = [make(kind, max_grad_norm=largest) for kind in KINDS.values()]
    start = weights(updaters[0])
    norms = [train(updater, range(5)) for updater in updaters]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5) and (min(norms[0]) > largest) == (largest < 1)
    assert float((weights(updaters[0]) - start).abs().max()) > 0.01
    # Sums of squares in another order, in float32.
    torch.testing.assert_close(weights(updaters[1]), weights(updaters[0]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
def test_a_state_of_either_kind_goes_on_in_either(first, second):
    stopped, resumed, straight = make(KINDS[first]), make(KINDS[second]), make(KINDS[first])
    train(stopped, range(3))
    tensors, numbers = stopped.optimizer_state(keep=True)
    saved = {name: value.clone() for name, value in stopped.network.state_dict().items()}
    train(stopped, [9])  # what is saved is a copy
    resumed.load(saved, tensors, numbers)
    train(resumed, range(3, 6))
    train(straight, range(6))
    if first == second:
        assert torch.equal(weights(resumed), weights(straight))
    else:
        torch.testing.assert_close(weights(resumed), weights(straight), rtol=0, atol=1e-5)


def test_the_states_have_the_same_names_and_shapes():
    states = []
    for kind in KINDS.values():
        updater = make(kind)
        train(updater, range(1))
        tensors, numbers = updater.optimizer_state(keep=True)
        assert numbers == {} and updater.optimizer_state(keep=False)[0] == {}
        states.append({name: tuple(value.shape) for name, value in tensors.items()})
    assert states[0] == states[1] and len(states[0]) > 40


def test_a_state_of_another_network_is_refused():
    other = make(FlatUpdater, "tiny")
    tensors, numbers = make(FlatUpdater).optimizer_state(keep=True)
    with pytest.raises(ValueError, match="names differ"):
        other.load(make(FlatUpdater).network.state_dict(), tensors, numbers)


def test_a_skipped_update_changes_nothing():
    skipping, straight = make(FlatUpdater), make(FlatUpdater)
    train(skipping, range(2))
    before = weights(skipping)
    updater = skipping
    updater.backward(updater.model(torch.full((16, 2), float("nan")), torch.arange(16)).sample.sum())
    norm = float(updater.gradient_norm())
    assert norm != norm and not updater.step(updater.base_rates, norm, skip=True)
    assert torch.equal(weights(updater), before)
    train(skipping, range(2, 4))
    train(straight, range(4))
    assert torch.equal(weights(skipping), weights(straight))


@pytest.mark.parametrize(
    ("name", "optimizer", "kind"),
    [("points", "adamw", FlatUpdater), ("points", "muon", Updater), ("digits", "adamw", Updater)],
)
def test_only_small_networks_have_their_weights_in_one_tensor(name, optimizer, kind):
    assert type(make(make_updater, name, optimizer=optimizer)) is kind
