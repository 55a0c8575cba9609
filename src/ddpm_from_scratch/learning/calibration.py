"""Calibration of the few-step sampler: which timesteps, where the chain ends, and how much noise it carries.

Without data, nodes are laid where the probability flow bends: the error of a second-order step of length h in
lambda is about h^3 a |d^2 x0hat / d lambda^2| / 12, so equal errors need a density proportional to its cube
root. For few steps, the nodes can also be tuned: moved, one at a time, as long as that brings the end of the
flow nearer to that of a fine solution. Both look at the error of the solver alone. Samples of a trained
network are also wrong where the network is, and for these it matters more where the chain ends, and how much
noise it carries, and where; with a distance from data at hand, `calibrate` tries settings for each number of
steps and keeps the best.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers.utils import logging

from .. import checks
from ..networks.denoiser import Denoiser
from ..schedulers.exponential_adams import half_log_snrs
from ..schedulers.few_step_profile import (
    FewStepPlan,
    default_noise_level,
    density_timesteps,
    falling_timesteps,
    power_timesteps,
    timesteps_at,
)
from ..schedulers.scheduling_few_step import FewStepScheduler
from ..words import DEFAULT_NUM_STEPS

# Spacing -> the exponent of `power_timesteps`; "equal-error" is the density's.
_EXPONENTS = {"trailing": 1.0, "between": 1.5, "quadratic": 2.0}
SPACINGS = (*_EXPONENTS, "equal-error", "tuned")
# Where the chain may end, in parts of T, beside where trailing timesteps do; what it may carry of noise, and
# between which parts of T; the factor of that noise.
_LAST = (0.0, 0.01, 0.03, 0.06, 0.1, 0.15)
_Noise = tuple[float, tuple[float, float] | None]
_NOISES: tuple[_Noise, ...] = (
    (0.0, None), (0.5, None), (1.0, None), (1.0, (0.0, 0.6)), (1.0, (0.1, 0.6)), (1.0, (0.2, 0.8)),
)  # fmt: skip
_NOISE_SCALES = (0.98, 0.95)
# Spacing and last timestep that the kinds of noise are compared at, and descents begin with.
_START = ("between", 0.06)
# Nodes of more steps are not tuned: it costs more, and gains nothing.
_MOST_TUNED = 10
# With other noise other samples are made, so kinds of noise need more samples to compare than timesteps
# with the same noise: so many times more, and so many kinds go on. Then so many chains of each are compared
# by more samples than a descent takes, and the best ones of all kinds by most.
_NOISE_ROUND, _KINDS = 8, 2
_SECOND_ROUND, _OF_EACH_KIND = 4, 6
_LAST_ROUND = 32
# Samples that nodes are tuned by, and nodes of the fine solution.
_TUNED_BY, _FINE = 128, 60
_DENSITY_EVALUATIONS = 25
# The density is smoothed over so many nodes, and is nowhere below this part of its largest value.
_SMOOTHED_OVER, _FLOOR = 5, 0.1


class Candidate(NamedTuple):
    """One way to take a number of steps, and how far its samples are from data.

    Args:
        spacing: one of `SPACINGS`.
        plan: its timesteps and noise.
        num_samples: that it was judged by.
        distance: of these samples.
    """

    spacing: str
    plan: FewStepPlan
    num_samples: int
    distance: float


def _few_step(scheduler: Any, plan: FewStepPlan) -> FewStepScheduler:
    """Return a scheduler of the same process that takes these steps."""
    ours = FewStepScheduler.from_config(
        scheduler.config,
        variance_type="fixed_small",  # the network's variances are left aside before
        noise_level=None,
        noise_interval=None,
        noise_scale=1.0,
        calibration={"steps": {str(len(plan.timesteps)): plan.entry()}},
    )
    ours.set_timesteps(len(plan.timesteps))
    return ours


def _prediction(denoiser: Denoiser, sample: torch.Tensor, timestep: int, first: int = 0) -> torch.Tensor:
    """Return the network's prediction for samples whose numbers are `first` and the following."""
    count = 1 if denoiser.labels is None else len(denoiser.labels)
    at = torch.full((len(sample),), timestep, device=sample.device)
    return denoiser(sample, at, torch.arange(first, first + len(sample)) % count).prediction


