"""Print docs/architecture.md, from docstrings: python docs/make_architecture.py > docs/architecture.md."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "ddpm_from_scratch"
RULE = ROOT / "tests" / "project" / "test_architecture.py"

INTRODUCTION = (
    "Printed by `python docs/make_architecture.py`.\nEach line is the first of a module's docstring; "
    "to change one, change it there.",
    "Where to start reading: the equations are in\n"
    "[`diffusion.py`](../src/ddpm_from_scratch/process/diffusion.py).\n"
    "[`train.py`](../training/train.py) is a training run from top to bottom.",
)
THE_RULE = (
    "## The rule of imports",
    "A folder of `src/ddpm_from_scratch/` is a wing.\n"
    "Imports go one way: a row of this table may import rows above it, never one below or beside it.\n"
    "Within a wing, modules import each other without circles.\n"
    "[`test_architecture.py`](../tests/project/test_architecture.py) holds the table and checks it.",
    "`datasets`, `accelerate`, `transformers` and `sklearn` are imported only in these wings:\n{wings}.\n"
    "They need the extra `[train]`, the others do not.",
)
# Folders outside the library, in the order of reading; their words stand here, as folders have no docstring.
FOLDERS = {
    "training": "The commands: each file is one, and thin.",
    "benchmarks": "Speed and quality beside diffusers.",
    "lesson": "Diffusion in two dimensions: page, cards, notebook, errata.",
    "docs": "The pages, and the scripts that print two of them.",
    "tests/claims": "Claims about the whole: parity, contract, defects, closed form.",
    "tests/runs": "Whole commands, in processes of their own.",
    "tests/reliability": "What a training run promises, tried with injected faults.",
    "tests/reliability/promises": "The promises, by kind.",
    "tests/project": "README, pages, job scripts, lesson and architecture.",
    "tests/support": "What tests share.",
}


def first_line(path: Path) -> str:
    """Return the first line of a module's docstring, without its full stop.

    Raises:
        ValueError: a module without docstring.
    """
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    if not docstring:
        raise ValueError(f"{path.relative_to(ROOT)} has no docstring; its first line goes into the page.")
    return docstring.splitlines()[0].rstrip(".")


def table(folder: Path) -> str:
    """Return the modules of one folder as a table, with links."""
    rows = ["| file | what it is |", "|---|---|"]
    for path in sorted(folder.glob("*.py")):
        if path.name != "__init__.py":
            rows.append(f"| [`{path.name}`](../{path.relative_to(ROOT)}) | {first_line(path)} |")
    return "\n".join(rows)


def constant(name: str) -> tuple:
    """Return a constant of the test that holds the rule."""
    for node in ast.parse(RULE.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise ValueError(f"{RULE.relative_to(ROOT)} has no {name}.")


def words_of(wing: str) -> str:
    """Return the docstring's first line of a wing, which is a folder or a module."""
    folder = SOURCE / wing
    return first_line(folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py"))


def wings_that_exist() -> list[list[str]]:
    """Return the rows of the rule, without wings that are planned but not there."""
    there = [
        [wing for wing in row if (SOURCE / wing).is_dir() or (SOURCE / f"{wing}.py").is_file()]
        for row in constant("WINGS")
    ]
    return [row for row in there if row]


def page() -> str:
    """Return the page as Markdown."""
    rows = wings_that_exist()
    lines = [
        f"| {number} | {'<br>'.join(f'`{wing}`: {words_of(wing)}' for wing in row)} |"
        for number, row in enumerate(rows, 1)
    ]
    for_training = ", ".join(f"`{wing}`" for wing in constant("WITH_TRAINING"))
    heading, rule, training = THE_RULE
    parts = [
        "# Architecture",
        *INTRODUCTION,
        heading,
        rule,
        "\n".join(["| row | wings |", "|---:|---|", *lines]),
        training.format(wings=for_training),
        "## The library, from the top of that table down",
    ]
    for wing in (SOURCE / wing for row in rows for wing in row):
        folders = [wing, *sorted(path.parent for path in wing.glob("*/__init__.py"))] if wing.is_dir() else []
        for folder in folders:
            words = f"{first_line(folder / '__init__.py')}."
            parts += [f"### `{folder.relative_to(SOURCE)}/`", words, table(folder)]
    parts.append("## Around the library")
    for name, words in FOLDERS.items():
        parts += [f"### `{name}/`", words, table(ROOT / name)]
    parts += ["### `tests/unit/`", "Mirrors `src/`: `<wing>/test_<module>.py` tests `<wing>/<module>.py`."]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(page(), end="")
