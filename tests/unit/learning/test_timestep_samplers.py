import math

import pytest
import torch

from common import seeded
from ddpm_from_scratch.learning import timestep_samplers as samplers

T = 20


def uneven_losses(timesteps, generator):
    """Return losses that fall by four orders over the timesteps, with noise of a third."""
    size = 10.0 ** (-4 * timesteps / T)
    return size * (1 + torch.rand(timesteps.shape, generator=generator, dtype=torch.float64) - 0.5)


def warm_sampler(generator, **settings):
    sampler = samplers.LossAwareTimesteps(T, **settings)
    timesteps = torch.arange(T).repeat(12)
    sampler.update(timesteps, uneven_losses(timesteps, generator))
    return sampler


def test_stratified_timesteps_hit_every_stratum_once(generator):
    timesteps = samplers.stratified_timesteps(50, 1000, generator)
    assert torch.equal(timesteps // 20, torch.arange(50))


def test_parts_of_a_batch_make_up_the_strata_of_the_whole(generator):
    parts = [
        samplers.stratified_timesteps(8, 1000, generator, first_stratum=8 * i, num_strata=32)
        for i in range(4)
    ]
    assert torch.equal(torch.cat(parts) * 32 // 1000, torch.arange(32))
    with pytest.raises(ValueError, match="strata"):
        samplers.stratified_timesteps(8, 1000, first_stratum=30, num_strata=32)


@pytest.mark.parametrize("sampler", [samplers.uniform_timesteps, samplers.stratified_timesteps])
def test_timesteps_are_uniform(sampler, generator):
    counts = sum(torch.bincount(sampler(100, 10, generator), minlength=10) for _ in range(200))
    assert float((counts - 2000).abs().max()) < 5 * 2000**0.5


def test_loss_aware_timesteps_are_uniform_until_every_timestep_has_ten_losses(generator):
    sampler = samplers.LossAwareTimesteps(T)
    uniform = torch.full((T,), 1 / T, dtype=torch.float64)
    others = torch.arange(T - 1).repeat(30)
    sampler.update(others, uneven_losses(others, generator))
    sampler.update(torch.full((9,), T - 1), torch.ones(9))
    assert torch.equal(sampler.probabilities(), uniform)
    timesteps, weights = sampler.sample(2000, generator)
    assert float((torch.bincount(timesteps, minlength=T) - 100).abs().max()) < 5 * 100**0.5
    torch.testing.assert_close(weights, torch.ones(2000), rtol=1e-6, atol=0)
    sampler.update(torch.tensor([T - 1]), torch.ones(1))
    assert not torch.allclose(sampler.probabilities(), uniform)


def test_probabilities_are_the_root_mean_square_of_the_last_ten_losses():
    sampler = samplers.LossAwareTimesteps(3)
    rows = [[100.0] * 7 + [1.0, 3.0] * 5, [2.0] * 10, [9.0, 9.0] + [0.0] * 10]
    for timestep, row in enumerate(rows):
        sampler.update(torch.full((len(row),), timestep), torch.tensor(row))
    size = torch.tensor([math.sqrt((1 + 9) / 2), 2.0, 0.0], dtype=torch.float64)
    expected = 0.999 * size / size.sum() + 0.001 / 3
    torch.testing.assert_close(sampler.probabilities(), expected, rtol=1e-12, atol=0)


def test_history_is_the_same_however_the_losses_come_in_batches(generator):
    timesteps = torch.randint(4, (200,), generator=generator)
    losses = torch.rand(200, generator=generator)
    at_once, in_parts = samplers.LossAwareTimesteps(4), samplers.LossAwareTimesteps(4)
    at_once.update(timesteps, losses)
    for part in torch.arange(200).split(7):
        in_parts.update(timesteps[part], losses[part])
    for name, value in at_once.state_dict().items():
        assert torch.equal(value, in_parts.state_dict()[name])
    for t in range(4):
        last = losses[timesteps == t][-10:].double()
        assert torch.equal(at_once.history[t].sort().values, last.sort().values)


def test_weights_keep_the_expected_loss(generator):
    sampler = warm_sampler(generator)
    timesteps, weights = sampler.sample(200_000, generator)
    assert weights.dtype == torch.float32 and timesteps.dtype == torch.int64
    losses = 10.0 ** (-4 * timesteps / T)
    weighted = weights * losses
    truth = float((10.0 ** (-4 * torch.arange(T) / T)).mean())
    standard_error = float(weighted.std()) / len(weighted) ** 0.5
    assert float(weighted.mean()) == pytest.approx(truth, abs=5 * standard_error)
    assert float(losses.mean()) > 2 * truth  # which they would not without weights


def test_variance_of_the_loss_falls_where_losses_differ_by_orders(generator):
    sampler = warm_sampler(generator)
    timesteps, weights = sampler.sample(20_000, generator)
    aware = weights * uneven_losses(timesteps, generator)
    plain = uneven_losses(samplers.uniform_timesteps(20_000, T, generator), generator)
    assert float(aware.var()) < 0.1 * float(plain.var())


def test_every_timestep_stays_in_use(generator):
    sampler = samplers.LossAwareTimesteps(2, uniform_prob=0.02)
    sampler.update(torch.tensor([0, 1] * 10), torch.tensor([1.0, 0.0] * 10))
    timesteps, weights = sampler.sample(10_000, generator)
    assert int((timesteps == 1).sum()) == pytest.approx(100, abs=50)  # 5 standard errors
    assert float(weights.max()) == pytest.approx(50)


def test_restored_sampler_goes_on_as_the_first(generator):
    first = warm_sampler(generator)
    second = samplers.LossAwareTimesteps(T)
    state = first.state_dict()
    assert state["history"].shape == (T, 10) and state["history"].dtype == torch.float64
    assert state["counts"].shape == (T,) and state["counts"].dtype == torch.int64
    more = torch.arange(T)
    first.update(more, torch.full((T,), 7.0))  # does not reach the state that was taken
    second.load_state_dict(state)
    second.update(more, torch.full((T,), 7.0))
    for a, b in zip(first.sample(50, seeded()), second.sample(50, seeded()), strict=True):
        assert torch.equal(a, b)


def test_state_of_other_settings_is_refused(generator):
    state = warm_sampler(generator).state_dict()
    with pytest.raises(ValueError, match="history has shape"):
        samplers.LossAwareTimesteps(T + 1).load_state_dict(state)
    with pytest.raises(ValueError, match="history has shape"):
        samplers.LossAwareTimesteps(T, history_size=5).load_state_dict(state)
    with pytest.raises(ValueError, match="counts has shape"):
        samplers.LossAwareTimesteps(T).load_state_dict(state | {"counts": state["counts"].float()})
    with pytest.raises(KeyError):
        samplers.LossAwareTimesteps(T).load_state_dict({"history": state["history"]})


@pytest.mark.parametrize(
    ("timesteps", "losses", "message"),
    [
        (torch.tensor([0, 1]), torch.ones(3), "one loss for each sample"),
        (torch.tensor([0, T]), torch.ones(2), r"must be in 0\.\.19"),
        (torch.tensor([-1, 0]), torch.ones(2), r"reach from -1 to 0"),
        (torch.tensor([0, 3]), torch.tensor([1.0, math.nan]), "nan at timestep 3"),
        (torch.tensor([0, 3]), torch.tensor([1.0, math.inf]), "inf at timestep 3"),
    ],
)
def test_wrong_losses_are_refused_and_change_nothing(timesteps, losses, message):
    sampler = samplers.LossAwareTimesteps(T)
    with pytest.raises(ValueError, match=message):
        sampler.update(timesteps, losses)
    assert not sampler.history.any() and not sampler.counts.any()


@pytest.mark.parametrize("settings", [{"num_train_timesteps": 0}, {"history_size": 0}, {"uniform_prob": 1.5}])
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        samplers.LossAwareTimesteps(**{"num_train_timesteps": T} | settings)
