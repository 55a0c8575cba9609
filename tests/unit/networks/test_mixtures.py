"""The exact denoiser of mixtures, against numerical integration and derivatives."""

import pytest
import torch

from ddpm_from_scratch import DDPMFromScratchPipeline, DDPMFromScratchScheduler
from ddpm_from_scratch.networks.mixtures import GaussianMixtureDenoiser
from ddpm_from_scratch.process.diffusion import PREDICTION_TYPES, scales, to_original

MEANS = [[0.5, -1.0], [2.0, 1.0], [-1.0, 0.3]]
COVARIANCES = [[[0.6, 0.3], [0.3, 0.4]], [[0.1, 0.0], [0.0, 0.2]], [[0.02, -0.01], [-0.01, 0.05]]]
WEIGHTS = [1.0, 2.0, 3.0]
TABLE = [0.999, 0.9, 0.5, 0.1]
LEVELS = torch.tensor([[0.99], [0.6], [0.3], [0.05], [1.0]], dtype=torch.float64)


def mixture(covariances=COVARIANCES, **options):
    return GaussianMixtureDenoiser(MEANS, covariances, TABLE, weights=WEIGHTS, **options)


both_kinds = pytest.mark.parametrize(
    "exact", [mixture(), mixture(COVARIANCES[0])], ids=["own covariances", "one covariance"]
)


@both_kinds
def test_the_density_integrates_to_one(exact):
    axis = torch.linspace(-6, 6, 500, dtype=torch.float64)
    cell = (axis[1] - axis[0]) ** 2
    for level in (1.0, 0.5):
        total = exact.log_prob(torch.cartesian_prod(axis, axis), level).exp().sum() * cell
        torch.testing.assert_close(total, total.new_ones(()), rtol=0, atol=1e-6)


@both_kinds
def test_samples_have_the_moments_of_the_mixture(exact, generator):
    points = exact.sample(200_000, generator)
    shares = torch.tensor(WEIGHTS).double() / 6
    means = torch.tensor(MEANS).double()
    mean = shares @ means
    own = torch.tensor(exact.config.covariances).double().expand(3, 2, 2)
    covariance = (shares[:, None, None] * own).sum(0) + (means - mean).T @ torch.diag(shares) @ (means - mean)
    torch.testing.assert_close(points.mean(0), mean, rtol=0, atol=0.02)
    torch.testing.assert_close(torch.cov(points.T), covariance, rtol=0, atol=0.03)


@both_kinds
def test_the_score_is_the_gradient_of_the_log_density(exact, generator):
    points = exact.sample(5, generator).requires_grad_()
    (gradient,) = torch.autograd.grad(exact.log_prob(points, LEVELS).sum(), points)
    torch.testing.assert_close(exact.score(points.detach(), LEVELS), gradient, rtol=0, atol=1e-12)


def test_one_covariance_equals_the_same_covariance_for_each(generator):
    one, each = mixture(COVARIANCES[0]), mixture([COVARIANCES[0]] * 3)
    points = one.sample(5, generator)
    for method in ("log_prob", "score", "pred_original"):
        torch.testing.assert_close(
            getattr(one, method)(points, LEVELS), getattr(each, method)(points, LEVELS), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_network_predicts_the_posterior_mean(prediction_type, generator):
    exact = mixture(prediction_type=prediction_type)
    points, timesteps = exact.sample(4, generator), torch.arange(4)
    output = exact(points, timesteps).sample
    levels = torch.tensor(TABLE, dtype=torch.float64)[:, None]
    torch.testing.assert_close(
        to_original(output, points, scales(levels), prediction_type),
        exact.pred_original(points, levels),
        rtol=0,
        atol=1e-12,
    )


def test_it_is_saved_and_loaded(tmp_path, generator):
    exact = mixture()
    exact.save_pretrained(tmp_path)
    loaded = GaussianMixtureDenoiser.from_pretrained(tmp_path)
    points = exact.sample(3, generator).float()
    assert torch.equal(loaded(points, 2).sample, exact(points, 2).sample)


def test_a_pipeline_samples_the_mixture(generator):
    scheduler = DDPMFromScratchScheduler(clip_sample=False, timestep_spacing="trailing")
    table = scheduler.alphas_cumprod.tolist()
    exact = GaussianMixtureDenoiser(MEANS, COVARIANCES, table, weights=WEIGHTS)
    pipeline = DDPMFromScratchPipeline(exact, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(4000, generator, 100, output_type="pt").images.double()
    drawn = exact.sample(4000, generator)
    for points in (made, drawn):  # the share of each component
        nearest = torch.cdist(points, torch.tensor(MEANS).double()).argmin(1)
        shares = torch.bincount(nearest, minlength=3) / 4000
        torch.testing.assert_close(shares, torch.tensor([1 / 6, 1 / 3, 1 / 2]), rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"means": [0.5, 1.0]}, r"\(K, D\)"),
        ({"covariances": [[1.0]]}, r"\(D, D\)"),
        ({"covariances": COVARIANCES[:2]}, "3 means"),
        ({"weights": [1.0]}, "1 weights"),
        ({"prediction_type": "eps"}, "prediction_type"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(arguments, says):
    given = {"means": MEANS, "covariances": COVARIANCES, "alphas_cumprod": TABLE} | arguments
    with pytest.raises(ValueError, match=says):
        GaussianMixtureDenoiser(**given)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"covariances": [[1.0, 2.0], [2.0, 1.0]]}, "negative"),
        ({"covariances": [[1.0, 0.9], [0.0, 1.0]]}, "symmetric"),
        ({"weights": [-1.0]}, "weights are"),
        ({"weights": [0.0]}, "weights are"),
        ({"sample_shape": (5,)}, "sample_shape"),
    ],
    ids=str,
)
def test_what_is_no_mixture_is_refused(options, says):
    given = {
        "means": [[0.0, 0.0]],
        "covariances": [[1.0, 0.0], [0.0, 1.0]],
        "alphas_cumprod": [0.9],
    } | options
    with pytest.raises(ValueError, match=says):
        GaussianMixtureDenoiser(**given)


def test_it_stays_exact_in_half_precision(generator):
    exact = GaussianMixtureDenoiser([[1.0, 1 / 3]], [[1.0, 0.1], [0.1, 1.0]], [0.9, 0.5])
    sample = torch.randn(5, 2, generator=generator)
    before = exact(sample, torch.tensor(1)).sample
    assert torch.equal(exact.half()(sample, torch.tensor(1)).sample, before)
    assert exact.centre.dtype == torch.float64
