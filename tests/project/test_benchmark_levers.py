"""benchmarks/levers.py at tiny settings: each change reaches the run that it names; pictures to train on."""

import math
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

import levers
from ddpm_from_scratch import model_config
from pictures import emoji, glyphs

NOTO = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
pytestmark = pytest.mark.filterwarnings("ignore")  # of datasets and multiprocessing


def test_glyphs_are_the_same_every_time_and_no_two_alike():
    images, labels = glyphs(200, seed=3)
    assert images.shape == (200, 1, 28, 28) and labels.bincount().tolist() == [20] * 10
    assert torch.equal(images, glyphs(200, seed=3)[0]) and not torch.equal(images, glyphs(200, seed=4)[0])
    assert len(images.flatten(1).unique(dim=0)) == 200
    assert images.min() == -1 and images.amax((1, 2, 3)).min() > 0  # ink in every one
    frame = torch.ones(28, 28, dtype=torch.bool)
    frame[2:-2, 2:-2] = False
    assert (images[..., frame] > 0).float().mean() < 0.005  # inside the picture


def test_shifted_images_hold_every_place_and_the_originals():
    image = torch.full((1, 1, 3, 3), -1.0)
    image[..., 1, 1] = 1
    moved = levers.shifted(image, 1)
    assert moved.shape == (9, 1, 3, 3) and torch.equal(moved.sum(0)[0], torch.full((3, 3), -7.0))
    assert torch.equal(levers.shifted(image, 0), image)


def test_a_change_reaches_settings_network_and_data(tmp_path, monkeypatch):
    monkeypatch.setitem(levers.NETWORKS, "digits", model_config("tiny"))
    images = levers.load("digits")[0][:6]
    change = "--prediction_type=sample --train_batch_size=7 network.dropout=0.25 shifts=1"
    loop, seconds = levers.train("digits", images, change, 2, 5, tmp_path)
    assert loop.scheduler.config.prediction_type == "sample" and loop.network.config.dropout == 0.25
    assert loop.trainer.data.num_samples == 54 and loop.trainer.state.samples_seen == 14
    assert loop.trainer.config.seed == 5 and seconds > 0


def test_a_line_for_each_change_and_seed(monkeypatch, capsys):
    monkeypatch.setitem(levers.NETWORKS, "glyphs", model_config("tiny", sample_size=28))
    monkeypatch.setitem(levers.EPOCHS_OF_CLASSIFIER, "glyphs", 1)
    monkeypatch.setattr(levers, "glyphs", lambda number, seed: glyphs(100, seed))
    levers.main(["--data=glyphs", "--updates=2", "--num_samples=20", "--", "", "--train_batch_size=8"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in lines[3:]] == ["none", "`--train_batch_size=8`"] * 2
    assert [line.split("|")[2].strip() for line in lines[3:]] == ["0", "0", "1", "1"]
    assert all(math.isfinite(float(line.split("|")[4])) for line in lines[3:])


@pytest.mark.skipif(not NOTO.is_file(), reason="Debian's fonts-noto-color-emoji is not installed")
def test_emoji_are_drawn_from_a_colour_font():
    pictures = emoji(NOTO, side=16)
    assert len(pictures) > 1000 and "1f600" in pictures and "31" not in pictures  # a face; the digit 1
    face = np.array(pictures["1f600"])
    assert face.shape == (16, 16, 3) and (face[0, 0] > 250).all()  # a white corner
    red, green, blue = face[8, 4]
    assert red > 150 and green > 100 and blue < 120  # a yellow cheek


def test_a_font_without_colour_has_no_emoji():
    assert not emoji(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "cmex10.ttf")
