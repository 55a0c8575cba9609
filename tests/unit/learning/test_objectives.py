import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from common import seeded
from ddpm_from_scratch import DDPMFromScratchScheduler, Denoiser
from ddpm_from_scratch.density import bound_terms as bound
from ddpm_from_scratch.learning import objectives
from ddpm_from_scratch.learning import timestep_samplers as samplers
from ddpm_from_scratch.networks.mixtures import GaussianMixtureDenoiser
from ddpm_from_scratch.process.diffusion import PREDICTION_TYPES, broadcast_to_sample, scales, to_original


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
    losses = objectives.denoising_losses(
        Denoiser(Linear(), scheduler), x0, noise, timesteps, loss_weighting="min_snr"
    )
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
    exact = GaussianMixtureDenoiser(
        [[0.0, 0.0]], [[0.5, 0.2], [0.2, 0.5]], scheduler.alphas_cumprod.tolist(), prediction_type
    )
    factor = torch.linalg.cholesky(torch.tensor([[0.5, 0.2], [0.2, 0.5]]))
    x0 = torch.randn(20_000, 2, generator=generator) @ factor.T
    noise = torch.randn(x0.shape, generator=generator)
    timesteps = samplers.stratified_timesteps(len(x0), 1000, generator)

    def loss(factor):
        model = lambda x, t: type("Output", (), {"sample": factor * exact(x, t).sample})  # noqa: E731
        return float(objectives.denoising_losses(Denoiser(model, scheduler), x0, noise, timesteps).mean())

    assert loss(1.0) < loss(0.95) and loss(1.0) < loss(1.05)


def test_unknown_weighting_and_wrong_output_are_refused():
    x, t = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match="loss_weighting"):
        objectives.denoising_losses(Denoiser(Linear(), DDPMScheduler()), x, x, t, loss_weighting="snr")
    wide = lambda x, t: type("Output", (), {"sample": torch.zeros(2, 6)})  # noqa: E731
    with pytest.raises(ValueError, match="out_channels"):
        objectives.denoising_losses(Denoiser(wide, DDPMScheduler()), x, x, t)


def test_noising_stays_float32_when_the_network_returns_bfloat16(generator):
    seen = []

    def model(sample, timesteps):
        seen.append(sample.dtype)
        return type("Output", (), {"sample": sample.bfloat16()})

    x = torch.randn(4, 2, generator=generator)
    losses = objectives.denoising_losses(Denoiser(model, DDPMScheduler()), x, x, torch.arange(4))
    assert seen == [torch.float32] and losses.dtype == torch.float32


class Fixed:
    """A network with a given output, whatever it is called with."""

    def __init__(self, output):
        self.sample = output

    def __call__(self, sample, timesteps):
        return self


