"""The bound against closed form; see test_bound_terms.py and test_flow.py for its parts and the flow."""

import math

import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler
from diffusers.models.unets.unet_2d import UNet2DOutput

from ddpm_from_scratch import DDPMFromScratchScheduler, Denoiser
from ddpm_from_scratch.density.bound import merged, variational_bound, variational_bounds
from ddpm_from_scratch.density.flow import flow_likelihood
from ddpm_from_scratch.density.residuals import residual_curve
from ddpm_from_scratch.networks.mixtures import GaussianMixtureDenoiser
from ddpm_from_scratch.words import VARIANCE_TYPES
from likelihood import (
    digit_means,
    exact_scheduler,
    expected_gap,
    gaussian,
    narrow_mixture,
    uniform,
)
from tiny_cases import digits, tiny

PUBLISHED_GAPS = {"linear": 0.57, "cosine": 0.54, "sigmoid": 0.35}


@pytest.mark.parametrize("kind", ["fixed_small", "analytic"])
@pytest.mark.parametrize("dimensions", [1, 2, 64])
def test_the_bound_holds_and_the_gap_shrinks_as_steps_grow(dimensions, kind):
    """In the mean, which is known: no draw of the noise can spoil it."""
    scheduler = exact_scheduler()
    exact = gaussian(dimensions, scheduler)
    gaps = [expected_gap(exact, scheduler, uniform(steps), kind) for steps in (5, 20, 100, 500, 1000)]
    assert min(gaps) > 0
    if dimensions == 1 and kind == "analytic":  # the reverse process is Gaussian, and of this variance
        assert max(gaps) < 1e-6
    else:
        assert all(few > many for few, many in zip(gaps, gaps[1:], strict=False)), gaps


@pytest.mark.parametrize("steps", [10, 100])
def test_the_measured_gap_is_the_expected_one(steps, generator):
    """Of the bound above the true -log p, in pairs: far more precise than either."""
    scheduler = exact_scheduler()
    exact = gaussian(2, scheduler)
    samples = exact.sample(4000, generator)
    bound = variational_bound(
        Denoiser(exact, scheduler), samples, timesteps=uniform(steps), data_levels=None, generator=generator
    )
    gaps = (bound.nats_per_sample + exact.log_prob(samples)) / (2 * math.log(2))
    expected = expected_gap(exact, scheduler, uniform(steps), "fixed_small")
    assert float(gaps.mean()) == pytest.approx(expected, abs=4 * float(gaps.std()) / 4000**0.5)
    assert float(gaps.mean()) > 10 * float(gaps.std()) / 4000**0.5


@pytest.mark.parametrize("schedule", PUBLISHED_GAPS)
def test_the_gap_of_the_digits_mixture_is_the_published_one(schedule, generator):
    """64-D, exact score: 999 steps with the posterior's variance; with analytic variances 50 are enough."""
    scheduler = exact_scheduler(schedule)
    exact = narrow_mixture(digit_means(), 0.1, scheduler)
    samples = exact.sample(400, generator)
    truth = -exact.log_prob(samples) / (64 * math.log(2))
    few = list(range(0, 1000, 20))
    residuals = residual_curve(
        Denoiser(exact, scheduler), exact.sample(500, generator), timesteps=few, generator=generator
    )
    options = {"data_levels": None, "generator": generator}
    analytic = variational_bound(
        Denoiser(exact, scheduler), samples, timesteps=few, residuals=residuals, **options
    )
    gaps = analytic.nats_per_sample / (64 * math.log(2)) - truth
    assert float(gaps.mean()) < 0.02 + 2 * float(gaps.std()) / 400**0.5 < 0.05
    if schedule == "linear":
        fixed = variational_bound(Denoiser(exact, scheduler), samples, timesteps=few, **options)
        assert fixed.bits_per_dim - float(truth.mean()) == pytest.approx(25, abs=1.5)
        full = variational_bound(Denoiser(exact, scheduler), samples, **options)
        # The decoder is no step of the chain; it has the variance that fits it.
        decoder = float(full.terms[0] - analytic.terms[0])
        assert full.bits_per_dim - decoder - float(truth.mean()) == pytest.approx(
            PUBLISHED_GAPS[schedule], abs=0.03
        )


