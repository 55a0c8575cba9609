"""The coefficients of noising, and what a compiled graph makes of them."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from common import seeded
from ddpm_from_scratch import DDPMFromScratchScheduler
from ddpm_from_scratch.schedulers.noising_table import NoisingTable

X = torch.zeros(2, 3, 4, 4)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed))


def test_compiled_add_noise_gives_nan_out_of_range():
    torch._dynamo.reset()
    scheduler = DDPMFromScratchScheduler()
    compiled = torch.compile(scheduler.add_noise, backend="aot_eager", fullgraph=True)
    for t in (-1, -1000, 1000):
        result = compiled(X, X, torch.tensor([5, t]))
        assert not bool(result[0].isnan().any()) and bool(result[1].isnan().all()), t


def test_add_noise_compiles_to_one_graph():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    scheduler = DDPMFromScratchScheduler()
    compiled = torch.compile(scheduler.add_noise, backend=counter, fullgraph=True)
    x, noise = X + 0.5, normal(2, 3, 4, 4)
    for t in ([0, 999], [3, 500]):
        assert torch.equal(
            compiled(x, noise, torch.tensor(t)), scheduler.add_noise(x, noise, torch.tensor(t))
        )
    assert counter.frame_count == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_rounded_last(dtype):
    """1 - alpha-bar of a rounded alpha-bar would be 0 at the first timesteps: no noise at all."""
    exact = DDPMFromScratchScheduler().alphas_cumprod
    samples, timesteps = torch.zeros(3, 2, dtype=dtype), torch.tensor([0, 1, 999])
    found = NoisingTable(exact).scales_at(timesteps, samples, samples, "original_samples")
    assert torch.equal(found.noise[:, 0], ((1 - exact[timesteps]) ** 0.5).to(dtype))
    assert torch.equal(found.signal[:, 0], (exact[timesteps] ** 0.5).to(dtype))
    assert float(1 - exact[:1].to(dtype)) == 0 < float(found.noise[0])


def test_the_table_keeps_its_values_when_the_tensor_it_was_made_from_changes():
    given, samples = torch.tensor([0.75, 0.36]), torch.zeros(1, 2, dtype=torch.float64)
    table = NoisingTable(given)
    given.zero_()
    found = table.scales_at(
        torch.tensor([1]), samples, samples, "original_samples"
    )  # another dtype: made now
    assert found.signal.item() == pytest.approx(0.6) and found.noise.item() == pytest.approx(0.8)


@pytest.mark.parametrize("timestep", [-1, 2])
def test_a_timestep_out_of_range_is_refused_with_the_range(timestep):
    samples = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=rf"{timestep}.*must be in 0..1"):
        NoisingTable(torch.tensor([0.9, 0.5])).scales_at([0, timestep], samples, samples, "original_samples")
