"""Calibration of the few-step sampler: the density of equal errors, and the search against data."""

import math

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

from ddpm_from_scratch import DDPMFromScratchScheduler, Denoiser, FewStepScheduler
from ddpm_from_scratch.learning.calibration import calibrate, equal_error_density, expected_evaluations
from ddpm_from_scratch.measures.metrics import sliced_wasserstein
from ddpm_from_scratch.networks.mixtures import GaussianMixtureDenoiser


@pytest.fixture
def scheduler():
    return DDPMFromScratchScheduler(clip_sample=False)


def mixture(scheduler, means, variance, **options):
    return GaussianMixtureDenoiser(
        means=means,
        covariances=(variance * torch.eye(len(means[0]))).tolist(),
        alphas_cumprod=scheduler.alphas_cumprod.tolist(),
        **options,
    )


def spiral(scheduler):
    angle = 6 * math.pi * torch.linspace(0.05, 1, 60, dtype=torch.float64).sqrt()
    points = torch.stack([angle * angle.cos(), angle * angle.sin()], dim=1)
    return mixture(scheduler, (points / points.std()).tolist(), 0.02**2)


def error(model, scheduler, timesteps, noise):
    """RMS distance of the flow through some timesteps from the flow through 200."""
    ends = []
    for visited in (timesteps, list(range(999, -1, -5))):
        ours = FewStepScheduler.from_config(
            scheduler.config,
            calibration={"steps": {str(len(visited)): {"timesteps": visited, "noise_level": 0.0}}},
        )
        ours.set_timesteps(len(visited))
        sample = noise
        for t in visited:
            sample = ours.step(model(sample, t).sample, t, sample).prev_sample
        ends.append(sample)
    return float((ends[0] - ends[1]).square().mean().sqrt())


