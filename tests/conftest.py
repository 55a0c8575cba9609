"""Nothing reaches the network. The fixtures are in support/shared_fixtures.py, imported after this."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

pytest_plugins = ("shared_fixtures",)
