"""Functions that compute figures, as a command that prints them."""

import argparse
from collections.abc import Callable, Sequence

Figures = dict[str, float]


def print_figures(
    functions: Sequence[Callable[[], Figures]], description: str | None, argv: list[str] | None
) -> None:
    """Print the figures of the functions that are named on the command line, or of all.

    Args:
        functions: without arguments; the first line of the docstring is printed above their figures.
        description: of the command.
        argv: words of the command line; None for those of this program.
    """
    known = {function.__name__: function for function in functions}
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; all if not given")
    names = parser.parse_args(argv).names
    if wrong := [name for name in names if name not in known]:
        parser.error(f"there is no {wrong[0]!r}; choose from {', '.join(known)}.")
    for number, (name, function) in enumerate(known.items(), start=1):
        if not names or name in names:
            print(f"{number}. {name}: {(function.__doc__ or '').strip().splitlines()[0]}")
            for figure, value in function().items():
                print(f"   {figure:28} {value:.6g}")
