"""Denoiser: one evaluation of any network, with labels and guidance, and what it says."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import nn

from ddpm_from_scratch import DDPMFromScratchScheduler, Denoiser, build_model, model_config
from ddpm_from_scratch.density.bound import variational_bound
from ddpm_from_scratch.density.flow import flow_likelihood
from ddpm_from_scratch.networks.mixtures import GaussianMixtureDenoiser
from ddpm_from_scratch.process.diffusion import PREDICTION_TYPES

PROCESS = {"beta_schedule": "squaredcos_cap_v2", "clip_sample": False}
SCHEDULERS = {"ours": DDPMFromScratchScheduler, "stock DDPM": DDPMScheduler, "stock DDIM": DDIMScheduler}
FORMS = {
    "tensor": lambda found: found,
    "output": lambda found: UNet2DOutput(sample=found),
    "tuple": lambda found: (found, "more"),
    "dictionary": lambda found: {"sample": found},
}


def exact_network(scheduler):
    return GaussianMixtureDenoiser(
        [[1.0, -0.5], [-1.0, 0.7]],
        [[0.3, 0.1], [0.1, 0.2]],
        scheduler.alphas_cumprod.tolist(),
        scheduler.config.prediction_type,
    )


class Wrapped(nn.Module):
    """A plain module around a network, whose forward returns the prediction in some form."""

    def __init__(self, network, form):
        super().__init__()
        self.network, self.form = network, form

    def forward(self, sample, timestep):
        return self.form(self.network(sample, timestep).sample)


@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_an_exact_network_says_the_same_whatever_it_predicts(kind, prediction_type, generator):
    scheduler = SCHEDULERS[kind](prediction_type=prediction_type, **PROCESS)
    exact = exact_network(scheduler)
    x_t = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    t = torch.tensor([1, 10, 100, 500, 800, 990])
    level = scheduler.alphas_cumprod[t].double()[:, None]
    at_t = Denoiser(exact, scheduler)(x_t, t)
    original = exact.pred_original(x_t, level)
    noise = (x_t - level.sqrt() * original) / (1 - level).sqrt()
    velocity = level.sqrt() * noise - (1 - level).sqrt() * original
    for found, expected in (
        (at_t.original, original),
        (at_t.clipped_original, original),
        (at_t.noise, noise),
        (at_t.velocity, velocity),
        (at_t.score, exact.score(x_t, level)),
    ):
        # The table is float32 in both; at t = 990 one divides by a small signal.
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_a_plain_module_of_any_form_is_a_network(form, generator):
    scheduler = DDPMFromScratchScheduler(prediction_type="v_prediction", **PROCESS)
    exact = exact_network(scheduler)
    x_t = torch.randn(5, 2, generator=generator)
    plain = Denoiser(Wrapped(exact, FORMS[form]), scheduler)(x_t, 300)
    assert torch.equal(plain.score, Denoiser(exact, scheduler)(x_t, 300).score)


@pytest.mark.parametrize("output", [None, (), {"other": 1}, "text"])
def test_a_network_that_returns_something_else_is_one_clear_error(output):
    denoiser = Denoiser(lambda sample, timestep: output, DDPMScheduler())
    with pytest.raises(TypeError, match="must return the prediction: a tensor, an output with .sample"):
        denoiser(torch.zeros(2, 1, 4, 4), 5)


class Labelled(nn.Module):
    """Predicts its label everywhere, and remembers what it was asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, sample, timestep, class_labels):
        self.asked.append((len(sample), timestep.tolist(), class_labels.tolist()))
        return class_labels.to(sample.dtype)[:, None].expand(sample.shape)


@pytest.mark.parametrize(
    ("labels", "rows", "expected"),
    [(3, None, [3, 3]), ([1, 2], None, [1, 2]), ([4, 5, 6, 7], torch.tensor([3, 0]), [7, 4])],
)
def test_labels_are_one_for_all_or_one_for_each(labels, rows, expected):
    network = Labelled()
    at_t = Denoiser(network, DDPMScheduler(), labels)(torch.zeros(2, 3), torch.tensor([7, 8]), rows)
    assert at_t.prediction[:, 0].tolist() == expected and network.asked == [(2, [7, 8], expected)]


def test_other_labels_are_of_the_same_network_with_a_count_of_its_own():
    network = Labelled()
    first = Denoiser(network, DDPMScheduler(), 3)
    other = first.with_labels([5, 6])
    for denoiser, expected in ((first, [3, 3]), (other, [5, 6])):
        assert denoiser(torch.zeros(2, 3), 7).prediction[:, 0].tolist() == expected
        assert denoiser.evaluations == 2


