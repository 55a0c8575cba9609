"""A network that gives nan is named at the step where it happens."""

import math

import pytest
import torch
from torch import nn

from ddpm_from_scratch.networks.finite_outputs import FiniteOutputs

GIVEN = torch.zeros(2, 3)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_one_wrong_number_is_found_with_timestep_and_dtype(wrong, dtype):
    output = torch.zeros(2, 3, dtype=dtype)
    output[1, 2] = wrong
    outputs = FiniteOutputs(nn.Linear(2, 2))
    outputs.see(torch.zeros(2, 3), 20, GIVEN)
    name = str(dtype).split(".")[1]
    with pytest.raises(FloatingPointError, match=f"output is not finite at timestep 17, in {name}"):
        outputs.see(output, torch.tensor(17), GIVEN)


def test_infinities_of_both_signs_do_not_cancel():
    with pytest.raises(FloatingPointError):
        FiniteOutputs(None).see(torch.tensor([[math.inf, -math.inf]]), 1, GIVEN)


def test_half_precision_is_told_what_to_do():
    with pytest.raises(FloatingPointError, match="float16 ends at 65504: try bfloat16"):
        FiniteOutputs(None).see(torch.full((1, 1), math.inf, dtype=torch.float16), 1, GIVEN)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_sum_that_overflows_is_no_fault(dtype):
    FiniteOutputs(None).see(torch.full((10,), torch.finfo(dtype).max, dtype=dtype), 1, GIVEN)


def test_a_sum_that_overflows_in_half_is_no_fault_at_the_end_either(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    outputs, large = FiniteOutputs(None), torch.full((10,), 60000.0, dtype=torch.float16)
    outputs.see(large, 1, GIVEN)
    outputs.finish(large)


def test_an_input_that_is_not_finite_is_not_blamed_on_the_network():
    nan = torch.full((1, 1), math.nan)
    with pytest.raises(FloatingPointError, match="network's input is not finite at timestep 3.*callback"):
        FiniteOutputs(None).see(nan, 3, nan)


def test_the_last_sample_is_looked_at():
    FiniteOutputs(None).finish(torch.zeros(1))
    with pytest.raises(FloatingPointError, match="the last sample is not: look at the scheduler"):
        FiniteOutputs(None).finish(torch.tensor([math.nan]))


def test_where_nothing_may_wait_the_first_step_is_found_at_the_end(monkeypatch):
    """On an accelerator, and where several processes must evaluate the network equally often."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    outputs, wrong = FiniteOutputs(None), torch.tensor([0.0, math.nan])
    for timestep, output in ((9, torch.zeros(2)), (6, wrong), (3, wrong)):
        outputs.see(output, torch.tensor(timestep), GIVEN)
    with pytest.raises(FloatingPointError, match="output is not finite at timestep 6"):
        outputs.finish(wrong)


def test_a_compiled_loop_has_no_check(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    outputs = FiniteOutputs(None)
    outputs.see(torch.tensor([math.nan]), 1, GIVEN)
    outputs.finish(torch.tensor([math.nan]))


def test_it_compiles_to_one_graph():
    outputs = FiniteOutputs(None)

    def step(sample):
        outputs.see(sample * 2, 1, sample)
        return sample * 2

    assert torch.compile(step, fullgraph=True, backend="eager")(torch.ones(2)).tolist() == [2, 2]
