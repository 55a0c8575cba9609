"""Noise schedules: a name and a few numbers give the betas; the betas give alpha-bar.

Everything of the DDPM family is one table, `alphas_cumprod` (the paper's alpha-bar), and this module makes
it:

    q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I)        alpha_t = 1 - beta_t
    q(x_t | x_0)     = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I)  alpha_bar_t = alpha_1 ... alpha_t

(Ho et al. 2020, arXiv:2006.11239, eqs. 2 and 4.) Code index t = 0..T-1 is the paper's step t + 1.
"""

import math
import reprlib
from collections.abc import Callable
from typing import Any

import torch

from ..words import BETA_SCHEDULE_HINTS, BETA_SCHEDULES


def linear_betas(num_train_timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> torch.Tensor:
    """Return betas that rise linearly from `beta_start` to `beta_end`, float32, shape (T,).

    beta_t = beta_start + (beta_end - beta_start) t / (T - 1)     (Ho et al. 2020, arXiv:2006.11239, sec. 4)

    The defaults are meant for T = 1000. With fewer steps much signal is left: alpha_bar_T is 0.60 at T = 50.
    """
    return torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float32)


def scaled_linear_betas(
    num_train_timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02
) -> torch.Tensor:
    """Return betas whose square roots rise linearly, float32, shape (T,).

    beta_t = (sqrt(beta_start) + (sqrt(beta_end) - sqrt(beta_start)) t / (T - 1))^2

    The schedule of latent diffusion (Rombach et al. 2022, arXiv:2112.10752, code release).
    """
    return torch.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps, dtype=torch.float32) ** 2


