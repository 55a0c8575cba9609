"""The code of a class of one's own, taken out of the file that it is in."""

import importlib
import sys
import types

import pytest
import torch

from ddpm_from_scratch.hub.own_code import NotAlone, own_code
from ddpm_from_scratch.networks.registry import savable

# A training script: of this the class needs little, and the rest must not run where it is loaded.
SCRIPT = '''
"""Trains something."""
from __future__ import annotations

import argparse, math
import torch.nn as nn
from accelerate import Accelerator
from ddpm_from_scratch import DDPMFromScratchScheduler, register_network
from torch import cat, zeros as blank

WIDTH = 4
UNUSED = 5
time = "a local variable of forward has this name"
try:
    import no_such_package
except ImportError:
    no_such_package = None


def embed(time: Unknown):
    return math.pi * time[:, None] / WIDTH


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)


@register_network
class Net(Block):
    """Its docstring."""

    kept = blank(2)

    def forward(self, sample, timestep):
        time = embed(timestep)
        return self.layer(cat([sample, time], dim=1))


class Trainer:
    scheduler = DDPMFromScratchScheduler
    accelerator = Accelerator


args = argparse.ArgumentParser()
raise_if_run = 1 / (__name__ == "own_net_module")
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return a function that makes a module of a file and imports it."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(text, name="own_net_module"):
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return make


def run(text, name):
    names = {"__name__": "alone", "__file__": __file__}
    exec(text.split("def _keep")[0], names)
    return names[name]


def test_the_class_comes_with_what_it_needs_and_nothing_else(module):
    kind = module(SCRIPT).Net
    text, packages = own_code(kind)
    assert packages == [] and text.startswith("# ddpm-from-scratch 0.")
    for name in (
        "Trainer",
        "UNUSED",
        "argparse",
        "accelerate",
        "ddpm_from_scratch",
        "raise_if_run",
        "no_such",
    ):
        assert name not in text.split("\n", 1)[1], name
    assert "time =" not in text.split("class Net")[0]
    alone = run(text, "Net")()
    alone.load_state_dict((network := kind()).state_dict())
    sample, time = torch.randn(5, 2), torch.arange(5)
    assert torch.equal(alone(sample, time), network(sample, time))


def test_a_plain_module_that_was_registered_is_registered_there_too(module):
    kind = savable(module(SCRIPT).Block)
    text, _ = own_code(kind)
    alone = run(text, "Block")
    assert alone().layer.weight.shape == (2, 3) and hasattr(alone, "from_pretrained")


def test_cells_of_a_notebook_are_searched_and_the_last_of_a_name_counts(monkeypatch):
    cells = [
        "",
        "from torch import nn\nSIZE = 1",
        "SIZE = 3",
        "this failed(",
        "class Net(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.a = nn.Linear(SIZE, 1)",
        "Net()",
    ]
    notebook = types.ModuleType("__main__")
    for cell in (cell for cell in cells if "failed" not in cell):
        exec(cell, vars(notebook))
    notebook._ih = cells
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    text, _ = own_code(notebook.Net)
    assert "SIZE = 1" not in text and run(text, "Net")().a.in_features == 3


def test_packages_that_not_every_machine_has_are_named(module):
    found = module("import yaml\nfrom torch import nn\nclass Net(nn.Module):\n    text = yaml.dump(1)\n")
    assert own_code(found.Net)[1] == ["yaml"]
    found = module(
        "from torch import nn\nclass Net(nn.Module):\n    def forward(self):\n        import yaml\n"
    )
    assert own_code(found.Net)[1] == ["yaml"]
    found = module("from ddpm_from_scratch import PointDenoiser\nclass Net(PointDenoiser):\n    pass\n")
    assert own_code(found.Net)[1] == ["ddpm-from-scratch"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "import own_helper\nclass Net(nn.Module):\n    a = own_helper.A",
            "'own_helper', a file of this machine",
        ),
        ("def make():\n    class Net(nn.Module):\n        pass\n    return Net\nNet = make()", "inside make"),
        ("globals()['A'] = 1\nclass Net(nn.Module):\n    a = A", "'A' is not defined at the top"),
        (
            "import sys\nB = sys.modules[__name__].__spec__\nclass Net(nn.Module):\n    b = B.name",
            "it fails with",
        ),
        (
            "class Net(nn.Module):\n    def forward(self):\n        from .other import A\n",
            "imports from .other, beside its file",
        ),
    ],
)
def test_what_cannot_stand_alone_is_said(module, text, reason):
    module("A = 1", "own_helper")
    with pytest.raises(NotAlone, match=reason):
        own_code(module(f"from torch import nn\n{text}\n").Net)


def test_a_class_that_is_in_no_file_is_said():
    names = {"__name__": "typed_in"}
    exec("from torch import nn\nclass Net(nn.Module):\n    pass", names)
    with pytest.raises(NotAlone, match="its source is in no file"):
        own_code(names["Net"])
