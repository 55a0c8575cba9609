"""Animations of 2-D points as GIF or MP4, by matplotlib's writers, which are imported when needed."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_from_scratch.measures.plots import COLOURS


def _writer(path: Path, frames_per_second: int) -> Any:
    """Return matplotlib's writer for the file's kind; ValueError if there is none."""
    from matplotlib import rcParams
    from matplotlib.animation import FFMpegWriter, PillowWriter

    if path.suffix == ".gif":
        return PillowWriter(fps=frames_per_second)
    if path.suffix != ".mp4":
        raise ValueError(f"path is {str(path)!r}, but an animation is .gif or .mp4.")
    program = shutil.which(rcParams["animation.ffmpeg_path"])
    if program is None:
        try:
            from imageio_ffmpeg import get_ffmpeg_exe
        except ImportError as error:
            raise ValueError(
                f"path is {str(path)!r}, but for MP4 ffmpeg is needed: install it, or `pip install "
                "imageio-ffmpeg`; or write a .gif."
            ) from error
        program = get_ffmpeg_exe()
    rcParams["animation.ffmpeg_path"] = program
    return FFMpegWriter(fps=frames_per_second)


def animate_points(
    frames: np.ndarray,
    path: str | Path,
    titles: Sequence[str] | None = None,
    reference: np.ndarray | None = None,
    half_width: float = 3.0,
    frames_per_second: int = 20,
    hold: int = 20,
    size: float = 4.0,
) -> None:
    """Save points that move as GIF or MP4, as the name's ending says.

    Args:
        frames: the points at each time, shape (F, N, 2); what a pipeline returns as `trajectory`.
        path: .gif, or .mp4, which needs ffmpeg or the package imageio-ffmpeg.
        titles: above each frame, F of them.
        reference: points that stay, drawn under the others, shape (M, 2).
        half_width: of the square that is drawn, around the origin, in the points' units.
        frames_per_second: speed.
        hold: so many times the last frame is shown.
        size: of the picture in inches, at 100 pixels each.

    Raises:
        ValueError: frames that are not (F, N, 2), another number of titles, or a file that cannot be written.
    """
    if frames.ndim != 3 or frames.shape[2] != 2 or not len(frames):
        raise ValueError(f"frames have shape {frames.shape}, but must be (F, N, 2) with F > 0.")
    if titles is not None and len(titles) != len(frames):
        raise ValueError(f"there are {len(titles)} titles for {len(frames)} frames; give one for each.")
    path = Path(path)
    writer = _writer(path, frames_per_second)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    if reference is not None:
        axes.scatter(reference[:, 0], reference[:, 1], s=3, color=COLOURS[5], alpha=0.4, linewidths=0)
    moving = axes.scatter(frames[0, :, 0], frames[0, :, 1], s=4, color=COLOURS[1], linewidths=0)
    axes.set(xlim=(-half_width, half_width), ylim=(-half_width, half_width), aspect="equal")
    axes.set_xlabel("first coordinate")
    axes.set_ylabel("second coordinate")
    # Laid out once: it takes longer than to draw, and a title that changes would move the axes.
    axes.set_title(titles[0] if titles is not None else "", fontsize=10)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    with writer.saving(figure, str(path), dpi=100):
        for index, frame in enumerate(frames):
            moving.set_offsets(frame)
            axes.set_title(titles[index] if titles is not None else "", fontsize=10)
            for _ in range(hold if index == len(frames) - 1 else 1):
                writer.grab_frame()
