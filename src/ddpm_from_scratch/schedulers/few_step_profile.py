"""Which timesteps and how much noise a few-step sampler takes, for any number of steps, from a calibration.

A calibration is a dictionary of plain numbers, which goes into a scheduler's configuration as it is:

    {"steps": {"10": {"timesteps": [999, ..., 30], "noise_level": 1.0, "noise_interval": [100, 600],
                      "noise_scale": 0.98}, ...},
     "half_log_snr": [-5.1, ...], "density": [0.3, ...]}

"steps" has what was found best for some numbers of steps; "half_log_snr" and "density" say how densely nodes
should lie at each lambda = log sqrt(alpha_bar / (1 - alpha_bar)), for all others. Each part may be missing,
and so may "noise_interval", the lowest and the highest timestep whose step adds noise, and "noise_scale", a
factor of the noise: below 1 less noise is added than the step has made room for, which keeps the samples of a
network that errs nearer to the middle of the data.
"""

import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import checks
from ..process.timesteps import checked_timesteps, spaced_timesteps

# The key of a calibration in the configuration of a stock scheduler, which passes over such names in silence.
HIDDEN_CALIBRATION = "_calibration"
# Without a calibration: spacing, and in parts of T the last timestep and the highest one with noise. The best
# compromise of the trained networks and exact scores of benchmarks/few_step.py.
_DEFAULT_EXPONENT, _DEFAULT_LAST, _DEFAULT_NOISE_BELOW = 1.5, 0.05, 0.6
_KEYS = ("steps", "half_log_snr", "density")
_STEP_KEYS = ("timesteps", "noise_level", "noise_interval", "noise_scale")


class FewStepPlan(NamedTuple):
    """How to take a number of steps.

    Args:
        timesteps: those that are visited, strictly falling.
        noise_level: tau, in [0, 1].
        noise_interval: the lowest and the highest timestep whose step adds noise; None for all.
        noise_scale: factor of the added noise, in [0, 1].
    """

    timesteps: list[int]
    noise_level: float
    noise_interval: Sequence[int] | None = None
    noise_scale: float = 1.0

    def noise_levels(self) -> list[float]:
        """Return tau of each step."""
        lowest, highest = self.noise_interval or (0, self.timesteps[0])
        return [self.noise_level if lowest <= timestep <= highest else 0.0 for timestep in self.timesteps]

    def entry(self) -> dict[str, Any]:
        """Return it as a calibration has it under "steps"."""
        entry: dict[str, Any] = {"timesteps": list(self.timesteps), "noise_level": self.noise_level}
        if self.noise_interval is not None:
            entry["noise_interval"] = list(self.noise_interval)
        return entry if self.noise_scale == 1 else entry | {"noise_scale": self.noise_scale}


def falling_timesteps(places: Sequence[float] | np.ndarray, last: int, num_train_timesteps: int) -> list[int]:
    """Return real timesteps rounded so that they fall strictly, from T - 1 at most down to `last` at least.

    Raises:
        ValueError: more of them than integers in between.
    """
    count = len(places)
    if count > num_train_timesteps - last:
        raise ValueError(
            f"{count} timesteps do not fit between {last} and {num_train_timesteps - 1}: take fewer steps, "
            "or a chain that ends lower."
        )
    highest, result = num_train_timesteps, []
    for index, place in enumerate(places):
        left = count - 1 - index  # so many are still to come below this one
        highest = max(last + left, min(highest - 1, round(float(place))))
        result.append(highest)
    return result


def power_timesteps(count: int, last: int, exponent: float, num_train_timesteps: int) -> list[int]:
    """Return timesteps from T - 1 to `last`, evenly spaced in t^(1 / exponent).

    1 is linear; larger exponents put more of them where there is little noise (2 is the "quadratic" spacing
    of Song et al. 2021, arXiv:2010.02502, appendix D.2).
    """
    root = 1 / exponent
    ends = float(num_train_timesteps - 1) ** root, float(last) ** root
    return falling_timesteps(np.linspace(*ends, count) ** exponent, last, num_train_timesteps)


def density_timesteps(
    half_log_snr: Sequence[float],
    density: Sequence[float],
    count: int,
    places: Sequence[float],
    last: int = 0,
) -> list[int]:
    """Return timesteps with equally much of a density between them, from T - 1 to `last`.

    Args:
        half_log_snr: lambda, rising.
        density: of nodes there, not negative.
        count: number of timesteps.
        places: lambda of all T timesteps, falling.
        last: the last of them.
    """
    first = max(float(places[-1]), float(half_log_snr[0]))
    fine = np.linspace(first, max(float(places[last]), first + 1e-6), 512)
    height = np.interp(fine, half_log_snr, density)
    mass = np.concatenate([[0], np.cumsum((height[1:] + height[:-1]) / 2 * np.diff(fine))])
    nodes = np.interp(np.linspace(0, mass[-1], count), mass, fine)
    return falling_timesteps(timesteps_at(nodes, places), last, len(places))


def timesteps_at(nodes: Sequence[float] | np.ndarray, places: Sequence[float]) -> np.ndarray:
    """Return the real timesteps at which lambda has the values `nodes`; `places` is that of all T."""
    finite = np.clip(np.asarray(places, dtype=np.float64), -1e3, 1e3)
    return np.interp(-np.asarray(nodes), -finite, np.arange(len(finite)))


