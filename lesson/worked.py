"""The numbers that the lecture works out by hand, by the library: `python lesson/worked.py`.

Timesteps are the lecture's: t = 500 is the 500th of T = 1000 steps, the library's index 499.
"""

import torch

from computed import Figures, print_figures
from ddpm_from_scratch import DDPMFromScratchScheduler
from ddpm_from_scratch.process.diffusion import (
    add_noise,
    forward_step,
    posterior,
    posterior_mean,
    scales,
    to_original,
)

SCHEDULES = {
    "linear": "linear",
    "cosine": "squaredcos_cap_v2",
    "sigmoid": "sigmoid_alpha_bar",
    "geodiff": "sigmoid",
}


def _number(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def signal_left() -> Figures:
    """alpha-bar of the schedules at t = 250, 500, 750 and 1000."""
    found = {}
    for name, schedule in SCHEDULES.items():
        table = DDPMFromScratchScheduler(beta_schedule=schedule).alphas_cumprod
        found |= {f"{name}_{t}": float(table[t - 1]) for t in (250, 500, 750, 1000)}
    return found


def one_step() -> Figures:
    """One step from x = 100 with beta = 0.01: the mean, and the standard deviation of the noise."""
    zero, one = torch.zeros(1).double(), torch.ones(1).double()
    return {
        "mean": float(forward_step(100 * one, zero, 0.01)),
        "std": float(forward_step(zero, one, 0.01)),
    }


def five_steps() -> Figures:
    """Five steps from x_0 = 2 with beta = 0.01 and the noise of the lecture."""
    x, found = _number(2.0), {}
    for step, noise in enumerate((0.8, -0.4, -0.2, 0.3, 0.2), start=1):
        x = forward_step(x, _number(noise), 0.01)
        found[f"x{step}"] = float(x)
    return found


def jump() -> Figures:
    """The jump from x_0 = 2 to x_500 with eps = -0.8: with the lecture's alpha-bar, and with linear's."""
    alpha_bar = float(DDPMFromScratchScheduler().alphas_cumprod[499])
    return {
        name: float(add_noise(_number(2.0), _number(-0.8), scales(value)))
        for name, value in (("of_lecture", 0.17), ("of_linear", alpha_bar))
    }


def training_step() -> Figures:
    """One training step on x_0 = (2, 1) with alpha-bar 0.5: x_t, and both kinds of loss."""
    x0, noise = torch.tensor([[2.0, 1.0]]).double(), torch.tensor([[0.3, -0.2]]).double()
    x_t = add_noise(x0, noise, scales(0.5))
    error = torch.tensor([[0.25, -0.15]]).double() - noise
    return {
        "x": float(x_t[0, 0]),
        "y": float(x_t[0, 1]),
        "squared_norm": float(error.square().sum()),
        "mean_square": float(error.square().mean()),
    }


def reverse_step() -> Figures:
    """The step from x_100 = 1.5 with the lecture's alphas, and what these are for the linear schedule."""
    alpha, alpha_bar, x, noise = 0.99, 0.8, _number(1.5), _number(0.6)
    original = to_original(noise, x, scales(alpha_bar), "epsilon")
    mean = float(posterior_mean(original, x, posterior(alpha_bar, alpha_bar / alpha)))
    scheduler = DDPMFromScratchScheduler()
    real, table = float(scheduler.alphas[99]), scheduler.alphas_cumprod.double()
    return {
        "mean": mean,
        "x99": mean + 0.1 * -0.3,
        "alpha": real,
        "alpha_bar": float(table[99]),
        "sigma_of_beta": (1 - real) ** 0.5,
        "sigma_of_posterior": float(posterior(table[99], table[98]).variance) ** 0.5,
    }


NUMBERS = (signal_left, one_step, five_steps, jump, training_step, reverse_step)


def main(argv: list[str] | None = None) -> None:
    """Print the numbers that are named, or all."""
    print_figures(NUMBERS, __doc__, argv)


if __name__ == "__main__":
    main()
