"""Print what diffusers' DDPMScheduler gets wrong, and what ours gives: `python tests/claims/defects.py`.

Each row runs the same code with both classes. A row is a function that takes a scheduler class and returns a
short result and whether it is right; tests/test_defects.py asserts that every row is wrong for stock, right
for ours. `--markdown` prints the table of docs/differences.md.
"""

import argparse
import contextlib
import functools
import textwrap
import warnings
from collections.abc import Callable, Iterator

import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
)
from torch.utils._python_dispatch import TorchDispatchMode

from ddpm_from_scratch import DDPMFromScratchScheduler, SchedulerWarning

Outcome = tuple[str, bool]
ROWS: list[tuple[str, Callable[[type], Outcome]]] = []


def row(function: Callable[[type], Outcome]) -> Callable[[type], Outcome]:
    """Add a function to the table; its docstring is the title."""
    ROWS.append((str(function.__doc__).rstrip("."), function))
    return function


@contextlib.contextmanager
def warned() -> Iterator[list]:
    """Collect the scheduler's warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", SchedulerWarning)
        yield caught


def outcome_of(call: Callable[[], object]) -> str:
    """Return the kind of error that a call raises, or "no error"."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 - whatever stock raises is the result
        return type(error).__name__
    return "no error"


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return the same normal numbers each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sampled_std(scheduler, data_std: float, pixels: int = 1, count: int = 4000) -> float:
    """Return the standard deviation of the brightness of samples drawn with the exact network.

    The data are images of one brightness, N(0, data_std^2), in all `pixels`. Given x_t, the brightness is
    Gaussian with mean sqrt(a) s^2 m / (a s^2 + (1 - a) / pixels), m being the mean of the pixels of x_t.
    """
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(count, pixels, generator=generator)
    for t in scheduler.timesteps:
        a = float(scheduler.alphas_cumprod[t])
        brightness = (
            sample.mean(1, keepdim=True) * a**0.5 * data_std**2 / (a * data_std**2 + (1 - a) / pixels)
        )
        epsilon = (sample - a**0.5 * brightness) / (1 - a) ** 0.5
        sample = scheduler.step(epsilon, t, sample, generator=generator, return_dict=False)[0]
    return float(sample.mean(1).std())


@row
def trailing_spacing(scheduler_class: type) -> Outcome:
    """Trailing: step counts of 1..1000 with wrong timesteps; std of samples with n=61 (0.5 is right)."""
    scheduler = scheduler_class(timestep_spacing="trailing", clip_sample=False)
    wrong = 0
    for n in range(1, 1001):
        scheduler.set_timesteps(n)
        wrong += len(scheduler.timesteps) != n or int(scheduler.timesteps.min()) < 0
    scheduler.set_timesteps(61)
    std = sampled_std(scheduler, data_std=0.5)
    return f"{wrong} wrong; std {std:.2f}", wrong == 0 and abs(std - 0.5) < 0.05


@row
def leading_floor(scheduler_class: type) -> Outcome:
    """Leading, n=501: first timestep, its alpha-bar; brightness std of 1024-pixel samples (0.5 is right)."""
    scheduler = scheduler_class(clip_sample=False)
    with warned() as caught:
        scheduler.set_timesteps(501)
    t = int(scheduler.timesteps[0])
    std = sampled_std(scheduler, data_std=0.5, pixels=1024, count=200)
    text = f"t={t}, {float(scheduler.alphas_cumprod[t]):.3f}; std {std:.2f}; warnings: {len(caught)}"
    return text, len(caught) == 1 and "trailing" in str(caught[0].message)


@row
def noise_on_the_last_step(scheduler_class: type) -> Outcome:
    """fixed_large, trailing, n=10/50/250: std of the noise added last; std of samples of data with 0.200."""
    added, stds = [], []
    for n in (10, 50, 250):
        scheduler = scheduler_class(
            variance_type="fixed_large", timestep_spacing="trailing", clip_sample=False
        )
        scheduler.set_timesteps(n)
        stds.append(sampled_std(scheduler, data_std=0.2))
        zeros = torch.zeros(1000, 1)
        generator = torch.Generator().manual_seed(0)
        last = scheduler.step(zeros, scheduler.timesteps[-1], zeros, generator=generator)
        added.append(float(last.prev_sample.std()))
    text = "; ".join("/".join(f"{value:.2f}" for value in values) for values in (added, stds))
    return text, max(added) < 1e-6


