"""What a training run promises: each row tries one promise and counts how often it held."""

from collections.abc import Callable

from . import reading, repeating, saving, stopping
from .trials import Result

ROWS: dict[str, Callable[[bool], Result]] = {
    "same command twice": repeating.same_command_twice,
    "resume": repeating.resume_grid,
    "checkpointing observes": repeating.observers,
    "kill -9 anywhere": saving.killed,
    "durable checkpoint": saving.durable,
    "damaged file": saving.damaged,
    "state formats": saving.no_pickle,
    "signals": stopping.signals,
    "disk full, EIO": saving.disk_errors,
    "bad image": reading.bad_images,
    "empty, few, wrong column": reading.small_data,
    "non-finite": stopping.non_finite,
    "bad flag": reading.bad_flags,
    "another recipe": repeating.changed_recipes,
    "resume path": repeating.resume_path,
    "learning rate": repeating.learning_rate,
    "a process dies": stopping.dead_process,
    "other world size": repeating.other_world_size,
    "export": saving.export,
    "half precision": reading.half_precision,
    "stream": reading.stream_memory,
}
