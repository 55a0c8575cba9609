"""What the trials of all promises share: counting, runs to compare with, data."""

import functools
import json
import shutil
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from faults import FileOperations
from runs import Finished, digest, train

RAW_WEIGHTS = "unet/diffusion_pytorch_model.non_ema.safetensors"
STOPPED, BAD_SETTING, NOT_FINITE, DISK = 75, 2, 3, 4
EVERY_UPDATE = ("--use_ema", "--checkpointing_steps=1", "--checkpoints_total_limit=1")

Case = Callable[[Path], object]


@dataclass
class Result:
    """How often a promise held.

    Args:
        passed: cases in which it held.
        failures: name of each other case, and why.
        detail: what else was measured.
    """

    passed: int
    failures: dict[str, str]
    detail: str = ""

    @property
    def total(self) -> int:
        """Cases that were tried."""
        return self.passed + len(self.failures)


def try_all(cases: dict[str, Case]) -> Result:
    """Try each case in a folder of its own, two at a time; a case fails by raising."""

    def attempt(item: tuple[str, Case]) -> tuple[str, str | None]:
        name, case = item
        folder = Path(tempfile.mkdtemp(prefix="reliability-"))
        try:
            case(folder)
        except Exception as error:
            reason = str(error)
            return name, f"{type(error).__name__}: {reason[:100]} ... {reason[-700:]}"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return name, None

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(attempt, cases.items()))
    failures = {name: reason for name, reason in results if reason is not None}
    return Result(len(results) - len(failures), failures)


def some(cases: dict[str, Case], sample: bool, count: int) -> dict[str, Case]:
    """Return all cases, or `count` of them, spread evenly, if a sample is asked for."""
    names = list(cases)
    if sample and len(names) > count:
        names = [names[round(i * (len(names) - 1) / max(1, count - 1))] for i in range(count)]
    return {name: cases[name] for name in names}


def require(condition: bool, message: object) -> None:
    """Raise AssertionError, also under python -O."""
    if not condition:
        raise AssertionError(message)


def require_status(done: Finished, status: int) -> None:
    """The run must have ended with this status, and with one line if it is an error of the user's."""
    require(done.returncode == status, f"status {done.returncode}: {done.stderr[-1500:]}")
    if status:
        require("Traceback" not in done.stderr, done.stderr[-1500:])


def weights(folder: Path) -> tuple[str, str]:
    """Return the digests of the averaged and the raw weights."""
    return digest(folder), digest(folder, RAW_WEIGHTS)


_LOCKS: dict[object, threading.Lock] = {}


def once(function: Callable) -> Callable:
    """Return a function that runs once for each set of arguments; a second thread waits for the first."""
    cached = functools.cache(function)

    @functools.wraps(function)
    def call(*args, **kwargs):
        key = (function, args, tuple(sorted(kwargs.items())))
        with _LOCKS.setdefault(key, threading.Lock()):
            return cached(*args, **kwargs)

    return call


@once
def straight(*more: str, processes: int = 1, data: tuple[str, ...] = ("--dataset_name=digits",)) -> tuple:
    """Return the digests that an uninterrupted run with these flags comes to."""
    folder = Path(tempfile.mkdtemp(prefix="straight-"))
    require_status(train(folder / "run", *more, processes=processes, data=data), 0)
    result = weights(folder / "run")
    shutil.rmtree(folder)
    return result


def resume(folder: Path, *more: str, **options) -> Finished:
    """Resume a run with `latest`; it must come to its end."""
    done = train(folder, *more, "--resume_from_checkpoint=latest", **options)
    require_status(done, 0)
    return done


def require_resumes_identical(folder: Path, *more: str, **options) -> None:
    """The run must resume unaided, and end as the uninterrupted one does."""
    resume(folder, *more, **options)
    require(weights(folder) == straight(*more, **options), "resumed, but to other weights")


def operations(folder: Path, *more: str) -> list[list[str]]:
    """Return the file operations of a whole run: [name, path]."""
    log = folder / "operations.jsonl"
    counting = FileOperations(str(folder / "run"), log=str(log))
    require_status(train(folder / "run", *more, faults=[counting]), 0)
    return [json.loads(line) for line in log.read_text().splitlines()]


def finished_run(folder: Path) -> Path:
    """Return a copy of a run with the checkpoints 2 and 4."""
    shutil.copytree(_finished(), folder / "run")
    return folder / "run"


@once
def _finished() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="finished-")) / "run"
    require_status(train(folder, "--use_ema", "--checkpointing_steps=2"), 0)
    return folder


@once
def image_folder() -> str:
    """Return a folder of 16 small images that stays until the end of the program."""
    folder = Path(tempfile.mkdtemp(prefix="images-"))
    generator = np.random.default_rng(0)
    for index in range(16):
        pixels = generator.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
    return str(folder)


def folder_data(folder: str | Path, *more: str) -> tuple[str, ...]:
    """Return the flags that train on a folder of images."""
    cache = Path(folder).with_name(Path(folder).name + "-cache")
    return (f"--train_data_dir={folder}", "--resolution=8", f"--cache_dir={cache}", *more)
