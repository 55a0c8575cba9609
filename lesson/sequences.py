"""Data that are no images: a Transformer on sequences, `python lesson/sequences.py`, a minute on two cores.

The sequences are handwritten digits, read row by row: 8 rows of 8 pixels. Only the network is new; noising,
loss, schedule, pipeline and few steps are those of images and points. Prints the sliced W2 of samples from
held-out digits beside that of training digits, and saves a picture.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import nn
from tqdm.auto import tqdm

from ddpm_from_scratch import (
    DDPMFromScratchPipeline,
    DDPMFromScratchScheduler,
    Denoiser,
    FewStepScheduler,
    calibrate,
)
from ddpm_from_scratch.data.datasets import load_digits
from ddpm_from_scratch.learning.objectives import denoising_losses
from ddpm_from_scratch.learning.timestep_samplers import stratified_timesteps
from ddpm_from_scratch.measures.metrics import sliced_wasserstein
from ddpm_from_scratch.measures.plots import sample_grid


class SequenceDenoiser(ModelMixin, ConfigMixin):
    """A Transformer encoder over the places of a sequence, with the time added to each of them.

    Args:
        sample_shape: of one sample, (length, channels).
        hidden_size: width of a place.
        num_layers: of the encoder (Vaswani et al. 2017, arXiv:1706.03762), with normalisation first.
        num_heads: of the attention.
    """

    @register_to_config
    def __init__(
        self,
        sample_shape: tuple[int, int] = (8, 8),
        hidden_size: int = 96,
        num_layers: int = 3,
        num_heads: int = 4,
    ):
        super().__init__()
        length, channels = sample_shape
        self.embed_sample = nn.Linear(channels, hidden_size)
        self.embed_place = nn.Parameter(0.02 * torch.randn(length, hidden_size))
        self.embed_time = nn.Sequential(
            nn.Linear(hidden_size, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )
        layer = nn.TransformerEncoderLayer(
            hidden_size, num_heads, 4 * hidden_size, dropout=0.0, activation="gelu", batch_first=True,
            norm_first=True,
        )  # fmt: skip
        self.encoder = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.project = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, channels))

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        class_labels: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[torch.Tensor]:
        """Return the prediction for `sample`, shape (B, length, channels).

        Args:
            sample: x_t, shape (B, length, channels).
            timestep: t, one number or shape (B,).
            class_labels: not supported, must be None.
            return_dict: return an output with `.sample` instead of a tuple.
        """
        timestep = torch.as_tensor(timestep, device=sample.device).reshape(-1)
        time = self.embed_time(get_timestep_embedding(timestep, self.config.hidden_size).to(sample.dtype))
        hidden = self.embed_sample(sample) + self.embed_place + time[:, None]
        output = self.project(self.encoder(hidden))
        return UNet2DOutput(sample=output) if return_dict else (output,)


def train(sequences: torch.Tensor, num_steps: int, batch_size: int = 128, seed: int = 0) -> Any:
    """Return a pipeline of a network that was trained on sequences of shape (N, length, channels)."""
    torch.manual_seed(seed)
    source = torch.Generator().manual_seed(seed)
    network = SequenceDenoiser(tuple(sequences.shape[1:]))
    scheduler = DDPMFromScratchScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, fused=True)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, num_steps)
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)
    )
    progress = tqdm(range(num_steps), desc="training", unit="step")
    for _ in progress:
        x_0 = sequences[torch.randint(len(sequences), (batch_size,), generator=source)]
        noise = torch.randn(x_0.shape, generator=source)
        losses = denoising_losses(
            Denoiser(network, scheduler), x_0, noise, stratified_timesteps(batch_size, 1000, source)
        )
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        falling.step()
        average.update_parameters(network)
        progress.set_postfix(loss=f"{losses.mean().item():.3f}", refresh=False)
    network = average.module.eval()
    # Where the flow of this network bends, for timesteps of equal errors; with data it would also try noise.
    calibration = calibrate(Denoiser(network, scheduler), sequences.shape[1:], source, progress_bar=False)
    pipeline = DDPMFromScratchPipeline(
        network, FewStepScheduler.from_config(scheduler.config, calibration=calibration)
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def main(argv: list[str] | None = None) -> None:
    """Train, sample, compare and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num_steps", type=int, default=2000)
    parser.add_argument("--picture", type=Path, default=Path("runs/sequences.png"))
    args = parser.parse_args(argv)
    images, _, held_out, _ = load_digits()
    training, held_out = images.squeeze(1), held_out.squeeze(1)
    pipeline = train(training, args.num_steps)
    samples = pipeline(
        batch_size=1000, generator=torch.Generator().manual_seed(1), num_inference_steps=10, output_type="pt"
    ).images
    floor = sliced_wasserstein(training[:1000].flatten(1), held_out.flatten(1))
    distance = sliced_wasserstein(samples.flatten(1), held_out.flatten(1))
    print(f"sliced W2 of 1,000 samples in 10 evaluations {distance:.4f}, of training digits {floor:.4f}")
    args.picture.parent.mkdir(parents=True, exist_ok=True)
    grid = sample_grid((samples[:36, :, :, None] / 2 + 0.5).clamp(0, 1).numpy(), pixel_size=6)
    grid.save(args.picture)
    print(f"rows put together again: {args.picture}")


if __name__ == "__main__":
    main()
