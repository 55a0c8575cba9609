"""Weights that may be sharded: the same code for one process, for copies (DDP) and for shards (FSDP2).

Under FSDP2 a parameter, its average and its optimizer state are DTensors, of which each process holds one
slice. A checkpoint holds whole tensors by name, so it does not depend on how the run was spread. Functions
marked "collective" must be called by all processes alike.
"""

import math
import os
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from ...runtime.errors import ConfigError

State = dict[str, torch.Tensor]


def refuse_deepspeed() -> None:
    """Refuse a launch under DeepSpeed before Accelerate looks for that package, which it may not find.

    Raises:
        ConfigError: the launcher asked for DeepSpeed.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise ConfigError(
            "distributed_type is DEEPSPEED, but must be NO, MULTI_GPU, MULTI_CPU or FSDP. FSDP shards as "
            "DeepSpeed does: accelerate launch --config_file training/accelerate_configs/fsdp_8_gpus.yaml."
        )


def check_launch(accelerator: Accelerator) -> None:
    """Refuse a launch that Accelerate did not follow: it falls back to less without a word.

    Raises:
        ConfigError: processes that do not know of each other, or no sharding where it was asked for.
    """
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started != accelerator.num_processes:
        raise ConfigError(
            f"{started} processes were started, but each sees {accelerator.num_processes}: no GPU was found. "
            "Set ACCELERATE_USE_CPU=true to train on CPUs."
        )
    is_sharded = accelerator.distributed_type == DistributedType.FSDP
    wanted = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if wanted and not is_sharded and started > 1:
        raise ConfigError("distributed_type FSDP needs GPUs; here Accelerate would not shard at all.")
    if is_sharded and not accelerator.is_fsdp2:
        raise ConfigError("fsdp_version is 1, but must be 2: set it in the Accelerate configuration file.")


def configure_sharding(accelerator: Accelerator, network: nn.Module) -> None:
    """Say how FSDP2 splits a network, one unit a level of a U-Net; call it before `prepare`. Else no effect.

    Of Accelerate's own policies the size-based one fails at the lists of a U-Net and the class-based one at a
    class that the network lacks. Under bf16 Accelerate would also sum the gradients in bf16; here they are
    summed in float32, as in DDP.
    """
    if accelerator.distributed_type != DistributedType.FSDP:
        return
    plugin = accelerator.state.fsdp_plugin
    levels = [*getattr(network, "down_blocks", ()), *getattr(network, "up_blocks", ())]
    levels.append(getattr(network, "mid_block", None))
    plugin.auto_wrap_policy = transformer_auto_wrap_policy  # the one that goes by class
    plugin.transformer_cls_names_to_wrap = sorted(
        {type(level).__name__ for level in levels if level is not None}
    )
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision)
    if half is not None:
        plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32)


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return a whole tensor, detached: gathered from its shards (collective), or itself if it is no shard."""
    tensor = tensor.detach()
    if not isinstance(tensor, DTensor):
        return tensor
    mesh = tensor.device_mesh
    if tensor.placements != (Shard(0),):
        return tensor.full_tensor()
    # The same in half the time. DTensor's own way gives its result to Python while gloo's thread lets go of
    # it, and torch 2.13 has crashed there, in one of some hundred runs.
    own, rows = tensor.to_local(), math.ceil(len(tensor) / mesh.size())
    padded = own.new_zeros(rows, *tensor.shape[1:])
    padded[: len(own)] = own
    parts = [torch.empty_like(padded) for _ in range(mesh.size())]
    torch.distributed.all_gather(parts, padded, group=mesh.get_group())
    return torch.cat(parts)[: len(tensor)]


def like(full: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return a copy of a whole tensor on the device and in the shards of `reference`.

    Collective if that is sharded: the first process sends the others their slices.
    """
    if isinstance(reference, DTensor):
        return distribute_tensor(full, reference.device_mesh, reference.placements)
    return full.to(reference.device, copy=True)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return the part of a tensor that this process holds, sharing its memory; for elementwise arithmetic."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def weights(network: nn.Module) -> State:
    """Return the parameters and buffers by name, sharing their memory; for the network that was prepared.

    After a forward pass without backward FSDP2 keeps whole copies in the place of some parameters, and what
    is written to a copy is lost. `state_dict` drops the copies; `named_parameters` would return them.
    """
    return network.state_dict()


def gather(state: State, keep: bool) -> State:
    """Return whole tensors on the CPU in the processes that `keep`, nothing in the others (collective).

    One tensor at a time, so that no device ever holds the whole state.
    """
    gathered = {}
    for name, tensor in state.items():
        full = full_tensor(tensor)
        if keep:
            gathered[name] = full.to("cpu", copy=True).contiguous()
    return gathered


@torch.no_grad()
def load(state: State, full: State) -> None:
    """Overwrite live tensors, such as `weights`, with whole ones of the same names.

    Raises:
        ValueError: other names or shapes.
    """
    if state.keys() != full.keys():
        differing = sorted(state.keys() ^ full.keys())
        raise ValueError(f"{len(differing)} names differ, such as {differing[0]!r}.")
    for name, tensor in state.items():
        if tensor.shape != full[name].shape:
            raise ValueError(f"{name!r} has shape {tuple(full[name].shape)}, not {tuple(tensor.shape)}.")
    for name, tensor in state.items():
        tensor.copy_(like(full[name], tensor))


def optimizer_state(optimizer: torch.optim.Optimizer, network: nn.Module) -> tuple[State, dict[str, Any]]:
    """Return the state of an optimizer as live tensors named <parameter>.<entry>, and its numbers likewise.

    Its settings are not part of it: they come from the configuration of a run.
    """
    names, packed = _parameter_names(optimizer, network), optimizer.state_dict()
    tensors: State = {}
    numbers: dict[str, Any] = {}
    for index, entries in packed["state"].items():
        for entry, value in entries.items():
            (tensors if isinstance(value, torch.Tensor) else numbers)[f"{names[index]}.{entry}"] = value
    return tensors, numbers


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, network: nn.Module, full: State, numbers: dict[str, Any]
) -> None:
    """Put back what `optimizer_state` returned, its tensors gathered (collective)."""
    names, live = _parameter_names(optimizer, network), weights(network)
    indices = {name: index for index, name in enumerate(names)}
    entries: dict[int, dict[str, Any]] = {}
    for key, value in {**full, **numbers}.items():
        name, entry = key.rsplit(".", 1)
        if isinstance(value, torch.Tensor):
            # A moment has the shape of its parameter and its shards; a step count is the same everywhere.
            is_moment = value.shape == live[name].shape
            value = like(value, live[name]) if is_moment else value.to(live[name].device, copy=True)
        entries.setdefault(indices[name], {})[entry] = value
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})


def _parameter_names(optimizer: torch.optim.Optimizer, network: nn.Module) -> list[str]:
    """Return the names of an optimizer's parameters, in its order."""
    weights(network)  # afterwards the network's parameters are the optimizer's own
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