def test_a_variance_type_other_than_the_schedulers_is_used_where_it_can_be():
    network, scheduler = tiny("learned_range")
    bounds = {
        kind: variational_bound(
            Denoiser(network, scheduler),
            digits(4),
            variance_type=kind,
            data_levels=17,
            generator=torch.Generator().manual_seed(0),
        )
        for kind in VARIANCE_TYPES
        if kind != "analytic"
    }
    values = {kind: bound.bits_per_dim for kind, bound in bounds.items()}
    assert values["fixed_small"] == values["fixed_small_log"] != values["fixed_large"]
    assert len({round(value, 6) for value in values.values()}) == 4
    network, scheduler = tiny("fixed_small")
    with pytest.raises(ValueError, match="variance_type is 'learned'"):
        variational_bound(Denoiser(network, scheduler), digits(4), variance_type="learned", data_levels=17)


def test_residuals_of_the_scheduler_are_used_without_others():
    network, scheduler = tiny("fixed_small")
    residuals = torch.linspace(0.1, 0.3, 20, dtype=torch.float64)
    own = DDPMFromScratchScheduler.from_config(
        scheduler.config, variance_type="analytic", residuals=residuals.tolist()
    )
    given, found = (
        variational_bound(
            Denoiser(network, one),
            digits(4),
            data_levels=17,
            timesteps=[1, 5, 19],
            generator=torch.Generator().manual_seed(0),
            **options,
        )
        for one, options in ((scheduler, {"residuals": residuals[[1, 5, 19]]}), (own, {}))
    )
    assert found.variance_type == "analytic" and found.nats == given.nats


def test_several_variances_share_the_evaluations_and_the_noise():
    network, scheduler = tiny("learned_range")
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    residuals = torch.linspace(0.1, 0.3, 20, dtype=torch.float64)
    kinds = ("learned_range", "fixed_large", "analytic")
    options = {"data_levels": 17, "num_monte_carlo": 6}
    together = variational_bounds(
        Denoiser(network, scheduler),
        digits(4),
        kinds,
        residuals=residuals,
        generator=torch.Generator().manual_seed(0),
        **options,
    )
    assert list(together) == list(kinds) and len(calls) == 1
    for kind, bound in together.items():
        given = {"residuals": residuals} if kind == "analytic" else {"variance_type": kind}
        alone = variational_bound(
            Denoiser(network, scheduler),
            digits(4),
            generator=torch.Generator().manual_seed(0),
            **given,
            **options,
        )
        assert bound.variance_type == alone.variance_type == kind
        assert torch.equal(bound.nats_per_sample, alone.nats_per_sample)
        assert torch.equal(bound.terms.nan_to_num(), alone.terms.nan_to_num())


def test_parts_merged_are_the_whole():
    network, scheduler = tiny("fixed_small")
    parts = [
        variational_bound(
            Denoiser(network, scheduler),
            digits(9)[rows],
            data_levels=17,
            num_monte_carlo=3,
            generator=torch.Generator().manual_seed(seed),
        )
        for seed, rows in enumerate((slice(0, 2), slice(2, 9)))
    ]
    whole = merged(parts)
    assert len(whole.nats_per_sample) == 9 and whole.timesteps.equal(parts[0].timesteps)
    assert whole.nats == pytest.approx((2 * parts[0].nats + 7 * parts[1].nats) / 9)
    assert float(whole.counts.sum()) == 36 and whole.counts[0] == 9  # the decoder's is always there
    drawn = whole.counts > 0
    sums = sum((part.terms * part.counts).nan_to_num() for part in parts)
    torch.testing.assert_close(whole.terms[drawn], (sums / whole.counts)[drawn])
    assert bool(whole.terms[~drawn].isnan().all())
    # every sample is drawn equally often, so the mean of its terms is theirs
    steps = float(sums[1:].sum()) * 19 / 27
    assert float(sums[0]) / 9 + steps + whole.prior == pytest.approx(whole.bits_per_dim)


