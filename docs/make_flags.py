"""Print docs/flags.md: python docs/make_flags.py > docs/flags.md. The text is that of --help."""

from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ddpm_from_scratch.runtime.cli import ALLOWED, FREE
from ddpm_from_scratch.training.config import TrainingConfig

INTRODUCTION = (
    "Printed by `python docs/make_flags.py` from the one dataclass that defines them,\nas is "
    "`python training/train.py --help`.",
    "A YAML file given with `--config` holds the same names; a flag on the command line wins over it.\n"
    "Names are those of diffusers' `train_unconditional.py` where they mean the same.",
    "*On resume* says whether a run may have another value when it is resumed:\n**free**, only **with** "
    "`--allow_recipe_change`, or **never**.",
)


def values_of(hint: Any) -> str:
    """Return what a flag may be, in words."""
    options = [option for option in get_args(hint) if option is not type(None)] if get_args(hint) else [hint]
    if get_origin(hint) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(hint))
    if get_origin(options[0]) is Literal:
        return values_of(options[0])
    if get_origin(options[0]) is tuple:
        return f"{len(get_args(options[0]))} numbers"
    words = {int: "integer", float: "number", str: "text", bool: "true or false"}
    return " or ".join(words[option] for option in options)


def page() -> str:
    """Return the page as Markdown."""
    hints = get_type_hints(TrainingConfig)
    words = {FREE: "free", ALLOWED: "with"}
    rows = ["| flag | values | default | what it does | on resume |", "|---|---|---|---|---|"]
    for flag in fields(TrainingConfig):
        cells = (
            f"`--{flag.name}`",
            values_of(hints[flag.name]),
            "" if flag.default is None else f"`{flag.default}`",
            flag.metadata["help"],
            words.get(flag.metadata["on_resume"], "never"),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n\n".join(["# Flags of training/train.py", *INTRODUCTION, "\n".join(rows)]) + "\n"


if __name__ == "__main__":
    print(page(), end="")