def test_density_is_high_where_the_flow_bends(scheduler, generator):
    """Two points at +-1: x0hat = tanh(x a / s^2) turns from 0 to +-1 around lambda = 0."""
    model = mixture(scheduler, [[1.0], [-1.0]], 1e-4)
    noise = torch.randn(64, 1, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        places, density = equal_error_density(Denoiser(lambda x, t: model(x, t).sample, scheduler), noise, 60)
    assert all(b > a for a, b in zip(places, places[1:], strict=False))
    assert -1.5 < places[int(np.argmax(density))] < 1
    assert min(density) >= max(density) / 11


def test_density_beats_even_spacings(scheduler, generator):
    model = spiral(scheduler)
    calibration = calibrate(Denoiser(model, scheduler), (2,), generator, progress_bar=False)
    assert set(calibration) == {"half_log_snr", "density"}
    ours = FewStepScheduler.from_config(scheduler.config, calibration=calibration)
    noise = torch.randn(500, 2, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        calibrated = error(model, scheduler, ours.timesteps_for(10), noise)
        trailing = error(model, scheduler, list(range(999, 0, -100)), noise)
    assert calibrated < 0.85 * trailing


def distance_of(candidate):
    return candidate.distance


def noise_of(candidate):
    return candidate.plan.noise_level, str(candidate.plan.noise_interval)


def test_search_finds_the_better_samples(scheduler, generator):
    model = spiral(scheduler)
    data = model.sample(2000, generator).float()
    tried = []
    calibration = calibrate(
        Denoiser(model, scheduler),
        (2,),
        generator,
        num_steps=[4, 6],
        num_samples=50,
        progress_bar=False,
        distance=lambda samples: sliced_wasserstein(samples.float(), data),
        on_candidate=tried.append,
    )
    for count in (4, 6):
        of_count = [one for one in tried if len(one.plan.timesteps) == count]
        kinds, first, again, last = (
            [one for one in of_count if one.num_samples == number] for number in (400, 50, 200, 1600)
        )
        best = min(last, key=distance_of)
        assert calibration["steps"][str(count)] == best.plan.entry()
        # The kinds of noise are compared at the same timesteps, and the best two go on.
        assert len({noise_of(one) for one in kinds}) == len(kinds) >= 5
        assert len({str(one.plan.timesteps) for one in kinds}) == 1
        chosen = [noise_of(one) for one in sorted(kinds, key=distance_of)[:2]]
        assert {noise_of(one) for one in first} == {noise_of(one) for one in last} == set(chosen)
        for kind, finalist in zip(
            chosen, sorted(last, key=lambda one: chosen.index(noise_of(one))), strict=True
        ):
            of_kind = [one for one in first if noise_of(one) == kind]
            assert len(of_kind) == len({str(one.plan) for one in of_kind}) >= 8
            judged_again = [one for one in again if noise_of(one) == kind]
            # Six chains are judged again, then the best of them with less noise.
            unscaled = [one for one in judged_again if one.plan.noise_scale == 1]
            expected = sorted(of_kind, key=distance_of)[:6]
            assert [str(one.plan) for one in unscaled] == [str(one.plan) for one in expected]
            plan = min(unscaled, key=distance_of).plan
            scaled = [str(one.plan) for one in judged_again if one.plan.noise_scale < 1]
            scales = (0.98, 0.95) if plan.noise_level else ()
            assert scaled == [str(plan._replace(noise_scale=scale)) for scale in scales]
            assert finalist.plan == min(judged_again, key=distance_of).plan
        assert best.distance < 0.8 * max(map(distance_of, kinds))
    ours = FewStepScheduler.from_config(scheduler.config, calibration=calibration)
    ours.set_timesteps(6)
    assert ours.timesteps.tolist() == calibration["steps"]["6"]["timesteps"]


def test_tuned_timesteps_beat_the_density(scheduler, generator):
    model = mixture(scheduler, torch.randn(40, 16, generator=generator).tolist(), 0.01)
    density, tuned = (
        calibrate(
            Denoiser(model, scheduler), (16,), generator, num_steps=[5, 20], tune=tune, progress_bar=False
        )
        for tune in (False, True)
    )
    assert set(tuned["steps"]) == {"5"}
    assert tuned["steps"]["5"]["noise_level"] == 0
    noise = torch.randn(500, 16, generator=generator, dtype=torch.float64)
    by_density = FewStepScheduler.from_config(scheduler.config, calibration=density).timesteps_for(5)
    with torch.no_grad():
        before, after = (
            error(model, scheduler, visited, noise)
            for visited in (by_density, tuned["steps"]["5"]["timesteps"])
        )
    assert after < 0.9 * before


def test_same_generator_finds_the_same(scheduler):
    model = mixture(scheduler, [[1.0, 0.0], [-1.0, 0.5]], 0.01)
    found = [
        calibrate(
            Denoiser(model, scheduler),
            (2,),
            torch.Generator().manual_seed(1),
            num_steps=[3],
            num_samples=8,
            distance=lambda samples: float(samples.square().mean()),
            batch_size=20,
            progress_bar=False,
        )
        for _ in range(2)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("num_steps", [[3], [2, 5]])
def test_the_total_of_the_bar_is_about_what_a_search_takes(scheduler, num_steps):
    """Within a third: for a time left that can be planned with, as how long descents are is not known."""
    model, taken = mixture(scheduler, [[1.0, 0.0], [-1.0, 0.5]], 0.01), 0

    def count(candidate):
        nonlocal taken
        taken += len(candidate.plan.timesteps) * math.ceil(candidate.num_samples / 20)

    calibrate(
        Denoiser(model, scheduler), (2,), torch.Generator().manual_seed(1), num_steps=num_steps, tune=False,
        num_samples=40, distance=lambda samples: float(samples.square().mean()), batch_size=20,
        on_candidate=count, progress_bar=False,
    )  # fmt: skip
    assert taken == pytest.approx(expected_evaluations(num_steps, 40, 20), rel=1 / 3)


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_labels_and_guidance(scheduler, generator, guidance_scale):
    torch.manual_seed(0)
    model = UNet2DModel(
        sample_size=4, in_channels=1, out_channels=1, block_out_channels=(4,), norm_num_groups=2,
        layers_per_block=1, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
        add_attention=False, num_class_embeds=4,
    )  # fmt: skip
    labels_seen, sizes = set(), set()
    model.register_forward_pre_hook(
        lambda _, args, options: (
            labels_seen.update(options["class_labels"].tolist()),
            sizes.add(len(args[0])),
            None,
        )[-1],
        with_kwargs=True,
    )
    calibrate(
        Denoiser(model, scheduler, [0, 1, 2], guidance_scale=guidance_scale, null_label=3),
        (1, 4, 4),
        generator,
        progress_bar=False,
    )
    assert labels_seen == ({0, 1, 2} if guidance_scale == 1 else {0, 1, 2, 3})
    assert sizes == ({8} if guidance_scale == 1 else {16})


def test_a_chain_too_short_to_calibrate_is_refused(generator):
    short = DDPMFromScratchScheduler(num_train_timesteps=4, trained_betas=[0.3, 0.6, 0.9, 0.99])
    model = mixture(short, [[1.0, 0.0], [-1.0, 0.5]], 0.01)
    with pytest.raises(ValueError, match="num_train_timesteps is 4"):
        calibrate(Denoiser(model, short), (2,), generator, num_steps=[2], progress_bar=False)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_steps": [0]}, ValueError, "a number of steps is 0"),
        ({"num_steps": [1001]}, ValueError, "a number of steps is 1001"),
        ({"num_samples": 1}, ValueError, "num_samples is 1"),
        ({"distance": lambda samples: math.nan, "num_steps": [3]}, FloatingPointError, "no way to take 3"),
    ],
)
def test_wrong_arguments_are_refused(scheduler, generator, options, error, message):
    model = mixture(scheduler, [[1.0, 0.0], [-1.0, 0.5]], 0.01)
    with pytest.raises(error, match=message):
        calibrate(
            Denoiser(model, scheduler), (2,), generator, **{"num_samples": 20} | options, progress_bar=False
        )
