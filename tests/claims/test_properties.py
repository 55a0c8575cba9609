"""Whatever the input: a clear error, or the result that a float64 reference gives."""

import json
import tempfile

import numpy as np
import pytest
import torch
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from bad_inputs import raised_by_its_own_code
from common import seeded
from ddpm_from_scratch import BETA_SCHEDULES, DDPMFromScratchScheduler
from ddpm_from_scratch.process.timesteps import spaced_timesteps
from ddpm_from_scratch.words import (
    LEARNED_VARIANCE_TYPES,
    PREDICTION_TYPES,
    TIMESTEP_SPACINGS,
    VARIANCE_TYPES,
)

pytestmark = pytest.mark.filterwarnings("ignore::ddpm_from_scratch.SchedulerWarning")


def examples(number):
    return settings(deadline=None, max_examples=number, derandomize=True)


def result_or_clear_error(call, *args, **kwargs):
    """Return the result, or None after an error of the kinds that the package raises itself."""
    try:
        return call(*args, **kwargs)
    except Exception as error:
        if not raised_by_its_own_code(error, DDPMFromScratchScheduler):
            raise
        return None


# Inputs.


def mostly(usual, other):
    return st.integers(0, 4).flatmap(lambda i: other if i == 4 else usual)


EDGES = [0, 1, -1, 2, 0.0, 1.0, -0.0, 0.5, 1.5, 1e-9, 5e-324, 1e-40, 1e308, 2**31, -(2**63), 10**30, 1j]
WILD = (
    st.none()
    | st.booleans()
    | st.sampled_from(EDGES)
    | st.integers(-5, 3000)
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["linear", "epsilon", "trailing", "fixed_large", "true", "nan", "10"])
    | st.lists(st.floats() | st.integers(-2, 5) | st.none(), max_size=3)
)
# No limit on T is checked, so a large one takes time and memory and not an error.
WILD_T = st.none() | st.booleans() | st.integers(-5, 3000) | st.floats(-5, 3000) | st.text(max_size=4)
WILD_T |= st.sampled_from([float("nan"), float("inf"), -float("inf"), [10], 2.0, 777.0])

BETA = st.floats(1e-6, 0.5)
SETTINGS = {
    "beta_start": BETA,
    "beta_end": BETA,
    "beta_schedule": st.sampled_from(BETA_SCHEDULES),
    "variance_type": st.sampled_from(VARIANCE_TYPES),
    "clip_sample": st.booleans(),
    "prediction_type": st.sampled_from(PREDICTION_TYPES),
    "thresholding": st.booleans(),
    "dynamic_thresholding_ratio": st.floats(0, 1),
    "clip_sample_range": st.floats(0, 10) | st.sampled_from([0, float("inf")]),
    "sample_max_value": st.floats(1, 10),
    "timestep_spacing": st.sampled_from(TIMESTEP_SPACINGS),
    "steps_offset": st.integers(0, 3),
    "rescale_betas_zero_snr": st.booleans(),
    "cosine_s": st.floats(0, 1),
    "max_beta": st.floats(0.01, 0.9999),
    "sigmoid_start": st.floats(-10, 0),
    "sigmoid_end": st.floats(0.1, 10),
    "sigmoid_tau": st.floats(0.1, 10),
    "scale_betas_by_length": st.booleans(),
}
ALL_BETAS = st.floats(0, 1, exclude_min=True, exclude_max=True) | st.sampled_from([1e-9, 1e-7, 0.999])


@st.composite
def configs(draw, wild=True):
    """Return settings of a scheduler, each right by itself; if `wild`, up to two that may not be."""
    config = draw(st.fixed_dictionaries({}, optional=SETTINGS))
    length = draw(st.integers(1, 30) | st.sampled_from([2, 100, 333]))
    config["num_train_timesteps"] = length
    if length <= 30 and draw(st.booleans()):
        betas = draw(st.lists(draw(st.sampled_from([BETA, ALL_BETAS])), min_size=length, max_size=length))
        config["trained_betas"] = [*betas[:-1], draw(st.sampled_from([betas[-1], 1.0]))]
    keys = st.sampled_from([*SETTINGS, "trained_betas", "num_train_timesteps"])
    for key in draw(st.lists(keys, max_size=2)) if wild else ():
        config[key] = draw(WILD_T if key == "num_train_timesteps" else WILD)
    return config


