"""Steps of the few-step sampler: exponential Adams in x_0 form, with a corrector and a noise level.

With a = sqrt(alpha_bar), s = sqrt(1 - alpha_bar) and lambda = log(a / s), half the log-SNR, the reverse
process of noise level tau (0: the probability-flow ODE, 1: the SDE of ancestral sampling) from lambda to
lambda + h is exactly

    x' = (s' / s) exp(-tau^2 h) x + a' integral_0^h k exp(-k (h - u)) x0hat(lambda + u) du
         + s' sqrt(1 - exp(-2 tau^2 h)) z,          k = 1 + tau^2,   z ~ N(0, I)

(Lu et al. 2022, arXiv:2211.01095, prop. 4.1, for tau = 0; Xue et al. 2023, arXiv:2309.05019, for any tau). A
step replaces x0hat by the Lagrange polynomial through the last estimates. Order 1 without corrector is DDIM
(tau = 0) and DDPM with the posterior's variance (tau = 1). The corrector does the last step again with the
estimate just made, and the same noise (Zhao et al. 2023, arXiv:2302.04867); both steps start from the same
sample, so what it changes is a sum of estimates, and can be folded into the next step. It costs nothing.

All coefficients are computed on the host, in float64.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from ..process.diffusion import LinearStep

# From here on the recursion of the moments is exact enough; below, the series converges fast.
_SERIES_BELOW, _SERIES_TERMS = 1.0, 18


def half_log_snr(alpha_prod: float) -> float:
    """Return lambda = log(sqrt(alpha_bar) / sqrt(1 - alpha_bar)); -inf without signal, inf without noise."""
    if alpha_prod <= 0:
        return -math.inf
    return 0.5 * (math.log(alpha_prod) - math.log1p(-alpha_prod)) if alpha_prod < 1 else math.inf


def half_log_snrs(alphas_cumprod: Iterable[float]) -> list[float]:
    """Return lambda of each alpha-bar; see `half_log_snr`."""
    return [half_log_snr(value) for value in alphas_cumprod]


def _moments(rate: float, count: int) -> list[float]:
    """Return the integrals of k exp(-k (1 - u)) u^j over u in [0, 1], j = 0, ..., count - 1."""
    moments = [-math.expm1(-rate)]
    for j in range(1, count):
        if rate >= _SERIES_BELOW:
            moments.append(1 - j / rate * moments[-1])
            continue
        # sum_m (-1)^m k^(m+1) j! / (j + 1 + m)!, where the recursion would cancel
        term = total = rate / (j + 1)
        for m in range(1, _SERIES_TERMS):
            term *= -rate / (j + 1 + m)
            total += term
        moments.append(total)
    return moments


def adams_weights(rate: float, length: float, nodes: Sequence[float]) -> list[float]:
    """Return the weights w_i with sum_i w_i p(node_i) = integral_0^h k exp(-k (h - u)) p(u) du.

    Exact for polynomials p of a degree below the number of nodes.

    Args:
        rate: k.
        length: h, in units of lambda; may be infinite with one node.
        nodes: different places of estimates, relative to the step's start.
    """
    if len(nodes) == 1:
        return [-math.expm1(-rate * length)]
    # In units of h the system keeps its condition for steps of any length.
    moments, scaled = _moments(rate * length, len(nodes)), [node / length for node in nodes]
    if len(nodes) == 2:
        second = (moments[1] - scaled[0] * moments[0]) / (scaled[1] - scaled[0])
        return [moments[0] - second, second]
    return np.linalg.solve(np.vander(scaled, len(nodes), increasing=True).T, moments).tolist()


def few_step(
    alphas_cumprod: Sequence[float],
    index: int,
    num_estimates: int,
    order: int,
    corrector_order: int,
    noise_levels: Sequence[float],
) -> LinearStep:
    """Return the coefficients of the step from node `index` to the next; the last leads to clean data.

    Args:
        alphas_cumprod: alpha-bar of the nodes, rising, float64.
        index: of the node that the step starts from.
        num_estimates: how many estimates there are, those of the nodes up to `index`.
        order: how many of them the polynomial goes through, at most.
        corrector_order: the same of the corrector, the newest included; below 2 there is none.
        noise_levels: tau of each step, in [0, 1].
    """
    alpha_prod = alphas_cumprod[index]
    signal, noise = math.sqrt(alpha_prod), math.sqrt(1 - alpha_prod)
    if index == len(alphas_cumprod) - 1:
        return LinearStep(signal, noise, 0.0, (1.0,), 0.0)
    # Only the nodes around: a chain of 1,000 steps would take a million logarithms otherwise.
    first = max(0, index - num_estimates)
    alphas_cumprod, noise_levels = alphas_cumprod[first : index + 2], noise_levels[first : index + 1]
    index -= first
    places, squared = half_log_snrs(alphas_cumprod), noise_levels[index] ** 2
    length, signal_next = places[index + 1] - places[index], math.sqrt(alphas_cumprod[index + 1])
    noise_next = math.sqrt(1 - alphas_cumprod[index + 1])
    # exp(-0 * inf) is 1 here: an ODE keeps the noise it starts from
    shrink = math.exp(-squared * length) if squared else 1.0
    factors = [0.0] * max(order, corrector_order, order + 1 if corrector_order > 1 else 0)
    for age, weight in enumerate(_predictor(places, index, min(order, num_estimates), squared)):
        factors[age] += signal_next * weight
    sample = noise_next / noise * shrink
    if corrector_order > 1 and num_estimates > 1:
        for age, weight in enumerate(_correction(places, index, num_estimates, order, corrector_order,
                                                 noise_levels[index - 1] ** 2)):  # fmt: skip
            factors[age] += sample * signal * weight
    while len(factors) > 1 and factors[-1] == 0:
        factors.pop()
    std = noise_next * math.sqrt(-math.expm1(-2 * squared * length)) if squared else 0.0
    return LinearStep(signal, noise, sample, tuple(factors), std)


def _predictor(places: Sequence[float], index: int, order: int, squared: float) -> list[float]:
    """Return the weights of the estimates at `index`, `index - 1`, ... in the step to the next node."""
    known = [place for place in places[index - order + 1 : index + 1][::-1] if math.isfinite(place)]
    start, length = places[index], places[index + 1] - places[index]
    if not math.isfinite(start):  # no signal: the estimate is all there is
        return [1.0]
    return adams_weights(1 + squared, length, [place - start for place in known])


def _correction(
    places: Sequence[float], index: int, num_estimates: int, order: int, corrector_order: int, squared: float
) -> list[float]:
    """Return what the corrector adds to the sample at `index`, divided by a, as weights of estimates."""
    start, length = places[index - 1], places[index] - places[index - 1]
    if not math.isfinite(start):
        return []
    before = places[max(0, index - min(corrector_order, num_estimates) + 1) : index][::-1]
    known = [length, *(place - start for place in before if math.isfinite(place))]
    weights = adams_weights(1 + squared, length, known)
    for age, weight in enumerate(_predictor(places, index - 1, min(order, num_estimates - 1), squared), 1):
        weights += [0.0] * (age + 1 - len(weights))
        weights[age] -= weight
    return weights