def bound_terms_in_numpy(scheduler, x0, noise, output, timesteps, data_levels):
    """Return L_t of each sample from the definitions, in float64 and without the code under test."""
    config, table = scheduler.config, scheduler.alphas_cumprod.numpy().astype(np.float64)
    x0, noise, output = (value.numpy().astype(np.float64) for value in (x0, noise, output))
    terms = []
    for i, t in enumerate(timesteps.tolist()):
        a, a_prev = table[t], table[t - 1] if t else 1.0
        beta = 1 - a / a_prev
        a_s, a_s_prev = table[max(t, 1)], table[max(t, 1) - 1]  # no posterior variance at 0: that of 1
        variance = (1 - a_s_prev) / (1 - a_s) * (1 - a_s / a_s_prev)
        prediction, value = np.split(output[i], 2)
        log_variance = value
        if config.variance_type == "learned_range":
            fraction = (value + 1) / 2
            log_variance = fraction * np.log(beta) + (1 - fraction) * np.log(variance)
        xt = a**0.5 * x0[i] + (1 - a) ** 0.5 * noise[i]
        estimate = {
            "epsilon": (xt - (1 - a) ** 0.5 * prediction) / a**0.5,
            "sample": prediction,
            "v_prediction": a**0.5 * xt - (1 - a) ** 0.5 * prediction,
        }[config.prediction_type]
        if t:
            means = [
                (a_prev**0.5 * beta * x + (a / a_prev) ** 0.5 * (1 - a_prev) * xt) / (1 - a)
                for x in (x0[i], estimate)
            ]
            ratio = variance / np.exp(log_variance)
            nats = 0.5 * (ratio - 1 - np.log(ratio) + (means[0] - means[1]) ** 2 / np.exp(log_variance))
        elif data_levels is None:
            nats = 0.5 * (
                (x0[i] - estimate) ** 2 / np.exp(log_variance) + log_variance + math.log(2 * math.pi)
            )
        else:
            half = 1 / (data_levels - 1)
            lower = np.where(x0[i] < -1 + half, -np.inf, x0[i] - half)
            upper = np.where(x0[i] > 1 - half, np.inf, x0[i] + half)
            spread = np.exp(0.5 * log_variance) * 2**0.5
            cdf = np.vectorize(lambda z: 0.5 * math.erfc(-z))
            nats = -np.log(cdf((upper - estimate) / spread) - cdf((lower - estimate) / spread))
        terms.append(nats.mean() / math.log(2))
    return np.array(terms)


def learned_variance_case(prediction_type, data_levels, variance_type, generator, dtype=torch.float32):
    """Return a scheduler, 8-bit data, noise, the output of a fair network with 2C channels, timesteps."""
    scheduler = DDPMFromScratchScheduler(prediction_type=prediction_type, variance_type=variance_type)
    timesteps = torch.tensor([0, 0, 1, 2, 10, 100, 500, 998, 999])
    shape = (len(timesteps), 3, 4, 4)
    x0 = torch.randint(256, shape, generator=generator).to(dtype) / 127.5 - 1
    if data_levels is None:
        x0 = x0 + 0.001
    noise, error = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    at_t = scales(broadcast_to_sample(scheduler.alphas_cumprod[timesteps].to(dtype), x0))
    estimate = x0 + 0.3 * at_t.noise * error
    xt = at_t.signal * x0 + at_t.noise * noise
    prediction = {
        "epsilon": (xt - at_t.signal * estimate) / at_t.noise,
        "sample": estimate,
        "v_prediction": (at_t.signal * xt - estimate) / at_t.noise,
    }[prediction_type]
    values = torch.rand(shape, generator=generator).to(dtype) * 2 - 1
    if variance_type == "learned":
        values = values - 8
    return scheduler, x0, noise, torch.cat([prediction, values], dim=1), timesteps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("data_levels", [256, None])
@pytest.mark.parametrize("variance_type", ["learned_range", "learned"])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_hybrid_loss_is_l_simple_plus_the_bound_term_of_each_timestep(
    prediction_type, variance_type, data_levels, dtype, generator
):
    scheduler, x0, noise, output, timesteps = learned_variance_case(
        prediction_type, data_levels, variance_type, generator, dtype
    )
    arguments = (Denoiser(Fixed(output), scheduler), x0, noise, timesteps)
    weight = 1 / 1000  # with T = 1000 the terms come with weight 1
    hybrid = objectives.denoising_losses(*arguments, vlb_weight=weight, data_levels=data_levels)
    simple = objectives.denoising_losses(*arguments, vlb_weight=0, data_levels=data_levels)
    expected = bound_terms_in_numpy(scheduler, x0, noise, output, timesteps, data_levels)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(
        (hybrid - simple).double(), torch.tensor(expected), rtol=tolerance, atol=tolerance
    )
    fixed = DDPMFromScratchScheduler(prediction_type=prediction_type)
    plain = objectives.denoising_losses(Denoiser(Fixed(output[:, :3]), fixed), x0, noise, timesteps)
    assert torch.equal(simple, plain)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_bound_trains_the_variance_and_not_the_prediction(prediction_type, generator):
    scheduler, x0, noise, output, timesteps = learned_variance_case(
        prediction_type, 256, "learned_range", generator
    )
    gradients = {}
    for weight in (0.0, 0.001, 1.0):
        output = output.detach().requires_grad_()
        losses = objectives.denoising_losses(
            Denoiser(Fixed(output), scheduler), x0, noise, timesteps, vlb_weight=weight
        )
        gradients[weight] = torch.autograd.grad(losses.sum(), output)[0]
    assert torch.equal(gradients[1.0][:, :3], gradients[0.0][:, :3])  # the bound adds exactly nothing
    assert bool((gradients[0.0][:, 3:] == 0).all())
    assert bool((gradients[0.001][:, 3:] != 0).all())
    assert bool(gradients[1.0].isfinite().all())


