"""How good the samples of a small network are: distances to held-out images, and to training images."""

from collections.abc import Callable

import torch
from diffusers import SchedulerMixin
from diffusers.models.modeling_utils import ModelMixin

from ddpm_from_scratch import DDPMFromScratchPipeline
from ddpm_from_scratch.measures.metrics import frechet_distance, sliced_wasserstein


class Judge:
    """Quality of networks against held-out images.

    Args:
        train: training images in [-1, 1], shape (N, C, H, W).
        held_out: the same of images that no network was trained on.
        features: maps images to the features that are compared, (N, F).
        num_samples: how many samples are made of a network.
        num_inference_steps: steps of a sampler.
    """

    def __init__(
        self,
        train: torch.Tensor,
        held_out: torch.Tensor,
        features: Callable[[torch.Tensor], torch.Tensor],
        num_samples: int,
        num_inference_steps: int,
    ):
        self.train, self.held_out, self.features = train, held_out, features
        self.num_samples, self.num_inference_steps = num_samples, num_inference_steps

    @torch.no_grad()
    def samples(self, model: ModelMixin, scheduler: SchedulerMixin, seed: int) -> torch.Tensor:
        """Return samples in [-1, 1], shape (num_samples, C, H, W)."""
        pipeline = DDPMFromScratchPipeline(model, scheduler)
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(seed)
        options = {"num_inference_steps": self.num_inference_steps, "output_type": "pt"}
        parts = [
            pipeline(min(250, self.num_samples - start), generator=generator, **options).images
            for start in range(0, self.num_samples, 250)
        ]
        return torch.cat(parts) * 2 - 1

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> dict[str, float]:
        """Return the figures of some images."""
        features, reference = (self.features(x) for x in (images, self.held_out))
        train, held_out, flat = (x.flatten(1) for x in (self.train, self.held_out, images))
        nearest = torch.cdist(flat, train).amin(1)
        return {
            "frechet_distance": frechet_distance(features, reference),
            "sliced_w2": sliced_wasserstein(flat, held_out),
            "nearest_train_mean": float(nearest.mean()),
            "nearest_train_5_percent": float(nearest.quantile(0.05)),
        }

    def floors(self) -> dict[str, dict[str, float]]:
        """Return the figures of as many training images, and the distances of the held-out ones."""
        chosen = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(0))
        nearest = torch.cdist(self.held_out.flatten(1), self.train.flatten(1)).amin(1)
        train = self(self.train[chosen[: self.num_samples]])
        return {
            "training images": {key: train[key] for key in ("frechet_distance", "sliced_w2")},
            "held-out images": {
                "nearest_train_mean": float(nearest.mean()),
                "nearest_train_5_percent": float(nearest.quantile(0.05)),
            },
        }
