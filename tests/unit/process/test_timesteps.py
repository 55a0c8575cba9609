import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ddpm_from_scratch.checks import SchedulerWarning
from ddpm_from_scratch.process.timesteps import ORDERS, check_signal, checked_timesteps


@pytest.mark.parametrize(
    "value",
    [
        7,
        [7],
        torch.tensor(7),
        np.int64(7),
        torch.tensor([[7]]),
        torch.tensor([7], dtype=torch.int32),
    ],
    ids=repr,
)
def test_one_timestep_serves_a_batch(value):
    checked = checked_timesteps(value, 10, batch_size=3)
    assert checked.dtype == torch.int64 and checked.tolist() == [7]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_a_timestep_for_each_sample_may_have_a_dimension_for_the_channels(shape, dtype):
    """Stock's add_noise takes (B, 1), too."""
    checked = checked_timesteps(torch.tensor([0, 5, 9], dtype=dtype).reshape(shape), 10, batch_size=3)
    assert checked.dtype == torch.int64 and checked.tolist() == [0, 5, 9]


def test_right_timesteps_of_a_batch_are_not_copied():
    value = torch.tensor([1, 2])
    assert checked_timesteps(value, 10, batch_size=2) is value


@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        (torch.tensor([1, 10]), ValueError, "reach from 1 to 10, but must be in 0..9"),
        (torch.tensor([-1, 3]), ValueError, "reach from -1 to 3"),
        (10, ValueError, "reach from 10 to 10"),
        (torch.tensor([1, 2, 3]), ValueError, r"shape \(3,\)"),
        (torch.tensor([[1, 2]]), ValueError, r"shape \(1, 2\)"),
        (torch.tensor([1.5, 2.0]), ValueError, "1.5"),
        (torch.tensor([True, False]), TypeError, "torch.bool"),
        ("5", TypeError, "'5'"),
        (None, TypeError, "None"),
    ],
    ids=repr,
)
def test_wrong_timesteps_of_a_batch_are_refused(value, error, says):
    with pytest.raises(error, match=f"timesteps.*{says}"):
        checked_timesteps(value, 10, batch_size=2)


def test_values_that_cannot_be_read_are_left_to_the_lookup():
    """On an accelerator reading waits for it; these have no values at all."""
    on_meta = torch.tensor([1, 2], device="meta")
    assert checked_timesteps(on_meta, 10, batch_size=2) is on_meta
    with FakeTensorMode():
        fake = torch.tensor([1, 2])
        assert checked_timesteps(fake, 10, batch_size=2) is fake


@pytest.mark.parametrize(
    "value", [[9, 5, 0], (9, 5, 0), np.array([9, 5, 0]), torch.tensor([9, 5, 0], dtype=torch.int32)], ids=repr
)
def test_a_chain_may_be_any_sequence_of_integers(value):
    checked = checked_timesteps(value, 10, order="falling")
    assert checked.dtype == torch.int64 and checked.tolist() == [9, 5, 0]


def test_a_range_is_a_chain_and_floats_are_taken_with_a_warning():
    assert checked_timesteps(range(3), 10).tolist() == [0, 1, 2]
    with pytest.warns(SchedulerWarning, match="timesteps are floats"):
        assert checked_timesteps([2.0, 1.0], 10).tolist() == [2, 1]


CHAINS = {
    (5, 3, 0): {"falling", "monotone", "distinct"},
    (0, 3, 5): {"rising", "monotone", "distinct"},
    (3, 0, 5): {"distinct"},
    (3, 3, 5): set(),
    (4,): set(ORDERS),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_a_chain_has_the_order_that_is_asked_for(chain, order):
    assert checked_timesteps(chain, 10).tolist() == list(chain)
    if order in CHAINS[chain]:
        assert checked_timesteps(chain, 10, order=order).tolist() == list(chain)
    else:
        with pytest.raises(ValueError, match=r"timesteps are \[.*must " + ORDERS[order]):
            checked_timesteps(chain, 10, order=order)


@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        ([], ValueError, "at least one"),
        ([3, 10], ValueError, "a timestep is 10"),
        ([3, -1], ValueError, "a timestep is -1"),
        ([3, 0.5], TypeError, "a timestep is 0.5"),
        ([True], TypeError, "a timestep is True"),
        (torch.tensor([[1, 2]]), TypeError, r"a timestep is \[1, 2\]"),
        ("321", TypeError, "timesteps are '321'"),
        ({3, 2}, TypeError, "timesteps are"),
        (3, TypeError, "timesteps are 3"),
    ],
    ids=repr,
)
def test_what_is_no_chain_is_refused(value, error, says):
    with pytest.raises(error, match=says):
        checked_timesteps(value, 10)


def test_noise_says_nothing_of_the_data_where_no_signal_is_left():
    table = torch.tensor([0.9, 0.4, 0.0])
    with pytest.raises(ValueError, match="alpha_bar of timestep 2 is 0"):
        check_signal(torch.tensor([2, 0]), table, "epsilon")
    check_signal(torch.tensor([1, 0]), table, "epsilon")
    check_signal(torch.tensor([2, 0]), table, "v_prediction")