class PerTimestep(torch.nn.Module):
    """A network for one-dimensional data: a gain on x_t and a variance value, free at each timestep."""

    def __init__(self, num_train_timesteps):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.zeros(num_train_timesteps))
        self.value = torch.nn.Parameter(torch.zeros(num_train_timesteps))

    def forward(self, sample, timesteps):
        gain, value = self.gain[timesteps, None], self.value[timesteps, None]
        output = torch.cat([gain * sample, value.expand_as(sample)], dim=1)
        return type("Output", (), {"sample": output})


@pytest.mark.parametrize(
    ("variance_type", "prediction_type"), [("learned_range", "epsilon"), ("learned", "v_prediction")]
)
def test_hybrid_training_finds_the_best_variance_of_gaussian_data(variance_type, prediction_type, generator):
    """For data N(0, s^2) the true reverse step is Gaussian, and Bayes' rule gives its variance:
    var(x_{t-1} | x_t) = V beta / (alpha V + beta), V = alpha_bar_{t-1} s^2 + 1 - alpha_bar_{t-1}."""
    scheduler = DDPMFromScratchScheduler(
        5, 0.2, 0.9, variance_type=variance_type, prediction_type=prediction_type, clip_sample=False
    )
    data_std, network = 0.6, PerTimestep(5)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1, betas=(0.9, 0.99))
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, 1000)
    timesteps = torch.arange(5).repeat(400)
    for _ in range(1000):
        x0 = data_std * torch.randn(len(timesteps), 1, generator=generator)
        noise = torch.randn(x0.shape, generator=generator)
        losses = objectives.denoising_losses(
            Denoiser(network, scheduler), x0, noise, timesteps, data_levels=None
        )
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        decay.step()
    a = scheduler.alphas_cumprod.double()
    a_prev = torch.cat([a.new_ones(1), a[:-1]])
    alpha, spread = a / a_prev, a_prev * data_std**2 + 1 - a_prev
    best = torch.log(spread * (1 - alpha) / (alpha * spread + 1 - alpha))
    t = torch.arange(5)
    found = network.value.detach().double()
    smallest, largest = (bound.bound_coefficients(a, t, found)[i] for i in (1, 2))
    if variance_type == "learned_range":
        found = (found + 1) / 2 * largest + (1 - found) / 2 * smallest
    torch.testing.assert_close(found, best, rtol=0, atol=0.02)
    for fixed in (smallest, largest):  # which no fixed variance is
        assert float((fixed - best).abs().max()) > 0.1


