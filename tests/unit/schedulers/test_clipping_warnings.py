"""Clipping is warned of where data or latents reach out of its range."""

from types import SimpleNamespace

import pytest
import torch

from ddpm_from_scratch.schedulers.clipping_warnings import clips, latents_message, squashed_message


def config(clip_sample=True, thresholding=False, clip_sample_range=1.0):
    return SimpleNamespace(
        clip_sample=clip_sample, thresholding=thresholding, clip_sample_range=clip_sample_range
    )


def test_thresholding_takes_the_place_of_clipping():
    assert clips(config()) and not clips(config(thresholding=True)) and not clips(config(clip_sample=False))


@pytest.mark.parametrize(
    ("largest", "noise", "said"), [(1.9, 0.0, False), (2.1, 0.0, True), (2.1, 0.1, False)]
)
def test_data_far_out_of_the_range_are_named(largest, noise, said):
    message = squashed_message(config(), torch.tensor([[0.0, -largest]]), 1.0, noise)
    assert (message is not None) == said
    assert not said or "the data reach 2.1" in message


def test_samples_without_values_say_nothing():
    for sample in (torch.zeros(0, 3), torch.zeros(1, 3, device="meta")):
        assert squashed_message(config(), sample, 1.0, 0.0) is None


@pytest.mark.parametrize("decoder", ["vae", "vqvae", "movq"])
def test_latents_are_known_by_their_decoder(decoder):
    pipeline = SimpleNamespace(**{decoder: object()})
    assert f"latents of its {decoder}" in latents_message(config(clip_sample_range=5), pipeline)
    assert "[-5, 5]" in latents_message(config(clip_sample_range=5), pipeline)
    assert latents_message(config(clip_sample=False), pipeline) is None
    assert latents_message(config(), SimpleNamespace(vae=None)) is None
    assert latents_message(config(), None) is None
