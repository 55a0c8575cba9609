"""Held-out quality of a saved pipeline, with the floor of the data beside each figure.

    python training/evaluate.py runs/digits --dataset_name digits --num_inference_steps 200

Digits are judged in pixels (sliced W2) and on the 32 penultimate features of a small classifier trained on
the spot on the training digits (Fréchet distance; not FID, which means Inception). Points are judged by
sliced W2 alone.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from config import BUILT_IN_DATASETS, TrainingConfig
from data import load_digits, load_training_data
from ddpm_from_scratch import DDPMFromScratchPipeline
from ddpm_from_scratch.metrics import frechet_distance, sliced_wasserstein
from ddpm_from_scratch.models import sample_shape
from errors import ConfigError
from seeds import stream_seed

# What each figure is, in words, for the card: the key in results.json -> name.
METRIC_NAMES = {
    "sliced_w2": "Sliced 2-Wasserstein distance to held-out data (pixels or coordinates)",
    "frechet_distance_digit_classifier": "Fréchet distance on digit-classifier features (not FID)",
}


class DigitClassifier(nn.Module):
    """A small CNN for 8x8 digits whose 32 penultimate features measure sample quality."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(256, 32), nn.ReLU(),
        )  # fmt: skip
        self.classify = nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, 10) for images (B, 1, 8, 8) in [-1, 1]."""
        return self.classify(self.features(images))


def train_digit_classifier(num_epochs: int = 30, seed: int = 0) -> tuple[DigitClassifier, float]:
    """Return a classifier trained on the training digits, and its accuracy on the held-out ones."""
    images, labels, held_out, held_out_labels = load_digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = DigitClassifier()
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3, weight_decay=1e-2)
        total = num_epochs * len(images) // 64
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=total + 1)
        for step in range(total):
            if step * 64 % len(images) < 64:
                order = torch.randperm(len(images))
            batch = order[torch.arange(step * 64, (step + 1) * 64) % len(images)]
            loss = nn.functional.cross_entropy(classifier(images[batch]), labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    classifier.eval()
    with torch.no_grad():
        accuracy = float((classifier(held_out).argmax(1) == held_out_labels).float().mean())
    return classifier, accuracy


def generate(
    pipeline: DDPMFromScratchPipeline,
    num_samples: int,
    num_inference_steps: int | None,
    seed: int,
    batch_size: int = 250,
) -> tuple[torch.Tensor, int]:
    """Return samples in the network's units, float32 on the CPU, and the network evaluations each took."""
    evaluations = 0

    def count(*_: Any) -> None:
        nonlocal evaluations
        evaluations += 1

    hook = pipeline.unet.register_forward_hook(count)
    batches = []
    labels = getattr(pipeline.unet.config, "num_class_embeds", None)
    for start in range(0, num_samples, batch_size):
        pipeline.set_progress_bar_config(desc=f"sampling {start} of {num_samples}", leave=False)
        generator = torch.Generator().manual_seed(stream_seed(seed, "evaluation", start))
        size = min(batch_size, num_samples - start)
        options = {} if labels is None else {"class_labels": torch.arange(start, start + size) % labels}
        output = pipeline(
            size, generator=generator, num_inference_steps=num_inference_steps, output_type="pt", **options
        )
        batches.append(output.images.float().cpu())
    hook.remove()
    samples = torch.cat(batches)
    return (samples * 2 - 1 if samples.ndim == 4 else samples), evaluations // len(batches)


def evaluate(
    pipeline: DDPMFromScratchPipeline,
    dataset_name: str,
    num_samples: int = 1000,
    num_inference_steps: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Return held-out quality for built-in data; training data judged alike give the floors.

    Args:
        pipeline: what to judge.
        dataset_name: "digits" or a set of points.
        num_samples: samples to generate; as many training samples give the floor.
        num_inference_steps: timesteps to visit; all T if not given.
        seed: of the samples.
    """
    data = load_training_data(TrainingConfig(dataset_name=dataset_name), None, None)
    assert data.held_out is not None and data.dataset is not None  # built-in data have both
    began = time.perf_counter()
    samples, evaluations = generate(pipeline, num_samples, num_inference_steps, seed)
    seconds = time.perf_counter() - began
    chosen = torch.randperm(data.dataset.num_samples, generator=torch.Generator().manual_seed(0))[
        :num_samples
    ]
    train = data.dataset.samples[chosen]  # type: ignore[index]
    held_out = data.held_out
    results: dict[str, Any] = {
        "dataset": data.name,
        "num_samples": num_samples,
        "num_held_out": len(held_out),
        "num_floor": len(train),
        "num_inference_steps": num_inference_steps or pipeline.scheduler.config.num_train_timesteps,
        "network_evaluations": evaluations,
        "scheduler": type(pipeline.scheduler).__name__,
        "seconds_per_sample": seconds / num_samples,
        "seed": seed,
    }
    distance, floor = (sliced_wasserstein(x.flatten(1), held_out.flatten(1)) for x in (samples, train))
    results |= {"sliced_w2": distance, "sliced_w2_floor": floor, "sliced_w2_over_floor": distance / floor}
    if dataset_name == "digits":
        classifier, accuracy = train_digit_classifier()
        with torch.no_grad():
            features, floor_features, reference = (classifier.features(x) for x in (samples, train, held_out))
        results |= {
            "frechet_distance_digit_classifier": frechet_distance(features, reference),
            "frechet_distance_digit_classifier_floor": frechet_distance(floor_features, reference),
            "digit_classifier_accuracy": accuracy,
        }
    return results


def format_results(results: dict[str, Any]) -> str:
    """Return the figures as lines of text."""
    lines = [
        f"{results['num_samples']} samples, {results['network_evaluations']} network evaluations each, "
        "against "
        f"{results['num_held_out']} held-out samples of {results['dataset']}:"
    ]
    for key, name in METRIC_NAMES.items():
        if key in results:
            lines.append(
                f"  {name}: {results[key]:.4f}   (training data against held-out: "
                f"{results[key + '_floor']:.4f})"
            )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Evaluate a saved pipeline; print the figures and write them to a file."""
    parser = argparse.ArgumentParser(description="Measure held-out quality of a saved pipeline.")
    parser.add_argument("pipeline", help="folder or Hub id of a pipeline")
    parser.add_argument(
        "--dataset_name", required=True, choices=BUILT_IN_DATASETS, help="what it was trained on"
    )
    parser.add_argument("--num_samples", type=int, default=1000, help="samples to generate")
    parser.add_argument(
        "--num_inference_steps", type=int, default=None, help="timesteps to visit; T if not given"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the samples")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write the figures to")
    args = parser.parse_args(argv)
    if args.num_samples < 2:
        parser.error(f"--num_samples is {args.num_samples}, but must be at least 2.")
    try:
        pipeline = DDPMFromScratchPipeline.from_pretrained(args.pipeline)
        shape, expected = sample_shape(pipeline.unet), (2,) if args.dataset_name != "digits" else (1, 8, 8)
        if shape != expected:
            raise ConfigError(
                f"the pipeline makes samples of shape {shape}, but {args.dataset_name} has {expected}."
            )
        results = evaluate(pipeline, args.dataset_name, args.num_samples, args.num_inference_steps, args.seed)
    except (OSError, ValueError) as error:
        parser.error(" ".join(str(error).split()))
    print(format_results(results))
    if args.output is not None:
        args.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
