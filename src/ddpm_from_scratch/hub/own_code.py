"""The code of a class of one's own as one file: the class, and what it needs of the module it is defined in.

A class is seldom alone in its file: a script also trains, a notebook also draws. Whoever loads the class must
not run that, so the file gets the statements that the class needs, and nothing else. It is then run alone.
"""

import ast
import builtins
import importlib.metadata
import importlib.util
import inspect
import symtable
import sys
import types
from collections.abc import Iterator
from typing import Any

from ..networks.registry import savable
from .code_file import ALLOWED_IMPORTS
from .layouts import HEADER

_ALWAYS_THERE = {"__file__", "__name__", "__class__", "__doc__"}
_REGISTER = "register_network"
_SAVABLE = f"""\
from typing import Any

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn


{inspect.getsource(savable)}"""
_ENDING = '''\
def _keep(kind):
    """Keep the text of this file, for saving again what was loaded with it, in a module of its own."""
    # diffusers runs all files of one name in one module, and may take compiled code of another version.
    import importlib.util, sys, types
    from pathlib import Path

    kind._code_file = Path(__file__).read_text()
    module = types.ModuleType(__name__)
    vars(module).update(globals())
    sys.modules[__name__] = module
    Path(importlib.util.cache_from_source(__file__)).unlink(missing_ok=True)
'''


class NotAlone(ValueError):
    """A class cannot be had as one file; the message is the reason, as the end of a sentence."""


def own_code(kind: type) -> tuple[str, list[str]]:
    """Return the file that defines a class, and the packages it needs that not every machine has.

    Args:
        kind: a class that is defined at the top of a file or of a notebook's cell.

    Raises:
        NotAlone: with the reason.
    """
    statements = _statements(kind)
    future = [text for node, text in statements if getattr(node, "module", None) == "__future__"][:1]
    chosen, packages = _needed(kind, statements, "".join(f"{line}\n" for line in future))
    parts = [*future, *chosen]
    if vars(kind).get("_plain") is not None:  # it was made savable by register_network
        parts += [_SAVABLE, f"{kind.__name__} = savable({kind.__name__})"]
    body = "\n\n\n".join(parts)
    _run_alone(body, kind)
    version = importlib.metadata.version("ddpm-from-scratch")
    header = f"{HEADER} {version}: {kind.__name__} and what it needs, taken from {kind.__module__}."
    return f"{header}\n\n{body}\n\n\n{_ENDING}\n\n_keep({kind.__name__})\n", packages


def _statements(kind: type) -> list[tuple[ast.stmt, str]]:
    """Return the statements at the top of the module of a class, with their text."""
    if "." in kind.__qualname__:
        raise NotAlone(
            f"it is defined inside {kind.__qualname__.split('.')[0]}: move it to the top of a file"
        )
    module = sys.modules.get(kind.__module__)
    cells = getattr(module, "_ih", None)  # IPython keeps the text of all cells that ran
    try:
        texts = [str(cell) for cell in cells] if cells else [inspect.getsource(module)]  # type: ignore[arg-type]
    except (OSError, TypeError):
        raise NotAlone("its source is in no file: write it into one and import it") from None
    found = []
    for text in texts:
        try:
            nodes = ast.parse(text).body
        except SyntaxError:  # a cell that failed
            continue
        lines = dict(enumerate(text.splitlines(), 1))
        for node in nodes:
            if isinstance(node, (ast.Assign, ast.Expr)) and isinstance(node.value, ast.Call):
                if _registers(node.value.func):
                    continue
            decorators = getattr(node, "decorator_list", [])
            first = min([node.lineno, *(each.lineno for each in decorators)])
            kept = set(range(first, (node.end_lineno or first) + 1))
            kept -= {each.lineno for each in decorators if _registers(each)}
            found.append((node, "\n".join(lines[number] for number in sorted(kept))))
    return found


def _registers(node: ast.expr) -> bool:
    """Return whether an expression is register_network, which the file can do without."""
    return (getattr(node, "id", None) or getattr(node, "attr", None)) == _REGISTER