@pytest.mark.parametrize("timesteps", [torch.tensor(7), torch.tensor([7, 8])])
def test_guidance_is_one_call_on_a_doubled_batch_and_counts_twice(timesteps):
    network = Labelled()
    denoiser = Denoiser(network, DDPMScheduler(), [2, 4], guidance_scale=3.0, null_label=10)
    output = denoiser.output(torch.zeros(2, 3), timesteps)
    # null + 3 (label - null)
    assert output[:, 0].tolist() == [10 + 3 * (2 - 10), 10 + 3 * (4 - 10)]
    at = timesteps.expand(2).tolist()
    assert network.asked == [(4, at * 2, [2, 4, 10, 10])]
    assert denoiser.evaluations == 4
    Denoiser(network, DDPMScheduler(), [2, 4]).output(torch.zeros(2, 3), timesteps)
    assert network.asked[-1][0] == 2


def test_a_guided_learned_variance_stays_the_conditional_one():
    def network(sample, timestep, class_labels):
        return class_labels.float()[:, None, None].expand(len(sample), 2, 4)

    scheduler = DDPMFromScratchScheduler(variance_type="learned_range")
    at_t = Denoiser(network, scheduler, 1, guidance_scale=2.0, null_label=0)(torch.zeros(3, 1, 4), 9)
    assert bool((at_t.prediction == 2).all()) and bool((at_t.variance_values == 1).all())


def test_what_sampling_uses_is_clipped_and_the_score_is_not(generator):
    scheduler = DDPMFromScratchScheduler(prediction_type="sample", clip_sample=True)
    at_t = Denoiser(lambda sample, timestep: 3 * torch.ones_like(sample), scheduler)(torch.zeros(2, 2), 50)
    assert bool((at_t.original == 3).all()) and bool((at_t.clipped_original == 1).all())
    level = scheduler.alphas_cumprod[50]
    torch.testing.assert_close(at_t.score, (3 * level.sqrt() / (1 - level)).expand(2, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_in_half_precision_gets_such_samples_and_the_rest_is_float32(dtype):
    seen = []

    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones((), dtype=dtype))

        def forward(self, sample, timestep):
            seen.append(sample.dtype)
            return self.weight * sample

    at_t = Denoiser(Half(), DDPMScheduler())(torch.randn(2, 3), 5)
    assert seen == [dtype] and at_t.prediction.dtype == at_t.score.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"guidance_scale": 2.0}, ValueError, "guidance needs labels and a null_label"),
        ({"labels": [1], "guidance_scale": 2.0}, ValueError, "guidance needs labels and a null_label"),
        (
            {"labels": [1], "guidance_scale": float("nan"), "null_label": 1},
            ValueError,
            "guidance_scale is nan",
        ),
        ({"labels": [1], "guidance_scale": "2", "null_label": 1}, TypeError, "guidance_scale is '2'"),
        ({"labels": [1], "guidance_scale": 2.0, "null_label": 1.5}, TypeError, "null_label is 1.5"),
        ({"labels": [0.5], "guidance_scale": 2.0, "null_label": "0"}, TypeError, "null_label is '0'"),
        ({"labels": [True]}, TypeError, "must be integers"),
        ({"labels": [1j]}, TypeError, "must be integers"),
        ({"labels": [[1, 2]]}, TypeError, "one for all samples or one for each"),
        ({"labels": torch.zeros(2, 1, 1)}, TypeError, "one for all samples or one for each"),
    ],
)
def test_labels_that_cannot_be_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        Denoiser(Labelled(), DDPMScheduler(), **options)


@pytest.mark.parametrize(
    ("settings", "labels", "message"),
    [
        ({}, [0.5], "must be integers"),
        ({"num_class_embeds": 3}, [0.5], "must be integers"),
        ({"num_class_embeds": 3}, torch.zeros(2, 3), "must be integers"),
        ({"class_embed_type": "timestep"}, torch.zeros(2, 3), "must be numbers, one for all"),
        ({"class_embed_type": "timestep"}, [True], "must be numbers"),
        ({"class_embed_type": "identity"}, [1, 2], "must be floating point, one vector"),
        ({"class_embed_type": "identity"}, 0.5, "must be floating point, one vector"),
    ],
)
def test_labels_fit_what_the_configuration_of_a_network_says(settings, labels, message):
    network = build_model(model_config("tiny", **settings))
    with pytest.raises(TypeError, match=message):
        Denoiser(network, DDPMScheduler(), labels)
    with pytest.raises(TypeError, match=message):
        Denoiser(network, DDPMScheduler()).with_labels(labels)


