"""Quality of a pipeline: its samples against held-out data, with the floor of the data beside each figure.

Sliced W2 in pixels; then on features (features.py) the Fréchet and the kernel distance, precision and recall,
and a check for copies of training data. Each figure bears the name of its features.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from ..data.datasets import DIGITS_NAME, TrainingData
from ..measures.metrics import unit_directions
from ..pipeline_ddpm_from_scratch import DDPMFromScratchPipeline
from ..runtime.errors import ConfigError
from ..runtime.processes import on_main
from ..schedulers.visited import default_num_inference_steps
from ..words import DEFAULT_VISION_MODEL
from .features import FeatureExtractor, load_features
from .figures import Columns, figures, sliced_figures
from .sampling import Samples, generate, names_of_samples, save_picture

# Four samples are the fewest that the kernel distance and three nearest neighbours can be had from.
MIN_SAMPLES = 4
# Of a larger set, so many training samples, chosen at random, are looked at.
MAX_TRAINING_SAMPLES = 50_000
NUM_IMAGES_SHOWN, NUM_POINTS_SHOWN = 64, 2000


def default_features(data: TrainingData) -> str:
    """Return the features that "auto" stands for."""
    if len(data.sample_shape) == 1:
        return "coordinates"
    return "digit_classifier" if data.name == DIGITS_NAME else DEFAULT_VISION_MODEL


def evaluate(
    pipeline: DDPMFromScratchPipeline,
    data: TrainingData,
    *,
    num_samples: int,
    num_inference_steps: int | None = None,
    seed: int = 0,
    guidance_scale: float = 1.0,
    features: str | FeatureExtractor | Sequence[str | FeatureExtractor] = "auto",
    batch_size: int = 250,
    on_step: Callable[[], None] | None = None,
    reference: TrainingData | None = None,
    cache_dir: str | None = None,
    output_dir: Path | None = None,
) -> dict[str, Any]:
    """Return the figures of `figures.metric_names` and how they came about, in every process.

    All processes must call it; sampling and features are shared out, the figures are computed in the main
    process. Without held-out samples the reference is the training data themselves, which a copying model
    would match best; then the floor is the distance of two parts of them.

    Args:
        pipeline: what to judge, on the device of this process.
        data: what it was trained on, and the held-out part if there is one.
        num_samples: samples to generate; as many training samples give the floor.
        num_inference_steps: timesteps to visit; the pipeline's default if not given.
        seed: of the samples.
        guidance_scale: of classifier-free guidance; 1 is none.
        features: "auto" (see `default_features`), a name (see `load_features`), an extractor, or several.
        batch_size: samples of one batch, in sampling and in the networks of features.
        on_step: called in every process after each step of sampling and batch of features, equally often; may
            raise to stop.
        reference: held-out samples in place of those of `data`.
        cache_dir: folder for downloaded models.
        output_dir: folder to write results.json and a picture of samples, samples.png, to.

    Raises:
        ConfigError: too few samples, data read as a stream, or features that cannot be had.
    """
    state = PartialState()
    training, held_out = sources(data, reference)
    _check_sizes(num_samples, training, held_out)
    extractors = load_extractors(features, data, cache_dir)
    made = generate(
        pipeline, num_samples, batch_size=batch_size, num_inference_steps=num_inference_steps, seed=seed,
        guidance_scale=guidance_scale, on_step=on_step,
    )  # fmt: skip
    samples = Source(num_samples, lambda indices: made.samples[list(indices)])
    projection = _Projection(data.sample_shape, state.device)

    def extracted(source: Source, what: str) -> list[torch.Tensor]:
        return _extract([projection, *extractors], source, batch_size, on_step, f"features of {what}")

    of_samples, of_training = extracted(samples, "samples"), extracted(training, "training data")
    of_held_out: Sequence[torch.Tensor | None] = [None] * len(of_training)
    if held_out is not None:
        of_held_out = extracted(held_out, "held-out data")

    def compared() -> dict[str, Any]:
        results: dict[str, Any] = {"guidance_scale": guidance_scale} if guidance_scale != 1 else {}
        results |= _about(pipeline, data, made, num_inference_steps, seed, batch_size, training, held_out)
        results["features"] = {extractor.name: extractor.description for extractor in extractors}
        projected, *columns = map(Columns, of_samples, of_training, of_held_out)
        results |= sliced_figures(projected)
        for extractor, column in zip(extractors, columns, strict=True):
            results |= figures(column.to(state.device), extractor.name)
        if output_dir is not None:
            names = names_of_samples(pipeline, min(num_samples, NUM_IMAGES_SHOWN))
            _write(output_dir, results, made.samples, held_out or training, names)
        return results

    return on_main(compared)


def load_extractors(
    features: str | FeatureExtractor | Sequence[str | FeatureExtractor],
    data: TrainingData,
    cache_dir: str | None,
) -> list[FeatureExtractor]:
    """Return the extractors that `evaluate` is asked for; arguments and errors as there."""
    device = PartialState().device
    wanted = [features] if isinstance(features, str) or callable(features) else list(features)
    names = [default_features(data) if item == "auto" else item for item in wanted]
    try:
        extractors = [
            load_features(item, data.sample_shape, device, cache_dir) if isinstance(item, str) else item
            for item in names
        ]
    except ConfigError as error:
        if "auto" not in wanted or DEFAULT_VISION_MODEL not in str(error):
            raise
        raise ConfigError(
            f"no features were named, and for pictures the model {DEFAULT_VISION_MODEL} gives them, which "
            "cannot be had here. Where there is a connection: hf download "
            f"{DEFAULT_VISION_MODEL}. Without one, give --features (of train.py: --evaluation_features) the "
            f"folder of a vision model, or pixels, which need nothing. The reason: {error}"
        ) from error
    if len({extractor.name for extractor in extractors}) != len(extractors):
        listed = ", ".join(extractor.name for extractor in extractors)
        raise ConfigError(f"features are {listed}, but each name may come once: leave one out, or rename it.")
    return extractors


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """Write results.json: figures of samples, or the likelihood; what was measured of the other stays."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    try:
        earlier = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError:  # damaged: there is nothing to keep
        earlier = {}
    kept = {
        key: value for key, value in earlier.items() if (key == "likelihood") != ("likelihood" in results)
    }
    path.write_text(json.dumps(kept | results, indent=2) + "\n")