def _needed(kind: type, statements: list[tuple[ast.stmt, str]], future: str) -> tuple[list[str], list[str]]:
    """Return the text of the statements that a class needs, in order, and the packages that it needs."""
    owners: dict[str, list[int]] = {}
    stars = []
    for place, (node, _) in enumerate(statements):
        for name in _bound(node):
            stars += [place] if name == "*" else []
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign)):
                owners[name] = []  # what it was before does not count
            owners.setdefault(name, []).append(place)
    wanted, places, missing = [kind.__name__], set(), set()
    names: dict[int, set[str]] = {}  # of an import, which of its names
    while wanted:
        name = wanted.pop()
        if name not in owners and not hasattr(builtins, name) and name not in _ALWAYS_THERE:
            missing.add(name)
        for place in owners.get(name, []):
            names.setdefault(place, set()).add(name)
            if place not in places:
                places.add(place)
                wanted += sorted(_used(future + statements[place][1]))
    if missing and stars:
        places, missing = places | set(stars), set()
    if missing or kind.__name__ not in owners:
        raise NotAlone(f"{sorted(missing or {kind.__name__})[0]!r} is not defined at the top of its file")
    texts, packages = [], set()
    package = getattr(sys.modules.get(kind.__module__), "__package__", None)
    for place in sorted(places):
        node, text = statements[place]
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for imported, text in _imports(node, names.get(place, {"*"}), package):
                packages |= _packages(imported)
                texts.append(text)
        else:
            packages |= {name for each in _inner_imports(node) for name in _packages(each)}
            texts.append(text)
    return texts, sorted(packages)


def _bound(node: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement at the top binds."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        if getattr(node, "module", None) != "__future__":
            for alias in node.names:
                yield alias.asname or alias.name.split(".")[0]
        return
    if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
        yield node.name
        return
    for each in ast.walk(node):
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
            yield each.id
        elif isinstance(each, (ast.FunctionDef, ast.ClassDef)):
            yield each.name
        elif isinstance(each, (ast.Import, ast.ImportFrom)):
            yield from _bound(each)


def _used(text: str) -> set[str]:
    """Return the names of the module that a statement uses, now or when its functions are called."""
    tables, found = [symtable.symtable(text, "statement", "exec")], set()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        found |= {
            symbol.get_name()
            for symbol in table.get_symbols()
            if symbol.is_referenced() and (symbol.is_global() or table.get_type() == "module")
        }
    return found


def _imports(
    node: ast.Import | ast.ImportFrom, names: set[str], package: str | None
) -> Iterator[tuple[str, str]]:
    """Yield module and text of each name of an import that is needed."""
    for alias in node.names:
        if alias.name != "*" and (alias.asname or alias.name.split(".")[0]) not in names:
            continue
        renamed = f" as {alias.asname}" if alias.asname else ""
        if isinstance(node, ast.Import):
            yield alias.name, f"import {alias.name}{renamed}"
            continue
        module = "." * node.level + (node.module or "")
        if node.level:
            if not package:
                raise NotAlone(f"it imports {alias.name} from {module}, beside its file")
            module = importlib.util.resolve_name(module, package)
        yield module, f"from {module} import {alias.name}{renamed}"


def _inner_imports(node: ast.stmt) -> Iterator[str]:
    """Yield the modules that functions of a statement import."""
    for each in ast.walk(node):
        if isinstance(each, ast.Import):
            yield from (alias.name for alias in each.names)
        elif isinstance(each, ast.ImportFrom):
            if each.level:
                raise NotAlone(f"a function in it imports from .{each.module or ''}, beside its file")
            yield str(each.module)


def _packages(module: str) -> set[str]:
    """Return the package that must be installed for a module; none for those that every machine has.

    Raises:
        NotAlone: the module is a file of this machine.
    """
    top = module.split(".")[0]
    if top in ALLOWED_IMPORTS or top in sys.stdlib_module_names:
        return set()
    if top == __name__.split(".")[0]:
        return {"ddpm-from-scratch"}
    spec = importlib.util.find_spec(top) if top != "__main__" else None
    where = str(spec.origin) if spec is not None else ""
    if "site-packages" in where or "dist-packages" in where:
        return {top}
    raise NotAlone(
        f"it needs {module!r}, a file of this machine: put what it needs of that into its own file"
    )


def _run_alone(body: str, kind: type) -> None:
    """Raise NotAlone unless the text alone defines a class of that name."""
    module: Any = types.ModuleType("_own_network")
    sys.modules[module.__name__] = module  # dataclasses look there
    try:
        exec(compile(body, f"<{kind.__name__}, alone>", "exec"), vars(module))
    except Exception as error:
        raise NotAlone(f"taken out of its file it fails with {type(error).__name__}: {error}") from error
    finally:
        del sys.modules[module.__name__]
    if not isinstance(getattr(module, kind.__name__, None), type):
        raise NotAlone(f"taken out of its file {kind.__name__} is no class")
