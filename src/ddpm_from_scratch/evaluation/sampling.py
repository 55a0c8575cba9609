"""Samples of a pipeline, shared out over the processes of a run.

The samples come in batches of a given size, each with its own random stream, so for one size they do not
depend on the number of processes. Every process evaluates the network equally often, because the weights
themselves may be spread over the processes, and then all must take part in each evaluation.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather
from tqdm.auto import tqdm

from .. import checks
from ..measures.plots import labelled_grid, point_cloud, sample_grid
from ..networks.models import sample_shape, setting
from ..pipeline_ddpm_from_scratch import DDPMFromScratchPipeline
from ..runtime.seeds import stream_seed
from ..schedulers.visited import default_num_inference_steps


@dataclass(frozen=True)
class Samples:
    """What `generate` made, and what it cost.

    Args:
        samples: float32 on the CPU in the network's units ([-1, 1] for images), shape (N, ...).
        evaluations_per_sample: network evaluations that one sample took; guidance takes two a step.
        seconds_per_sample: wall time of all processes together, divided by N.
    """

    samples: torch.Tensor
    evaluations_per_sample: int
    seconds_per_sample: float


def generate(
    pipeline: DDPMFromScratchPipeline,
    num_samples: int,
    *,
    batch_size: int = 250,
    num_inference_steps: int | None = None,
    seed: int = 0,
    purpose: str = "evaluation",
    guidance_scale: float = 1.0,
    on_step: Callable[[], None] | None = None,
    description: str = "sampling",
) -> Samples:
    """Return samples, the same ones in every process and for every number of processes.

    All processes must call it, after an Accelerator or a PartialState was made. Batch b is dealt to process
    b mod the number of processes; in the last round a process without a batch makes one sample and drops it.
    The labels of a class-conditional network are 0, 1, ..., n-1, 0, 1, ... .

    Args:
        pipeline: on the device of this process.
        num_samples: of all processes together.
        batch_size: samples of one batch; another size gives other samples.
        num_inference_steps: timesteps to visit; the pipeline's default if not given.
        seed: of the samples.
        purpose: which random streams of the seed they come from (see seeds.py).
        guidance_scale: of a class-conditional network that was trained with label dropout; 1 is none.
        on_step: called in every process after each step of the scheduler, equally often; may raise to stop.
        description: what the progress bar says; the main process shows it.

    Raises:
        ValueError, TypeError: a number below 1, or no integer.
        FloatingPointError: samples that are not finite.
    """
    num_samples = checks.integer("num_samples", num_samples, 1)
    batch_size = checks.integer("batch_size", batch_size, 1)
    if num_inference_steps is None:
        num_inference_steps = default_num_inference_steps(pipeline.scheduler)
    num_inference_steps = checks.integer("num_inference_steps", num_inference_steps, 1)
    state = PartialState()
    num_batches = math.ceil(num_samples / batch_size)
    num_rounds = math.ceil(num_batches / state.num_processes)
    pipeline.scheduler.set_timesteps(num_inference_steps)
    evaluations, size, reason, shape = 0, 1, "", sample_shape(pipeline.unet)

    def count(_: Any, inputs: tuple[torch.Tensor, ...], __: Any) -> None:
        nonlocal evaluations
        evaluations += len(inputs[0]) // size  # guidance doubles the batch of a call

    def after_step(*_: Any) -> dict[str, Any]:
        progress.update()
        if on_step is not None:
            on_step()
        return {}

    hidden_before = getattr(pipeline, "_progress_bar_config", {})
    pipeline.set_progress_bar_config(disable=True)
    hook = pipeline.unet.register_forward_hook(count)
    progress = tqdm(
        total=num_rounds * len(pipeline.scheduler.timesteps),
        desc=f"{description} {num_samples}",
        unit="step",
        leave=False,
        disable=not state.is_main_process,
    )
    state.wait_for_everyone()
    began = time.perf_counter()
    batches = []
    try:
        for first in range(0, num_batches, state.num_processes):
            sizes = [
                min(batch_size, num_samples - number * batch_size)
                for number in range(first, min(first + state.num_processes, num_batches))
            ]
            number = first + state.process_index
            size = sizes[state.process_index] if number < num_batches else 1
            generator = torch.Generator().manual_seed(stream_seed(seed, purpose, number))
            labels = torch.arange(number * batch_size, number * batch_size + size)
            options = _label_options(pipeline, labels, guidance_scale)
            try:
                made: torch.Tensor = pipeline(
                    size,
                    generator=generator,
                    num_inference_steps=num_inference_steps,
                    output_type="pt",
                    return_dict=False,
                    callback_on_step_end=after_step,
                    **options,
                )[0].float()
            except FloatingPointError as error:  # perhaps in this process only: the others wait for a batch
                reason, made = f": {error}", torch.full((size, *shape), math.nan, device=pipeline.device)
            made = made * 2 - 1 if made.ndim == 4 else made
            batches += _shared(made, sizes)
    finally:
        hook.remove()
        progress.close()
        pipeline.set_progress_bar_config(**hidden_before)
    samples = torch.cat(batches)
    seconds = time.perf_counter() - began
    if not bool(torch.isfinite(samples).all()):
        raise FloatingPointError(
            "the pipeline makes samples that are not finite; train longer, clip samples, or take another "
            f"checkpoint{reason or '.'}"
        )
    return Samples(samples, evaluations // num_rounds, seconds / num_samples)


def count_classes(pipeline: DDPMFromScratchPipeline) -> int | None:
    """Return the number of classes, without the one that stands for no label; None without labels."""
    num_classes = setting(pipeline.unet, "num_class_embeds")
    if num_classes is not None and pipeline.config.get("null_class_label") is not None:
        return num_classes - 1
    return num_classes


def _label_options(
    pipeline: DDPMFromScratchPipeline, numbers: torch.Tensor, guidance_scale: float
) -> dict[str, Any]:
    """Return the arguments of a class-conditional pipeline for samples of these numbers."""
    num_classes = count_classes(pipeline)
    if num_classes is None:
        return {}
    return {"class_labels": numbers % num_classes, "guidance_scale": guidance_scale}


def _shared(made: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
    """Return the batches of one round in order, on the CPU: that of process i has sizes[i] samples."""
    length = max(sizes)
    padded = made.new_zeros(length, *made.shape[1:])
    padded[: len(made)] = made[:length]
    return [batch[:size].cpu() for batch, size in zip(gather(padded).split(length), sizes, strict=False)]


def names_of_samples(pipeline: DDPMFromScratchPipeline, count: int) -> list[str] | None:
    """Return the class of each of the first samples of `generate`, by name or number; None without any."""
    num_classes = count_classes(pipeline)
    if num_classes is None:
        return None
    names = {int(label): name for label, name in (pipeline.config.get("id2label") or {}).items()}
    return [names.get(number % num_classes, str(number % num_classes)) for number in range(count)]


def save_picture(
    samples: torch.Tensor,
    path: Path,
    reference: torch.Tensor | None = None,
    names: list[str] | None = None,
) -> None:
    """Save samples as PNG: images (N, C, H, W) in [-1, 1] in a grid, points (N, 2) as a cloud over others.

    With the names of their classes, each class has a row. Small images are enlarged; of images without 1 or 3
    channels the first channel is shown.
    """
    if samples.ndim == 2:
        point_cloud(samples.numpy(), path, None if reference is None else reference.numpy())
        return
    images = ((samples + 1) / 2).permute(0, 2, 3, 1).numpy()
    drawable = images if images.shape[-1] in (1, 3) else images[..., :1]
    size = max(1, 48 // max(images.shape[1:3]))
    picture = sample_grid(drawable, None, size) if names is None else labelled_grid(drawable, names, size)
    picture.save(path)
