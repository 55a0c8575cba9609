"""What the configuration of another scheduler means here: its process is followed, or refused by name.

A configuration says how the network was trained (the process: betas, what is predicted, whether estimates of
x_0 are clipped), and how its scheduler samples (order, spacing, which a swap replaces). diffusers passes over
keys of others, and over values that were its class's defaults, in silence; here that holds for sampling only.
"""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import diffusers
from diffusers.configuration_utils import FrozenDict
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.import_utils import DummyObject

from .. import checks
from ..process.noise_schedules import alphas_cumprod_from_betas, betas_for_schedule, given_betas

# What a network was trained with; a default of the other class is as much a part of it as what was given.
_PROCESS = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type",
    "rescale_betas_zero_snr", "clip_sample",
)  # fmt: skip
# Which noise levels a sampler visits, in ways that this package has not.
_SPACINGS = (
    "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "sigma_min",
    "sigma_max", "final_sigmas_type",
)  # fmt: skip
# A key that only such a process has -> its name.
_OTHER_PROCESSES = {
    "shift": "flow matching",
    "s_noise": "flow matching or a consistency model",
    "sigma_data": "EDM or a consistency model",
    "sampling_eps": "a stochastic differential equation in continuous time",
    "scaler": "Würstchen, in continuous time",
    "num_vec_classes": "discrete diffusion",
    "mask_token_id": "discrete diffusion",
}
_WHAT_TO_DO = (
    "This scheduler is for x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps with T betas. "
    "Keep the pipeline's scheduler, or give the configuration that the network was trained with."
)


def scheduler_class(name: Any, own: Iterable[type] = ()) -> type | None:
    """Return the scheduler of a name, one of `own` or of diffusers; None if there is none, or not here."""
    known = {kind.__name__: kind for kind in own}
    found = known.get(name) if isinstance(name, str) else None
    if found is None and isinstance(name, str) and name.endswith("Scheduler"):
        found = getattr(diffusers, name, None)
    if not isinstance(found, type) or isinstance(found, DummyObject):
        return None
    return found if issubclass(found, SchedulerMixin) else None


def defaults_of(kind: type | None) -> dict[str, Any]:
    """Return the settings of a scheduler with their defaults."""
    if kind is None:
        return {}
    parameters = list(inspect.signature(kind).parameters.values())
    return {parameter.name: parameter.default for parameter in parameters}


