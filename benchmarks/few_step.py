"""Quality against network evaluations: the few-step scheduler beside diffusers' own.

    python benchmarks/few_step.py --problems spiral digits             # exact scores, minutes
    python benchmarks/few_step.py --networks runs/digits runs/glyphs   # trained and calibrated ones

All samplers start from the same noise. Distances are divided by the floor, the same distance of so many fresh
data (exact scores) or training data (networks, against held-out data); 1 is as good as data. Writes a table,
a JSON file and charts into --output_dir. `python benchmarks/pictures.py FOLDER` makes the 16-pixel glyphs.
"""

import argparse
import functools
import inspect
import json
import statistics
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from tqdm.auto import tqdm

from ddpm_from_scratch import (
    DDPMFromScratchPipeline,
    DDPMFromScratchScheduler,
    Denoiser,
    FewStepScheduler,
    calibrate,
)
from ddpm_from_scratch.data.datasets import load_digits
from ddpm_from_scratch.data.exact import exact_mixture, exact_scheduler, seeded
from ddpm_from_scratch.density.residuals import residual_curve
from ddpm_from_scratch.evaluation.features import load_digit_classifier, train_classifier
from ddpm_from_scratch.measures.metrics import (
    frechet_distance,
    projected_wasserstein,
    sliced_wasserstein,
    unit_directions,
)
from ddpm_from_scratch.runtime.cpu import keep_large_allocations, use_plain_attention
from pictures import glyphs
from quality_chart import quality_chart

NUM_STEPS = (5, 10, 20, 50, 100, 1000)
FEW = (5, 10, 20)
# Above these numbers of steps, only the samplers in MANY are run.
MANY = (
    "few-step",
    "few-step, tau 0",
    "few-step, tau 1",
    "DDPM",
    "DPM++ 2M trailing",
    "SDE-DPM++ 2M trailing",
    "UniPC 2",
)
# The 250 evaluations of a network are made with so many seeds at most.
MOST_SEEDS = 3
_SPACINGS = {
    "linspace": {"timestep_spacing": "linspace"},
    "trailing": {"timestep_spacing": "trailing"},
    "Karras": {"use_karras_sigmas": True},
    "lu": {"use_lu_lambdas": True},
}
_KINDS = {
    "DPM++ 2M": {},
    "DPM++ 3M": {"solver_order": 3},
    "SDE-DPM++ 2M": {"algorithm_type": "sde-dpmsolver++"},
}
_TRAILING = {"timestep_spacing": "trailing"}
# Name -> diffusers' class and what it is told beside the training process.
STOCK: dict[str, tuple[str, dict[str, Any]]] = {
    "DDPM": ("DDPMScheduler", _TRAILING),
    "DDIM": ("DDIMScheduler", _TRAILING),
    **{
        f"{kind} {spacing}": ("DPMSolverMultistepScheduler", settings | where)
        for kind, settings in _KINDS.items()
        for spacing, where in _SPACINGS.items()
    },
    "UniPC 2": ("UniPCMultistepScheduler", _TRAILING),
    "UniPC 3": ("UniPCMultistepScheduler", _TRAILING | {"solver_order": 3}),
    "DEIS": ("DEISMultistepScheduler", _TRAILING),
    "SA-Solver": ("SASolverScheduler", _TRAILING),
    "Euler a": ("EulerAncestralDiscreteScheduler", _TRAILING),
    "Heun": ("HeunDiscreteScheduler", _TRAILING),
}


@dataclass
class Problem:
    """A network, its process, and what its samples are compared with.

    Args:
        name: in tables and charts.
        network: maps samples and a timestep to the prediction.
        scheduler: of the process, with the calibration if there is one.
        shape: of a sample.
        dtype: of the samples.
        num_samples: that a figure is made of.
        distances: name -> distance of samples from the reference.
        fresh: makes as many data again, from a seed, for the floor.
        others: name -> further schedulers to compare.
    """

    name: str
    network: Callable[[torch.Tensor, Any], torch.Tensor]
    scheduler: Any
    shape: tuple[int, ...]
    dtype: torch.dtype
    num_samples: int
    distances: dict[str, Callable[[torch.Tensor], float]]
    fresh: Callable[[int], torch.Tensor]
    others: dict[str, Any]

    def figures(self, samples: torch.Tensor) -> dict[str, float]:
        """Return all distances of some samples; infinite if they are not finite."""
        if not bool(samples.isfinite().all()):
            return dict.fromkeys(self.distances, float("inf"))
        return {name: distance(samples) for name, distance in self.distances.items()}


