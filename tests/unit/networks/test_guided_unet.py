"""GuidedUNet2DModel is UNet2DModel but for its heads and its time embedding."""

import pytest
import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention

from common import seeded
from ddpm_from_scratch.networks.guided_unet import GuidedUNet2DModel

CONFIG = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 8,
    "down_block_types": ("AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D"),
}


def output(model):
    sample = torch.randn(2, 3, 8, 8, generator=seeded())
    with torch.no_grad():
        return model.eval()(sample, torch.tensor([3, 700])).sample


def test_without_its_settings_it_is_the_stock_network():
    stock = UNet2DModel(**CONFIG)
    ours = GuidedUNet2DModel(**CONFIG)
    ours.load_state_dict(stock.state_dict())
    assert torch.equal(output(ours), output(stock))


def test_heads_are_as_many_at_every_width_and_change_no_weight():
    ours = GuidedUNet2DModel(num_attention_heads=4, **CONFIG)
    layers = [module for module in ours.modules() if isinstance(module, Attention)]
    assert {layer.heads for layer in layers} == {4} and {layer.inner_dim for layer in layers} == {16, 32}
    stock = UNet2DModel(**CONFIG)  # with 2 and 4 heads
    ours.load_state_dict(stock.state_dict())
    assert not torch.allclose(output(ours), output(stock))


def test_saved_and_loaded_it_is_the_same(tmp_path):
    ours = GuidedUNet2DModel(num_attention_heads=4, timestep_features=20, **CONFIG)
    ours.save_pretrained(tmp_path)
    again = GuidedUNet2DModel.from_pretrained(tmp_path)
    assert again.config.num_attention_heads == 4 and again.time_embedding.linear_1.in_features == 20
    assert again.config.block_out_channels == [16, 32] and torch.equal(output(ours), output(again))


@pytest.mark.parametrize(
    "wrong", [{"num_attention_heads": 3}, {"num_attention_heads": 0}, {"timestep_features": 0}]
)
def test_wrong_numbers_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
        GuidedUNet2DModel(**wrong, **CONFIG)
