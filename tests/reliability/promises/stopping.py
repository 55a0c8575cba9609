"""How runs end: signals, dead processes, diverging losses."""

import contextlib
import functools
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from faults import AtUpdate, InMethod, NonFinite
from runs import TRAINING, Run, digest, flags, train

from .trials import (
    NOT_FINITE,
    STOPPED,
    Case,
    Result,
    require,
    require_resumes_identical,
    require_status,
    resume,
    some,
    try_all,
)


def signals(sample: bool) -> Result:
    """A signal to any process leads to a checkpoint within a step, status 75 and an identical resumed run."""
    more = ("--use_ema", "--checkpointing_steps=100", "--save_images_epochs=1", "--train_batch_size=1437")
    more += ("--ddpm_num_inference_steps=20", "--eval_batch_size=8")
    quick = ("--use_ema", "--checkpointing_steps=100")

    def case(
        how: Callable[[], None], arguments: tuple[str, ...], processes: int, step: int, folder: Path
    ) -> None:
        run = folder / "run"
        began = time.monotonic()
        done = train(run, *arguments, processes=processes, faults=[how])
        require_status(done, STOPPED)
        require(time.monotonic() - began < 25, "took longer than 25 s")
        require((run / f"checkpoint-{step}").is_dir(), f"{os.listdir(run)}: {done.stderr[-500:]}")
        require_resumes_identical(run, *arguments, processes=processes)

    def twice(folder: Path) -> None:
        """The second signal comes while the first one's checkpoint is being written, slowly."""
        run = Run(flags(folder / "run", "--max_train_steps=100000"), faults=[_SlowSave()])
        _wait_for(folder / "run" / "logs" / "metrics.jsonl")
        run.send(signal.SIGTERM)
        time.sleep(1.5)
        run.send(signal.SIGTERM)
        began = time.monotonic()
        done = run.wait(20)
        require(done.returncode == 128 + signal.SIGTERM, f"status {done.returncode}")
        require(time.monotonic() - began < 2, "did not exit at once")

    def launcher(folder: Path) -> None:
        run = folder / "run"
        arguments = ("--use_ema", "--checkpointing_steps=100", "--max_train_steps=3000")
        with _launched(run, *arguments) as process:
            _wait_for(run / "logs" / "metrics.jsonl")
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            process.wait(40)
            require(time.monotonic() - began < 25, "took longer than 25 s")
            require(process.returncode != 0, "the launcher says that all went well")
        (saved,) = run.glob("checkpoint-*")
        step = int(saved.name.split("-")[1])
        end = (
            "--use_ema",
            "--checkpointing_steps=100",
            f"--max_train_steps={step + 2}",
            "--lr_scheduler=constant",
        )
        done = train(run, *end, "--resume_from_checkpoint=latest", "--allow_recipe_change", processes=2)
        require_status(done, 0)
        require(f"from update {step}" in done.stdout, done.stdout)

    workers = ("--dataloader_num_workers=2",)
    cases: dict[str, Case] = {
        "SIGTERM in an update": functools.partial(case, AtUpdate(2, signal.SIGTERM), quick, 1, 2),
        "SIGUSR1 in an update": functools.partial(case, AtUpdate(2, signal.SIGUSR1), quick, 1, 2),
        "SIGINT in an update": functools.partial(case, AtUpdate(3, signal.SIGINT), quick, 1, 3),
        "SIGTERM to the second of two": functools.partial(
            case, AtUpdate(2, signal.SIGTERM, rank=1), quick, 2, 2
        ),
        "SIGUSR1 to the first of two": functools.partial(
            case, AtUpdate(2, signal.SIGUSR1, rank=0), quick, 2, 2
        ),
        "SIGTERM during a save": functools.partial(
            case, InMethod("_about", signal.SIGTERM, call=2), ("--use_ema", "--checkpointing_steps=1"), 1, 3
        ),
        "SIGTERM while sampling": functools.partial(
            case, InMethod("save_samples", signal.SIGTERM), more, 1, 1
        ),
        "SIGTERM to one of two that sample": functools.partial(
            case, InMethod("save_samples", signal.SIGTERM, rank=1), more, 2, 1
        ),
        "SIGTERM to a group with loader workers": functools.partial(
            case, _ToGroup(2), (*quick, *workers), 1, 2
        ),
        "a second signal": twice,
        "SIGTERM to the launcher": launcher,
    }
    return try_all(some(cases, sample, 5))


@dataclass
class _SlowSave:
    """Let a checkpoint take a quarter of a minute."""

    def __call__(self) -> None:
        from ddpm_from_scratch.training.trainer import Trainer

        original = Trainer.save_checkpoint

        def save_checkpoint(trainer):
            deadline = time.monotonic() + 15
            while time.monotonic() < deadline:
                time.sleep(0.05)
            original(trainer)

        Trainer.save_checkpoint = save_checkpoint


