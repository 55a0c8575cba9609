"""Requests to the Hub that get through: tried again when it is busy or the connection drops."""

import time
from collections.abc import Callable
from typing import Any

from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

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
