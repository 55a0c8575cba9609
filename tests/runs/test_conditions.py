"""Networks that are trained on numbers and on vectors sample what they are asked for."""

import pytest
import torch

from common import seeded
from ddpm_from_scratch import (
    DDPMFromScratchPipeline,
    DDPMFromScratchScheduler,
    Denoiser,
    build_model,
    model_config,
)
from ddpm_from_scratch.learning.objectives import denoising_losses, drop_labels

ASKED = torch.tensor([-0.8, -0.4, 0.0, 0.4, 0.8])


def condition(brightness, kind):
    """Return what stands for pictures of a brightness: the number, or a vector that has it in a corner."""
    if kind == "timestep":
        return 100 * brightness
    vectors = torch.ones(len(brightness), 32)
    vectors[:, :4] = 3 * brightness[:, None]
    return vectors


@pytest.mark.parametrize(("kind", "null_label"), [("timestep", 500), ("identity", 0)])
def test_a_trained_network_samples_the_brightness_that_was_asked_for(kind, null_label):
    """Grey pictures with some noise. With a label the brightness is known; without, it is any."""
    torch.manual_seed(0)
    scheduler = DDPMFromScratchScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    network = build_model(model_config("tiny", class_embed_type=kind))
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    generator = seeded()
    for update in range(400):
        brightness = torch.rand(48, generator=generator) * 2 - 1
        noise = torch.randn(2, 48, 1, 8, 8, generator=generator)
        timesteps = torch.randint(1000, (48,), generator=generator)
        labels = drop_labels(condition(brightness, kind), null_label, 0.15, generator)
        pictures = brightness[:, None, None, None] * 0.8 + 0.05 * noise[0]
        losses = denoising_losses(Denoiser(network, scheduler, labels), pictures, noise[1], timesteps)
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - update / 400)
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()

    pipeline = DDPMFromScratchPipeline(network.eval(), scheduler, null_label)
    pipeline.set_progress_bar_config(disable=True)
    asked = condition(ASKED.repeat_interleave(8), kind)
    for guidance_scale in (1.0, 1.5):
        options = {"class_labels": asked, "guidance_scale": guidance_scale, "output_type": "pt"}
        made = pipeline(40, seeded(1), 20, **options).images * 2 - 1
        found = made.mean((1, 2, 3)).reshape(5, 8)
        assert float((found.mean(1) - 0.8 * ASKED).abs().max()) < 0.12
        assert float(found.std(1).max()) < 0.16  # of all brightnesses: 0.46
    without = pipeline(40, seeded(1), 20, output_type="pt").images * 2 - 1
    assert float(without.mean((1, 2, 3)).std()) > 0.25