@row
def fixed_large_log(scheduler_class: type) -> Outcome:
    """fixed_large_log: share of nan after one step at t=500."""
    scheduler = scheduler_class(variance_type="fixed_large_log")
    result = scheduler.step(normal(2, 3, 8, 8), 500, normal(2, 3, 8, 8)).prev_sample
    share = float(result.isnan().float().mean())
    return f"{share:.0%}", share == 0


@row
def learned_variance(scheduler_class: type) -> Outcome:
    """learned: share of nan; learned_range with a C-channel network; fixed_small with a 2C-channel one."""
    output, sample = normal(2, 6, 8, 8) - 0.2, normal(2, 3, 8, 8)
    result = scheduler_class(variance_type="learned").step(output, 500, sample).prev_sample
    share = float(result.isnan().float().mean())
    errors = [
        outcome_of(lambda: scheduler_class(variance_type="learned_range").step(sample, 500, sample)),
        outcome_of(lambda: scheduler_class().step(output, 500, sample)),
    ]
    return f"{share:.0%}; {errors[0]}; {errors[1]}", share == 0 and errors == ["ValueError"] * 2


@row
def zero_snr_epsilon(scheduler_class: type) -> Outcome:
    """Zero terminal SNR with epsilon, not clipped: share that is not finite after the first step."""
    with warned() as caught:
        scheduler = scheduler_class(
            rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
        )
        scheduler.set_timesteps(10)
    result = scheduler.step(normal(2, 3, 8, 8), 999, normal(2, 3, 8, 8, seed=1)).prev_sample
    share = float((~result.isfinite()).float().mean())
    return f"{share:.0%}; warnings: {len(caught)}", share == 0 and len(caught) == 1


@row
def laplace_schedule(scheduler_class: type) -> Outcome:
    """laplace: SNR at t=250, 750 (the paper's is 1.41, 0.71)."""
    table = scheduler_class(beta_schedule="laplace").alphas_cumprod.double()
    values = [float(table[t - 1] / (1 - table[t - 1])) for t in (250, 750)]
    return "{:.2f}, {:.2f}".format(*values), abs(values[0] - 1.414) < 0.01 and abs(values[1] - 0.707) < 0.01


@row
def half_precision_noise(scheduler_class: type) -> Outcome:
    """add_noise in bf16/fp16: timesteps without any noise, linear; squaredcos_cap_v2."""
    counts = []
    for schedule in ("linear", "squaredcos_cap_v2"):
        scheduler = scheduler_class(beta_schedule=schedule)
        for dtype in (torch.bfloat16, torch.float16):
            zeros, ones = torch.zeros(1000, 1, dtype=dtype), torch.ones(1000, 1, dtype=dtype)
            counts.append(int((scheduler.add_noise(zeros, ones, torch.arange(1000)) == 0).sum()))
    return "{}/{}; {}/{}".format(*counts), sum(counts) == 0


@row
def dynamic_thresholding(scheduler_class: type) -> Outcome:
    """Thresholding (B, D) data; an empty batch; 17 million elements; with sample_max_value=1.0."""
    with warned() as caught:
        scheduler_class(thresholding=True)
    scheduler = scheduler_class(thresholding=True, sample_max_value=2.0)
    shapes = ((4, 2), (0, 3, 8, 8), (1, 1, 4096, 4151))
    samples = [torch.zeros(shape) for shape in shapes]
    errors = [outcome_of(lambda x=x: scheduler.step(x, 0, x)) for x in samples]
    text = f"{'; '.join(errors)}; warnings: {len(caught)}"
    return text, errors == ["no error"] * 3 and len(caught) == 1