class OtherConfig:
    """The configuration of any scheduler, read as that scheduler reads it.

    Args:
        config: it. It names its class if it was stored, and is whole if it was stored or is a scheduler's;
            a dictionary of a few settings is neither.
        own: the schedulers of this package.
    """

    def __init__(self, config: Mapping[str, Any], own: Iterable[type] = ()):
        self.config, self.name, self._own = config, config.get("_class_name"), tuple(own)
        self.kind = scheduler_class(self.name, self._own)
        self._defaults = defaults_of(self.kind)
        self.whole = (
            isinstance(config, FrozenDict) or "_use_default_values" in config or self.name is not None
        )
        self._values = self._defaults | dict(config)
        self._unset = {*config.get("_use_default_values", ()), *(self._values.keys() - config.keys())}

    def get(self, key: str) -> Any:
        """Return the value of one of the scheduler's own settings; those of others count as None.

        Without a class whose settings are known, each key counts.
        """
        return self._values.get(key) if self.kind is None or key in self._defaults else None

    def refuse_other_process(self) -> None:
        """Raise ValueError, with its name, for a process that is not noising by betas.

        Raises:
            ValueError: flow matching, EDM, consistency models, continuous time, discrete diffusion.
        """
        what = self.name if isinstance(self.name, str) else "a scheduler"
        said = [key for key in _OTHER_PROCESSES if key in self._values]
        has_betas = "beta_schedule" in (self._defaults if self.kind else self._values)
        if not has_betas and (self.whole or said):
            process = f" ({_OTHER_PROCESSES[said[0]]})" if said else ""
            keys = ", ".join(said or (key for key in self._values if not key.startswith("_")))
            raise ValueError(
                f"the configuration of {what} has {keys} and no beta_schedule: it is of another "
                f"process{process}. {_WHAT_TO_DO}"
            )
        refused = {
            "use_flow_sigmas": (self.get("use_flow_sigmas"), "flow matching"),
            "timestep_scaling": (self.get("timestep_scaling") is not None, "a consistency model"),
            "timestep_type": (
                self.get("timestep_type") == "continuous" and self.get("prediction_type") == "v_prediction",
                "EDM with v",
            ),
        }
        for key, (is_other, process) in refused.items():
            if is_other:
                raise ValueError(
                    f"the configuration of {what} has {key} {self.get(key)!r}: it is of another process "
                    f"({process}). {_WHAT_TO_DO}"
                )

    def settings_for(self, scheduler: type, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings that one of this package's schedulers needs, beyond keys of the same name.

        Args:
            scheduler: its class.
            given: what the caller gives as keywords, which wins.

        Raises:
            ValueError: another process, or prediction_type and predict_epsilon that contradict each other.
        """
        self.refuse_other_process()
        ours, settings = defaults_of(scheduler), {}
        if self.whole:
            settings = {
                key: self._values[key]
                for key in _PROCESS
                if key in self._unset and key in self._values and self._values[key] != ours.get(key)
            }
            # Such a scheduler clips nothing; those of CogVideoX have the key and do not read it.
            if "clip_sample" not in self._values or self.get("snr_shift_scale") is not None:
                settings["clip_sample"] = False
        if "prediction_type" not in given:
            settings |= self._prediction_type()
        if self.get("snr_shift_scale") not in (None, 1):
            settings["trained_betas"] = self._shifted_betas(self.get("snr_shift_scale"))
        not_followed = [key for key in _SPACINGS if self.get(key) not in (None, False, "zero")]
        if not_followed:
            said = ", ".join(f"{key}={self.get(key)!r}" for key in not_followed)
            checks.warn(
                f"{scheduler.__name__} does not follow {said}: it chooses noise levels of another sampler, "
                "and this one visits timesteps of its own. Leave it out, or give set_timesteps others."
            )
        return settings

    def _prediction_type(self) -> dict[str, str]:
        """Return what predict_epsilon says, the key of configurations older than prediction_type."""
        old = self.config.get("predict_epsilon")
        new = None if "prediction_type" in self._unset else self.config.get("prediction_type")
        # True was the default, and says nothing beside the newer key; this package has followed it once.
        if old is None or old or new == "sample" or self.kind in self._own:
            return {}
        if new is not None:
            raise ValueError(
                f"prediction_type is {new!r}, but predict_epsilon is {old!r}, which means 'sample' in old "
                "configurations: give prediction_type as a keyword, whichever the network was trained with."
            )
        return {"prediction_type": "sample"}

    def _shifted_betas(self, shift: float) -> list[float]:
        """Return the betas of CogVideoX, whose signal-to-noise ratio is shifted.

        alpha_bar' = alpha_bar / (s + (1 - s) alpha_bar), so that SNR' = SNR / s
                                                    (Yang et al. 2024, arXiv:2408.06072, code release)
        """
        values, length = self._values, self._values["num_train_timesteps"]
        if values.get("trained_betas") is not None:
            betas = given_betas(values["trained_betas"], length)
        else:
            betas = betas_for_schedule(
                values["beta_schedule"], length, values["beta_start"], values["beta_end"]
            )
        table = alphas_cumprod_from_betas(betas.double())
        table = table / (shift + (1 - shift) * table)
        return [1 - float(table[0]), *(1 - table[1:] / table[:-1]).tolist()]


def check_process(process: Any) -> None:
    """Check that a scheduler is one that the equations of this package are for.

    Args:
        process: of this package, of diffusers, or any object with `alphas_cumprod`.

    Raises:
        ValueError: a scheduler of diffusers for another process, by its name.
        TypeError: no alphas_cumprod.
    """
    name, config = type(process).__name__, getattr(process, "config", None)
    if isinstance(config, Mapping) and scheduler_class(name) is type(process):
        OtherConfig({**config, "_class_name": name}).refuse_other_process()
    if not hasattr(process, "alphas_cumprod"):
        raise TypeError(
            f"the process is {name}, which has no alphas_cumprod; give a scheduler of this package, or one "
            "of diffusers for the same process (DDPMScheduler, DDIMScheduler, ...)."
        )
