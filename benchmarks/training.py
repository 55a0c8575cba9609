"""Time training against diffusers' loop: `python benchmarks/training.py --what speed` (or quality).

Three loops train the same network from the same weights on the same images:

- `stock` is examples/unconditional_image_generation/train_unconditional.py as a user runs it: encoded images
  in a `datasets` data set, decoded, resized and made tensors anew each epoch by a DataLoader, DDPMScheduler,
  AdamW, EMAModel, Accelerate, float32. Its sample grids of 1,000 steps and its tracker are left out, in its
  favour.
- `tuned stock` is the same with fused AdamW, and with bf16 autocast in the rows that say so.
- `ours` is the trainer of training/, driven through its own update, with the settings of the stock script.

`--what speed` runs them in one process in short blocks that alternate in random order; a ratio compares the
blocks of one round and the table gives medians. Time of the network is its forward and backward pass,
everything else is outside: data, noise, loss, clipping, optimizer, average, log. On a machine that does other
work, `--clock cpu` counts the processor time of this process, which is the same with one thread.

`--what quality` asks how long our recipe needs to reach what stock reaches in `--seconds`, on the digits:
Fréchet distance on digit-classifier features of samples by DDPM steps against the held-out digits, sliced W2
in pixels, and distances to the nearest training image, which must not fall below those of held-out images (a
sign of copying).
"""

import argparse
import dataclasses
import itertools
import json
import random
import shlex
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ddpm_from_scratch import DDPMFromScratchScheduler
from ddpm_from_scratch.data.datasets import load_digits
from ddpm_from_scratch.evaluation.features import load_digit_classifier
from ddpm_from_scratch.networks.models import build_model, model_config
from ddpm_from_scratch.runtime import cpu
from ddpm_from_scratch.training.config import TrainingConfig, parse_config
from judge import Judge
from loops import Ours, Stock, quiet
from pictures import as_dataset, digit_images, drawn_images

ROOT = Path(__file__).resolve().parent.parent

