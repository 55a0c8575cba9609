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


def test_a_hub_that_nobody_could_ask_is_said_with_what_can_be_done(monkeypatch):
    wrapped = OSError("no such file")
    wrapped.__cause__ = ConnectionError("no route")
    monkeypatch.setattr(requests.constants, "HF_HUB_OFFLINE", False)
    words = requests.offline_words("me/cats", wrapped, "dataset")
    assert words.startswith("offline (the Hub cannot be reached): the dataset 'me/cats' is no folder here")
    assert "hf download me/cats --repo-type dataset --local-dir cats; then give the folder cats." in words
    monkeypatch.setattr(requests.constants, "HF_HUB_OFFLINE", True)
    words = requests.offline_words("me/unet", OfflineModeIsEnabled("x"))
    assert "HF_HUB_OFFLINE is set" in words and "hf download me/unet --local-dir unet;" in words


@pytest.mark.parametrize("error", [answer(404), answer(503), ValueError("x"), OSError("x")])
def test_a_hub_that_answered_is_not_called_offline(error):
    assert requests.offline_words("me/cats", error) is None
