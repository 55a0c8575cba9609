"""The code that a repository brings along: one file, made of the package's own modules."""

import re
import runpy
import sys

import pytest
from diffusers.utils.dynamic_modules_utils import check_imports, get_relative_imports

from ddpm_from_scratch import DDPMFromScratchPipeline, DDPMFromScratchScheduler, build_model, model_config
from ddpm_from_scratch.hub import code_file

SCHEDULER, NETWORKS = "schedulers.scheduling_ddpm_from_scratch", "networks.models"
ENTRIES = [(SCHEDULER,), (NETWORKS,), (SCHEDULER, NETWORKS)]


@pytest.mark.parametrize("names", ENTRIES, ids=" ".join)
def test_the_file_is_what_the_loader_takes(names, tmp_path):
    text = code_file.code_file(*names)
    assert text == code_file.code_file(*names)
    path = tmp_path / "code.py"
    path.write_text(text)
    assert check_imports(path) == [] and get_relative_imports(path) == []
    assert "ddpm_from_scratch import" not in text and text.startswith("# ddpm-from-scratch 0.")


def test_upload_stays_in_the_package(tmp_path, monkeypatch):
    text = code_file.code_file("pipeline_ddpm_from_scratch")
    packed = re.findall(r"^# ---- (\S+):", text, flags=re.MULTILINE)
    assert not {"hub.upload", "hub.commits", "hub.cards"} & set(packed) and "hub.requests" in packed
    monkeypatch.setitem(sys.modules, "ddpm_from_scratch.hub.upload", None)  # as if it were not installed
    pipeline = DDPMFromScratchPipeline(build_model(model_config("points")), DDPMFromScratchScheduler())
    with pytest.raises(ImportError, match="pip install ddpm-from-scratch"):
        pipeline.push_to_hub("points")
    with pytest.raises(ImportError, match="pip install ddpm-from-scratch"):
        pipeline.save_pretrained(tmp_path / "points", push_to_hub=True)
    assert not (tmp_path / "points").exists(), "that it cannot be uploaded is said before it is saved"


@pytest.fixture
def package(tmp_path, monkeypatch):
    def write(**modules):
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(f'"""Of {name}."""\n\n{text}\n')

    monkeypatch.setattr(code_file, "_FOLDER", tmp_path)
    return write


def test_a_module_used_by_its_name_is_there_under_it(package, tmp_path):
    package(
        base="def f():\n    return 1\n\n\nx: int = 2",
        user="from . import base\nfrom .base import (\n    f,\n)\n\n\ndef g():\n"
        "    return base.f() + f() + base.x",
    )
    (tmp_path / "code.py").write_text(code_file.code_file("user"))
    assert runpy.run_path(tmp_path / "code.py")["g"]() == 4


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({"one": "def f(): ...", "two": "from .one import f\n\n\ndef f(): ..."}, "both define 'f'"),
        ({"two": "import scipy"}, "would need 'scipy'"),
        (
            {"two": 'def f():\n    """Text\n    from here import there."""'},
            "would need 'here' .perhaps in a doc",
        ),
        ({"two": "from os import path as way"}, "two renames an import in line 3"),
    ],
)
def test_what_would_not_load_everywhere_is_refused(package, modules, message):
    package(**modules)
    with pytest.raises(ValueError, match=message):
        code_file.code_file("two")
