"""The rule of the house: imports go one way, from wing to wing."""

import ast
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest

from common import ROOT

SOURCE = ROOT / "src" / "ddpm_from_scratch"
# Wings that may be imported by those in later rows; within a wing, modules may import each other one way.
WINGS = (
    ("checks", "words", "measures", "runtime"),
    ("process",),
    ("schedulers",),
    ("networks",),
    ("hub",),
    ("density", "pipeline_ddpm_from_scratch"),
    ("learning", "data", "conversion"),
    ("evaluation",),
    ("sharing",),
    ("training",),
)
LEVELS = {wing: level for level, wings in enumerate(WINGS) for wing in wings}
ONLY_FOR_TRAINING = {"accelerate", "datasets", "transformers", "sklearn", "yaml", "tqdm"}
WITH_TRAINING = ("runtime", "data", "evaluation", "sharing", "training")


def _dotted(path):
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


MODULES = sorted(name for name in map(_dotted, SOURCE.rglob("*.py")) if not name.endswith("__init__"))


def imported_modules(name, tree):
    """Yield the dotted modules of the package that a module imports, and the top-level names of libraries."""
    above = name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = above[: len(above) + 1 - node.level] + ([node.module] if node.module else [])
            target = ".".join(base)
            if (SOURCE / Path(*base)).is_dir():
                yield from (f"{target}.{alias.name}".lstrip(".") for alias in node.names)
            else:
                yield target
        elif isinstance(node, ast.ImportFrom):
            yield f"<{node.module.split('.')[0]}>"
        elif isinstance(node, ast.Import):
            yield from (f"<{alias.name.split('.')[0]}>" for alias in node.names)


def wrong_imports(name, tree):
    """Return the imports of a module that go upwards, or need what its wing may not need."""
    wing = name.split(".")[0]
    found = []
    for target in imported_modules(name, tree):
        if target.startswith("<"):
            needs_training = target[1:-1] in ONLY_FOR_TRAINING and wing not in WITH_TRAINING
            found += [target] if needs_training or target == "<ddpm_from_scratch>" else []
        elif target != "__version__":
            other = target.split(".")[0]
            if other != wing and LEVELS[other] >= LEVELS[wing]:
                found.append(target)
    return found


def parsed(name):
    return ast.parse((SOURCE / Path(*name.split("."))).with_suffix(".py").read_text())


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name):
    assert not wrong_imports(name, parsed(name))


def test_modules_of_a_wing_import_each_other_one_way():
    """No circle, so that each can be read after what it needs."""
    needs = {
        name: {target for target in imported_modules(name, parsed(name)) if target in MODULES}
        for name in MODULES
    }
    while needs:
        free = [name for name, others in needs.items() if not others & needs.keys()]
        assert free, f"these import each other in a circle: {sorted(needs)}"
        for name in free:
            del needs[name]


def test_the_rule_finds_an_upward_import():
    for code in (
        "from ..pipeline_ddpm_from_scratch import X",
        "from ..hub.layouts import X",
        "import accelerate.utils",
        "from ddpm_from_scratch import X",
        "from ..density import score",
    ):
        assert wrong_imports("schedulers.reverse_chain", ast.parse(code)), code
    for code in (
        "from ..process.diffusion import scales",
        "from .. import checks",
        "from .few_step_profile import X",
        "import torch",
    ):
        assert not wrong_imports("schedulers.reverse_chain", ast.parse(code)), code


def test_no_wing_has_the_name_of_a_pipeline_of_diffusers():
    """Saving looks at the second last part of a class's module, and takes such a name for diffusers' own."""
    folders = [path.parent.name for path in SOURCE.rglob("*.py") if path.parent != SOURCE]
    assert folders and not [name for name in folders if hasattr(diffusers.pipelines, name)]


def test_unit_tests_mirror_the_modules():
    """So that nobody looks twice for the tests of a module, or for what a test is about."""
    folder = ROOT / "tests" / "unit"
    tested = (path.relative_to(folder) for path in folder.rglob("*.py"))
    wanted = {f"{name.replace('.', '/')}.py" for name in MODULES}
    found = {path.with_name(path.name.removeprefix("test_")).as_posix() for path in tested}
    assert sorted(wanted - found) == [], "these have no unit tests"
    assert sorted(found - wanted) == [], "these are the tests of no module"


def test_matplotlib_is_imported_inside_functions_only():
    for name in MODULES:
        for node in parsed(name).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert "matplotlib" not in ast.unparse(node), name


def test_no_file_edits_the_path_of_imports():
    folders = ("src", "training", "tests", "benchmarks", "lesson", "docs")
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path"), path
        assert "noqa: " + "E402" not in path.read_text(), path


def public_definitions(body):
    """Yield functions, classes and methods of public classes whose names do not begin with an underscore."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node
            yield from public_definitions(node.body if isinstance(node, ast.ClassDef) else [])


def test_every_public_function_and_class_has_a_docstring():
    for name in MODULES:
        for node in public_definitions(parsed(name).body):
            assert ast.get_docstring(node), f"{name}: {node.name}"


def test_modules_that_saved_pipelines_name_load_once_for_all_threads():
    """They are there from the start, also on their wings, and load when a name is asked for."""
    code = """
import sys, threading
import ddpm_from_scratch.networks.models
assert ddpm_from_scratch.networks.models is sys.modules["ddpm_from_scratch.models"]
assert "torch" not in sys.modules
found = []
ask = lambda: found.append(ddpm_from_scratch.FewStepScheduler)
threads = [threading.Thread(target=ask) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(found) == 4 and len(set(found)) == 1, found
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
