"""Requests are tried again where that can help, and only there."""

import types

import pytest
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from ddpm_from_scratch.hub import requests


def answer(status):
    response = types.SimpleNamespace(status_code=status, headers={}, request=None)
    return HfHubHTTPError(f"status {status}", response=response)


@pytest.fixture
def waited(monkeypatch):
    """The seconds that were waited, without waiting them."""
    seconds = []
    monkeypatch.setattr(requests.time, "sleep", seconds.append)
    return seconds


def tries(errors):
    """Return a request that raises these errors, one a call, and then returns its number of calls."""
    left = list(errors)

    def request():
        if left:
            raise left.pop(0)
        return len(errors) + 1

    return request


@pytest.mark.parametrize(
    "error", [answer(429), answer(500), answer(503), requests.CONNECTION_ERRORS[-1]("x")]
)
def test_a_busy_hub_and_a_dropped_connection_are_tried_again(error, waited):
    assert requests.patiently(tries([error] * 3)) == 4
    assert waited == [1, 2, 4]
    with pytest.raises(type(error)):
        requests.patiently(tries([error] * 4))


@pytest.mark.parametrize("error", [answer(401), answer(404), OfflineModeIsEnabled("x"), ValueError("x")])
def test_what_another_try_cannot_help_is_raised_at_once(error, waited):
    with pytest.raises(type(error)):
        requests.patiently(tries([error]))
    assert waited == []


def test_the_status_of_an_error_is_what_the_hub_answered():
    assert requests.status_of(answer(403)) == 403
    assert requests.status_of(ConnectionError()) is None
