"""Which pipeline a scheduler works for: diffusers does not tell it, so the stack of calls is asked."""

import sys
from types import FrameType
from typing import Any

from diffusers import DiffusionPipeline

# The pipeline is this near; callers further out are those of the pipeline.
_DEPTH = 12


def calling_pipeline(method: str, scheduler: Any) -> DiffusionPipeline | None:
    """Return the pipeline whose method is at work and that has this very scheduler as its `scheduler`.

    Args:
        method: "__call__" or "save_pretrained".
        scheduler: what a pipeline may have beside for something else, such as a prior's, is not meant.
    """
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_DEPTH):
        if frame is None:
            return None
        # Only frames of that name are opened: it makes a copy of their variables.
        if frame.f_code.co_name == method and frame.f_code.co_varnames[:1] == ("self",):
            owner = frame.f_locals.get("self")
            if isinstance(owner, DiffusionPipeline):
                return owner if getattr(owner, "scheduler", None) is scheduler else None
        frame = frame.f_back
    return None
