"""Faults to inject into a run: each is installed by calling it in the process of the run, before training."""

import builtins
import io
import json
import math
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


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
    """Send a signal to this process when an update begins.

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
        from ddpm_from_scratch.training.trainer import Trainer

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
        from ddpm_from_scratch.training.trainer import Trainer

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
        what: where the value comes in: "loss", "gradient" or "sample", or "loss alone", which leaves the
            gradient finite.
        value: nan or inf.
        rank: in which process.
    """

    updates: Sequence[int]
    what: str = "loss"
    value: float = math.nan
    rank: int = 0

    def __call__(self) -> None:
        """Install."""
        from ddpm_from_scratch.training import trainer as module

        original = module.denoising_losses

        def denoising_losses(denoiser: Any, samples: Any, *args: Any, **kwargs: Any) -> Any:
            run = self.trainer
            if run.update + 1 not in self.updates or run.accelerator.process_index != self.rank:
                return original(denoiser, samples, *args, **kwargs)
            if self.what == "sample":
                samples = samples.clone()
                samples[0] = self.value
            losses = original(denoiser, samples, *args, **kwargs)
            if self.what == "loss":
                losses = losses * self.value
            elif self.what == "loss alone":
                losses = losses + self.value
            elif self.what == "gradient":
                losses.register_hook(lambda gradient: gradient * self.value)
            return losses

        update = module.Trainer.train_update

        def train_update(trainer: Any, batches: Any) -> Any:
            self.trainer = trainer
            return update(trainer, batches)

        module.denoising_losses, module.Trainer.train_update = denoising_losses, train_update


@dataclass
class NetworksAtTheEnd:
    """Count the networks that still hold the process group when it is destroyed.

    Args:
        report: file that gets the number, a line for each process.
    """

    report: str

    def __call__(self) -> None:
        """Install."""
        import gc

        import torch

        original = torch.distributed.destroy_process_group

        def destroy(*args: Any) -> None:
            alive = sum(type(item).__name__ == "DistributedDataParallel" for item in gc.get_objects())
            with open(self.report, "a") as file:
                file.write(f"{alive}\n")
            original(*args)

        torch.distributed.destroy_process_group = destroy


@dataclass
class ShardOnCpu:
    """Run under FSDP2 on CPUs.

    Accelerate shards on GPUs only and would silently take DDP here, so it is told that these processes are
    GPU processes, after it has chosen the CPU and gloo.

    Args:
        report: JSON file that gets the number of processes, of parameters, and of sharded ones.
    """

    report: str

    def __call__(self) -> None:
        """Install."""
        from accelerate.state import PartialState
        from accelerate.utils import DistributedType
        from torch.distributed.tensor import DTensor

        from ddpm_from_scratch.training.trainer import Trainer

        os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
        os.environ.pop("ACCELERATE_USE_CPU", None)
        PartialState(cpu=True)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        original = Trainer.run

        def run(trainer: Any, *observers: Any) -> None:
            if trainer.accelerator.is_main_process:
                parameters = list(trainer.state.network.parameters())
                seen = {
                    "num_processes": trainer.accelerator.num_processes,
                    "parameters": len(parameters),
                    "sharded": sum(isinstance(parameter, DTensor) for parameter in parameters),
                    "held": sum(
                        p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in parameters
                    ),
                    "whole": sum(parameter.numel() for parameter in parameters),
                }
                with open(self.report, "w") as file:
                    json.dump(seen, file)
            original(trainer, *observers)

        Trainer.run = run
