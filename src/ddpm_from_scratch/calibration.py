"""Calibration of the few-step sampler: which timesteps, where the chain ends, and how much noise it carries.

Without data, nodes are laid where the probability flow bends: the error of a second-order step of length h in
lambda is about h^3 a |d^2 x0hat / d lambda^2| / 12, so equal errors need a density proportional to its cube
root. That is the error of the solver alone. Samples of a trained network are also wrong where the network is,
and for these it matters more where the chain ends and how much noise it carries; with a distance from data at
hand, `calibrate` tries settings for each number of steps and keeps the best.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers.utils import logging

from . import checks
from .diffusion import guided_output
from .exponential_adams import half_log_snrs
from .few_step_profile import density_timesteps, falling_timesteps, power_timesteps, timesteps_at
from .predictions import predict
from .scheduling_few_step import FewStepScheduler

DEFAULT_NUM_STEPS = (5, 10, 20, 50)
# Spacing -> the exponent of `power_timesteps`; "equal-error" is the density's.
_EXPONENTS = {"trailing": 1.0, "between": 1.5, "quadratic": 2.0}
SPACINGS = (*_EXPONENTS, "equal-error")
# Where the chain may end, in parts of T; what it may carry of noise.
_LAST = (0.0, 0.003, 0.01, 0.03, 0.06, 0.1, 0.15)
_NOISE_LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
# The density is smoothed over so many nodes, and is nowhere below this part of its largest value.
_SMOOTHED_OVER, _FLOOR = 5, 0.1


class Candidate(NamedTuple):
    """One way to take a number of steps, and how far its samples are from data.

    Args:
        num_steps: number of network evaluations.
        spacing: one of `SPACINGS`.
        last_timestep: the last that is evaluated.
        noise_level: tau.
        distance: of its samples.
        timesteps: all of them.
    """

    num_steps: int
    spacing: str
    last_timestep: int
    noise_level: float
    distance: float
    timesteps: tuple[int, ...]


class _Network:
    """The model with its labels and guidance, as a function of samples and one timestep.

    The labels are dealt to the samples in turn.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        scheduler: Any,
        class_labels: Sequence[int] | torch.Tensor | None,
        guidance_scale: float,
        null_class_label: int | None,
    ):
        if guidance_scale != 1 and (class_labels is None or null_class_label is None):
            raise ValueError(
                f"guidance_scale is {guidance_scale:g}, but guidance needs class_labels and a "
                "null_class_label: give both, or leave guidance_scale at 1."
            )
        self.model, self.scheduler, self.guidance_scale = model, scheduler, guidance_scale
        self.labels = None if class_labels is None else torch.as_tensor(class_labels).reshape(-1)
        self.null_class_label = null_class_label

    def __call__(self, sample: torch.Tensor, timestep: int, first: int = 0) -> torch.Tensor:
        """Return the prediction for samples whose numbers are `first` and the following."""
        at = torch.full((len(sample),), timestep, device=sample.device)
        if self.labels is None:
            return predict(self.model, self.scheduler, sample, at)[0]
        numbers = torch.arange(first, first + len(sample)) % len(self.labels)
        labels = self.labels[numbers].to(sample.device)
        if self.guidance_scale == 1 or self.null_class_label is None:
            return predict(self.model, self.scheduler, sample, at, labels)[0]
        both = torch.cat([labels, torch.full_like(labels, self.null_class_label)])
        output, _ = predict(self.model, self.scheduler, torch.cat([sample] * 2), torch.cat([at] * 2), both)
        conditional, unconditional = output.chunk(2)
        return guided_output(conditional, unconditional, self.guidance_scale)


def _few_step(scheduler: Any, timesteps: Sequence[int], noise_level: float) -> FewStepScheduler:
    """Return a scheduler of the same process that takes these steps."""
    entry = {"timesteps": list(timesteps), "noise_level": noise_level}
    ours = FewStepScheduler.from_config(
        scheduler.config,
        variance_type="fixed_small",  # the network's variances are left aside before
        noise_level=None,
        calibration={"steps": {str(len(timesteps)): entry}},
    )
    ours.set_timesteps(len(timesteps))
    return ours


