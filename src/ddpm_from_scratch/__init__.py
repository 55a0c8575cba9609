"""Denoising diffusion from scratch, inside Hugging Face diffusers.

The public names are imported when they are first asked for, as in diffusers: `import ddpm_from_scratch` alone
loads neither torch nor diffusers.
"""

import importlib
import importlib.util
import sys
import threading
import types
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0.dev0"

if TYPE_CHECKING:
    from .checks import SchedulerWarning
    from .hub.upload import push_folder
    from .learning.calibration import calibrate
    from .networks.denoiser import Denoiser
    from .networks.models import MODEL_CONFIGS, PointDenoiser, build_model, load_model_config, model_config
    from .networks.registry import register_network
    from .pipeline_ddpm_from_scratch import DDPMFromScratchPipeline, DDPMFromScratchPipelineOutput
    from .schedulers.scheduling_ddpm_from_scratch import DDPMFromScratchScheduler
    from .schedulers.scheduling_few_step import FewStepScheduler
    from .words import BETA_SCHEDULES

_HOMES = {
    "BETA_SCHEDULES": "words",
    "MODEL_CONFIGS": "networks.models",
    "DDPMFromScratchPipeline": "pipeline_ddpm_from_scratch",
    "DDPMFromScratchPipelineOutput": "pipeline_ddpm_from_scratch",
    "DDPMFromScratchScheduler": "schedulers.scheduling_ddpm_from_scratch",
    "Denoiser": "networks.denoiser",
    "FewStepScheduler": "schedulers.scheduling_few_step",
    "PointDenoiser": "networks.models",
    "SchedulerWarning": "checks",
    "build_model": "networks.models",
    "calibrate": "learning.calibration",
    "load_model_config": "networks.models",
    "model_config": "networks.models",
    "push_folder": "hub.upload",
    "register_network": "networks.registry",
}
__all__ = [
    "BETA_SCHEDULES",
    "MODEL_CONFIGS",
    "DDPMFromScratchPipeline",
    "DDPMFromScratchPipelineOutput",
    "DDPMFromScratchScheduler",
    "Denoiser",
    "FewStepScheduler",
    "PointDenoiser",
    "SchedulerWarning",
    "build_model",
    "calibrate",
    "load_model_config",
    "model_config",
    "push_folder",
    "register_network",
]


def __getattr__(name: str) -> Any:
    """Return a public name, imported now (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


class _Waiting(types.ModuleType):
    """A module that is there, and loads when one of its names is first asked for.

    Only for names: whoever looks through all modules asks for their files, and must not load this one.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        with _LOADING:  # other threads wait until it is loaded; this one may come again while it loads
            if self.__dict__.pop("_waits", False):
                try:
                    self.__spec__.loader.exec_module(self)  # type: ignore[union-attr]
                except BaseException:
                    self.__dict__["_waits"] = True
                    raise
                _become(types.ModuleType, self)
        if name in self.__dict__:
            return self.__dict__[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def _become(kind: type[types.ModuleType], module: types.ModuleType) -> None:
    module.__class__ = kind


_LOADING = threading.RLock()
# A stock pipeline that was saved with a class of ours names its module: where it is, or where it was in 0.1.
# diffusers takes such a module only if it is there already, so all of them are there from the start.
_NAMED_BY_SAVED_PIPELINES = {
    "models": "networks.models",
    "scheduling_ddpm_from_scratch": "schedulers.scheduling_ddpm_from_scratch",
    "scheduling_few_step": "schedulers.scheduling_few_step",
}
for _earlier, _now in _NAMED_BY_SAVED_PIPELINES.items():
    _spec = importlib.util.find_spec(f"{__name__}.{_now}")
    assert _spec is not None
    _module = importlib.util.module_from_spec(_spec)
    _become(_Waiting, _module)
    _module.__dict__["_waits"] = True
    sys.modules[_spec.name] = sys.modules[f"{__name__}.{_earlier}"] = _module
    _wing, _name = _spec.name.rsplit(".", 1)
    setattr(sys.modules[_wing], _name, _module)  # as an import does
