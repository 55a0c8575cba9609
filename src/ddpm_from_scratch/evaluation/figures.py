"""Figures of quality and what they mean: features of samples, training and held-out data in, figures out.

The name of each figure ends in the name of its features. Only those of Inception make a FID.
"""

from dataclasses import dataclass
from typing import Any

import torch

from ..measures.metrics import (
    CopyTest,
    copy_test,
    frechet_distance,
    kernel_distance,
    nearest_distances,
    precision_recall,
    projected_wasserstein,
)

# Below this probability, samples are called closer to the training data than chance has it.
COPY_P_VALUE = 1e-3

# Of fewer samples, made or real, the figures are rough: a recall of 1 may be chance.
FEW_SAMPLES = 200


def metric_names(results: dict[str, Any]) -> dict[str, str]:
    """Return what each figure is, in words, for the card: the key in the results -> name.

    Beside each key stands `<key>_floor`. Empty results have no figures.
    """
    if not results:
        return {}
    units = "coordinates" if len(results["sample_shape"]) == 1 else "pixels"
    names = {"sliced_w2": f"Sliced 2-Wasserstein distance in {units}"}
    for features in results["features"]:
        where = features if features == units else f"{features.replace('_', '-')} features"
        frechet, kernel = f"Fréchet distance on {where}", f"Kernel distance (squared MMD) on {where}"
        is_inception = features == "inception"
        names |= {
            f"frechet_distance_{features}": f"FID: {frechet}" if is_inception else f"{frechet} (not FID)",
            f"kernel_distance_{features}": f"KID: {kernel}" if is_inception else kernel,
            f"precision_{features}": f"Precision on {where} (higher is better)",
            f"recall_{features}": f"Recall on {where} (higher is better)",
            f"near_copies_{features}": f"Samples as close to training data as 1 % of new data, on {where}",
        }
    return names


@dataclass(frozen=True)
class Columns:
    """Features of the samples, of the training data and, where there are any, of held-out data."""

    made: torch.Tensor
    training: torch.Tensor
    held_out: torch.Tensor | None

    def to(self, device: torch.device) -> "Columns":
        """Return these on a device that computes in float64, else on the CPU."""
        device = device if device.type == "cuda" else torch.device("cpu")
        held_out = None if self.held_out is None else self.held_out.to(device)
        return Columns(self.made.to(device), self.training.to(device), held_out)

    @property
    def reference(self) -> torch.Tensor:
        """What the samples are compared with."""
        return self.training if self.held_out is None else self.held_out

    @property
    def floor_pair(self) -> tuple[torch.Tensor, torch.Tensor]:
        """As many training samples as were generated, and what they are compared with."""
        order = _shuffled(len(self.training)).to(self.training.device)
        if self.held_out is not None:
            return self.training[order[: len(self.made)]], self.held_out
        count = min(len(self.made), len(order) // 2)
        return self.training[order[:count]], self.training[order[count:]]


def _shuffled(count: int) -> torch.Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))


def sliced_figures(columns: Columns) -> dict[str, Any]:
    """Return sliced W2 of samples on the directions of `unit_directions`."""
    return {
        "sliced_w2": projected_wasserstein(columns.made, columns.reference),
        "sliced_w2_floor": projected_wasserstein(*columns.floor_pair),
    }


def figures(columns: Columns, name: str) -> dict[str, Any]:
    """Return the figures on the features of one extractor; their names end in its name."""
    made, reference = columns.made, columns.reference
    floor, floor_reference = columns.floor_pair
    distance, distance_floor = kernel_distance(made, reference), kernel_distance(floor, floor_reference)
    # Balls around many samples are smaller than around few: all four sets are cut to one size.
    size = min(len(made), len(reference), len(floor), len(floor_reference))

    def cut(points: torch.Tensor) -> torch.Tensor:
        return points[_shuffled(len(points))[:size].to(points.device)]

    quality = precision_recall(cut(made), cut(reference))
    quality_floor = precision_recall(cut(floor), cut(floor_reference))
    nearest = nearest_distances(made, columns.training)
    usual = (
        nearest_distances(columns.training)
        if columns.held_out is None
        else nearest_distances(columns.held_out, columns.training)
    )
    copies = copy_test(nearest, usual)
    return {
        f"frechet_distance_{name}": frechet_distance(made, reference),
        f"frechet_distance_{name}_floor": frechet_distance(floor, floor_reference),
        f"kernel_distance_{name}": distance.value,
        f"kernel_distance_{name}_standard_error": distance.standard_error,
        f"kernel_distance_{name}_floor": distance_floor.value,
        f"kernel_distance_{name}_floor_standard_error": distance_floor.standard_error,
        f"precision_{name}": quality.precision,
        f"precision_{name}_floor": quality_floor.precision,
        f"recall_{name}": quality.recall,
        f"recall_{name}_floor": quality_floor.recall,
        f"precision_recall_{name}_num_samples": size,
        f"near_copies_{name}": copies.fraction,
        f"near_copies_{name}_floor": copies.expected,
        f"near_copies_{name}_p_value": copies.p_value,
        f"near_copies_{name}_median_distance": float(nearest.median()),
        f"near_copies_{name}_median_distance_floor": float(usual.median()),
        f"near_copies_{name}_in_words": _copies_in_words(copies, columns.held_out is not None),
    }


def _copies_in_words(copies: CopyTest, has_held_out: bool) -> str:
    usual = "held-out samples" if has_held_out else "training samples, to their nearest other one,"
    found = (
        f"{copies.fraction:.1%} of the samples are as close to a training sample as the closest "
        f"{copies.expected:.1%} of {usual} are"
    )
    if copies.p_value >= COPY_P_VALUE:
        return f"No sign of copying: {found}."
    return (
        f"Possible copying: {found}; by chance, p = {copies.p_value:.0e}. The model repeats training "
        "samples, or makes samples more typical than real ones are: look at them."
    )


def format_results(results: dict[str, Any]) -> str:
    """Return the figures as a table, with what they were made of."""
    names = metric_names(results)
    width = max(map(len, names.values()))
    lines = [
        f"{results['num_samples']} samples of {results['dataset']}, each in {results['network_evaluations']} "
        f"network evaluations and {results['seconds_per_sample']:.3g} s; reference: {results['reference']}",
        f"  {'':{width}}  {'model':>10}  {'floor':>10}",
    ]
    for key, name in names.items():
        line = f"  {name:{width}}  {results[key]:10.4f}  {results[f'{key}_floor']:10.4f}"
        errors = [results.get(f"{each}_standard_error") for each in (key, f"{key}_floor")]
        lines.append(line + (f"   standard errors {errors[0]:.4f}, {errors[1]:.4f}" if all(errors) else ""))
    lines.append(f"  floor: the same figure of {results['num_floor']} training samples; aim for it")
    for name, description in results["features"].items():
        lines += [
            f"  {name}: {description}",
            f"  {name}: {results[f'near_copies_{name}_in_words']}",
        ]
    reference = results["num_held_out"] or results["num_training"]
    fewest = min(results["num_samples"], reference, results["num_floor"])
    if fewest < FEW_SAMPLES:
        lines.append(f"  These figures are rough: {fewest} is too few samples, use {FEW_SAMPLES} or more.")
    if not results["num_held_out"]:
        lines.append(
            "  No held-out samples were given (--reference_data_dir, --reference_split): judged against its "
            "own training data, a model that copies them looks best."
        )
    return "\n".join(lines)