def equal_error_density(
    denoiser: Denoiser,
    noise: torch.Tensor,
    num_evaluations: int = _DENSITY_EVALUATIONS,
    on_evaluation: Callable[[], object] | None = None,
) -> tuple[list[float], list[float]]:
    """Return lambda of the nodes of one run of the probability flow, rising, and the density of nodes there.

    density = (a rms |d^2 x0hat / d lambda^2|)^(1/3), smoothed, plus a tenth of its maximum

    Args:
        denoiser: the network and its process; its labels are dealt to the samples in turn.
        noise: x_T, shape (B, ...); 8 samples will do.
        num_evaluations: nodes of the run, at least 5.
        on_evaluation: called after each evaluation of the network.

    Raises:
        ValueError, TypeError: fewer evaluations.
        FloatingPointError: estimates that are not finite.
    """
    table = denoiser.process.alphas_cumprod
    num_evaluations = checks.integer("num_evaluations", num_evaluations, 5, len(table))
    places = half_log_snrs(table.double().tolist())
    finite = [place for place in places if np.isfinite(place)]
    nodes = timesteps_at(np.linspace(finite[-1], finite[0], num_evaluations), places)
    visited = falling_timesteps(nodes, 0, len(places))
    ode = _few_step(denoiser.process, FewStepPlan(visited, 0.0))
    sample, estimates = noise, []
    for timestep in visited:
        sample, estimate = ode.step(
            _prediction(denoiser, sample, timestep), timestep, sample, return_dict=False
        )
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


def tuned_timesteps(
    denoiser: Denoiser,
    noise: torch.Tensor,
    timesteps: Sequence[int],
    reference_timesteps: Sequence[int],
    num_rounds: int = 4,
    on_evaluation: Callable[[], object] | None = None,
) -> list[int]:
    """Return timesteps whose probability flow ends nearest to that of a fine solution.

    All but the first are moved in turn, in lambda, by a part of the way to the next that shrinks from round
    to round; a move is kept if it brings the root mean square difference of the ends down.

    Args:
        denoiser: the network and its process; its labels are dealt to the samples in turn.
        noise: x_T, shape (B, ...); a hundred samples will do.
        timesteps: where the search begins, falling.
        reference_timesteps: of the fine solution, falling.
        num_rounds: how often each is moved.
        on_evaluation: called after each evaluation of the network.
    """

    def end(visited: Sequence[int]) -> torch.Tensor:
        ode, sample = _few_step(denoiser.process, FewStepPlan(list(visited), 0.0)), noise
        for timestep in visited:
            sample = ode.step(_prediction(denoiser, sample, timestep), timestep, sample, return_dict=False)[0]
            if on_evaluation is not None:
                on_evaluation()
        return sample

    reference = end(reference_timesteps)

    def error(visited: Sequence[int]) -> float:
        return float((end(visited) - reference).square().mean().sqrt())

    table = denoiser.process.alphas_cumprod
    places = np.clip(half_log_snrs(table.double().tolist()), -1e3, 1e3).tolist()
    best = list(timesteps)
    least, part = error(best), 0.25
    for _ in range(num_rounds):
        for index in range(1, len(best)):
            here, above = places[best[index]], places[best[index - 1]]
            lowest = best[index + 1] + 1 if index + 1 < len(best) else 0
            below = places[max(lowest - 1, 0)] + (0.5 if index + 1 == len(best) else 0.0)
            for place in (here - part * (here - above), here + part * (below - here)):
                moved = round(float(timesteps_at([place], places)[0]))
                moved = min(max(moved, lowest), best[index - 1] - 1)
                if moved == best[index]:
                    continue
                candidate = [*best[:index], moved, *best[index + 1 :]]
                found = error(candidate)
                if found < least:
                    least, best = found, candidate
                    break
        part *= 0.7
    return best


