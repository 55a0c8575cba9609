"""Weights made to fit another network: what the network computes stays the same where it can."""

import pytest
import torch

from common import seeded
from ddpm_from_scratch import build_model, model_config
from ddpm_from_scratch.networks.adaptation import adapted, differences

TIMESTEPS = torch.tensor([3, 17])


def settings(model):
    """Return the configuration of a network, without diffusers' notes in it."""
    kind = type(model).__name__
    return {"_class_name": kind} | {k: v for k, v in model.config.items() if not k.startswith("_")}


def network(**changes):
    torch.manual_seed(0)
    model = build_model(model_config("tiny", **changes)).eval()
    return model, settings(model)


def carried(source, null_label=None, drops=False, **changes):
    """Return a network with `changes` and the weights of another, and what is said of it."""
    model, config = source
    target = config | changes
    made = build_model(target).eval()
    made.load_state_dict(adapted(model.state_dict(), config, target, null_label, drops))
    return made, "; ".join(differences(config, target, null_label, drops))


def output(model, sample, labels=None):
    with torch.no_grad():
        return model(sample, TIMESTEPS, class_labels=labels).sample


def samples(channels, side=8):
    return torch.randn(2, channels, side, side, generator=seeded())


def test_weights_of_the_same_network_stay_and_nothing_is_said():
    source = network(num_class_embeds=4)
    made, said = carried(source, null_label=3, drops=True)
    assert not said
    for name, value in source[0].state_dict().items():
        assert torch.equal(made.state_dict()[name], value), name


def test_a_grey_network_sees_and_makes_a_grey_picture_in_colour():
    source, grey = network(), samples(1)
    made, said = carried(source, in_channels=3, out_channels=3)
    expected = output(source[0], grey).expand(-1, 3, -1, -1)
    torch.testing.assert_close(output(made, grey.expand(-1, 3, -1, -1)), expected, rtol=0, atol=1e-5)
    assert said.startswith("grey to RGB: the kernel of grey is shared out")


def test_a_network_for_colours_sees_a_grey_picture_and_makes_the_mean_of_its_colours():
    source, grey = network(in_channels=3, out_channels=3), samples(1)
    made, said = carried(source, in_channels=1, out_channels=1)
    expected = output(source[0], grey.expand(-1, 3, -1, -1)).mean(1, keepdim=True)
    torch.testing.assert_close(output(made, grey), expected, rtol=0, atol=1e-5)
    assert "added up" in said


def test_alpha_comes_and_goes_without_changing_the_colours():
    source, colours = network(in_channels=3, out_channels=3), samples(3)
    with_alpha, said = carried(source, in_channels=4, out_channels=4)
    sample = torch.cat([colours, samples(1)], 1)
    torch.testing.assert_close(output(with_alpha, sample)[:, :3], output(source[0], colours))
    assert not output(with_alpha, sample)[:, 3].any() and said == "RGB to RGBA: alpha starts at 0"
    back, said = carried((with_alpha, settings(with_alpha)), in_channels=3, out_channels=3)
    torch.testing.assert_close(output(back, colours), output(source[0], colours))
    assert said == "RGBA to RGB: alpha is left out"


def test_grey_becomes_rgba_and_back():
    source = network()
    made, _ = carried(source, in_channels=4, out_channels=4)
    back, said = carried((made, settings(made)), in_channels=1, out_channels=1)
    torch.testing.assert_close(output(back, samples(1)), output(source[0], samples(1)), rtol=0, atol=1e-5)
    assert "alpha is left out" in said


@pytest.mark.parametrize("channels", [1, 3])
def test_learned_variances_are_added_midway_and_taken_away(channels):
    source, sample = network(), samples(channels)
    plain, _ = carried(source, in_channels=channels, out_channels=channels)
    doubled, said = carried(source, in_channels=channels, out_channels=2 * channels)
    mean, variance = output(doubled, sample).chunk(2, 1)
    torch.testing.assert_close(mean, output(plain, sample))
    assert not variance.any() and "learned variances are new" in said
    back, said = carried((doubled, settings(doubled)), out_channels=channels)
    torch.testing.assert_close(output(back, sample), mean)
    assert "left out" in said


