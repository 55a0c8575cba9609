"""Loops of training to compare: diffusers' own, and the trainer of training/.

Each has `network`, `average()`, `accelerator`, and `updates()`, which does one update per item.
"""

import contextlib
import io
import itertools
import json
import os
import statistics
from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import DDPMScheduler
from diffusers.models.modeling_utils import ModelMixin
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import nn
from tqdm import tqdm

from ddpm_from_scratch.data.datasets import load_training_data
from ddpm_from_scratch.networks.models import build_model
from ddpm_from_scratch.training.config import TrainingConfig
from ddpm_from_scratch.training.trainer import Trainer
from pictures import as_dataset


class Stock:
    """The loop of diffusers' script; `tuned` adds fused AdamW and, if the precision is bf16, autocast."""

    def __init__(
        self,
        network: dict[str, Any],
        weights: dict[str, torch.Tensor],
        images: list[Image.Image],
        config: TrainingConfig,
        *,
        tuned: bool,
    ):
        self.config, self.accelerator = config, fresh_accelerator(config.mixed_precision if tuned else "no")
        self.network = build_model(network)
        self.network.load_state_dict(weights)
        self.scheduler = DDPMScheduler(config.ddpm_num_steps)
        side, mode = network["sample_size"], {1: "L", 3: "RGB"}[network["in_channels"]]

        def transforms(examples: dict[str, list[Image.Image]]) -> dict[str, list[torch.Tensor]]:
            # torchvision's Resize, ToTensor and Normalize([0.5], [0.5])
            resized = [image.convert(mode).resize((side, side), Image.Resampling.BILINEAR)
                       for image in examples["image"]]  # fmt: skip
            arrays = [np.array(image).reshape(side, side, -1) for image in resized]
            tensors = [torch.from_numpy(array).permute(2, 0, 1).contiguous() for array in arrays]
            return {"input": [tensor.float().div(255).sub_(0.5).div_(0.5) for tensor in tensors]}

        data = as_dataset(images)
        data.set_transform(transforms)
        loader = torch.utils.data.DataLoader(data, batch_size=config.train_batch_size, shuffle=True)
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, betas=(config.adam_beta1, config.adam_beta2),
            weight_decay=config.adam_weight_decay, eps=config.adam_epsilon, fused=tuned or None,
        )  # fmt: skip
        self.ema = EMAModel(
            self.network.parameters(), decay=config.ema_max_decay, use_ema_warmup=True,
            inv_gamma=config.ema_inv_gamma, power=config.ema_power,
        )  # fmt: skip
        lr_scheduler = get_scheduler(
            config.lr_scheduler, optimizer, num_warmup_steps=config.lr_warmup_steps,
            num_training_steps=config.max_train_steps,
        )  # fmt: skip
        self.model, self.optimizer, self.loader, self.lr_scheduler = self.accelerator.prepare(
            self.network, optimizer, loader, lr_scheduler
        )

    def average(self) -> ModelMixin:
        """Return a copy of the network with the averaged weights."""
        model = build_model(dict(self.network.config))
        self.ema.copy_to(model.parameters())
        return model.eval()

    def updates(self) -> Iterator[float]:
        """Train for ever, one update at a time; give its loss."""
        accelerator, model, step = self.accelerator, self.model, 0
        for epoch in itertools.count():
            model.train()
            progress = tqdm(total=len(self.loader), desc=f"Epoch {epoch}", file=io.StringIO())
            for batch in self.loader:
                clean = batch["input"]
                noise = torch.randn(clean.shape, device=clean.device)
                timesteps = torch.randint(0, self.config.ddpm_num_steps, (len(clean),), device=clean.device)
                noisy = self.scheduler.add_noise(clean, noise, timesteps)
                with accelerator.accumulate(model):
                    output = model(noisy, timesteps).sample
                    loss = nn.functional.mse_loss(output.float(), noise.float())
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    self.optimizer.step()
                    self.lr_scheduler.step()
                    self.optimizer.zero_grad()
                if accelerator.sync_gradients:
                    self.ema.step(model.parameters())
                    progress.update(1)
                    step += 1
                logs = {"loss": loss.detach().item(), "lr": self.lr_scheduler.get_last_lr()[0], "step": step}
                logs["ema_decay"] = self.ema.cur_decay_value
                progress.set_postfix(**logs)
                accelerator.log(logs, step=step)
                yield logs["loss"]
            progress.close()


class Ours:
    """The trainer of training/."""

    def __init__(self, network: dict[str, Any], config: TrainingConfig):
        self.accelerator = fresh_accelerator(config.mixed_precision)
        data = load_training_data(config, network.get("sample_size"), network.get("in_channels"))
        self.trainer = Trainer(config, network, data, None, self.accelerator)
        self.network, self.scheduler = self.trainer.state.network, self.trainer.scheduler

    def average(self) -> ModelMixin:
        """Return a copy of the network with the averaged weights."""
        return self.trainer.state.averaged_network()

    def updates(self) -> Iterator[float]:
        """Train for ever, one update at a time; give its loss. Logs as often as the trainer does."""
        trainer, config = self.trainer, self.trainer.config
        batches = trainer.data.batches(
            config.train_batch_size, 0, 1, config.dataloader_num_workers, trainer.state.samples_seen
        )
        progress, losses = tqdm(total=trainer.total_updates, file=io.StringIO()), []
        with open(os.devnull, "w") as file:
            while True:
                losses.append(trainer.train_update(batches).loss)
                yield losses[-1]
                progress.update()
                if trainer.update % config.logging_steps == 0:
                    row = {"loss": statistics.mean(losses), "lr": trainer.learning_rates[0]}
                    losses = []
                    progress.set_postfix(row)
                    file.write(json.dumps({"step": trainer.update} | row) + "\n")


def fresh_accelerator(precision: str) -> Accelerator:
    """Return an Accelerator of its own precision; one process normally has only one."""
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(mixed_precision=precision, cpu=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide progress bars of libraries."""
    datasets.disable_progress_bars()
    with open(os.devnull, "w") as file, contextlib.redirect_stderr(file):
        yield
