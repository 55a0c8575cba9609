"""Speed on 2-D points: our trainer and pipeline beside plain loops, `python benchmarks/points.py`.

Both train the same network (`points`) on the Swiss roll at batch 256 with an average of the weights. The
plain loop is what a tutorial has: a DataLoader over a TensorDataset, DDPMScheduler's add_noise, mse_loss,
AdamW, EMAModel; "tuned" is the same with fused AdamW. Sampling takes the same number of steps. A and B
alternate in one process; a ratio is of one round, and the table gives medians.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader, TensorDataset

from ddpm_from_scratch import DDPMFromScratchPipeline, DDPMFromScratchScheduler
from ddpm_from_scratch.data.points import swiss_roll
from ddpm_from_scratch.networks.models import build_model, model_config
from ddpm_from_scratch.training.config import parse_config
from loops import Ours, quiet

ROOT = Path(__file__).resolve().parent.parent

BATCH_SIZE = 256


def plain_updates(tuned: bool) -> Iterator[None]:
    """Train for ever as a tutorial does, one update at a time."""
    network, scheduler = build_model(model_config("points")), DDPMScheduler(clip_sample=False)
    points = swiss_roll(50_000, torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(points), batch_size=BATCH_SIZE, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=tuned or None)
    average = EMAModel(network.parameters(), use_ema_warmup=True)
    while True:
        for (x_0,) in loader:
            noise = torch.randn_like(x_0)
            t = torch.randint(0, 1000, (len(x_0),))
            predicted = network(scheduler.add_noise(x_0, noise, t), t).sample
            loss = torch.nn.functional.mse_loss(predicted, noise)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            average.step(network.parameters())
            loss.item()  # for a progress bar
            yield


def our_updates(folder: Path) -> Iterator[Any]:
    """Train for ever as training/train.py does."""
    config = parse_config(
        [
            f"--config={ROOT / 'training' / 'configs' / 'swiss_roll.yaml'}", f"--output_dir={folder}",
            f"--train_batch_size={BATCH_SIZE}", "--max_train_steps=1000000",
        ]
    )  # fmt: skip
    return Ours(model_config("points"), config).updates()


def plain_samples(network: Any, count: int, num_steps: int) -> torch.Tensor:
    """Sample as a tutorial does."""
    scheduler = DDPMScheduler(clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(num_steps)
    x = torch.randn(count, 2)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t.expand(count)).sample, t, x).prev_sample
    return x


def our_samples(network: Any, count: int, num_steps: int) -> torch.Tensor:
    """Sample by the pipeline."""
    scheduler = DDPMFromScratchScheduler(clip_sample=False, timestep_spacing="trailing")
    pipeline = DDPMFromScratchPipeline(network, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(batch_size=count, num_inference_steps=num_steps, output_type="pt").images


def alternate(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each way, which take turns; the first round warms up and is left out."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        names = list(ways) if turn % 2 else list(ways)[::-1]
        for name in names:
            began = time.perf_counter()
            ways[name]()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def report(title: str, seconds: dict[str, list[float]], per: float, unit: str) -> None:
    """Print the speed of each way, and its median ratio to ours."""
    for name, taken in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(taken, seconds["ours"], strict=True))
        print(
            f"| {title} | {name} | {per / statistics.median(taken):,.0f} {unit} | {ratio:.2f} |", flush=True
        )


def main(argv: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--updates", type=int, default=50, help="of a block")
    parser.add_argument("--num_samples", type=int, default=10_000)
    parser.add_argument("--num_steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {args.threads} threads, {args.rounds} rounds\n")
    print("| what | loop | speed | time / ours |\n|---|---|---:|---:|")
    # Sampling first: the trainer changes how the process gets its memory.
    network = build_model(model_config("points")).eval()
    seconds = alternate(
        {
            "plain": lambda: plain_samples(network, args.num_samples, args.num_steps),
            "ours": lambda: our_samples(network, args.num_samples, args.num_steps),
        },
        args.rounds,
    )
    report(f"{args.num_samples:,} points, DDPM steps", seconds, args.num_steps, "steps/s")
    with tempfile.TemporaryDirectory() as folder, quiet():
        loops = {
            "plain": plain_updates(False), "tuned": plain_updates(True), "ours": our_updates(Path(folder))
        }  # fmt: skip

        def block(loop: Iterator[object]) -> None:
            for _ in range(args.updates):
                next(loop)

        seconds = alternate(
            {name: lambda loop=loop: block(loop) for name, loop in loops.items()}, args.rounds
        )
    report(f"training, batch {BATCH_SIZE}", seconds, args.updates, "updates/s")


if __name__ == "__main__":
    main()
