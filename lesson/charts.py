"""The charts of the lesson and the documentation: schedules, score fields, trajectories, sets beside sets."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddpm_from_scratch.measures.plots import COLOURS, new_figure, sample_grid
from ddpm_from_scratch.process.diffusion import posterior
from ddpm_from_scratch.process.noise_schedules import snr


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
    figure, panels = new_figure(2.4 * len(points), 2.9, columns=len(points))
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
    figure, axes = new_figure(4.8, 4.8)
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

    figure, axes = new_figure(5.4, 4.8)
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
    figure, panels = new_figure(2.9 * len(alphas_cumprod), 2.9, columns=len(alphas_cumprod))
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
    figure, panels = new_figure(12.6, 3.9, columns=3)
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