def exact_problem(name: str, num_samples: int | None, score_error: float) -> Problem:
    """Return a problem with an exact score: "spiral" in 2 dimensions or "digits" in 64."""
    scheduler = exact_scheduler()
    count = num_samples or (20_000 if name == "spiral" else 4000)
    model = exact_mixture(name, scheduler)
    shape = (len(model.centre),)
    disturbance = _score_error(*shape, score_error)

    def disturbed(sample: torch.Tensor, timestep: Any) -> SimpleNamespace:
        alpha_prod = scheduler.alphas_cumprod[torch.as_tensor(timestep).long().reshape(-1, 1)]
        return SimpleNamespace(sample=model(sample, timestep).sample + disturbance(sample, alpha_prod))

    # Projected once: it is compared with every set of samples.
    directions = unit_directions(*shape).float()
    reference = model.sample(20_000, seeded(7)).float() @ directions
    train = model.sample(4000, seeded(8)).float()
    density, tuned = (
        calibrate(
            Denoiser(disturbed, scheduler), shape, seeded(9), num_steps=(5, 10), tune=tune, progress_bar=False
        )
        for tune in (False, True)
    )
    residuals = residual_curve(
        Denoiser(disturbed, scheduler), model.sample(200, seeded(10)), batch_size=20_000, generator=seeded(11)
    )
    found = calibrate(
        Denoiser(disturbed, scheduler),
        shape,
        seeded(12),
        num_steps=(*FEW, 50),
        num_samples=count // 8,
        batch_size=4000,
        distance=lambda samples: sliced_wasserstein(samples.float(), train),
    )

    def few(**options: Any) -> FewStepScheduler:
        return FewStepScheduler.from_config(scheduler.config, **options)

    analytic = DDPMFromScratchScheduler.from_config(
        scheduler.config, variance_type="analytic", residuals=residuals.tolist(), **_TRAILING
    )
    others = {
        "few-step, density only": few(calibration=density),
        "few-step, tuned": few(calibration=tuned),
        "few-step, no calibration": few(calibration={}),
        "few-step, tau 0": few(calibration=density, noise_level=0.0),
        "few-step, tau 1": few(calibration=density, noise_level=1.0),
        "DDPM, analytic variance": analytic,
        "DDPM, analytic variance, density": _Visiting(analytic, few(calibration=density)),
    }
    return Problem(
        name, lambda sample, t: disturbed(sample, t).sample, few(calibration=found), shape, torch.float64,
        count,
        {"sliced W2": lambda samples: projected_wasserstein(samples.float() @ directions, reference)},
        lambda seed: model.sample(count, seeded(500 + seed)), others,
    )  # fmt: skip


class _Visiting:
    """A scheduler that visits the timesteps another one would."""

    def __init__(self, scheduler: Any, chooser: FewStepScheduler):
        self.scheduler, self.chooser = scheduler, chooser

    def set_timesteps(self, count: int) -> None:
        self.scheduler.set_timesteps(timesteps=self.chooser.timesteps_for(count))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scheduler, name)


