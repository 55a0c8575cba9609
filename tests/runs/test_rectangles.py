"""Pictures that are not square, from a folder to the Hub and the browser, each command as a user gives it."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from common import ROOT, run_training, save_images
from ddpm_from_scratch import DDPMFromScratchPipeline
from pages import page_at_rest

# What anybody does who has diffusers and nothing else.
STOCK = """
import sys
sys.modules["ddpm_from_scratch"] = None
from diffusers import DDIMPipeline, DDIMScheduler, DiffusionPipeline
options = {"trust_remote_code": True} if sys.argv[2] == "remote-code" else {}
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], cache_dir=sys.argv[3], **options)
pipe.set_progress_bar_config(disable=True)
images = pipe(batch_size=2, num_inference_steps=3).images
print(type(pipe).__name__, *(image.size for image in images))
pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
ddim = DDIMPipeline(unet=pipe.unet, scheduler=pipe.scheduler)
ddim.set_progress_bar_config(disable=True)
print(*(image.size for image in ddim(batch_size=1, num_inference_steps=3).images), end=" ")
print(*(image.size for image in pipe(batch_size=2, num_inference_steps=3).images))
"""


def train(folder, images, *flags, resolution="20x12", check=True):
    shape = (f"--resolution={resolution}", "--channels=3", f"--cache_dir={folder.parent / 'cache'}")
    return run_training(folder, *shape, *flags, data=(f"--train_data_dir={images}",), check=check)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on pictures of 20 x 16 pixels, each cut to 20 x 12; its folder, the pictures, what it said."""
    folder = tmp_path_factory.mktemp("rectangles")
    images = save_images(folder / "images", 16, seed=0)
    evaluated = ("--evaluation_samples=6", "--evaluation_features=pixels", "--eval_batch_size=4")
    done = train(folder / "tall", images, "--ddpm_num_inference_steps=3", *evaluated)
    return folder / "tall", images, done


def test_a_run_says_which_side_is_which_and_its_files_have_the_shape(trained):
    folder, _, done = trained
    assert "samples (3, 20, 12), 20 high, 12 wide; 4 updates" in done.stdout
    assert json.loads((folder / "unet" / "config.json").read_text())["sample_size"] == [20, 12]
    results = json.loads((folder / "results.json").read_text())
    assert results["data"]["sample_shape"] == [3, 20, 12] and results["config"]["resolution"] == "20x12"
    assert "The pictures are 20 pixels high and 12 wide." in (folder / "README.md").read_text()
    assert np.asarray(Image.open(folder / "samples.png")).shape == (2 * 40 + 2, 2 * 24 + 2, 3)


def test_a_run_is_resumed_to_the_same_weights(trained, tmp_path):
    folder, images, _ = trained
    first = train(
        tmp_path / "tall", images, "--max_train_steps=2", "--lr_scheduler=constant", "--checkpointing_steps=2"
    )
    assert first.returncode == 0
    train(tmp_path / "tall", images, "--max_train_steps=4", "--lr_scheduler=constant",
          "--resume_from_checkpoint=latest", "--allow_recipe_change")  # fmt: skip
    train(tmp_path / "whole", images, "--max_train_steps=4", "--lr_scheduler=constant")
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "tall" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
    turned = train(
        tmp_path / "tall", images, "--resume_from_checkpoint=latest", resolution="12x20", check=False
    )
    assert turned.returncode == 2 and "resolution: 20x12 -> 12x20" in turned.stderr


def test_evaluate_calibrate_publish_load_and_show(trained, run_here, loopback_hub, tmp_path):
    folder = tmp_path / "tall"
    shutil.copytree(trained[0], folder)
    data = (f"--train_data_dir={trained[1]}", f"--cache_dir={tmp_path / 'cache'}")

    def command(name, *arguments):
        done = run_here(ROOT / "training" / f"{name}.py", *arguments)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    measured = ("--num_samples=6", "--num_inference_steps=3", "--features=pixels", "--likelihood")
    command("evaluate", folder, *data, *measured, f"--reference_data_dir={trained[1]}", "--likelihood_flow=2")
    figures = json.loads((folder / "evaluation" / "results.json").read_text())
    assert figures["sample_shape"] == [3, 20, 12] and figures["likelihood"]["unit"] == "bits per dimension"
    command("calibrate", folder, *data, "--num_steps", "2", "--num_samples=4", "--features=pixels")
    command("publish", folder)
    card = loopback_hub.repositories["me/tall"].files()["README.md"].decode()
    assert "torch.randn(4, 3, 20, 12)" in card and "20 pixels high" in card

    ours = DDPMFromScratchPipeline.from_pretrained(folder)
    ours.set_progress_bar_config(disable=True)
    assert ours(2, num_inference_steps=2, output_type="pt").images.shape == (2, 3, 20, 12)
    ours.save_pretrained(tmp_path / "with-code", layout="remote-code")
    for source, layout in (("me/tall", "portable"), (str(tmp_path / "with-code"), "remote-code")):
        done = run_here("-c", STOCK, source, layout, tmp_path / f"cache-{layout}")
        assert done.returncode == 0, done.stderr[-3000:]
        kind = "DDPMPipeline" if layout == "portable" else "DDPMFromScratchPipeline"
        assert done.stdout.splitlines() == [f"{kind} (12, 20) (12, 20)", "(12, 20) (12, 20) (12, 20)"]

    command("make_space", folder, "--output_dir", tmp_path / "page", "--num_inference_steps", 2)
    assert json.loads((tmp_path / "page" / "settings.json").read_text())["sample_shape"] == [3, 20, 12]
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed")
    page = page_at_rest(tmp_path / "page", tmp_path / "browser", "index.html?start")
    assert re.search(r'id="status"[^>]*>8 samples in 2 steps', page), page
    assert len(re.findall(r'<canvas width="12" height="20">', page)) == 8


@pytest.mark.parametrize(
    "how", [("--streaming",), ("--random_flip", "--center_crop")], ids=["stream", "flip"]
)
def test_other_ways_of_reading_give_the_shape(trained, tmp_path, how):
    train(tmp_path / "run", trained[1], "--max_train_steps=2", *how, resolution="12 X 20")
    assert DDPMFromScratchPipeline.from_pretrained(tmp_path / "run").unet.config.sample_size == [12, 20]
