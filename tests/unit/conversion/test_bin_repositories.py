"""Pipelines and networks with weights as `.bin`: saved as safetensors, the same numbers, nothing run."""

import json
import shutil

import pytest
import torch
from diffusers import UNet2DModel

from common import seeded
from ddpm_from_scratch import DDPMFromScratchPipeline
from ddpm_from_scratch.conversion.bin_repositories import convert_repository
from ddpm_from_scratch.runtime.errors import ConfigError
from tiny_cases import tiny


@pytest.fixture
def pipeline():
    network, scheduler = tiny("fixed_small", dtype=torch.float32)
    found = DDPMFromScratchPipeline(unet=network, scheduler=scheduler)
    found.set_progress_bar_config(disable=True)
    return found


@pytest.fixture
def old(pipeline, tmp_path):
    """The folder of that pipeline as it was in 2022: one pickle, attention by its old names."""
    folder = tmp_path / "old"
    pipeline.save_pretrained(folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = {}
    for name, value in pipeline.unet.state_dict().items():
        for new, before in names.items():
            name = name.replace(f".{new}.", f".{before}.")
        weights[name] = value
    assert any(".proj_attn." in name for name in weights)
    torch.save(weights, folder / "unet" / "diffusion_pytorch_model.bin")
    return folder


def converted(folder, tmp_path):
    notes = []
    convert_repository(str(folder), tmp_path / "new", notes)
    assert not list((tmp_path / "new").rglob("*.bin"))
    return DDPMFromScratchPipeline.from_pretrained(tmp_path / "new"), notes


def same_samples(first, second):
    first.set_progress_bar_config(disable=True)
    second.set_progress_bar_config(disable=True)
    made = [pipe(batch_size=2, generator=seeded(), output_type="pt").images for pipe in (first, second)]
    return torch.equal(*made)


def test_an_old_pipeline_samples_as_it_did(old, pipeline, tmp_path):
    found, notes = converted(old, tmp_path)
    assert same_samples(found, pipeline)
    assert list(found.unet.config.block_out_channels) == list(pipeline.unet.config.block_out_channels)
    assert "diffusion_pytorch_model.bin" in notes[0]


def test_files_at_the_top_as_in_the_first_repositories(old, pipeline, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in old.rglob("*"):
        if path.is_file() and path.name != "pipeline.py":
            shutil.copy(path, flat)
    found, _ = converted(flat, tmp_path)
    assert same_samples(found, pipeline)


def test_shards_and_other_variants(old, pipeline, tmp_path):
    unet = old / "unet"
    whole = torch.load(unet / "diffusion_pytorch_model.bin", weights_only=True)
    names = sorted(whole)
    index = {}
    for number, part in enumerate((names[:10], names[10:]), 1):
        file = f"diffusion_pytorch_model-0000{number}-of-00002.bin"
        torch.save({name: whole[name] for name in part}, unet / file)
        index |= dict.fromkeys(part, file)
    (unet / "diffusion_pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    (unet / "diffusion_pytorch_model.bin").rename(unet / "diffusion_pytorch_model.non_ema.bin")
    found, notes = converted(old, tmp_path)
    assert same_samples(found, pipeline)
    assert any("non_ema" in note for note in notes), "what is left is said"


def test_a_network_alone_becomes_a_network_alone(old, pipeline, tmp_path):
    notes = []
    convert_repository(str(old / "unet"), tmp_path / "new", notes)
    found = UNet2DModel.from_pretrained(tmp_path / "new", use_safetensors=True)
    for name, value in pipeline.unet.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    assert any("no scheduler" in note for note in notes)


class Evil:
    def __reduce__(self):
        return (print, ("this must not run",))


def spoil(old, how, tmp_path):
    unet, weights = old / "unet", old / "unet" / "diffusion_pytorch_model.bin"
    state = torch.load(weights, weights_only=True)
    if how == "a pickle that runs code":
        torch.save({"a": Evil()}, weights)
    elif how == "no weights":
        weights.unlink()
    elif how == "a variant only":
        weights.rename(unet / "diffusion_pytorch_model.fp16.bin")
    elif how == "safetensors":
        weights.rename(unet / "diffusion_pytorch_model.safetensors")
    elif how == "a weight is missing":
        torch.save({name: value for name, value in state.items() if name != "conv_in.bias"}, weights)
    elif how == "another shape":
        torch.save(state | {"conv_in.bias": torch.ones(3)}, weights)
    elif how == "not finite":
        torch.save(state | {"conv_in.bias": state["conv_in.bias"] * float("nan")}, weights)
    elif how == "no configuration":
        (unet / "config.json").unlink()
    elif how == "no scheduler":
        (old / "scheduler" / "scheduler_config.json").unlink()
    elif how == "another pipeline":
        index = json.loads((old / "model_index.json").read_text())
        (old / "model_index.json").write_text(json.dumps(index | {"vae": ["diffusers", "AutoencoderKL"]}))
    elif how == "another network":
        config = json.loads((unet / "config.json").read_text())
        (unet / "config.json").write_text(json.dumps(config | {"_class_name": "UNet2DConditionModel"}))
        return unet
    elif how == "not there":
        return "nobody/nothing"
    return old


BAD = {
    "a pickle that runs code": "more than weights",
    "no weights": "must have diffusion_pytorch_model.bin, and does not",
    "a variant only": "there is diffusion_pytorch_model.fp16.bin",
    "safetensors": "must not be converted",
    "a weight is missing": "lacks 'conv_in.bias'",
    "another shape": r"'conv_in.bias' of shape \(3,\)",
    "not finite": "not finite",
    "no configuration": "config.json is missing",
    "no scheduler": "scheduler_config.json is missing",
    "another pipeline": "vae",
    "another network": "UNet2DConditionModel, but must be",
    "not there": "source is 'nobody/nothing', but must be",
}


@pytest.mark.parametrize("how", BAD)
def test_what_cannot_be_converted_is_refused_in_one_line(how, old, tmp_path, capsys):
    source = spoil(old, how, tmp_path)
    with pytest.raises(ConfigError, match=BAD[how]) as error:
        convert_repository(str(source), tmp_path / "new", [])
    assert "\n" not in str(error.value) and not (tmp_path / "new").exists()
    assert "this must not run" not in capsys.readouterr().out