def _score_error(dimensions: int, size: float) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return a smooth error of the predicted noise, random Fourier features with this root mean square."""
    source = seeded(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=source, dtype=torch.float64)

    inner, phase = normal(dimensions, 128) * 1.5 / dimensions**0.5, 6.283 * normal(128)
    of_level, outer = 0.7 * normal(128), normal(128, dimensions) * (2 / 128) ** 0.5

    def disturbance(sample: torch.Tensor, alpha_prod: torch.Tensor) -> torch.Tensor:
        if not size:
            return torch.zeros_like(sample)
        level = 0.5 * torch.log((1 - alpha_prod) / alpha_prod).double()
        return size * torch.cos(sample.double() @ inner + of_level * level + phase) @ outer

    return disturbance


def network_problem(folder: Path, num_samples: int | None) -> Problem:
    """Return the problem of a trained network of 8x8 digits or 16x16 glyphs, with bfloat16 evaluations."""
    pipeline = DDPMFromScratchPipeline.from_pretrained(folder)
    unet, scheduler = pipeline.unet.eval(), pipeline.scheduler
    keep_large_allocations()
    use_plain_attention(unet)
    side = unet.config.sample_size
    if side == 8:
        images, _, held_out, _ = load_digits()
    else:
        images, labels = glyphs(8000, 0, side)
        held_out, _ = glyphs(2000, 1, side)
    if side == 8:
        classifier = load_digit_classifier()
    else:
        with torch.enable_grad():
            classifier = train_classifier(images, labels, num_epochs=6)

    def features(samples: torch.Tensor) -> torch.Tensor:
        return torch.cat([classifier.features(part.clamp(-1, 1)) for part in samples.split(1000)])

    def network(sample: torch.Tensor, timestep: Any) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return torch.cat([unet(part, timestep).sample.float() for part in sample.split(250)])

    reference, count = features(held_out), num_samples or 1000
    distances = {
        "Frechet distance": lambda samples: frechet_distance(features(samples), reference),
        "sliced W2": lambda samples: sliced_wasserstein(samples.clamp(-1, 1).flatten(1), held_out.flatten(1)),
    }
    return Problem(
        folder.name, network, scheduler, tuple(images.shape[1:]), torch.float32, count, distances,
        lambda seed: images[torch.randperm(len(images), generator=seeded(seed))[:count]],
        {"few-step, no calibration": FewStepScheduler.from_config(scheduler.config, calibration={})},
    )  # fmt: skip


def stock(name: str, problem: Problem, count: int) -> Any:
    """Return one of diffusers' schedulers, ready to take `count` network evaluations."""
    kind, settings = STOCK[name]
    config = {
        key: value
        for key, value in problem.scheduler.config.items()
        if key not in ("variance_type", "noise_level") and not key.startswith("_")
    }
    scheduler = getattr(diffusers, kind).from_config(config, **settings)
    # Heun's last step takes one evaluation, all others take two.
    scheduler.set_timesteps(count // 2 + 1 if name == "Heun" else count)
    return scheduler


def sample(problem: Problem, scheduler: Any, seed: int) -> tuple[torch.Tensor, int]:
    """Return samples of a scheduler that is ready, and the evaluations it took."""
    source = seeded(seed)
    x = torch.randn(problem.num_samples, *problem.shape, generator=source, dtype=problem.dtype)
    x = x * float(scheduler.init_noise_sigma)
    options = {"generator": source} if "generator" in inspect.signature(scheduler.step).parameters else {}
    evaluations = 0
    for t in scheduler.timesteps:
        output = problem.network(scheduler.scale_model_input(x, t).to(problem.dtype), t)
        x = scheduler.step(output, t, x, **options).prev_sample.to(problem.dtype)
        evaluations += 1
    return x, evaluations


def measure(
    problem: Problem,
    counts: list[int],
    seeds: list[int],
    num_finalists: int | None,
    on_count: Callable[[list[dict[str, Any]]], None],
) -> list[dict[str, Any]]:
    """Return a row of figures for each sampler, number of evaluations and seed, that of the floor first.

    Args:
        problem: what to sample.
        counts: numbers of evaluations.
        seeds: of the noise; 1,000 evaluations are made with the first only.
        num_finalists: of diffusers' schedulers, so many that are best in any distance with the first seed are
            run with the others; None for all.
        on_count: called with the rows so far after each number of evaluations.
    """
    # Many: one set of 20,000 points of the spiral scatters by a third.
    floors = [problem.figures(problem.fresh(seed)) for seed in range(16)]
    rows: list[dict[str, Any]] = [
        {"problem": problem.name, "sampler": "floor", "steps": 0, "evaluations": 0, "seed": -1}
        | {name: statistics.mean(floor[name] for floor in floors) for name in problem.distances}
    ]
    ours = {"few-step": problem.scheduler, **problem.others}

    def run(name: str, count: int, seed: int) -> None:
        try:
            scheduler = ours.get(name) or stock(name, problem, count)
            if name in ours:
                scheduler.set_timesteps(count)
            samples, evaluations = sample(problem, scheduler, seed)
        except (ValueError, IndexError, AssertionError, RuntimeError) as error:
            tqdm.write(f"{problem.name}: {name} cannot take {count} steps: {error}")
            return
        rows.append(
            {"problem": problem.name, "sampler": name, "steps": count, "evaluations": evaluations}
            | {"seed": seed, **problem.figures(samples)}
        )

    for count in counts:
        names = [
            name
            for name in (*ours, *STOCK)
            if (count in FEW or name in MANY) and (count < 1000 or name in ("few-step", "DDPM"))
        ]
        for name in tqdm(names, desc=f"{problem.name}, {count} evaluations", unit="sampler"):
            run(name, count, seeds[0])
        again = [
            name for name in names if any(row["sampler"] == name and row["steps"] == count for row in rows)
        ]
        if num_finalists is not None:
            again = [name for name in again if name in _finalists(rows, problem, count, num_finalists, ours)]
        for seed in seeds[1:] if count < 1000 else ():
            for name in tqdm(again, desc=f"{problem.name}, {count} evaluations, seed {seed}", unit="sampler"):
                run(name, count, seed)
        on_count(rows)
    if problem.dtype == torch.float32 and 250 not in counts:  # a trained network
        for seed in tqdm(seeds[:MOST_SEEDS], desc=f"{problem.name}, DDPM with 250", unit="seed"):
            run("DDPM", 250, seed)
        on_count(rows)
    return rows


def _finalists(
    rows: list[dict[str, Any]], problem: Problem, count: int, num_finalists: int, ours: Collection[str]
) -> set[str]:
    """Return our samplers, DDPM, and the best others at a number of evaluations, by any distance."""
    there = [row for row in rows if row["steps"] == count and row["sampler"] not in ours]
    best = {
        row["sampler"]
        for distance in problem.distances
        for row in sorted(there, key=lambda row: row[distance])[:num_finalists]
    }
    return {*ours, "DDPM", *best}


def means(rows: list[dict[str, Any]], distance: str) -> dict[str, dict[int, float]]:
    """Return sampler -> steps -> mean over seeds of a distance divided by its floor."""
    floor = next(row[distance] for row in rows if row["sampler"] == "floor")
    values: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        if row["sampler"] != "floor":
            values.setdefault(row["sampler"], {}).setdefault(row["steps"], []).append(row[distance] / floor)
    return {
        sampler: {count: statistics.mean(found) for count, found in of_counts.items()}
        for sampler, of_counts in values.items()
    }


def table(rows: list[dict[str, Any]], distances: list[str]) -> str:
    """Return a table in Markdown: samplers in rows, numbers of evaluations in columns."""
    found = {distance: means(rows, distance) for distance in distances}
    counts = sorted({row["steps"] for row in rows} - {0})
    floors = ", ".join(
        f"{distance} {next(row[distance] for row in rows if row['sampler'] == 'floor'):.4f}"
        for distance in distances
    )
    lines = [
        f"{rows[0]['problem']}: {' / '.join(distances)}, divided by the floor ({floors})",
        "",
        f"| sampler | {' | '.join(map(str, counts))} |",
        f"|---|{'---|' * len(counts)}",
    ]
    for sampler in next(iter(found.values())):
        cells = [
            " / ".join(f"{found[d][sampler][count]:.2f}" for d in distances)
            if count in found[distances[0]][sampler]
            else ""
            for count in counts
        ]
        lines.append(f"| {sampler} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_results(folder: Path, problem: Problem, rows: list[dict[str, Any]]) -> None:
    """Write a table of numbers and a chart for each distance."""
    (folder / f"{problem.name}.json").write_text(json.dumps(rows, indent=1) + "\n")
    for distance in problem.distances:
        found = means(rows, distance)
        drawn = {name: found[name] for name in ("few-step", "DDPM", *STOCK) if name in found}
        path = folder / f"{problem.name}-{distance.replace(' ', '-').lower()}.png"
        quality_chart(drawn, distance, path, title=problem.name, highlight=2)


def main(argv: list[str] | None = None) -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", nargs="*", choices=("spiral", "digits"), default=[])
    parser.add_argument("--networks", nargs="*", type=Path, default=[], help="folders of pipelines")
    parser.add_argument("--num_steps", nargs="+", type=int, default=list(NUM_STEPS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--num_finalists",
        type=int,
        help="diffusers' schedulers, the best by the first seed, that go on to the others; all if not given",
    )  # fmt: skip
    parser.add_argument("--num_samples", type=int, help="20,000 points, 4,000 mixture digits, 1,000 images")
    parser.add_argument("--score_error", type=float, default=0.0, help="of exact scores, root mean square")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/few-step"))
    args = parser.parse_args(argv)
    torch.set_grad_enabled(False)
    diffusers.utils.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for given in (*args.problems, *args.networks):
        if isinstance(given, Path):
            problem = network_problem(given, args.num_samples)
        else:
            problem = exact_problem(given, args.num_samples, args.score_error)
        save = functools.partial(write_results, args.output_dir, problem)
        rows = measure(problem, args.num_steps, args.seeds, args.num_finalists, save)
        print(table(rows, list(problem.distances)), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
