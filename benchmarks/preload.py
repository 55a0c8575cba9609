"""Imported once by the server from which runs.py forks its runs: everything that train.py imports."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "training"))

import datasets  # noqa: E402, F401
import matplotlib.figure  # noqa: E402, F401
import sklearn.datasets  # noqa: E402, F401
import sklearn.model_selection  # noqa: E402, F401

import evaluate  # noqa: E402, F401
import prepare  # noqa: E402, F401
import report  # noqa: E402, F401
import train  # noqa: E402, F401
import trainer  # noqa: E402, F401