def _write(
    folder: Path,
    results: dict[str, Any],
    samples: torch.Tensor,
    data: "Source",
    names: list[str] | None,
) -> None:
    """Write results.json and samples.png; points are drawn over data."""
    write_results(folder, results)
    if samples.ndim == 2:
        behind = data.read(range(min(NUM_POINTS_SHOWN, data.count)))
        save_picture(samples[:NUM_POINTS_SHOWN], folder / "samples.png", behind)
    else:
        save_picture(samples[:NUM_IMAGES_SHOWN], folder / "samples.png", names=names)


@dataclass(frozen=True)
class Source:
    """Samples that are read a batch at a time: `read` takes their numbers, below `count`."""

    count: int
    read: Callable[[Sequence[int]], torch.Tensor]


def sources(data: TrainingData, reference: TrainingData | None) -> tuple[Source, Source | None]:
    """Return the training and the held-out samples, the latter None if there are none."""
    if data.dataset is None or (reference is not None and reference.dataset is None):
        raise ConfigError("evaluation cannot read its data as a stream: leave --streaming out.")
    if reference is not None and reference.sample_shape != data.sample_shape:
        raise ConfigError(
            f"held-out samples have shape {reference.sample_shape}, but training samples {data.sample_shape}."
        )
    dataset = data.dataset
    chosen = list(range(dataset.num_samples))
    if len(chosen) > MAX_TRAINING_SAMPLES:
        shuffled = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))
        chosen = shuffled[:MAX_TRAINING_SAMPLES].tolist()
    training = Source(len(chosen), lambda indices: dataset.plain([chosen[i] for i in indices]))
    if reference is not None:
        assert reference.dataset is not None
        return training, Source(reference.dataset.num_samples, reference.dataset.plain)
    if data.held_out is None:
        return training, None
    held_out = data.held_out
    return training, Source(len(held_out), lambda indices: held_out[list(indices)])


