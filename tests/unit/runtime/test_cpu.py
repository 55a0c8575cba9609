"""Training on a CPU: other memory and attention, the same network."""

import pytest
import torch

from ddpm_from_scratch import build_model, model_config
from ddpm_from_scratch.runtime import cpu


@pytest.mark.parametrize("keep", [True, False])
def test_allocation_thresholds_can_be_set_and_set_back(keep):
    assert cpu.keep_large_allocations(keep) in (True, False)
    assert float(torch.ones(3 * 2**20).sum()) == 3 * 2**20


def test_plain_attention_is_the_same_attention(generator):
    model = build_model(model_config("tiny")).eval()
    sample, timesteps = torch.randn(2, 1, 8, 8, generator=generator), torch.tensor([3, 900])
    with torch.no_grad():
        expected = model(sample, timesteps).sample
        assert cpu.use_plain_attention(model) > 0
        torch.testing.assert_close(model(sample, timesteps).sample, expected, atol=1e-5, rtol=1e-5)


def test_wide_heads_keep_the_fused_kernel():
    assert (
        cpu.use_plain_attention(build_model(model_config("small-32", block_out_channels=(32, 64, 64)))) == 0
    )
