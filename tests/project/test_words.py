"""The words about the project: lines that are short, and files and commands that exist."""

import re

import pytest

import make_architecture
from common import ROOT

WIDTH = 100
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *(ROOT / "docs").glob("*.md"),
        ROOT / "lesson" / "README.md",
    ]
)
# Names of files that a command writes, or that stand for a user's own.
NOT_OURS = re.compile(r"^(runs|photos|unseen|pictures|page|unet|scheduler|evaluation)/")


def without_code_and_tables(text):
    """Return a page's lines of prose: no code blocks, tables, headings of HTML or lines that are one link."""
    text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [
        line
        for line in text.splitlines()
        if not line.startswith(("|", "    ", "---"))
        and not re.fullmatch(r"\s*(- )?!?\[.*\]\(.*\)[.,]?", line)
    ]


def code_of(text):
    """Return the lines of a page's shell blocks and the commands that stand in its sentences."""
    blocks = re.findall(r"^ *```(?:bash|sh)\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_of_prose_are_short(page):
    long = [line for line in without_code_and_tables(page.read_text()) if len(line) > WIDTH]
    assert not long, "\n".join(long)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_exists(page):
    """A path with a folder, from the root or from the page: `src/.../x.py`, `training/configs/x.yaml`."""
    text = re.sub(r"https?://[^\s)`]+", "", page.read_text())
    for name in re.findall(
        r"(?<![\w/<>.~-])((?:\.\./)?[\w.-]+/[\w./-]*\w\.(?:py|md|yaml|sh|json|sbatch|html|ipynb))\b", text
    ):
        if not NOT_OURS.match(name) and "NAME" not in name:
            places = (ROOT, page.parent, ROOT / "src" / "ddpm_from_scratch", ROOT / "lesson")
            assert any((place / name).exists() for place in places), f"{page.name}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_script_that_a_command_runs_exists(page):
    for line in code_of(page.read_text()):
        for script in re.findall(
            r"(?:python|bash|sbatch|jupyter execute --inplace|pytest) ([\w./-]+\.\w+)", line
        ):
            assert (ROOT / script).is_file(), f"{page.name}: {line}"


def places_in(page):
    """Return the names by which headings of a page are linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text()):
        path, _, place = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{page.name}: {target}"
        assert not place or place in places_in(linked), f"{page.name}: {target}"


def test_the_page_of_the_architecture_is_made_of_docstrings():
    assert (ROOT / "docs" / "architecture.md").read_text() == make_architecture.page()


def test_a_module_without_words_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(make_architecture, "ROOT", tmp_path)
    (tmp_path / "silent.py").write_text("import os\n")
    with pytest.raises(ValueError, match=r"silent\.py has no docstring"):
        make_architecture.first_line(tmp_path / "silent.py")


def steps_of_contributing():
    """Return the numbered steps of "Add a ...", each in one line."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    steps = re.findall(r"^\d+\. (.*?)(?=^\d+\. |^#|\Z)", text, re.DOTALL | re.MULTILINE)
    return [" ".join(step.split()) for step in steps]


def test_steps_of_contributing_were_found():
    assert len(steps_of_contributing()) == 24


@pytest.mark.parametrize("step", steps_of_contributing(), ids=lambda step: step[:40])
def test_a_step_of_contributing_names_files_and_what_is_in_them(step):
    """`words.py`: ... `BetaSchedule` means that the file is there, and has that name in it."""
    words = [word for word in re.findall(r"`([^`]+)`", step) if "NAME" not in word and " " not in word]
    files = [word for word in words if re.fullmatch(r"[\w/.]+\.(py|md)", word)]
    places = {file: [ROOT / "src" / "ddpm_from_scratch" / file, ROOT / file] for file in files}
    found = {
        file: next((place for place in tried if place.is_file()), None) for file, tried in places.items()
    }
    assert all(found.values()), found
    text = "\n".join(place.read_text() for place in found.values())
    for word in words:
        assert not files or word in files or word.startswith("--") or re.search(rf"\b{word}\b", text), word
