"""FewStepScheduler: samples in 5 to 50 network evaluations, a drop-in for DPMSolverMultistepScheduler.

The step is in `exponential_adams.py`; which timesteps it visits, and with how much noise, comes from a
calibration that is stored in the configuration (`few_step_profile.py`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from .. import checks
from ..process.diffusion import LinearStep, Scales, at_least_float32, to_original
from ..process.estimate import clipped
from ..process.timesteps import Chain, check_one_given, checked_timesteps
from .exponential_adams import few_step, half_log_snrs
from .few_step_profile import (
    HIDDEN_CALIBRATION,
    FewStepPlan,
    check_calibration,
    check_noise_interval,
    choose,
    default_noise_level,
    default_num_steps,
)
from .scheduler_base import FromScratchScheduler, standard_normal, step_output
from .scheduler_settings import dpm_solver_settings, settings_named


class FewStepChain(Chain):
    """The steps of the few-step sampler through `timesteps`, made when they are asked for.

    Args:
        alphas_cumprod: alpha-bar of all T training timesteps, shape (T,).
        plan: the timesteps that are visited, and the noise.
        order: of the predictor.
        corrector_order: of the corrector; below 2 there is none.
    """

    def __init__(
        self,
        alphas_cumprod: torch.Tensor,
        plan: FewStepPlan,
        order: int,
        corrector_order: int,
    ):
        super().__init__(plan.timesteps)
        self.plan = plan
        self._nodes = alphas_cumprod.detach().cpu().double()[plan.timesteps].tolist()
        self._orders = order, corrector_order
        self._noise_levels, self._noise_scale = plan.noise_levels(), plan.noise_scale
        self._steps: dict[tuple[int, int], LinearStep] = {}
        # The corrector takes back a prediction, which went through older estimates.
        self.num_estimates = max(order, corrector_order, order + 1 if corrector_order > 1 else 0)

    def step(self, index: int, num_estimates: int) -> LinearStep:
        """Return the coefficients of the step at a position of the chain, with so many estimates at hand."""
        key = index, num_estimates
        if key not in self._steps:
            step = few_step(self._nodes, index, num_estimates, *self._orders, self._noise_levels)
            self._steps[key] = step._replace(noise_std=self._noise_scale * step.noise_std)
        return self._steps[key]


# SchedulerMixin by name: diffusers' loader looks for it in the module of a class.
class FewStepScheduler(FromScratchScheduler, SchedulerMixin):
    """Sample by exponential Adams steps through calibrated timesteps, with adjustable noise.

    x' = (s'/s) exp(-tau^2 h) x + a' sum_i w_i x0hat_i + s' sqrt(1 - exp(-2 tau^2 h)) z    (see
    `exponential_adams.py`; Lu et al. 2022, arXiv:2211.01095, Zhao et al. 2023, arXiv:2302.04867, Xue et al.
    2023, arXiv:2309.05019)

    solver_order 1 without corrector is DDIM (noise level 0) and DDPM with variance "fixed_small" (1). An
    evaluation of the network that was begun in a half precision stays there; steps are made in float32, with
    coefficients of float64.

    Args:
        num_train_timesteps: T, the number of noise levels the network was trained on.
        beta_start: first beta of the linear, scaled_linear and sigmoid schedules.
        beta_end: last beta of the same schedules.
        beta_schedule: one of those of DDPMFromScratchScheduler.
        trained_betas: T betas to use instead of a named schedule.
        variance_type: "learned" or "learned_range" for a network with 2C output channels, whose second half
            is not used; all others of DDPMFromScratchScheduler mean a network with C. The noise of sampling
            is `noise_level`.
        clip_sample: clip the estimate of x_0 to [-clip_sample_range, clip_sample_range]: for images in
            [-1, 1], not for latents.
        prediction_type: what the network predicts: "epsilon", "sample" (x_0) or "v_prediction".
        thresholding: dynamic thresholding of x_0 (Saharia et al. 2022, arXiv:2205.11487, sec. 2.3) instead of
            clipping.
        dynamic_thresholding_ratio: the quantile of |x_0| it uses, in [0, 1].
        clip_sample_range: half width of the clipping interval.
        sample_max_value: largest threshold of dynamic thresholding.
        rescale_betas_zero_snr: rescale so that no signal is left at T (Lin et al. 2024, arXiv:2305.08891).
        cosine_s: offset s of the cosine schedule.
        max_beta: cap on beta of the schedules defined by alpha-bar.
        sigmoid_start: start of "sigmoid_alpha_bar".
        sigmoid_end: end of "sigmoid_alpha_bar".
        sigmoid_tau: temperature of "sigmoid_alpha_bar".
        scale_betas_by_length: multiply beta_start and beta_end by 1000 / T.
        solver_order: how many estimates of x_0 a step goes through, 1 to 3. 3 is unstable below 20 steps.
        corrector_order: the same of the corrector, 2 or 3; 0 for none.
        noise_level: tau in [0, 1]: 0 follows the probability-flow ODE, 1 adds the noise of ancestral
            sampling; the calibration's if not given.
        noise_interval: the lowest and the highest timestep whose step adds noise; the calibration's, or all,
            if not given. Goes with noise_level.
        noise_scale: factor of the added noise, in [0, 1]. Goes with noise_level, too.
        calibration: timesteps and noise levels (see `few_step_profile.py`), as `calibrate` returns them.

    Raises:
        ValueError, TypeError: an argument that is not allowed, named with the allowed values.
        NotImplementedError: an unknown `beta_schedule`.
    """

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
        clip_sample: bool = False,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        rescale_betas_zero_snr: bool = False,
        cosine_s: float = 0.008,
        max_beta: float = 0.999,
        sigmoid_start: float = -3.0,
        sigmoid_end: float = 3.0,
        sigmoid_tau: float = 1.0,
        scale_betas_by_length: bool = False,
        solver_order: int = 2,
        corrector_order: int = 2,
        noise_level: float | None = None,
        noise_interval: list[int] | None = None,
        noise_scale: float = 1.0,
        calibration: dict[str, Any] | None = None,
    ):
        self._estimates: list[torch.Tensor] = []
        self._begin_index: int | None = None
        self._start()

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **options: Any) -> Any:
        """Return a scheduler with a configuration, as in diffusers; also that of a portable folder.

        There, stock's DDPMScheduler keeps the calibration under a hidden name.

        Args:
            config: of this or of another scheduler for the same process.
            return_unused_kwargs: as in the scheduler that this one is made from.
            options: settings to change, and diffusers' own options.

        Raises:
            TypeError: a keyword that is neither, with the nearest setting.
        """
        if isinstance(config, Mapping) and HIDDEN_CALIBRATION in config:
            config = dict(config)
            options = {"calibration": config.pop(HIDDEN_CALIBRATION)} | options
        return super().from_config(config, return_unused_kwargs, **options)

    def _checked(self, config: Mapping[str, Any]) -> dict[str, Any]:
        settings = super()._checked(config)
        num_train_timesteps = settings.get("num_train_timesteps", config["num_train_timesteps"])
        settings["solver_order"] = checks.integer("solver_order", config["solver_order"], 1, 3)
        settings["corrector_order"] = checks.integer("corrector_order", config["corrector_order"], 0, 3)
        noise_interval, noise_scale = config["noise_interval"], config["noise_scale"]
        if config["noise_level"] is not None:
            checks.real("noise_level", config["noise_level"], 0, 1)
        elif noise_interval is not None or noise_scale != 1:
            raise ValueError(
                f"noise_interval is {noise_interval} and noise_scale {noise_scale}, but "
                "noise_level is not given: give it, too, or leave all to the calibration."
            )
        checks.real("noise_scale", noise_scale, 0, 1)
        check_noise_interval(noise_interval, num_train_timesteps)
        check_calibration(config["calibration"], num_train_timesteps)
        return settings

    def _make_tables(self) -> None:
        self._places = half_log_snrs(self._alphas_cumprod.detach().cpu().double().tolist())
        super()._make_tables()

    def _make_chain(self, old: FewStepChain | None) -> FewStepChain:
        config, count = self.config, len(self._visited)
        if config.noise_level is not None:
            noise = config.noise_level, config.noise_interval, config.noise_scale
            plan = FewStepPlan(self._visited, *noise)
        elif not self.custom_timesteps:
            plan = self._choose(count)._replace(timesteps=self._visited)
        else:
            plan = FewStepPlan(self._visited, default_noise_level(count))
        # The chain of an earlier run with the same settings has its coefficients already.
        if old is not None and old.plan == plan:
            return old
        return FewStepChain(self._alphas_cumprod, plan, config.solver_order, config.corrector_order)

    @property
    def default_num_inference_steps(self) -> int:
        """How many steps a pipeline takes if nobody says."""
        return default_num_steps(len(self))

    def to_diffusers(self) -> DPMSolverMultistepScheduler:
        """Return the DPMSolverMultistepScheduler that is nearest, and warn about what it does not keep.

        Kept are betas, prediction type, clipping to [-1, 1] or thresholding, and solver_order. Without a
        corrector, at order 1 or 2, and with noise_level 0 or 1 in all steps, it samples the same on the same
        timesteps: `pipe(timesteps=scheduler.timesteps_for(n))`. For a number of steps it takes trailing ones.

        Raises:
            ValueError: alphas_cumprod was assigned, which would be lost.
        """
        config, plan = self.config, self._choose(self.default_num_inference_steps)
        if config.noise_level is not None:
            plan = FewStepPlan(plan.timesteps, config.noise_level, config.noise_interval, config.noise_scale)
        settings, lost = dpm_solver_settings(config, plan)
        stock = DPMSolverMultistepScheduler.from_config(settings)
        self._check_kept(stock)
        if lost:
            checks.warn(
                f"DPMSolverMultistepScheduler does not keep {', nor '.join(lost)}: its samples differ from "
                "those of FewStepScheduler."
            )
        return stock

    def _choose(self, count: int) -> FewStepPlan:
        return choose(self.config.calibration, count, self._places)

    def timesteps_for(self, num_inference_steps: int | None) -> list[int]:
        """Return the timesteps of a number of steps, which other schedulers take as `timesteps=[...]`.

        Args:
            num_inference_steps: in 1..T.

        Raises:
            ValueError, TypeError: another number.
        """
        count = checks.integer("num_inference_steps", num_inference_steps, 1, len(self))
        self._see_changed_table()
        return self._choose(count).timesteps

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Choose the timesteps that sampling visits, and forget the estimates of an earlier run.

        Args:
            num_inference_steps: n in 1..T; timesteps and noise level come from the calibration.
            device: where `scheduler.timesteps` lives.
            timesteps: strictly falling timesteps in 0..T-1 to visit instead.

        Raises:
            ValueError, TypeError: not exactly one of the two, or a value that is not allowed.
        """
        check_one_given(num_inference_steps, timesteps)
        if timesteps is not None:
            visited = checked_timesteps(timesteps, len(self), order="falling").tolist()
        else:
            visited = self.timesteps_for(num_inference_steps)
            if self.config.calibration is None:
                self._warn_once(
                    "no calibration",
                    "the scheduler has no calibration, so its timesteps are those that are good for most "
                    "networks. ddpm_from_scratch.calibrate finds better ones for this network.",
                )
        self.custom_timesteps = timesteps is not None
        self.num_inference_steps = len(visited)
        self._begin_index = None
        self._visit(visited, torch.tensor(visited, device="cpu").to(device))

    @property
    def begin_index(self) -> int | None:
        """The index that a pipeline said it begins at; the timestep given to `step` decides."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Take note of the index of the first timestep, which image-to-image pipelines call."""
        self._begin_index = checks.integer("begin_index", begin_index, 0)

    @property
    def step_index(self) -> int | None:
        """The index of the timestep that is next; None before the first step."""
        return None if self._last_index is None else self._last_index + 1

    def linear_steps(self) -> list[LinearStep]:
        """Return the coefficients of all steps of the chain, for other programs that sample as this one."""
        chain: FewStepChain = self._chain
        count = len(chain.timesteps)
        return [chain.step(index, min(index + 1, chain.num_estimates)) for index in range(count)]

    def _index(self, chain: FewStepChain, timestep: Any) -> int:
        """Return where in the chain a timestep is."""
        index = self._position(chain, timestep)
        if index is not None:
            return index
        values = torch.as_tensor(timestep).reshape(-1)
        if not values.numel() or bool((values != values[0]).any()):
            raise ValueError(
                f"timestep is {timestep!r}, but must be one integer: all samples of a batch take the same "
                "steps, because each uses the estimates of the steps before."
            )
        return chain.index(int(values[0]))

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
        variance_noise: torch.Tensor | None = None,
    ) -> DDPMSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """Return a sample of the next (less noisy) timestep; after the last one, clean data.

        The estimates of the steps before are kept in the scheduler. A step that does not follow the one
        before begins anew, without them.

        Args:
            model_output: network output, shape (B, C, ...); (B, 2C, ...) for learned variances.
            timestep: t, one of `scheduler.timesteps`.
            sample: x_t, shape (B, C, ...).
            generator: source of the noise; a list has one for each sample.
            return_dict: return a DDPMSchedulerOutput instead of (prev_sample, pred_original_sample).
            variance_noise: z ~ N(0, I) to use instead of drawing it, shape of `sample`.

        Raises:
            ValueError, TypeError: a timestep that is not in the chain, a wrong shape or kind.
        """
        prediction, _ = self._split_variance(model_output, sample)
        if generator is not None and type(generator) is not torch.Generator:
            generator = checks.generator(generator, len(sample))
        if variance_noise is not None:
            checks.noise_like("variance_noise", variance_noise, "sample", sample)
        chain: FewStepChain = self._chain
        index = self._index(chain, timestep)
        if index - 1 != self._last_index:
            self._watch(index, sample)
            self._estimates = []
        elif self._estimates and self._estimates[0].shape != sample.shape:
            raise ValueError(
                f"sample has shape {tuple(sample.shape)}, but that of the step before had "
                f"{tuple(self._estimates[0].shape)}: call set_timesteps before another run."
            )
        self._last_index = index
        dtype, sample, prediction = sample.dtype, at_least_float32(sample), at_least_float32(prediction)

        step = chain.step(index, min(len(self._estimates) + 1, chain.num_estimates))
        config, at_t = self.config, Scales(step.signal, step.noise)
        original = clipped(to_original(prediction, sample, at_t, config.prediction_type), config)
        self._estimates = [original, *self._estimates[: chain.num_estimates - 1]]
        if index == len(chain.timesteps) - 1:
            self._estimates = []
            prev_sample = original.clone()
        else:
            prev_sample = sample * step.sample
            for estimate, factor in zip(self._estimates, step.estimates, strict=False):
                prev_sample.add_(estimate, alpha=factor)
            if step.noise_std:
                noise = standard_normal(sample, generator) if variance_noise is None else variance_noise
                prev_sample.add_(noise, alpha=step.noise_std)

        prev_sample, original = prev_sample.to(dtype), original.to(dtype)
        if not return_dict:
            return prev_sample, original
        return step_output(prev_sample, original)