def test_the_stock_scheduler_gives_the_same_bound_and_flow(generator):
    network, scheduler = tiny("fixed_small")
    stock = DDPMScheduler.from_config(dict(scheduler.config))
    values = []
    for each in (scheduler, stock):
        seeded = torch.Generator().manual_seed(0)
        bound = variational_bound(Denoiser(network, each), digits(4), data_levels=17, generator=seeded)
        flow = flow_likelihood(Denoiser(network, each), digits(4), data_levels=17, generator=seeded)
        values.append((bound.bits_per_dim, flow.bits_per_dim))
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_timesteps_drawn_at_random_give_the_bound_in_the_mean(generator):
    network, scheduler = tiny("fixed_large")
    samples = digits(150)
    full = variational_bound(Denoiser(network, scheduler), samples, data_levels=17, generator=generator)
    drawn = variational_bound(
        Denoiser(network, scheduler), samples, data_levels=17, num_monte_carlo=5, generator=generator
    )
    assert drawn.num_evaluations == 6 and full.num_evaluations == 20
    assert 0 < abs(drawn.bits_per_dim - full.bits_per_dim) < 3 * drawn.standard_error
    assert drawn.standard_error > 2 * full.standard_error
    torch.testing.assert_close(drawn.terms, full.terms, rtol=0.5, atol=0)
    # the standard error is that of the mean over samples
    spread = full.nats_per_sample.std() / 150**0.5 / (64 * math.log(2))
    assert full.standard_error == pytest.approx(float(spread))


@pytest.mark.parametrize("batch_size", [3, 1000])
@pytest.mark.parametrize("num_monte_carlo", [None, 4])
def test_every_sample_keeps_its_label(batch_size, num_monte_carlo):
    """A network that says the label: x_0 is estimated exactly if sample and label are of a pair."""
    scheduler = DDPMFromScratchScheduler(20, beta_end=0.6, prediction_type="sample", clip_sample=False)
    samples = torch.tensor([-1.0, -0.5, 0.0, 0.5])[:, None, None, None].expand(4, 1, 2, 2).double()

    def network(sample, timesteps, class_labels):
        assert len(sample) == len(timesteps) == len(class_labels) <= batch_size
        return UNet2DOutput(sample=samples[class_labels].clone())

    options = {"batch_size": batch_size, "data_levels": 17, "num_monte_carlo": num_monte_carlo}
    right, wrong = (
        variational_bound(Denoiser(network, scheduler, torch.tensor(labels)), samples, **options)
        for labels in ([0, 1, 2, 3], [1, 0, 2, 3])
    )
    # all is known but which level it is: at the first timestep the decoder is a little wider than that
    assert right.bits_per_dim < 0.1
    each = wrong.nats_per_sample
    assert bool((each[:2] > 100).all()) and bool((each[2:] < 1).all())


def test_the_size_of_a_batch_changes_nothing():
    """The noise is drawn in the same order."""
    network, scheduler = tiny("fixed_small")
    few, many = (
        variational_bound(
            Denoiser(network, scheduler),
            digits(5),
            data_levels=17,
            timesteps=range(7),
            batch_size=size,
            generator=torch.Generator().manual_seed(0),
        )
        for size in (7, 35)
    )
    assert few.bits_per_dim == pytest.approx(many.bits_per_dim, rel=1e-9)


