"""Pictures: sample grids, curves, point clouds, score fields. matplotlib is imported where it draws.

What moves is in `animations.py`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .diffusion import posterior
from .noise_schedules import snr

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


def _new_figure(width: float = 6.4, height: float = 4.0, columns: int = 1) -> tuple[Any, Any]:
    """Return a figure and its axes, or a row of them, that need no display and no global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(ncols=columns)


def comparison_grid(
    images: dict[str, dict[str, np.ndarray]], path: str | Path, images_across: int = 4, pixel_size: int = 6
) -> None:
    """Save grids of images in rows and columns with names, such as samplers and numbers of steps, as PNG.

    Args:
        images: name of a row -> name of a column -> images as `sample_grid` takes them; the same columns in
            each row.
        path: of the picture.
        images_across: images side by side in each grid.
        pixel_size: side of one image pixel, for small images.

    Raises:
        ValueError: no images, or rows with other columns.
    """
    columns = {tuple(row) for row in images.values()}
    if len(columns) != 1 or () in columns:
        raise ValueError(f"the rows {list(images)} must have the same columns, at least one.")
    (names,) = columns
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.7 * len(names) + 0.4, 1.45 * len(images)), layout="constrained")
    panels = figure.subplots(len(images), len(names), squeeze=False)
    for panels_of_row, (row, cells) in zip(panels, images.items(), strict=True):
        panels_of_row[0].set_ylabel(row, fontsize="small")
        for axes, name in zip(panels_of_row, names, strict=True):
            axes.imshow(sample_grid(cells[name], images_across, pixel_size), cmap="gray", vmin=0, vmax=255)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    for axes, name in zip(panels[0], names, strict=True):
        axes.set_title(name, fontsize="small")
    figure.savefig(path, dpi=120)


def loss_curve(steps: Sequence[int], losses: Sequence[float], path: str | Path) -> None:
    """Save a chart of the training loss over optimizer updates as PNG, with a running mean.

    Raises:
        ValueError: two lengths that differ, or nothing to draw.
    """
    if len(steps) != len(losses) or not len(steps):
        raise ValueError(f"got {len(steps)} steps and {len(losses)} losses; give one loss for each step.")
    figure, axes = _new_figure()
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
    figure, axes = _new_figure(4.8, 4.8)
    if reference is not None:
        axes.scatter(*reference.T, s=4, color=COLOURS[5], alpha=0.4, linewidths=0, label="data")
    axes.scatter(*points.T, s=4, color=COLOURS[1], linewidths=0, label="samples")
    axes.set_aspect("equal")
    axes.set_xlabel("first coordinate")
    axes.set_ylabel("second coordinate")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def point_sets(points: dict[str, np.ndarray], path: str | Path) -> None:
    """Save scatter plots of sets of 2-D points side by side as PNG.

    Args:
        points: name -> shape (N, 2).
        path: of the picture.

    Raises:
        ValueError: no set.
    """
    if not points:
        raise ValueError("got no points, but need at least one set.")
    figure, panels = _new_figure(2.4 * len(points), 2.9, columns=len(points))
    for axes, (name, cloud) in zip(np.atleast_1d(panels), points.items(), strict=True):
        axes.scatter(*cloud.T, s=1.5, color=COLOURS[0], linewidths=0)
        axes.set_aspect("equal")
        axes.set_xlim(-2.8, 2.8)
        axes.set_ylim(-2.8, 2.8)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.set_xlabel("first coordinate", fontsize=8)
    np.atleast_1d(panels)[0].set_ylabel("second coordinate", fontsize=8)
    figure.savefig(path, dpi=120)


