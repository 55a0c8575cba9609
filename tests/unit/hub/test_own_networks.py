"""Networks of one's own in a saved pipeline: what cannot be loaded again is said at saving."""

import json
import warnings

import pytest
import torch
from diffusers import UNet2DModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from ddpm_from_scratch import DDPMFromScratchPipeline, DDPMFromScratchScheduler, register_network
from ddpm_from_scratch.hub.layouts import file_of
from ddpm_from_scratch.networks import registry


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})


class PlainNet(nn.Module):
    """Two layers and a time, as in a page of one's own."""

    def __init__(self, width=4, sample_shape=(2,)):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))

    def forward(self, sample, timestep):
        return self.layers(torch.cat([sample, timestep[:, None] / 1000], dim=1))


class MixedNet(ModelMixin, ConfigMixin):
    """The same in diffusers' manner; its forward returns a tuple."""

    @register_to_config
    def __init__(self, sample_shape=(2,), rate=0):
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, sample, timestep):
        return (self.inner(torch.cat([sample, timestep[:, None] * self.config.rate], dim=1)),)


class NothingToLearn(ModelMixin, ConfigMixin):
    """A network without a weight."""

    @register_to_config
    def __init__(self, sample_shape=(2,)):
        super().__init__()

    def forward(self, sample, timestep):
        return 0.5 * sample


class LooksAtItsNumbers(ModelMixin, ConfigMixin):
    """A constructor that cannot run without memory."""

    @register_to_config
    def __init__(self, numbers=(1.0, 2.0), sample_shape=(2,)):
        super().__init__()
        found = torch.tensor(numbers)
        self.register_buffer("shares", found / float(found.sum()))

    def forward(self, sample, timestep):
        return sample * self.shares


def pipeline_of(network):
    pipeline = DDPMFromScratchPipeline(network.eval(), DDPMFromScratchScheduler(clip_sample=False))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def samples(pipeline):
    return pipeline(3, torch.Generator().manual_seed(0), num_inference_steps=4).images


@pytest.mark.parametrize("how", ["registered", "trusted"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: register_network(PlainNet)(5),
        lambda: MixedNet(rate=0.001),  # an int as default, a float in the configuration
        LooksAtItsNumbers,
        lambda: MixedNet().to(torch.bfloat16),
    ],
    ids=["plain", "mixed", "needs memory", "half"],
)
def test_saved_networks_come_back(tmp_path, make, how, monkeypatch):
    torch.manual_seed(0)
    pipeline = pipeline_of(make())
    state = torch.get_rng_state()
    pipeline.save_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), state), "checks draw nothing"
    name = type(pipeline.unet).__name__
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["unet"] == [file_of(type(pipeline.unet)), name]
    monkeypatch.setattr(registry, "_registered", {})
    with pytest.raises(ValueError, match=rf"register_network\({name}\) first.*trust_remote_code=True"):
        DDPMFromScratchPipeline.from_pretrained(tmp_path)
    if how == "registered":
        register_network(globals()[name])
        (tmp_path / "unet" / f"{index['unet'][0]}.py").write_text("raise AssertionError('it ran')")
    dtype = {"dtype": pipeline.unet.dtype} if pipeline.unet.dtype == torch.bfloat16 else {}
    loaded = DDPMFromScratchPipeline.from_pretrained(tmp_path, trust_remote_code=how == "trusted", **dtype)
    assert (type(loaded.unet).__module__ == __name__) is (how == "registered")
    loaded.unet.eval()
    loaded.set_progress_bar_config(disable=True)
    assert (samples(loaded) == samples(pipeline)).all()
    if how == "trusted":  # what was loaded so is saved again so
        loaded.save_pretrained(tmp_path / "again")
        again = DDPMFromScratchPipeline.from_pretrained(tmp_path / "again", trust_remote_code=True, **dtype)
        assert type(again.unet).__name__ == name


def test_code_that_fails_is_named(tmp_path):
    pipeline_of(MixedNet()).save_pretrained(tmp_path)
    (tmp_path / "unet" / "mixed_net.py").write_text("import no_such_package")
    with pytest.raises(ValueError, match=r"mixed_net\.py cannot be used: No module named 'no_such_package'"):
        DDPMFromScratchPipeline.from_pretrained(tmp_path, trust_remote_code=True)


def test_saving_another_network_into_the_folder_leaves_no_code_of_the_first(tmp_path):
    pipeline_of(MixedNet()).save_pretrained(tmp_path)
    (tmp_path / "unet" / "notes.py").write_text("# of somebody")
    pipeline_of(LooksAtItsNumbers()).save_pretrained(tmp_path)
    assert {path.name for path in (tmp_path / "unet").glob("*.py")} == {"looks_at_its_numbers.py", "notes.py"}


