"""Nothing of a saved pipeline is trusted: not its names, not its sizes, not its numbers, not its code.

From a Hub, and under a limit of memory: tests/runs/test_pulling.py.
"""

import pickle
import shutil

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file

from common import seeded
from ddpm_from_scratch import DDPMFromScratchPipeline
from spoiled import CONFIG, SCHEDULER, SPOILED, WEIGHTS, pipeline_of


def samples(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(batch_size=2, num_inference_steps=3, generator=seeded(), output_type="pt").images


@pytest.mark.parametrize("case", SPOILED)
def test_refused_with_the_name_of_the_file(saved, case):
    name, spoil, file, text = SPOILED[case]
    folder = saved(name)
    spoil(folder)
    with pytest.raises(ValueError, match=text) as caught:
        DDPMFromScratchPipeline.from_pretrained(folder)
    assert file in str(caught.value) and len(str(caught.value)) < 600


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_no_pickle_is_opened(saved, tmp_path):
    folder, canary = saved(), tmp_path / "canary"
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Touch(canary)))
    DDPMFromScratchPipeline.from_pretrained(folder)
    (folder / WEIGHTS).unlink()
    for options in ({}, {"use_safetensors": False}):
        with pytest.raises(ValueError, match="as a pickle"):
            DDPMFromScratchPipeline.from_pretrained(folder, **options)
    assert not canary.exists()
    with pytest.raises(ValueError, match="safetensors only"):
        pipeline_of("tiny").save_pretrained(tmp_path / "x", safe_serialization=False)


def test_no_code_of_a_folder_runs(saved, tmp_path):
    folder, canary = saved("points"), tmp_path / "canary"
    for path in folder.rglob("*.py"):
        path.write_text(f"open({str(canary)!r}, 'w')\n" + path.read_text())
    for options in ({}, {"trust_remote_code": True}):
        loaded = DDPMFromScratchPipeline.from_pretrained(folder, **options)
        assert torch.allclose(samples(loaded), samples(pipeline_of("points")), atol=1e-5)
    assert not canary.exists()


# ---- what must load


def test_network_of_two_sizes_is_loaded_as_saved(saved):
    loaded = DDPMFromScratchPipeline.from_pretrained(saved("shards"))
    assert torch.equal(samples(loaded), samples(pipeline_of("tiny")))


def test_old_flat_folder_with_old_names_of_attention(saved, tmp_path):
    """As google/ddpm-cifar10-32: all files at the top, names from before diffusers 0.18."""
    folder = saved()
    state = load_file(folder / WEIGHTS)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in state.items():
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        renamed[name] = tensor.clone()
    assert set(renamed) != set(state)
    save_file(renamed, folder / WEIGHTS.split("/")[1], metadata={"format": "pt"})
    for name in (CONFIG, SCHEDULER):
        shutil.move(folder / name, folder)
    for name in ("unet", "scheduler"):
        shutil.rmtree(folder / name)
    loaded = DDPMFromScratchPipeline.from_pretrained(folder)
    assert torch.allclose(samples(loaded), samples(pipeline_of("tiny")), atol=1e-5)


def test_variant_dtype_subfolder_and_given_components(tmp_path):
    first = pipeline_of("points")
    first.save_pretrained(tmp_path / "in" / "side", variant="fp16")
    where = {"pretrained_model_name_or_path": tmp_path, "subfolder": "in/side", "variant": "fp16"}
    for options in ({"torch_dtype": torch.float16}, {"torch_dtype": {"unet": torch.float16}}):
        assert DDPMFromScratchPipeline.from_pretrained(**where, **options).unet.dtype == torch.float16
    given = DDPMFromScratchPipeline.from_pretrained(**where, scheduler=DDIMScheduler())
    assert isinstance(given.scheduler, DDIMScheduler)
    assert DDPMFromScratchPipeline.from_pretrained(**where, unet=first.unet).unet is first.unet
    with pytest.raises(ValueError, match="there is fp16: pass variant="):
        DDPMFromScratchPipeline.from_pretrained(tmp_path / "in" / "side")
    with pytest.raises(ValueError, match="must be a folder inside"):
        DDPMFromScratchPipeline.from_pretrained(tmp_path / "in", subfolder="../in/side")
    with pytest.raises(TypeError, match="got .'custom_pipeline'.*takes"):
        DDPMFromScratchPipeline.from_pretrained(tmp_path, custom_pipeline="x")
