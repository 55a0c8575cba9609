"""The two layouts of a saved pipeline, both for machines without this package.

- "portable": the index names diffusers' own classes, so that `DiffusionPipeline.from_pretrained(folder)`
  works with diffusers alone and runs nothing of the folder. The pipeline's `__init__` turns the stock
  scheduler back into ours when the package loads the same folder. Class-conditional networks go into
  ConsistencyModelPipeline, which passes labels to any network and takes any scheduler. It knows no guidance;
  null label and names are kept under names with an underscore, which stock passes over in silence.
- "remote-code": for what stock classes cannot run. The index names classes in files beside it;
  `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` runs those. The package itself loads
  such a folder without running anything of it.

In both, pipeline.py is the whole pipeline as one file (see code_file.py).
"""

import importlib
import inspect
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers

from .. import checks
from ..networks.registry import OWN_NETWORKS, is_foreign
from ..schedulers.few_step_profile import HIDDEN_CALIBRATION
from ..schedulers.scheduler_settings import stock_settings
from ..words import LAYOUTS

# Class -> the module that defines it; its last part is the name of the file in a component's folder, which
# repositories of earlier versions have, too.
CODE_MODULES = {
    "DDPMFromScratchScheduler": "schedulers.scheduling_ddpm_from_scratch",
    "FewStepScheduler": "schedulers.scheduling_few_step",
    **{kind.__name__: f"networks.{file}" for file, kind in OWN_NETWORKS.items()},
}
# Schedulers that go into the portable layout as a stock DDPMScheduler.
OWN_SCHEDULERS = ("DDPMFromScratchScheduler", "FewStepScheduler")
# What the pipeline knows of classes. In the portable layout each has an underscore before its name.
_CLASS_SETTINGS = ("null_class_label", "id2label")
# The first words of every file of code that a saved pipeline brings along.
HEADER = "# ddpm-from-scratch"
PIPELINE_MODULE = "pipeline_ddpm_from_scratch"
# Schedulers of diffusers with which stock DDPMPipeline samples as ours does: it passes a generator, and
# neither scales what the network sees nor the first noise.
STOCK_PIPELINE_SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "SASolverScheduler",
)


def choose_layout(layout: str | None, unet: Any, scheduler: Any) -> str:
    """Return the layout to save in: the portable one where stock classes can run the pipeline, if not given.

    Raises:
        ValueError: an unknown layout, the portable one for what stock classes cannot run, or a network that
            could not be built again. TypeError: a network that cannot be saved.
    """
    if is_foreign(type(unet)) and "_code_file" not in vars(type(unet)):
        _of_the_package("own_networks").check_own_network(unet)
    if layout is not None:
        checks.choice("layout", layout, LAYOUTS)
    portable = stock_pipeline(unet, scheduler) is not None
    if layout == "portable" and not portable:
        raise ValueError(
            "layout is 'portable', but stock diffusers cannot run this pipeline: it needs a UNet2DModel of 1 "
            "or 3 channels, square pictures if it is class-conditional, no other conditions, and a schedule "
            f"that DDPMScheduler can express or one of {STOCK_PIPELINE_SCHEDULERS}. Use 'remote-code'."
        )
    return layout or ("portable" if portable else "remote-code")


def stock_pipeline(unet: Any, scheduler: Any) -> str | None:
    """Return the pipeline of diffusers that gives the images of ours with this network and this scheduler.

    DDPMPipeline passes no labels. ConsistencyModelPipeline passes those of classes, and draws squares only.
    Both know only UNet2DModel, and make pictures of 1 or 3 channels. Classes are compared by name, because a
    class that was loaded from a repository is another object each time.

    Returns:
        Its name, or None.
    """
    if type(unet) is not diffusers.UNet2DModel or unet.config.in_channels not in (1, 3):
        return None
    if unet.config.class_embed_type is not None:
        return None
    has_classes = unet.config.num_class_embeds is not None
    if has_classes and not isinstance(unet.config.sample_size, int):
        return None
    name = type(scheduler).__name__
    if name in OWN_SCHEDULERS:
        runs = _is_stock_expressible(scheduler)
    else:
        is_of_diffusers = getattr(diffusers, name, None) is type(scheduler)
        learns_variance = unet.config.out_channels != unet.config.in_channels
        runs = is_of_diffusers and name in STOCK_PIPELINE_SCHEDULERS and not learns_variance
    if not runs:
        return None
    return "ConsistencyModelPipeline" if has_classes else "DDPMPipeline"


def _is_stock_expressible(scheduler: Any) -> bool:
    try:
        stock_settings(scheduler.config)
    except ValueError:
        return False
    return True


