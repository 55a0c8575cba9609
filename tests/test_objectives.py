import pytest
import torch
from diffusers import DDPMScheduler

from ddpm_from_scratch import DDPMFromScratchScheduler, objectives
from ddpm_from_scratch import timestep_samplers as samplers
from ddpm_from_scratch.diffusion import PREDICTION_TYPES, broadcast_to_sample, scales, to_original
from ddpm_from_scratch.toy_data import GaussianDenoiser


class Linear(torch.nn.Module):
    """A wrong but deterministic network."""

    def forward(self, sample, timesteps):
        return type("Output", (), {"sample": 0.3 * sample + 0.1})


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_min_snr_weights_give_the_same_loss_in_x0_units(prediction_type, generator):
    """The weight on the network's own error equals min(SNR, gamma) on the error of x_0, for every prediction
    type."""
    scheduler = DDPMScheduler(prediction_type=prediction_type)
    x0, noise = (torch.randn(6, 2, generator=generator) for _ in range(2))
    timesteps = torch.tensor([1, 100, 300, 500, 700, 900])
    losses = objectives.denoising_losses(Linear(), scheduler, x0, noise, timesteps, loss_weighting="min_snr")
    alphas = scheduler.alphas_cumprod[timesteps]
    at_t = scales(broadcast_to_sample(alphas, x0))
    xt = scheduler.add_noise(x0, noise, timesteps)
    estimate = to_original(0.3 * xt + 0.1, xt, at_t, prediction_type)
    expected = (alphas / (1 - alphas)).clamp(max=5) * (estimate - x0).square().mean(1)
    torch.testing.assert_close(
        losses, expected, rtol=1e-3, atol=1e-4
    )  # x_0 from epsilon loses digits at small SNR


def test_min_snr_of_epsilon_is_finite_without_signal():
    assert float(objectives.min_snr_weights(torch.tensor([0.0]), "epsilon")[0]) == 1


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_exact_network_has_the_smallest_loss(prediction_type, generator):
    scheduler = DDPMFromScratchScheduler(prediction_type=prediction_type)
    exact = GaussianDenoiser(
        [0.0, 0.0], [[0.5, 0.2], [0.2, 0.5]], scheduler.alphas_cumprod.tolist(), prediction_type
    )
    factor = torch.linalg.cholesky(torch.tensor([[0.5, 0.2], [0.2, 0.5]]))
    x0 = torch.randn(20_000, 2, generator=generator) @ factor.T
    noise = torch.randn(x0.shape, generator=generator)
    timesteps = samplers.stratified_timesteps(len(x0), 1000, generator)

    def loss(factor):
        model = lambda x, t: type("Output", (), {"sample": factor * exact(x, t).sample})  # noqa: E731
        return float(objectives.denoising_losses(model, scheduler, x0, noise, timesteps).mean())

    assert loss(1.0) < loss(0.95) and loss(1.0) < loss(1.05)


def test_unknown_weighting_and_wrong_output_are_refused():
    x, t = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match="loss_weighting"):
        objectives.denoising_losses(Linear(), DDPMScheduler(), x, x, t, loss_weighting="snr")
    wide = lambda x, t: type("Output", (), {"sample": torch.zeros(2, 6)})  # noqa: E731
    with pytest.raises(ValueError, match="out_channels"):
        objectives.denoising_losses(wide, DDPMScheduler(), x, x, t)


def test_noising_stays_float32_when_the_network_returns_bfloat16(generator):
    seen = []

    def model(sample, timesteps):
        seen.append(sample.dtype)
        return type("Output", (), {"sample": sample.bfloat16()})

    x = torch.randn(4, 2, generator=generator)
    losses = objectives.denoising_losses(model, DDPMScheduler(), x, x, torch.arange(4))
    assert seen == [torch.float32] and losses.dtype == torch.float32
