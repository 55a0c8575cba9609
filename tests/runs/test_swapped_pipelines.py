"""Latent pipelines with our schedulers, saved and loaded in fresh processes, with the package and without."""

import subprocess
import sys
import warnings

import diffusers
import numpy as np
import pytest
import torch

import test_swap
from ddpm_from_scratch import DDPMFromScratchScheduler, FewStepScheduler, SchedulerWarning

# A pipeline -> the scheduler that it has before the swap.
PIPELINES = {
    "StableDiffusionPipeline": "PNDMScheduler",
    "StableDiffusionXLPipeline": "EulerDiscreteScheduler",
    "StableDiffusionImg2ImgPipeline": "DDIMScheduler",
    "StableDiffusionInpaintPipeline": "DPMSolverMultistepScheduler",
}
KINDS = {"ddpm": DDPMFromScratchScheduler, "few": FewStepScheduler}
CALIBRATION = {"steps": {"4": {"timesteps": [999, 700, 400, 100], "noise_level": 0.5}}}
CASES = [(name, kind) for name in PIPELINES for kind in KINDS]
cases = pytest.mark.parametrize(("name", "kind"), CASES)

# Loads every folder, with the package or without it, and saves the images or notes the error.
PROCESS = """
import sys
from pathlib import Path
folder, with_package = Path(sys.argv[1]), sys.argv[2] == "with"
if with_package:
    from ddpm_from_scratch import DDPMFromScratchScheduler, FewStepScheduler
else:
    sys.modules["ddpm_from_scratch"] = None
import numpy, torch
from diffusers import DiffusionPipeline
for saved in sorted(folder.glob("*-*-*")):
    result = saved / f"images-{sys.argv[2]}"
    try:
        pipe = DiffusionPipeline.from_pretrained(saved, text_encoder=None, tokenizer=None)
    except Exception as error:
        result.with_suffix(".txt").write_text(f"{type(error).__name__}: {error}")
        continue
    pipe.set_progress_bar_config(disable=True)
    torch.manual_seed(1)
    inputs = torch.load(folder / f"{type(pipe).__name__}.pt", weights_only=True)
    call = {"generator": torch.Generator().manual_seed(1001), "num_inference_steps": 4, "output_type": "np"}
    numpy.save(result.with_suffix(".npy"), pipe(**inputs, **call, return_dict=False)[0])
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of all saved pipelines, their images before saving, and the warnings at saving."""
    folder, images, said = tmp_path_factory.mktemp("swapped"), {}, {}
    for name, kind in CASES:
        pipe, inputs = test_swap.build(name)
        torch.save(inputs, folder / f"{name}.pt")
        settings = dict(test_swap.STABLE_DIFFUSION)
        if PIPELINES[name] != "DDIMScheduler":
            settings.pop("clip_sample")
        source = getattr(diffusers, PIPELINES[name])(**settings)
        options = {"calibration": CALIBRATION} if kind == "few" else {}
        pipe.scheduler = KINDS[kind].from_config(source.config, **options)
        assert pipe.scheduler.config.clip_sample is False
        for what in ("ours", "stock"):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", SchedulerWarning)
                if what == "stock":
                    pipe.scheduler = pipe.scheduler.to_diffusers()
                key = f"{name}-{kind}-{what}"
                images[key] = test_swap.run(pipe, inputs, seed=1)
                pipe.save_pretrained(folder / key)
            said[key] = [str(w.message) for w in caught if w.category is SchedulerWarning]
    for how in ("with", "without"):
        command = [sys.executable, "-W", "ignore", "-c", PROCESS, str(folder), how]
        result = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr[-2000:]
    return folder, images, said


@cases
def test_with_the_package_the_images_are_the_same(saved, name, kind):
    folder, images, _ = saved
    for what in ("ours", "stock"):
        key = f"{name}-{kind}-{what}"
        assert np.array_equal(np.load(folder / key / "images-with.npy"), images[key])


@cases
def test_saving_warns_that_others_cannot_load_it(saved, name, kind):
    folder, _, said = saved
    key = f"{name}-{kind}-ours"
    words = [text for text in said[key] if "loads only where ddpm-from-scratch is installed" in text]
    assert len(words) == 1 and name in words[0] and "pipe.scheduler.to_diffusers()" in words[0]
    error = (folder / key / "images-without.txt").read_text()
    assert "ddpm_from_scratch" in error
    assert not any("loads only where" in text for text in said[f"{name}-{kind}-stock"])


@cases
def test_what_to_diffusers_gave_loads_for_everyone(saved, name, kind):
    """It is the same sampler, or a warning has said what of it is lost."""
    folder, images, said = saved
    key = f"{name}-{kind}-stock"
    assert np.array_equal(np.load(folder / key / "images-without.npy"), images[key])
    if kind == "ddpm":
        assert np.abs(images[key] - images[f"{name}-{kind}-ours"]).max() < 1e-5
    else:
        assert any("does not keep the calibrated timesteps" in text for text in said[key])
