"""What is on the disk: checkpoints and exports under kill -9, damage and full disks."""

import errno
import functools
import itertools
import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import runs
from ddpm_from_scratch.hub.code_file import code_file
from faults import FileOperations
from runs import Finished, Run, flags, train

from .trials import (
    BAD_SETTING,
    DISK,
    EVERY_UPDATE,
    RAW_WEIGHTS,
    Case,
    Result,
    finished_run,
    folder_data,
    image_folder,
    operations,
    require,
    require_resumes_identical,
    require_status,
    resume,
    some,
    straight,
    try_all,
    weights,
)


def killed(sample: bool) -> Result:
    """After kill -9 at any moment, `latest` resumes unaided, loses at most an interval and ends identical."""
    with tempfile.TemporaryDirectory() as counted:
        performed = operations(Path(counted), *EVERY_UPDATE)
    began = time.monotonic()
    straight(*EVERY_UPDATE)
    seconds = time.monotonic() - began

    def check(run: Path, done: Finished) -> None:
        require(done.returncode == -signal.SIGKILL, f"was not killed: {done.returncode} {done.stderr[-500:]}")
        log = run / "logs" / "metrics.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        trained = max([json.loads(line)["step"] for line in lines if line.endswith("}")], default=0)
        again = resume(run, *EVERY_UPDATE)
        start = int(again.stdout.split("from update ")[1].split()[0]) if "from update" in again.stdout else 0
        require(start >= trained - 1, f"lost more than one interval: {trained} -> {start}")
        require(weights(run) == straight(*EVERY_UPDATE), "other weights")

    def at_operation(number: int, folder: Path) -> None:
        run = folder / "run"
        check(run, train(run, *EVERY_UPDATE, faults=[FileOperations(str(run), at=number)]))

    def at_time(delay: float, folder: Path) -> None:
        run = Run(flags(folder / "run", *EVERY_UPDATE, "--max_train_steps=4"))
        time.sleep(delay)
        run.send(signal.SIGKILL)
        done = run.wait()
        if done.returncode == 0:
            raise AssertionError("ended before it was killed")
        check(folder / "run", done)

    numbers = sorted({round(1 + i * (len(performed) - 1) / 49) for i in range(50)})
    cases: dict[str, Case] = {
        f"operation {n} ({' '.join(performed[n - 1])})": functools.partial(at_operation, n) for n in numbers
    }
    generator = random.Random(0)
    times = [generator.uniform(0.05, 0.6) * seconds for _ in range(20)]
    chosen = some(cases, sample, 6) | some(
        {f"{i}. after {delay:.2f} s": functools.partial(at_time, delay) for i, delay in enumerate(times)},
        sample,
        2,
    )
    return try_all(chosen)


def durable(sample: bool) -> Result:
    """The order of the file operations of a save."""

    def case(folder: Path) -> None:
        performed = [tuple(entry) for entry in operations(folder, *EVERY_UPDATE)]
        for step in range(1, 5):
            temporary = f".tmp-checkpoint-{step}"
            renamed = performed.index(("rename", temporary))
            files = [
                path for operation, path in performed if operation == "write" and path.startswith(temporary)
            ]
            require(
                len(files) >= 5 and files[-1] == f"{temporary}/manifest.json",
                f"manifest is not last: {files}",
            )
            for path in (*files, temporary):
                require(("fsync", path) in performed[:renamed], f"{path} is not flushed before the rename")
            require(performed[renamed + 1] == ("fsync", "."), "the parent folder is not flushed")
            if step > 1:
                deleted = performed.index(("rename", f"checkpoint-{step - 1}"))
                require(deleted > renamed, "the old checkpoint goes before the new one is there")

    return try_all({"operation log": case})


def damaged(sample: bool) -> Result:
    """A torn, missing or changed file is named; `latest` falls back; an explicit path is an error."""

    def flip(path: Path, where: float) -> None:
        content = bytearray(path.read_bytes())
        content[min(int(len(content) * where), len(content) - 1)] ^= 1
        path.write_bytes(content)

    damages: dict[str, Callable[[Path], object]] = {
        "missing": Path.unlink,
        "empty": lambda path: path.write_bytes(b""),
        "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        "one bit flipped": lambda path: flip(path, 0.6),
        "last bit flipped": lambda path: flip(path, 1),
    }

    def case(name: str, damage: Callable[[Path], object], folder: Path) -> None:
        run = finished_run(folder)
        bad = run / "checkpoint-4"
        damage(bad / name)
        done = train(run, "--use_ema", "--checkpointing_steps=2", f"--resume_from_checkpoint={bad}")
        require_status(done, BAD_SETTING)
        require(str(bad / name) in done.stderr, f"not named: {done.stderr}")
        done = resume(run, "--use_ema", "--checkpointing_steps=2")
        require(name in done.stderr and "from update 2" in done.stdout, f"no fall-back: {done.stderr[-500:]}")
        require(weights(run) == straight("--use_ema", "--checkpointing_steps=2"), "other weights")

    names = ("model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json", "manifest.json")
    cases = {
        f"{name}, {word}": functools.partial(case, name, damage)
        for name, (word, damage) in itertools.product(names, damages.items())
    }
    return try_all(some(cases, sample, 5))