@pytest.mark.parametrize("variance_type", ["learned_range", "learned"])
def test_loss_reads_the_variance_as_the_scheduler_does(variance_type, generator):
    """With x_0 known exactly only the variances differ, and KL = (r - 1 - log r) / 2 gives back the one that
    the loss used."""
    scheduler = DDPMFromScratchScheduler(variance_type=variance_type, prediction_type="sample")
    timesteps = torch.tensor([1, 2, 3, 10, 50])
    x0 = torch.randint(256, (5, 1), generator=generator) / 127.5 - 1
    values = torch.linspace(-3, 3, 5)[:, None] - (6 if variance_type == "learned" else 0)
    losses = objectives.denoising_losses(
        Denoiser(Fixed(torch.cat([x0, values], dim=1)), scheduler),
        x0,
        torch.randn(5, 1),
        timesteps,
        vlb_weight=1e-3,
    )
    table = scheduler.alphas_cumprod.double()
    truth = (
        (1 - table[timesteps - 1]) / (1 - table[timesteps]) * (1 - table[timesteps] / table[timesteps - 1])
    )
    scheduler.set_timesteps(1000)
    std = [float(scheduler._get_variance(int(t), v)) ** 0.5 for t, v in zip(timesteps, values, strict=True)]
    ratio = truth / torch.tensor(std, dtype=torch.float64).square()
    expected = 0.5 * (ratio - 1 - ratio.log()) / math.log(2)
    torch.testing.assert_close(losses.double(), expected, rtol=5e-3, atol=1e-6)  # its table is float32


def test_learned_variances_train_with_the_stock_scheduler(generator):
    scheduler, *case = learned_variance_case("epsilon", 256, "learned_range", generator)
    stock = DDPMScheduler(variance_type="learned_range")
    x0, noise, output, timesteps = case
    ours, theirs = (
        objectives.denoising_losses(Denoiser(Fixed(output), s), x0, noise, timesteps)
        for s in (scheduler, stock)
    )
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "config",
    [
        {"num_train_timesteps": 1, "beta_start": 0.999, "beta_end": 0.999},
        {"num_train_timesteps": 2, "beta_start": 0.999, "beta_end": 0.999},
        {"num_train_timesteps": 8, "rescale_betas_zero_snr": True},
    ],
)
def test_hybrid_loss_is_finite_for_short_chains_and_without_signal(config, generator):
    scheduler = DDPMFromScratchScheduler(
        variance_type="learned_range", prediction_type="v_prediction", **config
    )
    output = torch.randn(8, 2, 4, generator=generator, requires_grad=True)
    x0 = torch.randint(256, (8, 1, 4), generator=generator) / 127.5 - 1
    timesteps = torch.arange(8) % len(scheduler)
    losses = objectives.denoising_losses(
        Denoiser(Fixed(output), scheduler), x0, torch.randn(x0.shape), timesteps
    )
    losses.sum().backward()
    assert bool(losses.isfinite().all()) and bool(output.grad.isfinite().all())


@pytest.mark.parametrize("data_levels", [256, None])
def test_estimates_far_off_do_not_spoil_the_gradient(data_levels, generator):
    """At t = 999 the x_0 of an untrained epsilon network may be anywhere; a level has probability 0 there."""
    x0 = torch.randint(256, (4, 1, 2), generator=generator) / 127.5 - 1
    timesteps = torch.tensor([0, 1, 500, 999])
    far = torch.tensor([1.0, 10.0, 1e3, 1e7])[:, None, None]
    estimate = (x0 + far).requires_grad_()
    coefficients = bound.bound_coefficients(DDPMScheduler().alphas_cumprod, timesteps, x0)
    log_variance = coefficients.smallest.clone().requires_grad_()
    terms = bound.bound_terms(x0, estimate, log_variance, timesteps, coefficients, data_levels)
    terms.sum().backward()
    assert bool(terms.isfinite().all())
    assert bool((estimate.grad > 0).all() and estimate.grad.isfinite().all())
    assert bool((log_variance.grad < 0).all() and log_variance.grad.isfinite().all())


