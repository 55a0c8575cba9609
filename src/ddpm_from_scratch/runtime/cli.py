"""Command lines: flags made from the fields of a dataclass, a file with the same names, errors of one line.

A field made by `flag` holds all that is to know of a setting: its default, its help, its bounds, when it has
an effect, and what a resumed run may do with it. A `Literal` says which words it may be. Nothing here loads
torch, so that a wrong flag is answered at once.
"""

import argparse
import dataclasses
import difflib
import itertools
import math
import os
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from .errors import ConfigError, warn
from .processes import rank
from .unused import Only, unused

Settings = TypeVar("Settings")

# What may differ when a run is resumed.
FREE, ALLOWED, FIXED = "free", "with --allow_recipe_change", "never"
# Attribute of parsed settings: the names of those that the command line or its file gave.
GIVEN = "given"


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Where a number may be; it is finite in any case.

    Args:
        least: the smallest.
        most: the largest.
        above: a number that it is larger than, in place of `least`.
        below: a number that it is smaller than, in place of `most`.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def check(self, name: str, value: float | None) -> None:
        """Raise ConfigError if a setting is out of bounds; None, for a setting that is not given, is not."""
        if value is None:
            return
        inside = (
            math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )
        if not inside:
            raise ConfigError(f"--{name} is {value}, but must be {self._in_words(isinstance(value, int))}.")

    def _in_words(self, is_integer: bool) -> str:
        low = self.above if self.least is None else self.least
        high = self.below if self.most is None else self.most
        if low is not None and high is not None:
            opening, closing = "[" if self.above is None else "(", "]" if self.below is None else ")"
            return f"{'inside' if opening + closing == '()' else 'in'} {opening}{low:g}, {high:g}{closing}"
        sides = {"of at least": self.least, "above": self.above, "of at most": self.most, "below": self.below}
        words = " ".join(f"{word} {side:g}" for word, side in sides.items() if side is not None)
        return words.removeprefix("of ") if is_integer else f"a finite number {words}".rstrip()


def flag(
    default: Any,
    help: str,
    *,
    on_resume: str = FIXED,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    is_path: bool = False,
    used_with: Only | tuple[Only, ...] | str = (),
    replaces: tuple[str, ...] = (),
) -> Any:
    """Return the field of a setting.

    Args:
        default: its value if it is not given.
        help: one sentence on what it does.
        on_resume: whether a resumed run may have another value: FREE, ALLOWED or FIXED.
        least: see `Bounds`.
        most: likewise.
        above: likewise.
        below: likewise.
        is_path: whether it may be a path, in which ~ is the home folder.
        used_with: what else must be so for it to have an effect, or why it never has one (see unused.py).
        replaces: settings of a file that a flag of this name on the command line takes the place of.
    """
    about = {
        "help": help,
        "on_resume": on_resume,
        "bounds": Bounds(least, most, above, below),
        "is_path": is_path,
        "used_with": (used_with,) if isinstance(used_with, Only) else used_with,
        "replaces": replaces,
    }
    return dataclasses.field(default=default, metadata=about)


def expand_home(settings: Any) -> None:
    """Write out ~ in the settings of a dataclass that may be paths."""
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if item.metadata["is_path"] and value is not None:
            setattr(settings, item.name, os.path.expanduser(value))


def rules_of(settings: type) -> dict[str, tuple[Only, ...] | str]:
    """Return when each setting of a dataclass has an effect: name -> rule (see unused.py)."""
    return {item.name: item.metadata["used_with"] for item in dataclasses.fields(settings)}


def check_bounds(settings: Any) -> None:
    """Raise ConfigError for the first number of a dataclass that is outside the bounds of its field."""
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            item.metadata["bounds"].check(item.name, value)


class OneLineErrors(argparse.ArgumentParser):
    """A parser whose errors are one line and exit status 2, with the nearest flag for an unknown one.

    Args:
        prog: name of the command.
        description: what it does.
        options: others of argparse's parser.
    """

    def __init__(self, prog: str, description: str | None = None, **options: Any):
        super().__init__(prog=prog, description=description, allow_abbrev=False, **options)
        # argparse has no public way to say that -1e3 and -1. are numbers, not flags.
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")

    def error(self, message: str) -> NoReturn:
        """Print the message and exit."""
        print(f"{self.prog}: error: {message}", file=sys.stderr)
        sys.exit(2)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the values of a command line."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            known = re.findall(r"--\w+", self.format_usage())
            close = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
            hint = f"did you mean {close[0]}?" if close else "see --help for the flags."
            self.error(f"unknown argument {unknown[0]!r}; {hint}")
        return found

    def given(self, args: Sequence[str] | None = None) -> list[str]:
        """Return the names of the settings that a command line gives, in the order of the flags."""
        defaults = [(action, action.default) for action in self._actions]
        try:
            for action, _ in defaults:
                action.default = argparse.SUPPRESS
            found = vars(self.parse_args(args))
        finally:
            for action, default in defaults:
                action.default = default
        return list(dict.fromkeys(action.dest for action, _ in defaults if action.dest in found))


def say_unused(
    prog: str,
    given: Collection[str],
    settings: Mapping[str, Any],
    rules: Mapping[str, tuple[Only, ...] | str],
) -> None:
    """Say each given setting that has no effect, in one line on standard error; the first process does.

    Args:
        prog: name of the command.
        given: see `unused`.
        settings: likewise.
        rules: likewise.
    """
    if rank() == 0:
        for line in unused(given, settings, rules):
            warn(line, prog)


