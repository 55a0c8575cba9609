"""Pictures that runs draw."""

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_from_scratch.measures import plots


def test_grid_places_images_row_by_row():
    images = np.stack([np.full((2, 2, 1), v) for v in (0.0, 1.0, 0.2)])
    grid = np.asarray(plots.sample_grid(images, columns=2, pixel_size=3, gap=1))
    assert grid.shape == (13, 13)
    assert (grid[0, 0], grid[0, 7], grid[7, 0], grid[0, 6], grid[12, 12]) == (0, 255, 51, 127, 127)
    with pytest.raises(ValueError, match="images have shape"):
        plots.sample_grid(images[..., 0])


def test_charts_of_a_run_are_written(tmp_path):
    plots.loss_curve(range(100), np.linspace(1, 0.1, 100), tmp_path / "loss.png")
    plots.point_cloud(np.zeros((5, 2)), tmp_path / "points.png", np.ones((5, 2)))
    terms = torch.tensor([0.2, float("nan"), 0.01])
    plots.bound_chart(torch.arange(3), {"fixed": terms, "learned": terms - 0.1}, tmp_path / "bound.png")
    plots.bound_chart(torch.arange(3), {"fixed": terms}, tmp_path / "positive.png")
    for name in ("loss", "points", "bound", "positive"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.size[0] > 250
    with pytest.raises(ValueError, match="points have shape"):
        plots.point_cloud(np.zeros((5, 3)), tmp_path / "x.png")
    with pytest.raises(ValueError, match="got 0 lines"):
        plots.bound_chart(torch.arange(3), {}, tmp_path / "x.png")
    with pytest.raises(ValueError, match="one loss for each step"):
        plots.loss_curve([1], [], tmp_path / "x.png")


def test_rows_of_a_labelled_grid_are_its_classes():
    """In order of first appearance; a short row ends in the colour of the gaps; labels are beside."""
    images = np.stack([np.full((8, 8, 3), value) for value in (0.0, 0.2, 0.4, 0.6, 1.0)])
    picture = np.asarray(
        plots.labelled_grid(images, ["cat", "dog", "cat", "cat", "dog"], pixel_size=2, gap=2)
    )
    assert picture.shape[0] == 2 * 16 + 2
    grid = picture[:, -(3 * 18 - 2) :]
    shades = [[grid[8 + 18 * row, 8 + 18 * column, 0] for column in range(3)] for row in range(2)]
    assert shades == [[0, 102, 153], [51, 255, 127]]
    beside = picture[:, : -(3 * 18 - 2)]
    assert all((beside[top : top + 16] < 128).any() for top in (0, 18)), "a label in each row"


def test_a_labelled_grid_needs_a_label_for_each_image():
    with pytest.raises(ValueError, match="got 2 images and 1 labels"):
        plots.labelled_grid(np.zeros((2, 4, 4, 1)), ["a"])
