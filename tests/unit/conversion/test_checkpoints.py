"""Files that other programs pickled: what is read of them, and what is refused in one line."""

import argparse
import re

import pytest
import torch
from safetensors.torch import save_file

from ddpm_from_scratch.conversion.checkpoints import as_float32, unpickled, weights_of
from ddpm_from_scratch.runtime.errors import ConfigError

STATE = {"a.weight": torch.ones(2, 2), "b.bias": torch.zeros(2)}


def saved(content, tmp_path, name="model.pt"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


def read(content, tmp_path, choice=None):
    notes = []
    path = saved(content, tmp_path)
    return weights_of(unpickled(path), choice, path, notes), notes


def one_line(error):
    return "\n" not in str(error.value)


class Evil:
    def __reduce__(self):
        return (print, ("this must not run",))


@pytest.mark.parametrize("what", ["object", "namespace", "function"])
def test_a_pickle_that_asks_for_more_than_tensors_is_refused_and_not_run(what, tmp_path, capsys):
    content = {"object": Evil(), "namespace": argparse.Namespace(a=1), "function": print}[what]
    path = saved({"model": STATE, "args": content}, tmp_path)
    with pytest.raises(ConfigError, match=r"asks for \S+, which is more than weights") as error:
        unpickled(path)
    assert one_line(error) and "state_dict()" in str(error.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "folder", "missing", "zeros"])
def test_a_damaged_file_is_named_in_one_line(damage, tmp_path):
    path = saved(STATE, tmp_path)
    whole = path.read_bytes()
    made = {"empty": b"", "text": b"hello world", "cut": whole[: len(whole) // 2], "zeros": bytes(500)}
    if damage in made:
        path.write_bytes(made[damage])
    path = {"folder": tmp_path, "missing": tmp_path / "no.pt"}.get(damage, path)
    with pytest.raises(ConfigError, match=re.escape(str(path))) as error:
        unpickled(path)
    assert one_line(error) and "must be" in str(error.value)


def test_safetensors_are_read_too(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    assert set(unpickled(tmp_path / "model.safetensors")) == set(STATE)
    (tmp_path / "cut.safetensors").write_bytes(b"1234")
    with pytest.raises(ConfigError, match=r"cut\.safetensors cannot be read"):
        unpickled(tmp_path / "cut.safetensors")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_taken_off_and_said(prefix, tmp_path):
    weights, notes = read({prefix + name: value for name, value in STATE.items()}, tmp_path)
    assert set(weights) == set(STATE)
    assert any("module." in note or "_orig_mod." in note for note in notes)


def test_the_average_is_taken_where_both_are_there_and_the_raw_ones_if_asked(tmp_path):
    average = {name: value + 1 for name, value in STATE.items()}
    both = {"model": STATE, "ema": average, "step": 3, "opt": {}}
    found, notes = read(both, tmp_path)
    assert torch.equal(found["b.bias"], torch.ones(2)) and "average" in notes[0] and "raw" in notes[0]
    found, _ = read(both, tmp_path, "raw")
    assert torch.equal(found["b.bias"], torch.zeros(2))
    with pytest.raises(ConfigError, match="--weights is 'average'.*has raw ones only"):
        read({"state_dict": STATE}, tmp_path, "average")
    with pytest.raises(ConfigError, match="one set of weights only"):
        read(STATE, tmp_path, "average")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([1, 2], "holds a list, but must hold a state dict"),
        ({}, "must hold a state dict"),
        ({"state": {}, "param_groups": []}, "state of an optimizer"),
        ({"a": 1}, "has 'a' as a int"),
        ({"a": torch.tensor([float("nan")])}, "not finite"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "no plain tensor"),
        ({"a": torch.ones(2, 2).to_sparse()}, "no plain tensor"),
    ],
)
def test_what_is_no_state_dict_is_refused(content, says, tmp_path):
    with pytest.raises(ConfigError, match=says) as error:
        read(content, tmp_path)
    assert one_line(error) and "must" in str(error.value)


def test_half_precision_becomes_float32_and_is_said():
    notes = []
    found = as_float32({"a": torch.ones(2, dtype=torch.float16), "b": torch.ones(2)}, notes)
    assert found["a"].dtype == torch.float32 and "float16" in notes[0]
    with pytest.raises(ConfigError, match="'a' as torch.int64"):
        as_float32({"a": torch.ones(2, dtype=torch.int64)}, [])
