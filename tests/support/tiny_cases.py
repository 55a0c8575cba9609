"""A network, a scheduler and data that are small, for tests that need no others."""

import torch
from sklearn.datasets import load_digits

from ddpm_from_scratch import DDPMFromScratchScheduler, build_model, model_config


def tiny(variance_type, prediction_type="epsilon", dtype=torch.float64, **config):
    torch.manual_seed(0)
    learned = variance_type.startswith("learned")
    network = build_model(model_config("tiny") | ({"out_channels": 2} if learned else {})).to(dtype)
    scheduler = DDPMFromScratchScheduler(
        num_train_timesteps=20,
        beta_end=0.6,
        variance_type=variance_type,
        prediction_type=prediction_type,
        **config,
    )
    return network, scheduler


def digits(count, dtype=torch.float64):
    """8 x 8 images whose values are on 17 levels."""
    images = load_digits().images[:count] / 8 - 1
    return torch.tensor(images, dtype=dtype)[:, None]
