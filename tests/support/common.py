"""What tests of several wings share: where the project is, random streams, a run in processes of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import runs
from ddpm_from_scratch import DDPMFromScratchPipeline, DDPMFromScratchScheduler, build_model, model_config

ROOT = Path(__file__).resolve().parents[2]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def untrained_pipeline(name="tiny", **model):
    """Return a pipeline of 20 timesteps with a named network of random weights."""
    torch.manual_seed(0)
    scheduler = DDPMFromScratchScheduler(num_train_timesteps=20, beta_schedule="squaredcos_cap_v2")
    pipeline = DDPMFromScratchPipeline(build_model(model_config(name, **model)).eval(), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_images(folder, count, seed):
    """Write images of noise, 20 px high and 16 px wide, into a new folder and return it."""
    folder.mkdir()
    generator = np.random.default_rng(seed)
    for index in range(count):
        Image.fromarray(generator.integers(0, 255, (20, 16, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


def run_training(
    output_dir, *flags, data=("--dataset_name=digits",), launcher=(), check=True, processes=1, faults=()
):
    """Run training/train.py with a tiny network in processes of their own; later flags win.

    Args:
        launcher: what to put between the interpreter and the script; without it the run is forked from a
            process that has everything imported, which saves the ten seconds of that.
    """
    argv = runs.flags(output_dir, *flags, data=data)
    if launcher:
        command = [sys.executable, *launcher, str(ROOT / "training" / "train.py"), *argv]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    else:
        result = runs.Run(argv, processes, faults=faults).wait()
    if check:
        assert result.returncode == 0, result.stderr[-3000:]
    return result


TINY_TRANSFORMER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 28,
    "patch_size": 14,
}
# As in facebook/dinov2-small, at an eighth of the size: resize to 32, crop the centre to 28.
DINOV2_PROCESSOR = {
    "crop_size": {"height": 28, "width": 28},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "BitImageProcessor",
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": 32},
}


def save_vision_model(folder, model, processor):
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder
