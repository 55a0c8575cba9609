"""Random streams are named, and a name has the same numbers in every version."""

import itertools

import pytest

from ddpm_from_scratch.runtime.seeds import PURPOSES, stream_seed


def test_no_two_streams_share_a_seed():
    places = ((1,), (2,), (1, 2), (2, 1))
    names = list(itertools.product((0, 1), PURPOSES, places))
    seeds = {stream_seed(seed, purpose, *where) for seed, purpose, where in names}
    assert len(seeds) == len(names) == 88 and min(seeds) >= 0 and max(seeds) < 2**63


def test_the_seeds_are_those_of_earlier_versions():
    """A resumed run goes on with the random numbers of the version that began it."""
    assert stream_seed(0, "model") == 7896617691693857887
    assert stream_seed(3, "noise", 117, 1) == 1756603051919658863
    with pytest.raises(ValueError):
        stream_seed(0, "luck")
