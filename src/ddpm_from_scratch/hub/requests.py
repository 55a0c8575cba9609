"""Requests to the Hub that get through: tried again when it is busy; and words for when there is no way."""

import time
from collections.abc import Callable
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

# How long to wait before a request is tried again.
_RETRY_SECONDS = (1, 2, 4)
# The client's own error class is one of those that its HTTP library raises for a dropped connection.
CONNECTION_ERRORS: tuple[type[Exception], ...] = (
    ConnectionError,
    *(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError"),
)


def patiently(request: Callable[[], Any], errors: tuple[type[Exception], ...] = CONNECTION_ERRORS) -> Any:
    """Return what a request returns, after up to three more tries if the Hub is busy or the connection drops.

    Args:
        request: what to do.
        errors: after which it may be tried again.

    Raises:
        huggingface_hub.errors.HfHubHTTPError, ConnectionError: the last try failed, or another would, too.
    """
    for delay in _RETRY_SECONDS:
        try:
            return request()
        except OfflineModeIsEnabled:
            raise
        except errors as error:
            status = status_of(error)
            if status is not None and status != 429 and status < 500:
                raise
        time.sleep(delay)
    return request()


def status_of(error: Exception) -> int | None:
    """Return the status that the Hub answered with; None if it did not answer."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def offline_words(name: str, error: BaseException, repo_type: str = "model") -> str | None:
    """Return one line on a repository that nobody could be asked for; None if the Hub did answer.

    Args:
        name: of the repository.
        error: what came of looking for it.
        repo_type: model or dataset.
    """
    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(inner)
    no_way = (*CONNECTION_ERRORS, OfflineModeIsEnabled, LocalEntryNotFoundError)
    if any(getattr(one, "response", None) is not None for one in chain):
        return None
    if not any(isinstance(one, no_way) for one in chain):
        return None
    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the Hub cannot be reached"
    kind, folder = "" if repo_type == "model" else f" --repo-type {repo_type}", name.rsplit("/", 1)[-1]
    return (
        f"offline ({why}): the {repo_type} {name!r} is no folder here and not in the cache. Where there is a "
        f"connection: hf download {name}{kind} --local-dir {folder}; then give the folder {folder}."
    )
