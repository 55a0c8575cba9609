"""A trainer of a tiny network on the digits, in this process."""

import dataclasses

import torch
from accelerate import Accelerator

import runs
from ddpm_from_scratch.training import Trainer
from ddpm_from_scratch.training.config import parse_config
from ddpm_from_scratch.training.prepare import choose_model_and_data


def make_trainer(folder, *flags, **settings):
    """Return the trainer of `runs.flags`; `settings` are those that no flag can take away."""
    config = dataclasses.replace(parse_config(runs.flags(folder, *flags)), **settings)
    return Trainer(config, *choose_model_and_data(config), Accelerator(cpu=True))


def weights(trainer):
    return torch.cat([value.flatten() for value in trainer.state.network.state_dict().values()])