@row
def sigmoid_in_alpha_bar(scheduler_class: type) -> Outcome:
    """Sigmoid in alpha-bar (Jabri et al. 2022): .851, .500, .149 at t=250, 500, 750."""
    ours = issubclass(scheduler_class, DDPMFromScratchScheduler)
    name = "sigmoid_alpha_bar" if ours else "sigmoid"
    table = scheduler_class(beta_schedule=name).alphas_cumprod
    values = [float(table[t - 1]) for t in (250, 500, 750)]
    right = all(abs(a - b) < 1e-3 for a, b in zip(values, (0.851, 0.5, 0.149), strict=True))
    return f"{name}: " + ", ".join(f"{value:.3f}" for value in values), right


@row
def betas_by_length(scheduler_class: type) -> Outcome:
    """linear, T=50: alpha-bar at the last timestep (4e-5 at T=1000); with betas scaled by 1000/T."""
    with warned() as caught:
        plain = float(scheduler_class(num_train_timesteps=50).alphas_cumprod[-1])
    try:
        scheduler = scheduler_class(num_train_timesteps=50, scale_betas_by_length=True)
    except TypeError:
        return f"{plain:.3f}, warnings: {len(caught)}; no such setting", False
    scaled = float(scheduler.alphas_cumprod[-1])
    return f"{plain:.3f}, warnings: {len(caught)}; {scaled:.1g}", len(caught) == 1 and scaled < 1e-4


@row
def offset_past_the_end(scheduler_class: type) -> Outcome:
    """steps_offset=1 with n=T: error of set_timesteps; of step."""
    scheduler = scheduler_class(steps_offset=1)
    at_once = outcome_of(lambda: scheduler.set_timesteps(1000))
    if at_once != "no error":
        return at_once, at_once == "ValueError"
    x = normal(1, 3, 8, 8)
    return f"{at_once}; {outcome_of(lambda: scheduler.step(x, scheduler.timesteps[0], x))}", False


class CountOperations(TorchDispatchMode):
    """Count the operations that reach the dispatcher."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Count one operation and run it."""
        self.count += 1
        return function(*args, **(kwargs or {}))


@row
def lookup(scheduler_class: type) -> Outcome:
    """A timestep outside the chain; tensor operations in a step; steps without reading device values."""
    scheduler = scheduler_class()
    scheduler.set_timesteps(10)
    x = normal(1, 3, 8, 8)
    try:
        scheduler.step(x, 3, x)
    except Exception as error:  # noqa: BLE001 - whatever stock raises is the result
        raised = f"{type(error).__name__} '{str(error)[:22]}...'"
    first, second = scheduler.timesteps[:2]
    scheduler.step(x, first, x)
    scheduler.step(x, second, x)
    with CountOperations() as operations:
        scheduler.step(x, second, x)
    scheduler.set_timesteps(10, device="meta")
    on_device = x.to("meta")
    reads = outcome_of(lambda: [scheduler.step(on_device, t, on_device) for t in scheduler.timesteps])
    no_sync = reads == "no error"
    text = f"{raised}; {operations.count}; {'10 of 10' if no_sync else reads}"
    return text, raised.startswith("ValueError 'timestep 3") and operations.count < 20 and no_sync


@row
def length_of_trained_betas(scheduler_class: type) -> Outcome:
    """200 trained_betas with T=1000; 2000 of them."""
    errors = [outcome_of(lambda n=n: scheduler_class(trained_betas=[0.01] * n)) for n in (200, 2000)]
    return "; ".join(errors), errors == ["ValueError"] * 2


@row
def wrong_arguments(scheduler_class: type) -> Outcome:
    """Eight wrong arguments: how many are refused with a ValueError or TypeError."""
    x, t = normal(2, 3, 8, 8), torch.tensor([1, 2])

    def scheduler():
        return scheduler_class()

    calls = (
        lambda: scheduler_class(prediction_type="velocity"),
        lambda: scheduler_class(beta_end=1.7),
        lambda: scheduler_class(variance_type="small"),
        lambda: scheduler().set_timesteps(0),
        lambda: scheduler().add_noise(x, x, torch.tensor([-1, 2])),
        lambda: scheduler().add_noise(x, x, torch.tensor([[1, 2], [3, 4]])),
        lambda: scheduler().add_noise(x, x[:1], t),
        lambda: scheduler().add_noise((x * 100).byte(), x, t),
    )
    refused = sum(outcome_of(call) in ("ValueError", "TypeError") for call in calls)
    return f"{refused} of {len(calls)}", refused == len(calls)


