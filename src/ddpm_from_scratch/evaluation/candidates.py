"""Calibration of a pipeline's few-step sampler against its training data, for calibrate.py and train.py.

Candidates are compared with the training data, by the product of two distances: the root of Fréchet's on
features, and sliced W2 in pixels. A held-out part is left for the figures of evaluate.py.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import PartialState

from ..data.datasets import DIGITS_NAME, TrainingData
from ..learning.calibration import Candidate, calibrate
from ..measures.metrics import frechet_distance, projected_wasserstein, sorted_columns, unit_directions
from ..networks.denoiser import Denoiser
from ..networks.models import sample_shape
from ..pipeline_ddpm_from_scratch import DDPMFromScratchPipeline
from ..runtime.errors import ConfigError, NonFiniteError, Stopped
from ..runtime.processes import on_main
from ..runtime.seeds import stream_seed
from ..schedulers.scheduling_few_step import FewStepScheduler
from ..words import DEFAULT_NUM_STEPS
from .features import FeatureExtractor, MiddleBlockFeatures, load_features
from .quality import default_features, sources
from .sampling import count_classes
from .settings import check_calibration

# Of a larger set, so many training samples are compared with.
_MOST_COMPARED = 10_000


def calibration_features(
    features: str, pipeline: DDPMFromScratchPipeline, data: TrainingData, cache_dir: str | None
) -> FeatureExtractor:
    """Return the extractor of a name, as evaluate.py knows them; "auto" is what needs no download.

    That is the coordinates of points and the classifier of the digits, as in evaluation; of other images the
    middle of the pipeline's own network, or their pixels if it has none.
    """
    if features == "auto" and len(data.sample_shape) == 3 and data.name != DIGITS_NAME:
        if getattr(pipeline.unet, "mid_block", None) is not None:
            return MiddleBlockFeatures(pipeline.unet)
        features = "pixels"
    name = default_features(data) if features == "auto" else features
    return load_features(name, data.sample_shape, PartialState().device, cache_dir)


def distance_from(data: TrainingData, extractor: FeatureExtractor) -> Callable[[torch.Tensor], float]:
    """Return the distance that candidates are judged by: root of Fréchet's on features times sliced W2."""
    source, _ = sources(data, None)
    chosen = torch.randperm(source.count, generator=torch.Generator().manual_seed(0))[:_MOST_COMPARED]
    # The training data are projected and sorted once: every candidate is compared with them.
    directions = unit_directions(math.prod(data.sample_shape))
    projected, features = [], []
    for part in chosen.split(250):
        training = source.read(part.tolist()).float()
        projected.append(training.flatten(1).double() @ directions)
        features.append(extractor(training))
    reference, of_training = sorted_columns(torch.cat(projected)), torch.cat(features)

    def distance(samples: torch.Tensor) -> float:
        if not bool(samples.isfinite().all()):
            return float("inf")
        made = torch.cat([extractor(part) for part in samples.float().split(250)])
        sliced = projected_wasserstein(samples.flatten(1).double().cpu() @ directions, reference)
        # Of the squared distance that Frechet's is, the root: else it would count twice.
        return math.sqrt(max(frechet_distance(made, of_training), 0.0)) * sliced

    return distance


def format_candidates(candidates: Sequence[Candidate], calibration: dict[str, Any]) -> str:
    """Return the best of each spacing for each number of steps, and which was chosen (*).

    Rows compare if as many samples were made.

    Args:
        candidates: all that were judged.
        calibration: what was chosen of them.
    """
    columns = {"steps": 5, "spacing": 12, "last": 5, "tau": 5, "noise t": 8, "scale": 5, "samples": 7}
    lines = [" ".join(f"{name:>{width}}" for name, width in (columns | {"distance": 9}).items())]
    for count, entry in calibration.get("steps", {}).items():
        of_count = [one for one in candidates if len(one.plan.timesteps) == int(count)]
        best = {}
        for one in sorted(of_count, key=lambda one: (one.num_samples, -one.distance)):
            best[one.spacing] = one  # the last is the best of those judged by the most samples
        for one in sorted(best.values(), key=lambda one: (-one.num_samples, one.distance)):
            plan = one.plan
            between = "all" if plan.noise_interval is None else "{}-{}".format(*plan.noise_interval)
            chosen = " *" if plan.entry() == entry else ""
            lines.append(
                f"{count:>5} {one.spacing:>12} {plan.timesteps[-1]:>5} {plan.noise_level:>5.2f} "
                f"{between:>8} {plan.noise_scale:>5.2f} {one.num_samples:>7} {one.distance:>9.4f}{chosen}"
            )
    return "\n".join(lines)


