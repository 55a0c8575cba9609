"""The lesson's pictures, all of them of the library's own functions; `build.py` has them drawn."""

import functools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from animations import animate_points
from charts import comparison_grid, point_sets, schedule_chart, score_field, signal_left, trajectories
from claims import bound_gaps, langevin_variance, residual_shares, ten_steps
from ddpm_from_scratch import DDPMFromScratchPipeline, DDPMFromScratchScheduler, FewStepScheduler
from ddpm_from_scratch.data.exact import SCHEDULES as EXACT_SCHEDULES
from ddpm_from_scratch.data.exact import exact_mixture, exact_scheduler, narrow_mixture, seeded
from ddpm_from_scratch.data.points import swiss_roll
from ddpm_from_scratch.density.score import langevin, tweedie
from ddpm_from_scratch.measures.plots import COLOURS
from ddpm_from_scratch.process.diffusion import forward_step
from ddpm_from_scratch.process.noise_schedules import alphas_cumprod_from_betas, betas_for_schedule
from worked import SCHEDULES

HERE = Path(__file__).resolve().parent

NAMES = {"linear": "linear", "cosine": "cosine", "sigmoid": "sigmoid (Jabri)", "geodiff": "sigmoid (GeoDiff)"}


def quiet(pipeline: DDPMFromScratchPipeline, scheduler: Any) -> DDPMFromScratchPipeline:
    """Return a pipeline's network with another scheduler, without a progress bar."""
    pipeline = DDPMFromScratchPipeline(pipeline.unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def line_chart(
    lines: dict[str, tuple[Sequence[float], Sequence[float]]],
    path: Path,
    across: str,
    up: str,
    marked: Sequence[str] = (),
    **axes_settings: Any,
) -> None:
    """Save a chart of lines, name -> (x, y), as PNG; those that are `marked` as points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for (name, (x, y)), colour, style in zip(
        lines.items(), COLOURS, ("-", "--", ":", "-.") * 2, strict=False
    ):
        look: dict[str, Any] = {"marker": "o", "linestyle": ""} if name in marked else {"linestyle": style}
        axes.plot(x, y, color=colour, linewidth=1.8, label=name, **look)
    axes.set(xlabel=across, ylabel=up, **axes_settings)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def forward(path: Path, num_points: int = 1000, every: int = 40) -> None:
    """Animate one run of the forward chain of the linear schedule."""
    scheduler, source = exact_scheduler(), seeded(1)
    x = data = swiss_roll(num_points, seeded(0))
    frames, titles = [x.numpy()], ["t = 0"]
    for t, beta in enumerate(scheduler.betas.tolist(), start=1):
        x = forward_step(x, torch.randn(x.shape, generator=source), beta)
        if t % every == 0:
            frames.append(x.numpy())
            titles.append(f"t = {t}")
    animate_points(np.stack(frames), path, titles, data.numpy(), frames_per_second=8, size=3.2)


def reverse(pipeline: DDPMFromScratchPipeline, path: Path, num_points: int = 1000, frames: int = 26) -> None:
    """Animate ancestral sampling with a trained network."""
    ancestral = quiet(pipeline, DDPMFromScratchScheduler.from_config(pipeline.scheduler.config))
    walked = ancestral(
        batch_size=num_points, generator=seeded(0), num_inference_steps=1000, output_type="np",
        return_trajectory=True,
    ).trajectory.numpy()  # fmt: skip
    chosen = np.linspace(0, len(walked) - 1, frames).round().astype(int)
    titles = [f"t = {1000 - index}" for index in chosen]
    animate_points(
        walked[chosen], path, titles, swiss_roll(num_points, seeded(0)).numpy(), frames_per_second=8, size=3.2
    )


def paths_of_few_steps(pipeline: DDPMFromScratchPipeline, path: Path) -> None:
    """Draw the paths of some points by ten steps without noise."""
    few = quiet(pipeline, FewStepScheduler.from_config(pipeline.scheduler.config, noise_level=0.0))
    walked = few(
        batch_size=60, generator=seeded(0), num_inference_steps=10, output_type="np", return_trajectory=True
    ).trajectory.numpy()
    trajectories(walked, path, swiss_roll(1000, seeded(0)).numpy())


def strip(path: Path) -> None:
    """Draw a digit at six times, and E[x_0 | x_t] of a mixture of 600 digits."""
    scheduler = exact_scheduler()
    model = exact_mixture("digits", scheduler)
    digit = (model.offsets + model.centre)[[3]]
    noise = torch.randn(digit.shape, generator=seeded(2), dtype=torch.float64)
    noised, guessed = {}, {}
    for t in (1, 100, 250, 400, 550, 800):
        alpha_bar = scheduler.alphas_cumprod[t - 1].double()
        x_t = scheduler.add_noise(digit, noise, torch.tensor(t - 1))
        for cells, values in ((noised, x_t), (guessed, model.pred_original(x_t, alpha_bar))):
            cells[f"t = {t}"] = (values.reshape(1, 8, 8, 1) / 2 + 0.5).clamp(0, 1).numpy()
    comparison_grid({"noised": noised, "best guess": guessed}, path, images_across=1, pixel_size=16)


def targets(path: Path) -> None:
    """Draw by how much an error of each prediction is multiplied on its way to x_0, linear schedule."""
    alpha_bar = exact_scheduler().alphas_cumprod.double()
    t = range(1, 1001)
    lines = {
        "noise": (t, ((1 - alpha_bar) / alpha_bar).sqrt().tolist()),
        "x_0": (t, [1.0] * 1000),
        "v": (t, (1 - alpha_bar).sqrt().tolist()),
    }
    line_chart(lines, path, "timestep t", "error of x_0 / error of the prediction", yscale="log")


def scores(score_path: Path, tweedie_path: Path, langevin_path: Path) -> None:
    """Draw the score of the noised Swiss roll, Tweedie's estimates, and Langevin walkers at t = 100."""
    scheduler = exact_scheduler()
    data = swiss_roll(400, seeded(0))
    model = narrow_mixture(data.double(), 0.05, scheduler)
    alpha_bar = scheduler.alphas_cumprod[99].double()
    score = functools.partial(model.score, alpha_prod_t=alpha_bar)
    log_prob = functools.partial(model.log_prob, alpha_prod_t=alpha_bar)
    score_field(score, score_path, log_prob, title="t = 100, linear schedule")
    noise = torch.randn(1000, 2, generator=seeded(2), dtype=torch.float64)
    x_t = scheduler.add_noise(model.sample(1000, seeded(1)), noise, torch.tensor(99))
    guessed = tweedie(x_t, model.score(x_t, alpha_bar), alpha_bar)
    clouds = {"x_100": x_t, "best guess of x_0": guessed, "data": data}
    point_sets({name: cloud.numpy() for name, cloud in clouds.items()}, tweedie_path)
    walkers = 2.5 * torch.randn(1000, 2, generator=seeded(3), dtype=torch.float64)
    clouds, done = {}, 0
    for steps in (0, 10, 100, 1000):
        walkers = langevin(
            lambda x: model.score(x, alpha_bar), walkers, 0.01, steps - done, seeded(4 + steps)
        )
        clouds[f"{steps} steps"], done = walkers, steps
    point_sets({name: cloud.numpy() for name, cloud in clouds.items()}, langevin_path)


def wasted(path: Path) -> None:
    """Draw what is not known of the data over time, for two schedules and two sets of data."""
    lines = {
        f"{schedule}, {name}": (range(1, 1001), residual_shares(schedule, name).tolist())
        for name in ("spiral", "digits")
        for schedule in ("linear", "cosine")
    }
    line_chart(lines, path, "timestep t", "E|x_0 - best guess|^2 / variance of x_0")


def bars(axes: Any, groups: Sequence[str], heights: dict[str, Sequence[float]]) -> None:
    """Draw bars side by side for each group; heights are name -> one for each group."""
    width = 0.8 / len(heights)
    for place, (name, values) in enumerate(heights.items()):
        across = np.arange(len(groups)) + width * place
        axes.bar(across, values, width=0.95 * width, color=COLOURS[place], label=name)
    axes.set_xticks(np.arange(len(groups)) + 0.4 - width / 2, groups)


def few_steps(path: Path) -> None:
    """Draw the distances of `claims.ten_steps`."""
    from matplotlib.figure import Figure

    found = ten_steps()
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    chains = {"ddim_even": "DDIM, even", "even": "few-step, even", "equal_error": "few-step, equal errors"}
    for axes, name in zip(figure.subplots(ncols=2), ("spiral", "digits"), strict=True):
        heights = {
            label: [found[f"{name}_{schedule}_{how}"] for schedule in EXACT_SCHEDULES]
            for how, label in chains.items()
        }
        bars(axes, tuple(EXACT_SCHEDULES), heights)
        axes.axhline(1, color="#777777", linestyle="--", linewidth=1)
        axes.set_title(name)
    figure.axes[0].set_ylabel("sliced W2 / floor")
    figure.axes[0].legend(frameon=False)
    figure.savefig(path, dpi=120)


def gaps(path: Path) -> None:
    """Draw how far the bound is above the truth (`claims.bound_gaps`)."""
    from matplotlib.figure import Figure

    found = bound_gaps()
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes, schedules = figure.subplots(), tuple(EXACT_SCHEDULES)
    kinds = {"fixed_small": "posterior's variance", "analytic": "analytic variance"}
    bars(
        axes, schedules,
        {label: [found[f"{name}_{kind}"] for name in schedules] for kind, label in kinds.items()},
    )  # fmt: skip
    axes.set_ylabel("bound - truth, bits/dim")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def langevin_steps(path: Path) -> None:
    """Draw the variance that Langevin dynamics end at over the step size, measured and predicted."""
    ratios = {float(name.split("_")[1]): ratio for name, ratio in langevin_variance().items()}
    sizes = np.linspace(0, 2.5, 51)
    predicted = 1 / (1 - sizes / 4)
    line_chart(
        {
            "1 / (1 - step / 4)": (sizes.tolist(), predicted.tolist()),
            "measured": (list(ratios), [ratio / (1 - size / 4) for size, ratio in ratios.items()]),
        },
        path, "step size", "variance of the walkers", marked=["measured"],
    )  # fmt: skip


def picking_t(path: Path) -> None:
    """Draw the signal left at the end over T, with the betas of T = 1000 and with scaled ones."""
    counts = [50, 75, 100, 150, 200, 300, 500, 700, 1000, 1500, 2000, 4000]

    def left(scale: bool) -> list[float]:
        tables = (betas_for_schedule("linear", count, scale_betas_by_length=scale) for count in counts)
        return [float(alphas_cumprod_from_betas(betas)[-1]) for betas in tables]

    line_chart(
        {"betas 0.0001 to 0.02": (counts, left(False)), "scaled by 1000 / T": (counts, left(True))}, path,
        "number of steps T", "alpha-bar at the end", xscale="log", yscale="log",
    )  # fmt: skip


def draw(run: Path, pipeline: DDPMFromScratchPipeline, folder: Path) -> None:
    """Draw all pictures into a folder.

    Args:
        run: folder of the pipeline, with the picture of its loss.
        pipeline: the trained network and its few-step scheduler.
        folder: made if it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables = {
        NAMES[name]: DDPMFromScratchScheduler(beta_schedule=schedule).alphas_cumprod
        for name, schedule in SCHEDULES.items()
    }
    drawn = {
        "forward.gif": forward,
        "reverse.gif": lambda path: reverse(pipeline, path),
        "strip.png": strip,
        "signal_left.png": lambda path: signal_left(tables, path),
        "schedules.png": lambda path: schedule_chart(tables, path),
        "loss.png": lambda path: shutil.copy(run / "loss.png", path),
        "targets.png": targets,
        "trajectories.png": lambda path: paths_of_few_steps(pipeline, path),
        "score.png": lambda path: scores(path, path.with_name("tweedie.png"), path.with_name("langevin.png")),
        "langevin_steps.png": langevin_steps,
        "gaps.png": gaps,
        "wasted.png": wasted,
        "ten_steps.png": few_steps,
        "picking_t.png": picking_t,
    }
    with torch.no_grad():
        for name, picture in tqdm(drawn.items(), desc="drawing", unit="picture"):
            picture(folder / name)
