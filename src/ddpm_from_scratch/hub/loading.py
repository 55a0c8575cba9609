"""The components of a saved pipeline of either layout, loaded without running any code of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..networks.guided_unet import GuidedUNet2DModel
from ..networks.lucidrains_unet import LucidrainsUnet
from ..networks.models import PointDenoiser
from ..schedulers.few_step_profile import HIDDEN_CALIBRATION
from ..schedulers.scheduling_ddpm_from_scratch import DDPMFromScratchScheduler
from ..schedulers.scheduling_few_step import FewStepScheduler
from .safe_loading import HUB_ARGUMENTS, check_pipeline, component_folder, fetch, named, read_json

# Options of `ModelMixin.from_pretrained` that are passed on.
NETWORK_OPTIONS = (
    "dtype", "torch_dtype", "low_cpu_mem_usage", "device_map", "max_memory", "offload_folder",
    "offload_state_dict", "disable_mmap", "quantization_config",
)  # fmt: skip


def load_components(
    name_or_path: str | Path,
    given: Mapping[str, Any],
    variant: str | None,
    subfolder: str | None,
    options: dict[str, Any],
) -> tuple[dict[str, Any], Path]:
    """Return the components of a pipeline by name, and its index.

    Configurations, sizes and every number of the weights are checked first (see safe_loading.py).

    Args:
        name_or_path: a folder or a repository's id.
        given: components that are not loaded; None for those that are.
        variant: of the weights.
        subfolder: the folder inside that holds the pipeline.
        options: `HUB_ARGUMENTS` and `NETWORK_OPTIONS`; trust_remote_code is taken and not needed.

    Raises:
        ValueError, TypeError, OSError: as in `DDPMFromScratchPipeline.from_pretrained`.
    """
    where = {name: options.pop(name) for name in HUB_ARGUMENTS if name in options}
    options.pop("trust_remote_code", None)
    options.pop("use_safetensors", None)
    unknown = set(options) - set(NETWORK_OPTIONS)
    if unknown:
        raise TypeError(
            f"from_pretrained got {sorted(unknown)}, but takes {[*HUB_ARGUMENTS, *NETWORK_OPTIONS]}; "
            "for other options use DiffusionPipeline.from_pretrained."
        )
    for name in ("dtype", "torch_dtype"):
        if isinstance(options.get(name), dict):
            options[name] = options[name].get("unet", options[name].get("default"))
    folder = fetch(name_or_path, variant, subfolder, **where)
    components = {name: component for name, component in given.items() if component is not None}
    known: dict[str, dict[str, type]] = {
        "unet": {kind.__name__: kind for kind in (PointDenoiser, GuidedUNet2DModel, LucidrainsUnet)},
        "scheduler": dict.fromkeys(
            ("DDPMFromScratchScheduler", "FewStepScheduler", "DDPMScheduler"), DDPMFromScratchScheduler
        ),
    }
    kinds = check_pipeline(folder, known, variant, tuple(components))
    if "scheduler" in kinds:
        where_it_is, kind = component_folder(folder, "scheduler"), kinds["scheduler"]
        path = where_it_is / "scheduler_config.json"
        if kind is DDPMFromScratchScheduler:
            kind = own_scheduler_class(read_json(path))
        with named(path):
            components["scheduler"] = kind.from_pretrained(str(where_it_is))
    if "unet" in kinds:
        options |= {"variant": variant, "use_safetensors": True}
        components["unet"] = kinds["unet"].from_pretrained(str(component_folder(folder, "unet")), **options)
    return components, folder / "model_index.json"


def own_scheduler_class(
    config: Mapping[str, Any],
) -> type[DDPMFromScratchScheduler] | type[FewStepScheduler]:
    """Return which of this package's schedulers a configuration is for."""
    name = config.get("_class_name", "DDPMScheduler")
    is_few = name == "FewStepScheduler" or (name == "DDPMScheduler" and HIDDEN_CALIBRATION in config)
    return FewStepScheduler if is_few else DDPMFromScratchScheduler
