"""The components of a saved pipeline of either layout; code of it runs only if it is needed and trusted."""

import importlib.util
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..networks.registry import network_classes
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
        options: `HUB_ARGUMENTS` and `NETWORK_OPTIONS`; and trust_remote_code, to run the folder's code of a
            network whose class is not known here. That of others is not run.

    Raises:
        ValueError, TypeError, OSError: as in `DDPMFromScratchPipeline.from_pretrained`.
    """
    where = {name: options.pop(name) for name in HUB_ARGUMENTS if name in options}
    is_trusted = bool(options.pop("trust_remote_code", False))
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
    folder = fetch(name_or_path, variant, subfolder, is_trusted, **where)
    components = {name: component for name, component in given.items() if component is not None}
    known: dict[str, dict[str, type]] = {
        "unet": dict(network_classes()),
        "scheduler": dict.fromkeys(
            ("DDPMFromScratchScheduler", "FewStepScheduler", "DDPMScheduler"), DDPMFromScratchScheduler
        ),
    }
    if is_trusted and "unet" not in components:
        known["unet"] |= _class_in(folder, known["unet"])
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


def _class_in(folder: Path, known: Mapping[str, type]) -> dict[str, type]:
    """Return the class of the network that is defined in a file beside it, if it is one that is not known.

    Raises:
        ValueError: running the file fails, or gives no such class.
    """
    entry = read_json(folder / "model_index.json").get("unet")
    if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)):
        return {}
    file, name = entry
    path = component_folder(folder, "unet") / f"{file}.py"
    if name in known or not re.fullmatch(r"\w+", file) or not path.is_file():
        return {}
    spec = importlib.util.spec_from_file_location(f"ddpm_from_scratch_code_{file}", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    with named(path):
        spec.loader.exec_module(module)
        return {name: getattr(module, name)}


def own_scheduler_class(
    config: Mapping[str, Any],
) -> type[DDPMFromScratchScheduler] | type[FewStepScheduler]:
    """Return which of this package's schedulers a configuration is for."""
    name = config.get("_class_name", "DDPMScheduler")
    is_few = name == "FewStepScheduler" or (name == "DDPMScheduler" and HIDDEN_CALIBRATION in config)
    return FewStepScheduler if is_few else DDPMFromScratchScheduler
