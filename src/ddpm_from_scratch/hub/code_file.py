"""One self-contained file made from modules of this package, for repositories that bring their code along.

diffusers runs a repository's code only from files whose imports it finds installed, and it lays the files of
all repositories flat beside each other, so that helper files of one would be taken for those of another. One
file without relative imports has neither problem. It is made from the modules themselves, never written by
hand: what runs from a repository is what is tested here.
"""

import ast
import importlib.metadata
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from .layouts import HEADER

_FOLDER = Path(__file__).parents[1]
# What diffusers itself needs, so that every machine that can load a repository has it.
ALLOWED_IMPORTS = ("PIL", "diffusers", "huggingface_hub", "numpy", "safetensors", "torch")
# The searches with which diffusers' loader looks for imports: over the text, docstrings included.
_LOADER_SEARCHES = (r"^\s*import\s+(\S+)\s*$", r"^\s*from\s+(\S+)\s+import")
_ENDING = """\
# The text of this file, for saving again what was loaded with it.
{keep}

# diffusers runs all files of one name in one module, and may take compiled code of another version for this
# one's if both are equally long. What is loaded next gets a module of its own, and compiles anew.
sys.modules[__name__] = types.ModuleType(__name__)
vars(sys.modules[__name__]).update(globals())
Path(importlib.util.cache_from_source(__file__)).unlink(missing_ok=True)
"""


def _is_wing(name: str) -> bool:
    """Return whether a dotted name is that of a folder of modules; that of the package is empty."""
    return _FOLDER.joinpath(*name.split(".")).is_dir()


class _Module:
    """A module of this package, taken apart.

    Args:
        name: of the module, inside the package, such as "process.diffusion".
    """

    def __init__(self, name: str):
        self.name, self.wing = name, name.split(".")[:-1]
        text = _FOLDER.joinpath(*name.split(".")).with_suffix(".py").read_text()
        tree = ast.parse(text)
        self.summary = (ast.get_docstring(tree) or "").splitlines()[0]
        self.needs: list[str] = []  # modules of this package
        self.whole: set[str] = set()  # those of them that are used as `module.name`
        self.imports: set[tuple[str, str | None]] = set()  # (module, name) or (module, None)
        self.names: list[str] = []  # what it defines
        self.classes = [
            node.name
            for node in tree.body
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        ]
        dropped = [tree.body[0]] if ast.get_docstring(tree) else []
        for node in tree.body:
            if isinstance(node, ast.Import):
                self.imports |= {
                    (alias.name if alias.asname is None else f"{alias.name} as {alias.asname}", None)
                    for alias in node.names
                }
                dropped.append(node)
            elif isinstance(node, ast.ImportFrom):
                self._take_from(node)
                dropped.append(node)
            else:
                self.names += _defined(node)
        gone = {line for node in dropped for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
        kept = [line for number, line in enumerate(text.splitlines(), 1) if number not in gone]
        self.code = "\n".join(kept).strip("\n")

    def _take_from(self, node: ast.ImportFrom) -> None:
        names = {alias.name for alias in node.names}
        if any(alias.asname for alias in node.names):
            raise ValueError(f"{self.name} renames an import in line {node.lineno}: one file cannot.")
        if node.level == 0:
            self.imports |= {(str(node.module), name) for name in names}
            return
        above = self.wing[: len(self.wing) + 1 - node.level]
        target = ".".join([*above, *([node.module] if node.module else [])])
        if _is_wing(target):  # from .. import checks
            modules = [f"{target}.{name}".lstrip(".") for name in sorted(names)]
            self.whole |= set(modules)
            self.needs += modules
        else:
            self.needs.append(target)


def _defined(node: ast.stmt) -> list[str]:
    """Return the names that a statement at the top of a module defines."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [
        name.id for target in targets if target for name in ast.walk(target) if isinstance(name, ast.Name)
    ]


def _in_order(names: Iterable[str], found: dict[str, _Module]) -> dict[str, _Module]:
    """Add modules and all that they need to `found`, each after what it needs."""
    for name in names:
        if name not in found:
            module = _Module(name)
            _in_order(module.needs, found)
            found[name] = module
    return found


def code_file(*names: str) -> str:
    """Return the source of modules of this package, and of all that they need, as one file.

    The same version gives the same text every time. A module that others use as `module.name` is there under
    its name.

    Args:
        names: of the modules, such as "pipeline_ddpm_from_scratch".

    Raises:
        ValueError: two modules define one name, or a module needs something that not every machine has.
    """
    modules = _in_order(names, {})
    owner: dict[str, str] = {}
    for module in modules.values():
        for name in module.names:
            if owner.setdefault(name, module.name) != module.name:
                raise ValueError(f"{owner[name]} and {module.name} both define {name!r}; rename one.")
    whole = set().union(*(module.whole for module in modules.values()))
    imports = set().union(*(module.imports for module in modules.values()))
    imports |= {(name, None) for name in ("importlib.util", "sys", "types")} | {("pathlib", "Path")}
    version = importlib.metadata.version("ddpm-from-scratch")
    parts = [
        f"{HEADER} {version}: {', '.join(names)} and what they need, as one file.\n"
        "# Made by ddpm_from_scratch.hub.code_file from the modules of the package: change those, not this.",
        _import_lines(imports),
    ]
    for module in modules.values():
        parts.append(f"# ---- {module.name}: {module.summary}\n\n{module.code}")
        if module.name in whole:
            pairs = ", ".join(f"{name}={name}" for name in module.names)
            parts.append(f"{module.name.split('.')[-1]} = types.SimpleNamespace({pairs})")
    classes = [name for module in modules.values() for name in module.classes]
    keep = "\n".join(f"{name}._code_file = Path(__file__).read_text()" for name in classes)
    text = "\n\n\n".join([*parts, _ENDING.format(keep=keep)])
    _require_loadable(text)
    return text


def _import_lines(imports: set[tuple[str, str | None]]) -> str:
    plain = sorted(f"import {module}" for module, name in imports if name is None)
    grouped: dict[str, list[str]] = {}
    for module, name in sorted((module, name) for module, name in imports if name is not None):
        grouped.setdefault(module, []).append(name)
    return "\n".join(
        plain + [f"from {module} import {', '.join(names)}" for module, names in grouped.items()]
    )


def _require_loadable(text: str) -> None:
    """Raise ValueError for a line that diffusers' loader would take for an import that fails."""
    for search in _LOADER_SEARCHES:
        for found in re.findall(search, text, flags=re.MULTILINE):
            top = found.split(".")[0]
            if top not in ALLOWED_IMPORTS and top not in sys.stdlib_module_names:
                raise ValueError(
                    f"the code file would need {found!r} (perhaps in a docstring), but a repository may need "
                    f"the standard library and {', '.join(ALLOWED_IMPORTS)} only."
                )
