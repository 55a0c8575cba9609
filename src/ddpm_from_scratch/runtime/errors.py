"""How a run can end other than well: each error is one line for the user, and has its exit status."""

import sys
from collections.abc import Callable
from pathlib import Path

from .processes import rank

# What runs if no script of a user or of ours does: python -c and -m, a prompt, a notebook.
_NO_SCRIPTS = ("", "-c", "-m", "__main__.py", "ipykernel_launcher.py")


def say(message: str, program: str | None = None) -> None:
    """Say one line on standard error, and go on.

    Args:
        message: the line.
        program: that it begins with; the script that runs if not given.
    """
    name = Path(sys.argv[0]).name
    print(f"{program or ('ddpm_from_scratch' if name in _NO_SCRIPTS else name)}: {message}", file=sys.stderr)


def warn(message: str, program: str | None = None) -> None:
    """Say one line of warning, as `say` does."""
    say(f"warning: {message}", program)


def say_error(program: str, error: Exception) -> None:
    """Say on standard error, in one line, why a process of a program ends."""
    who = f"{program}, process {rank()}" if rank() else program
    kind = "" if isinstance(error, Stopped) else "error: "
    print(f"{who}: {kind}{' '.join(str(error).split())}", file=sys.stderr)


class RunError(Exception):
    """An end of the run that is not a defect of the program; the message is one line."""

    status = 1


class ConfigError(RunError, ValueError):
    """A setting or data that cannot be used; the message names it and what is allowed."""

    status = 2


class NonFiniteError(RunError):
    """Training that has diverged; the message says what to change."""

    status = 3


class StorageError(RunError):
    """A disk that is full or failing; the message has the path and the bytes needed and free."""

    status = 4


class UploadError(RunError):
    """The Hub refused, or cannot be reached; the message says what to do. What was trained is saved."""

    status = 5


def exit_status(program: str, work: Callable[[], object], *mendable: type[Exception]) -> int:
    """Do the work of a command and return its exit status; any but 0 comes with one line on what to do.

    Args:
        program: name of the command.
        work: what it does.
        mendable: kinds of exceptions, beside RunError, that the user can mend; their status is 2.
    """
    try:
        work()
    except RunError as error:
        say_error(program, error)
        return error.status
    except mendable as error:
        say_error(program, error)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


class Stopped(RunError):
    """The run was asked to stop, and all its processes agreed. The status is EX_TEMPFAIL: try again."""

    status = 75
