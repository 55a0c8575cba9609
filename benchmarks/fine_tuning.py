"""What trained weights give on new pictures: `python benchmarks/fine_tuning.py`, 15 minutes of one core.

A network is trained on the digits 0-4, and then others on the digits 5-9, which it has never seen, of which
there are few or many, for equal seconds of processor time:

- `fresh`: fresh weights, training/configs/digits.yaml.
- `fresh, batches of 32`: the same with the batch of fine_tune.yaml, so with about as many updates.
- `weights`: --init_from the network of 0-4, training/configs/fine_tune.yaml.
- `weights, low rate`: the same with AdamW at a learning rate of 3e-4, which moves the weights less.

Every run has the whole course of its learning rate: the number of updates is the seconds divided by what an
update of its recipe takes. Quality is the Fréchet distance on the features of the digit classifier, of
samples by SDE-DPM-Solver++ (25 steps, trailing) against the held-out digits 5-9; and the distance to the
nearest training picture, which falls below that of held-out pictures where training pictures are copied.
"""

import argparse
import contextlib
import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import DPMSolverMultistepScheduler

from ddpm_from_scratch.data.datasets import load_digits
from ddpm_from_scratch.evaluation.features import load_digit_classifier
from ddpm_from_scratch.training import Trainer
from ddpm_from_scratch.training.config import parse_config
from ddpm_from_scratch.training.prepare import choose_model_and_data
from judge import Judge
from loops import fresh_accelerator, quiet
from pictures import as_dataset, to_images

CONFIGS = Path(__file__).resolve().parent.parent / "training" / "configs"
NETWORK = "digits"
_DATA = ("dataset_name", "train_data_dir")
LOW_RATE = ("--optimizer=adamw", "--learning_rate=3e-4")
# Way to start -> its recipe, flags over it, and whether it has the weights.
STARTS: dict[str, tuple[str, tuple[str, ...], bool]] = {
    "fresh": ("digits.yaml", (), False),
    "fresh, batches of 32": ("digits.yaml", ("--train_batch_size=32",), False),
    "weights": ("fine_tune.yaml", (), True),
    "weights, low rate": ("fine_tune.yaml", LOW_RATE, True),
}


def make_trainer(
    recipe: str, images: torch.Tensor, updates: int, seed: int, folder: Path, *flags: str
) -> Trainer:
    """Return the trainer of a recipe over so many updates on some images, which it keeps in a folder."""
    as_dataset(to_images(images)).save_to_disk(folder / "data")
    stored = yaml.safe_load((CONFIGS / recipe).read_text())
    settings = [f"--{name}={value}" for name, value in stored.items() if name not in _DATA]
    config = parse_config(
        [
            *settings,
            f"--dataset_name={folder / 'data'}", "--channels=1", "--resolution=8",
            f"--output_dir={folder / 'run'}", "--evaluation_samples=0", f"--seed={seed}",
            f"--max_train_steps={updates}", f"--lr_warmup_steps={min(100, max(1, updates // 7))}",
            f"--model_config_name_or_path={NETWORK}", *flags,
        ]
    )  # fmt: skip
    return Trainer(config, *choose_model_and_data(config), fresh_accelerator("no"))


def train(trainer: Trainer) -> float:
    """Train to the last update; return the seconds of processor time that it took."""
    began = time.process_time()
    for _ in trainer.updates():
        pass
    return time.process_time() - began


def seconds_per_update(recipe: str, flags: Sequence[str], images: torch.Tensor, updates: int = 20) -> float:
    """Return the processor time of an update of a recipe."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        trainer = make_trainer(recipe, images, updates, 0, Path(folder), *flags)
        updates_done = trainer.updates()
        next(updates_done)
        began = time.process_time()
        for _ in updates_done:
            pass
        return (time.process_time() - began) / (updates - 1)


def figures(trainer: Trainer, judge: Judge, seed: int) -> dict[str, float]:
    """Return how good the samples of a trainer's averaged weights are."""
    sampler = DPMSolverMultistepScheduler.from_config(
        trainer.scheduler.config, algorithm_type="sde-dpmsolver++", timestep_spacing="trailing"
    )
    return judge(judge.samples(trainer.state.averaged_network(), sampler, seed))


