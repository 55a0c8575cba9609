"""Classes of networks by name: those of this package, and those that users register."""

import pytest
import torch
from diffusers import UNet1DModel, UNet2DModel
from torch import nn

from ddpm_from_scratch import PointDenoiser, register_network
from ddpm_from_scratch.networks import registry


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})


class Line(nn.Module):
    """A plain module, with arguments of every kind."""

    def __init__(self, width, *, depth=2, sample_shape=(2,)):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, sample, timestep):
        return sample


def test_a_plain_module_gets_ways_of_saving_and_remembers_what_it_was_made_with(tmp_path):
    found = register_network(Line)
    assert issubclass(found, Line) and registry.network_classes()["Line"] is found
    network = found(3, depth=1)
    assert (network.config.width, network.config.depth, network.config.sample_shape) == (3, 1, (2,))
    network.save_pretrained(tmp_path)
    again = found.from_pretrained(tmp_path)
    assert torch.equal(again.layers[0].weight, network.layers[0].weight) and len(again.layers) == 1


def test_a_module_without_a_constructor_of_its_own_is_one_too(tmp_path):
    class Nothing(nn.Module):
        def forward(self, sample, timestep):
            return 0 * sample

    network = register_network(Nothing)()
    network.save_pretrained(tmp_path)
    assert isinstance(type(network).from_config(type(network).load_config(tmp_path)), Nothing)


def test_a_class_of_diffusers_manners_stays_what_it_is_and_a_later_one_takes_its_place():
    class Mine(PointDenoiser):
        pass

    first = register_network(Mine)
    assert first is Mine

    class Mine(PointDenoiser):  # noqa: F811
        pass

    assert register_network(Mine) is not first and registry.network_classes()["Mine"] is Mine


@pytest.mark.parametrize("wrong", [None, "MyNet", Line(2), dict, lambda sample, timestep: sample])
def test_what_is_no_class_of_networks_is_refused(wrong):
    with pytest.raises(TypeError, match="needs a class that derives from nn.Module"):
        register_network(wrong)


@pytest.mark.parametrize("name", ["UNet2DModel", "PointDenoiser", "LucidrainsUnet", "AutoencoderKL"])
def test_names_of_others_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} has the name of a class of (diffusers|this package)"):
        register_network(type(name, (Line,), {}))


def test_whose_a_class_is():
    assert not registry.is_foreign(UNet2DModel) and not registry.is_foreign(PointDenoiser)
    assert registry.is_foreign(Line)
    loaded = type("PointDenoiser", (PointDenoiser,), {"_code_file": "of another version"})
    assert not registry.is_foreign(loaded)
    assert register_network(UNet1DModel) is UNet1DModel  # of diffusers, and not known without
