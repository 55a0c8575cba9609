"""Runs that repeat: the same command, resumed runs, and what may change when a run is resumed."""

import functools
import itertools
import json
import math
import shutil
import signal
import tempfile
from pathlib import Path

from faults import AtUpdate
from runs import train

from .trials import (
    BAD_SETTING,
    EVERY_UPDATE,
    STOPPED,
    Case,
    Result,
    finished_run,
    folder_data,
    image_folder,
    once,
    require,
    require_resumes_identical,
    require_status,
    resume,
    some,
    straight,
    try_all,
    weights,
)


def same_command_twice(sample: bool) -> Result:
    """Two runs of one command are identical."""

    def case(processes: int, folder: Path) -> None:
        require_status(train(folder / "again", "--use_ema", processes=processes), 0)
        require(weights(folder / "again") == straight("--use_ema", processes=processes), "other weights")

    return try_all({f"{n} process(es)": functools.partial(case, n) for n in (1, 2)})


def resume_grid(sample: bool) -> Result:
    """A run that was stopped and resumed is identical to one that was not."""

    def case(
        data: tuple[str, ...], more: tuple[str, ...], processes: int, workers: int, stop_at: int, folder: Path
    ):
        out, workers_flag = folder / "run", f"--dataloader_num_workers={workers}"
        stopping = AtUpdate(stop_at, signal.SIGTERM)
        done = train(out, *more, workers_flag, data=data, processes=processes, faults=[stopping])
        require_status(done, STOPPED)
        require((out / f"checkpoint-{stop_at}").is_dir(), f"no checkpoint-{stop_at}: {done.stderr[-500:]}")
        resume(out, *more, workers_flag, data=data, processes=processes)
        # Workers are no part of the recipe: the uninterrupted run had none.
        require(weights(out) == straight(*more, data=data, processes=processes), "other weights")

    cases: dict[str, Case] = {}
    sets = {
        "digits": ("--dataset_name=digits",),
        "folder": folder_data(image_folder()),
        "stream": folder_data(image_folder(), "--streaming", "--shuffle_buffer_size=6"),
    }
    for name, processes, steps, workers in itertools.product(sets, (1, 2), (1, 2, 4), (0, 2)):
        per_update = 2 * processes * steps
        points = {"mid-epoch": 2}
        if name != "digits":  # 16 images
            points = {
                "mid-epoch": 16 // per_update + 1 if per_update > 4 else 3,
                "epoch end": 16 // per_update,
            }
        for where, stop_at in points.items():
            more = ("--use_ema", "--train_batch_size=2", f"--gradient_accumulation_steps={steps}")
            more += (f"--max_train_steps={stop_at + 3}",)
            label = f"{name}, {where}, {processes} process(es), accumulation {steps}, {workers} workers"
            cases[label] = functools.partial(case, sets[name], more, processes, workers, stop_at)
    more = ("--use_ema", "--train_batch_size=479", "--max_train_steps=5")  # 3 x 479 digits are an epoch
    cases["digits, epoch end"] = functools.partial(case, sets["digits"], more, 1, 0, 3)
    return try_all(some(cases, sample, 7))


def observers(sample: bool) -> Result:
    """Checkpoints, sampling and exports change nothing, however often."""
    settings = {
        "never": (),
        "every update": (
            *EVERY_UPDATE,
            "--save_images_epochs=1",
            "--save_model_epochs=1",
            "--train_batch_size=16",
        ),
        "every second": ("--checkpointing_steps=2", "--logging_steps=3", "--eval_batch_size=7"),
    }

    def case(more: tuple[str, ...], folder: Path) -> None:
        require_status(train(folder / "run", "--use_ema", *more), 0)
        require(weights(folder / "run") == straight("--use_ema"), "other weights")

    return try_all({name: functools.partial(case, more) for name, more in settings.items()})


def changed_recipes(sample: bool) -> Result:
    """Another recipe on resume is refused with old and new; safe ones are accepted if that is asked for."""
    changes = {
        "schedule": ("ddpm_beta_schedule", "linear", False),
        "prediction type": ("prediction_type", "sample", False),
        "T": ("ddpm_num_steps", "30", False),
        "batch": ("train_batch_size", "8", True),
        "resolution": ("resolution", "12", False),
        "learning rate": ("learning_rate", "0.001", True),
        "EMA": ("ema_max_decay", "0.5", True),
    }

    def case(name: str, value: str, is_safe: bool, folder: Path) -> None:
        run = folder / "run"
        data = folder_data(image_folder())
        more = (
            "--use_ema",
            "--checkpointing_steps=2",
            f"--{name}={value}",
            "--resume_from_checkpoint=checkpoint-2",
        )
        shutil.copytree(_finished_on_images(), run)
        before = weights(run)
        done = train(run, *more, data=data)
        require_status(done, BAD_SETTING)
        require(f"{name}: " in done.stderr and f"-> {value}" in done.stderr, done.stderr)
        done = train(run, *more, "--allow_recipe_change", data=data)
        require_status(done, 0 if is_safe else BAD_SETTING)
        require((weights(run) == before) != is_safe, "weights")

    return try_all(some({k: functools.partial(case, *v) for k, v in changes.items()}, sample, 4))


