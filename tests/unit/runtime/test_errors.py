"""Every end of a command has its exit status and one line."""

import pytest

from ddpm_from_scratch.runtime.errors import (
    ConfigError,
    NonFiniteError,
    Stopped,
    StorageError,
    UploadError,
    exit_status,
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
