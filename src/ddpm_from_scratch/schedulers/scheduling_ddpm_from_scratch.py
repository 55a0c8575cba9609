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
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from .. import checks
from ..process.diffusion import LinearStep, learned_log_variance, posterior_mean, to_original
from ..process.estimate import clipped
from ..process.timesteps import check_one_given, checked_timesteps, spaced_timesteps
from ..words import LEARNED_VARIANCE_TYPES, VARIANCE_TYPES
from .reverse_chain import ReverseChain, Step
from .scheduler_base import FromScratchScheduler, standard_normal, step_output
from .scheduler_settings import settings_named, stock_settings


# SchedulerMixin by name: diffusers' loader looks for it in the module of a class.
class DDPMFromScratchScheduler(FromScratchScheduler, SchedulerMixin):
    """Sample by the reverse process of DDPM (Ho et al. 2020, arXiv:2006.11239, algorithm 2).

    x_{t-1} = posterior_mean(x_0 estimate, x_t) + std z,   z ~ N(0, I)

    The first 15 arguments are those of diffusers' DDPMScheduler, with the same order and defaults.

    Args:
        num_train_timesteps: T, the number of noise levels the network was trained on.
        beta_start: first beta of the linear, scaled_linear and sigmoid schedules.
        beta_end: last beta of the same schedules.
        beta_schedule: one of `BETA_SCHEDULES`: "squaredcos_cap_v2" is the cosine; "sigmoid" is in beta, as
            diffusers means it, "sigmoid_alpha_bar" as Jabri et al. 2022 mean it.
        trained_betas: T betas to use instead of a named schedule.
        variance_type: variance of the added noise: "fixed_small" (the posterior's), "fixed_large" (beta), the
            same with "_log", or "learned" / "learned_range" for a network with 2C output channels whose
            second half is a log-variance, or an interpolation between the two fixed ones (Nichol & Dhariwal
            2021, arXiv:2102.09672, eq. 15), or "analytic", from `residuals`: the best fixed ones for few
            steps (Bao et al. 2022, arXiv:2201.06503).
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
        residuals: E|x_0 - x_0_hat|^2 / D at each of the T timesteps, for variance_type "analytic":
            `residual_curve(Denoiser(network, scheduler), samples).tolist()`.

    Raises:
        ValueError, TypeError: an argument that is not allowed, named with the allowed values.
        NotImplementedError: an unknown `beta_schedule`, the error of DDPMScheduler.

    Settings that DDPMScheduler accepts but that are probably not meant give one UserWarning.
    """

    _is_ode_scheduler = False  # read by parallel samplers, as of DDPMParallelScheduler

    @settings_named
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
        residuals: list[float] | None = None,
    ):
        self.one = torch.tensor(1.0, dtype=torch.float32, device="cpu")
        self._start()

    def _make_chain(self, old: ReverseChain | None) -> ReverseChain:
        chain = old if old and old.timesteps == self._visited else self._chain_of(self.variance_type)
        chain.tables_on(self._timesteps.device)  # before a compiled graph asks for them
        return chain

    def _chain_of(self, variance_type: str) -> ReverseChain:
        return ReverseChain(self._alphas_cumprod, self._visited, variance_type, self.config.residuals)

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
        stock = DDPMScheduler.from_config(stock_settings(self.config))
        self._check_kept(stock)
        return stock

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Choose the timesteps that sampling visits, from noisy to clean (see `process/timesteps.py`).

        Args:
            num_inference_steps: n in 1..T.
            device: where `scheduler.timesteps` lives.
            timesteps: strictly falling timesteps in 0..T-1 to visit instead of a spacing.

        Raises:
            ValueError, TypeError: not exactly one of the two, or a value that is not allowed.
        """
        num_train_timesteps, spacing = self.config.num_train_timesteps, self.config.timestep_spacing
        check_one_given(num_inference_steps, timesteps)
        if timesteps is not None:
            visited = checked_timesteps(timesteps, num_train_timesteps, order="falling").tolist()
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
        self.custom_timesteps = timesteps is not None
        self.num_inference_steps = len(visited)
        self._visit(visited, torch.tensor(visited, device="cpu").to(device))

    def previous_timestep(self, timestep: int | torch.Tensor) -> int | torch.Tensor:
        """Return the timestep that the chain visits after `timestep`, or -1 at its end (clean data).

        As in diffusers, a tensor if the chain skips timesteps, and `timestep - 1` if it does not.

        Raises:
            ValueError: `timestep` is not in the chain.
        """
        chain: ReverseChain = self._chain
        index = self._position(chain, timestep)
        if index is None:
            index = chain.index(checks.integer("timestep", timestep, 0, len(self) - 1))
        if len(chain.timesteps) == len(self):
            return timestep - 1
        return self.timesteps[index + 1] if index + 1 < len(chain.timesteps) else torch.tensor(-1)

    def linear_steps(self) -> list[LinearStep]:
        """Return the coefficients of all steps of the chain, for other programs that sample as this one.

        The noise is that of fixed variances; learned ones change it.
        """
        chain: ReverseChain = self._chain
        return [
            LinearStep(
                step.scales.signal.item(),
                step.scales.noise.item(),
                step.posterior.sample.item(),
                (step.posterior.original.item(),),
                step.noise_std.item() if step.adds_noise else 0.0,
            )
            for step in map(chain.step, range(len(chain.timesteps)))
        ]

    def _coefficients(self, timestep: Any, sample: torch.Tensor) -> Step:
        """Return the coefficients of a step: 0-dimensional, or (B, 1, ...) for a batch of timesteps."""
        if torch.compiler.is_compiling():
            chain: ReverseChain = self._made_chain
            if not isinstance(timestep, torch.Tensor):
                timestep = torch.full((1,), timestep, device=sample.device)
            if timestep.numel() not in (1, len(sample)) or timestep.is_floating_point():
                raise ValueError(f"timestep must be one integer or {len(sample)}, one for each sample.")
            return chain.steps(timestep.reshape(-1), sample)
        chain = self._chain
        index = self._position(chain, timestep)
        if index is None:
            return chain.steps(checked_timesteps(timestep, len(self), batch_size=len(sample)), sample)
        if index - 1 != self._last_index:
            self._watch(index, sample)
        self._last_index = index
        return chain.step(index)

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
        prediction, predicted_variance = self._split_variance(model_output, sample)
        if generator is not None and type(generator) is not torch.Generator:
            generator = checks.generator(generator, len(sample))
        step = self._coefficients(timestep, sample)

        config = self.config
        original = clipped(to_original(prediction, sample, step.scales, config.prediction_type), config)
        prev_sample = posterior_mean(original, sample, step.posterior)
        if variance_noise is not None:
            checks.noise_like("variance_noise", variance_noise, "sample", sample)
        if step.adds_noise:
            noise_std = step.noise_std
            if predicted_variance is not None:
                noise_std = self._noise_std(step, predicted_variance)
            noise = standard_normal(prediction, generator) if variance_noise is None else variance_noise
            # In place, PyTorch would round the standard deviation to half precision.
            in_place = variance_noise is None and noise_std.dtype == noise.dtype
            prev_sample += noise.mul_(noise_std) if in_place else noise_std * noise
        if step.noise_std.ndim:  # coefficients of a batch are float32; the caller's dtype stays
            dtype = torch.promote_types(prediction.dtype, sample.dtype)
            prev_sample, original = prev_sample.to(dtype), original.to(dtype)

        if not return_dict:
            return prev_sample, original
        return step_output(prev_sample, original)

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
        prediction, _ = self._split_variance(model_output, sample)
        step = self._chain.steps(checked_timesteps(timesteps, len(self), batch_size=len(sample)), sample)
        config = self.config
        original = clipped(to_original(prediction, sample, step.scales, config.prediction_type), config)
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
        chain, kind = self._chain, self.variance_type
        if variance_type not in (None, kind):
            kind = checks.choice("variance_type", variance_type, VARIANCE_TYPES)
            chain = self._chain_of(kind)
        predicted = predicted_variance if kind in LEARNED_VARIANCE_TYPES else None
        return self._noise_std(chain.step(chain.index(int(t))), predicted) ** 2
