"""Imported once by the server from which runs.py forks its runs: everything that train.py imports."""

import datasets  # noqa: F401
import matplotlib.figure  # noqa: F401
import sklearn.datasets  # noqa: F401
import sklearn.model_selection  # noqa: F401

import train  # noqa: F401
from ddpm_from_scratch.evaluation import candidates, figures, quality  # noqa: F401
from ddpm_from_scratch.sharing import publish  # noqa: F401
from ddpm_from_scratch.training import (
    prepare,  # noqa: F401
    report,  # noqa: F401
    trainer,  # noqa: F401
)
