"""The network inside of what wraps it: DataParallel, DistributedDataParallel, torch.compile."""

from typing import Any

from torch.nn.parallel import DataParallel, DistributedDataParallel


def unwrapped(network: Any) -> Any:
    """Return the network whose configuration and weights these are; itself if nothing wraps it."""
    while True:
        if isinstance(network, (DataParallel, DistributedDataParallel)):
            network = network.module
        elif "_orig_mod" in getattr(network, "_modules", {}):  # of torch.compile
            network = network._orig_mod
        else:
            return network
