"""Networks that saved pipelines are loaded with, by class name: this package's, and one's own."""

from typing import Any, TypeVar

import diffusers
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from .guided_unet import GuidedUNet2DModel
from .lucidrains_unet import LucidrainsUnet
from .models import PointDenoiser

Network = TypeVar("Network", bound=type[nn.Module])

# The file that a saved pipeline brings along -> the class in it, for the networks of this package.
OWN_NETWORKS: dict[str, type[ModelMixin]] = {
    "models": PointDenoiser,
    "guided_unet": GuidedUNet2DModel,
    "lucidrains_unet": LucidrainsUnet,
}
_registered: dict[str, type[ModelMixin]] = {}


def register_network(kind: Network) -> Network:
    """Return a class of networks that saved pipelines may be loaded with from now on; also a decorator.

    `DDPMFromScratchPipeline.from_pretrained` then finds it by its name, and runs no code of the folder. A
    plain nn.Module gets diffusers' ways of saving, and the arguments of its constructor become its
    configuration; use the class that is returned: `MyNet = register_network(MyNet)`.

    Args:
        kind: a class. A later one of the same name takes its place, as a cell that is run again does.

    Raises:
        TypeError: no class of networks.
        ValueError: a name that a class of diffusers or of this package has.
    """
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise TypeError(f"register_network got {kind!r}, but needs a class that derives from nn.Module.")
    if problem := name_problem(kind):
        raise ValueError(problem)
    found: Any = kind if issubclass(kind, ModelMixin) and issubclass(kind, ConfigMixin) else savable(kind)
    _registered[found.__name__] = found
    return found


def network_classes() -> dict[str, type[ModelMixin]]:
    """Return the classes that a saved network may have besides UNet2DModel, by name."""
    return {kind.__name__: kind for kind in OWN_NETWORKS.values()} | _registered


def is_foreign(kind: type) -> bool:
    """Return whether a class is neither of diffusers nor in OWN_NETWORKS, of this or another version."""
    known = getattr(diffusers, kind.__name__, None), *OWN_NETWORKS.values()
    loaded = "_code_file" in vars(kind) and kind.__name__ in {own.__name__ for own in OWN_NETWORKS.values()}
    return kind not in known and not loaded


def name_problem(kind: type) -> str | None:
    """Return what is wrong with the name of a foreign class; None if nothing is."""
    whose = None
    if kind.__name__ in {known.__name__ for known in OWN_NETWORKS.values()}:
        whose = "this package"
    elif hasattr(diffusers, kind.__name__):
        whose = "diffusers"
    if whose is None or not is_foreign(kind):
        return None
    return (
        f"{kind.__module__}.{kind.__name__} has the name of a class of {whose}, and would be taken for that "
        "when it is loaded: rename it."
    )


def savable(kind: type) -> type:
    """Return a class of modules with diffusers' ways of saving; its configuration is what it is made with."""

    def bare(self: Any) -> None:
        kind.__init__(self)  # type: ignore[misc]

    init = bare if kind.__init__ is nn.Module.__init__ else kind.__init__  # type: ignore[misc]
    names = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
    bases = (kind, *(base for base in (ModelMixin, ConfigMixin) if not issubclass(kind, base)))
    return type(kind.__name__, bases, {"__init__": register_to_config(init), "_plain": kind, **names})