def test_vectors_without_channels_are_samples_too():
    """Samples of shape (B,): one number each."""
    scheduler = DDPMFromScratchScheduler(50, beta_end=0.3, prediction_type="epsilon", clip_sample=False)
    column = GaussianMixtureDenoiser([[0.2]], [[0.3]], scheduler.alphas_cumprod.tolist())

    def network(sample, timesteps):
        return UNet2DOutput(sample=column(sample[:, None], timesteps).sample[:, 0])

    samples = column.sample(50, torch.Generator().manual_seed(0))
    for measure, options in (
        (variational_bound, {}),
        (variational_bound, {"residuals": residual_curve(Denoiser(network, scheduler), samples[:, 0])}),
        (flow_likelihood, {"divergence": "exact"}),
    ):
        flat, deep = (
            measure(
                Denoiser(model, scheduler), given, data_levels=None,
                generator=torch.Generator().manual_seed(0), **options,
            )
            for model, given in ((network, samples[:, 0]), (column, samples))
        )  # fmt: skip
        assert flat.nats == pytest.approx(deep.nats)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_in_half_precision_has_nearly_the_same_likelihood(dtype):
    network, scheduler = tiny("fixed_large", dtype=torch.float32)
    half, _ = tiny("fixed_large", dtype=dtype)
    levels = 17 if dtype == torch.bfloat16 else 256
    samples = digits(4, torch.float32) if levels == 17 else torch.arange(256).reshape(4, 1, 8, 8) / 127.5 - 1
    for measure in (variational_bound, flow_likelihood):
        values = [
            measure(
                Denoiser(each, scheduler), samples.to(each.dtype), data_levels=levels,
                timesteps=range(1, 20, 3), generator=torch.Generator().manual_seed(0),
            ).bits_per_dim
            for each in (network, half)
        ]  # fmt: skip
        assert values[0] == pytest.approx(values[1], rel=0.05), measure


def test_a_scheduler_without_variance_type_has_that_of_ddpm():
    network, scheduler = tiny("fixed_small")
    solver = DPMSolverMultistepScheduler(num_train_timesteps=20, beta_end=0.6)
    values = [
        variational_bound(
            Denoiser(network, each), digits(4), data_levels=17, generator=torch.Generator().manual_seed(0)
        )
        for each in (solver, DDPMFromScratchScheduler(20, beta_end=0.6, clip_sample=False))
    ]
    assert values[0].variance_type == "fixed_small"
    assert values[0].bits_per_dim == pytest.approx(values[1].bits_per_dim, rel=1e-5)


def test_progress_is_told_of_every_evaluation(generator):
    network, scheduler = tiny("fixed_small")
    seen = []
    variational_bound(
        Denoiser(network, scheduler), digits(5), data_levels=17, batch_size=32, on_batch=seen.append
    )
    assert seen == [32, 32, 32, 4]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"original_samples": torch.zeros(2, 1, 8, 8, dtype=torch.int64)}, TypeError, "original_samples"),
        ({"original_samples": torch.full((2, 1, 8, 8), 0.3).double()}, ValueError, "data_levels"),
        ({"original_samples": torch.zeros(0, 1, 8, 8).double()}, ValueError, "at least 1"),
        ({"timesteps": [3, 3]}, ValueError, "must differ"),
        ({"timesteps": [20]}, ValueError, "timestep is 20"),
        ({"timesteps": [0.5]}, TypeError, "timestep is 0.5"),
        ({"batch_size": -1}, ValueError, "batch_size"),
        ({"labels": torch.zeros(3).long()}, ValueError, "labels have shape"),
        ({"timesteps": [3], "num_monte_carlo": 1}, ValueError, "at least two timesteps"),
        ({"variance_type": "small"}, ValueError, "variance_type"),
        ({"num_monte_carlo": 0}, ValueError, "num_monte_carlo"),
        ({"residuals": torch.ones(3)}, ValueError, "residual_curve"),
        ({"variance_type": "analytic"}, ValueError, "residuals are not given"),
        ({"variance_type": "fixed_large", "residuals": torch.ones(20)}, ValueError, "residuals are given"),
        ({"residuals": torch.zeros(20)}, ValueError, "positive"),
    ],
    ids=str,
)
def test_wrong_arguments_of_the_bound_are_one_error(options, error, says):
    network, scheduler = tiny("fixed_small")
    given = {"original_samples": digits(2), "data_levels": 17} | options
    with pytest.raises(error, match=says):
        denoiser = Denoiser(network, scheduler, given.pop("labels", None))
        variational_bound(denoiser, given.pop("original_samples"), **given)


def test_a_network_that_is_not_finite_is_named():
    network, scheduler = tiny("fixed_small", clip_sample=False)
    torch.nn.init.constant_(network.conv_out.weight, float("nan"))
    for measure in (variational_bound, flow_likelihood):
        with pytest.raises(FloatingPointError, match="not finite"):
            measure(Denoiser(network, scheduler), digits(2), data_levels=17)
