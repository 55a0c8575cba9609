"""Print what classifier-free guidance does to digits: `python benchmarks/guidance.py`, one to three minutes.

Trains a small class-conditional network with label dropout and learned variances, samples 500 digits at
several guidance scales, and asks a classifier of real digits whether they are what was asked for.
"""

import argparse
import math

import sklearn.datasets
import torch
from sklearn.svm import SVC
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ddpm_from_scratch import (
    DDPMFromScratchPipeline,
    DDPMFromScratchScheduler,
    Denoiser,
    build_model,
    model_config,
)
from ddpm_from_scratch.learning.objectives import denoising_losses, drop_labels
from ddpm_from_scratch.learning.timestep_samplers import stratified_timesteps

NULL_LABEL = 10
BATCH_SIZE = 64


def train(images: torch.Tensor, labels: torch.Tensor, num_updates: int) -> DDPMFromScratchPipeline:
    """Return a pipeline trained on images (N, 1, 8, 8) in [-1, 1] with 17 levels, and labels 0..9."""
    scheduler = DDPMFromScratchScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", variance_type="learned_range"
    )
    torch.manual_seed(0)
    network = build_model(model_config("digits", out_channels=2, num_class_embeds=11))
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.995))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for update in range(num_updates):
        chosen = torch.randint(len(images), (BATCH_SIZE,), generator=generator)
        noise = torch.randn(images[chosen].shape, generator=generator)
        timesteps = stratified_timesteps(BATCH_SIZE, len(scheduler), generator)
        kept = drop_labels(labels[chosen], NULL_LABEL, 0.15, generator)
        losses = denoising_losses(
            Denoiser(network, scheduler, kept), images[chosen], noise, timesteps, data_levels=17
        )
        decay = 0.5 + 0.5 * math.cos(math.pi * update / num_updates)
        optimizer.param_groups[0]["lr"] = 1e-3 * decay * min(1, (update + 1) / 50)
        optimizer.zero_grad()
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(network)
    pipeline = DDPMFromScratchPipeline(average.module.eval(), scheduler, null_class_label=NULL_LABEL)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def spread(images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the standard deviation of a pixel within a class, mean over pixels and classes."""
    return float(torch.stack([images[labels == label].std(0).mean() for label in labels.unique()]).mean())


def main() -> None:
    """Train, sample and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--num_updates", type=int, default=700)
    parser.add_argument("--num_inference_steps", type=int, default=50)
    options = parser.parse_args()
    digits = sklearn.datasets.load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(digits.target)
    classifier = SVC(C=10).fit(images[::2].flatten(1).numpy(), labels[::2].numpy())
    real = classifier.score(images[1::2].flatten(1).numpy(), labels[1::2].numpy())
    pipeline = train(images[::2], labels[::2], options.num_updates)
    print("guidance_scale  classified as asked  spread within a class")
    asked = torch.arange(500) % 10
    for scale in (0.0, 1.0, 2.0, 4.0):
        samples = pipeline(
            len(asked), torch.Generator().manual_seed(1), options.num_inference_steps, class_labels=asked,
            guidance_scale=scale, output_type="pt",
        ).images * 2 - 1  # fmt: skip
        share = classifier.score(samples.flatten(1).numpy(), asked.numpy())
        print(f"{scale:14g}  {share:19.1%}  {spread(samples, asked):.3f}")
    print(f"{'real digits':>14}  {real:19.1%}  {spread(images[1::2], labels[1::2]):.3f}")


if __name__ == "__main__":
    main()
