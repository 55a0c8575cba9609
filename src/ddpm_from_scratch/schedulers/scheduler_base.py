"""What the schedulers of this package share: the configuration, the noise schedule, noising, and x_0.

The equations are in `process/diffusion.py`, the schedules in `process/noise_schedules.py`, and what a setting
may be in `scheduler_settings.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, FrozenDict
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

from .. import checks
from ..process.diffusion import Scales, add_noise, scales, velocity
from ..process.estimate import split_variance
from ..process.timesteps import Chain, checked_timesteps
from .calling_pipeline import calling_pipeline
from .clipping_warnings import clips, latents_message, squashed_message
from .noising_table import NoisingTable
from .other_schedulers import OtherConfig
from .scheduler_settings import (
    LOADING_OPTIONS,
    check_alphas_cumprod,
    check_keywords,
    checked_settings,
    schedule_settings,
    tables_from_settings,
    warn_about,
)

# alpha-bar of a last timestep without signal, where the network predicts noise: x_0 needs a division by its
# root. The value of diffusers' other schedulers.
_ZERO_SNR_GUARD = 2.0**-24


def _with_version(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor that counts its changes in place; one made in inference mode does not, so its copy."""
    if not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        return tensor.clone()


class FromScratchScheduler(SchedulerMixin, ConfigMixin):
    """A noise schedule with its tables, ready for a way of sampling.

    Its state is the configuration, `alphas_cumprod` and `timesteps`. Each may be assigned, as pipelines of
    diffusers do: the value is checked, and the tables are made anew at once (`betas` and `alphas` stay those
    of the configuration). A change in place of one of the two tensors is seen by their versions when a table
    is looked up next, and checked and followed then. Writing past PyTorch, by `.data` or a numpy view,
    changes no version and cannot be seen, nor can a graph that is already compiled see a change in place
    before the next call outside of it.

    A subclass registers its settings, calls `_start` at the end of its constructor, chooses timesteps by
    `_visit`, and makes the chain of coefficients in `_make_chain`.
    """

    _compatibles = [e.name for e in KarrasDiffusionSchedulers]
    order = 1
    _visited: list[int]
    _made_chain: Any
    _alphas_version: int | None
    _timesteps_version: int | None

    def _start(self) -> None:
        """Make the tables of the configuration, at the end of the constructor."""
        self.init_noise_sigma = 1.0
        self.custom_timesteps = False
        self.num_inference_steps: int | None = None
        self._warned: set[str] = set()
        self._data_seen = False
        self._last_index: int | None = None
        self._schedule: dict[str, Any] = {}
        self._internal_dict = self.config

    @property
    def config(self) -> FrozenDict:
        """The configuration, as in diffusers; assign settings by `register_to_config`."""
        return self.__dict__["_internal_dict"]

    @property
    def _internal_dict(self) -> FrozenDict:
        """The configuration; diffusers keeps it under this name, and some pipelines assign it."""
        try:
            return self.__dict__["_internal_dict"]
        except KeyError:  # before the constructor has registered it, as diffusers asks by hasattr
            raise AttributeError("_internal_dict") from None

    @_internal_dict.setter
    def _internal_dict(self, config: Mapping[str, Any]) -> None:
        if "_schedule" not in self.__dict__:  # the constructor is at work, and makes the tables at its end
            self.__dict__["_internal_dict"] = config
            return
        # The class is noted as in a stored one, so that others know whose settings these are.
        config = FrozenDict({**config, **self._checked(config), "_class_name": type(self).__name__})
        schedule = schedule_settings(config)
        if schedule == self._schedule:
            self.__dict__["_internal_dict"] = config
            self._make_tables()
            return
        with torch.inference_mode(False), torch.device("cpu"):
            betas, alphas_cumprod = tables_from_settings(config)
            warn_about(config, alphas_cumprod)
        length_before, self._schedule = self._schedule.get("num_train_timesteps"), schedule
        self.__dict__["_internal_dict"] = config
        self.betas, self.alphas = betas, 1.0 - betas
        self._alphas_cumprod = self._guarded(alphas_cumprod)
        if len(self) != length_before:
            self._visited = list(range(len(self)))[::-1]
            with torch.inference_mode(False):
                self._timesteps = torch.tensor(self._visited, device="cpu")
            self._timesteps_version = self._timesteps._version
            self.num_inference_steps, self.custom_timesteps = None, False
        self._make_tables()

    @property
    def alphas_cumprod(self) -> torch.Tensor:
        """alpha-bar of the T timesteps, float32, shape (T,)."""
        return self._alphas_cumprod

    @alphas_cumprod.setter
    def alphas_cumprod(self, value: torch.Tensor) -> None:
        """Check another alpha-bar, and make all tables anew."""
        if value is not self._alphas_cumprod:  # pipelines assign what `.to(device)` returns
            self._use_alphas_cumprod(value)

    def _use_alphas_cumprod(self, value: torch.Tensor) -> None:
        check_alphas_cumprod(value, len(self))
        self._alphas_cumprod = self._guarded(value)
        self._make_tables()

    @property
    def timesteps(self) -> torch.Tensor:
        """The timesteps that sampling visits, from noisy to clean, shape (S,)."""
        return self._timesteps

    @timesteps.setter
    def timesteps(self, value: torch.Tensor | Sequence[int]) -> None:
        """Check other timesteps, and make the chain anew."""
        if value is not self._timesteps:
            self._use_timesteps(value)

    def _use_timesteps(self, value: torch.Tensor | Sequence[int]) -> None:
        visited = checked_timesteps(value, len(self), order="falling")
        self._visit(visited.tolist(), value if isinstance(value, torch.Tensor) else visited)

    def _visit(self, visited: list[int], timesteps: torch.Tensor) -> None:
        """Take timesteps that are checked, as a list and as a tensor."""
        self._see_changed_table()
        self._visited, self._timesteps = visited, _with_version(timesteps)
        self._timesteps_version = self._timesteps._version
        self._made_chain, self._last_index = self._make_chain(self._made_chain), None

    def _make_tables(self) -> None:
        """Make the coefficients of noising and of the chain from the present state."""
        self._made_noising = NoisingTable(self._alphas_cumprod, self._timesteps.device)
        self._made_chain, self._last_index = self._make_chain(None), None
        self._alphas_version = self._alphas_cumprod._version

    def _make_chain(self, old: Any) -> Any:
        """Return the chain through `_visited`; the old one will do for the same timesteps, if it is given."""
        raise NotImplementedError

    @property
    def _chain(self) -> Any:
        """The coefficients of the chain, right for the state."""
        if (
            self._alphas_version != self._alphas_cumprod._version
            or self._timesteps_version != self._timesteps._version
        ):
            self._see_changed_table()
            self._see_changed_timesteps()
        return self._made_chain

    @property
    def _noising(self) -> NoisingTable:
        """The coefficients of noising, right for the state."""
        self._see_changed_table()
        return self._made_noising

    def _see_changed_table(self) -> None:
        """Follow a change of alpha-bar in place."""
        if torch.compiler.is_compiling() or self._alphas_version == self._alphas_cumprod._version:
            return
        # The copy of a tensor has another version and the same values.
        if not torch.equal(self._alphas_cumprod, self._made_noising.alphas_cumprod):
            self._use_alphas_cumprod(self._alphas_cumprod)
        self._alphas_version = self._alphas_cumprod._version

    def _see_changed_timesteps(self) -> None:
        """Follow a change of the timesteps in place, if their values are others."""
        if self._timesteps.tolist() != self._visited:
            self._use_timesteps(self._timesteps)
        self._timesteps_version = self._timesteps._version

    def __getstate__(self) -> dict[str, Any]:
        """Return what is copied and pickled; versions do not go with it, so a copy compares the values."""
        return self.__dict__ | {"_alphas_version": None, "_timesteps_version": None}

    @classmethod
    def _get_compatibles(cls) -> list[type]:
        """Return diffusers' schedulers and this package's: `from_config` passes over their settings."""
        return [*super()._get_compatibles(), *FromScratchScheduler.__subclasses__()]

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **options: Any) -> Any:
        """Return a scheduler with a configuration, as in diffusers; that of another one as that one means it.

        Its process is followed, defaults of its class included, and without a setting `clip_sample` nothing
        is clipped (see `other_schedulers.py`). Keys that this scheduler does not know are kept for others,
        such as the settings of other schedulers. A keyword is meant for this one.

        Args:
            config: of this or of another scheduler for the same process.
            return_unused_kwargs: also return the keys and keywords that are no setting, which are then
                allowed.
            options: settings to change, and diffusers' own options of loading.

        Raises:
            TypeError: a keyword that is neither, with the nearest setting.
            ValueError: a configuration of another process, such as flow matching.
        """
        if not return_unused_kwargs:
            given = {name: value for name, value in options.items() if name not in LOADING_OPTIONS}
            check_keywords(f"{cls.__name__}.from_config", given, cls._get_init_keys(cls) - {"self"})
        config = options.pop("pretrained_model_name_or_path", config)
        if config is not None and not isinstance(config, Mapping):
            config, options = cls.load_config(config, return_unused_kwargs=True, **options)
        if config:
            other = OtherConfig(config, FromScratchScheduler.__subclasses__())
            options = other.settings_for(cls, options) | options
        return super().from_config(config, return_unused_kwargs, **options)

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **options: Any) -> None:
        """Save the configuration; warn if it is that of a pipeline that would load only with this package.

        Args:
            save_directory: the folder.
            push_to_hub: upload it, too.
            options: for the upload.
        """
        pipeline = calling_pipeline("save_pretrained", self)
        # The package's own pipeline goes on to write what loads everywhere.
        if pipeline is not None and type(pipeline).__name__ != "DDPMFromScratchPipeline":
            self._warn_about_latents(pipeline)
            checks.warn(
                f"{type(pipeline).__name__} is saved with {type(self).__name__}, and so loads only where "
                f"ddpm-from-scratch is installed and {type(self).__name__} was imported from it. For "
                "everyone else, save it after "
                "`pipe.scheduler = pipe.scheduler.to_diffusers()`."
            )
        super().save_pretrained(save_directory, push_to_hub, **options)

    def _check_kept(self, stock: Any) -> None:
        """Raise ValueError for an alpha-bar that a stock scheduler of the same settings has not.

        At the last timestep without signal, some have a guard of their own.
        """
        last = -1 if self.config.rescale_betas_zero_snr and len(self) > 1 else None
        if not torch.equal(stock.alphas_cumprod[:last], self.alphas_cumprod[:last].cpu()):
            raise ValueError(
                "alphas_cumprod was assigned, so the settings do not give it, and it would be lost. Make a "
                "scheduler with trained_betas instead."
            )

    def _checked(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings that had to be normalised, after checking all of them.

        Raises:
            ValueError, TypeError, NotImplementedError: a setting that is not allowed.
        """
        return checked_settings(config)

    def __len__(self) -> int:
        """Return T, the number of training timesteps."""
        return self.config.num_train_timesteps

    def scale_model_input(self, sample: torch.Tensor, timestep: int | None = None) -> torch.Tensor:
        """Return `sample` unchanged: the DDPM process needs no scaling of the network's input."""
        return sample

    def _guarded(self, alphas_cumprod: torch.Tensor) -> torch.Tensor:
        """Return alpha-bar with which sqrt(alpha-bar) can be divided by, if the network predicts noise."""
        if self.config.prediction_type != "epsilon" or alphas_cumprod[-1] > 0:
            return _with_version(alphas_cumprod)
        before = float(alphas_cumprod[-2]) if len(self) > 1 else 1.0
        guard = min(_ZERO_SNR_GUARD, before / 2)  # alpha-bar must go on falling
        self._warn_once(
            "zero SNR",
            "no signal is left at the last timestep (zero terminal SNR), where a network that predicts noise "
            f"says nothing about x_0; alpha-bar is set to {guard:.2g} there. Use prediction_type "
            "'v_prediction' or 'sample'.",
        )
        with torch.inference_mode(False):
            guarded = alphas_cumprod.clone()
            guarded[-1] = guard
        return guarded

    def _warn_once(self, topic: str, message: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            checks.warn(message)

    def _position(self, chain: Chain, timestep: Any) -> int | None:
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
        return chain.index(timestep)

    def _place_in_memory(self, timestep: torch.Tensor) -> int | None:
        """Return which element of `timesteps` a tensor is a view of, or None."""
        timesteps = self._timesteps
        if timestep.untyped_storage().data_ptr() != timesteps.untyped_storage().data_ptr():
            return None
        distance = int(timestep.storage_offset()) - int(timesteps.storage_offset())
        index, rest = divmod(distance, timesteps.stride(0))
        return index if rest == 0 and 0 <= index < len(self._visited) else None

    def _watch(self, index: int, sample: torch.Tensor) -> None:
        """Warn once about a walk that skips or repeats timesteps, or starts outside the clipping range."""
        if self._last_index is None:
            if clips(self.config) and "latents" not in self._warned:
                self._warn_about_latents(calling_pipeline("__call__", self))
            self._warn_if_squashed(sample, *scales(self._alphas_cumprod[self._visited[index]]))
        elif index > 0 and self._last_index < len(self._visited) - 1:
            self._warn_once(
                "order",
                f"step was called out of order, for timestep {self._visited[index]} after "
                f"{self._visited[self._last_index]}. A step leads to the next of scheduler.timesteps; "
                "repeating or skipping is right only if the sample was noised again in between.",
            )

    def _warn_about_latents(self, pipeline: Any) -> None:
        """Warn once about clipping in a pipeline that samples latents; `pipeline` may be None."""
        message = latents_message(self.config, pipeline)
        if message:
            self._warn_once("latents", message)

    def _warn_if_squashed(
        self, sample: torch.Tensor, signal: float | torch.Tensor = 1.0, noise: float | torch.Tensor = 0.0
    ) -> None:
        """Warn once if signal * x_0 + noise * z cannot have an x_0 inside the clipping range (CPU only)."""
        if clips(self.config) and "squashed" not in self._warned:
            message = squashed_message(self.config, sample, signal, noise)
            if message:
                self._warn_once("squashed", message)

    def _split_variance(
        self, model_output: torch.Tensor, sample: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the prediction and, for learned variances, the second half of the channels; check both."""
        checks.samples_on_one_device("model_output", model_output, "sample", sample)
        return split_variance(model_output, sample, self.config.variance_type)

    def _scales_at(self, timesteps: Any, samples: torch.Tensor, noise: torch.Tensor, name: str) -> Scales:
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


def step_output(prev_sample: torch.Tensor, pred_original_sample: torch.Tensor) -> DDPMSchedulerOutput:
    """Return what the class makes of the two; its constructor's look at all fields is a tenth of a step."""
    output = DDPMSchedulerOutput.__new__(DDPMSchedulerOutput)
    output["prev_sample"], output["pred_original_sample"] = prev_sample, pred_original_sample
    return output


def standard_normal(like: torch.Tensor, generator: Any) -> torch.Tensor:
    """Return z ~ N(0, I) of the shape, device and dtype of `like`, drawn as diffusers draws it."""
    if generator is None or (type(generator) is torch.Generator and generator.device == like.device):
        # What torch.randn does, without parsing its arguments.
        return torch.empty_like(like, memory_format=torch.contiguous_format).normal_(generator=generator)
    return randn_tensor(like.shape, generator=generator, device=like.device, dtype=like.dtype)
