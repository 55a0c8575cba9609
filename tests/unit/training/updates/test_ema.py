"""The moving average of weights, against its formula."""

import pytest
import torch
from diffusers.training_utils import EMAModel

from ddpm_from_scratch.training.updates.ema import WeightAverage


def moving(dtype=torch.float32):
    """Yield a layer whose weights change, step by step."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2).to(dtype)
    yield layer
    while True:
        with torch.no_grad():
            layer.weight += 0.1 * torch.randn(2, 3).to(dtype)
        yield layer


@pytest.mark.parametrize(("power", "largest"), [(0.75, 0.9999), (2 / 3, 0.9999), (0.75, 0.5)])
def test_the_average_is_that_of_the_formula(power, largest):
    layers = moving()
    average = WeightAverage(next(layers), 2.0, power, largest)
    expected = average.tensors["weight"].double().clone()
    for n in range(20):
        layer = next(layers)
        average.update(layer)
        decay = min(1 - (1 + n / 2.0) ** -power, largest)
        expected = decay * expected + (1 - decay) * layer.weight.detach().double()
    torch.testing.assert_close(average.tensors["weight"].double(), expected)


def test_the_average_is_that_of_diffusers():
    """Its own counts the updates from one, and skips the warm-up at the first."""
    layers = moving()
    layer = next(layers)
    ours = WeightAverage(layer, 1.0, 0.75, 0.9999)
    stock = EMAModel(layer.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    for _ in range(10):
        ours.update(next(layers))
        stock.step(layer.parameters())
    torch.testing.assert_close(list(ours.tensors.values()), list(stock.shadow_params))


def test_the_average_of_half_precision_moves_by_less_than_its_resolution():
    layer = torch.nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    torch.nn.init.ones_(layer.weight)
    average = WeightAverage(layer, 1.0, 0.75, 0.9999)
    average.updates = 10**6
    torch.nn.init.constant_(layer.weight, 1.0078125)  # the next number of bfloat16
    average.update(layer)
    assert average.tensors["weight"].dtype == torch.float32
    assert 1 < float(average.tensors["weight"]) < 1.00001
