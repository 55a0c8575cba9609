"""Training runs in processes of their own, started in a moment, with faults injected where a test wants them.

A run is forked from a server process that has imported everything already, so it starts in milliseconds, not
in ten seconds, and is otherwise what `python training/train.py` is: it has its own pid, can be killed, and
several of them make a distributed run.
"""

import builtins
import errno
import functools
import hashlib
import io
import json
import math
import multiprocessing
import multiprocessing.forkserver
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TRAINING = Path(__file__).resolve().parent.parent / "training"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"

# A network and a schedule so small that a run takes about a second.
TINY = [
    "--model_config_name_or_path=tiny",
    "--train_batch_size=16",
    "--lr_warmup_steps=2",
    "--ddpm_num_steps=20",
    "--ddpm_beta_schedule=squaredcos_cap_v2",
    "--eval_batch_size=4",
    "--logging_steps=1",
    "--max_train_steps=4",
]


@dataclass
class Finished:
    """How a run ended; for several processes, the worst status and the output of all."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float


class Run:
    """A run under way.

    Args:
        argv: flags of train.py.
        processes: how many processes train together.
        env: environment variables on top of this process's.
        faults: called in each process before training starts; picklable.
    """

    def __init__(
        self,
        argv: Sequence[str],
        processes: int = 1,
        env: dict[str, str] | None = None,
        faults: Sequence[Callable[[], None]] = (),
    ):
        context = _context()
        self._folder = Path(tempfile.mkdtemp(prefix="run-"))
        self.began = time.monotonic()
        common = {"ACCELERATE_USE_CPU": "true", **(env or {})}
        if processes > 1:
            common |= {
                "WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(_free_port()),
            }
        self.processes = []
        for rank in range(processes):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
            output = self._folder / str(rank)
            process = context.Process(target=_run, args=(list(argv), common | own, str(output), list(faults)))
            process.start()
            self.processes.append(process)

    def send(self, number: int, rank: int | None = None) -> None:
        """Send a signal to one process, or to all."""
        for process in self.processes if rank is None else [self.processes[rank]]:
            if process.is_alive():
                os.kill(process.pid, number)

    def wait(self, timeout: float = 300) -> Finished:
        """Wait for the end of all processes; kill them, and raise TimeoutError, if it takes too long."""
        deadline = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        late = [process.pid for process in self.processes if process.is_alive()]
        if late:
            self.send(signal.SIGKILL)
        stdout, stderr = (
            "".join(
                path.read_text()
                for rank in range(len(self.processes))
                if (path := self._folder / f"{rank}.{name}").exists()
            )
            for name in ("out", "err")
        )
        shutil.rmtree(self._folder)
        if late:
            raise TimeoutError(f"processes {late} ran longer than {timeout} s:\n{stderr[-2000:]}")
        codes = [process.exitcode for process in self.processes]
        return Finished(
            next((code for code in codes if code), 0), stdout, stderr, time.monotonic() - self.began
        )


@functools.cache
def _context() -> Any:
    """Return the multiprocessing context whose server has imported the training code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["preload"])
    # The server finds what to import by this variable only, and says nothing if it does not.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), before]))
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _run(argv: list[str], env: dict[str, str], output: str, faults: list[Callable[[], None]]) -> None:
    """Be one process of a run, as `python training/train.py` is."""
    assert "preload" in sys.modules, "the server has not imported the training code"
    import torch

    os.environ.update(env)
    for name, descriptor in (("out", 1), ("err", 2)):
        file = os.open(f"{output}.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
    sys.stdin, sys.stdout, sys.stderr = open(os.devnull), os.fdopen(1, "w"), os.fdopen(2, "w")  # noqa: SIM115
    sys.argv = [str(TRAINING / "train.py"), *argv]
    torch.set_num_threads(1)
    for fault in faults:
        fault()
    import train

    status = 1
    try:
        status = train.main(argv)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    sys.exit(status)


def flags(output_dir: Path, *more: str, data: Sequence[str] = ("--dataset_name=digits",)) -> list[str]:
    """Return the flags of a tiny run on the digits; later flags win."""
    return [*data, *TINY, f"--output_dir={output_dir}", *more]


def train(
    output_dir: Path,
    *more: str,
    data: Sequence[str] = ("--dataset_name=digits",),
    processes: int = 1,
    faults: Sequence[Callable[[], None]] = (),
    timeout: float = 300,
) -> Finished:
    """Run a tiny training to its end."""
    return Run(flags(output_dir, *more, data=data), processes, faults=faults).wait(timeout)


def digest(output_dir: Path, name: str = WEIGHTS) -> str:
    """Return the SHA-256 of the exported weights."""
    return hashlib.sha256((output_dir / name).read_bytes()).hexdigest()


# ---- faults


@dataclass
class FileOperations:
    """Count what a process does to files below a folder; at operation `at`, do something to it.

    Counted are opening to write, writing, flushing to the disk, renaming, deleting and making folders, in
    Python and, as one operation each, the writer of safetensors. A write is done half before a kill.

    Args:
        below: the folder.
        at: number of the operation, from 1; None only counts.
        error: raise this errno, also at later writes; None kills the process with SIGKILL.
        log: file that gets a line for each operation.
    """

    below: str
    at: int | None = None
    error: int | None = None
    log: str | None = None
    count: int = 0

    def __call__(self) -> None:
        """Install."""
        import safetensors.torch

        for name in ("open", "mkdir", "rmdir", "unlink", "remove", "rename", "replace"):
            setattr(os, name, self._counted(name, getattr(os, name)))
        self._write, self._fsync = os.write, os.fsync
        os.write, os.fsync = self._write_half, self._named_fsync
        self._paths: dict[int, str] = {}
        io.open = builtins.open = self._counted("open", builtins.open)
        safetensors.torch.save_file = self._counted("save_file", safetensors.torch.save_file)

    def _concerns(self, path: Any) -> bool:
        try:
            return os.path.abspath(os.fspath(path)).startswith(self.below)
        except TypeError:
            return False

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            path = args[1] if name == "save_file" and len(args) > 1 else args[0]
            if name == "save_file" and "filename" in kwargs:
                path = kwargs["filename"]
            directory = kwargs.get("dir_fd")
            if directory is not None:
                path = os.path.join(os.readlink(f"/proc/self/fd/{directory}"), os.fspath(path))
            writes = name != "open" or _opens_to_write(args, kwargs)
            if writes and self._concerns(path):
                self._note(name, path)
            result = function(*args, **kwargs)
            if name == "open" and isinstance(result, int) and self._concerns(path):
                self._paths[result] = os.path.abspath(os.fspath(path))
            return result

        return call

    def _write_half(self, descriptor: int, data: Any) -> int:
        path = self._paths.get(descriptor)
        if path is None:
            return self._write(descriptor, data)
        if self.count + 1 == self.at:
            self._write(descriptor, bytes(data)[: len(data) // 2])
        self._note("write", path)
        return self._write(descriptor, data)

    def _named_fsync(self, descriptor: int) -> None:
        path = self._paths.get(descriptor)
        if path is not None:
            self._note("fsync", path)
        self._fsync(descriptor)

    def _note(self, name: str, path: Any) -> None:
        self.count += 1
        if self.log is not None:
            with _RAW_OPEN(self.log, "a") as file:
                file.write(json.dumps([name, os.path.relpath(os.fspath(path), self.below)]) + "\n")
        if self.at is None or self.count < self.at:
            return
        if self.error is None:
            os.kill(os.getpid(), signal.SIGKILL)
        if name in ("open", "write", "fsync", "mkdir", "rename", "replace"):
            raise OSError(self.error, os.strerror(self.error), os.fspath(path))


_RAW_OPEN = builtins.open


def _opens_to_write(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    mode = kwargs.get("mode", args[1] if len(args) > 1 else "r")
    if isinstance(mode, int):
        return bool(mode & (os.O_WRONLY | os.O_RDWR))
    return any(letter in mode for letter in "wax+")


@dataclass
class AtUpdate:
    """Send a signal to this process, or to its parent, when an update begins.

    Args:
        update: number of the update, from 1.
        signal: what to send.
        rank: in which process; None in all.
    """

    update: int
    signal: int
    rank: int | None = None

    def __call__(self) -> None:
        """Install."""
        from trainer import Trainer

        original = Trainer.train_update

        def train_update(trainer: Any, batches: Any) -> Any:
            here = self.rank in (None, trainer.accelerator.process_index)
            if trainer.update + 1 == self.update and here:
                os.kill(os.getpid(), self.signal)
            return original(trainer, batches)

        Trainer.train_update = train_update


@dataclass
class InMethod:
    """Send a signal to this process as a method of the trainer begins, such as a save or sampling.

    Args:
        method: its name.
        signal: what to send.
        rank: in which process.
        call: at which call, from 1.
    """

    method: str
    signal: int
    rank: int = 0
    call: int = 1
    calls: int = 0

    def __call__(self) -> None:
        """Install."""
        from trainer import Trainer

        original = getattr(Trainer, self.method)

        def method(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self.call and trainer.accelerator.process_index == self.rank:
                os.kill(os.getpid(), self.signal)
            return original(trainer, *args, **kwargs)

        setattr(Trainer, self.method, method)


@dataclass
class NonFinite:
    """Make loss or gradient not finite in some updates.

    Args:
        updates: numbers of the updates, from 1.
        what: "loss", "gradient" or "sample": where the value comes in.
        value: nan or inf.
        rank: in which process.
    """

    updates: Sequence[int]
    what: str = "loss"
    value: float = math.nan
    rank: int = 0
    seen: list[int] = field(default_factory=list)

    def __call__(self) -> None:
        """Install."""
        import trainer as module

        original = module.denoising_losses

        def denoising_losses(model: Any, scheduler: Any, samples: Any, *args: Any, **kwargs: Any) -> Any:
            run = self.trainer
            if run.update + 1 not in self.updates or run.accelerator.process_index != self.rank:
                return original(model, scheduler, samples, *args, **kwargs)
            if self.what == "sample":
                samples = samples.clone()
                samples[0] = self.value
            losses = original(model, scheduler, samples, *args, **kwargs)
            if self.what == "loss":
                losses = losses * self.value
            if self.what == "gradient":
                losses.register_hook(lambda gradient: gradient * self.value)
            return losses

        update = module.Trainer.train_update

        def train_update(trainer: Any, batches: Any) -> Any:
            self.trainer = trainer
            return update(trainer, batches)

        module.denoising_losses, module.Trainer.train_update = denoising_losses, train_update


DISK_FULL, DISK_ERROR = errno.ENOSPC, errno.EIO
