"""The likelihood of held-out data under a pipeline, shared out over the processes of a run.

The variational bound, term by term, with the scheduler's variances, with analytic ones from training data
and, for a network that learned its variances, with fixed ones, all from the same evaluations; and, if asked
for, the density of the probability flow.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from ..data.datasets import TrainingData
from ..density.bound import (
    Likelihood,
    VariationalBound,
    merged,
    own_variance_type,
    variational_bounds,
)
from ..density.flow import FlowLikelihood, flow_likelihood
from ..density.residuals import mean_residuals, smooth_residuals
from ..measures.plots import bound_chart
from ..networks.denoiser import Denoiser
from ..networks.models import setting
from ..pipeline_ddpm_from_scratch import DDPMFromScratchPipeline
from ..runtime.errors import ConfigError
from ..runtime.seeds import stream_seed
from ..words import ANALYTIC, LEARNED_VARIANCE_TYPES
from .quality import Source, sources

# Samples whose random numbers come from one stream; they are dealt to the processes.
SAMPLES_OF_A_STREAM = 32
# Analytic variances are measured on so many training samples, or, if those are small, so many numbers.
NUM_TRAINING_SAMPLES, NUM_TRAINING_NUMBERS = 60, 4096
CHART = "bound.png"
SHORT_UNITS = {"nats per sample": "nats", "bits per dimension": "bits/dim"}
STREAMS = ("residuals", "bound", "flow")


@dataclass(frozen=True)
class BoundFigures:
    """The bound in a unit, and its parts: `total` = `prior` + `steps` + `decoder`."""

    total: float
    standard_error: float | None
    prior: float
    steps: float
    decoder: float


def held_out_likelihood(
    pipeline: DDPMFromScratchPipeline,
    data: TrainingData,
    *,
    reference: TrainingData | None = None,
    num_samples: int | None = None,
    num_terms: int | None = None,
    first_timestep: int = 0,
    num_flow_timesteps: int | None = None,
    batch_size: int = 250,
    seed: int = 0,
    output_dir: Path | None = None,
) -> dict[str, Any]:
    """Return the bound on -log p of held-out samples, in every process; draw its terms in the main one.

    All processes must call it; the result does not depend on their number. Images with levels have bits per
    dimension, other data nats for a sample.

    Args:
        pipeline: what to measure, on the device of this process.
        data: what it was trained on, and the held-out part if there is one.
        reference: held-out samples in place of those of `data`.
        num_samples: of the held-out ones, chosen at random; all if not given.
        num_terms: so many terms of the bound, drawn for each sample, and the decoder's, in place of all;
            then there are no analytic variances, which need all timesteps.
        first_timestep: the chain visits it and all above; its decoder goes from there to the data.
        num_flow_timesteps: also integrate the probability flow, over so many timesteps, denser where there
            is little noise, with Hutchinson's divergence.
        batch_size: evaluations of the network at a time.
        seed: of the noise.
        output_dir: folder for the chart of the terms, bound.png.

    Raises:
        ConfigError: no held-out samples, data read as a stream, a network that needs labels, or timesteps
            out of range.
    """
    training, held_out = sources(data, reference)
    if held_out is None:
        raise ConfigError(
            "the likelihood of training data says nothing of a model: give held-out images with "
            "--reference_data_dir or --reference_split."
        )
    began, scheduler = time.perf_counter(), pipeline.scheduler
    last = len(scheduler.alphas_cumprod) - 1
    if not 0 <= first_timestep < last:
        raise ConfigError(
            f"the first of {last + 1} timesteps is {first_timestep}, but must be at least 0 and leave two."
        )
    timesteps = range(first_timestep, last + 1)
    if num_flow_timesteps is not None and not 2 <= num_flow_timesteps <= len(timesteps):
        raise ConfigError(
            f"the timesteps of the flow are {num_flow_timesteps}, but must be in 2..{len(timesteps)}."
        )
    if num_terms is not None and num_terms >= last - first_timestep:
        raise ConfigError(
            f"{num_terms} terms are to be drawn for each sample, but there are {last - first_timestep} "
            "besides the decoder's: leave --likelihood_terms out, and all are taken."
        )
    levels = (reference or data).levels
    unit = "nats per sample" if levels is None else "bits per dimension"
    count = min(num_samples or held_out.count, held_out.count)
    own = own_variance_type(scheduler)
    # Analytic variances are measured again below, at these timesteps.
    own = "fixed_small" if own == ANALYTIC else own
    kinds = [own, *(["fixed_small"] if own in LEARNED_VARIANCE_TYPES else [])]
    measure = _Measure(pipeline, batch_size, seed)
    num_training, residuals = 0, None
    if num_terms is None:
        num_dimensions = math.prod(data.sample_shape)
        wanted = max(NUM_TRAINING_SAMPLES, math.ceil(NUM_TRAINING_NUMBERS / num_dimensions))
        num_training = min(wanted, training.count)
        residuals = measure.residuals(training, num_training, timesteps)
        kinds.append(ANALYTIC)
    bounds = measure.bounds(
        held_out, count, kinds, residuals=residuals, timesteps=timesteps, num_monte_carlo=num_terms,
        data_levels=levels,
    )  # fmt: skip
    if output_dir is not None and PartialState().is_main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        scale = _units_of(bounds[own])
        terms = {kind: scale * bound.terms for kind, bound in bounds.items()}
        bound_chart(bounds[own].timesteps, terms, output_dir / CHART, SHORT_UNITS[unit])
    likelihood = {
        "dataset": data.name,
        "reference": None if reference is None else reference.name,
        "unit": unit,
        "data_levels": levels,
        "num_samples": count,
        "num_held_out": held_out.count,
        "num_training_samples": num_training,
        "num_terms": bounds[own].num_evaluations,
        "num_timesteps": len(timesteps),
        "device": PartialState().device.type,
        "first_timestep": first_timestep,
        "seed": seed,
        "variance_type": own,
        "bounds": {kind: asdict(_figures(bound)) for kind, bound in bounds.items()},
    }
    if num_flow_timesteps is not None:
        flow = measure.flow(held_out, count, spread(timesteps, num_flow_timesteps), levels)
        likelihood["flow"] = {
            "total": _units_of(flow) * flow.bits_per_dim,
            "standard_error": _standard_error(flow),
            "num_evaluations": flow.num_evaluations,
            "divergence": flow.divergence,
            "dequantization": flow.dequantization,
            "noise_std": flow.noise_std,
        }
    return likelihood | {"seconds": round(time.perf_counter() - began, 1)}


def spread(timesteps: range, count: int) -> list[int]:
    """Return rising timesteps from the first to the last whose distances grow evenly; at most `count`."""
    places = torch.linspace(0, 1, count, dtype=torch.float64).square() * (len(timesteps) - 1)
    return sorted({timesteps[place] for place in places.round().long().tolist()})


def _units_of(likelihood: Likelihood) -> float:
    """Return what bits per dimension are multiplied by: 1 for levels, or what makes them nats per sample."""
    return 1 if likelihood.data_levels is not None else likelihood.num_dimensions * math.log(2)


def _standard_error(likelihood: Likelihood) -> float | None:
    """Return it in the unit of the data; None for a single sample."""
    error = _units_of(likelihood) * likelihood.standard_error
    return error if math.isfinite(error) else None


def _figures(bound: VariationalBound) -> BoundFigures:
    total, prior, decoder = (
        _units_of(bound) * value for value in (bound.bits_per_dim, bound.prior, bound.decoder)
    )
    return BoundFigures(total, _standard_error(bound), prior, total - prior - decoder, decoder)


class _Measure:
    """What the network says of samples, streams of them dealt to the processes."""

    def __init__(self, pipeline: DDPMFromScratchPipeline, batch_size: int, seed: int):
        self.model, self.scheduler = pipeline.unet, pipeline.scheduler
        self.batch_size, self.seed = batch_size, seed
        self.null_label = pipeline.config.get("null_class_label")
        if setting(self.model, "num_class_embeds") is not None and self.null_label is None:
            raise ConfigError(
                "the network needs class labels and has no null class: the likelihood of data without labels "
                "is that of a network trained with --label_dropout."
            )

    def residuals(self, training: Source, count: int, timesteps: range) -> torch.Tensor:
        """Return the residual curve of training samples."""
        means = self._shared(
            training, count, "residuals", mean_residuals, len(timesteps), timesteps=timesteps
        )
        mean = torch.stack([size * each for size, each in means]).sum(0) / count
        return smooth_residuals(mean, training.read(_chosen(training, count)))

    def bounds(
        self, source: Source, count: int, kinds: list[str], timesteps: range, **options: Any
    ) -> dict[str, VariationalBound]:
        """Return the bounds of samples for several kinds of variance, merged."""
        drawn = options["num_monte_carlo"]
        evaluations = len(timesteps) if drawn is None else drawn + 1
        options |= {"variance_types": kinds, "timesteps": timesteps}
        parts = self._shared(source, count, "bound", variational_bounds, evaluations, **options)
        return {kind: merged([part[kind] for _, part in parts]) for kind in kinds}

    def flow(
        self, source: Source, count: int, timesteps: list[int], data_levels: int | None
    ) -> FlowLikelihood:
        """Return the likelihood by the probability flow, of all samples together."""
        options = {"timesteps": timesteps, "data_levels": data_levels}
        parts = [flow for _, flow in self._shared(source, count, "flow", flow_likelihood, 1, **options)]
        return replace(parts[0], nats_per_sample=torch.cat([part.nats_per_sample for part in parts]))

    def _shared(
        self,
        source: Source,
        count: int,
        stream: str,
        function: Callable[..., Any],
        steps: int,
        **options: Any,
    ) -> list[tuple[int, Any]]:
        """Return the size and the result of each stream of samples, in order, in every process.

        `steps` is what `function` tells its progress for each sample.
        """
        state = PartialState()
        order = _chosen(source, count)
        streams = [order[i : i + SAMPLES_OF_A_STREAM] for i in range(0, count, SAMPLES_OF_A_STREAM)]
        dealt = range(state.process_index, len(streams), state.num_processes)
        progress = tqdm(
            total=sum(len(streams[number]) for number in dealt) * steps, desc=stream, unit_scale=True,
            unit="evaluation" if steps > 1 else "sample", leave=False, disable=not state.is_main_process,
        )  # fmt: skip
        own = []
        with progress:
            for number in dealt:
                samples = source.read(streams[number]).to(state.device)
                generator = torch.Generator().manual_seed(
                    stream_seed(self.seed, "likelihood", STREAMS.index(stream), number)
                )
                try:
                    result = function(
                        Denoiser(self.model, self.scheduler, self.null_label), samples,
                        batch_size=self.batch_size, generator=generator, on_batch=progress.update, **options,
                    )  # fmt: skip
                except FloatingPointError as error:
                    result = error
                own.append((number, len(samples), result))
        shared = sorted(gather_object(own), key=lambda each: each[0])
        failed = [result for *_, result in shared if isinstance(result, FloatingPointError)]
        if failed:
            raise failed[0]
        return [(size, result) for _, size, result in shared]


def _chosen(source: Source, count: int) -> list[int]:
    """Return which samples of a source are used."""
    return torch.randperm(source.count, generator=torch.Generator().manual_seed(0))[:count].tolist()


def in_words(likelihood: dict[str, Any]) -> str:
    """Return the figures as lines for a person."""
    unit = SHORT_UNITS[likelihood["unit"]]
    terms = (
        f"all {likelihood['num_timesteps']} terms"
        if likelihood["num_terms"] == likelihood["num_timesteps"]
        else f"{likelihood['num_terms']} of {likelihood['num_timesteps']} terms for each sample"
    )
    lines = [f"-log p of {likelihood['num_samples']} held-out samples is at most, by {terms}:"]
    for kind, bound in likelihood["bounds"].items():
        parts = [f"{name} {bound[name]:.4f}" for name in ("prior", "steps", "decoder")]
        lines.append(f"  {kind} variances: {_with_error(bound)} {unit} ({', '.join(parts)})")
    if "flow" in likelihood:
        flow = likelihood["flow"]
        lines.append(
            f"by the probability flow, {flow['num_evaluations']} evaluations, {flow['divergence']} "
            f"divergence, {flow['dequantization']} dequantisation, of data with noise of "
            f"{flow['noise_std']:.4f}: {_with_error(flow)} {unit}"
        )
    return "\n".join(lines)


def _with_error(figures: dict[str, Any]) -> str:
    error = figures["standard_error"]
    return f"{figures['total']:.4f}" + ("" if error is None else f" +- {error:.4f}")