def no_pickle(sample: bool) -> Result:
    """Nothing that a run writes can be code, but for the package's own that goes with the pipeline."""

    def case(folder: Path) -> None:
        run = finished_run(folder)
        for path in run.rglob("*"):
            if path == run / "pipeline.py":
                require(path.read_text() == code_file("pipeline_ddpm_from_scratch"), path)
            elif path.is_file():
                require(path.suffix in (".safetensors", ".json", ".jsonl", ".png", ".md"), path)
                # A pickle begins with its protocol, an archive of torch.save with "PK".
                require(not path.read_bytes().startswith((b"\x80", b"PK")), path)

    return try_all({"all files": case})


def disk_errors(sample: bool) -> Result:
    """A full or failing disk: a line with path and bytes, old checkpoints intact, no remains, resumable."""
    with tempfile.TemporaryDirectory() as counted:
        performed = operations(Path(counted), *EVERY_UPDATE)
    first = next(i for i, (_, path) in enumerate(performed, 1) if path == ".tmp-checkpoint-2")
    writing = [
        number
        for number, (name, path) in enumerate(performed, 1)
        if number >= first and name in ("open", "write", "fsync", "mkdir", "replace")
    ]

    def case(error: int, number: int, folder: Path) -> None:
        run = folder / "run"
        done = train(run, *EVERY_UPDATE, faults=[FileOperations(str(run), at=number, error=error)])
        require_status(done, DISK)
        (line,) = [line for line in done.stderr.splitlines() if "error:" in line]
        require(str(run) in line and "bytes" in line and "free" in line, line)
        require(bool(list(run.glob("checkpoint-*"))), "no checkpoint left")
        require(not list(run.glob(".tmp-checkpoint-*")), f"remains: {os.listdir(run)}")
        require_resumes_identical(run, *EVERY_UPDATE)

    cases: dict[str, Case] = {}
    for error in (errno.ENOSPC, errno.EIO):
        for i in range(10):
            number = writing[round(i * (len(writing) - 1) / 9)]
            name = f"{os.strerror(error)} at {' '.join(performed[number - 1])} ({number})"
            cases[name] = functools.partial(case, error, number)
    return try_all(some(cases, sample, 4))


def export(sample: bool) -> Result:
    """Killed at any point of an export, the folder holds one pipeline that stock diffusers loads."""
    # Here, because an import that several threads begin at once can fail.
    import torch
    from diffusers import DDPMPipeline

    more = ("--use_ema", "--train_batch_size=16", "--save_model_epochs=1", "--checkpointing_steps=100")
    data = folder_data(image_folder())
    with tempfile.TemporaryDirectory() as counted:
        log = Path(counted) / "log"
        counting = FileOperations(str(Path(counted) / "run"), log=str(log))
        require_status(train(Path(counted) / "run", *more, data=data, faults=[counting]), 0)
        performed = [json.loads(line) for line in log.read_text().splitlines()]
    first = performed.index(["replace", ".tmp-export/model_index.json"]) + 2
    numbers = [round(first + i * (len(performed) - first) / 19) for i in range(20)]

    def case(number: int, folder: Path) -> None:
        run = folder / "run"
        done = train(run, *more, data=data, faults=[FileOperations(str(run), at=number)])
        require(done.returncode == -signal.SIGKILL, f"was not killed: {done.returncode}")
        pipeline = DDPMPipeline.from_pretrained(run)
        require(all(bool(torch.isfinite(p).all()) for p in pipeline.unet.parameters()), "not finite")
        files = {p.name for p in (run / "unet").iterdir()}
        require(files <= {"config.json", Path(runs.WEIGHTS).name, Path(RAW_WEIGHTS).name}, files)

    cases = {f"operation {n} ({' '.join(performed[n - 1])})": functools.partial(case, n) for n in numbers}
    return try_all(some(cases, sample, 3))
