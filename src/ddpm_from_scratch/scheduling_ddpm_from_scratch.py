"""DDPMFromScratchScheduler: ancestral sampling of Ho et al. 2020, a drop-in for diffusers' DDPMScheduler.

The equations are in `diffusion.py` and the schedules in `noise_schedules.py`. This module adds what a
diffusers
scheduler is: a configuration, a chain of timesteps, and `step`. Results equal DDPMScheduler's bit for bit on
float32 wherever that one is right; the differences are listed in docs/differences.md.
"""

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

from .diffusion import (
    Posterior,
    Scales,
    add_noise,
    broadcast_to_sample,
    check_prediction_type,
    posterior,
    posterior_mean,
    scales,
    step_beta,
    to_original,
    velocity,
)
from .noise_schedules import (
    alphas_cumprod_from_betas,
    betas_for_schedule,
    given_betas,
    rescale_zero_terminal_snr,
)

VARIANCE_TYPES = (
    "fixed_small",
    "fixed_small_log",
    "fixed_large",
    "fixed_large_log",
    "learned",
    "learned_range",
)
TIMESTEP_SPACINGS = ("linspace", "leading", "trailing")

# The smallest variance, so that its logarithm exists; diffusers' value.
_MIN_VARIANCE = 1e-20


class _Step(NamedTuple):
    """The host-side coefficients of one step of the chain, as Python floats."""

    scales: Scales
    posterior: Posterior
    noise_std: float
    min_log_variance: float
    max_log_variance: float
    is_last: bool


def _integer(name: str, value: Any, minimum: int, maximum: int | None = None) -> int:
    """Return `value` as an int in [minimum, maximum], or raise an error that names it."""
    allowed = f"an integer of at least {minimum}" + ("" if maximum is None else f" and at most {maximum}")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}, but must be {allowed}.") from None
    if number < minimum or (maximum is not None and number > maximum):
        raise ValueError(f"{name} is {number}, but must be {allowed}.")
    return number


def _choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}, but must be one of {tuple(allowed)}.")


