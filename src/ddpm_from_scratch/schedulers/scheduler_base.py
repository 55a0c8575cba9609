"""What the schedulers of this package share: the configuration, the noise schedule, noising, and x_0.

The equations are in `diffusion.py`, the schedules in `noise_schedules.py`, and what a setting may be in
`scheduler_settings.py`.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Set
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

from .. import checks
from ..process.diffusion import Scales, add_noise, scales, to_original, velocity
from ..process.estimate import clipped, split_variance
from ..process.timesteps import Chain, checked_timesteps
from .noising_table import NoisingTable
from .scheduler_settings import (
    check_alphas_cumprod,
    checked_settings,
    schedule_settings,
    tables_from_settings,
    warn_about,
)

# alpha-bar of a last timestep without signal, where the network predicts noise: x_0 needs a division by its
# root. The value of diffusers' other schedulers.
_ZERO_SNR_GUARD = 2.0**-24

# Data further out than this many clipping ranges, plus this many standard deviations of noise, are squashed.
_FAR_OUTSIDE = 2.0
_LARGEST_NOISE = 8.0


# What `load_config` of diffusers takes to find a configuration. It takes these and keeps silent about others.
_LOADING_OPTIONS = (
    "pretrained_model_name_or_path", "return_commit_hash", "cache_dir", "local_dir", "local_dir_use_symlinks",
    "force_download", "proxies", "token", "local_files_only", "revision", "mirror", "subfolder", "user_agent",
)  # fmt: skip


def settings_named(init: Callable[..., None]) -> Callable[..., None]:
    """Return a constructor that answers an unknown keyword with a TypeError and the nearest setting."""
    settings = inspect.signature(init).parameters.keys() - {"self"}

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **options: Any) -> None:
        _check_keywords(type(self).__name__, options, settings)
        init(self, *args, **options)

    return checked


def _check_keywords(name: str, options: Mapping[str, Any], settings: Set[str]) -> None:
    # A configuration keeps its own notes under names with an underscore: Scheduler(**scheduler.config) works.
    checks.keywords(name, [option for option in options if not option.startswith("_")], settings)


class FromScratchScheduler(SchedulerMixin, ConfigMixin):
    """A noise schedule with its tables, ready for a way of sampling.

    A subclass registers its settings, calls `_start` at the end of its constructor, chooses timesteps by
    `_visit`, and makes the chain of coefficients in `_make_chain`.
    """

    _compatibles = [e.name for e in KarrasDiffusionSchedulers]
    order = 1
    _chain: Chain

    def _start(self) -> None:
        """Make the tables of the configuration, at the end of the constructor."""
        self.init_noise_sigma = 1.0
        self.custom_timesteps = False
        self.num_inference_steps: int | None = None
        self._warned: set[str] = set()
        self._data_seen = False
        self._schedule: dict[str, Any] = {}
        self._visited: list[int] = []
        self._prepared_for: tuple[Any, Any, Any] = (None, None, None)
        self._refresh()

    @classmethod
    def _get_compatibles(cls) -> list[type]:
        """Return diffusers' schedulers and this package's: `from_config` passes over their settings."""
        return [*super()._get_compatibles(), *FromScratchScheduler.__subclasses__()]

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **options: Any) -> Any:
        """Return a scheduler with a configuration, as in diffusers.

        Keys of `config` that this scheduler does not know are kept for others, such as the settings of other
        schedulers. A keyword is meant for this one.

        Args:
            config: of this or of another scheduler for the same process.
            return_unused_kwargs: also return the keys and keywords that are no setting, which are then
                allowed.
            options: settings to change, and diffusers' own options of loading.

        Raises:
            TypeError: a keyword that is neither, with the nearest setting.
        """
        if not return_unused_kwargs:
            given = {name: value for name, value in options.items() if name not in _LOADING_OPTIONS}
            _check_keywords(f"{cls.__name__}.from_config", given, cls._get_init_keys(cls) - {"self"})
        return super().from_config(config, return_unused_kwargs, **options)

    def _make_chain(self, device: torch.device, *, same_tables: bool) -> None:
        """Set `_chain` to the chain through `_visited`; the old one will do if nothing has changed."""
        raise NotImplementedError

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

    def scale_model_input(self, sample: torch.Tensor, timestep: int | None = None) -> torch.Tensor:
        """Return `sample` unchanged: the DDPM process needs no scaling of the network's input."""
        return sample

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
            visited = checked_timesteps(self.timesteps, len(self), order="falling").tolist()
            if not isinstance(self.timesteps, torch.Tensor):
                self.timesteps = torch.tensor(visited, device="cpu")
            self._visit(visited, self.timesteps)
        device = self.timesteps.device
        if not same_tables:
            self._noising = NoisingTable(self.alphas_cumprod, device)
        self._make_chain(device, same_tables=same_tables)
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
        self._prediction_type: str = self.config.prediction_type

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

    def _watch(self, index: int, sample: torch.Tensor) -> None:
        """Warn once about a walk that skips or repeats timesteps, or starts outside the clipping range."""
        if self._last_index is None:
            self._warn_if_squashed(sample, *scales(self.alphas_cumprod[self._visited[index]]))
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
        config = self.config
        if not config.clip_sample or config.thresholding or not sample.is_cpu or not sample.numel():
            return
        try:
            largest = float(sample.detach().abs().amax())
            limit = _FAR_OUTSIDE * config.clip_sample_range * float(signal) + _LARGEST_NOISE * float(noise)
        except RuntimeError:  # inside vmap or with fake tensors there are no values
            return
        if largest > limit:
            self._warn_once(
                "squashed",
                f"the data reach {largest:.3g}, but clip_sample=True clips every estimate of x_0 to "
                f"[-{config.clip_sample_range:g}, {config.clip_sample_range:g}], so samples cannot look like "
                "them. Set clip_sample=False (right for latents and standardised data), or scale the data.",
            )

    def _split_variance(
        self, model_output: torch.Tensor, sample: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the prediction and, for learned variances, the second half of the channels; check both."""
        checks.samples("sample", sample)
        checks.samples("model_output", model_output)
        checks.same_device("model_output", model_output, "sample", sample)
        return split_variance(model_output, sample, self.config.variance_type)

    def _original(self, prediction: torch.Tensor, sample: torch.Tensor, at_t: Scales) -> torch.Tensor:
        """Return the estimate of x_0, clipped or thresholded."""
        return clipped(to_original(prediction, sample, at_t, self._prediction_type), self.config)

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


def standard_normal(like: torch.Tensor, generator: Any) -> torch.Tensor:
    """Return z ~ N(0, I) of the shape, device and dtype of `like`, drawn as diffusers draws it."""
    if generator is None or (type(generator) is torch.Generator and generator.device == like.device):
        # What torch.randn does, without parsing its arguments.
        return torch.empty_like(like, memory_format=torch.contiguous_format).normal_(generator=generator)
    return randn_tensor(like.shape, generator=generator, device=like.device, dtype=like.dtype)
