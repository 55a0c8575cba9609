"""Time this package's schedulers against diffusers' DDPMScheduler and DPMSolverMultistepScheduler.

`python benchmarks/scheduler.py`

Both run in one process, in short blocks that alternate in random order; a ratio compares the blocks
of one round, and the table gives medians. The calls:

- `step` walks through 50 timesteps that are already set; the time is that of one step.
- `first walk` sets a number of timesteps that is new to the scheduler and walks through them, so it includes
  what a scheduler prepares for a chain.
- `few steps, ODE` and `few steps, SDE` set 50 timesteps and walk through them: FewStepScheduler against
  DPMSolverMultistepScheduler (dpmsolver++ and sde-dpmsolver++).
- `add_noise` noises a batch.

No scheduler can be faster than its floor: "randn alone" draws the noise of one step and nothing else,
"arithmetic alone" is the two multiplications and the addition of `add_noise`, each rounded as stock rounds.
"""

import argparse
import functools
import itertools
import random
import statistics
import time
from collections.abc import Callable

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler
from tqdm import tqdm

from ddpm_from_scratch import DDPMFromScratchScheduler, FewStepScheduler

Block = Callable[[], torch.Tensor]

SHAPES = ((1, 3, 32, 32), (16, 3, 32, 32), (64, 3, 32, 32), (256, 2), (1, 4, 64, 64))
NUM_STEPS = 50
SCHEDULERS = {"stock": DDPMScheduler, "ours": DDPMFromScratchScheduler}


def stepper(scheduler_class: type, shape: tuple[int, ...], return_dict: bool, first: bool) -> Block:
    """Return a function that walks once through a chain, which is set each time if `first`."""
    scheduler = scheduler_class()
    generator = torch.Generator()
    start, model_output = torch.randn(2, *shape, generator=generator.manual_seed(0))
    counts = itertools.cycle([NUM_STEPS, NUM_STEPS - 1])
    scheduler.set_timesteps(next(counts))
    timesteps = list(scheduler.timesteps)

    def walk() -> torch.Tensor:
        generator.manual_seed(0)
        sample = start
        if first:
            scheduler.set_timesteps(next(counts))
        for t in scheduler.timesteps if first else timesteps:
            output = scheduler.step(model_output, t, sample, generator, return_dict)
            sample = output.prev_sample if return_dict else output[0]
        return sample

    return walk


def few_steppers(shape: tuple[int, ...], noise_level: float, algorithm_type: str) -> dict[str, Block]:
    """Return functions that set a chain and walk through it, by few-step schedulers."""
    generator = torch.Generator()
    start, model_output = torch.randn(2, *shape, generator=generator.manual_seed(0))

    def walk(scheduler: DPMSolverMultistepScheduler | FewStepScheduler) -> torch.Tensor:
        generator.manual_seed(0)
        scheduler.set_timesteps(NUM_STEPS)
        sample = start
        for t in scheduler.timesteps:
            sample = scheduler.step(model_output, t, sample, generator=generator).prev_sample
        return sample

    return {
        "stock": functools.partial(walk, DPMSolverMultistepScheduler(algorithm_type=algorithm_type)),
        "ours": functools.partial(walk, FewStepScheduler(noise_level=noise_level, calibration={})),
    }


def noisers(shape: tuple[int, ...]) -> dict[str, Block]:
    """Return functions that noise a batch of data `NUM_STEPS` times."""
    generator = torch.Generator().manual_seed(0)
    samples = torch.rand(shape, generator=generator) * 2 - 1
    noise = torch.randn(shape, generator=generator)
    timesteps = torch.randint(0, 1000, shape[:1], generator=generator)
    alpha_prod = DDPMScheduler().alphas_cumprod[timesteps].reshape(-1, *(1,) * (len(shape) - 1))
    signal_scale, noise_scale = alpha_prod**0.5, (1 - alpha_prod) ** 0.5

    def repeat(add_noise: Callable[..., torch.Tensor]) -> torch.Tensor:
        for _ in range(NUM_STEPS):
            noisy = add_noise(samples, noise, timesteps)
        return noisy

    blocks = {
        name: functools.partial(repeat, scheduler().add_noise) for name, scheduler in SCHEDULERS.items()
    }
    blocks["arithmetic alone"] = functools.partial(
        repeat, lambda samples, noise, _: signal_scale * samples + noise_scale * noise
    )
    return blocks


def drawer(shape: tuple[int, ...]) -> Block:
    """Return a function that draws the noise of a chain."""
    generator = torch.Generator().manual_seed(0)

    def draw() -> torch.Tensor:
        for _ in range(NUM_STEPS):
            noise = torch.randn(shape, generator=generator)
        return noise

    return draw


def steppers(shape: tuple[int, ...], return_dict: bool, first: bool) -> dict[str, Block]:
    """Return functions that walk through a chain, and one that only draws its noise."""
    blocks = {name: stepper(cls, shape, return_dict, first) for name, cls in SCHEDULERS.items()}
    return {**blocks, "randn alone": drawer(shape)}


CALLS: dict[str, Callable[[tuple[int, ...]], dict[str, Block]]] = {
    "step": lambda shape: steppers(shape, return_dict=True, first=False),
    "step, return_dict=False": lambda shape: steppers(shape, return_dict=False, first=False),
    "first walk": lambda shape: steppers(shape, return_dict=True, first=True),
    "few steps, ODE": lambda shape: few_steppers(shape, 0.0, "dpmsolver++"),
    "few steps, SDE": lambda shape: few_steppers(shape, 1.0, "sde-dpmsolver++"),
    "add_noise": noisers,
}


@torch.no_grad()
def microseconds(block: Block, repeats: int) -> float:
    """Return the time of one of the block's `NUM_STEPS` calls."""
    start = time.perf_counter()
    for _ in range(repeats):
        block()
    return (time.perf_counter() - start) / (repeats * NUM_STEPS) * 1e6


def compare(blocks: dict[str, Block], rounds: int) -> tuple[dict[str, float], float]:
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
    for call, make in CALLS.items():
        for shape in SHAPES:
            blocks = make(shape)
            rows.append((call, shape, blocks, torch.equal(blocks["stock"](), blocks["ours"]())))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.rounds} rounds\n")
    floors = ("randn alone", "arithmetic alone")
    print(
        "| call | shape | stock, us | ours, us | stock / ours | "
        + "".join(f"{name}, us | " for name in floors)
        + "same bits |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---|")
    lines = []
    for call, shape, blocks, same in tqdm(rows, leave=False, unit="row"):
        times, ratio = compare(blocks, arguments.rounds)
        lines.append(
            f"| {call} | {shape} | {times['stock']:.1f} | {times['ours']:.1f} | {ratio:.2f} | "
            + "".join(f"{times[name]:.1f} | " if name in times else "| " for name in floors)
            + f"{'other method' if call.startswith('few') else 'yes' if same else 'NO'} |"
        )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