def line(name: str, figures: dict[str, Any]) -> str:
    """Return a line of the table."""
    keys = {"pictures": "d", "seconds": ".0f", "updates": "d", "seed": "", "frechet_distance": ".2f",
            "nearest_train_mean": ".2f"}  # fmt: skip
    cells = [format(figures[key], spec) if key in figures else "" for key, spec in keys.items()]
    return f"| {name} | " + " | ".join(cells) + " |"


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train, judge and print the table, a line as soon as it is known; return its runs."""
    images, labels, held_out, held_out_labels = load_digits()
    old, new = images[labels < 5], images[labels >= 5]
    new = new[torch.randperm(len(new), generator=torch.Generator().manual_seed(0))]
    features, unseen = load_digit_classifier().features, held_out[held_out_labels >= 5]
    sets = [new[:number] if number else new for number in options.pictures]
    took = {name: seconds_per_update(recipe, flags, new) for name, (recipe, flags, _) in STARTS.items()}
    milliseconds = ", ".join(f"{name} {seconds * 1e3:.0f}" for name, seconds in took.items())
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; ms an update: {milliseconds}")
    print(
        f"digits 0-4: {len(old)} pictures, {options.first_updates} updates; {options.num_samples} samples\n"
    )
    print("| start | pictures of 5-9 | seconds | updates | seed | Fréchet distance | nearest picture |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for pictures in sets:  # what real pictures have: those of training, those held out to the nearest of them
        floors = Judge(pictures, unseen, features, len(pictures), 25).floors()
        real = floors["training images"] | floors["held-out images"] | {"pictures": len(pictures)}
        print(line("real pictures", real), flush=True)
    runs: list[dict[str, Any]] = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as first, quiet():
            trainer = make_trainer("digits.yaml", old, options.first_updates, seed, Path(first))
            train(trainer)
            trainer.export()
            found = figures(trainer, Judge(new, unseen, features, options.num_samples, 25), seed)
            runs.append({"start": "the weights alone", "seconds": 0, "updates": 0, "seed": seed} | found)
            print(line("the weights alone", runs[-1]), flush=True)
            grid = itertools.product(sets, options.seconds, STARTS.items())
            for pictures, seconds, (name, (recipe, flags, has_weights)) in grid:
                source = [f"--init_from={trainer.output_dir}"] if has_weights else []
                updates = max(2, round(seconds / took[name]))
                with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                    made = make_trainer(recipe, pictures, updates, seed, Path(folder), *flags, *source)
                    used = train(made)
                    found = figures(made, Judge(pictures, unseen, features, options.num_samples, 25), seed)
                about = {"pictures": len(pictures), "budget": seconds, "seconds": used, "updates": updates}
                runs.append({"start": name, "seed": seed} | about | found)
                print(line(name, runs[-1]), flush=True)
    return runs


def print_means(runs: list[dict[str, Any]]) -> None:
    """Print mean and half the range over the seeds of each row."""
    print("\n| start | pictures of 5-9 | seconds | Fréchet distance, mean ± half the range of the seeds |")
    print("|---|---:|---:|---:|")
    groups: dict[tuple[Any, ...], list[float]] = {}
    for run in runs:
        key = run["start"], run.get("pictures", ""), run.get("budget", 0)
        groups.setdefault(key, []).append(run["frechet_distance"])
    for (name, pictures, seconds), distances in groups.items():
        half = (max(distances) - min(distances)) / 2
        print(f"| {name} | {pictures} | {seconds:g} | {statistics.mean(distances):.2f} ± {half:.2f} |")


def main(argv: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pictures", type=int, nargs="+", default=[50, 0], help="of 5-9 to train on; 0 is all"
    )
    parser.add_argument("--seconds", type=float, nargs="+", default=[4, 12], help="budgets of a run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="all runs for each")
    parser.add_argument("--first_updates", type=int, default=400, help="of the network of 0-4")
    parser.add_argument("--num_samples", type=int, default=400, help="samples to judge")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    print_means(measure(options))


if __name__ == "__main__":
    main()