def stock_scheduler_config(scheduler: Any) -> dict[str, Any]:
    """Return a configuration with which stock DDPMScheduler has the same betas and samples the same.

    Keys that only this package knows are kept where they differ from their default: stock ignores them, with
    a warning, and ours finds them again. A calibration, be it null, says that it was a FewStepScheduler.

    Raises:
        ValueError: stock cannot express it (see `scheduler_settings.stock_settings`).
    """
    config = dict(scheduler.config)
    stock = stock_settings(config)
    parameters = inspect.signature(type(scheduler).__init__).parameters
    own = {
        name: config[name]
        for name, parameter in parameters.items()
        if name not in stock and name in config and config[name] != parameter.default
    }
    if type(scheduler).__name__ == "FewStepScheduler":
        own.pop("calibration", None)
        own[HIDDEN_CALIBRATION] = config["calibration"]
    header = {"_class_name": "DDPMScheduler", "_diffusers_version": config.get("_diffusers_version")}
    return header | stock | own


def class_settings(index: Mapping[str, Any]) -> dict[str, Any]:
    """Return null label and names of classes, of which either may be None, from an index of either layout."""
    return {name: index.get(f"_{name}", index.get(name)) for name in _CLASS_SETTINGS}


def complete(folder: Path, layout: str, pipeline_class: type, components: dict[str, Any]) -> None:
    """Make what `DiffusionPipeline.save_pretrained` wrote into a folder that loads everywhere.

    Args:
        folder: where it was saved.
        layout: as `choose_layout` returned it.
        pipeline_class: the pipeline's class.
        components: by name: the network and the scheduler.
    """
    scheduler = components["scheduler"]
    index = _read(folder / "model_index.json")
    for name in ("_name_or_path", *(f"_{name}" for name in _CLASS_SETTINGS)):
        index.pop(name, None)  # notes of where the pipeline came from
    if layout == "portable":
        index["_class_name"] = stock_pipeline(components["unet"], scheduler)
        for name in _CLASS_SETTINGS:
            value = index.pop(name, None)
            if value is not None:
                index[f"_{name}"] = value
        if type(scheduler).__name__ in OWN_SCHEDULERS:
            index["scheduler"] = ["diffusers", "DDPMScheduler"]
            _write(folder / "scheduler" / "scheduler_config.json", stock_scheduler_config(scheduler))
    else:
        index["_class_name"] = ["pipeline", pipeline_class.__name__]
    for name, component in components.items():
        kind = type(component)
        for old in (folder / name).glob("*.py"):  # of an earlier save in the other layout
            if old.read_text(errors="replace").startswith(HEADER):
                old.unlink()
        file, code = _code_beside(kind) if layout == "remote-code" else ("", None)
        if code is not None:
            (folder / name / f"{file}.py").write_text(code)
            index[name] = [file, kind.__name__]
        _forget_where_it_came_from(folder / name / "config.json")
        _drop_earlier_weights(folder / name)
    _write(folder / "model_index.json", index)
    (folder / "pipeline.py").write_text(code_of(pipeline_class, PIPELINE_MODULE))


def _code_beside(kind: type) -> tuple[str, str | None]:
    """Return the name of the file for the class of a component, and its text; None for what needs none."""
    module, loaded = CODE_MODULES.get(kind.__name__), vars(kind).get("_code_file")
    if module is not None:
        return module.rsplit(".", 1)[-1], code_of(kind, module)
    if not is_foreign(kind):
        return "", None
    own = _of_the_package("own_networks") if loaded is None else None
    return file_of(kind), loaded if own is None else own.code_of_own_network(kind)


def file_of(kind: type) -> str:
    """Return the name of the file, without its ending, for a class of one's own: my_net for MyNet."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", kind.__name__).lower()


def _forget_where_it_came_from(path: Path) -> None:
    """Drop the folder that a network was loaded from out of its configuration."""
    if path.is_file():
        config = _read(path)
        if config.pop("_name_or_path", None) is not None:
            _write(path, config)


def _drop_earlier_weights(folder: Path) -> None:
    """Drop what an earlier save with another shard size left: diffusers leaves the index of old shards."""
    for index in folder.glob("*.safetensors.index*.json"):
        shards = {folder / name for name in _read(index)["weight_map"].values()}
        # name.safetensors.index.variant.json -> name.variant.safetensors
        single = folder / re.sub(r"\.safetensors\.index(.*)\.json$", r"\1.safetensors", index.name)
        if not all(shard.is_file() for shard in shards):
            index.unlink()
        elif single.is_file():
            single.unlink()


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def code_of(kind: type, module: str) -> str:
    """Return the code file that defines a class: made anew, or the one that the class was loaded from."""
    loaded = getattr(kind, "_code_file", None)
    return _of_the_package("code_file").code_file(module) if loaded is None else loaded


def package_push_folder() -> Callable[..., str]:
    """Return the package's `push_folder`."""
    return _of_the_package("upload", "to upload").push_folder


def _of_the_package(module: str, purpose: str = "to save a network of your own") -> Any:
    """Return a module of this wing that is not in the code file that saved pipelines bring along."""
    try:
        return importlib.import_module(f"ddpm_from_scratch.hub.{module}")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{purpose}, the package is needed: `pip install ddpm-from-scratch`. The code that a saved "
            "pipeline brings along loads, samples and saves."
        ) from error
