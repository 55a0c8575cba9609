"""Every promise of a training run, a few cases of each; reliability.py tries them all."""

import pytest

from promises import ROWS


@pytest.mark.parametrize("name", ROWS)
def test_promise_holds_in_a_sample(name):
    result = ROWS[name](True)
    assert result.passed and not result.failures, result.failures


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_promise_holds(name):
    result = ROWS[name](False)
    assert result.passed and not result.failures, result.failures
