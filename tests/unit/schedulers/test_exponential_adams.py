"""The weights and steps of the exponential Adams method, in closed form."""

import math

import numpy as np
import pytest
import torch

from ddpm_from_scratch.schedulers.exponential_adams import (
    adams_weights,
    few_step,
    half_log_snrs,
)


@pytest.mark.parametrize("rate", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("length", [1e-6, 1e-3, 0.4, 3.0, 9.0])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_adams_weights_integrate_polynomials(rate, length, count):
    nodes = [0.0, -0.7 * length, -1.9 * length][:count]
    weights = adams_weights(rate, length, nodes)
    # Gauss-Legendre with 60 points is exact to rounding here
    points, masses = np.polynomial.legendre.leggauss(60)
    u, density = (points + 1) / 2, masses / 2
    kernel = rate * length * np.exp(-rate * length * (1 - u))
    for degree in range(count):
        wanted = float((density * kernel * u**degree).sum())
        found = sum(w * (node / length) ** degree for w, node in zip(weights, nodes, strict=True))
        assert found == pytest.approx(wanted, rel=1e-9, abs=1e-15)


def test_half_log_snr_is_the_logit_of_alpha_bar_halved():
    table = torch.linspace(0.001, 0.999, 50, dtype=torch.float64)
    torch.testing.assert_close(torch.tensor(half_log_snrs(table.tolist())).double(), table.logit() / 2)
    assert half_log_snrs([0.0, 1.0]) == [-math.inf, math.inf]


@pytest.mark.parametrize("noise_level", [0.0, 0.6, 1.0])
def test_one_step_of_first_order_is_ddim_with_its_noise(noise_level):
    """With eta of DDIM (Song et al. 2021, arXiv:2010.02502, eq. 16) at tau = 0 and 1; the variance between.

    A step keeps the noise that it starts from: the factors of x give s_next^2 = (keep s)^2 + std^2.
    """
    levels = [0.1, 0.4, 0.8]
    step = few_step(levels, 0, 1, order=1, corrector_order=0, noise_levels=[noise_level] * 3)
    assert (step.sample * step.noise) ** 2 + step.noise_std**2 == pytest.approx(1 - levels[1])
    # Of an exact estimate, x' has the signal of the next node.
    assert step.sample * step.signal + sum(step.estimates) == pytest.approx(levels[1] ** 0.5)
    if noise_level == 1:  # the posterior
        beta = 1 - levels[0] / levels[1]
        assert step.noise_std**2 == pytest.approx(beta * (1 - levels[1]) / (1 - levels[0]))
