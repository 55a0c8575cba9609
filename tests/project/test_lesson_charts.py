"""Charts, pictures and animations of the lesson and of the documentation."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

import charts
import quality_chart
from animations import animate_points
from ddpm_from_scratch.data.points import swiss_roll


def test_comparison_has_a_grid_for_each_row_and_column(tmp_path):
    white, black = np.ones((4, 2, 2, 1)), np.zeros((4, 2, 2, 1))
    cells = {"ours": {"5": white, "10": black}, "stock": {"5": black, "10": white}}
    charts.comparison_grid(cells, tmp_path / "grid.png", images_across=2)
    with Image.open(tmp_path / "grid.png") as picture:
        grey = np.asarray(picture.convert("L")) < 30
    high, wide = (size // 2 for size in grey.shape)
    # Black where it was put, but for the ink of the names.
    dark = [part.mean() for part in (grey[:high, wide:], grey[high:, :wide])]
    light = [part.mean() for part in (grey[:high, :wide], grey[high:, wide:])]
    assert min(dark) > 0.4 and max(light) < 0.05
    with pytest.raises(ValueError, match="same columns"):
        charts.comparison_grid({"ours": {"5": white}, "stock": {"10": white}}, tmp_path / "grid.png")


def test_charts_are_written(tmp_path):
    charts.point_sets({"one": np.zeros((5, 2))}, tmp_path / "one.png")
    reached = {"ours": {5: 1.2, 10: 1.0}, "first": {5: 2.0, 10: 1.5}, "second": {5: 3.0}}
    quality_chart.quality_chart(reached, "sliced W2", tmp_path / "quality.png")
    quality_chart.quality_chart({"ours": {5: 1.2}}, "sliced W2", tmp_path / "alone.png", title="digits")
    charts.point_sets({"one": np.zeros((5, 2)), "two": np.ones((3, 2))}, tmp_path / "sets.png")
    for name in ("one", "sets", "quality", "alone"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.size[0] > 250
    with pytest.raises(ValueError, match="got no points"):
        charts.point_sets({}, tmp_path / "x.png")
    with pytest.raises(ValueError, match="2 of 1 samplers are to be named"):
        quality_chart.quality_chart({"ours": {5: 1.2}}, "sliced W2", tmp_path / "x.png", highlight=2)


def test_trajectories_signal_left_and_score_field_are_drawn(tmp_path, generator):
    paths = torch.randn(5, 7, 2, generator=generator).numpy()
    charts.trajectories(paths, tmp_path / "paths.png", swiss_roll(50, generator).numpy())
    tables = {"even": torch.linspace(0.999, 0.001, 100), "late": torch.linspace(0.999, 0.001, 50).sqrt()}
    charts.signal_left(tables, tmp_path / "left.png")
    asked = []

    def score(points):
        asked.append(points)
        return -points

    charts.score_field(score, tmp_path / "score.png", lambda points: -points.square().sum(1), num_arrows=6)
    (grid,) = asked
    assert grid.shape == (36, 2) and float(grid.abs().max()) < 3
    torch.testing.assert_close(grid.mean(0), torch.zeros(2), rtol=0, atol=1e-6)
    for name in ("paths", "left", "score"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert min(picture.size) > 300 and len(picture.convert("RGB").getcolors(1 << 24)) > 50


def test_animation_has_a_frame_for_each_time(tmp_path, generator):
    frames = torch.randn(4, 30, 2, generator=generator).numpy()
    animate_points(frames, tmp_path / "a.gif", [f"t = {t}" for t in range(4)], hold=1, size=2)
    with Image.open(tmp_path / "a.gif") as picture:
        assert picture.n_frames == 4
        shown = []
        for index in range(4):
            picture.seek(index)
            shown.append(np.asarray(picture.convert("RGB"), dtype=int))
    assert all(abs(first - second).max() > 100 for first, second in zip(shown, shown[1:], strict=False))


def test_animation_as_mp4(tmp_path, generator, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)  # imageio-ffmpeg has one
    animate_points(torch.randn(3, 30, 2, generator=generator).numpy(), tmp_path / "a.mp4", hold=1, size=2)
    assert (tmp_path / "a.mp4").read_bytes()[4:8] == b"ftyp"
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ValueError, match="ffmpeg is needed: install it"):
        animate_points(np.zeros((2, 3, 2)), tmp_path / "b.mp4")


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda path: charts.trajectories(np.zeros((3, 2)), path), r"must be \(F, N, 2\)"),
        (lambda path: charts.signal_left({}, path), "got 0 schedules"),
        (lambda path: animate_points(np.zeros((0, 3, 2)), path), r"must be \(F, N, 2\) with F > 0"),
        (lambda path: animate_points(np.zeros((2, 3, 2)), path, ["one"]), "1 titles for 2 frames"),
        (lambda path: animate_points(np.zeros((2, 3, 2)), path.with_suffix(".avi")), "is .gif or .mp4"),
    ],
)
def test_pictures_of_nothing_are_refused(draw, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        draw(tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())