def test_network_and_variance_type_that_do_not_fit_are_refused():
    x, t = torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.long)
    learned = DDPMFromScratchScheduler(variance_type="learned_range")
    with pytest.raises(ValueError, match="'learned_range' needs twice the sample's channels"):
        objectives.denoising_losses(Denoiser(Fixed(x), learned), x, x, t)
    with pytest.raises(ValueError, match="variance_type to 'learned_range'"):
        objectives.denoising_losses(Denoiser(Fixed(torch.zeros(2, 6, 4)), DDPMScheduler()), x, x, t)
    with pytest.raises(ValueError, match="out_channels"):  # a scheduler without a variance type
        objectives.denoising_losses(Denoiser(Fixed(torch.zeros(2, 6, 4)), DDIMScheduler()), x, x, t)
    with pytest.raises(ValueError, match="vlb_weight is -1"):
        objectives.denoising_losses(Denoiser(Fixed(torch.zeros(2, 6, 4)), learned), x, x, t, vlb_weight=-1)


@pytest.mark.parametrize(
    ("samples", "data_levels"),
    [
        (torch.arange(17) / 8 - 1, 256),  # the digits of scikit-learn have 17 levels
        (torch.arange(256) / 127.5 - 1, 17),
        (torch.arange(256) / 255, 256),  # [0, 1] instead of [-1, 1]
        (torch.tensor([0.0]), 1),
        (torch.tensor([2 / 127.5 + 1]), 256),
        (torch.tensor([math.nan]), 256),
    ],
)
def test_data_off_their_levels_are_refused(samples, data_levels):
    with pytest.raises(ValueError, match="data_levels"):
        bound.check_data_levels(samples, data_levels)
    bound.check_data_levels(samples, None)


def test_data_on_their_levels_are_taken():
    bound.check_data_levels(torch.arange(17) / 8 - 1, 17)
    bound.check_data_levels(torch.arange(256) / 127.5 - 1, 256)
    bound.check_data_levels((torch.arange(256).float() / 255 - 0.5) / 0.5, 256)


def test_dropped_labels_are_a_share_of_all_and_the_rest_stay(generator):
    labels = torch.arange(10).repeat(2000)
    dropped = objectives.drop_labels(labels, 10, 0.2, generator)
    share = float((dropped == 10).double().mean())
    assert share == pytest.approx(0.2, abs=5 * (0.2 * 0.8 / len(labels)) ** 0.5)
    assert bool(((dropped == labels) | (dropped == 10)).all()) and dropped.dtype == labels.dtype
    by_class = torch.bincount(labels[dropped == 10], minlength=10)
    assert float((by_class - 400).abs().max()) < 5 * (2000 * 0.2 * 0.8) ** 0.5


def test_labels_are_dropped_never_always_and_by_the_generator():
    labels = torch.arange(100)
    assert torch.equal(objectives.drop_labels(labels, 100, 0.0), labels)
    assert bool((objectives.drop_labels(labels, 100, 1.0) == 100).all())
    first, again, other = (objectives.drop_labels(labels, 100, 0.5, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_wrong_label_dropout_is_refused():
    for probability in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="probability is"):
            objectives.drop_labels(torch.arange(3), 3, probability)
    with pytest.raises(TypeError, match="must be integers or floating point"):
        objectives.drop_labels(torch.zeros(3, dtype=torch.bool), 3, 0.1)
    with pytest.raises(TypeError, match="null_label is 0.5"):
        objectives.drop_labels(torch.arange(3), 0.5, 0.1)


def test_numbers_and_vectors_are_dropped_as_labels_are():
    labels, drop = torch.arange(100), objectives.drop_labels
    dropped = drop(labels, -7, 0.3, seeded()) == -7
    numbers = drop(labels + 0.5, -1.5, 0.3, seeded())
    assert torch.equal(numbers == -1.5, dropped) and torch.equal(numbers[~dropped], labels[~dropped] + 0.5)
    vectors = drop(torch.randn(100, 3, generator=seeded(1)) + 9, 0, 0.3, seeded())
    assert torch.equal((vectors == 0).all(1), dropped) and torch.equal((vectors == 0).any(1), dropped)
