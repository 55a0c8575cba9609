"""From a file to a saved pipeline: which layout it is, where it goes, what the command prints."""

import json

import pytest
import torch

import convert
from common import seeded
from ddpm_from_scratch import DDPMFromScratchPipeline
from ddpm_from_scratch.conversion import converted
from ddpm_from_scratch.conversion.settings import ConversionSettings
from ddpm_from_scratch.runtime.errors import ConfigError
from foreign_networks import LucidrainsNetwork, OpenAINetwork

SIDE = ConversionSettings(image_size=8)


@pytest.fixture
def openai(tmp_path):
    network = OpenAINetwork(heads=4, attention=(1,))
    torch.save({f"module.{name}": value for name, value in network.weights.items()}, tmp_path / "ema.pt")
    return network, tmp_path / "ema.pt"


@pytest.fixture
def lucidrains(tmp_path):
    network = LucidrainsNetwork()
    torch.save(network.file(), tmp_path / "model-7.pt")
    return network, tmp_path / "model-7.pt"


@pytest.mark.parametrize("layout", ["openai", "lucidrains"])
def test_a_file_becomes_a_pipeline_that_loads(layout, tmp_path, request):
    network, path = request.getfixturevalue(layout)
    notes = converted.convert(str(path), str(tmp_path / "out"), SIDE)
    pipeline = DDPMFromScratchPipeline.from_pretrained(tmp_path / "out")
    pipeline.set_progress_bar_config(disable=True)
    sample = torch.randn(2, network.channels, 8, 8, generator=seeded())
    with torch.no_grad():
        found = pipeline.unet(sample, torch.tensor([5, 5])).sample
    torch.testing.assert_close(found, network(sample, torch.tensor([5, 5])), atol=1e-5, rtol=0)
    images = pipeline(batch_size=2, num_inference_steps=3, generator=seeded(), output_type="pt").images
    assert bool(images.isfinite().all())
    assert "network" in "\n".join(notes)


def test_an_unconditional_openai_network_is_portable_and_others_bring_their_code(
    openai, lucidrains, tmp_path
):
    for name, (_, path), index in (
        ("first", openai, ["diffusers", "UNet2DModel"]),
        ("second", lucidrains, ["lucidrains_unet", "LucidrainsUnet"]),
    ):
        converted.convert(str(path), str(tmp_path / name), SIDE)
        assert json.loads((tmp_path / name / "model_index.json").read_text())["unet"] == index


def test_the_command_says_what_was_read_and_assumed(openai, tmp_path, capsys):
    _, path = openai
    assert convert.main([str(path), str(tmp_path / "out"), "--image_size=8"]) == 0
    said = capsys.readouterr().out
    for part in ("'module.'", "--num_heads=4", "attention at 4 px", "publish.py"):
        assert part in said, part


def test_half_precision_weights_are_saved_as_float32(openai, tmp_path):
    network, path = openai
    torch.save({name: value.half() for name, value in network.weights.items()}, path)
    notes = converted.convert(str(path), str(tmp_path / "out"), SIDE)
    assert any("float16" in note for note in notes)
    assert DDPMFromScratchPipeline.from_pretrained(tmp_path / "out").unet.dtype == torch.float32


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            {"conv_in.weight": torch.ones(1), "down_blocks.0.x": torch.ones(1)},
            "names of diffusers: give its folder",
        ),
        ({"blocks.0.attn.weight": torch.ones(1)}, "has 'blocks.0.attn.weight', but must have the names of"),
    ],
)
def test_other_layouts_are_refused_by_the_names_they_have(content, says, tmp_path, capsys):
    torch.save(content, tmp_path / "other.pt")
    assert convert.main([str(tmp_path / "other.pt"), str(tmp_path / "out"), "--image_size=8"]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_nothing_is_written_over(openai, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="there and not empty"):
        converted.convert(str(openai[1]), str(tmp_path / "out"), SIDE)
    with pytest.raises(ConfigError, match="there and not empty"):
        converted.convert(str(openai[1]), str(openai[1]), SIDE)


def test_flags_do_not_apply_to_repositories(tmp_path):
    with pytest.raises(ConfigError, match="--image_size is 8, but a folder or repository of diffusers"):
        converted.convert(str(tmp_path), str(tmp_path / "out"), SIDE)