@row
def clipped_data(scheduler_class: type) -> Outcome:
    """The point (3, 3) with the default clip_sample=True: what sampling gives."""
    scheduler, x_0 = scheduler_class(prediction_type="sample"), torch.tensor([[3.0, 3.0]])
    with warned() as caught:
        scheduler.add_noise(x_0, torch.zeros_like(x_0), torch.tensor([0]))
        result = scheduler.step(x_0, 0, x_0).prev_sample[0]
    text = f"({float(result[0]):g}, {float(result[1]):g}); warnings: {len(caught)}"
    return text, len(caught) == 1 and "clip_sample" in str(caught[0].message)


@row
def variance_is_a_variance(scheduler_class: type) -> Outcome:
    """_get_variance(500): fixed_small, fixed_small_log, fixed_large, fixed_large_log."""
    names = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log")
    values = [float(scheduler_class(variance_type=name)._get_variance(500)) for name in names]
    right = all(abs(value / 0.01 - 1) < 0.02 for value in values)
    return ", ".join(f"{value:.3g}" for value in values), right


@row
def variance_noise(scheduler_class: type) -> Outcome:
    """The caller's own noise in step, or none."""
    x = normal(1, 3, 8, 8)
    error = outcome_of(lambda: scheduler_class().step(x, 500, x, variance_noise=torch.zeros_like(x)))
    return error, error == "no error"


@row
def one_source(scheduler_class: type) -> Outcome:
    """After register_to_config(variance_type='fixed_large'): configuration; attribute."""
    scheduler = scheduler_class()
    scheduler.register_to_config(variance_type="fixed_large")
    both = scheduler.config.variance_type, scheduler.variance_type
    return "; ".join(both), both == ("fixed_large", "fixed_large")


@row
def latents(scheduler_class: type) -> Outcome:
    """From settings of PNDM, Euler, DPM++: std of N(0, 1) latents whose noise is known (1.00 is right)."""
    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    original, stds = normal(4000, 4), []
    for other in (PNDMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler):
        scheduler = scheduler_class.from_config(other(**settings).config)
        scheduler.set_timesteps(50)
        sample, generator = normal(4000, 4, seed=1), torch.Generator().manual_seed(2)
        for t in scheduler.timesteps:
            a = float(scheduler.alphas_cumprod[t])
            epsilon = (sample - a**0.5 * original) / (1 - a) ** 0.5
            sample = scheduler.step(epsilon, t, sample, generator=generator, return_dict=False)[0]
        stds.append(float(sample.std()))
    return ", ".join(f"{std:.2f}" for std in stds), all(abs(std - 1) < 0.02 for std in stds)


@functools.cache
def outcome(function: Callable[[type], Outcome], scheduler_class: type) -> Outcome:
    """Return what a row finds of a scheduler; each is computed once."""
    return function(scheduler_class)


def table() -> list[tuple[str, Outcome, Outcome]]:
    """Return title, stock's outcome and ours for every row."""
    results = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for title, function in ROWS:
            stock, ours = (outcome(function, kind) for kind in (DDPMScheduler, DDPMFromScratchScheduler))
            results.append((title, stock, ours))
    return results


def markdown() -> str:
    """Return the table of docs/differences.md."""
    lines = ["| # | what | DDPMScheduler | ours |", "|---|---|---|---|"]
    lines += [
        f"| {i} | {title} | {stock[0]} | {ours[0]} |" for i, (title, stock, ours) in enumerate(table(), 1)
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--markdown", action="store_true", help="print the table of docs/differences.md")
    if parser.parse_args().markdown:
        print(markdown())
        return
    for number, (title, stock, ours) in enumerate(table(), 1):
        print(f"{number:2}  " + textwrap.fill(title, 110, subsequent_indent="    "))
        for name, (text, right) in (("stock", stock), ("ours", ours)):
            print(f"      {name:6}{'right' if right else 'WRONG':6} {text}")


if __name__ == "__main__":
    main()
