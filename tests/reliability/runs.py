"""Training runs in processes of their own, started in a moment, with faults injected where a test wants them.

A run is forked from a server process that has imported everything already, so it starts in milliseconds, not
in ten seconds, and is otherwise what `python training/train.py` is: it has its own pid, can be killed, and
several of them make a distributed run.
"""

import contextlib
import faulthandler
import functools
import hashlib
import multiprocessing
import multiprocessing.forkserver
import os
import random
import runpy
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

TRAINING = Path(__file__).resolve().parents[2] / "training"
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
        faults: called in each process before training starts; picklable.
        script: a file to run in place of train.py.
    """

    def __init__(
        self,
        argv: Sequence[str],
        processes: int = 1,
        faults: Sequence[Callable[[], None]] = (),
        script: Path | None = None,
    ):
        with _STATUSES:
            context = _context()
        self._folder = Path(tempfile.mkdtemp(prefix="run-"))
        self.began = time.monotonic()
        common = {"ACCELERATE_USE_CPU": "true"}
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
            arguments = (list(argv), common | own, str(output), list(faults), script)
            process = context.Process(target=_run, args=arguments)
            with _STATUSES:
                process.start()
            self.processes.append(process)

    def send(self, number: int, rank: int | None = None) -> None:
        """Send a signal to one process, or to all."""
        for process in self.processes if rank is None else [self.processes[rank]]:
            if _is_alive(process):
                os.kill(process.pid, number)

    def wait(self, timeout: float = 300) -> Finished:
        """Wait for the end of all processes; kill them, and raise TimeoutError, if it takes too long.

        The error has each process's exit status, and where those were that had not ended.
        """
        deadline = time.monotonic() + timeout
        for process in self.processes:
            wait([process.sentinel], max(0.0, deadline - time.monotonic()))
        late = [process.pid for process in self.processes if _is_alive(process)]
        if late:
            codes = {process.pid: process.exitcode for process in self.processes}
            self.send(signal.SIGUSR2)  # see _run: it writes where it is
            time.sleep(1)
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
            raise TimeoutError(f"longer than {timeout} s; exit statuses {codes}:\n{stderr[-6000:]}")
        codes = [process.exitcode for process in self.processes]
        return Finished(
            next((code for code in codes if code), 0), stdout, stderr, time.monotonic() - self.began
        )


# A process's status comes through a pipe, once. Starting a process asks for the status of all others too, and
# of two threads that ask at the same time one finds the pipe empty and takes the status for 255.
_STATUSES = threading.Lock()


def _is_alive(process: Any) -> bool:
    with _STATUSES:
        return process.is_alive()


@functools.cache
def _context() -> Any:
    """Return the multiprocessing context whose server has imported the training code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["preload"])
    # The server finds what to import by this variable only, and says nothing if it does not.
    before = os.environ.get("PYTHONPATH")
    here = [str(Path(__file__).parent), str(TRAINING)]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*here, before]))
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context


def _free_port() -> int:
    """Return a port below those from which a system takes the ports of connections."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as server, contextlib.suppress(OSError):
            server.bind(("127.0.0.1", port))
            return port


def _run(
    argv: list[str],
    env: dict[str, str],
    output: str,
    faults: list[Callable[[], None]],
    script: Path | None,
) -> None:
    """Be one process of a run, as `python training/train.py` is, or of another script."""
    assert "preload" in sys.modules, "the server has not imported the training code"
    import torch

    os.environ.update(env)
    for name, descriptor in (("out", 1), ("err", 2)):
        file = os.open(f"{output}.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
    sys.stdin, sys.stdout, sys.stderr = open(os.devnull), os.fdopen(1, "w"), os.fdopen(2, "w")  # noqa: SIM115
    faulthandler.enable(sys.stderr)
    faulthandler.register(signal.SIGUSR2, sys.stderr)
    sys.argv = [str(script or TRAINING / "train.py"), *argv]
    torch.set_num_threads(1)
    for fault in faults:
        fault()
    import train

    status = 1
    try:
        if script is None:
            status = train.main(argv)
        else:
            runpy.run_path(str(script), run_name="__main__")
            status = 0
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