def equal_error_density(
    network: Callable[[torch.Tensor, int], torch.Tensor],
    scheduler: Any,
    noise: torch.Tensor,
    num_evaluations: int = 25,
    on_evaluation: Callable[[], object] | None = None,
) -> tuple[list[float], list[float]]:
    """Return lambda of the nodes of one run of the probability flow, rising, and the density of nodes there.

    density = (a rms |d^2 x0hat / d lambda^2|)^(1/3), smoothed, plus a tenth of its maximum

    Args:
        network: maps samples and a timestep to the prediction.
        scheduler: gives alphas_cumprod and the configuration.
        noise: x_T, shape (B, ...); 8 samples will do.
        num_evaluations: nodes of the run, at least 5.
        on_evaluation: called after each evaluation of the network.

    Raises:
        ValueError, TypeError: fewer evaluations.
        FloatingPointError: estimates that are not finite.
    """
    num_evaluations = checks.integer("num_evaluations", num_evaluations, 5, len(scheduler.alphas_cumprod))
    places = half_log_snrs(scheduler.alphas_cumprod.double().tolist())
    finite = [place for place in places if np.isfinite(place)]
    nodes = timesteps_at(np.linspace(finite[-1], finite[0], num_evaluations), places)
    visited = falling_timesteps(nodes, 0, len(places))
    ode = _few_step(scheduler, visited, 0.0)
    sample, estimates = noise, []
    for timestep in visited:
        sample, estimate = ode.step(network(sample, timestep), timestep, sample, return_dict=False)
        estimates.append(estimate.double().cpu())
        if on_evaluation is not None:
            on_evaluation()
    at, rows = np.array([places[timestep] for timestep in visited]), torch.stack(estimates).flatten(1)
    if not bool(rows.isfinite().all()):
        raise FloatingPointError("the network's estimates of x_0 are not finite: take another checkpoint.")
    at = np.clip(at, finite[-1], None)
    bend = np.gradient(np.gradient(rows.numpy(), at, axis=0), at, axis=0)
    signal = 1 / np.sqrt(1 + np.exp(-2 * at))
    density = np.cbrt(signal * np.sqrt((bend**2).mean(1)))
    padded = np.pad(density, _SMOOTHED_OVER // 2, mode="edge")
    density = np.convolve(padded, np.full(_SMOOTHED_OVER, 1 / _SMOOTHED_OVER), "valid")
    density += _FLOOR * max(float(density.max()), 1e-12)
    return [round(float(x), 5) for x in at], [float(f"{x:.5g}") for x in density]


@torch.no_grad()
def calibrate(
    model: Callable[..., Any],
    scheduler: Any,
    shape: Sequence[int],
    generator: torch.Generator | None = None,
    *,
    num_steps: Sequence[int] = DEFAULT_NUM_STEPS,
    distance: Callable[[torch.Tensor], float] | None = None,
    num_samples: int = 500,
    batch_size: int = 250,
    class_labels: Sequence[int] | torch.Tensor | None = None,
    guidance_scale: float = 1.0,
    null_class_label: int | None = None,
    on_candidate: Callable[[Candidate], object] | None = None,
    progress_bar: bool = True,
) -> dict[str, Any]:
    """Return the calibration of a network for FewStepScheduler, plain numbers that go into its configuration.

    Without `distance` it is the density of equal errors, from 25 evaluations of 8 samples. With it, also the
    best timesteps and noise level for each of `num_steps`: a descent over spacing, last timestep and noise
    level, one of them changed at a time, from the density's answer on; all candidates get the same noise.

    Args:
        model: the network, in evaluation mode, on the device of the generator or the CPU.
        scheduler: any of diffusers' for the same process; gives alphas_cumprod and the configuration.
        shape: of one sample, without the batch.
        generator: source of the noise.
        num_steps: numbers of steps to find settings for.
        distance: maps samples (N, ...) in the network's units to a number that is small if they are like
            data, such as `metrics.sliced_wasserstein` or a Frechet distance to training data.
        num_samples: for each candidate.
        batch_size: samples at a time.
        class_labels: of class-conditional networks, dealt to the samples in turn.
        guidance_scale: of classifier-free guidance; 1 is none.
        null_class_label: the label of no class, for guidance.
        on_candidate: called with each Candidate as it is judged.
        progress_bar: show one, as diffusers' own are shown.

    Raises:
        ValueError, TypeError: a number out of range, or guidance without labels.
        FloatingPointError: estimates of the network, or all distances, that are not finite.
    """
    num_train_timesteps = len(scheduler.alphas_cumprod)
    counts = [checks.integer("a number of steps", n, 1, num_train_timesteps) for n in num_steps]
    num_samples = checks.integer("num_samples", num_samples, 2)
    batch_size = checks.integer("batch_size", batch_size, 1)
    network = _Network(model, scheduler, class_labels, guidance_scale, null_class_label)
    device = next((parameter.device for parameter in _parameters(model)), torch.device("cpu"))
    source = torch.device("cpu") if generator is None else generator.device

    def noise(count: int, drawn_from: torch.Generator | None = generator) -> torch.Tensor:
        return torch.randn((count, *shape), generator=drawn_from, device=source).to(device)

    with logging.tqdm(desc="calibrating", unit="evaluation", disable=not progress_bar) as progress:
        density = equal_error_density(network, scheduler, noise(8), on_evaluation=progress.update)
        calibration: dict[str, Any] = {"half_log_snr": density[0], "density": density[1]}
        if distance is None:
            return calibration
        seed = int(torch.randint(2**31, (1,), generator=generator, device=source))

        def judge(candidate: Candidate) -> Candidate:
            drawn_from = torch.Generator(source).manual_seed(seed)
            parts = []
            for first in range(0, num_samples, batch_size):
                ours = _few_step(scheduler, candidate.timesteps, candidate.noise_level)
                sample = noise(min(batch_size, num_samples - first), drawn_from)
                for timestep in candidate.timesteps:
                    # The noise of every step is drawn, so that all noise levels see the same.
                    step_noise = noise(len(sample), drawn_from)
                    output = network(sample, timestep, first)
                    sample, _ = ours.step(
                        output, timestep, sample, return_dict=False, variance_noise=step_noise
                    )
                    progress.update()
                parts.append(sample)
            judged = candidate._replace(distance=float(distance(torch.cat(parts))))
            if on_candidate is not None:
                on_candidate(judged)
            return judged

        places = half_log_snrs(scheduler.alphas_cumprod.double().tolist())
        steps = {}
        for count in sorted(counts):
            best = _descend(count, places, density, judge)
            steps[str(count)] = {"timesteps": list(best.timesteps), "noise_level": best.noise_level}
        return calibration | {"steps": steps}


def _parameters(model: Any) -> Any:
    """Return the tensors of a network, from the first of which its device can be told."""
    if not isinstance(model, torch.nn.Module):
        return ()
    return itertools.chain(model.parameters(), model.buffers())


def _candidate(
    count: int,
    spacing: str,
    last: int,
    level: int,
    places: Sequence[float],
    density: tuple[Sequence[float], Sequence[float]],
) -> Candidate:
    """Return a way to take `count` steps; `last` and `level` are places in `_LAST` and `_NOISE_LEVELS`."""
    end = min(round(_LAST[last] * len(places)), len(places) - count)
    if spacing == "equal-error":
        timesteps = density_timesteps(*density, count, places, end)
    else:
        timesteps = power_timesteps(count, end, _EXPONENTS[spacing], len(places))
    return Candidate(count, spacing, timesteps[-1], _NOISE_LEVELS[level], float("nan"), tuple(timesteps))


def _descend(
    count: int,
    places: Sequence[float],
    density: tuple[Sequence[float], Sequence[float]],
    judge: Callable[[Candidate], Candidate],
) -> Candidate:
    """Return the best candidate that a descent finds, one setting changed at a time."""
    judged: dict[tuple[tuple[int, ...], float], Candidate] = {}

    def distance_of(setting: tuple[int, int, int]) -> float:
        spacing, last, level = setting
        candidate = _candidate(count, SPACINGS[spacing], last, level, places, density)
        key = candidate.timesteps, candidate.noise_level
        if key not in judged:
            judged[key] = judge(candidate)
        value = judged[key].distance
        return value if np.isfinite(value) else float("inf")

    setting, improved = (SPACINGS.index("between"), 3, 0 if count <= 10 else 2), True
    best = distance_of(setting)
    while improved:
        improved = False
        last_moves = [lambda s, by=by: (s[0], s[1] + by, s[2]) for by in (-1, 1)]
        level_moves = [lambda s, by=by: (s[0], s[1], s[2] + by) for by in (-1, 1)]
        spacings = [lambda s, to=to: (to, s[1], s[2]) for to in range(len(SPACINGS))]
        for move in (*last_moves, *level_moves, *spacings):
            while True:  # on in this direction while it leads down
                there = move(setting)
                if not (0 <= there[1] < len(_LAST) and 0 <= there[2] < len(_NOISE_LEVELS)):
                    break
                found = distance_of(there)
                if found >= best:
                    break
                best, setting, improved = found, there, True
    if not np.isfinite(best):
        raise FloatingPointError(f"no way to take {count} steps gives samples with a finite distance.")
    return min(judged.values(), key=lambda one: (not np.isfinite(one.distance), one.distance))