class DDPMFromScratchScheduler(SchedulerMixin, ConfigMixin):
    """Sample by the reverse process of DDPM (Ho et al. 2020, arXiv:2006.11239, algorithm 2).

    x_{t-1} = posterior_mean(x_0 estimate, x_t) + std z,   z ~ N(0, I)

    The first 15 arguments are those of diffusers' DDPMScheduler, with the same order and defaults.

    Args:
        num_train_timesteps: T, the number of noise levels the network was trained on.
        beta_start: first beta of the linear, scaled_linear and sigmoid schedules.
        beta_end: last beta of the same schedules.
        beta_schedule: "linear", "scaled_linear", "squaredcos_cap_v2" (cosine), "sigmoid" (in beta, as
            diffusers means it), "sigmoid_alpha_bar" (as Jabri et al. 2022 mean it) or "laplace".
        trained_betas: T betas to use instead of a named schedule.
        variance_type: variance of the added noise: "fixed_small" (the posterior's), "fixed_large" (beta), the
            same with "_log", or "learned" / "learned_range" for a network with 2C output channels whose
            second half is a log-variance, or an interpolation between the two fixed ones (Nichol & Dhariwal
            2021, arXiv:2102.09672, eq. 15).
        clip_sample: clip the estimate of x_0 to [-clip_sample_range, clip_sample_range]. Right for images in
            [-1, 1]; switch it off for data outside.
        prediction_type: what the network predicts: "epsilon", "sample" (x_0) or "v_prediction".
        thresholding: dynamic thresholding of x_0 (Saharia et al. 2022, arXiv:2205.11487, sec. 2.3) instead of
            clipping.
        dynamic_thresholding_ratio: the quantile of |x_0| it uses, in [0, 1].
        clip_sample_range: half width of the clipping interval.
        sample_max_value: largest threshold of dynamic thresholding; with the default 1.0 it equals clipping.
        timestep_spacing: "leading", "linspace" or "trailing" (Lin et al. 2024, arXiv:2305.08891, table 2).
        steps_offset: added to the timesteps of "leading".
        rescale_betas_zero_snr: rescale so that no signal is left at T (same paper, algorithm 1).
        cosine_s: offset s of the cosine schedule.
        max_beta: cap on beta of the schedules defined by alpha-bar.
        sigmoid_start: start of "sigmoid_alpha_bar".
        sigmoid_end: end of "sigmoid_alpha_bar".
        sigmoid_tau: temperature of "sigmoid_alpha_bar".

    Raises:
        ValueError, TypeError: an argument that is not allowed, named with the allowed values.
        NotImplementedError: an unknown `beta_schedule`, the error of DDPMScheduler.
    """

    _compatibles = [e.name for e in KarrasDiffusionSchedulers]
    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: np.ndarray | list[float] | None = None,
        variance_type: str = "fixed_small",
        clip_sample: bool = True,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
        cosine_s: float = 0.008,
        max_beta: float = 0.999,
        sigmoid_start: float = -3.0,
        sigmoid_end: float = 3.0,
        sigmoid_tau: float = 1.0,
    ):
        num_train_timesteps = _integer("num_train_timesteps", num_train_timesteps, 1)
        _integer("steps_offset", steps_offset, 0)
        _choice("variance_type", variance_type, VARIANCE_TYPES)
        _choice("timestep_spacing", timestep_spacing, TIMESTEP_SPACINGS)
        check_prediction_type(prediction_type)
        if not clip_sample_range >= 0:
            raise ValueError(f"clip_sample_range is {clip_sample_range}, but must be 0 or larger.")
        if not sample_max_value >= 1:
            raise ValueError(f"sample_max_value is {sample_max_value}, but must be 1 or larger.")
        if not 0 <= dynamic_thresholding_ratio <= 1:
            raise ValueError(
                f"dynamic_thresholding_ratio is {dynamic_thresholding_ratio}, but must be in [0, 1]."
            )

        if trained_betas is not None:
            betas = given_betas(trained_betas, num_train_timesteps)
        else:
            betas = betas_for_schedule(
                beta_schedule,
                num_train_timesteps,
                beta_start,
                beta_end,
                cosine_s=cosine_s,
                max_beta=max_beta,
                sigmoid_start=sigmoid_start,
                sigmoid_end=sigmoid_end,
                sigmoid_tau=sigmoid_tau,
            )
            if not bool(((betas > 0) & (betas < 1)).all()):
                raise ValueError(
                    f"beta_schedule {beta_schedule!r} with beta_start={beta_start}, beta_end={beta_end}, "
                    f"max_beta={max_beta} gives betas from {betas.min():g} to {betas.max():g}, but every "
                    "beta must "
                    "be inside (0, 1)."
                )
        if rescale_betas_zero_snr:
            betas = rescale_zero_terminal_snr(betas)

        self.betas = betas
        self.alphas = 1.0 - betas
        self.alphas_cumprod = alphas_cumprod_from_betas(betas)
        self.one = torch.tensor(1.0)
        self.init_noise_sigma = 1.0
        self.custom_timesteps = False
        self.num_inference_steps: int | None = None
        self._scales_cache: dict[tuple[torch.device, torch.dtype], Scales] = {}
        self._set_chain(np.arange(num_train_timesteps)[::-1].copy())

    def __len__(self) -> int:
        """Return T, the number of training timesteps."""
        return self.config.num_train_timesteps

    @property
    def variance_type(self) -> str:
        """The kind of variance of the added noise, from the configuration."""
        return self.config.variance_type

    def scale_model_input(self, sample: torch.Tensor, timestep: int | None = None) -> torch.Tensor:
        """Return `sample` unchanged: the DDPM process needs no scaling of the network's input."""
        return sample

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Choose the timesteps that sampling visits, from noisy to clean.

        With T training timesteps and n steps (Lin et al. 2024, arXiv:2305.08891, table 2):
        linspace round(i (T-1)/(n-1)); leading i floor(T/n) + steps_offset; trailing round(T - i T/n) - 1.

        Args:
            num_inference_steps: n in 1..T.
            device: where `scheduler.timesteps` lives.
            timesteps: strictly falling timesteps in 0..T-1 to visit instead of a spacing.

        Raises:
            ValueError, TypeError: not exactly one of the two, or a value that is not allowed.
        """
        last = self.config.num_train_timesteps - 1
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError(
                "set_timesteps needs exactly one of num_inference_steps and timesteps, got "
                + ("both." if timesteps is not None else "neither.")
            )
        if timesteps is not None:
            chain = [_integer("a custom timestep", t, 0, last) for t in timesteps]
            if not chain or any(later >= earlier for earlier, later in zip(chain, chain[1:], strict=False)):
                raise ValueError(
                    f"timesteps must be in descending order without repeats and not empty, got {chain}."
                )
            visited = np.array(chain, dtype=np.int64)
        else:
            visited = self._spaced_timesteps(
                _integer("num_inference_steps", num_inference_steps, 1, last + 1)
            )
        self.custom_timesteps = timesteps is not None
        self.num_inference_steps = len(visited)
        self._set_chain(visited, device)

    def _spaced_timesteps(self, num_steps: int) -> np.ndarray:
        num_train, spacing = self.config.num_train_timesteps, self.config.timestep_spacing
        counts = np.arange(num_steps)
        if spacing == "linspace":
            rising = np.linspace(0, num_train - 1, num_steps).round().astype(np.int64)
        elif spacing == "leading":
            rising = counts * (num_train // num_steps) + self.config.steps_offset
            if rising[-1] >= num_train:
                raise ValueError(
                    f"num_inference_steps={num_steps} with steps_offset={self.config.steps_offset} starts at "
                    "timestep "
                    f"{rising[-1]}, but the last one is {num_train - 1}. Take fewer steps or steps_offset=0."
                )
        else:
            # T - i T/n with the same rounding as the float arange of DDPMScheduler, but always n of them.
            difference = (num_train - num_train / num_steps) - num_train
            rising = np.round(num_train + counts * difference).astype(np.int64)[::-1] - 1
        return rising[::-1].copy()

    def _set_chain(self, timesteps: np.ndarray, device: str | torch.device | None = None) -> None:
        """Compute every coefficient that `step` needs, once, on the host."""
        self.timesteps = torch.from_numpy(timesteps).to(device)
        self._visited: list[int] = timesteps.tolist()
        self._index_of = {t: index for index, t in enumerate(self._visited)}
        self._chain_variance_type = self.variance_type

        alpha_prod = self.alphas_cumprod.cpu()[torch.from_numpy(timesteps)]
        alpha_prod_prev = torch.cat([alpha_prod[1:], self.one[None]])
        at_t, to_prev = scales(alpha_prod), posterior(alpha_prod, alpha_prod_prev)
        beta = step_beta(alpha_prod, alpha_prod_prev)
        variance = to_prev.variance.clamp(min=_MIN_VARIANCE)
        noise_std = {
            "fixed_small": lambda: variance**0.5,
            "fixed_small_log": lambda: torch.exp(0.5 * torch.log(variance)),
            "fixed_large": lambda: beta**0.5,
            "fixed_large_log": lambda: torch.exp(0.5 * torch.log(beta)),
        }.get(self.variance_type, lambda: variance**0.5)()
        # The posterior of the last step has no variance; `_MIN_VARIANCE` of it is below float32 resolution.
        # DDPMScheduler adds it too, so keeping it keeps results and random streams equal bit for bit.
        noise_std[-1] = variance[-1] ** 0.5
        columns = (*at_t, *to_prev, noise_std, torch.log(variance), torch.log(beta))
        self._steps = [
            _Step(Scales(*row[:2]), Posterior(*row[2:5]), row[5], row[6], row[7], index == len(timesteps) - 1)
            for index, row in enumerate(torch.stack(columns, dim=1).tolist())
        ]

    def _index(self, timestep: int | torch.Tensor) -> int:
        """Return the position of `timestep` in the chain."""
        index = self._index_of.get(int(timestep))
        if index is None:
            shown = ", ".join(map(str, self._visited[:5])) + (", ..." if len(self._visited) > 5 else "")
            raise ValueError(
                f"timestep {int(timestep)} is not one of the {len(self._visited)} that set_timesteps chose "
                f"({shown}). "
                "Call step only with values of scheduler.timesteps."
            )
        return index

    def previous_timestep(self, timestep: int | torch.Tensor) -> int:
        """Return the timestep that the chain visits after `timestep`, or -1 at its end (clean data)."""
        index = self._index(timestep)
        return -1 if index == len(self._visited) - 1 else self._visited[index + 1]

    def _split_variance(
        self, model_output: torch.Tensor, sample: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the prediction and, for learned variances, the second half of the channels."""
        channels = sample.shape[1]
        learned = self.variance_type in ("learned", "learned_range")
        expected = (sample.shape[0], (2 if learned else 1) * channels, *sample.shape[2:])
        if model_output.shape != expected:
            raise ValueError(
                f"model_output has shape {tuple(model_output.shape)}, but a sample of shape "
                f"{tuple(sample.shape)} and "
                f"variance_type {self.variance_type!r} need {expected}. A network with twice the sample's "
                "channels "
                "predicts a variance: use variance_type 'learned_range' (or 'learned') for it, and only for "
                "it."
            )
        if not learned:
            return model_output, None
        prediction, variance = torch.split(model_output, channels, dim=1)
        return prediction, variance

    def _threshold_sample(self, sample: torch.Tensor) -> torch.Tensor:
        """Return x_0 clamped to [-s, s] and divided by s, with s a quantile of |x_0|, at least 1.

        Saharia et al. 2022 (arXiv:2205.11487), sec. 2.3; for samples (B, ...) of any rank.
        """
        flat = sample.flatten(1)
        if flat.dtype not in (torch.float32, torch.float64):
            flat = flat.float()  # quantile has no half-precision kernel
        limit = torch.quantile(flat.abs(), self.config.dynamic_thresholding_ratio, dim=1, keepdim=True)
        limit = limit.clamp(min=1, max=self.config.sample_max_value)
        return (flat.clamp(-limit, limit) / limit).reshape(sample.shape).to(sample.dtype)

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
        variance_noise: torch.Tensor | None = None,
    ) -> DDPMSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """Return a sample of the previous (less noisy) timestep.

        x_{t-1} ~ N(posterior mean at the x_0 estimate, std^2 I)         (Ho et al. 2020, arXiv:2006.11239,
        eqs. 7, 15)

        Args:
            model_output: network output, shape (B, C, ...); (B, 2C, ...) for learned variances.
            timestep: t, one of `scheduler.timesteps`.
            sample: x_t, shape (B, C, ...).
            generator: source of the noise; a list has one for each sample.
            return_dict: return a DDPMSchedulerOutput instead of (prev_sample, pred_original_sample).
            variance_noise: z ~ N(0, I) to use instead of drawing it, shape of `sample`.

        Raises:
            ValueError: a timestep that is not in the chain, or a wrong shape.
        """
        if self._chain_variance_type != self.variance_type:
            self._set_chain(np.array(self._visited), self.timesteps.device)
        index = self._index(timestep)
        step = self._steps[index]
        prediction, predicted_variance = self._split_variance(model_output, sample)

        original = to_original(prediction, sample, step.scales, self.config.prediction_type)
        if self.config.thresholding:
            original = self._threshold_sample(original)
        elif self.config.clip_sample:
            original = original.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
        prev_sample = posterior_mean(original, sample, step.posterior)

        if self._visited[index] > 0:
            if variance_noise is None:
                variance_noise = randn_tensor(
                    prediction.shape, generator=generator, device=prediction.device, dtype=prediction.dtype
                )
            elif variance_noise.shape != sample.shape:
                raise ValueError(
                    f"variance_noise has shape {tuple(variance_noise.shape)}, but must have the sample's "
                    "shape "
                    f"{tuple(sample.shape)}."
                )
            prev_sample = prev_sample + self._noise_std(step, predicted_variance) * variance_noise

        if not return_dict:
            return prev_sample, original
        return DDPMSchedulerOutput(prev_sample=prev_sample, pred_original_sample=original)

    def _noise_std(self, step: _Step, predicted_variance: torch.Tensor | None) -> float | torch.Tensor:
        """Return the standard deviation of the added noise; learned ones from the network's log-variance."""
        if predicted_variance is None or step.is_last:
            return step.noise_std
        if self.variance_type == "learned":
            return torch.exp(0.5 * predicted_variance)
        fraction = (predicted_variance + 1) / 2
        log_variance = fraction * step.max_log_variance + (1 - fraction) * step.min_log_variance
        return torch.exp(0.5 * log_variance)

    def _scales_at(self, timesteps: torch.Tensor, samples: torch.Tensor, noise: torch.Tensor) -> Scales:
        """Return the scales of a batch of timesteps, broadcast to `samples`, after checking the arguments."""
        if not samples.is_floating_point():
            raise TypeError(
                f"samples have dtype {samples.dtype}, but must be floating point; bring images to [-1, 1]."
            )
        if noise.shape != samples.shape:
            raise ValueError(
                f"noise has shape {tuple(noise.shape)}, but must have the samples' shape "
                f"{tuple(samples.shape)}."
            )
        timesteps = torch.as_tensor(timesteps)
        if timesteps.is_floating_point() or timesteps.numel() not in (1, len(samples)):
            raise ValueError(
                f"timesteps have shape {tuple(timesteps.shape)} and dtype {timesteps.dtype}, but must be one "
                "integer "
                f"or {len(samples)}, one for each sample."
            )
        if timesteps.device.type == "cpu" and timesteps.numel():
            low, high = (int(bound) for bound in timesteps.aminmax())
            if low < 0 or high >= len(self):
                raise ValueError(f"timesteps reach from {low} to {high}, but must be in 0..{len(self) - 1}.")
        # Tables in at least float32, cast last: in half precision 1 - alpha_bar would round to 0 at small t.
        precise = torch.promote_types(samples.dtype, torch.float32)
        key = (samples.device, precise)
        if key not in self._scales_cache:
            self._scales_cache[key] = scales(self.alphas_cumprod.to(samples.device, precise))
        table, index = self._scales_cache[key], timesteps.to(samples.device).flatten()
        signal, noise_scale = (
            broadcast_to_sample(column[index], samples).to(samples.dtype) for column in table
        )
        return Scales(signal, noise_scale)

    def add_noise(
        self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """Return x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps (Ho et al. 2020, eq. 4).

        Args:
            original_samples: x_0, shape (B, ...), floating point.
            noise: eps ~ N(0, I), same shape.
            timesteps: integers in 0..T-1, shape (B,), or one for all.

        Raises:
            ValueError, TypeError: a wrong shape or kind, or timesteps out of range (checked on CPU tensors).
        """
        return add_noise(original_samples, noise, self._scales_at(timesteps, original_samples, noise))

    def get_velocity(
        self, sample: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """Return v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0 (Salimans & Ho 2022, sec. 4).

        Arguments and errors as in `add_noise`; `sample` is x_0, as diffusers calls it here.
        """
        return velocity(sample, noise, self._scales_at(timesteps, sample, noise))
