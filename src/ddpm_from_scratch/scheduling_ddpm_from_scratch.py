"""DDPMFromScratchScheduler: ancestral sampling of Ho et al. 2020, a drop-in for diffusers' DDPMScheduler.

The equations are in `diffusion.py`, the schedules in `noise_schedules.py`, the coefficients of a chain in
`reverse_chain.py`, and what a setting may be in `scheduler_settings.py`. This module adds what a diffusers
scheduler is: a configuration, `set_timesteps` and `step`. Results equal DDPMScheduler's bit for bit wherever
that one is right; the differences are listed in docs/differences.md.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

from . import checks
from .diffusion import (
    Scales,
    add_noise,
    dynamic_threshold,
    learned_log_variance,
    posterior_mean,
    to_original,
    velocity,
)
from .forward_process import NoisingTable
from .reverse_chain import LEARNED_VARIANCE_TYPES, VARIANCE_TYPES, ReverseChain, Step
from .scheduler_settings import (
    check_alphas_cumprod,
    checked_settings,
    schedule_settings,
    stock_settings,
    tables_from_settings,
    warn_about,
)
from .timestep_spacing import given_timesteps, spaced_timesteps

# alpha-bar of a last timestep without signal, where the network predicts noise: x_0 needs a division by its
# root. The value of diffusers' other schedulers.
_ZERO_SNR_GUARD = 2.0**-24

# Data further out than this many clipping ranges, plus this many standard deviations of noise, are squashed.
_FAR_OUTSIDE = 2.0
_LARGEST_NOISE = 8.0


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
        scale_betas_by_length: multiply beta_start and beta_end by 1000 / T, so that a chain of any length
            ends with as little signal as one of 1000 steps.

    Raises:
        ValueError, TypeError: an argument that is not allowed, named with the allowed values.
        NotImplementedError: an unknown `beta_schedule`, the error of DDPMScheduler.

    Settings that DDPMScheduler accepts but that are probably not meant give one UserWarning.
    """

    _compatibles = [e.name for e in KarrasDiffusionSchedulers]
    order = 1
    _is_ode_scheduler = False  # read by parallel samplers, as of DDPMParallelScheduler
    _chain: ReverseChain

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
        scale_betas_by_length: bool = False,
    ):
        self.one = torch.tensor(1.0, dtype=torch.float32, device="cpu")
        self.init_noise_sigma = 1.0
        self.custom_timesteps = False
        self.num_inference_steps: int | None = None
        self._warned: set[str] = set()
        self._data_seen = False
        self._schedule: dict[str, Any] = {}
        self._visited: list[int] = []
        self._prepared_for: tuple[Any, Any, Any] = (None, None, None)
        self._refresh()

    def register_to_config(self, **kwargs: Any) -> None:
        """Change settings, as in diffusers; they are checked and take effect at once.

        Raises:
            ValueError, TypeError, NotImplementedError: a setting that is not allowed.
        """
        super().register_to_config(**kwargs)
        if "_chain" in self.__dict__:  # not while the constructor is at work
            self._refresh()

    def __len__(self) -> int:
        """Return T, the number of training timesteps."""
        return self.config.num_train_timesteps

    @property
    def variance_type(self) -> str:
        """The kind of variance of the added noise, which is the configuration's."""
        return self.config.variance_type

    @variance_type.setter
    def variance_type(self, value: str) -> None:
        """Change the configuration, so that there is one source."""
        self.register_to_config(variance_type=value)

    def to_diffusers(self) -> DDPMScheduler:
        """Return a stock DDPMScheduler that samples the same; call `set_timesteps` on it as on a new one.

        A schedule that stock lacks goes out as `trained_betas`. Where docs/differences.md says that stock is
        wrong (some step counts of "trailing", noise on the last step), it stays wrong.

        Raises:
            ValueError: stock cannot express the settings; the message says what would be lost.
        """
        self._refresh()
        stock = DDPMScheduler.from_config(stock_settings(self.config))
        if not torch.equal(stock.alphas_cumprod, self.alphas_cumprod.cpu()):
            raise ValueError(
                "alphas_cumprod was assigned, so the settings do not give it, and it would be lost. Make a "
                "scheduler with trained_betas instead."
            )
        return stock

    def scale_model_input(self, sample: torch.Tensor, timestep: int | None = None) -> torch.Tensor:
        """Return `sample` unchanged: the DDPM process needs no scaling of the network's input."""
        return sample

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Choose the timesteps that sampling visits, from noisy to clean (see `timestep_spacing.py`).

        Args:
            num_inference_steps: n in 1..T.
            device: where `scheduler.timesteps` lives.
            timesteps: strictly falling timesteps in 0..T-1 to visit instead of a spacing.

        Raises:
            ValueError, TypeError: not exactly one of the two, or a value that is not allowed.
        """
        self._refresh()
        num_train_timesteps, spacing = self.config.num_train_timesteps, self.config.timestep_spacing
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError(
                "set_timesteps needs exactly one of num_inference_steps and timesteps, got "
                + ("both." if timesteps is not None else "neither.")
            )
        if timesteps is not None:
            visited = given_timesteps(timesteps, num_train_timesteps)
            if visited[-1] > 0:
                checks.warn(
                    f"timesteps end at {visited[-1]}, not at 0: the last step jumps from there to clean "
                    "data. Add 0 if that is not meant."
                )
        else:
            count = checks.integer("num_inference_steps", num_inference_steps, 1, num_train_timesteps)
            visited = spaced_timesteps(count, num_train_timesteps, spacing, self.config.steps_offset)
            stride, left_out = divmod(num_train_timesteps, count)
            start = float(self.alphas_cumprod[visited[0]])
            # The floor in the stride leaves out the noisiest timesteps, here as many as a stride or more.
            if spacing == "leading" and left_out >= stride and (stride == 1 or start > 0.01):
                checks.warn(
                    f"timestep_spacing 'leading' with {count} of {num_train_timesteps} timesteps starts at "
                    f"timestep {visited[0]}, where alpha-bar is {start:.2g} and not "
                    f"{float(self.alphas_cumprod[-1]):.2g} as at the last: samples lose contrast and "
                    "brightness. Use timestep_spacing='trailing', or a number of steps that divides "
                    f"{num_train_timesteps}."
                )
        self._visit(visited, torch.tensor(visited, device="cpu").to(device))
        self.custom_timesteps = timesteps is not None
        self.num_inference_steps = len(visited)
        self._refresh()

    def _visit(self, visited: list[int], timesteps: torch.Tensor) -> None:
        if visited != self._visited:  # the same list stands for the same chain
            self._visited = visited
        self.timesteps = self._visited_tensor = timesteps
        self._last_index: int | None = None

    def _refresh(self) -> None:
        """Compute what `step` and `add_noise` need, if that is not yet done for the present state.

        The state is the configuration, alpha-bar and the timesteps. `register_to_config`, `set_timesteps` and
        code that assigns them put new objects there, so identity tells whether the tables are still right.

        Raises:
            ValueError, TypeError: the new value is not allowed.
        """
        config, alphas_cumprod, timesteps = self._prepared_for
        same_tables = config is self._internal_dict and alphas_cumprod is self.alphas_cumprod
        if same_tables and timesteps is self.timesteps:
            return
        if not same_tables:
            self._read_config()
        if self.timesteps is not self._visited_tensor:
            visited = given_timesteps(self.timesteps, len(self))
            if not isinstance(self.timesteps, torch.Tensor):
                self.timesteps = torch.tensor(visited, device="cpu")
            self._visit(visited, self.timesteps)
        device = self.timesteps.device
        if not same_tables:
            self._noising = NoisingTable(self.alphas_cumprod, device)
        if not same_tables or self._chain.timesteps is not self._visited:
            self._chain = ReverseChain(self.alphas_cumprod, self._visited, self.variance_type)
        self._chain.tables_on(device)
        self._prepared_for = (self.config, self.alphas_cumprod, self.timesteps)

    def _read_config(self) -> None:
        """Check the configuration, make the tables of a new schedule, and keep at hand what `step` reads."""
        super().register_to_config(**checked_settings(self.config))
        schedule = schedule_settings(self.config)
        if schedule != self._schedule:
            with torch.inference_mode(False), torch.device("cpu"):
                self.betas, self.alphas_cumprod = tables_from_settings(self.config)
                self.alphas = 1.0 - self.betas
                warn_about(self.config, self.alphas_cumprod)
            if len(self) != self._schedule.get("num_train_timesteps"):
                visited = list(range(len(self)))[::-1]
                self._visit(visited, torch.tensor(visited, device="cpu"))
                self.num_inference_steps, self.custom_timesteps = None, False
            self._schedule = schedule
        else:  # the schedule's own table needs no check
            check_alphas_cumprod(self.alphas_cumprod, len(self))
        self._guard_zero_snr()
        config = self.config
        self._prediction_type: str = config.prediction_type
        self._thresholding: bool = config.thresholding
        self._clip_range: float | None = config.clip_sample_range if config.clip_sample else None
        self._learned: bool = config.variance_type in LEARNED_VARIANCE_TYPES

    def _guard_zero_snr(self) -> None:
        """Keep the division by sqrt(alpha-bar) finite if the network predicts noise and no signal is left."""
        if self.config.prediction_type != "epsilon" or self.alphas_cumprod[-1] > 0:
            return
        before = float(self.alphas_cumprod[-2]) if len(self) > 1 else 1.0
        guard = min(_ZERO_SNR_GUARD, before / 2)  # alpha-bar must go on falling
        self._warn_once(
            "zero SNR",
            "no signal is left at the last timestep (zero terminal SNR), where a network that predicts noise "
            f"says nothing about x_0; alpha-bar is set to {guard:.2g} there. Use prediction_type "
            "'v_prediction' or 'sample'.",
        )
        with torch.inference_mode(False):
            self.alphas_cumprod = self.alphas_cumprod.clone()
            self.alphas_cumprod[-1] = guard

    def _warn_once(self, topic: str, message: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            checks.warn(message)

    def _position(self, timestep: Any) -> int | None:
        """Return where in the chain a timestep is; None for a batch, or where reading it would wait."""
        if isinstance(timestep, torch.Tensor):
            if timestep.numel() != 1:
                return None
            if not timestep.is_cpu:
                return self._place_in_memory(timestep)
            timestep = timestep.item()
        elif isinstance(timestep, (list, tuple, np.ndarray)):
            return None
        if isinstance(timestep, float) and timestep.is_integer():
            self._warn_once("float", f"timestep is {timestep}; it is used as an integer. Give an integer.")
            timestep = int(timestep)
        if type(timestep) is not int:
            timestep = checks.integer("timestep", timestep, 0, len(self) - 1)
        return self._chain.index(timestep)

    def _place_in_memory(self, timestep: torch.Tensor) -> int | None:
        """Return which element of `timesteps` a tensor is a view of, or None."""
        if timestep.untyped_storage()._cdata != self.timesteps.untyped_storage()._cdata:
            return None
        distance = int(timestep.storage_offset()) - int(self.timesteps.storage_offset())
        index, rest = divmod(distance, self.timesteps.stride(0))
        return index if rest == 0 and 0 <= index < len(self._visited) else None

    def previous_timestep(self, timestep: int | torch.Tensor) -> int | torch.Tensor:
        """Return the timestep that the chain visits after `timestep`, or -1 at its end (clean data).

        As in diffusers, a tensor if the chain skips timesteps, and `timestep - 1` if it does not.

        Raises:
            ValueError: `timestep` is not in the chain.
        """
        self._refresh()
        index = self._position(timestep)
        if index is None:
            index = self._chain.index(checks.integer("timestep", timestep, 0, len(self) - 1))
        if len(self._visited) == len(self):
            return timestep - 1
        return self.timesteps[index + 1] if index + 1 < len(self._visited) else torch.tensor(-1)

    def _coefficients(self, timestep: Any, sample: torch.Tensor) -> Step:
        """Return the coefficients of a step: 0-dimensional, or (B, 1, ...) for a batch of timesteps."""
        if torch.compiler.is_compiling():
            if not isinstance(timestep, torch.Tensor):
                timestep = torch.full((1,), timestep, device=sample.device)
            if timestep.numel() not in (1, len(sample)) or timestep.is_floating_point():
                raise ValueError(f"timestep must be one integer or {len(sample)}, one for each sample.")
            return self._chain.steps(timestep.reshape(-1), sample)
        index = self._position(timestep)
        if index is None:
            return self._chain.steps(checks.timesteps(timestep, len(sample), len(self)), sample)
        if index - 1 != self._last_index:
            self._watch(index, sample)
        self._last_index = index
        return self._chain.step(index)

    def _watch(self, index: int, sample: torch.Tensor) -> None:
        """Warn once about a walk that skips or repeats timesteps, or starts outside the clipping range."""
        if self._last_index is None:
            self._warn_if_squashed(sample, *self._chain.step(index).scales)
        elif index > 0 and self._last_index < len(self._visited) - 1:
            self._warn_once(
                "order",
                f"step was called out of order, for timestep {self._visited[index]} after "
                f"{self._visited[self._last_index]}. A step leads to the next of scheduler.timesteps; "
                "repeating or skipping is right only if the sample was noised again in between.",
            )

    def _warn_if_squashed(
        self, sample: torch.Tensor, signal: float | torch.Tensor = 1.0, noise: float | torch.Tensor = 0.0
    ) -> None:
        """Warn once if signal * x_0 + noise * z cannot have an x_0 inside the clipping range (CPU only)."""
        if (
            self._clip_range is None
            or self._thresholding
            or sample.device.type != "cpu"
            or not sample.numel()
        ):
            return
        try:
            largest = float(sample.detach().abs().amax())
            limit = _FAR_OUTSIDE * self._clip_range * float(signal) + _LARGEST_NOISE * float(noise)
        except RuntimeError:  # inside vmap or with fake tensors there are no values
            return
        if largest > limit:
            self._warn_once(
                "squashed",
                f"the data reach {largest:.3g}, but clip_sample=True clips every estimate of x_0 to "
                f"[-{self._clip_range:g}, {self._clip_range:g}], so samples cannot look like them. Set "
                "clip_sample=False (right for latents and standardised data), or scale the data.",
            )

    def _split_variance(
        self, model_output: torch.Tensor, sample: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the prediction and, for learned variances, the second half of the channels; check both."""
        checks.samples("sample", sample)
        checks.samples("model_output", model_output)
        checks.same_device("model_output", model_output, "sample", sample)
        if not self._learned and model_output.shape == sample.shape:
            return model_output, None
        if self._learned and sample.ndim > 1:
            channels = sample.shape[1]
            expected = (sample.shape[0], 2 * channels, *sample.shape[2:])
            if model_output.shape == expected:
                prediction, variance = torch.split(model_output, channels, dim=1)
                return prediction, variance
        needed = "twice the sample's channels" if self._learned else "the sample's shape"
        raise ValueError(
            f"model_output has shape {tuple(model_output.shape)} and sample {tuple(sample.shape)}, but "
            f"variance_type {self.variance_type!r} needs {needed}. A network with twice the sample's "
            "channels predicts a variance: use variance_type 'learned_range' (or 'learned') for it, and only "
            "for it."
        )

    def _original(self, prediction: torch.Tensor, sample: torch.Tensor, at_t: Scales) -> torch.Tensor:
        """Return the estimate of x_0, clipped or thresholded."""
        original = to_original(prediction, sample, at_t, self._prediction_type)
        if self._thresholding:
            ratio, largest = self.config.dynamic_thresholding_ratio, self.config.sample_max_value
            return dynamic_threshold(original, ratio, largest)
        if self._clip_range is None:
            return original
        return original.clamp(-self._clip_range, self._clip_range)

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

        x_{t-1} ~ N(posterior mean at the x_0 estimate, std^2 I)    (Ho et al. 2020, arXiv:2006.11239, eqs. 7,
        15)

        Compiles to one graph with `torch.compile(scheduler.step, fullgraph=True)`, without compiling again
        for another timestep, if `timestep` is a tensor. There, and for timesteps on an accelerator that are
        not elements of `scheduler.timesteps`, values cannot be checked: a timestep outside the chain gives
        nan.

        Args:
            model_output: network output, shape (B, C, ...); (B, 2C, ...) for learned variances.
            timestep: t, one of `scheduler.timesteps`, or B of them, shape (B,), one for each sample.
            sample: x_t, shape (B, C, ...).
            generator: source of the noise; a list has one for each sample.
            return_dict: return a DDPMSchedulerOutput instead of (prev_sample, pred_original_sample).
            variance_noise: z ~ N(0, I) to use instead of drawing it, shape of `sample`.

        Raises:
            ValueError, TypeError: a timestep that is not in the chain, a wrong shape or kind.
        """
        self._refresh()
        prediction, predicted_variance = self._split_variance(model_output, sample)
        if generator is not None and type(generator) is not torch.Generator:
            generator = checks.generator(generator, len(sample))
        step = self._coefficients(timestep, sample)

        original = self._original(prediction, sample, step.scales)
        prev_sample = posterior_mean(original, sample, step.posterior)
        if variance_noise is not None:
            checks.noise_like("variance_noise", variance_noise, "sample", sample)
        if step.adds_noise:
            noise_std = self._noise_std(step, predicted_variance)
            noise = _standard_normal(prediction, generator) if variance_noise is None else variance_noise
            # In place, PyTorch would round the standard deviation to half precision.
            in_place = variance_noise is None and noise_std.dtype == noise.dtype
            prev_sample += noise.mul_(noise_std) if in_place else noise_std * noise
        if step.noise_std.ndim:  # coefficients of a batch are float32; the caller's dtype stays
            dtype = torch.promote_types(prediction.dtype, sample.dtype)
            prev_sample, original = prev_sample.to(dtype), original.to(dtype)

        return _output(prev_sample, original) if return_dict else (prev_sample, original)

    def batch_step_no_noise(
        self, model_output: torch.Tensor, timesteps: torch.Tensor | Sequence[int], sample: torch.Tensor
    ) -> torch.Tensor:
        """Return the posterior means of a batch, each sample at its own timestep.

        The method of DDPMParallelScheduler, for chains of any spacing.

        Args:
            model_output: network output, shape (B, C, ...); (B, 2C, ...) for learned variances.
            timesteps: of the chain, shape (B,).
            sample: x_t, shape (B, C, ...).

        Raises:
            ValueError, TypeError: as in `step`.
        """
        self._refresh()
        prediction, _ = self._split_variance(model_output, sample)
        step = self._chain.steps(checks.timesteps(timesteps, len(sample), len(self)), sample)
        original = self._original(prediction, sample, step.scales)
        dtype = torch.promote_types(prediction.dtype, sample.dtype)
        return posterior_mean(original, sample, step.posterior).to(dtype)

    def _noise_std(self, step: Step, predicted_variance: torch.Tensor | None) -> torch.Tensor:
        """Return the standard deviation of the added noise; learned ones from the network's log-variance."""
        if predicted_variance is None or step.is_last is True:
            return step.noise_std
        log_variance = predicted_variance
        if step.log_variances:
            log_variance = learned_log_variance(predicted_variance, *step.log_variances)
        std = torch.exp(0.5 * log_variance)
        return std if step.is_last is False else torch.where(step.is_last, step.noise_std, std)

    def _get_variance(
        self, t: int, predicted_variance: torch.Tensor | None = None, variance_type: str | None = None
    ) -> torch.Tensor:
        """Return the variance of the noise that `step` adds at t; a name that pipelines of diffusers call.

        Always a variance, where DDPMScheduler returns a variance, a standard deviation or a logarithm.
        `predicted_variance` is the second half of the network's output; only learned types use it.
        """
        self._refresh()
        chain, kind = self._chain, self.variance_type
        if variance_type not in (None, kind):
            kind = checks.choice("variance_type", variance_type, VARIANCE_TYPES)
            chain = ReverseChain(self.alphas_cumprod, self._visited, kind)
        predicted = predicted_variance if kind in LEARNED_VARIANCE_TYPES else None
        return self._noise_std(chain.step(chain.index(int(t))), predicted) ** 2

    def _scales_at(self, timesteps: Any, samples: torch.Tensor, noise: torch.Tensor, name: str) -> Scales:
        self._refresh()
        at_t = self._noising.scales_at(timesteps, samples, noise, name)
        if not (torch.compiler.is_compiling() or self._data_seen):
            self._data_seen = True
            self._warn_if_squashed(samples)
        return at_t

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
        at_t = self._scales_at(timesteps, original_samples, noise, "original_samples")
        return add_noise(original_samples, noise, at_t)

    def get_velocity(
        self, sample: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """Return v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0 (Salimans & Ho 2022, sec. 4).

        Arguments and errors as in `add_noise`; `sample` is x_0, as diffusers calls it here.
        """
        return velocity(sample, noise, self._scales_at(timesteps, sample, noise, "sample"))


def _output(prev_sample: torch.Tensor, pred_original_sample: torch.Tensor) -> DDPMSchedulerOutput:
    """Return what the class makes of the two, without its constructor's inspection of the fields."""
    output = DDPMSchedulerOutput.__new__(DDPMSchedulerOutput)
    output["prev_sample"], output["pred_original_sample"] = prev_sample, pred_original_sample
    return output


def _standard_normal(like: torch.Tensor, generator: Any) -> torch.Tensor:
    """Return z ~ N(0, I) of the shape, device and dtype of `like`, drawn as diffusers draws it."""
    if generator is None or (type(generator) is torch.Generator and generator.device == like.device):
        # What torch.randn does, without parsing its arguments.
        return torch.empty_like(like, memory_format=torch.contiguous_format).normal_(generator=generator)
    return randn_tensor(like.shape, generator=generator, device=like.device, dtype=like.dtype)