# UNet2DModel with diffusers' defaults, as small as 8x8 digits allow.
STOCK_DIGITS: dict[str, Any] = {
    "_class_name": "UNet2DModel",
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
# The same at 32 px, attention from 16 px down; its heads have diffusers' default of 8 channels.
STOCK_32: dict[str, Any] = {
    "_class_name": "UNet2DModel",
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
COLUMNS = ("stock", "tuned stock", "ours")
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the speed table: a network, its images and the precision of `tuned stock` and `ours`."""

    name: str
    network: dict[str, Any]
    precision: str = "no"
    batch_size: int = 16


ROWS = {
    "digits": Row("digits, 8 px, fp32", STOCK_DIGITS),
    "small-32": Row("`small-32`, 32 px RGB, fp32", model_config("small-32")),
    "small-32-bf16": Row("`small-32`, 32 px RGB, bf16", model_config("small-32"), "bf16"),
    "heads-of-8": Row("U-Net with heads of 8, 32 px RGB, fp32", STOCK_32),
    "heads-of-8-bf16": Row("U-Net with heads of 8, 32 px RGB, bf16", STOCK_32, "bf16"),
}


# Speed.


class NetworkClock:
    """Seconds spent in the forward and backward pass of a loop's network."""

    def __init__(self, loop: Stock | Ours, clock: Callable[[], float]):
        self.seconds, self.clock = 0.0, clock
        loop.network.register_forward_pre_hook(lambda *_: self._start())
        loop.network.register_forward_hook(lambda *_: self._stop())
        backward = loop.accelerator.backward

        def timed(*args: Any, **kwargs: Any) -> None:
            self._start()
            backward(*args, **kwargs)
            self._stop()

        loop.accelerator.backward = timed

    def _start(self) -> None:
        self.began = self.clock()

    def _stop(self) -> None:
        self.seconds += self.clock() - self.began


def stock_settings(row: Row, folder: Path, **changes: Any) -> TrainingConfig:
    """Return the settings of diffusers' script, which all columns of a speed row use."""
    name = "digits" if row.network["in_channels"] == 1 else str(folder / "data")
    return TrainingConfig(
        dataset_name=name, use_ema=True, mixed_precision=row.precision, train_batch_size=row.batch_size,
        output_dir=str(folder / "run"), **{"max_train_steps": 10_000} | changes,
    )  # fmt: skip


def make_loops(row: Row, folder: Path, **changes: Any) -> dict[str, Stock | Ours]:
    """Return the loops of a speed row: same network, same weights, same images, same settings."""
    config = stock_settings(row, folder, **changes)
    images = (
        digit_images() if config.dataset_name == "digits" else drawn_images(side=row.network["sample_size"])
    )
    if config.dataset_name != "digits":
        as_dataset(images).save_to_disk(config.dataset_name)
    ours = Ours(row.network, config)
    weights = {name: value.clone() for name, value in ours.network.state_dict().items()}
    stock = {name: Stock(row.network, weights, images, config, tuned=name != "stock") for name in COLUMNS[:2]}
    return stock | {"ours": ours}


@dataclasses.dataclass
class Block:
    """What one block of updates took, in seconds per update, and the mean of its losses."""

    total: float
    network: float
    loss: float


def measure_speed(
    row: Row, rounds: int, updates: int, clock: Callable[[], float] = time.perf_counter, **changes: Any
) -> dict[str, list[Block]]:
    """Return the blocks of each column, round by round."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        loops = make_loops(row, Path(folder), **changes)
        clocks = {name: NetworkClock(loop, clock) for name, loop in loops.items()}
        running = {name: loop.updates() for name, loop in loops.items()}
        blocks: dict[str, list[Block]] = {name: [] for name in loops}
        for number in range(rounds + 1):  # the first warms up
            for name in random.sample(COLUMNS, len(COLUMNS)):
                cpu.keep_large_allocations(name == "ours")  # a setting of the process, which ours makes
                clocks[name].seconds, began = 0.0, clock()
                losses = [next(running[name]) for _ in range(updates)]
                total, network = clock() - began, clocks[name].seconds
                block = Block(total / updates, network / updates, statistics.mean(map(float, losses)))
                if number:
                    blocks[name].append(block)
        return blocks


def speed_line(row: Row, blocks: dict[str, list[Block]]) -> str:
    """Return one line of the speed table."""
    cells = [row.name]
    for name in COLUMNS:
        cells.append(f"{row.batch_size / statistics.median(block.total for block in blocks[name]):.1f}")
    for name in COLUMNS[:2]:
        pairs = zip(blocks[name], blocks["ours"], strict=True)
        cells.append(f"{statistics.median(stock.total / ours.total for stock, ours in pairs):.2f}")
    outside = {name: [block.total - block.network for block in blocks[name]] for name in COLUMNS}
    for name in COLUMNS:
        share = statistics.median(
            time / block.total for time, block in zip(outside[name], blocks[name], strict=True)
        )
        cells.append(f"{statistics.median(outside[name]) * 1e3:.1f} ({share:.1%})")
    return "| " + " | ".join(cells) + " |"


def print_speed(names: list[str], rounds: int, updates: int, clock: str) -> None:
    """Measure the rows and print the table."""
    threads = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    print(f"{threads}, {clock} time, {rounds} rounds of {updates} updates\n")
    print(
        "| network, data | stock, images/s | tuned stock | ours | ours / stock | ours / tuned "
        "| outside the network, ms an update: stock | tuned stock | ours |"
    )
    print("|---|" + "---:|" * 8, flush=True)
    for name in names:
        print(speed_line(ROWS[name], measure_speed(ROWS[name], rounds, updates, CLOCKS[clock])), flush=True)


# Quality.


def stock_recipe(updates: int, seed: int, folder: Path) -> TrainingConfig:
    """Return the settings of diffusers' script."""
    return stock_settings(ROWS["digits"], folder, max_train_steps=updates, seed=seed)


def our_recipe(updates: int, seed: int, folder: Path, changes: Sequence[str]) -> TrainingConfig:
    """Return the settings of training/configs/digits.yaml over another number of updates, with changes."""
    flags = [f"--max_train_steps={updates}", f"--seed={seed}", f"--output_dir={folder / 'run'}"]
    warmup = min(100, updates // 7)
    config = ROOT / "training" / "configs" / "digits.yaml"
    return parse_config([f"--config={config}", *flags, f"--lr_warmup_steps={warmup}", *changes])


def make_recipe(
    name: str, updates: int, seed: int, folder: Path, changes: Sequence[str] = ()
) -> Stock | Ours:
    """Return a loop of the quality comparison."""
    if name == "ours":
        return Ours(model_config("digits"), our_recipe(updates, seed, folder, changes))
    torch.manual_seed(seed)
    weights = build_model(STOCK_DIGITS).state_dict()
    config = stock_recipe(updates, seed, folder)
    return Stock(STOCK_DIGITS, weights, digit_images(), config, tuned=False)


def seconds_per_update(
    folder: Path,
    clock: Callable[[], float],
    changes: Sequence[str] = (),
    rounds: int = 9,
    updates: int = 5,
) -> dict[str, float]:
    """Return the median time of an update of both recipes, measured in alternation."""
    with quiet():
        loops = {name: make_recipe(name, 10_000, 0, folder, changes).updates() for name in ("stock", "ours")}
        times: dict[str, list[float]] = {name: [] for name in loops}
        for number in range(rounds + 1):
            for name, loop in loops.items():
                began = clock()
                for _ in range(updates):
                    next(loop)
                if number:
                    times[name].append((clock() - began) / updates)
    return {name: statistics.median(values) for name, values in times.items()}


def measure_quality(
    seconds: float,
    speedups: list[float],
    seeds: int,
    judge: Judge,
    per_update: dict[str, float],
    changes: Sequence[str],
    report: Callable[[dict[str, Any]], None],
) -> list[dict[str, Any]]:
    """Train stock for `seconds` and ours for `seconds` / each speedup; return and report a dictionary a run.

    The number of updates comes from `per_update`, so other work on the machine does not change the
    comparison.
    """
    results = []
    for seed in range(seeds):
        for name, budget in [("stock", seconds), *(("ours", seconds / speedup) for speedup in speedups)]:
            updates = max(2, round(budget / per_update[name]))
            with tempfile.TemporaryDirectory() as folder, quiet():
                loop = make_recipe(name, updates, seed, Path(folder), changes)
                began = time.perf_counter()
                losses = [float(loss) for loss in itertools.islice(loop.updates(), updates)]
                took = time.perf_counter() - began
                scheduler = DDPMFromScratchScheduler.from_config(loop.scheduler.config)
                figures = judge(judge.samples(loop.average(), scheduler, seed))
            edge = max(1, updates // 10)
            results.append(
                {
                    "recipe": name,
                    "seed": seed,
                    "seconds": budget,
                    "measured_seconds": took,
                    "updates": updates,
                    "first_loss": statistics.mean(losses[:edge]),
                    "last_loss": statistics.mean(losses[-edge:]),
                }
                | figures
            )
            report(results[-1])
    return results


def verdict(results: list[dict[str, Any]], seconds: float) -> str:
    """Return for each seed the shortest budget in which ours reached stock's Fréchet distance."""
    lines = []
    for seed in sorted({result["seed"] for result in results}):
        runs = [result for result in results if result["seed"] == seed]
        target = next(run["frechet_distance"] for run in runs if run["recipe"] == "stock")
        reached = [
            run["seconds"] for run in runs if run["recipe"] == "ours" and run["frechet_distance"] <= target
        ]
        text = (
            f"in {min(reached):.0f} s, {seconds / min(reached):.1f} times less"
            if reached
            else "in none of the budgets"
        )
        lines.append(f"seed {seed}: ours reaches {target:.2f}, stock's of {seconds:.0f} s, {text}")
    return "\n".join(lines)


def print_quality(
    seconds: float, speedups: list[float], seeds: int, judge: Judge, per_update: dict[str, float],
    changes: Sequence[str], output: Path | None,
) -> None:  # fmt: skip
    """Train, measure and print the table."""
    milliseconds = ", ".join(f"{name} {value * 1e3:.1f}" for name, value in per_update.items())
    print(f"{torch.get_num_threads()} threads; milliseconds an update: {milliseconds}")
    print(f"{judge.num_samples} samples by DDPM, {judge.num_inference_steps} steps")
    print(f"ours: training/configs/digits.yaml {' '.join(changes)}\n")
    print(
        "| | seed | seconds | updates | Fréchet distance | sliced W2 | nearest training image, mean "
        "| 5 % quantile |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")

    def line(name: str, figures: dict[str, Any]) -> str:
        keys = {"seed": "d", "seconds": ".0f", "updates": "d", "frechet_distance": ".2f", "sliced_w2": ".4f",
                "nearest_train_mean": ".2f", "nearest_train_5_percent": ".2f"}  # fmt: skip
        cells = [format(figures[key], spec) if key in figures else "" for key, spec in keys.items()]
        return f"| {name} | " + " | ".join(cells) + " |"

    for name, figures in judge.floors().items():
        print(line(name, figures), flush=True)
    results = measure_quality(
        seconds, speedups, seeds, judge, per_update, changes,
        lambda run: print(line(run["recipe"], run), flush=True),
    )  # fmt: skip
    print("\n" + verdict(results, seconds))
    if output is not None:
        output.write_text(json.dumps({"seconds_per_update": per_update, "runs": results}, indent=2) + "\n")


def main(argv: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--what", choices=("speed", "quality"), default="speed", help="which comparison")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; one is the least disturbed")
    parser.add_argument(
        "--rows", nargs="+", choices=ROWS, default=list(ROWS), help="speed: networks to compare"
    )
    parser.add_argument("--rounds", type=int, default=15, help="speed: alternations a row")
    parser.add_argument("--updates", type=int, default=4, help="speed: updates of a block")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="time to count")
    parser.add_argument("--seconds", type=float, default=600, help="quality: training time of stock")
    parser.add_argument(
        "--speedups", type=float, nargs="+", default=[7, 10, 14],
        help="quality: ours trains for --seconds divided by each, a run each",
    )  # fmt: skip
    parser.add_argument(
        "--milliseconds", type=float, nargs=2, metavar=("STOCK", "OURS"), default=None,
        help="quality: time of an update, for the same number of updates again; measured if not given",
    )  # fmt: skip
    parser.add_argument(
        "--changes", default="", metavar="'--FLAG=VALUE ...'",
        help="quality: flags of training/train.py that change our recipe; put = before the quotes",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=2, help="quality: runs of each recipe")
    parser.add_argument("--num_samples", type=int, default=1000, help="quality: samples to judge")
    parser.add_argument("--num_inference_steps", type=int, default=200, help="quality: DDPM steps")
    parser.add_argument("--output", type=Path, default=None, help="quality: JSON file for the figures")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    if arguments.what == "speed":
        print_speed(arguments.rows, arguments.rounds, arguments.updates, arguments.clock)
        return
    changes = shlex.split(arguments.changes)
    if arguments.milliseconds is not None:
        per_update = dict(zip(("stock", "ours"), (ms / 1e3 for ms in arguments.milliseconds), strict=True))
    else:
        with tempfile.TemporaryDirectory() as folder:
            per_update = seconds_per_update(Path(folder), CLOCKS[arguments.clock], changes)
    train, _, held_out, _ = load_digits()
    features = load_digit_classifier().features
    judge = Judge(train, held_out, features, arguments.num_samples, arguments.num_inference_steps)
    print_quality(
        arguments.seconds, arguments.speedups, arguments.seeds, judge, per_update, changes, arguments.output
    )


if __name__ == "__main__":
    main()
