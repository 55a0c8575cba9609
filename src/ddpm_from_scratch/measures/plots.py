"""The pictures that runs draw: sample grids, curves, point clouds. matplotlib is imported where it draws."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

# Okabe & Ito (2008): eight colours that people with any kind of colour vision can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


def sample_grid(
    images: np.ndarray, columns: int | None = None, pixel_size: int = 1, gap: int = 2
) -> Image.Image:
    """Return one picture with the images side by side, row by row.

    Args:
        images: values in [0, 1], shape (N, H, W, C) with C of 1 or 3; what a pipeline gives with
            output_type="np".
        columns: images in a row; a square grid if not given.
        pixel_size: side of one image pixel in the picture, for small images.
        gap: pixels between images.

    Raises:
        ValueError: a wrong shape or no image.
    """
    if images.ndim != 4 or not len(images) or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"images have shape {images.shape}, but must be (N, H, W, C) with N > 0 and C of 1 or 3."
        )
    columns = min(columns or int(np.ceil(len(images) ** 0.5)), len(images))
    rows = -(-len(images) // columns)
    tiles = (images.clip(0, 1) * 255).round().astype(np.uint8)
    tiles = tiles.repeat(pixel_size, axis=1).repeat(pixel_size, axis=2)
    height, width, channels = tiles.shape[1:]
    canvas = np.full(
        (rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 127, dtype=np.uint8
    )
    for index, tile in enumerate(tiles):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = tile
    return Image.fromarray(canvas[..., 0] if channels == 1 else canvas)


def labelled_grid(
    images: np.ndarray, labels: Sequence[str], pixel_size: int = 1, gap: int = 2
) -> Image.Image:
    """Return one picture with a row of images for each label, which is written beside it.

    Rows are in the order in which labels appear first; a row may be shorter than others.

    Args:
        images: as in `sample_grid`.
        labels: of each image.
        pixel_size: likewise.
        gap: likewise.

    Raises:
        ValueError: as in `sample_grid`, or not one label for each image.
    """
    if len(labels) != len(images):
        raise ValueError(f"got {len(images)} images and {len(labels)} labels; give one label for each image.")
    of_label = {label: [i for i, one in enumerate(labels) if one == label] for label in labels}
    columns = max(map(len, of_label.values()))
    blank = np.full_like(images[:1], 127 / 255)
    rows = [np.concatenate([images[own], *[blank] * (columns - len(own))]) for own in of_label.values()]
    grid = sample_grid(np.concatenate(rows), columns, pixel_size, gap).convert("RGB")
    font, height = ImageFont.load_default(), images.shape[1] * pixel_size + gap
    width = max(round(font.getlength(label)) for label in of_label) + 8
    picture = Image.new("RGB", (grid.width + width, grid.height), "white")
    picture.paste(grid, (width, 0))
    draw = ImageDraw.Draw(picture)
    for row, label in enumerate(of_label):
        draw.text((width - 4, row * height + (height - gap) / 2), label, "black", font, anchor="rm")
    return picture


def new_figure(width: float = 6.4, height: float = 4.0, columns: int = 1) -> tuple[Any, Any]:
    """Return a figure and its axes, or a row of them, that need no display and no global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(ncols=columns)


def loss_curve(steps: Sequence[int], losses: Sequence[float], path: str | Path) -> None:
    """Save a chart of the training loss over optimizer updates as PNG, with a running mean.

    Raises:
        ValueError: two lengths that differ, or nothing to draw.
    """
    if len(steps) != len(losses) or not len(steps):
        raise ValueError(f"got {len(steps)} steps and {len(losses)} losses; give one loss for each step.")
    figure, axes = new_figure()
    values = np.asarray(losses, dtype=float)
    window = max(1, len(values) // 50)
    smooth = np.convolve(values, np.ones(window) / window, mode="valid")
    if window > 1:
        axes.plot(steps, values, color=COLOURS[5], linewidth=0.8, label="logged")
    axes.plot(
        list(steps)[window - 1 :],
        smooth,
        color=COLOURS[0],
        linewidth=1.8,
        label=f"mean of {window} logged" if window > 1 else "logged",
    )
    if (values > 0).all():
        axes.set_yscale("log")
    axes.set_xlabel("optimizer updates")
    axes.set_ylabel("training loss (mean squared error)")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def point_cloud(points: np.ndarray, path: str | Path, reference: np.ndarray | None = None) -> None:
    """Save a scatter plot of 2-D points as PNG, over the points of `reference` where given.

    Raises:
        ValueError: points that are not (N, 2).
    """
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points have shape {points.shape}, but must be (N, 2).")
    figure, axes = new_figure(4.8, 4.8)
    if reference is not None:
        axes.scatter(*reference.T, s=4, color=COLOURS[5], alpha=0.4, linewidths=0, label="data")
    axes.scatter(*points.T, s=4, color=COLOURS[1], linewidths=0, label="samples")
    axes.set_aspect("equal")
    axes.set_xlabel("first coordinate")
    axes.set_ylabel("second coordinate")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def bound_chart(
    timesteps: torch.Tensor, terms: dict[str, torch.Tensor], path: str | Path, unit: str = "bits/dim"
) -> None:
    """Save a chart of the terms of the variational bound, and of their sum from T down to t, as PNG.

    One line for each kind of variance. The axis is t + 1, the number of noising steps; the sum at its left
    end is the bound, but for the prior. Where a term is missing there is no sum.

    Args:
        timesteps: rising, shape (S,).
        terms: what the variance is -> L_t, shape (S,); nan where it is missing.
        path: of the picture.
        unit: of the terms.

    Raises:
        ValueError: nothing to draw, or more than there are colours.
    """
    if not 0 < len(terms) <= len(COLOURS):
        raise ValueError(f"got {len(terms)} lines, but 1 to {len(COLOURS)} can be told apart.")
    known = torch.cat([values[torch.isfinite(values)] for values in terms.values()])
    complete = len(known) == len(terms) * len(timesteps)
    figure, panels = new_figure(10, 4.0, columns=2) if complete else new_figure()
    each, summed = panels if complete else (panels, None)
    for (name, values), colour, style in zip(terms.items(), COLOURS, ("-", "--", ":") * 3, strict=False):
        present = torch.isfinite(values)
        look: dict[str, Any] = {"color": colour, "linestyle": style, "linewidth": 1.6, "label": name}
        each.plot(timesteps[present] + 1, values[present], **look)
        if summed is not None:
            summed.plot(timesteps + 1, values.flip(0).cumsum(0).flip(0), **look)
    for axes in np.atleast_1d(panels):
        axes.set_xscale("log")
        axes.set_xlabel("timestep t + 1")
    if float(known.min()) > 0:
        each.set_yscale("log")
        each.set_ylim(bottom=max(float(known.min()) / 2, float(known.max()) * 1e-6))
    else:  # a density's decoder
        each.set_yscale("symlog", linthresh=1e-4)
    each.set_ylabel(f"term of the bound ({unit})")
    if summed is not None:
        summed.set_ylabel(f"sum of the terms from T down to t ({unit})")
    np.atleast_1d(panels)[-1].legend(frameon=False)
    figure.savefig(path, dpi=120)
