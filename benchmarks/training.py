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
import contextlib
import dataclasses
import io
import itertools
import json
import os
import random
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import DDPMScheduler
from diffusers.models.modeling_utils import ModelMixin
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from PIL import Image, ImageDraw
from torch import nn
from tqdm import tqdm

from ddpm_from_scratch import DDPMFromScratchPipeline, DDPMFromScratchScheduler
from ddpm_from_scratch.metrics import frechet_distance, sliced_wasserstein
from ddpm_from_scratch.models import build_model, model_config

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "training"))

import cpu  # noqa: E402
from config import TrainingConfig, parse_config  # noqa: E402
from data import load_digits, load_training_data  # noqa: E402
from features import train_digit_classifier  # noqa: E402
from trainer import Trainer  # noqa: E402

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


# The data: images as users have them.


def digit_images() -> list[Image.Image]:
    """Return the training digits as grey 8x8 images."""
    images = ((load_digits()[0][:, 0] + 1) * 127.5).round().to(torch.uint8).numpy()
    return [Image.fromarray(image) for image in images]


def drawn_images(number: int = 1024, side: int = 32, seed: int = 0) -> list[Image.Image]:
    """Return pictures of coloured shapes on coloured ground."""
    generator = np.random.default_rng(seed)
    images = []
    for _ in range(number):
        ground, first, second = (tuple(map(int, generator.integers(0, 256, 3))) for _ in range(3))
        image = Image.new("RGB", (2 * side, 2 * side), ground)
        draw = ImageDraw.Draw(image)
        for colour, shape in ((first, draw.ellipse), (second, draw.rectangle)):
            x, y, width, height = map(int, generator.integers(side // 4, side, 4))
            shape((x, y, x + width, y + height), fill=colour)
        images.append(image.resize((side, side), Image.Resampling.LANCZOS))
    return images


def as_dataset(images: list[Image.Image]) -> datasets.Dataset:
    """Return a data set with one column of images, encoded as PNG."""
    encoded = []
    for image in images:
        file = io.BytesIO()
        image.save(file, "PNG")
        encoded.append({"bytes": file.getvalue(), "path": None})
    return datasets.Dataset.from_dict({"image": encoded}).cast_column("image", datasets.Image())


# The loops. Each has `network`, `average()`, `accelerator`, and `updates()`, which does one update per item.


class Stock:
    """The loop of diffusers' script; `tuned` adds fused AdamW and, if the precision is bf16, autocast."""

    def __init__(
        self,
        network: dict[str, Any],
        weights: dict[str, torch.Tensor],
        images: list[Image.Image],
        config: TrainingConfig,
        *,
        tuned: bool,
    ):
        self.config, self.accelerator = config, make_accelerator(config.mixed_precision if tuned else "no")
        self.network = build_model(network)
        self.network.load_state_dict(weights)
        self.scheduler = DDPMScheduler(config.ddpm_num_steps)
        side, mode = network["sample_size"], {1: "L", 3: "RGB"}[network["in_channels"]]

        def transforms(examples: dict[str, list[Image.Image]]) -> dict[str, list[torch.Tensor]]:
            # torchvision's Resize, ToTensor and Normalize([0.5], [0.5])
            resized = [image.convert(mode).resize((side, side), Image.Resampling.BILINEAR)
                       for image in examples["image"]]  # fmt: skip
            arrays = [np.array(image).reshape(side, side, -1) for image in resized]
            tensors = [torch.from_numpy(array).permute(2, 0, 1).contiguous() for array in arrays]
            return {"input": [tensor.float().div(255).sub_(0.5).div_(0.5) for tensor in tensors]}

        data = as_dataset(images)
        data.set_transform(transforms)
        loader = torch.utils.data.DataLoader(data, batch_size=config.train_batch_size, shuffle=True)
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, betas=(config.adam_beta1, config.adam_beta2),
            weight_decay=config.adam_weight_decay, eps=config.adam_epsilon, fused=tuned or None,
        )  # fmt: skip
        self.ema = EMAModel(
            self.network.parameters(), decay=config.ema_max_decay, use_ema_warmup=True,
            inv_gamma=config.ema_inv_gamma, power=config.ema_power,
        )  # fmt: skip
        lr_scheduler = get_scheduler(
            config.lr_scheduler, optimizer, num_warmup_steps=config.lr_warmup_steps,
            num_training_steps=config.max_train_steps,
        )  # fmt: skip
        self.model, self.optimizer, self.loader, self.lr_scheduler = self.accelerator.prepare(
            self.network, optimizer, loader, lr_scheduler
        )

    def average(self) -> ModelMixin:
        """Return a copy of the network with the averaged weights."""
        model = build_model(dict(self.network.config))
        self.ema.copy_to(model.parameters())
        return model.eval()

    def updates(self) -> Iterator[float]:
        """Train for ever, one update at a time; give its loss."""
        accelerator, model, step = self.accelerator, self.model, 0
        for epoch in itertools.count():
            model.train()
            progress = tqdm(total=len(self.loader), desc=f"Epoch {epoch}", file=io.StringIO())
            for batch in self.loader:
                clean = batch["input"]
                noise = torch.randn(clean.shape, device=clean.device)
                timesteps = torch.randint(0, self.config.ddpm_num_steps, (len(clean),), device=clean.device)
                noisy = self.scheduler.add_noise(clean, noise, timesteps)
                with accelerator.accumulate(model):
                    output = model(noisy, timesteps).sample
                    loss = nn.functional.mse_loss(output.float(), noise.float())
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    self.optimizer.step()
                    self.lr_scheduler.step()
                    self.optimizer.zero_grad()
                if accelerator.sync_gradients:
                    self.ema.step(model.parameters())
                    progress.update(1)
                    step += 1
                logs = {"loss": loss.detach().item(), "lr": self.lr_scheduler.get_last_lr()[0], "step": step}
                logs["ema_decay"] = self.ema.cur_decay_value
                progress.set_postfix(**logs)
                accelerator.log(logs, step=step)
                yield logs["loss"]
            progress.close()


class Ours:
    """The trainer of training/; the only place of this file that knows it."""

    def __init__(self, network: dict[str, Any], config: TrainingConfig):
        self.accelerator = make_accelerator(config.mixed_precision)
        data = load_training_data(config, network["sample_size"], network["in_channels"])
        self.trainer = Trainer(config, network, data, self.accelerator)
        self.network, self.scheduler = self.trainer.network, self.trainer.scheduler

    def average(self) -> ModelMixin:
        """Return a copy of the network with the averaged weights."""
        return self.trainer.averaged_network()

    def updates(self) -> Iterator[float]:
        """Train for ever, one update at a time; give its loss. Logs as often as the trainer does."""
        trainer, config = self.trainer, self.trainer.config
        batches = trainer.data.batches(
            config.train_batch_size, 0, 1, config.dataloader_num_workers, trainer.samples_seen
        )
        progress, losses = tqdm(total=trainer.total_updates, file=io.StringIO()), []
        with open(os.devnull, "w") as file:
            while True:
                losses.append(trainer.train_update(batches).loss)
                yield losses[-1]
                progress.update()
                if trainer.update % config.logging_steps == 0:
                    row = {"loss": statistics.mean(losses), "lr": trainer.learning_rates[0]}
                    losses = []
                    progress.set_postfix(row)
                    file.write(json.dumps({"step": trainer.update} | row) + "\n")


def make_accelerator(precision: str) -> Accelerator:
    """Return an Accelerator of its own precision; one process normally has only one."""
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(mixed_precision=precision, cpu=True)


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


class Judge:
    """Quality of digit networks against the held-out digits."""

    def __init__(self, num_samples: int, num_inference_steps: int):
        self.num_samples, self.num_inference_steps = num_samples, num_inference_steps
        self.train, _, self.held_out, _ = load_digits()
        self.classifier, _ = train_digit_classifier()

    @torch.no_grad()
    def samples(self, model: ModelMixin, scheduler: Any, seed: int) -> torch.Tensor:
        """Return samples in [-1, 1], shape (N, 1, 8, 8)."""
        pipeline = DDPMFromScratchPipeline(model, DDPMFromScratchScheduler.from_config(scheduler.config))
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(seed)
        options = {"num_inference_steps": self.num_inference_steps, "output_type": "pt"}
        parts = [
            pipeline(min(250, self.num_samples - start), generator=generator, **options).images
            for start in range(0, self.num_samples, 250)
        ]
        return torch.cat(parts) * 2 - 1

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> dict[str, float]:
        """Return the figures of some images."""
        features, reference = (self.classifier.features(x) for x in (images, self.held_out))
        train, held_out, flat = (x.flatten(1) for x in (self.train, self.held_out, images))
        nearest = torch.cdist(flat, train).amin(1)
        return {
            "frechet_distance": frechet_distance(features, reference),
            "sliced_w2": sliced_wasserstein(flat, held_out),
            "nearest_train_mean": float(nearest.mean()),
            "nearest_train_5_percent": float(nearest.quantile(0.05)),
        }

    def floors(self) -> dict[str, dict[str, float]]:
        """Return the figures of as many training images, and the distances of the held-out ones."""
        chosen = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(0))
        nearest = torch.cdist(self.held_out.flatten(1), self.train.flatten(1)).amin(1)
        train = self(self.train[chosen[: self.num_samples]])
        return {
            "training images": {key: train[key] for key in ("frechet_distance", "sliced_w2")},
            "held-out images": {
                "nearest_train_mean": float(nearest.mean()),
                "nearest_train_5_percent": float(nearest.quantile(0.05)),
            },
        }


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
                figures = judge(judge.samples(loop.average(), loop.scheduler, seed))
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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide progress bars of libraries."""
    datasets.disable_progress_bars()
    with open(os.devnull, "w") as file, contextlib.redirect_stderr(file):
        yield


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
    judge = Judge(arguments.num_samples, arguments.num_inference_steps)
    print_quality(
        arguments.seconds, arguments.speedups, arguments.seeds, judge, per_update, changes, arguments.output
    )


if __name__ == "__main__":
    main()
