"""Random streams that depend on what they are for and on nothing else.

Every random number of a run comes from a stream named by (seed, purpose, where): the order of epoch 3, the
noise of step 117 on rank 1. So the result of a run does not depend on how often it is sampled, evaluated,
saved or resumed.
"""

import numpy as np

PURPOSES = (
    "model",
    "order",
    "augmentation",
    "noise",
    "timesteps",
    "dropout",
    "samples",
    "evaluation",
    "labels",
    "likelihood",
    "calibration",
)


def stream_seed(seed: int, purpose: str, *where: int) -> int:
    """Return the 63-bit seed of one stream (numpy's SeedSequence hash, stable across machines and versions).

    Args:
        seed: the run's seed.
        purpose: one of `PURPOSES`.
        where: integers that tell streams of one purpose apart, such as step and rank.
    """
    words = np.random.SeedSequence([seed, PURPOSES.index(purpose), *where]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))