@pytest.mark.parametrize(
    ("settings", "labels", "null_label"),
    [
        ({"class_embed_type": "timestep"}, [3, 4], -1),
        ({"class_embed_type": "timestep"}, 0.5, -1.5),
        ({"class_embed_type": "identity"}, torch.linspace(-1, 1, 32), 0),
        ({"class_embed_type": "identity"}, torch.linspace(-1, 1, 64).reshape(2, 32), 0),
    ],
)
@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_numbers_and_vectors_reach_the_network_guided_and_not(settings, labels, null_label, shape):
    torch.manual_seed(0)
    network = build_model(model_config("tiny", **settings)).eval()
    x_t, t = torch.randn(2, 1, 8, 8), torch.tensor([7, 300]).reshape(shape)
    kind = torch.as_tensor(labels, dtype=torch.float32)
    if "identity" in settings.values():
        each = kind.expand(2, 32)
    else:
        each = kind.expand(2)
    none = torch.full_like(each, null_label)
    with torch.no_grad():
        of_each, of_none = (network(x_t, t.flatten(), class_labels=c).sample for c in (each, none))
        plain = Denoiser(network, DDPMScheduler(), labels)(x_t, t).prediction
        guided = Denoiser(network, DDPMScheduler(), labels, 3.0, null_label)(x_t, t).prediction
    torch.testing.assert_close(plain, of_each, rtol=0, atol=1e-5)
    torch.testing.assert_close(guided, of_none + 3 * (of_each - of_none), rtol=0, atol=1e-4)
    assert not torch.allclose(of_each, of_none, atol=1e-4)


def test_a_network_of_ones_own_may_take_vectors_and_rows_of_them():
    def network(sample, timesteps, class_labels):
        return class_labels + 0 * sample

    vectors = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    denoiser = Denoiser(network, DDPMScheduler(), vectors)
    assert torch.equal(denoiser(torch.zeros(3, 2), 7).prediction, vectors)
    rows = torch.tensor([2, 0])
    assert torch.equal(denoiser(torch.zeros(2, 2), 7, rows).prediction, vectors[rows])


def test_another_number_of_labels_than_samples_is_refused():
    denoiser = Denoiser(Labelled(), DDPMScheduler(), [1, 2, 3])
    with pytest.raises(ValueError, match=r"labels have shape \(3,\), but there are 2 samples"):
        denoiser(torch.zeros(2, 3), 4)


@pytest.mark.parametrize("timestep", [-1, 1000, 2.5, "ten"])
def test_a_timestep_that_is_none_is_refused(timestep):
    with pytest.raises((TypeError, ValueError), match="timesteps"):
        Denoiser(Labelled(), DDPMScheduler(), 1)(torch.zeros(2, 3), timestep)


def test_a_network_of_ones_own_gets_a_timestep_for_each_sample(generator):
    """As in training, also where the library evaluates at one timestep for all."""
    seen = []

    def network(sample, timestep):
        seen.append(timestep.shape)
        return torch.cat([sample, timestep[:, None]], dim=1)[:, :2]

    scheduler = DDPMScheduler()
    denoiser = Denoiser(network, scheduler)
    sample = torch.randn(5, 2, generator=generator)
    for timesteps in (7, torch.tensor([1, 2, 3, 4, 5])):
        denoiser(sample, timesteps)
    denoiser.output(sample, torch.tensor(7))
    assert set(seen) == {(5,)}


def test_evaluations_of_likelihoods_are_counted_with_guidance(generator):
    scheduler = DDPMScheduler(num_train_timesteps=10)

    def network(sample, timestep, class_labels):
        return 0.1 * sample

    sample = torch.randn(4, 2, generator=generator)
    for guidance_scale in (1.0, 2.0):
        denoiser = Denoiser(network, scheduler, 0, guidance_scale, 1)
        bound = variational_bound(denoiser, sample, data_levels=None)
        assert bound.num_evaluations == denoiser.evaluations / len(sample) == 10 * guidance_scale
        flow = flow_likelihood(denoiser, sample, timesteps=range(4))
        assert flow.num_evaluations == denoiser.evaluations / len(sample) - bound.num_evaluations