@torch.no_grad()
def calibrate(
    denoiser: Denoiser,
    shape: Sequence[int],
    generator: torch.Generator | None = None,
    *,
    num_steps: Sequence[int] = DEFAULT_NUM_STEPS,
    distance: Callable[[torch.Tensor], float] | None = None,
    tune: bool | None = None,
    num_samples: int = 250,
    batch_size: int = 250,
    on_candidate: Callable[[Candidate], object] | None = None,
    progress_bar: bool = True,
) -> dict[str, Any]:
    """Return the calibration of a network for FewStepScheduler, plain numbers that go into its configuration.

    Without `distance` it is the density of equal errors, from 25 evaluations of 8 samples. With it, also the
    best timesteps and noise for each of `num_steps`. The kinds of noise are compared first, at usual
    timesteps. For each of the best two a descent changes spacing or last timestep; its best six chains are
    judged again, and the best of these with less noise, too. Last, one of each kind is compared. Kinds are
    judged by eight times as many samples as a descent takes, its best by four times as many, the last by 32
    times as many, all from the same noise.

    Args:
        denoiser: the network, in evaluation mode, on the device of the generator or the CPU, and any
            scheduler of its process. Its labels are dealt to the samples in turn, and it may guide.
        shape: of one sample, without the batch.
        generator: source of the noise.
        num_steps: numbers of steps to find settings for.
        distance: maps samples (N, ...) in the network's units to a number that is small if they are like
            data, such as `metrics.sliced_wasserstein` or a Frechet distance to training data.
        tune: fit the timesteps of at most 10 steps to a fine solution of the probability flow; if not given,
            where there is a distance to tell whether that is better.
        num_samples: for each candidate of the descents.
        batch_size: samples at a time.
        on_candidate: called with each Candidate as it is judged.
        progress_bar: show one, as diffusers' own are shown.

    Raises:
        ValueError, TypeError: a number out of range.
        FloatingPointError: estimates of the network, or all distances, that are not finite.
    """
    num_train_timesteps = denoiser.num_train_timesteps
    counts = sorted(checks.integer("a number of steps", n, 1, num_train_timesteps) for n in num_steps)
    if num_train_timesteps < 5:
        raise ValueError(
            f"num_train_timesteps is {num_train_timesteps}, but a calibration needs 5 to choose from."
        )
    num_samples = checks.integer("num_samples", num_samples, 2)
    batch_size = checks.integer("batch_size", batch_size, 1)
    device = denoiser.device
    source = torch.device("cpu") if generator is None else generator.device
    places = half_log_snrs(denoiser.process.alphas_cumprod.double().tolist())

    def noise(count: int, drawn_from: torch.Generator | None = generator) -> torch.Tensor:
        return torch.randn((count, *shape), generator=drawn_from, device=source).to(device)

    total = None if distance is None else expected_evaluations(counts, num_samples, batch_size)
    with logging.tqdm(
        desc="calibrating, about", total=total, unit="evaluation", disable=not progress_bar
    ) as progress:
        evaluations = min(_DENSITY_EVALUATIONS, num_train_timesteps)
        density = equal_error_density(denoiser, noise(8), evaluations, on_evaluation=progress.update)
        calibration: dict[str, Any] = {"half_log_snr": density[0], "density": density[1]}
        tune = distance is not None if tune is None else tune
        tuned_by = noise(min(_TUNED_BY, batch_size) if tune else 1)

        @functools.cache
        def tuned(count: int) -> list[int]:
            first = density_timesteps(*density, min(count + 1, num_train_timesteps), places)[:count]
            fine = density_timesteps(*density, min(_FINE, num_train_timesteps), places)
            return tuned_timesteps(denoiser, tuned_by, first, fine, on_evaluation=progress.update)

        few = [count for count in counts if tune and 1 < count <= _MOST_TUNED]
        if distance is None:
            plans = {str(count): FewStepPlan(tuned(count), default_noise_level(count)) for count in few}
            entries = {count: plan.entry() for count, plan in plans.items()}
            return calibration | ({"steps": entries} if entries else {})
        seed = int(torch.randint(2**31, (1,), generator=generator, device=source))

        def judge(spacing: str, plan: FewStepPlan, count: int) -> Candidate:
            drawn_from = torch.Generator(source).manual_seed(seed + count)
            ours, parts = _few_step(denoiser.process, plan), []
            for first in range(0, count, batch_size):
                ours.set_timesteps(len(plan.timesteps))  # without the estimates of the batch before
                sample = noise(min(batch_size, count - first), drawn_from)
                for timestep in plan.timesteps:
                    # The noise of every step is drawn, so that all noise levels see the same.
                    step_noise = noise(len(sample), drawn_from)
                    output = _prediction(denoiser, sample, timestep, first)
                    sample, _ = ours.step(
                        output, timestep, sample, return_dict=False, variance_noise=step_noise
                    )
                    progress.update()
                parts.append(sample)
            found = float(distance(torch.cat(parts)))
            judged = Candidate(spacing, plan, count, found if np.isfinite(found) else float("inf"))
            if on_candidate is not None:
                on_candidate(judged)
            return judged

        steps = {}
        for count in counts:
            timesteps = functools.partial(_timesteps, places, density, tuned if count in few else None, count)
            best = _search(count, timesteps, judge, num_samples, num_train_timesteps)
            if best.distance == float("inf"):
                raise FloatingPointError(
                    f"no way to take {count} steps gives samples with a finite distance."
                )
            steps[str(count)] = best.plan.entry()
        return calibration | {"steps": steps}


