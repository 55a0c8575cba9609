"""Settings that are given and do nothing in this run: each is said in one line, and the run goes on."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Only:
    """What another setting must be for a setting to have an effect.

    Args:
        setting: name of the other one.
        values: that it must have; anything but its being absent, off or 0 if not given.
        unless: values that it must not have, in place of `values`.
    """

    setting: str
    values: tuple[Any, ...] = ()
    unless: tuple[Any, ...] = ()

    def holds(self, settings: Mapping[str, Any]) -> bool:
        """Return whether it is so."""
        value = settings[self.setting]
        if self.unless:
            return value not in self.unless
        return value in self.values if self.values else bool(value)

    def in_words(self, settings: Mapping[str, Any]) -> str:
        """Return why the setting has no effect, as the end of a sentence."""
        if self.unless or self.values in ((None,), (False,)):
            value = settings[self.setting]
            return f"with --{self.setting}{'' if value is True else f' {value}'} it does nothing"
        one = " or ".join(map(str, self.values))
        return f"only --{self.setting}{f' {one}' if self.values else ''} uses it"


def unused(
    given: Collection[str], settings: Mapping[str, Any], rules: Mapping[str, tuple[Only, ...] | str]
) -> list[str]:
    """Return one line for each given setting that has no effect.

    Args:
        given: names of the settings that a person gave.
        settings: name -> value of all of them.
        rules: name -> what must be so for it to have an effect, all of it; or why it never has one.
    """
    lines = []
    for name in given:
        rule = rules.get(name, ())
        if isinstance(rule, str):
            lines.append(f"--{name} is given, but has no effect: {rule}.")
            continue
        missing = next((only for only in rule if not only.holds(settings)), None)
        if missing is not None:
            lines.append(f"--{name} is given, but {missing.in_words(settings)}.")
    return lines