class Setting:
    """Something that JSON cannot say."""


class Choosy(ModelMixin, ConfigMixin):
    """Takes anything, and needs it."""

    @register_to_config
    def __init__(self, setting=None, sizes=None):
        super().__init__()
        self.inner = nn.Linear(2, sizes[2] if sizes else 2)

    def forward(self, sample, timestep):
        return self.inner(sample)


class Unnoted(ModelMixin, ConfigMixin):
    """Forgets what it was made with."""

    def __init__(self, width, sample_shape=(2,)):
        super().__init__()
        self.inner = nn.Linear(2, width)


class HalfNoted(ModelMixin, ConfigMixin):
    """Gets a layer after it was made."""

    @register_to_config
    def __init__(self, sample_shape=(2,)):
        super().__init__()
        self.inner = nn.Linear(2, 2)


class Tied(ModelMixin, ConfigMixin):
    """Two names for one tensor."""

    @register_to_config
    def __init__(self, sample_shape=(2,)):
        super().__init__()
        self.one = nn.Linear(2, 2)
        self.two = nn.Linear(2, 2)
        self.two.weight = self.one.weight


def grown():
    network = HalfNoted()
    network.late = nn.Linear(2, 2)
    return network


def reshaped():
    network = HalfNoted()
    network.inner = nn.Linear(2, 3)
    return network


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (PlainNet, TypeError, r"plain nn.Module.*PlainNet = register_network\(PlainNet\).*ModelMixin"),
        (lambda: Choosy(setting=Setting()), ValueError, "cannot be built again.*Setting"),
        (lambda: Choosy(sizes={2: 2}), ValueError, "cannot be built again from its configuration: 2"),
        (lambda: Unnoted(2), ValueError, "cannot be built again.*width.*register_to_config"),
        (grown, ValueError, "the one that is built lacks 'late.bias'"),
        (reshaped, ValueError, r"'inner.weight' has the shape \(2, 2\) in place of \(3, 2\)"),
        (NothingToLearn, ValueError, r"has no weights.*register_buffer"),
        (Tied, ValueError, "'one.weight' and 'two.weight' are one tensor"),
        (type("UNet2DModel", (MixedNet,), {}), ValueError, "has the name of a class of diffusers"),
        (type("PointDenoiser", (MixedNet,), {}), ValueError, "has the name of a class of this package"),
    ],
    ids=[
        "plain",
        "no JSON",
        "keys",
        "unnoted",
        "grown",
        "reshaped",
        "no weights",
        "tied",
        "name",
        "our name",
    ],
)
def test_what_cannot_be_loaded_again_is_refused_before_anything_is_written(tmp_path, make, error, message):
    pipeline = pipeline_of(make())
    with pytest.raises(error, match=message):
        pipeline.save_pretrained(tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_class_that_cannot_stand_alone_is_saved_with_a_warning_and_loads_when_registered(tmp_path):
    class Inner(MixedNet):
        pass

    with pytest.warns(UserWarning, match=r"inside test_a_class.*after register_network\(Inner\)") as caught:
        pipeline_of(Inner()).save_pretrained(tmp_path)
    assert caught[0].filename == __file__
    assert not list((tmp_path / "unet").glob("*.py"))
    with pytest.raises(ValueError, match="does not know"):
        DDPMFromScratchPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    register_network(Inner)
    assert type(DDPMFromScratchPipeline.from_pretrained(tmp_path).unet) is Inner


def test_a_shape_that_is_not_in_the_configuration_is_said(tmp_path):
    network = Choosy()
    network.sample_shape = (2,)
    with pytest.warns(UserWarning, match=r"\(2,\), is not in its configuration.*argument of its constructor"):
        pipeline_of(network).save_pretrained(tmp_path)
    loaded = DDPMFromScratchPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    with pytest.raises(ValueError, match="shape of a sample of Choosy is not known"):
        loaded()


def test_a_subclass_of_a_network_of_diffusers_is_one_of_ones_own(tmp_path):
    class Wider(UNet2DModel):
        pass

    network = Wider(8, 1, 1, block_out_channels=(8,), down_block_types=("DownBlock2D",),
                    up_block_types=("UpBlock2D",), norm_num_groups=4)  # fmt: skip
    with pytest.warns(UserWarning, match="is not saved beside"):
        pipeline_of(network).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["unet"][1] == "Wider"
    register_network(Wider)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(DDPMFromScratchPipeline.from_pretrained(tmp_path).unet) is Wider


def test_the_name_of_the_file_is_that_of_the_class():
    names = {"MyNet": "my_net", "MLP": "mlp", "UNetBig": "u_net_big", "net": "net"}
    assert {name: file_of(type(name, (), {})) for name in names} == names
