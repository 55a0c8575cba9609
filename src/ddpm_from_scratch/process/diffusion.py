"""The Gaussian diffusion process: each equation of DDPM once, as a pure function.

The functions take coefficients that are already broadcast, so that one function serves a single timestep
(0-dimensional tensors, in the sampler), a batch of timesteps ((B, 1, ...) tensors, in the loss) and all T of
them (in the likelihood). `broadcast_to_sample` does the broadcasting, for samples (B, ...) of any rank.

Notation (paper -> code): x_0 `original_samples`, x_t `sample` / `noisy_samples`, eps `noise`, alpha-bar_t
`alpha_prod_t`, alpha-bar_{t-1} `alpha_prod_t_prev`. Ho et al. 2020 is arXiv:2006.11239, Salimans & Ho 2022 is
arXiv:2202.00512.
"""

from typing import Generic, NamedTuple, TypeVar

import torch

from .. import checks
from ..words import PREDICTION_HINTS, PREDICTION_TYPES

# One coefficient: a number for one timestep, a tensor for many.
Coefficient = TypeVar("Coefficient", float, torch.Tensor)


class Scales(NamedTuple, Generic[Coefficient]):
    """How much signal and how much noise is in x_t = signal * x_0 + noise * eps.

    signal = sqrt(alpha_bar_t), noise = sqrt(1 - alpha_bar_t).
    """

    signal: Coefficient
    noise: Coefficient


class Posterior(NamedTuple, Generic[Coefficient]):
    """Coefficients of q(x_{t-1} | x_t, x_0) = N(original * x_0 + sample * x_t, variance * I)."""

    original: Coefficient
    sample: Coefficient
    variance: Coefficient


class LinearStep(NamedTuple):
    """The coefficients of a sampler's step: x' = sample * x + sum_i estimates[i] * x0hat_i + noise_std * z.

    Args:
        signal: a of the node that the step starts from.
        noise: s of it.
        sample: factor of x.
        estimates: factors of the estimates of x_0, the newest first.
        noise_std: standard deviation of the added noise.
    """

    signal: float
    noise: float
    sample: float
    estimates: tuple[float, ...]
    noise_std: float


def check_prediction_type(prediction_type: str) -> None:
    """Raise ValueError unless `prediction_type` is one of `PREDICTION_TYPES`."""
    checks.choice("prediction_type", prediction_type, PREDICTION_TYPES, PREDICTION_HINTS)