def trajectories(paths: np.ndarray, path: str | Path, reference: np.ndarray | None = None) -> None:
    """Save the paths of 2-D points as PNG: a line for each, a ring where it starts, a dot where it ends.

    Args:
        paths: the points at each time, shape (F, N, 2); what a pipeline returns as `trajectory`.
        path: of the picture.
        reference: points to draw under them, shape (M, 2).

    Raises:
        ValueError: paths that are not (F, N, 2).
    """
    if paths.ndim != 3 or paths.shape[2] != 2:
        raise ValueError(f"paths have shape {paths.shape}, but must be (F, N, 2).")
    figure, axes = _new_figure(4.8, 4.8)
    if reference is not None:
        axes.scatter(*reference.T, s=4, color=COLOURS[5], alpha=0.4, linewidths=0, label="data")
    axes.plot(paths[..., 0], paths[..., 1], color=COLOURS[0], alpha=0.5, linewidth=0.7)
    look: dict[str, Any] = {"s": 12, "facecolors": "none", "edgecolors": COLOURS[6], "linewidths": 0.7}
    axes.scatter(*paths[0].T, label="start", **look)
    axes.scatter(*paths[-1].T, s=12, color=COLOURS[1], linewidths=0, label="end", zorder=3)
    axes.set_aspect("equal")
    axes.set_xlabel("first coordinate")
    axes.set_ylabel("second coordinate")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def score_field(
    score: Callable[[torch.Tensor], torch.Tensor],
    path: str | Path,
    log_prob: Callable[[torch.Tensor], torch.Tensor] | None = None,
    half_width: float = 3.0,
    num_arrows: int = 22,
    title: str = "",
) -> None:
    """Save the score of a density in the plane as arrows, over the density where it is given, as PNG.

    The arrows of a score differ in length by orders of magnitude: each is drawn with the length
    |s| / (1 + |s|), so that those of weak scores can be seen.

    Args:
        score: maps points (N, 2), float32, to grad log p, same shape.
        path: of the picture.
        log_prob: maps points to log p, shape (N,).
        half_width: of the square that is drawn, around the origin.
        num_arrows: in a row.
        title: above the picture.
    """

    def grid(size: int) -> torch.Tensor:
        side = half_width * (2 * torch.arange(size, dtype=torch.float32) + 1 - size) / size
        return torch.cartesian_prod(side, side)

    figure, axes = _new_figure(5.4, 4.8)
    if log_prob is not None:
        density = torch.exp(log_prob(grid(200))).reshape(200, 200).T
        shown = axes.imshow(
            density.detach().numpy(), origin="lower", extent=[-half_width, half_width] * 2, cmap="cividis"
        )
        figure.colorbar(shown, ax=axes, label="density p(x)", shrink=0.8)
    points = grid(num_arrows)
    arrows = score(points).detach()
    arrows = arrows / (1 + arrows.norm(dim=1, keepdim=True))
    colour = "white" if log_prob is not None else COLOURS[0]
    cell = 2 * half_width / num_arrows
    axes.quiver(
        *points.T.numpy(), *(arrows * cell).T.numpy(), angles="xy", scale_units="xy", scale=1, color=colour,
        width=0.003,
    )  # fmt: skip
    axes.set_aspect("equal")
    axes.set_xlim(-half_width, half_width)
    axes.set_ylim(-half_width, half_width)
    axes.set_xlabel("first coordinate")
    axes.set_ylabel("second coordinate")
    axes.set_title(title)
    figure.savefig(path, dpi=120)


def _check_schedules(alphas_cumprod: dict[str, torch.Tensor]) -> None:
    if not 0 < len(alphas_cumprod) <= len(COLOURS):
        raise ValueError(f"got {len(alphas_cumprod)} schedules, but 1 to {len(COLOURS)} can be told apart.")


def signal_left(
    alphas_cumprod: dict[str, torch.Tensor], path: str | Path, marks: Sequence[float] = (0.25, 0.5, 0.75)
) -> None:
    """Save how much of x_t's variance is signal, alpha-bar, and how much noise, by t, as PNG.

    One panel for each schedule, with the values at some times written into it.

    Args:
        alphas_cumprod: name -> alpha-bar, shape (T,).
        path: of the picture.
        marks: times (t + 1) / T in (0, 1] whose value is written.

    Raises:
        ValueError: no schedule, or more than there are colours.
    """
    _check_schedules(alphas_cumprod)
    figure, panels = _new_figure(2.9 * len(alphas_cumprod), 2.9, columns=len(alphas_cumprod))
    for axes, (name, table) in zip(np.atleast_1d(panels), alphas_cumprod.items(), strict=True):
        alpha_bar = table.double().numpy()
        time = (np.arange(len(alpha_bar)) + 1) / len(alpha_bar)
        axes.fill_between(time, alpha_bar, color=COLOURS[0], linewidth=0, label="signal")
        axes.fill_between(time, alpha_bar, 1, color=COLOURS[4], alpha=0.6, linewidth=0, label="noise")
        for mark in marks:
            value = alpha_bar[max(round(mark * len(alpha_bar)) - 1, 0)]
            axes.plot([mark], [value], marker="o", color=COLOURS[6], markersize=4)
            axes.annotate(f"{value:.3f}", (mark, value), (4, 4), textcoords="offset points", fontsize=8)
        axes.set(xlim=(0, 1), ylim=(0, 1), title=name, xlabel="time (t + 1) / T")
    np.atleast_1d(panels)[0].set_ylabel("share of the variance of x_t")
    np.atleast_1d(panels)[0].legend(frameon=True, fontsize=8, loc="upper right")
    figure.savefig(path, dpi=120)


