"""Score, Langevin dynamics and probability flow against closed form."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.models.unets.unet_2d import UNet2DOutput

from ddpm_from_scratch import DDPMFromScratchScheduler, Denoiser, build_model, model_config
from ddpm_from_scratch.density.score import (
    annealed_langevin,
    flow_angles,
    geometric_timesteps,
    langevin,
    predictor_corrector,
    probability_flow,
    snr_step_size,
    tweedie,
)
from ddpm_from_scratch.measures.metrics import sliced_wasserstein
from ddpm_from_scratch.networks.mixtures import GaussianMixtureDenoiser
from ddpm_from_scratch.process.diffusion import PREDICTION_TYPES, scales, to_score

MEANS = [[0.5, -1.0], [2.0, 1.0], [-1.0, 0.3]]
COVARIANCES = [[[0.6, 0.3], [0.3, 0.4]], [[0.1, 0.0], [0.0, 0.2]], [[0.02, -0.01], [-0.01, 0.05]]]
SCHEDULERS = {
    "ours": DDPMFromScratchScheduler(clip_sample=False),
    "stock": DDPMScheduler(clip_sample=False),
}


def mixture(scheduler, prediction_type="epsilon"):
    return GaussianMixtureDenoiser(MEANS, COVARIANCES, scheduler.alphas_cumprod.tolist(), prediction_type)


def narrow_clusters(scheduler):
    """Eight clusters on a circle, so narrow that sampling them is hard."""
    angle = torch.arange(8).double() * torch.pi / 4
    means = torch.stack([angle.cos(), angle.sin()], dim=1) * 1.4
    return GaussianMixtureDenoiser(
        means.tolist(), [[0.01, 0.0], [0.0, 0.01]], scheduler.alphas_cumprod.tolist()
    )


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_every_prediction_means_the_gradient_of_the_log_density(prediction_type, generator):
    exact = mixture(SCHEDULERS["ours"], prediction_type)
    timesteps = torch.tensor([0, 10, 300, 700, 999])
    levels = exact.alpha_bar_table[timesteps][:, None]
    points = exact.sample(5, generator).requires_grad_()
    (gradient,) = torch.autograd.grad(exact.log_prob(points, levels).sum(), points)
    output = exact(points.detach(), timesteps).sample
    score = to_score(output, points.detach(), scales(levels), prediction_type)
    torch.testing.assert_close(score, gradient, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-11)])
def test_tweedies_formula_gives_the_posterior_mean(dtype, tolerance, generator):
    exact = mixture(SCHEDULERS["ours"])
    for given in (0.9999, 0.9, 0.5, 0.1):
        level = torch.tensor(given, dtype=dtype).double()  # what the dtype makes of it
        points = exact.sample(200, generator) * level**0.5
        points = points + (1 - level) ** 0.5 * torch.randn(200, 2, generator=generator, dtype=torch.float64)
        estimate = tweedie(points.to(dtype), exact.score(points, level).to(dtype), level.to(dtype))
        expected = exact.pred_original(points, level)
        torch.testing.assert_close(estimate.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_a_network_and_a_scheduler_are_a_score(scheduler, generator):
    exact = mixture(scheduler)
    points = exact.sample(4, generator)
    denoiser = Denoiser(exact, scheduler)
    for timesteps in (torch.tensor(500), torch.tensor([500]), torch.tensor([1, 20, 500, 999])):
        levels = exact.alpha_bar_table[timesteps].expand(4)[:, None]
        torch.testing.assert_close(
            denoiser(points, timesteps).score, exact.score(points, levels), rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize(("std", "step_size"), [(1.0, 0.2), (1.0, 1.0), (0.5, 0.4)])
def test_unadjusted_langevin_widens_a_gaussian_as_in_closed_form(std, step_size, generator):
    start = std * torch.randn(200_000, 1, generator=generator)
    points = langevin(lambda x: -x / std**2, start, step_size, 60, generator)
    # 200,000 chains know a variance to 0.3 %
    assert float(points.var()) == pytest.approx(std**2 / (1 - step_size / (4 * std**2)), rel=0.02)


def test_the_signal_to_noise_ratio_is_what_it_says(generator):
    """Of the two parts of a step, and so of the widening of the narrowest Gaussian."""
    level, ratio = 0.3, 0.4
    step_size = snr_step_size(level, ratio)
    noise, other = torch.randn(2, 100_000, generator=generator)
    score = -noise / (1 - level) ** 0.5  # around one point
    signal = (0.5 * step_size * score).norm() / (step_size**0.5 * other).norm()
    assert float(signal) == pytest.approx(ratio, rel=0.02)
    assert 1 / (1 - step_size / (4 * (1 - level))) == pytest.approx(1 / (1 - ratio**2))


def test_annealed_langevin_reaches_the_floor_of_the_data_in_a_thousand_evaluations(generator):
    scheduler = SCHEDULERS["ours"]
    exact = narrow_clusters(scheduler)
    evaluations = []
    exact.register_forward_hook(lambda *_: evaluations.append(1))
    noise = torch.randn(2000, 2, generator=generator)
    made = annealed_langevin(Denoiser(exact, scheduler), noise, generator=generator)
    assert 900 < len(evaluations) <= 1001
    data, other, third = (exact.sample(2000, generator) for _ in range(3))
    floor = (sliced_wasserstein(data, other) + sliced_wasserstein(data, third)) / 2
    assert sliced_wasserstein(made, data) < 1.5 * floor


def test_samples_go_from_level_to_level_at_the_scale_of_the_data():
    """With no score and hardly any noise they are only brought to the scale of each level."""
    scheduler = SCHEDULERS["ours"]

    def network(sample, timesteps):
        return UNet2DOutput(sample=torch.zeros_like(sample))

    start = torch.tensor([[1.0, -2.0]])
    made = annealed_langevin(
        Denoiser(network, scheduler), start, timesteps=[600, 300, 50], steps_per_level=1, snr=1e-7
    )
    torch.testing.assert_close(made, start / scheduler.alphas_cumprod[600].sqrt(), rtol=1e-4, atol=0)


def test_the_end_of_the_flow_may_be_denoised(generator):
    scheduler = SCHEDULERS["ours"]
    exact, noise = mixture(scheduler), torch.randn(5, 2, generator=generator)
    chain = range(999, 99, -20)
    noisy, denoised = (
        probability_flow(Denoiser(exact, scheduler), noise, chain, denoise=denoise)
        for denoise in (False, True)
    )
    expected = exact.pred_original(noisy, scheduler.alphas_cumprod[chain[-1]].double())
    torch.testing.assert_close(denoised, expected.float(), rtol=1e-4, atol=1e-4)
    assert float((denoised - noisy).abs().max()) > 0.01


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_levels_of_noise_fall_in_equal_ratios(schedule):
    table = DDPMFromScratchScheduler(beta_schedule=schedule).alphas_cumprod.double()
    levels = geometric_timesteps(table, 20)
    sigma = (1 / table - 1).sqrt()
    assert levels[-1] == 0 and len(levels) == 20
    assert float(sigma[levels[0]]) <= 100 < float(sigma[levels[0] + 1])
    ratios = sigma[levels][:-2].log().diff()
    torch.testing.assert_close(ratios, ratios.mean().expand_as(ratios), rtol=0.15, atol=0)


def test_corrector_steps_mend_what_few_predictor_steps_miss(generator):
    scheduler = DDPMFromScratchScheduler(clip_sample=False, timestep_spacing="trailing")
    exact = mixture(scheduler)
    data = exact.sample(4000, generator)
    noise = torch.randn(4000, 2, generator=generator)
    distance = {}
    for corrector_steps in (0, 4):
        scheduler.set_timesteps(10)
        made = predictor_corrector(
            Denoiser(exact, scheduler), noise, corrector_steps=corrector_steps, generator=generator
        )
        distance[corrector_steps] = sliced_wasserstein(made, data)
    assert distance[4] < 0.85 * distance[0], distance


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler, DDPMFromScratchScheduler])
def test_without_a_corrector_it_is_the_schedulers_own_chain(kind, generator):
    scheduler = kind(clip_sample=False)
    exact = mixture(scheduler)
    noise = torch.randn(3, 2, generator=generator)
    scheduler.set_timesteps(10)
    made = predictor_corrector(
        Denoiser(exact, scheduler), noise, corrector_steps=0, generator=torch.Generator().manual_seed(1)
    )
    sample, source = noise, torch.Generator().manual_seed(1)
    for t in scheduler.timesteps:
        sample = scheduler.step(exact(sample, t).sample, t, sample, generator=source).prev_sample
    assert torch.equal(made, sample)


def gaussian_flow(std, scheduler, sample, start, end):
    """Return where the probability flow of N(0, std^2) takes x_start, in closed form."""
    variance = [a * std**2 + 1 - a for a in (scheduler.alphas_cumprod.double()[t] for t in (start, end))]
    return sample * (variance[1] / variance[0]) ** 0.5


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("direction", ["sampling", "encoding"])
def test_the_flow_of_a_gaussian_converges_with_second_order(prediction_type, direction, generator):
    scheduler = DDPMFromScratchScheduler(clip_sample=False, prediction_type=prediction_type)
    table = scheduler.alphas_cumprod.tolist()
    exact = GaussianMixtureDenoiser([[0.0]], [[0.09]], table, prediction_type)
    points = torch.randn(100, 1, generator=generator, dtype=torch.float64)
    # nodes at equal angles, so that halving the steps halves all of them
    angles = flow_angles(scheduler.alphas_cumprod)
    errors = []
    for count in (20, 40, 80):
        wanted = torch.linspace(float(angles[900]), float(angles[20]), count + 1, dtype=torch.float64)
        nodes = (angles[:, None] - wanted).abs().argmin(0).tolist()
        nodes = nodes if direction == "sampling" else nodes[::-1]
        expected = gaussian_flow(0.3, scheduler, points, nodes[0], nodes[-1])
        errors.append(
            float((probability_flow(Denoiser(exact, scheduler), points, nodes) - expected).abs().max())
        )
    orders = [torch.tensor(a / b).log2() for a, b in zip(errors, errors[1:], strict=False)]
    assert all(1.7 < order < 2.4 for order in orders), (errors, orders)


def test_encoding_and_sampling_are_inverse(generator):
    scheduler = SCHEDULERS["stock"]
    exact = mixture(scheduler)
    points = exact.sample(50, generator)
    encoded = probability_flow(Denoiser(exact, scheduler), points, range(1000))
    assert abs(float(encoded.var()) - 1) < 0.5
    torch.testing.assert_close(
        probability_flow(Denoiser(exact, scheduler), encoded, range(999, -1, -1)), points, rtol=0, atol=1e-3
    )


def test_the_flow_samples_the_data(generator):
    scheduler = SCHEDULERS["ours"]
    exact = mixture(scheduler)
    noise = torch.randn(4000, 2, generator=generator)
    made = probability_flow(Denoiser(exact, scheduler), noise, range(999, -1, -9), denoise=True)
    data, other = exact.sample(4000, generator), exact.sample(4000, generator)
    assert sliced_wasserstein(made, data) < 2 * sliced_wasserstein(other, data)


@pytest.mark.parametrize(
    ("timesteps", "says"),
    [
        ([3, 3], "timesteps are"),
        ([1, 5, 3], "timesteps are"),
        ([1000], "timestep is 1000"),
        ([-1], "timestep is -1"),
        ([7, 0.5], "timestep is 0.5"),
        ([], "at least one"),
    ],
)
def test_timesteps_that_do_not_go_one_way_are_refused(timesteps, says):
    scheduler = SCHEDULERS["ours"]
    exact = mixture(scheduler)
    with pytest.raises((TypeError, ValueError), match=says):
        probability_flow(Denoiser(exact, scheduler), torch.zeros(1, 2), timesteps)
    with pytest.raises((TypeError, ValueError), match=says):
        annealed_langevin(Denoiser(exact, scheduler), torch.zeros(1, 2), timesteps=timesteps)


@pytest.mark.parametrize("timestep", [-1, 1000])
def test_the_score_at_a_timestep_out_of_range_is_refused(timestep):
    scheduler = SCHEDULERS["ours"]
    with pytest.raises(ValueError, match="timesteps reach from"):
        Denoiser(mixture(scheduler), scheduler)(torch.zeros(3, 2), timestep)


@pytest.mark.parametrize("ratio", [0.0, 1.0, 1.5, float("nan")])
def test_a_ratio_out_of_range_is_refused(ratio):
    with pytest.raises(ValueError, match="snr"):
        snr_step_size(0.5, ratio)


@pytest.mark.parametrize("step_size", [0.0, -0.1, float("inf")])
def test_a_step_out_of_range_is_refused(step_size):
    with pytest.raises(ValueError, match="step_size"):
        langevin(lambda x: -x, torch.zeros(1, 1), step_size, 1)


def test_langevin_keeps_no_graph_and_takes_a_score_by_autograd():
    weight = torch.ones(1, requires_grad=True)

    def score(sample):
        sample = sample.detach().requires_grad_()
        return torch.autograd.grad(-(weight * sample.square()).sum() / 2, sample, create_graph=True)[0]

    made = langevin(score, torch.zeros(2, 1), 0.1, 3, torch.Generator().manual_seed(0))
    assert not made.requires_grad and bool((made != 0).all())


def test_pure_noise_is_a_level_too(generator):
    """Where alpha_bar is 0: v says what x_0 is, epsilon does not."""
    scheduler = DDPMScheduler(rescale_betas_zero_snr=True, clip_sample=False, prediction_type="v_prediction")
    exact = mixture(scheduler, "v_prediction")
    noise = torch.randn(2000, 2, generator=generator)
    for made in (
        annealed_langevin(
            Denoiser(exact, scheduler), noise, timesteps=[999, *range(900, -1, -20)], generator=generator
        ),
        probability_flow(Denoiser(exact, scheduler), noise, range(999, -1, -9), denoise=True),
    ):
        torch.testing.assert_close(made.mean(0), exact.sample(9000).mean(0).float(), rtol=0, atol=0.2)
    blind = DDPMScheduler.from_config(scheduler.config, prediction_type="epsilon")
    with pytest.raises(ValueError, match="alpha_bar of timestep 999 is 0"):
        probability_flow(Denoiser(mixture(blind), blind), noise, range(999, -1, -9))
    assert bool(probability_flow(Denoiser(mixture(blind), blind), noise, range(998, -1, -9)).isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_in_half_precision_samples_like_one_that_is_not(dtype):
    torch.manual_seed(0)
    network = build_model(model_config("tiny"))
    scheduler = DDPMFromScratchScheduler(num_train_timesteps=20, beta_end=0.6)
    scheduler.set_timesteps(20)
    noise = torch.randn(4, 1, 8, 8)
    made = {}
    for each in (network, build_model(model_config("tiny")).to(dtype)):
        each.load_state_dict(network.state_dict())
        start = noise.to(each.dtype)
        made[each.dtype] = [
            annealed_langevin(
                Denoiser(each, scheduler),
                start,
                timesteps=[19, 9, 0],
                generator=torch.Generator().manual_seed(0),
            ),
            predictor_corrector(Denoiser(each, scheduler), start, generator=torch.Generator().manual_seed(0)),
            probability_flow(Denoiser(each, scheduler), start, range(19, -1, -1)),
            Denoiser(each, scheduler)(start, 5).score,
        ]
    for half, full in zip(made[dtype], made[torch.float32], strict=True):
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, full, rtol=0.1, atol=0.1)