def with_variance(config, kind):
    """Return settings with a variance_type, and with residuals if it needs them."""
    length = config["num_train_timesteps"]
    residuals = [0.01 + t / length for t in range(length)] if kind == "analytic" else None
    return config | {"variance_type": kind, "residuals": residuals}


def built(config):
    """Return a scheduler, or None after a clear error."""
    return result_or_clear_error(DDPMFromScratchScheduler, **config)


SHAPES = st.sampled_from([(3,), (1, 1), (2, 2), (0, 2), (2, 3, 4), (1, 3, 2, 2), (3, 2, 1, 2, 2)])


def normal(shape, seed, scale=1.0):
    return torch.from_numpy(scale * np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


FLOATING = st.sampled_from([torch.float32, torch.float64, torch.float16])
SEEDS = st.integers(0, 2**32 - 1)
SCALES = st.sampled_from([0.0, 0.01, 1.0, 1.0, 1.0, 1000.0])
LISTED = st.sampled_from([list, tuple, np.array, torch.tensor])


# The float64 reference, and how far float32 may be from it.

# Half a unit in the last place: the relative error of one operation in float32.
ROUNDING = 2.0**-24
# beta is 1 minus a ratio of two float32 numbers, alpha-bar_t / alpha-bar_{t-1}. The ratio is at most 1, so it
# has an absolute error of at most ROUNDING, and the difference another one. No way of computing with these
# tables is better, and where beta is small it is a large relative error: the coefficient of x_0, which is
# proportional to beta / (1 - alpha-bar_t), is off by up to BETA_ERROR / (1 - alpha-bar_t).
BETA_ERROR = 2 * ROUNDING
# Everything else is at most this many operations in a row, each with a relative error of ROUNDING.
OPERATIONS = 8
# The smallest variance, whose logarithm exists.
MIN_VARIANCE = 1e-20


def error_over_bound(actual, expected, bound):
    """Return the largest |actual - expected| / bound, which must be at most 1."""
    actual = actual.double().numpy()
    assert actual.shape == expected.shape and np.isfinite(actual).all()
    return float(np.max(np.abs(actual - expected) / bound, initial=0))


def assert_rounding_explains(ratios):
    """Assert that errors are within their bounds; --hypothesis-show-statistics shows how near they come."""
    worst = max(ratios, default=0.0)
    event(f"compared, error / bound up to {np.ceil(10 * worst) / 10:.1f}")
    assert worst <= 1, f"the error is {worst:.3g} times what rounding explains"


def alpha_bar(scheduler):
    return scheduler.alphas_cumprod.numpy().astype(np.float64)


def noise_variances(kind, alpha_prod_t, alpha_prod_t_prev, beta, predicted, residual):
    """Return the log-variance of the noise added by a step, with its error apart from that of beta."""
    if kind == "analytic":
        of_original = np.sqrt(alpha_prod_t_prev) * beta / (1 - alpha_prod_t)
        posterior = max((1 - alpha_prod_t_prev) / (1 - alpha_prod_t) * beta, 0)
        return np.log(max(posterior + of_original**2 * residual, MIN_VARIANCE)), 0.0
    posterior = max((1 - alpha_prod_t_prev) / (1 - alpha_prod_t) * beta, MIN_VARIANCE)
    beta = max(beta, MIN_VARIANCE)
    if kind == "learned":
        return predicted, 0 * predicted
    if kind == "learned_range":
        fraction = (predicted + 1) / 2
        error = (np.abs(fraction) + np.abs(1 - fraction) + 1) * (abs(np.log(beta)) + abs(np.log(posterior)))
        return fraction * np.log(beta) + (1 - fraction) * np.log(posterior), error
    log_variance = np.log(beta if kind.startswith("fixed_large") else posterior)
    return log_variance, abs(log_variance) if kind.endswith("log") else 0.0


def reference_original(scheduler, output, sample, alpha_prod_t):
    """Return the estimate of x_0 and the largest error that float32 may make there."""
    config = scheduler.config
    signal, noise = np.sqrt(alpha_prod_t), np.sqrt(1 - alpha_prod_t)
    if config.prediction_type == "epsilon":
        original = (sample - noise * output) / signal
        error = (np.abs(sample) + noise * np.abs(output)) / signal
    elif config.prediction_type == "sample":
        original, error = output, 0 * output
    else:
        original = signal * sample - noise * output
        error = signal * np.abs(sample) + noise * np.abs(output)
    error = OPERATIONS * ROUNDING * error
    if config.thresholding:
        largest = np.abs(original)
        limit = np.clip(np.quantile(largest, config.dynamic_thresholding_ratio), 1, config.sample_max_value)
        # A quantile moves at most as far as the values, and as the place between two of them is rounded.
        spread = error.max() + OPERATIONS * ROUNDING * original.size * largest.max()
        error = np.minimum(2 * spread / limit, 2) + OPERATIONS * ROUNDING
        return np.clip(original, -limit, limit) / limit, error
    if config.clip_sample:
        bounds = -config.clip_sample_range, config.clip_sample_range
        low, high = np.clip(original - error, *bounds), np.clip(original + error, *bounds)
        original = np.clip(original, *bounds)
        error = np.maximum(high - original, original - low) + 2 * ROUNDING * np.abs(original)
    return original, error


def reference_step(scheduler, output, timestep, sample, noise):
    """Return (prev_sample, its bound, pred_original_sample, its bound) of one sample without batch dimension.

    Ho et al. 2020, arXiv:2006.11239, eqs. 6, 7 and 15; between timesteps of the chain, beta is
    1 - alpha_bar_t / alpha_bar_{t-1}.
    """
    chain, kind = scheduler.timesteps.tolist(), scheduler.config.variance_type
    index = chain.index(timestep)
    is_last = index == len(chain) - 1
    levels = alpha_bar(scheduler)
    alpha_prod_t, alpha_prod_t_prev = levels[timestep], 1.0 if is_last else levels[chain[index + 1]]
    alpha = alpha_prod_t / alpha_prod_t_prev
    beta = 1 - alpha
    predicted, residual = np.zeros_like(sample), (scheduler.config.residuals or {timestep: 0.0})[timestep]
    if kind in LEARNED_VARIANCE_TYPES:
        output, predicted = np.split(output, 2)

    original, original_error = reference_original(scheduler, output, sample, alpha_prod_t)
    of_original = np.sqrt(alpha_prod_t_prev) * beta / (1 - alpha_prod_t)
    of_sample = np.sqrt(alpha) * (1 - alpha_prod_t_prev) / (1 - alpha_prod_t)
    of_original_error = np.sqrt(alpha_prod_t_prev) * BETA_ERROR / (1 - alpha_prod_t)

    def std(beta):
        log_variance, error = noise_variances(
            kind, alpha_prod_t, alpha_prod_t_prev, beta, predicted, residual
        )
        return np.exp(0.5 * log_variance), error

    if timestep == 0:
        of_noise, of_noise_error = 0.0, 0.0
    elif is_last:
        of_noise, of_noise_error = np.sqrt(MIN_VARIANCE), 0.0
    else:
        of_noise, log_error = std(beta)
        of_noise_error = np.maximum(
            abs(std(beta + BETA_ERROR)[0] - of_noise), abs(std(beta - BETA_ERROR)[0] - of_noise)
        )
        of_noise_error = of_noise_error + OPERATIONS * ROUNDING * log_error * of_noise

    parts = of_original * original, of_sample * sample, of_noise * noise
    bound = OPERATIONS * ROUNDING * sum(np.abs(part) for part in parts)
    bound = bound + (of_original + of_original_error) * original_error + of_original_error * np.abs(original)
    bound = bound + of_noise_error * np.abs(noise)
    # Below this float32 has fewer digits.
    tiny = 100 * float(torch.finfo(torch.float32).smallest_normal)
    return sum(parts), bound + tiny, original, original_error + tiny


def step_errors_over_bounds(scheduler, result, output, timestep, sample, noise):
    """Compare a step of a batch with the reference, at one timestep for all samples or one for each."""
    timesteps = np.broadcast_to(np.asarray(timestep, dtype=np.float64).reshape(-1), len(sample))
    output, sample, noise = (x.double().numpy() for x in (output, sample, noise))
    for i, t in enumerate(timesteps.astype(int)):
        prev_sample, prev_bound, original, original_bound = reference_step(
            scheduler, output[i], t, sample[i], noise[i]
        )
        yield error_over_bound(result.prev_sample[i], prev_sample, prev_bound)
        yield error_over_bound(result.pred_original_sample[i], original, original_bound)


# The constructor.


# Betas that add no noise in float32, before or after the rescaling, and a sigmoid without height.
FLAT = [
    {"num_train_timesteps": 3, "trained_betas": [0.5, 1e-9, 0.5]},
    {"num_train_timesteps": 3, "trained_betas": [0.5, 1e-9, 0.5], "rescale_betas_zero_snr": True},
    {"num_train_timesteps": 2, "trained_betas": [0.5, 1e-9], "rescale_betas_zero_snr": True},
    {"num_train_timesteps": 1, "beta_schedule": "sigmoid_alpha_bar", "sigmoid_start": 2.9999999999999996},
]


@given(configs())
@example(FLAT[0])
@example(FLAT[1])
@example(FLAT[2])
@example(FLAT[3])
@examples(400)
def test_a_scheduler_has_betas_in_range_or_a_clear_error(config):
    scheduler = built(config)
    if scheduler is None:
        return
    betas, levels = scheduler.betas, scheduler.alphas_cumprod
    assert betas.dtype == levels.dtype == torch.float32
    assert len(betas) == len(levels) == len(scheduler) == scheduler.config.num_train_timesteps
    assert ((betas > 0) & (betas <= 1)).all() and (betas[:-1] < 1).all()
    assert ((levels >= 0) & (levels < 1)).all() and (levels[:-1] > 0).all()


@given(configs(wild=False))
@examples(150)
def test_alpha_bar_falls_also_when_the_scheduler_is_in_use(config):
    scheduler = built(config)
    if scheduler is None:
        return
    scheduler.set_timesteps(1)
    levels = scheduler.alphas_cumprod
    assert levels.isfinite().all() and (levels.diff() <= 0).all()
    assert levels[-1] > 0 or config.get("prediction_type", "epsilon") != "epsilon"


@given(configs())
@examples(100)
def test_a_saved_scheduler_has_the_same_tables_when_loaded(config):
    scheduler = built(config)
    if scheduler is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        scheduler.save_pretrained(folder)
        loaded = DDPMFromScratchScheduler.from_pretrained(folder)
    assert torch.equal(scheduler.betas, loaded.betas)
    assert torch.equal(scheduler.alphas_cumprod, loaded.alphas_cumprod)
    assert json.loads(scheduler.to_json_string()) == json.loads(loaded.to_json_string())


# The timesteps.


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from(TIMESTEP_SPACINGS), st.integers(0, 3))
@examples(300)
def test_spaced_timesteps_are_n_of_them_falling_and_in_range(length, number, spacing, offset):
    length, number = max(length, number), min(length, number)
    chain = result_or_clear_error(spaced_timesteps, number, length, spacing, offset)
    if chain is None:
        assert spacing == "leading" and (number - 1) * (length // number) + offset >= length
        return
    assert len(chain) == number and all(type(t) is int for t in chain)
    assert (np.diff(chain) < 0).all() and chain[0] < length and chain[-1] >= 0
    assert spacing == "leading" or chain[0] == length - 1 or number == 1


@pytest.mark.parametrize("length", [1, 2, 10, 250, 777, 1000, 4000])
def test_trailing_starts_at_the_end_for_every_number_of_steps(length):
    for number in range(1, length + 1):
        chain = np.array(spaced_timesteps(number, length, "trailing"))
        assert len(chain) == number, number
        assert (np.diff(chain) < 0).all() and chain[0] == length - 1 and chain[-1] >= 0, number


@given(
    configs(wild=False),
    st.integers(-1, 35) | WILD,
    st.none() | WILD | st.lists(st.integers(-2, 40) | st.floats(-1, 40) | st.none(), max_size=4),
    st.booleans(),
)
@examples(250)
def test_set_timesteps_gives_a_falling_chain_or_a_clear_error(config, number, given_chain, sort):
    scheduler = built(config)
    if scheduler is None:
        return
    if sort and isinstance(given_chain, list) and None not in given_chain:
        given_chain = sorted(set(given_chain), reverse=True)
    if given_chain is not None and sort:
        number = None

    def call():
        scheduler.set_timesteps(number, timesteps=given_chain)
        return scheduler.timesteps.tolist()

    chain = result_or_clear_error(call)
    if chain is None:
        return
    assert chain == [int(t) for t in given_chain] if given_chain is not None else len(chain) == number
    assert (np.diff(chain) < 0).all() and 0 <= chain[-1] and chain[0] < len(scheduler)
    assert scheduler.num_inference_steps == len(chain)


# Noising.


@st.composite
def timesteps_for(draw, batch_size, values):
    """Return one timestep for each sample, or something else."""
    size = draw(mostly(st.just(batch_size), st.integers(0, 3)))
    listed = st.lists(values, min_size=size, max_size=size)
    right = st.builds(lambda kind, ts: kind(ts), LISTED, listed)
    return draw(mostly(right | values | values.map(np.int64) | values.map(torch.tensor), WILD))


def is_right_batch(timesteps, batch_size, allowed):
    """Return whether these are allowed integers, one for all or one for each: never to be refused."""
    at_t = np.asarray(timesteps)
    fits = at_t.dtype.kind in "iu" and at_t.ndim <= 1 and at_t.size in (1, batch_size)
    return fits and set(at_t.reshape(-1).tolist()) <= set(allowed)


@pytest.mark.parametrize("method", ["add_noise", "get_velocity"])
@given(st.data(), configs(wild=False), SHAPES, SEEDS, SCALES)
@examples(200)
def test_noising_equals_the_reference_or_is_a_clear_error(method, data, config, shape, seed, scale):
    scheduler = built(config)
    if scheduler is None:
        return
    length = len(scheduler)
    values = mostly(st.integers(0, length - 1), st.sampled_from([-1, length, length - 1, 0]))
    timesteps = data.draw(timesteps_for(shape[0], values), label="timesteps")
    other_shape = data.draw(mostly(st.just(shape), SHAPES), label="shape of the noise")
    dtype = data.draw(mostly(FLOATING, st.just(torch.int64)), label="dtype")
    samples, noise = normal(shape, seed, scale).to(dtype), normal(other_shape, seed + 1).to(dtype)
    result = result_or_clear_error(getattr(scheduler, method), samples, noise, timesteps)
    if result is None:
        right_kind = other_shape == shape and dtype.is_floating_point
        assert not (right_kind and is_right_batch(timesteps, shape[0], range(length))), (
            "right input was refused"
        )
        return

    assert other_shape == shape and dtype.is_floating_point and result.dtype == dtype
    at_t = np.asarray(timesteps, dtype=np.float64).reshape(-1)
    assert np.array_equal(at_t, at_t.round()) and (0 <= at_t).all() and (at_t < length).all()
    levels = alpha_bar(scheduler)[at_t.astype(int)].reshape(-1, *[1] * (len(shape) - 1))
    x, e = samples.double().numpy(), noise.double().numpy()
    if method == "add_noise":
        parts = np.sqrt(levels) * x, np.sqrt(1 - levels) * e
    else:
        parts = np.sqrt(levels) * e, -np.sqrt(1 - levels) * x
    info = torch.finfo(dtype)
    # A root, a rounding to the dtype, a product and a sum; and what its smallest number cannot show.
    bound = 2 * info.eps * sum(map(np.abs, parts)) + info.smallest_normal * info.eps * (1 + abs(x) + abs(e))
    assert_rounding_explains([error_over_bound(result, sum(parts), bound)])


# One step.


@pytest.mark.parametrize("variance_type", VARIANCE_TYPES)
@given(st.data(), configs(wild=False), SHAPES, SEEDS, SCALES, st.booleans())
@examples(150)
def test_step_equals_the_reference_or_is_a_clear_error(variance_type, data, config, shape, seed, scale, wild):
    scheduler = built(with_variance(config, variance_type))
    if scheduler is None:
        return
    length = len(scheduler)
    number = data.draw(st.integers(1, length), label="num_inference_steps")
    if not result_or_clear_error(lambda: scheduler.set_timesteps(number) or True):
        return

    learned = scheduler.config.variance_type in LEARNED_VARIANCE_TYPES
    shape = (*shape, 1) if learned and len(shape) == 1 else shape  # learned variances need channels
    wanted = (shape[0], 2 * shape[1], *shape[2:]) if learned else shape
    chain = scheduler.timesteps.tolist()
    values = st.sampled_from(chain)
    given_types = torch.float32, torch.float32, torch.float32
    output_shape, generator = wanted, None
    if wild:
        timestep = data.draw(
            timesteps_for(shape[0], mostly(values, st.integers(-1, length))), label="timestep"
        )
        output_shape = data.draw(mostly(st.just(wanted), SHAPES), label="shape of the output")
        dtypes = mostly(st.sampled_from([torch.float32, torch.float64]), st.just(torch.int64))
        given_types = data.draw(st.tuples(dtypes, dtypes, dtypes), label="dtypes")
        generator = data.draw(mostly(st.none(), WILD), label="generator")
    else:
        timestep = data.draw(values | timesteps_for(shape[0], values), label="timestep")
    tensors = normal(output_shape, seed), normal(shape, seed + 1, scale), normal(shape, seed + 2)
    output, sample, noise = (x.to(dtype) for x, dtype in zip(tensors, given_types, strict=True))
    result = result_or_clear_error(
        scheduler.step, output, timestep, sample, generator=generator, variance_noise=noise
    )
    if result is None:
        assert wild or not is_right_batch(timestep, shape[0], chain), "right input was refused"
        return
    assert output.shape == wanted and output.is_floating_point() and sample.is_floating_point()
    assert generator is None or (generator == [] and not len(sample))
    assert_rounding_explains([*step_errors_over_bounds(scheduler, result, output, timestep, sample, noise)])


@pytest.mark.parametrize("config", FLAT)
@pytest.mark.parametrize("variance_type", VARIANCE_TYPES)
def test_betas_that_add_no_noise_are_refused_or_every_step_is_finite(variance_type, config):
    for prediction_type in PREDICTION_TYPES:
        scheduler = built(with_variance(config, variance_type) | {"prediction_type": prediction_type})
        for t in range(len(scheduler))[::-1] if scheduler else ():
            for predicted in (-3.0, -1.0, 0.0, 1.0, 3.0):
                output = torch.tensor([[1.0, predicted]])
                output = output if variance_type in LEARNED_VARIANCE_TYPES else output[:, :1]
                assert scheduler.step(output, t, torch.ones(1, 1)).prev_sample.isfinite().all()


@pytest.mark.parametrize("variance_type", VARIANCE_TYPES)
@given(configs(wild=False), st.data(), SEEDS)
@examples(50)
def test_to_diffusers_gives_the_same_steps_or_a_clear_error(variance_type, config, data, seed):
    ours = built(with_variance(config, variance_type))
    stock = ours and result_or_clear_error(ours.to_diffusers)
    if stock is None:
        return
    assert torch.equal(stock.betas, ours.betas)
    assert torch.equal(stock.alphas_cumprod, ours.alphas_cumprod)

    chain = data.draw(st.sets(st.integers(0, len(ours) - 1), min_size=1, max_size=5), label="timesteps")
    chain = sorted(chain, reverse=True)
    for scheduler in (ours, stock):
        scheduler.set_timesteps(timesteps=chain)
    channels = 6 if ours.config.variance_type == "learned_range" else 3
    for t in chain:
        if t == chain[-1] and t > 0:
            continue  # stock adds noise to a last sample that is not at timestep 0
        output, sample = normal((2, channels, 2, 2), seed), normal((2, 3, 2, 2), seed + t)
        a, b = (s.step(output, t, sample, generator=seeded(seed)) for s in (stock, ours))
        assert torch.equal(a.prev_sample, b.prev_sample)
        assert torch.equal(a.pred_original_sample, b.pred_original_sample)