def _truth(text: str) -> bool:
    """Return what a word says of a switch."""
    words = {"yes": True, "true": True, "t": True, "y": True, "1": True}
    words |= {"no": False, "false": False, "f": False, "n": False, "0": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false.")
    return words[text.lower()]


def kind_of(hint: Any) -> Any:
    """Return the type of a setting that may also be None; text of one that may be a number or text."""
    if get_origin(hint) in (Literal, tuple) or not get_args(hint):
        return hint
    kinds = [option for option in get_args(hint) if option is not type(None)]
    return str if str in kinds else kinds[0]


def add_flags(
    parser: Any,
    settings: type,
    names: Collection[str] | None = None,
    *,
    alone: bool = False,
) -> None:
    """Add the flags of a dataclass to a parser or a group of one.

    A flag may be spelled with hyphens, too. A switch is `--flag`, `--flag=true` or `--flag=false`, and
    `--no_flag` if it is on by default.

    Args:
        parser: to add to.
        settings: a dataclass whose fields are made by `flag`.
        names: of the fields; all if not given.
        alone: a switch stands alone, for commands whose next word may be something else than its value.
    """
    hints = get_type_hints(settings)
    for item in dataclasses.fields(settings):
        if names is not None and item.name not in names:
            continue
        kind = kind_of(hints[item.name])
        options: dict[str, Any] = {
            "default": item.default,
            "help": item.metadata["help"].replace("%", "%%"),
            "dest": item.name,
        }
        if get_origin(kind) is Literal:
            options["choices"] = get_args(kind)
        elif get_origin(kind) is tuple:  # of numbers of one type
            options |= {"type": get_args(kind)[0], "nargs": len(get_args(kind))}
        elif kind is bool and alone:
            options["action"] = "store_true"
        elif kind is bool:
            options |= {"type": _truth, "nargs": "?", "const": True, "metavar": "true|false"}
        else:
            options["type"] = os.path.expanduser if item.metadata["is_path"] else kind
        parser.add_argument(*_spellings(item.name), **options)
        if kind is bool and item.default is True:
            parser.add_argument(
                *_spellings(f"no_{item.name}"), action="store_false", dest=item.name,
                default=argparse.SUPPRESS, help=f"Turn --{item.name} off.",
            )  # fmt: skip


def _spellings(name: str) -> list[str]:
    return sorted({f"--{name}", f"--{name.replace('_', '-')}"}, reverse=True)  # with underscores first


def _flags_of_file(path: str, settings: type, parser: OneLineErrors) -> dict[str, list[str]]:
    """Return the settings of a YAML file as command-line flags by name, so that both are checked alike."""
    import yaml

    try:
        given = yaml.safe_load(Path(path).expanduser().read_text())
    except OSError as error:
        parser.error(f"--config {path!r} cannot be read: {error.strerror}.")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        parser.error(f"--config {path!r} is not valid YAML: {' '.join(str(error).split())}.")
    if not isinstance(given, dict):
        parser.error(f"--config {path!r} must hold 'name: value' lines.")
    hints = get_type_hints(settings)
    names = [item.name for item in dataclasses.fields(settings)]
    flags: dict[str, list[str]] = {}
    for name, value in given.items():
        if name not in names:
            close = difflib.get_close_matches(str(name), names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "see --help for the names."
            parser.error(f"--config {path!r} has an unknown setting {name!r}; {hint}")
        kind = kind_of(hints[name])
        if value is False and "no" in get_args(kind):
            value = "no"  # YAML reads a bare no as false
        if get_origin(kind) is tuple and isinstance(value, list):
            flags[name] = [f"--{name}", *map(str, value)]
        elif isinstance(value, (dict, list)):
            parser.error(f"--config {path!r}: {name} must be one value, got {value!r}.")
        elif value is not None:
            flags[name] = [f"--{name}={value}"]
    return flags


def _replace_in_file(
    from_file: dict[str, list[str]], argv: Sequence[str], settings: type, parser: OneLineErrors
) -> None:
    """Take out of the settings of a file what a flag of the command line stands in place of, and say so."""
    if not from_file:
        return
    on_line = parser.given(argv)
    for item in dataclasses.fields(settings):
        gone = [name for name in item.metadata["replaces"] if name in from_file and name not in on_line]
        if item.name in on_line and gone:
            said = ", ".join(from_file.pop(name)[0].removeprefix("--").replace("=", " ", 1) for name in gone)
            text = f"--{item.name} takes the place of {said} in the file, whose other settings stay"
            if rank() == 0:
                print(f"{parser.prog}: {text}", file=sys.stderr)


def parse_settings(
    settings: type[Settings], prog: str, description: str, argv: Sequence[str] | None = None
) -> Settings:
    """Return the dataclass of a command line; print one line and exit with status 2 if it cannot be used.

    `--config` names a YAML file with any of the settings; flags win over it. What is given and has no effect
    is said. The names of all that is given are the attribute `GIVEN`.

    Args:
        settings: a dataclass whose fields are made by `flag`.
        prog: name of the command.
        description: what it does.
        argv: the flags; those of this process if not given.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = OneLineErrors(prog, description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_flags(parser, settings)
    parser.add_argument(
        "--config", metavar="FILE.yaml", help="File with any of these settings; flags win over it."
    )
    config_only = OneLineErrors(prog, add_help=False)
    config_only.add_argument("--config")
    file = config_only.parse_known_args(argv)[0].config
    from_file = _flags_of_file(file, settings, parser) if file else {}
    _replace_in_file(from_file, argv, settings, parser)
    given = [*itertools.chain(*from_file.values()), *argv]
    found = vars(parser.parse_args(given))
    try:
        made = settings(**{name: value for name, value in found.items() if name != "config"})
    except ConfigError as error:
        parser.error(str(error))
    names = parser.given(given)
    say_unused(prog, names, found, rules_of(settings))
    vars(made)[GIVEN] = frozenset(names) - {"config"}
    return made
