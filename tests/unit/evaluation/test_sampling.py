"""Samples: a stream for each batch, labels dealt evenly, a pipeline left as it was."""

import numpy as np
import pytest
import torch
from PIL import Image

from common import untrained_pipeline
from ddpm_from_scratch.evaluation.sampling import generate, save_picture


def test_each_batch_has_its_own_stream_and_another_seed_gives_other_samples():
    pipeline = untrained_pipeline()
    made, fewer, other = (
        generate(pipeline, count, batch_size=4, num_inference_steps=2, seed=seed).samples
        for count, seed in ((8, 0), (4, 0), (8, 1))
    )
    assert torch.equal(made[:4], fewer) and not torch.equal(made[:4], made[4:])
    assert not torch.equal(made, other)
    assert made.dtype == torch.float32 and float(made.min()) >= -1 and float(made.max()) <= 1
    assert float(made.min()) < -0.5 and float(made.max()) > 0.5  # the network's units, not [0, 1]


def test_guidance_is_counted_as_two_evaluations_a_step():
    pipeline = untrained_pipeline(num_class_embeds=4)
    pipeline.register_to_config(null_class_label=3)
    for scale, evaluations in ((1.0, 3), (2.0, 6)):
        made = generate(pipeline, 7, batch_size=4, num_inference_steps=3, guidance_scale=scale)
        assert made.evaluations_per_sample == evaluations


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("num_inference_steps", 0, ValueError),
        ("num_inference_steps", 2.5, TypeError),
        ("batch_size", True, TypeError),
    ],
)
def test_a_number_that_is_none_is_refused_and_not_taken_for_the_default(name, value, error):
    with pytest.raises(error, match=f"{name} is {value}, but must be an integer of at least 1"):
        generate(untrained_pipeline(), 4, **{name: value})


def test_labels_of_a_conditional_network_are_dealt_evenly():
    pipeline, seen = untrained_pipeline(num_class_embeds=3), []
    pipeline.unet.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["class_labels"].tolist()), with_kwargs=True
    )
    generate(pipeline, 7, batch_size=4, num_inference_steps=2)
    assert seen == [[0, 1, 2, 0]] * 2 + [[1, 2, 0]] * 2


def test_sampling_can_be_stopped_and_leaves_the_pipeline_as_it_was():
    pipeline, steps = untrained_pipeline(), []

    def stop_at_the_third():
        steps.append(1)
        if len(steps) == 3:
            raise InterruptedError

    pipeline.set_progress_bar_config(disable=False, desc="mine")
    with pytest.raises(InterruptedError):
        generate(pipeline, 4, num_inference_steps=10, on_step=stop_at_the_third)
    assert len(steps) == 3 and not pipeline.unet._forward_hooks
    assert pipeline._progress_bar_config == {"disable": False, "desc": "mine"}


def test_diverged_weights_are_named():
    pipeline = untrained_pipeline()
    torch.nn.init.constant_(pipeline.unet.conv_out.bias, float("nan"))
    with pytest.raises(FloatingPointError, match="samples that are not finite"):
        generate(pipeline, 4, num_inference_steps=2)


def test_pictures_of_any_shape_are_enlarged_in_it(tmp_path):
    """The longer side comes to 48 pixels or less, and no picture is turned."""
    for shape, tile in (((20, 12), (40, 24)), ((12, 20), (24, 40)), ((4, 60), (4, 60)), ((8, 8), (48, 48))):
        samples = torch.full((4, 1, *shape), -1.0)
        samples[0, 0, -1, 0] = 1.0  # the lower left corner of the first
        save_picture(samples, tmp_path / "grid.png")
        grid = np.asarray(Image.open(tmp_path / "grid.png"))
        assert grid.shape == (2 * tile[0] + 2, 2 * tile[1] + 2)
        assert grid[tile[0] - 1, 0] == 255 and grid[0, tile[1] - 1] == 0
