"""LucidrainsUnet: what it computes is tested beside an independent statement in unit/conversion."""

import pytest
import torch

from common import seeded
from ddpm_from_scratch.networks.lucidrains_unet import LucidrainsUnet

SMALL = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 8, 16),
    "timestep_features": 8,
    "full_attention": (False, True),
    "num_attention_heads": (2, 2),
    "attention_head_width": (4, 4),
}


def test_saved_and_loaded_it_is_the_same_and_one_timestep_serves_all(tmp_path):
    torch.manual_seed(0)
    network = LucidrainsUnet(**SMALL).eval()
    network.save_pretrained(tmp_path)
    again = LucidrainsUnet.from_pretrained(tmp_path)
    sample = torch.randn(2, 1, 8, 8, generator=seeded())
    with torch.no_grad():
        expected = network(sample, torch.tensor([7, 7])).sample
        assert torch.equal(again(sample, 7).sample, expected)
        assert torch.equal(network(sample, torch.tensor(7), return_dict=False)[0], expected)


def test_it_learns():
    network = LucidrainsUnet(**SMALL)
    network(torch.randn(2, 1, 8, 8), torch.tensor([1, 2])).sample.square().mean().backward()
    assert all(weight.grad is not None and bool(weight.grad.any()) for weight in network.parameters())


def test_labels_are_refused():
    with pytest.raises(ValueError, match="not class-conditional"):
        LucidrainsUnet(**SMALL)(torch.zeros(1, 1, 8, 8), 0, class_labels=torch.tensor([0]))