def broadcast_to_sample(values: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """Return `values` of shape (B,) as (B, 1, ..., 1), with as many dimensions as `sample`."""
    return values.reshape(-1, *(1,) * (sample.ndim - 1))


def scales(alpha_prod_t: Coefficient) -> Scales[Coefficient]:
    """Return sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t)."""
    return Scales(alpha_prod_t**0.5, (1 - alpha_prod_t) ** 0.5)


def add_noise(original_samples: torch.Tensor, noise: torch.Tensor, scales: Scales) -> torch.Tensor:
    """Return x_t drawn from q(x_t | x_0), in one jump.

    x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps                     (Ho et al. 2020, eq. 4)

    Args:
        original_samples: x_0, shape (B, ...).
        noise: eps ~ N(0, I), same shape.
        scales: of t, broadcastable to the samples.
    """
    return scales.signal * original_samples + scales.noise * noise


def forward_step(prev_sample: torch.Tensor, noise: torch.Tensor, beta: float | torch.Tensor) -> torch.Tensor:
    """Return x_t drawn from q(x_t | x_{t-1}), one step of the forward chain.

    x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) eps_t                         (Ho et al. 2020, eq. 2)

    Args:
        prev_sample: x_{t-1}, shape (B, ...).
        noise: eps_t ~ N(0, I), same shape, drawn anew for each step.
        beta: beta_t in (0, 1], broadcastable to the sample.
    """
    return (1 - beta) ** 0.5 * prev_sample + beta**0.5 * noise


def velocity(original_samples: torch.Tensor, noise: torch.Tensor, scales: Scales) -> torch.Tensor:
    """Return v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0 (Salimans & Ho 2022, sec. 4)."""
    return scales.signal * noise - scales.noise * original_samples


def training_target(
    original_samples: torch.Tensor, noise: torch.Tensor, scales: Scales, prediction_type: str
) -> torch.Tensor:
    """Return what the network is trained to predict: eps, x_0 or v, shape (B, ...).

    Raises:
        ValueError: unknown `prediction_type`.
    """
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "sample":
        return original_samples
    check_prediction_type(prediction_type)
    return velocity(original_samples, noise, scales)


def to_original(
    model_output: torch.Tensor, sample: torch.Tensor, scales: Scales, prediction_type: str
) -> torch.Tensor:
    """Return the estimate of x_0 that a network output means.

    epsilon:       x_0 = (x_t - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t)   (Ho et al. 2020, eq. 15)
    v_prediction:  x_0 = sqrt(alpha_bar_t) x_t - sqrt(1 - alpha_bar_t) v        (Salimans & Ho 2022, sec. 4)
    sample:        x_0 itself

    Args:
        model_output: network output, shape (B, ...).
        sample: x_t, same shape.
        scales: of t, broadcastable to the sample. "epsilon" divides by `signal`, which must not be 0.
        prediction_type: what the output means.

    Raises:
        ValueError: unknown `prediction_type`.
    """
    if prediction_type == "epsilon":
        return _minus(sample, model_output, scales.noise).div_(scales.signal)  # in place on a fresh tensor
    if prediction_type == "sample":
        return model_output
    check_prediction_type(prediction_type)
    return _minus(scales.signal * sample, model_output, scales.noise)


def _minus(first: torch.Tensor, second: torch.Tensor, factor: torch.Tensor | float) -> torch.Tensor:
    """Return first - factor * second, in one operation for a number."""
    return first.sub(second, alpha=factor) if isinstance(factor, float) else first - factor * second


def to_epsilon(
    model_output: torch.Tensor, sample: torch.Tensor, scales: Scales, prediction_type: str
) -> torch.Tensor:
    """Return the estimate of the noise eps that a network output means.

    sample:        eps = (x_t - sqrt(alpha_bar_t) x_0) / sqrt(1 - alpha_bar_t)
    v_prediction:  eps = sqrt(alpha_bar_t) v + sqrt(1 - alpha_bar_t) x_t        (Salimans & Ho 2022, sec. 4)
    epsilon:       eps itself

    Arguments and errors as in `to_original`; "sample" divides by `noise`, which must not be 0.
    """
    if prediction_type == "epsilon":
        return model_output
    if prediction_type == "sample":
        return (sample - scales.signal * model_output) / scales.noise
    check_prediction_type(prediction_type)
    return scales.signal * model_output + scales.noise * sample


def to_velocity(
    model_output: torch.Tensor, sample: torch.Tensor, scales: Scales, prediction_type: str
) -> torch.Tensor:
    """Return the estimate of v that a network output means (see `velocity`).

    Arguments and errors as in `to_original`.
    """
    if prediction_type == "v_prediction":
        return model_output
    original = to_original(model_output, sample, scales, prediction_type)
    epsilon = to_epsilon(model_output, sample, scales, prediction_type)
    return velocity(original, epsilon, scales)


def to_score(
    model_output: torch.Tensor, sample: torch.Tensor, scales: Scales, prediction_type: str
) -> torch.Tensor:
    """Return the score of the noised data density at x_t that a network output means.

    score = grad_x log p_t(x) = -eps / sqrt(1 - alpha_bar_t)      (Ho et al. 2020, arXiv:2006.11239, sec. 3.2)

    with eps the mean of the noise given x_t. Arguments and errors as in `to_original`; divides by `noise`.
    """
    return -to_epsilon(model_output, sample, scales, prediction_type) / scales.noise


def step_beta(alpha_prod_t: Coefficient, alpha_prod_t_prev: Coefficient) -> Coefficient:
    """Return beta of one step of the chain, 1 - alpha_bar_t / alpha_bar_{t-1}; steps may skip timesteps."""
    return 1 - alpha_prod_t / alpha_prod_t_prev


def posterior(alpha_prod_t: Coefficient, alpha_prod_t_prev: Coefficient) -> Posterior[Coefficient]:
    """Return the coefficients of the posterior q(x_{t-1} | x_t, x_0).

    mean     = sqrt(alpha_bar_{t-1}) beta_t / (1 - alpha_bar_t) x_0
               + sqrt(alpha_t) (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t) x_t
    variance = (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t) beta_t                 (Ho et al. 2020, eqs. 6 and 7)

    Args:
        alpha_prod_t: alpha_bar_t, strictly below 1.
        alpha_prod_t_prev: alpha_bar of the step before, which is 1 at the end of the chain. With skipped
            timesteps the "step before" is the next one visited.
    """
    beta_prod_t = 1 - alpha_prod_t
    beta_prod_t_prev = 1 - alpha_prod_t_prev
    alpha = alpha_prod_t / alpha_prod_t_prev
    beta = step_beta(alpha_prod_t, alpha_prod_t_prev)
    return Posterior(
        original=alpha_prod_t_prev**0.5 * beta / beta_prod_t,
        sample=alpha**0.5 * beta_prod_t_prev / beta_prod_t,
        variance=beta_prod_t_prev / beta_prod_t * beta,
    )


def learned_log_variance(
    fraction: torch.Tensor, smallest: torch.Tensor, largest: torch.Tensor
) -> torch.Tensor:
    """Return the log-variance that a network with variance_type "learned_range" chooses.

    log variance = v log beta_t + (1 - v) log posterior variance,   v = (fraction + 1) / 2
                                                  (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 15)

    Args:
        fraction: network output, -1 for the smallest and 1 for the largest variance, shape (B, ...).
        smallest: logarithm of the posterior's variance, broadcastable to `fraction`.
        largest: logarithm of beta, likewise.
    """
    fraction = (fraction + 1) / 2
    return fraction * largest + (1 - fraction) * smallest


def posterior_mean(
    original_samples: torch.Tensor, sample: torch.Tensor, coefficients: Posterior
) -> torch.Tensor:
    """Return the mean of q(x_{t-1} | x_t, x_0), shape (B, ...); `coefficients` from `posterior`."""
    return coefficients.original * original_samples + coefficients.sample * sample


def at_least_float32(sample: torch.Tensor) -> torch.Tensor:
    """Return samples in float32 that are in half precision; others as they are."""
    return sample if sample.dtype in (torch.float32, torch.float64) else sample.float()
