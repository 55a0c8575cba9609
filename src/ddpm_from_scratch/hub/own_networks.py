"""Networks of one's own in a saved pipeline: what cannot be loaded again is said when it is saved."""

import json
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from .. import checks
from ..networks.models import sample_shape
from ..networks.registry import is_foreign, name_problem
from .own_code import NotAlone, own_code
from .safe_loading import some, without_memory


def check_own_network(network: Any) -> None:
    """Check that a network can be saved, and built again from its configuration.

    Args:
        network: anything; those of diffusers and of this package are fine.

    Raises:
        TypeError: it has no way of being saved.
        ValueError: its configuration does not give it again, or its name is another's.
    """
    kind = type(network)
    if not is_foreign(kind) or "_code_file" in vars(kind):
        return
    name = kind.__name__
    if not (isinstance(network, ModelMixin) and isinstance(network, ConfigMixin)):
        if not isinstance(network, nn.Module):
            raise TypeError(f"the network is {name}, which cannot be saved: it is no nn.Module.")
        raise TypeError(
            f"the network is a {name}, a plain nn.Module, which cannot be saved: nothing says what it was "
            f"made with. Write {name} = register_network({name}) after its class and make it anew; or derive "
            "it from diffusers' ModelMixin and ConfigMixin, with @register_to_config on its __init__."
        )
    if problem := name_problem(kind):
        raise ValueError(problem)
    cannot = f"{name} cannot be built again from its configuration"
    advice = (
        "The arguments of its constructor, noted by @register_to_config or register_network, must be all "
        "that it is made of, and JSON: numbers, texts, lists."
    )
    weights = network.state_dict()
    try:
        again = without_memory(kind, json.loads(network.to_json_string()))
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{cannot}: {reason.rstrip('.')}. {advice}") from error
    built = again.state_dict()
    for what, names in (("lacks", weights.keys() - built.keys()), ("has", built.keys() - weights.keys())):
        if names:
            raise ValueError(f"{cannot}: the one that is built {what} {some(sorted(names))}. {advice}")
    for key, tensor in weights.items():
        if tensor.shape != built[key].shape:
            raise ValueError(
                f"{cannot}: {key!r} has the shape {tuple(built[key].shape)} in place of "
                f"{tuple(tensor.shape)}. {advice}"
            )
    if not weights:
        raise ValueError(
            f"{name} has no weights, so diffusers writes no file for it and finds none: give it a number, "
            "self.register_buffer('unused', torch.zeros(1))."
        )
    _check_not_shared(weights)
    if _shape_of(network) != _shape_of(again):
        checks.warn(
            f"the shape of a sample of {name}, {_shape_of(network)}, is not in its configuration: after "
            "loading, the pipeline needs latents. Make sample_shape an argument of its constructor.",
            UserWarning,
        )


def _check_not_shared(weights: dict[str, torch.Tensor]) -> None:
    """Raise ValueError for two names of one tensor, which safetensors cannot hold."""
    seen: dict[tuple[Any, int], str] = {}
    for name, tensor in weights.items():
        place = (tensor.device, tensor.untyped_storage().data_ptr())
        if tensor.numel() and place in seen and tensor.device.type != "meta":
            raise ValueError(
                f"{seen[place]!r} and {name!r} are one tensor, which a file of weights cannot hold twice: "
                "let forward use the first, and do not name it again."
            )
        seen[place] = name


def _shape_of(network: Any) -> tuple[int, ...] | None:
    try:
        return sample_shape(network)
    except ValueError:
        return None


def code_of_own_network(kind: type) -> str | None:
    """Return the file that defines a class; None, after a warning that says what to do, if it cannot be."""
    name = kind.__name__
    try:
        text, packages = own_code(kind)
    except NotAlone as error:
        checks.warn(
            f"the code of {name} is not saved beside its weights: {error}. The folder loads with "
            f"DDPMFromScratchPipeline.from_pretrained after register_network({name}), and in no other way.",
            UserWarning,
        )
        return None
    if packages:
        checks.warn(
            f"the code of {name} needs {', '.join(packages)}: whoever loads it must have that installed.",
            UserWarning,
        )
    return text