def keep_best_so_far(pipeline: DDPMFromScratchPipeline, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Give a pipeline what a search had found when it was stopped, and return the calibration.

    For each number of steps that was come to, it is the best of the candidates that were judged by the most
    samples. What an earlier calibration says of other numbers of steps stays.
    """
    best = {}
    for one in sorted(candidates, key=lambda one: (one.num_samples, -one.distance)):
        if math.isfinite(one.distance):
            best[str(len(one.plan.timesteps))] = one.plan.entry()
    earlier = dict(pipeline.scheduler.config.get("calibration") or {})
    steps = sorted((earlier.get("steps", {}) | best).items(), key=lambda item: int(item[0]))
    calibration = earlier | {"steps": dict(steps)}
    pipeline.scheduler = FewStepScheduler.from_config(pipeline.scheduler.config, calibration=calibration)
    return calibration


def calibrate_pipeline(
    pipeline: DDPMFromScratchPipeline,
    data: TrainingData | None,
    *,
    num_steps: Sequence[int] = DEFAULT_NUM_STEPS,
    num_samples: int = 250,
    features: str = "auto",
    batch_size: int = 250,
    seed: int = 0,
    guidance_scale: float = 1.0,
    cache_dir: str | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
    on_candidate: Callable[[Candidate], object] = lambda _: None,
) -> tuple[dict[str, Any], list[Candidate]]:
    """Return the calibration of a pipeline, the same in every process, and the candidates that were judged.

    All processes must call it; the main one does the work. Afterwards the pipeline has a FewStepScheduler
    with this calibration.

    Args:
        pipeline: on the device of this process.
        data: what it was trained on; without them only the density of nodes is measured.
        num_steps: numbers of steps to find settings for.
        num_samples: that a candidate is judged by; the best are judged again, by up to 32 times as many.
        features: see `calibration_features`.
        batch_size: samples of one batch.
        seed: of the samples.
        guidance_scale: of classifier-free guidance; 1 is none.
        cache_dir: folder for downloaded models.
        stop_requested: asked after each candidate.
        on_candidate: called with each candidate, in the main process.

    Raises:
        ConfigError: features or data that cannot be had, numbers out of range.
        NonFiniteError: a network whose estimates are not finite.
        Stopped: `stop_requested` said so.
    """
    check_calibration(num_steps, num_samples, len(pipeline.scheduler.alphas_cumprod))
    candidates: list[Candidate] = []

    def judged(candidate: Candidate) -> None:
        candidates.append(candidate)
        on_candidate(candidate)
        if stop_requested():
            raise Stopped("stopped while calibrating; go on with --resume_from_checkpoint latest.")

    def found() -> dict[str, Any]:
        num_classes = count_classes(pipeline)
        try:
            distance = None
            if data is not None:
                extractor = calibration_features(features, pipeline, data, cache_dir)
                distance = distance_from(data, extractor)
            return calibrate(
                Denoiser(
                    pipeline.unet,
                    pipeline.scheduler,
                    None if num_classes is None else range(num_classes),
                    guidance_scale,
                    pipeline.config.get("null_class_label"),
                ),
                tuple(data.sample_shape) if data is not None else sample_shape(pipeline.unet),
                torch.Generator().manual_seed(stream_seed(seed, "calibration")),
                num_steps=num_steps,
                distance=distance,
                num_samples=num_samples,
                batch_size=batch_size,
                on_candidate=judged,
            )
        except ConfigError:
            raise
        except FloatingPointError as error:
            raise NonFiniteError(str(error)) from error
        except (TypeError, ValueError) as error:
            raise ConfigError(str(error)) from error

    calibration = on_main(found)
    pipeline.scheduler = FewStepScheduler.from_config(pipeline.scheduler.config, calibration=calibration)
    return calibration, candidates