@once
def _finished_on_images() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="finished-")) / "run"
    data = folder_data(image_folder())
    require_status(train(folder, "--use_ema", "--checkpointing_steps=2", data=data), 0)
    return folder


def resume_path(sample: bool) -> Result:
    """A path is honoured in full and named in errors; stray folders are ignored; used ones refused."""
    more = ("--use_ema", "--checkpointing_steps=2")

    def full_path(folder: Path) -> None:
        finished_run(folder)
        other = folder / "other"
        require_status(train(other, *more, "--seed=7"), 0)
        done = train(other, *more, f"--resume_from_checkpoint={folder / 'run' / 'checkpoint-2'}")
        require_status(done, 0)
        require(weights(other) == straight(*more), "another checkpoint of the same name was taken")

    def missing(folder: Path) -> None:
        run = finished_run(folder)
        done = train(run, *more, f"--resume_from_checkpoint={folder / 'nowhere' / 'checkpoint-2'}")
        require_status(done, BAD_SETTING)
        require(str(folder / "nowhere" / "checkpoint-2") in done.stderr, done.stderr)

    def stray(folder: Path) -> None:
        run = finished_run(folder)
        for name in ("checkpoint-best", "checkpoint-9.bak", "checkpoint-", "my-checkpoint-99"):
            (run / name).mkdir()
        require_resumes_identical(run, *more)
        other = run / "checkpoint-77"
        other.write_text("a file")
        done = train(run, *more, "--resume_from_checkpoint=latest")
        require_status(done, BAD_SETTING)
        require("checkpoint-77" in done.stderr and other.read_text() == "a file", done.stderr)

    def used(folder: Path) -> None:
        run = finished_run(folder)
        before = weights(run)
        done = train(run, *more)
        require_status(done, BAD_SETTING)
        require("--overwrite_output_dir" in done.stderr and weights(run) == before, done.stderr)

    def overwritten(folder: Path) -> None:
        run = finished_run(folder)
        require_status(train(run, *more, "--seed=7", "--overwrite_output_dir"), 0)
        require(weights(run) == straight(*more, "--seed=7"), "the earlier run was not cleared")

    cases = {
        "full path": full_path, "missing path": missing, "stray folders": stray, "used folder": used,
        "overwritten folder": overwritten,
    }  # fmt: skip
    return try_all(cases)


def learning_rate(sample: bool) -> Result:
    """The learning rate counts optimizer updates, whatever the accumulation and the number of processes."""

    def curve(steps: int, processes: int, folder: Path) -> list[float]:
        run = folder / "run"
        more = (f"--gradient_accumulation_steps={steps}", "--max_train_steps=6", "--train_batch_size=4")
        require_status(train(run, *more, processes=processes), 0)
        return [json.loads(line)["lr"] for line in (run / "logs" / "metrics.jsonl").read_text().splitlines()]

    # Linear warm-up over 2 updates to 1e-4, then half a cosine to 0 at update 6; logged after each update.
    expected = [5e-5, *(5e-5 * (1 + math.cos(math.pi * (n - 2) / 4)) for n in range(2, 7))]

    def case(steps: int, processes: int, folder: Path) -> None:
        found = curve(steps, processes, folder)
        require(max(abs(a - b) for a, b in zip(found, expected, strict=True)) < 1e-9, found)

    cases = {
        f"accumulation {steps}, {processes} process(es)": functools.partial(case, steps, processes)
        for steps, processes in itertools.product((1, 2, 4), (1, 2))
    }
    return try_all(some(cases, sample, 3))


def other_world_size(sample: bool) -> Result:
    """Another number of processes on resume is refused, or accepted by a flag with the order stated."""
    more = ("--use_ema", "--checkpointing_steps=2")

    def case(first: int, second: int, folder: Path) -> None:
        run = folder / "run"
        require_status(train(run, *more, processes=first), 0)
        wanted = (*more, "--resume_from_checkpoint=checkpoint-2")
        done = train(run, *wanted, processes=second)
        require_status(done, BAD_SETTING)
        require(f"num_processes: {first} -> {second}" in done.stderr, done.stderr)
        done = train(run, *wanted, "--allow_recipe_change", processes=second)
        require_status(done, 0)
        require("samples go on in the same order" in done.stderr, done.stderr)
        seen = json.loads((run / "results.json").read_text())["training"]["samples_seen"]
        require(seen == 2 * 16 * first + 2 * 16 * second, f"{seen} samples")

    return try_all({"2 -> 1": functools.partial(case, 2, 1), "1 -> 2": functools.partial(case, 1, 2)})
