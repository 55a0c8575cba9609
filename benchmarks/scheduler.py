"""Time DDPMFromScratchScheduler against diffusers' DDPMScheduler: `python benchmarks/scheduler.py`.

Both run in one process, in short blocks that alternate in random order; a ratio compares the blocks
of one round, and the table gives medians. `step` sets 50 timesteps and walks through them, as sampling does.
"randn alone" draws the noise of one step and nothing else: no scheduler that draws noise can be faster.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch
from diffusers import DDPMScheduler
from tqdm import tqdm

from ddpm_from_scratch import DDPMFromScratchScheduler

SHAPES = ((1, 3, 32, 32), (16, 3, 32, 32), (64, 3, 32, 32), (256, 2), (1, 4, 64, 64))
NUM_STEPS = 50
SCHEDULERS = {"stock": DDPMScheduler, "ours": DDPMFromScratchScheduler}


def stepper(scheduler_class: type, shape: tuple[int, ...], return_dict: bool) -> Callable[[], torch.Tensor]:
    """Return a function that walks once through the chain, and gives the last sample."""
    scheduler = scheduler_class()
    generator = torch.Generator()
    start, model_output = torch.randn(2, *shape, generator=generator.manual_seed(0))

    def walk() -> torch.Tensor:
        generator.manual_seed(0)
        scheduler.set_timesteps(NUM_STEPS)
        sample = start
        for t in scheduler.timesteps:
            sample = scheduler.step(model_output, t, sample, generator, return_dict)[0]
        return sample

    return walk


def noiser(scheduler_class: type, shape: tuple[int, ...]) -> Callable[[], torch.Tensor]:
    """Return a function that noises a batch of data `NUM_STEPS` times."""
    scheduler = scheduler_class()
    generator = torch.Generator().manual_seed(0)
    samples = torch.rand(shape, generator=generator) * 2 - 1
    noise = torch.randn(shape, generator=generator)
    timesteps = torch.randint(0, 1000, shape[:1], generator=generator)

    def repeat() -> torch.Tensor:
        for _ in range(NUM_STEPS):
            noisy = scheduler.add_noise(samples, noise, timesteps)
        return noisy

    return repeat


def drawer(shape: tuple[int, ...]) -> Callable[[], torch.Tensor]:
    """Return a function that draws the noise of a chain."""
    generator = torch.Generator().manual_seed(0)

    def draw() -> torch.Tensor:
        for _ in range(NUM_STEPS):
            noise = torch.randn(shape, generator=generator)
        return noise

    return draw


@torch.no_grad()
def microseconds(block: Callable[[], torch.Tensor], repeats: int) -> float:
    """Return the time of one of the block's `NUM_STEPS` calls."""
    start = time.perf_counter()
    for _ in range(repeats):
        block()
    return (time.perf_counter() - start) / (repeats * NUM_STEPS) * 1e6


def compare(blocks: dict[str, Callable[[], torch.Tensor]], rounds: int) -> tuple[dict[str, float], float]:
    """Return the median time of each block in microseconds, and the median of stock / ours."""
    repeats = max(1, round(0.02 / (NUM_STEPS * microseconds(blocks["stock"], 1) * 1e-6)))
    times: dict[str, list[float]] = {name: [] for name in blocks}
    order = list(blocks)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            times[name].append(microseconds(blocks[name], repeats))
    ratios = [stock / ours for stock, ours in zip(times["stock"], times["ours"], strict=True)]
    return {name: statistics.median(values) for name, values in times.items()}, statistics.median(ratios)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="alternations per row")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; one is the least disturbed")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    rows = []
    for call in ("step", "step, return_dict=False", "add_noise"):
        for shape in SHAPES:
            if call == "add_noise":
                blocks = {name: noiser(scheduler, shape) for name, scheduler in SCHEDULERS.items()}
            else:
                blocks = {name: stepper(cls, shape, call == "step") for name, cls in SCHEDULERS.items()}
            same = torch.equal(blocks["stock"](), blocks["ours"]())
            if call != "add_noise":
                blocks["randn alone"] = drawer(shape)
            rows.append((call, shape, blocks, same))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.rounds} rounds\n")
    print("| call | shape | stock, us | ours, us | stock / ours | randn alone, us | same bits |")
    print("|---|---|---:|---:|---:|---:|---|")
    lines = []
    for call, shape, blocks, same in tqdm(rows, leave=False, unit="row"):
        times, ratio = compare(blocks, arguments.rounds)
        floor = f"{times['randn alone']:.1f}" if "randn alone" in times else ""
        lines.append(
            f"| {call} | {shape} | {times['stock']:.1f} | {times['ours']:.1f} | {ratio:.2f} | {floor} "
            f"| {'yes' if same else 'NO'} |"
        )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