def schedule_chart(alphas_cumprod: dict[str, torch.Tensor], path: str | Path) -> None:
    """Save a chart of alpha-bar, SNR and posterior variance over time, one line for each schedule, as PNG.

    Time is (t + 1) / T, so schedules of any length share an axis. The posterior variance is
    (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t) beta_t (Ho et al. 2020, arXiv:2006.11239, eq. 7), times T.

    Args:
        alphas_cumprod: name -> alpha-bar, shape (T,), each strictly below 1.
        path: of the picture.

    Raises:
        ValueError: no schedule, or more than there are colours.
    """
    _check_schedules(alphas_cumprod)
    figure, panels = _new_figure(12.6, 3.9, columns=3)
    for (name, table), colour, style in zip(alphas_cumprod.items(), COLOURS, ("-", "--") * 4, strict=False):
        alpha_bar = table.double()
        before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
        time = (torch.arange(len(table)) + 1) / len(table)
        variance = posterior(alpha_bar, before).variance * len(table)
        look: dict[str, Any] = {"color": colour, "linestyle": style, "linewidth": 1.6, "label": name}
        panels[0].plot(time, alpha_bar, **look)
        panels[1].plot(time, snr(alpha_bar), **look)
        panels[2].plot(time[1:], variance[1:], **look)
    panels[0].set_ylabel("signal left: alpha-bar")
    panels[1].set_ylabel("signal-to-noise ratio")
    panels[2].set_ylabel("posterior variance times T")
    for axes, lowest in zip(panels, (None, 1e-6, 1e-2), strict=True):
        axes.set_xlabel("time (t + 1) / T")
        if lowest is not None:
            axes.set_yscale("log")
            axes.set_ylim(bottom=lowest)
    panels[0].legend(frameon=False, fontsize=8)
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
    figure, panels = _new_figure(10, 4.0, columns=2) if complete else _new_figure()
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


def quality_chart(
    values: dict[str, dict[int, float]], distance: str, path: str | Path, title: str = "", highlight: int = 1
) -> None:
    """Save a chart of a distance over the number of network evaluations as PNG, with the floor at 1.

    Args:
        values: sampler -> number of evaluations -> distance divided by the floor.
        distance: what it is, for the axis.
        path: of the picture.
        title: above the chart.
        highlight: so many samplers, from the first, are drawn in colour and named; of the others the best at
            each number of evaluations is one line.

    Raises:
        ValueError: nothing to draw, or more samplers to name than there are colours.
    """
    names = list(values)
    if not 0 < highlight <= min(len(names), len(COLOURS) - 1):
        raise ValueError(
            f"{highlight} of {len(names)} samplers are to be named, but it must be 1 to "
            f"{min(len(names), len(COLOURS) - 1)}."
        )
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, axes = _new_figure()
    axes.axhline(1, color="#777777", linewidth=1, linestyle="--", label="floor (data)")
    others = [values[name] for name in names[highlight:]]
    best = {
        count: min(other[count] for other in others if count in other)
        for count in sorted({count for other in others for count in other})
    }
    lines = [(name, values[name]) for name in names[:highlight]]
    lines += [("best of the others", best)] if best else []
    for (name, of_counts), colour, marker in zip(lines, COLOURS, "osD^vP*X", strict=False):
        counts = sorted(of_counts)
        axes.plot(counts, [of_counts[n] for n in counts], color=colour, marker=marker, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    visited = sorted({count for _, of_counts in lines for count in of_counts})
    axes.set_xticks(visited, [f"{count:,}" for count in visited])
    axes.xaxis.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("network evaluations")
    axes.set_ylabel(f"{distance} / floor")
    axes.set_title(title)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