def expected_evaluations(num_steps: Sequence[int], num_samples: int, batch_size: int) -> int:
    """Return about how many batches a search evaluates; how long its descents are is not known before."""
    descent = [1] * (len(_LAST) + 1 + len(SPACINGS))
    of_kind = [*descent, *[_SECOND_ROUND] * (_OF_EACH_KIND + len(_NOISE_SCALES)), _LAST_ROUND]
    rounds = [_NOISE_ROUND] * len(_NOISES) + of_kind * _KINDS
    return sum(num_steps) * sum(math.ceil(each * num_samples / batch_size) for each in rounds)


def _timesteps(
    places: Sequence[float],
    density: tuple[Sequence[float], Sequence[float]],
    tuned: Callable[[int], list[int]] | None,
    count: int,
    spacing: str,
    last: float,
) -> list[int] | None:
    """Return `count` timesteps of a spacing that end at a part `last` of T; None if there are no such."""
    end = min(math.ceil(last * len(places)), len(places) - count)
    if spacing == "tuned":  # its end is tuned, too
        return None if tuned is None else tuned(count)
    if spacing == "equal-error":
        return density_timesteps(*density, count, places, end)
    return power_timesteps(count, end, _EXPONENTS[spacing], len(places))


def _search(
    count: int,
    timesteps: Callable[[str, float], list[int] | None],
    judge: Callable[[str, FewStepPlan, int], Candidate],
    num_samples: int,
    num_train_timesteps: int,
) -> Candidate:
    """Return the best candidate: first kinds of noise are compared, then timesteps, then factors of noise."""
    lasts = (*_LAST, 1 / count - 1 / num_train_timesteps)
    finalists = []

    def planned(noise: _Noise, spacing: str, last: float) -> FewStepPlan | None:
        visited, (level, interval) = timesteps(spacing, last), noise
        end = num_train_timesteps - 1
        between = None if interval is None else [round(part * end) for part in interval]
        return None if visited is None else FewStepPlan(visited, level, between)

    def again(candidates: Iterable[Candidate], scale: float) -> list[Candidate]:
        plans = [(one.spacing, one.plan._replace(noise_scale=scale)) for one in candidates]
        return [judge(spacing, plan, _SECOND_ROUND * num_samples) for spacing, plan in plans]

    kinds: dict[tuple[float, ...], tuple[float, _Noise]] = {}
    for noise in _NOISES:
        plan = planned(noise, *_START)
        assert plan is not None  # only tuned timesteps may be missing
        levels = tuple(plan.noise_levels()[:-1])  # the last step adds none, so kinds may be the same
        if levels not in kinds:
            kinds[levels] = judge(_START[0], plan, _NOISE_ROUND * num_samples).distance, noise
    for _, noise in sorted(kinds.values(), key=lambda kind: kind[0])[:_KINDS]:
        found = _descend(
            functools.partial(planned, noise),
            lambda spacing, plan: judge(spacing, plan, num_samples),
            lasts,
        )
        second = again(sorted(found, key=_distance)[:_OF_EACH_KIND], 1.0)
        best = min(second, key=_distance)
        if any(best.plan.noise_levels()[:-1]):
            second += [scaled for scale in _NOISE_SCALES for scaled in again([best], scale)]
        finalists.append(min(second, key=_distance))
    return min((judge(one.spacing, one.plan, _LAST_ROUND * num_samples) for one in finalists), key=_distance)


def _distance(candidate: Candidate) -> float:
    return candidate.distance


def _descend(
    planned: Callable[[str, float], FewStepPlan | None],
    judge: Callable[[str, FewStepPlan], Candidate],
    lasts: Sequence[float],
) -> list[Candidate]:
    """Return all candidates that a descent has tried, spacing or last timestep changed at a time."""
    judged: dict[tuple[int, ...], Candidate] = {}

    def distance_of(spacing: str, last: float) -> float:
        plan = planned(spacing, last)
        if plan is None:
            return float("inf")
        key = tuple(plan.timesteps)
        if key not in judged:
            judged[key] = judge(spacing, plan)
        return judged[key].distance

    (spacing, last), improved = _START, True
    best = distance_of(spacing, last)
    while improved:
        improved = False
        for other in lasts:
            if distance_of(spacing, other) < best:
                best, last, improved = distance_of(spacing, other), other, True
        for different in SPACINGS:
            if distance_of(different, last) < best:
                best, spacing, improved = distance_of(different, last), different, True
    return list(judged.values())