@dataclass
class _ToGroup:
    """Send SIGTERM to this process and all its children when an update begins."""

    update: int

    def __call__(self) -> None:
        from ddpm_from_scratch.training.trainer import Trainer

        os.setpgrp()
        original = Trainer.train_update

        def train_update(trainer, batches):
            if trainer.update + 1 == self.update:
                os.killpg(os.getpgrp(), signal.SIGTERM)
            return original(trainer, batches)

        Trainer.train_update = train_update


def _wait_for(path: Path, seconds: float = 90) -> None:
    """Wait until a file has something in it."""
    deadline = time.monotonic() + seconds
    while not (path.exists() and path.stat().st_size):
        require(time.monotonic() < deadline, f"{path} did not appear")
        time.sleep(0.1)


@contextlib.contextmanager
def _launched(run: Path, *more: str):
    """Start two processes with PyTorch's launcher, as a user does."""
    script = TRAINING / "train.py"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        "--standalone",
        str(script),
    ]
    process = subprocess.Popen(
        [*command, *flags(run, *more)],
        env=os.environ | {"ACCELERATE_USE_CPU": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def dead_process(sample: bool) -> Result:
    """If a process dies, the launcher ends with an error, nothing is left running, and the run resumes."""
    more = ("--use_ema", "--checkpointing_steps=1", "--checkpoints_total_limit=2", "--max_train_steps=2000")

    def case(rank: int, after: int, folder: Path) -> None:
        run = folder / "run"
        with _launched(run, *more) as process:
            _wait_for(run / f"checkpoint-{after}" / "manifest.json")
            children = _descendants(process.pid)
            workers = [pid for pid in children if _rank_of(pid) == str(rank)]
            require(bool(workers), f"no process of rank {rank} among {children}")
            os.kill(workers[0], signal.SIGKILL)
            began = time.monotonic()
            process.wait(90)
            seconds = time.monotonic() - began
            require(process.returncode != 0 and seconds < 60, f"status {process.returncode}, {seconds:.0f} s")
            time.sleep(0.5)
            left = [pid for pid in children if _is_running(pid)]
            require(not left, f"still running: {left}")
        newest = max(int(path.name.split("-")[1]) for path in run.glob("checkpoint-*"))
        end = (*more[:-1], f"--max_train_steps={newest + 2}")
        done = train(run, *end, "--resume_from_checkpoint=latest", "--allow_recipe_change", processes=2)
        require_status(done, 0)

    cases = {
        f"process {rank} after update {after}": functools.partial(case, rank, after)
        for rank, after in itertools.product((0, 1), (1, 2, 3, 5, 8))
    }
    return try_all(some(cases, sample, 1))


def _descendants(pid: int) -> list[int]:
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *_descendants(int(child))]
    return found


def _rank_of(pid: int) -> str | None:
    entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((entry[5:].decode() for entry in entries if entry.startswith(b"RANK=")), None)


def _is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def non_finite(sample: bool) -> Result:
    """Loss or gradient not finite: skipped in all processes, counted, never saved; too many end the run."""
    more = ("--use_ema", "--max_train_steps=6", "--checkpointing_steps=1")

    def case(
        what: str, value: float, updates: tuple[int, ...], processes: int, rank: int, steps: int, folder: Path
    ):
        run = folder / "run"
        fault = NonFinite(updates, what, value, rank)
        accumulation = f"--gradient_accumulation_steps={steps}"
        done = train(run, *more, accumulation, processes=processes, faults=[fault])
        require_status(done, 0)
        results = json.loads((run / "results.json").read_text())["training"]
        require(results["skipped_nonfinite_updates"] == len(updates), results)
        import torch
        from safetensors.torch import load_file

        for path in run.rglob("*.safetensors"):
            require(all(bool(torch.isfinite(t).all()) for t in load_file(path).values()), f"poisoned: {path}")
        # A skipped update leaves the weights as they were.
        before, after = (
            digest(run / f"checkpoint-{step}", "model.safetensors") for step in (updates[0] - 1, updates[0])
        )
        require(before == after, "the skipped update changed the weights")

    def too_many(folder: Path) -> None:
        run = folder / "run"
        fault = NonFinite(tuple(range(3, 7)), "loss", math.nan)
        done = train(run, *more, "--max_nonfinite_steps=3", faults=[fault])
        require_status(done, NOT_FINITE)
        require("3 updates in a row" in done.stderr, done.stderr)
        require(not (run / "model_index.json").exists(), "exported")
        resume(run, *more, "--max_nonfinite_steps=3")

    cases: dict[str, Case] = {}
    for what, value, (processes, rank) in itertools.product(
        ("loss", "gradient", "sample"), (math.nan, math.inf), ((1, 0), (2, 0), (2, 1))
    ):
        label = f"{value} in the {what}, process {rank + 1} of {processes}"
        updates = (2,) if what == "loss" else (3, 4)
        steps = 2 if what == "gradient" else 1
        cases[label] = functools.partial(case, what, value, updates, processes, rank, steps)
    cases["first and last update"] = functools.partial(case, "loss", math.nan, (2, 6), 1, 0, 1)
    cases["too many in a row"] = too_many
    return try_all(some(cases, sample, 5))