def test_learned_variances_follow_the_channels():
    source = network(out_channels=2)
    grey = samples(1)
    made, _ = carried(source, in_channels=3, out_channels=6)
    mean, variance = output(made, grey.expand(-1, 3, -1, -1)).chunk(2, 1)
    expected_mean, expected_variance = output(source[0], grey).chunk(2, 1)
    torch.testing.assert_close(mean, expected_mean.expand(-1, 3, -1, -1), rtol=0, atol=1e-5)
    torch.testing.assert_close(variance, expected_variance.expand(-1, 3, -1, -1), rtol=0, atol=1e-5)


def test_new_classes_change_nothing_at_first():
    source, sample = network(), samples(1)
    made, said = carried(source, num_class_embeds=5, drops=True)
    for labels in ([0, 1], [4, 2]):
        torch.testing.assert_close(output(made, sample, torch.tensor(labels)), output(source[0], sample))
    assert said == "no classes to 5: their embeddings start at 0, where nothing changes"


def test_without_classes_the_network_is_that_of_no_class():
    source, sample = network(num_class_embeds=4), samples(1)
    made, said = carried(source, null_label=3, num_class_embeds=None)
    torch.testing.assert_close(
        output(made, sample), output(source[0], sample, torch.tensor([3, 3])), rtol=0, atol=1e-5
    )
    assert said == "4 classes to none: that of no class goes into the embedding of time"
    made, said = carried(source, num_class_embeds=None)
    added = made.time_embedding.linear_2.bias - source[0].time_embedding.linear_2.bias
    torch.testing.assert_close(added, source[0].class_embedding.weight.mean(0), rtol=0, atol=1e-6)


def test_rows_of_classes_keep_their_number_and_new_ones_start_as_no_class():
    source = network(num_class_embeds=4)
    rows = source[0].class_embedding.weight
    made, said = carried(source, null_label=3, drops=True, num_class_embeds=6)
    assert torch.equal(made.class_embedding.weight, torch.stack([*rows[:3], rows[3], rows[3], rows[3]]))
    assert said == "3 classes to 5: the first 3 are kept by their number, 2 start as that of no class"
    made, said = carried(source, num_class_embeds=2)
    assert torch.equal(made.class_embedding.weight, rows[:2]) and "2 are left out" in said
    made, said = carried(source, drops=True, num_class_embeds=5)
    assert torch.equal(made.class_embedding.weight, torch.stack([*rows, rows.mean(0)]))
    assert said == "no class starts as the mean of all"
    made, said = carried(source, null_label=3, num_class_embeds=3)
    assert torch.equal(made.class_embedding.weight, rows[:3]) and said == "that of no class is left out"


def test_another_size_changes_no_weight_and_is_said():
    source = network()
    made, said = carried(source, sample_size=[16, 8])
    assert torch.equal(output(made, samples(1)), output(source[0], samples(1)))
    assert said == "made for 8 px, goes on at 16x8 px with the same weights"
    assert not differences(source[1], source[1] | {"sample_size": [8, 8]})


def test_points_stay_as_they_are():
    torch.manual_seed(0)
    model = build_model(model_config("points"))
    config = settings(model)
    assert adapted(model.state_dict(), config, config).keys() == model.state_dict().keys()
    assert not differences(config, config | {"sample_shape": [2]})
    with pytest.raises(ValueError, match=r"sample_shape \(2,\), not \(3,\)"):
        differences(config, config | {"sample_shape": (3,)})


@pytest.mark.parametrize(
    ("source", "target", "names"),
    [
        ({}, {"in_channels": 2, "out_channels": 2}, "1 channels and the data have 2, but only between grey"),
        ({"in_channels": 2, "out_channels": 2}, {"in_channels": 3, "out_channels": 3}, "of 2 channels"),
        ({"out_channels": 3}, {}, "1 input and 3 output channels, but must have as many"),
        ({"class_embed_type": "timestep"}, {}, "class_embed_type 'timestep', but must"),
        ({}, {"layers_per_block": 2}, "layers_per_block 1, not 2; this must stay"),
    ],
)
def test_what_cannot_be_carried_over_is_named(source, target, names):
    _, config = network(**source)
    with pytest.raises(ValueError, match=names):
        differences(config, config | target)
