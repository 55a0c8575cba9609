"""Print what looking for nan costs a step: `python benchmarks/nan_check.py`, a minute on a CPU.

The pipeline samples one picture (1, 3, 32, 32) by the network `small-32`, in turn with the check and without.
The check alone is timed, too, because a hundredth of a step is less than two runs differ by.
"""

import argparse
import statistics
import time
from unittest import mock

import torch

from ddpm_from_scratch import (
    DDPMFromScratchPipeline,
    DDPMFromScratchScheduler,
    build_model,
    model_config,
)
from ddpm_from_scratch.networks.finite_outputs import FiniteOutputs


def seconds_per_step(pipeline: DDPMFromScratchPipeline, num_steps: int) -> float:
    """Return the wall time of a run, by its steps."""
    _wait(pipeline.device)
    began = time.perf_counter()
    pipeline(1, torch.Generator().manual_seed(0), num_steps, output_type="pt")
    _wait(pipeline.device)
    return (time.perf_counter() - began) / num_steps


def seconds_per_look(device: torch.device, repeats: int = 2000) -> float:
    """Return the wall time of one look at an output of that size, the median of ten rounds."""
    output, timestep, rounds = torch.randn(1, 3, 32, 32, device=device), torch.tensor(5), []
    for _ in range(10):
        outputs = FiniteOutputs(None)
        _wait(device)
        began = time.perf_counter()
        for _ in range(repeats):
            outputs.see(output, timestep, output)
        outputs.finish(output)
        rounds.append((time.perf_counter() - began) / repeats)
    return statistics.median(rounds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--num_steps", type=int, default=20)
    parser.add_argument("--num_rounds", type=int, default=15)
    parser.add_argument("--model_config", default="small-32")
    options = parser.parse_args()
    torch.manual_seed(0)
    network = build_model(model_config(options.model_config, sample_size=32, channels=3)).eval()
    pipeline = DDPMFromScratchPipeline(network, DDPMFromScratchScheduler())
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    seconds_per_step(pipeline, options.num_steps)
    with_check, without = [], []
    for _ in range(options.num_rounds):
        with_check.append(seconds_per_step(pipeline, options.num_steps))
        with mock.patch.multiple(FiniteOutputs, see=lambda *_: None, finish=lambda *_: None):
            without.append(seconds_per_step(pipeline, options.num_steps))
    step, look = statistics.median(without), seconds_per_look(pipeline.device)
    ratio = statistics.median(a / b for a, b in zip(with_check, without, strict=True))
    print(f"{options.model_config} on {pipeline.device}, {torch.get_num_threads()} threads")
    print(f"a step without the check   {1e3 * step:9.3f} ms")
    print(f"a step with it             {ratio - 1:+9.2%}  (median of {options.num_rounds} pairs)")
    print(f"the check alone            {1e6 * look:9.2f} us, {look / step:.3%} of a step")


if __name__ == "__main__":
    main()
