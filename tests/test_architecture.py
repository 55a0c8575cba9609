"""The rule of the house: imports inside the package go one way, downwards."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "ddpm_from_scratch"
# hub and layouts stand below the pipeline, because it saves and uploads itself.
LEVELS = {
    "checks": 0,
    "models": 0,
    "metrics": 0,
    "noise_schedules": 1,
    "diffusion": 1,
    "timestep_spacing": 1,
    "timestep_samplers": 1,
    "plots": 2,
    "animations": 3,
    "variational_bound": 2,
    "toy_data": 2,
    "forward_process": 2,
    "reverse_chain": 2,
    "few_step_profile": 2,
    "exponential_adams": 2,
    "scheduler_settings": 3,
    "predictions": 3,
    "objectives": 4,
    "score": 4,
    "residuals": 4,
    "likelihood": 5,
    "flow_likelihood": 6,
    "layouts": 4,
    "safe_loading": 4,
    "code_file": 0,
    "model_cards": 3,
    "commits": 0,
    "hub": 4,
    "scheduler_base": 4,
    "scheduling_ddpm_from_scratch": 5,
    "scheduling_few_step": 5,
    "calibration": 6,
    "pipeline_ddpm_from_scratch": 7,
    "__init__": 8,
}
ONLY_FOR_TRAINING = {"accelerate", "datasets", "transformers", "sklearn", "yaml", "tqdm"}


def upward_imports(name, code, levels):
    """Return the modules of the package that `name` imports from its own level or above, and forbidden
    libraries."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.level:
            modules = [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
            found += [module for module in modules if levels[module] >= levels[name]]
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            roots = {module.split(".")[0] for module in names}
            found += roots & (ONLY_FOR_TRAINING | {"ddpm_from_scratch"})
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.glob("*.py")), ids=lambda path: path.stem)
def test_imports_go_down(path):
    assert path.stem in LEVELS, f"{path.name} has no level: add it to the house and to this test"
    assert not upward_imports(path.stem, path.read_text(), LEVELS)


def test_the_rule_finds_an_upward_import():
    for code in (
        "from .pipeline_ddpm_from_scratch import X",
        "from .layouts import X",
        "import accelerate.utils",
        "from . import scheduler_settings",
    ):
        assert upward_imports("reverse_chain", code, LEVELS)
    assert not upward_imports("reverse_chain", "from .diffusion import scales\nimport torch", LEVELS)


def test_matplotlib_is_imported_inside_functions_only():
    for path in SOURCE.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert "matplotlib" not in ast.unparse(node), path.name


def public_definitions(body):
    """Yield functions, classes and methods of public classes whose names do not begin with an underscore."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node
            yield from public_definitions(node.body if isinstance(node, ast.ClassDef) else [])


def test_every_public_function_and_class_has_a_docstring():
    for path in SOURCE.glob("*.py"):
        for node in public_definitions(ast.parse(path.read_text()).body):
            assert ast.get_docstring(node), f"{path.name}: {node.name}"
