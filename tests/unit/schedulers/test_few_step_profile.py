"""Which timesteps a chain of few steps visits."""

import numpy as np
import pytest

from ddpm_from_scratch import (
    FewStepScheduler,
)
from ddpm_from_scratch.schedulers.exponential_adams import half_log_snr
from ddpm_from_scratch.schedulers.few_step_profile import (
    choose,
    density_timesteps,
    falling_timesteps,
    power_timesteps,
)


@pytest.mark.parametrize("count", [1, 2, 7, 50, 989, 990])
def test_rounded_timesteps_fall_and_reach_the_end(count):
    result = falling_timesteps(np.linspace(999.4, 10, count), 10, 1000)
    assert len(result) == count and all(a > b for a, b in zip(result, result[1:], strict=False))
    assert result[0] <= 999 and (result[-1] == 10 or count == 1)
    with pytest.raises(ValueError, match="do not fit"):
        falling_timesteps(np.linspace(999, 10, 991), 10, 1000)


def test_power_timesteps():
    assert power_timesteps(4, 0, 1.0, 1000) == [999, 666, 333, 0]
    assert power_timesteps(3, 0, 2.0, 1001) == [1000, 250, 0]


def test_density_timesteps_have_equal_mass_between_them():
    places = [half_log_snr(a) for a in FewStepScheduler().alphas_cumprod.double().tolist()]
    # All the mass between lambda = -1 and 1: nodes are evenly spaced there.
    found = density_timesteps([-6.0, -1.0, -0.999, 0.999, 1.0, 6.0], [0, 0, 1, 1, 0, 0], 5, places)
    at = [places[t] for t in found]
    assert at[1:4] == pytest.approx([-0.5, 0.0, 0.5], abs=0.02)


def test_other_numbers_of_steps_follow_the_nearest():
    places = [half_log_snr(a) for a in FewStepScheduler().alphas_cumprod.double().tolist()]
    ten = power_timesteps(10, 40, 1.0, 1000)
    entry = {"timesteps": ten, "noise_level": 0.5, "noise_interval": [200, 800], "noise_scale": 0.9}
    calibration = {"steps": {"10": entry}}
    assert choose(calibration, 10, places) == (ten, 0.5, [200, 800], 0.9)
    for count in (2, 7, 15, 20):
        visited, *noise = choose(calibration, count, places)
        assert (len(visited), visited[0], visited[-1]) == (count, 999, 40) and noise == [0.5, [200, 800], 0.9]
    odd = choose(calibration, 19, places).timesteps  # every second node is one of the ten
    assert np.abs(np.array(odd[::2]) - np.array(ten)).max() <= 1
    far = choose(calibration, 1000, places)
    assert far == (list(range(999, -1, -1)), 0.5, [200, 800], 0.9)


@pytest.mark.parametrize("count", [1, 2, 5, 50, 999, 1000])
@pytest.mark.parametrize(
    "calibration",
    [None, {"half_log_snr": [-5.0, 0.0, 4.0], "density": [0.1, 1.0, 0.2]}],
    ids=["no", "density"],
)
def test_every_number_of_steps_can_be_had(count, calibration):
    places = [half_log_snr(a) for a in FewStepScheduler().alphas_cumprod.double().tolist()]
    visited = choose(calibration, count, places).timesteps
    assert len(visited) == count and all(a > b for a, b in zip(visited, visited[1:], strict=False))
    assert visited[0] >= 990 and visited[-1] >= 0
