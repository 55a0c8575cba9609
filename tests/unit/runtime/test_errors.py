"""Every end of a command has its exit status and one line, which names the program that runs."""

import sys

import pytest

from ddpm_from_scratch.runtime.errors import (
    ConfigError,
    NonFiniteError,
    Stopped,
    StorageError,
    UploadError,
    exit_status,
    say,
    warn,
)


def failing(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("a\n b"), 2),
        (NonFiniteError("a b"), 3),
        (StorageError("a b"), 4),
        (UploadError("a b"), 5),
        (FileNotFoundError("a b"), 2),
    ],
)
def test_an_error_is_one_line_and_has_its_status(error, status, capsys):
    assert exit_status("train.py", failing(error), FileNotFoundError) == status
    assert capsys.readouterr().err == "train.py: error: a b\n"


def test_a_run_that_was_stopped_asks_to_be_started_again_and_names_its_process(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert exit_status("train.py", failing(Stopped("stopped"))) == 75
    assert capsys.readouterr().err == "train.py, process 1: stopped\n"


def test_what_the_user_cannot_mend_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        exit_status("train.py", failing(ZeroDivisionError()), FileNotFoundError)
    assert exit_status("train.py", failing(KeyboardInterrupt())) == 130
    assert exit_status("train.py", lambda: "done") == 0


@pytest.mark.parametrize(
    ("started", "named"),
    [
        ("training/evaluate.py", "evaluate.py"), ("/home/me/my_run.py", "my_run.py"),
        ("-c", "ddpm_from_scratch"), ("", "ddpm_from_scratch"),
        ("/usr/lib/pytest/__main__.py", "ddpm_from_scratch"),
    ],
)  # fmt: skip
def test_a_line_begins_with_the_program_that_runs(started, named, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [started, "--dataset_name=digits"])
    warn("that is odd")
    say("starting anew")
    warn("that is odd", "train.py")
    assert capsys.readouterr().err == (
        f"{named}: warning: that is odd\n{named}: starting anew\ntrain.py: warning: that is odd\n"
    )
