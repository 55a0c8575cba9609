"""Flags made from a dataclass, and what every command line says of a wrong one."""

import dataclasses
import subprocess
import sys
from typing import Literal

import pytest

from common import ROOT
from ddpm_from_scratch.runtime.cli import (
    ALLOWED,
    GIVEN,
    Bounds,
    OneLineErrors,
    add_flags,
    check_bounds,
    flag,
    parse_settings,
)
from ddpm_from_scratch.runtime.errors import ConfigError


@dataclasses.dataclass
class Settings:
    count: int = flag(3, "How many, in 100 % of cases.", on_resume=ALLOWED, least=1)
    share: float | None = flag(None, "What part.", least=0, most=1)
    quick_mode: bool = flag(False, "Hurry.")
    clip: bool = flag(True, "Clip.")
    way: Literal["no", "near", "far"] | None = flag(None, "Which way.")
    name: str = flag("x", "What it is called.")
    size: int | str | None = flag(None, "A number, or more than one.")
    span: tuple[float, float] | None = flag(None, "From where to where.")

    def __post_init__(self):
        check_bounds(self)


def parse(*argv):
    return parse_settings(Settings, "tool.py", "A tool.", argv)


def test_what_a_command_line_gives_is_known_from_what_is_a_default():
    parser = OneLineErrors("tool.py")
    add_flags(parser, Settings)
    assert parser.given(["--no_clip", "--count=3", "--count=3"]) == ["count", "clip"]
    assert parser.given([]) == [] and vars(parser.parse_args([])) == vars(Settings())


def refused(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        parse(*argv)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and error.startswith("tool.py: error: ")
    return error


def test_fields_have_their_kinds_and_defaults():
    assert parse() == Settings()
    given = parse("--count=7", "--share", "0.5", "--way=near", "--name=")
    assert given == Settings(count=7, share=0.5, way="near", name="")
    assert type(given.count) is int and type(given.share) is float
    assert parse("--size=48x64").size == "48x64" and parse("--size=64").size == "64"


@pytest.mark.parametrize(
    ("words", "quick", "clip"),
    [
        ([], False, True),
        (["--quick_mode"], True, True),
        (["--quick-mode", "--no-clip"], True, False),
        (["--quick_mode=true", "--clip=false"], True, False),
        (["--quick_mode", "False", "--clip", "no"], False, False),
        (["--quick_mode=1", "--no_clip"], True, False),
        (["--no_clip", "--clip"], False, True),
    ],
)
def test_a_switch_is_a_word_alone_or_has_a_value(words, quick, clip):
    found = parse(*words)
    assert (found.quick_mode, found.clip) == (quick, clip)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--count=0"], "--count is 0, but must be at least 1"),
        (["--count=2.5"], "--count"),
        (["--share=1.5"], "--share is 1.5, but must be in [0, 1]"),
        (["--share=nan"], "--share is nan"),
        (["--quick_mode=maybe"], "'maybe' is neither true nor false"),
        (["--way=up"], "'near'"),
        (["--cuont=2"], "unknown argument '--cuont=2'; did you mean --count?"),
        (["--coun=2"], "did you mean --count?"),  # no abbreviations: a later flag would change what they mean
        (["--zzzz"], "see --help"),
        (["word"], "'word'"),
    ],
)
def test_a_wrong_flag_is_one_line(words, says, capsys):
    assert says in refused(capsys, *words)


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "allowed"),
    [
        (Bounds(), [-1e9, 0.0], [float("inf"), float("nan")], "a finite number."),
        (Bounds(least=2), [2, 3], [1], "at least 2."),
        (Bounds(most=2), [2, -9], [3], "at most 2."),
        (Bounds(least=0), [0.0, 9.0], [-0.1, float("inf")], "a finite number of at least 0."),
        (Bounds(above=0), [1e-9], [0.0], "a finite number above 0."),
        (Bounds(least=0, most=1), [0.0, 1.0], [-0.1, 1.1], "in [0, 1]."),
        (Bounds(least=0, below=1), [0.0], [1.0], "in [0, 1)."),
        (Bounds(above=0, most=1), [1.0], [0.0], "in (0, 1]."),
        (Bounds(above=0, below=1), [0.5], [0.0, 1.0], "inside (0, 1)."),
    ],
)
def test_bounds_hold_and_are_said(bounds, inside, outside, allowed):
    for value in [*inside, None]:
        bounds.check("x", value)
    for value in outside:
        with pytest.raises(ConfigError) as caught:
            bounds.check("x", value)
        assert str(caught.value) == f"--x is {value}, but must be {allowed}"


