"""The network inside of what wraps it."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DataParallel

from ddpm_from_scratch.networks.wrapped import unwrapped


@pytest.mark.parametrize(
    "wrap",
    [
        lambda network: network,
        DataParallel,
        lambda network: torch.compile(network, backend="eager"),
        lambda network: torch.compile(DataParallel(network), backend="eager"),
        lambda network: DataParallel(torch.compile(network, backend="eager")),
    ],
)
def test_the_network_inside_is_found(wrap):
    network = nn.Linear(2, 2)
    assert unwrapped(wrap(network)) is network


def test_what_is_no_module_is_itself():
    def network(sample, timesteps):
        return sample

    assert unwrapped(network) is network


def test_a_network_with_a_part_called_module_is_no_wrapper():
    network = nn.Module()
    network.module = nn.Linear(2, 2)
    assert unwrapped(network) is network