def _check_sizes(num_samples: int, training: Source, held_out: Source | None) -> None:
    # Without held-out samples the training samples are parted in two.
    least = MIN_SAMPLES if held_out is not None else 2 * MIN_SAMPLES
    for name, count, minimum in (
        ("samples to generate", num_samples, MIN_SAMPLES),
        ("training samples", training.count, least),
        ("held-out samples", held_out.count if held_out is not None else least, MIN_SAMPLES),
    ):
        if count < minimum:
            raise ConfigError(f"evaluation got {count} {name}, but needs at least {minimum}.")


class _Projection:
    """The samples on the directions of sliced W2, which take less memory than large images."""

    name, description = "projection", "random directions"

    def __init__(self, shape: tuple[int, ...], device: torch.device):
        self.directions = unit_directions(torch.Size(shape).numel()).float().to(device)

    def __call__(self, samples: torch.Tensor) -> torch.Tensor:
        return (samples.flatten(1).to(self.directions.device) @ self.directions).cpu()


def _extract(
    extractors: Sequence[FeatureExtractor],
    source: Source,
    batch_size: int,
    on_step: Callable[[], None] | None,
    description: str,
) -> list[torch.Tensor]:
    """Return the features of all samples by each extractor, computed by all processes, in each of them."""
    state = PartialState()
    own: list[list[torch.Tensor]] = []
    num_batches = math.ceil(source.count / batch_size)
    progress = tqdm(
        total=source.count, desc=description, unit="sample", leave=False, disable=not state.is_main_process
    )
    with progress:
        for first in range(0, num_batches, state.num_processes):
            start = (first + state.process_index) * batch_size
            indices = range(start, min(start + batch_size, source.count))
            if indices:
                batch = source.read(indices)
                own.append([extractor(batch) for extractor in extractors])
            progress.update(min(source.count - progress.n, state.num_processes * batch_size))
            if on_step is not None:
                on_step()
    of_process = gather_object([own])
    batches = [of_process[b % state.num_processes][b // state.num_processes] for b in range(num_batches)]
    return [torch.cat(parts) for parts in zip(*batches, strict=True)]


def _about(
    pipeline: DDPMFromScratchPipeline,
    data: TrainingData,
    samples: Samples,
    num_inference_steps: int | None,
    seed: int,
    batch_size: int,
    training: Source,
    held_out: Source | None,
) -> dict[str, Any]:
    """Return what was compared with what, and what the samples cost."""
    state, count = PartialState(), len(samples.samples)
    if held_out is not None:
        reference = f"{held_out.count} held-out samples"
    else:
        reference = f"the {training.count} training samples themselves, as no held-out ones were given"
    assert data.num_samples is not None
    return {
        "dataset": data.name,
        "sample_shape": list(data.sample_shape),
        "reference": reference,
        "num_samples": count,
        "num_held_out": 0 if held_out is None else held_out.count,
        "num_training": training.count,
        "num_training_total": data.num_samples,
        "num_floor": min(count, training.count if held_out is not None else training.count // 2),
        "num_inference_steps": default_num_inference_steps(pipeline.scheduler)
        if num_inference_steps is None
        else num_inference_steps,
        "network_evaluations": samples.evaluations_per_sample,
        "seconds_per_sample": samples.seconds_per_sample,
        "num_processes": state.num_processes,
        "device": state.device.type,
        "scheduler": type(pipeline.scheduler).__name__,
        "batch_size": batch_size,
        "seed": seed,
    }