def test_a_file_has_the_same_names_and_a_flag_wins(tmp_path, capsys):
    file = tmp_path / "settings.yaml"
    file.write_text("count: 5\nway: no\nquick_mode: true\nname:\nclip: no\n")
    assert parse("--config", str(file), "--count=6") == Settings(6, None, True, False, "no")
    file.write_text("cuont: 5\n")
    assert "unknown setting 'cuont'; did you mean 'count'?" in refused(capsys, f"--config={file}")


def test_it_is_known_which_settings_were_given(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("count: 3\n")
    made = parse("--config", str(file), "--share=0.25", "--no_clip")
    assert vars(made)[GIVEN] == {"count", "share", "clip"} and made == Settings(share=0.25, clip=False)


def test_help_names_what_may_be_given(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    for part in ("{no,near,far}", "in 100 % of cases. (default: 3)", "--quick-mode", "Turn --clip off."):
        assert part in text


def test_a_switch_beside_positional_arguments_takes_no_value():
    parser = OneLineErrors("tool.py")
    parser.add_argument("folder")
    add_flags(parser, Settings, ("quick_mode",), alone=True)
    found = parser.parse_args(["--quick_mode", "runs/digits"])
    assert found.quick_mode and found.folder == "runs/digits" and not hasattr(found, "count")


# Run in a fresh process: the status of a command, its lines, and what it has imported when it answers.
ANSWER = """
import contextlib, io, runpy, sys
sys.argv = sys.argv[1:]
said = io.StringIO()
with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        status = end.code
print(status, said.getvalue().count("\\n"), *{module.split(".")[0] for module in sys.modules})
"""
SLOW = {"torch", "diffusers", "transformers", "accelerate", "datasets", "numpy"}
CALLS = """\
train --help
train --dataset_name=digits --learning_rat=1
train --dataset_name=digits --seed=-1
train --dataset_name=swissroll
train --config=training/configs/digits.yaml --ddpm_num_steps=1
evaluate --help
evaluate x --dataset_nam=digits
evaluate x --dataset_name=digits --scheduler=ddim
evaluate src --dataset_name=swissroll
evaluate src --dataset_name=digits --likelihood_flow=5
evaluate src --dataset_name=digits --reference_split=test
calibrate --help
calibrate x --dataset_nam=digits
calibrate x --dataset_name=digits
convert --help
convert x
convert x y --image_size=0
convert x y --noise_schedule=sigmoid
publish --help
publish
publish x --repo=y
make_space --help
make_space
make_space x --num_inference_steps=0
""".splitlines()


@pytest.mark.parametrize("call", CALLS)
def test_a_command_answers_before_anything_slow_is_imported(call):
    verb, *words = call.split()
    done = subprocess.run(
        [sys.executable, "-c", ANSWER, f"training/{verb}.py", *words],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    status, lines, *modules = done.stdout.split()
    assert (status, lines) == ("2", "1") if words != ["--help"] else status == "0" and int(lines) > 9
    assert "ddpm_from_scratch" in modules and not SLOW & set(modules)


def test_every_command_is_asked():
    assert {path.stem for path in (ROOT / "training").glob("*.py")} == {call.split()[0] for call in CALLS}


def test_a_flag_may_have_two_numbers(tmp_path, capsys):
    assert parse("--span", "-1024", "3071.5").span == [-1024, 3071.5]
    file = tmp_path / "settings.yaml"
    file.write_text("span: [0, 16]\n")
    assert parse("--config", str(file)).span == [0, 16]
    assert parse("--config", str(file), "--span", "-1", "1").span == [-1, 1]
    assert parse().span is None
    for words in (["--span", "3"], ["--span=3"], ["--span", "a", "b"], ["--span", "1", "2", "3"]):
        refused(capsys, *words)
    for text in ("span: 3", "span: [1]", "span: [1, 2, 3]", "span: [a, b]", "span: {a: 1}", "count: [1, 2]"):
        file.write_text(text)
        refused(capsys, "--config", str(file))


@pytest.mark.parametrize("number", ["-1e3", "-1.5e-05", "-1.", "-.5", "-3", "-1E+2"])
def test_a_negative_number_is_no_flag(number):
    parser = OneLineErrors("tool.py")
    parser.add_argument("--ends", type=float, nargs=2)
    assert parser.parse_args(["--ends", number, "5"]).ends == [float(number), 5]
