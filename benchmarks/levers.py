"""What a change of the recipe gives: `python benchmarks/levers.py --data glyphs -- "" "--optimizer=adamw"`.

Each argument is a change, one run a seed: flags of training/train.py, `network.NAME=VALUE` for the network,
`shifts=N` for data that also hold every training image moved by up to N pixels. "" is the recipe of
training/configs/digits.yaml itself. All runs have the same number of updates, so a change that makes updates
slower or faster is to be read with the seconds beside it (processor time of the updates). The data have no
labels, and the network no outputs for learned variances.

- `digits`: 1,437 scanned digits, 8 px, the network of that recipe.
- `glyphs`: 4,096 printed digits, 28 px, in 17 fonts, sizes, angles and places, drawn on the spot, and a
  network with attention at 7 px.

Quality is the Fréchet distance on the features of a digit classifier trained on the same images, of samples
by SDE-DPM-Solver++ (25 steps, trailing) against images held out; and distances to the nearest training image.
"""

import argparse
import itertools
import json
import shlex
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler
from torch import nn

from ddpm_from_scratch.data.datasets import load_digits
from ddpm_from_scratch.evaluation.features import train_classifier
from ddpm_from_scratch.networks.models import model_config
from ddpm_from_scratch.training.config import parse_config
from judge import Judge
from loops import Ours, quiet
from pictures import as_dataset, glyphs, to_images

ROOT = Path(__file__).resolve().parent.parent

NETWORKS = {
    "digits": model_config("digits"),
    "glyphs": model_config(
        "small-32",
        sample_size=28,
        channels=1,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        norm_num_groups=16,
    ),
}
# Beside what training/configs/digits.yaml says.
FLAGS = {"digits": (), "glyphs": ("--train_batch_size=64",)}
EPOCHS_OF_CLASSIFIER = {"digits": 30, "glyphs": 8}


def load(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return training images, their labels, and images held out."""
    if name == "digits":
        train, labels, held_out, _ = load_digits()
    else:
        (train, labels), (held_out, _) = glyphs(4096, seed=0), glyphs(1000, seed=1)
    return train, labels, held_out


def shifted(images: torch.Tensor, by: int) -> torch.Tensor:
    """Return images moved by up to `by` pixels in both directions, all ways; what moves in is background."""
    side = images.shape[-1]
    padded = nn.functional.pad(images, (by,) * 4, value=-1.0)
    places = itertools.product(range(2 * by + 1), repeat=2)
    return torch.cat([padded[..., y : y + side, x : x + side] for y, x in places])


def train(
    data: str, images: torch.Tensor, change: str, updates: int, seed: int, folder: Path
) -> tuple[Ours, float]:
    """Return a trained loop of the recipe with a change, and the seconds of its updates."""
    network, shifts, flags = dict(NETWORKS[data]), 0, []
    for token in shlex.split(change):
        name, _, value = token.partition("=")
        if name == "shifts":
            shifts = int(value)
        elif name.startswith("network."):
            network[name.removeprefix("network.")] = json.loads(value)
        else:
            flags.append(token)
    as_dataset(to_images(shifted(images, shifts))).save_to_disk(folder / "data")
    config = parse_config(
        [
            f"--config={ROOT / 'training' / 'configs' / 'digits.yaml'}",
            f"--dataset_name={folder / 'data'}", f"--output_dir={folder / 'run'}", "--evaluation_samples=0",
            f"--max_train_steps={updates}", f"--lr_warmup_steps={min(100, updates // 7)}", f"--seed={seed}",
            *FLAGS[data], *flags,
        ]
    )  # fmt: skip
    loop = Ours(network, config)
    began = time.process_time()
    for _ in itertools.islice(loop.updates(), updates):
        pass
    return loop, time.process_time() - began


def measure(data: str, changes: list[str], updates: int, seeds: list[int], num_samples: int) -> None:
    """Train, judge and print a table, a line as soon as it is known."""
    images, labels, held_out = load(data)
    classifier = train_classifier(images, labels, EPOCHS_OF_CLASSIFIER[data])
    judge = Judge(images, held_out, classifier.features, num_samples, num_inference_steps=25)
    print(f"{data}, {updates} updates, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| change | seed | seconds | Fréchet distance | sliced W2 | nearest training image, mean |")
    print("|---|---:|---:|---:|---:|---:|")

    def line(name: str, seed: str, seconds: str, figures: dict[str, Any]) -> str:
        keys = {"frechet_distance": ".2f", "sliced_w2": ".4f", "nearest_train_mean": ".2f"}
        cells = [format(figures[key], spec) if key in figures else "" for key, spec in keys.items()]
        return f"| {name} | {seed} | {seconds} | " + " | ".join(cells) + " |"

    for name, figures in judge.floors().items():
        print(line(name, "", "", figures), flush=True)
    for seed, change in itertools.product(seeds, changes):
        with tempfile.TemporaryDirectory() as folder, quiet():
            loop, seconds = train(data, images, change, updates, seed, Path(folder))
            sampler = DPMSolverMultistepScheduler.from_config(
                loop.scheduler.config, algorithm_type="sde-dpmsolver++", timestep_spacing="trailing"
            )
            figures = judge(judge.samples(loop.average(), sampler, seed))
        print(line(f"`{change}`" if change else "none", str(seed), f"{seconds:.0f}", figures), flush=True)


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("changes", nargs="*", default=[""], help="quoted; give those with dashes after --")
    parser.add_argument("--data", choices=NETWORKS, default="digits", help="what to train on")
    parser.add_argument("--updates", type=int, default=400, help="of every run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="a run of each change for each")
    parser.add_argument("--num_samples", type=int, default=1000, help="samples to judge")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    measure(arguments.data, arguments.changes, arguments.updates, arguments.seeds, arguments.num_samples)


if __name__ == "__main__":
    main()