def check_calibration(calibration: Any, num_train_timesteps: int) -> None:
    """Raise TypeError or ValueError, with what is wrong, for anything that is not a calibration."""
    must = "calibration must be None or what calibrate returned"
    if calibration is None:
        return
    if not isinstance(calibration, Mapping):
        raise TypeError(f"{must}, a dictionary, got {type(calibration).__name__}.")
    unknown = [key for key in calibration if key not in _KEYS]
    if unknown:
        raise ValueError(f"{must}, but it has {reprlib.repr(unknown[0])}; its keys are {_KEYS}.")
    steps = calibration.get("steps", {})
    if not isinstance(steps, Mapping):
        raise TypeError(f"{must}; its 'steps' is {reprlib.repr(steps)}, but must be a dictionary.")
    for key, entry in steps.items():
        if not (isinstance(entry, Mapping) and {*_STEP_KEYS[:2]} <= {*entry} <= {*_STEP_KEYS}):
            raise ValueError(
                f"{must}; its entry for {key!r} steps must have the keys {_STEP_KEYS}; the last two may miss."
            )
        visited = checked_timesteps(entry["timesteps"], num_train_timesteps, order="falling")
        if str(len(visited)) != key:
            raise ValueError(f"{must}; its entry for {key!r} steps has {len(visited)} timesteps.")
        checks.real("noise_level of a calibration", entry["noise_level"], 0, 1)
        check_noise_interval(entry.get("noise_interval"), num_train_timesteps)
        checks.real("noise_scale of a calibration", entry.get("noise_scale", 1.0), 0, 1)
    if ("half_log_snr" in calibration) != ("density" in calibration):
        raise ValueError(f"{must}; it has only one of 'half_log_snr' and 'density'.")
    if "density" in calibration:
        _check_density(calibration["half_log_snr"], calibration["density"], must)


def check_noise_interval(interval: Any, num_train_timesteps: int) -> None:
    """Raise TypeError or ValueError for anything but None and two timesteps, the lower first."""
    if interval is None:
        return
    if not isinstance(interval, (list, tuple)) or len(interval) != 2:
        raise TypeError(
            f"noise_interval is {reprlib.repr(interval)}, but must be None or the lowest and the highest "
            "timestep whose step adds noise."
        )
    lowest = checks.integer("the first of noise_interval", interval[0], 0, num_train_timesteps - 1)
    checks.integer("the second of noise_interval", interval[1], lowest, num_train_timesteps - 1)


def _check_density(half_log_snr: Any, density: Any, must: str) -> None:
    for name, values in (("half_log_snr", half_log_snr), ("density", density)):
        if not isinstance(values, (list, tuple)) or len(values) < 2:
            raise TypeError(f"{must}; its {name} is {reprlib.repr(values)}, but must be a list of numbers.")
        for value in values:
            if not math.isfinite(checks.real(f"{name} of a calibration", value)):
                raise ValueError(f"{must}; its {name} has a number that is not finite.")
    rising = all(b > a for a, b in zip(half_log_snr, half_log_snr[1:], strict=False))
    if len(half_log_snr) != len(density) or not rising:
        raise ValueError(f"{must}; its half_log_snr must rise and have as many numbers as its density.")
    if min(density) < 0 or max(density) <= 0:
        raise ValueError(f"{must}; its density must not be negative, nor 0 everywhere.")


def default_num_steps(num_train_timesteps: int) -> int:
    """Return how many steps are taken if nobody says."""
    return min(10, num_train_timesteps)


def default_noise_level(count: int) -> float:
    """Return tau for timesteps that were chosen without data: none for few steps, as for an exact network."""
    return 0.0 if count <= 10 else 0.5


def choose(calibration: Mapping[str, Any] | None, count: int, places: Sequence[float]) -> FewStepPlan:
    """Return how to take `count` steps.

    A calibrated number of steps is taken as it is. Another one takes the nodes of the nearest calibrated one,
    interpolated in lambda; more than twice the largest get trailing timesteps. Without any, the density is
    what is left, or else a spacing and noise that suit most networks.

    Args:
        calibration: see the module; None for none.
        count: number of steps, in 1..T.
        places: lambda of all T timesteps, falling.
    """
    num_train_timesteps = len(places)
    calibration = calibration or {}
    known = {int(key): entry for key, entry in calibration.get("steps", {}).items()}
    if known:
        nearest = min(known, key=lambda other: (abs(math.log(other / count)), other))
        entry = known[nearest]
        visited = entry["timesteps"]
        if nearest == count:
            timesteps = list(visited)
        elif nearest > 1 and count <= min(2 * max(known), num_train_timesteps - visited[-1]):
            timesteps = _interpolated(visited, count, places)
        else:
            timesteps = spaced_timesteps(count, num_train_timesteps, "trailing")
        noise = entry["noise_level"], entry.get("noise_interval"), entry.get("noise_scale", 1.0)
        return FewStepPlan(timesteps, *noise)
    if "density" in calibration:
        density = calibration["half_log_snr"], calibration["density"]
        # One node more, down to timestep 0, which is not evaluated.
        nodes = density_timesteps(*density, min(count + 1, num_train_timesteps), places)
        return FewStepPlan(nodes[:count], default_noise_level(count))
    if count > num_train_timesteps // 20:
        timesteps = spaced_timesteps(count, num_train_timesteps, "trailing")
    else:
        last = min(_DEFAULT_LAST * num_train_timesteps, num_train_timesteps / count - 1)
        timesteps = power_timesteps(count, round(last), _DEFAULT_EXPONENT, num_train_timesteps)
    highest = round(_DEFAULT_NOISE_BELOW * (num_train_timesteps - 1))
    return FewStepPlan(timesteps, 1.0, (0, highest))


def _interpolated(visited: Sequence[int], count: int, places: Sequence[float]) -> list[int]:
    """Return `count` timesteps through the nodes of another list."""
    finite = np.clip([places[timestep] for timestep in visited], -1e3, 1e3)
    at = np.linspace(0, len(visited) - 1, count)
    nodes = np.interp(at, np.arange(len(visited)), finite)
    return falling_timesteps(timesteps_at(nodes, places), visited[-1], len(places))