def sigmoid_betas(num_train_timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> torch.Tensor:
    """Return betas on a sigmoid between `beta_start` and `beta_end`, float32, shape (T,).

    beta_t = beta_start + (beta_end - beta_start) sigmoid(-6 + 12 t / (T - 1))

    This is what diffusers calls "sigmoid" (GeoDiff, Xu et al. 2022, arXiv:2203.02923). The image-diffusion
    literature means a sigmoid in alpha-bar, which is another schedule: see `sigmoid_alpha_bar`.
    """
    ramp = torch.sigmoid(torch.linspace(-6, 6, num_train_timesteps, dtype=torch.float32))
    return ramp * (beta_end - beta_start) + beta_start


def cosine_alpha_bar(time: float, s: float = 0.008) -> float:
    """Return the cosine alpha-bar at `time` in [0, 1], before division by its value at 0.

    f(u) = cos((u + s) / (1 + s) * pi / 2)^2,  alpha_bar(u) = f(u) / f(0)
    (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17.)
    """
    return math.cos((time + s) / (1 + s) * math.pi / 2) ** 2


def sigmoid_alpha_bar(time: float, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> float:
    """Return the sigmoid alpha-bar at `time` in [0, 1].

    alpha_bar(u) = (S(end) - S(start + u (end - start))) / (S(end) - S(start)),  S(x) = sigmoid(x / tau)

    Jabri et al. 2022 (arXiv:2212.11972), Chen 2023 (arXiv:2301.10972, sec. 2); clipped below at 1e-9 as
    there.
    """
    at_start, at_end, here = (
        1 / (1 + math.exp(-x / tau)) for x in (start, end, start + time * (end - start))
    )
    return max((at_end - here) / (at_end - at_start), 1e-9)


def laplace_alpha_bar(time: float) -> float:
    """Return the Laplace alpha-bar at `time` in [0, 1].

    log SNR(u) = -0.5 sign(0.5 - u) log(1 - 2 |0.5 - u| + 1e-6),  alpha_bar = SNR / (1 + SNR)

    Hang & Gu 2024 (arXiv:2407.03297), mean 0, scale 0.5. diffusers 0.42 uses sqrt(SNR / (1 + SNR)) as
    alpha-bar under this name, which leaves more signal at every step; here alpha-bar has the SNR of the
    paper.
    """
    log_snr_here = -0.5 * math.copysign(1, 0.5 - time) * math.log(1 - 2 * abs(0.5 - time) + 1e-6)
    snr_here = math.exp(log_snr_here)
    return snr_here / (1 + snr_here)


def betas_from_alpha_bar(
    alpha_bar: Callable[[float], float],
    num_train_timesteps: int,
    max_beta: float = 0.999,
    normalize: bool = True,
) -> torch.Tensor:
    """Return the betas of a continuous alpha-bar, float32, shape (T,).

    beta_t = min(1 - alpha_bar((t + 1) / T) / alpha_bar(t / T), max_beta)
    (Nichol & Dhariwal 2021, arXiv:2102.09672, sec. 3.2.)

    Args:
        alpha_bar: falling function of time in [0, 1].
        num_train_timesteps: T.
        max_beta: cap that keeps the last steps away from a singularity.
        normalize: divide by alpha_bar(0). False keeps the values of `alpha_bar` itself, for a function that
            is already below 1 at time 0.
    """
    times = [i / num_train_timesteps for i in range(num_train_timesteps + 1)]
    levels = [alpha_bar(time) for time in times]
    if not normalize:
        levels[0] = 1.0
    betas = [min(1 - after / before, max_beta) for before, after in zip(levels, levels[1:], strict=False)]
    return torch.tensor(betas, dtype=torch.float32)


def betas_for_schedule(
    beta_schedule: str,
    num_train_timesteps: int,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    *,
    cosine_s: float = 0.008,
    max_beta: float = 0.999,
    sigmoid_start: float = -3.0,
    sigmoid_end: float = 3.0,
    sigmoid_tau: float = 1.0,
    scale_betas_by_length: bool = False,
) -> torch.Tensor:
    """Return the betas of a named schedule, float32, shape (T,).

    Args:
        beta_schedule: one of `BETA_SCHEDULES`, diffusers' words.
        num_train_timesteps: T, at least 1.
        beta_start: first beta of "linear", "scaled_linear" and "sigmoid"; not used by the others.
        beta_end: last beta of these three.
        cosine_s: offset s of "squaredcos_cap_v2".
        max_beta: cap on every beta of the schedules given by alpha-bar.
        sigmoid_start: start of "sigmoid_alpha_bar".
        sigmoid_end: end of "sigmoid_alpha_bar".
        sigmoid_tau: temperature of "sigmoid_alpha_bar".
        scale_betas_by_length: multiply beta_start and beta_end by 1000 / T, so that a chain of any length
            ends with as little signal as one of 1000 steps (Nichol & Dhariwal 2021, code release).

    Raises:
        NotImplementedError: unknown `beta_schedule` (the kind of error that diffusers raises).
    """
    if scale_betas_by_length:
        beta_start, beta_end = (beta * 1000 / num_train_timesteps for beta in (beta_start, beta_end))
    if beta_schedule == "linear":
        return linear_betas(num_train_timesteps, beta_start, beta_end)
    if beta_schedule == "scaled_linear":
        return scaled_linear_betas(num_train_timesteps, beta_start, beta_end)
    if beta_schedule == "sigmoid":
        return sigmoid_betas(num_train_timesteps, beta_start, beta_end)
    if beta_schedule == "squaredcos_cap_v2":
        return betas_from_alpha_bar(
            lambda time: cosine_alpha_bar(time, cosine_s), num_train_timesteps, max_beta
        )
    if beta_schedule == "sigmoid_alpha_bar":
        return betas_from_alpha_bar(
            lambda time: sigmoid_alpha_bar(time, sigmoid_start, sigmoid_end, sigmoid_tau),
            num_train_timesteps,
            max_beta,
        )
    if beta_schedule == "laplace":
        return betas_from_alpha_bar(laplace_alpha_bar, num_train_timesteps, max_beta, normalize=False)
    hint = BETA_SCHEDULE_HINTS.get(str(beta_schedule).lower(), "")
    raise NotImplementedError(
        f"beta_schedule is {beta_schedule!r}, but must be one of {BETA_SCHEDULES}. {hint}".rstrip()
    )


def given_betas(trained_betas: Any, num_train_timesteps: int) -> torch.Tensor:
    """Return betas that the caller gives, checked, float32, shape (T,).

    Raises:
        TypeError: no numbers.
        ValueError: not one-dimensional, another length than T, or a value that is not inside (0, 1). Only the
            last may be 1, which is a schedule with zero terminal SNR.
    """
    try:
        betas = torch.as_tensor(trained_betas, dtype=torch.float32, device="cpu").detach().clone()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"trained_betas is {reprlib.repr(trained_betas)}, but must be {num_train_timesteps} numbers, one "
            "beta per timestep."
        ) from None
    if betas.ndim != 1 or len(betas) != num_train_timesteps:
        raise ValueError(
            f"trained_betas has shape {tuple(betas.shape)}, but num_train_timesteps is "
            f"{num_train_timesteps}. Give one beta per timestep, or set num_train_timesteps to their number."
        )
    wrong = ~((betas > 0) & (betas < 1))
    wrong[-1] &= betas[-1] != 1
    if bool(wrong.any()):
        place = int(wrong.nonzero()[0])
        raise ValueError(
            f"trained_betas has {float(betas[place]):g} at place {place}, but every beta must be inside (0, "
            "1); only the last may be 1 (no signal left)."
        )
    return betas


def rescale_zero_terminal_snr(betas: torch.Tensor) -> torch.Tensor:
    """Return betas whose last step has no signal left: alpha_bar_T = 0, shape (T,).

    sqrt(alpha_bar) is shifted so that its last value is 0 and scaled so that its first value stays.
    (Lin et al. 2024, arXiv:2305.08891, algorithm 1.)

    Raises:
        ValueError: fewer than two betas: one step cannot both keep its level and end at zero.
    """
    if len(betas) < 2:
        raise ValueError("zero terminal SNR (rescale_betas_zero_snr) needs at least 2 timesteps, got 1.")
    root = torch.cumprod(1.0 - betas, dim=0).sqrt()
    first, last = root[0].clone(), root[-1].clone()
    root = (root - last) * (first / (first - last))
    alphas_cumprod = root**2
    alphas = torch.cat([alphas_cumprod[:1], alphas_cumprod[1:] / alphas_cumprod[:-1]])
    return 1 - alphas


def alphas_cumprod_from_betas(betas: torch.Tensor) -> torch.Tensor:
    """Return alpha_bar_t = prod_{s <= t} (1 - beta_s), same dtype, shape (T,)."""
    return torch.cumprod(1.0 - betas, dim=0)


def snr(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """Return the ratio alpha_bar / (1 - alpha_bar) (Kingma et al. 2021, arXiv:2107.00630, eq. 1)."""
    return alphas_cumprod / (1 - alphas_cumprod)


def log_snr(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """Return log(alpha_bar / (1 - alpha_bar)), natural log; -inf where no signal is left."""
    return torch.log(alphas_cumprod) - torch.log1p(-alphas_cumprod)
