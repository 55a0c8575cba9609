"""What a card says can be done, can be done."""

import json
import re

import pytest
from diffusers import ConsistencyModelPipeline, DDPMScheduler

from common import untrained_pipeline
from ddpm_from_scratch import DDPMFromScratchPipeline
from ddpm_from_scratch.hub.cards import calibrated_timesteps, layout_of, model_card, plain_card, usage


def code_of(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize(("layout", "trusted"), [("portable", False), ("remote-code", True)])
def test_code_of_the_repository_is_asked_for_only_where_it_is_needed(layout, trusted):
    text = usage("me/x", layout, num_inference_steps=10, stock_steps=200, class_label=3, guidance_scale=2.0)
    alone, ours, _ = code_of(text)
    assert ("trust_remote_code=True" in alone) is trusted and "trust_remote_code" not in ours
    of_ours = "num_inference_steps=10, class_labels=3, guidance_scale=2.0)"
    of_stock = "num_inference_steps=200, class_labels=[3, 3, 3, 3])"
    assert (of_ours if trusted else of_stock) in alone and of_ours in ours
    assert ("know no guidance" in text) is not trusted
    for block in (alone, ours):
        compile(block, "card", "exec")
        assert '"me/x"' in block


def test_the_code_for_few_steps_of_diffusers_runs():
    text = usage("me/x", "portable", few_steps=[19, 12, 4], sample_shape=(1, 8, 8))
    block = code_of(text)[-1]
    pipe, seen = untrained_pipeline(), []
    pipe.unet.register_forward_hook(lambda module, given, output: seen.append(int(given[1])))
    names = {"pipe": pipe}
    exec(compile(block, "card", "exec"), names)
    assert len(names["images"]) == 4 and names["images"][0].size == (8, 8) and seen == [19, 12, 4]


def test_pictures_that_are_not_square_are_described_and_their_code_runs(tmp_path):
    text = usage("me/x", "portable", few_steps=[19, 12, 4], sample_shape=(1, 20, 12))
    said = "The pictures are 20 pixels high and 12 wide."
    assert text.startswith(said)
    names = {"pipe": untrained_pipeline(sample_size=(20, 12))}
    exec(compile(code_of(text)[-1], "card", "exec"), names)
    assert names["images"][0].size == (12, 20)
    for shape in ((1, 8, 8), (2,), None):
        assert "pixels high" not in usage("me/x", "portable", sample_shape=shape)
    names["pipe"].save_pretrained(tmp_path)
    assert said in str(plain_card(tmp_path, "me/x"))


def test_the_nearest_calibration_is_named(tmp_path):
    (tmp_path / "scheduler").mkdir()
    assert calibrated_timesteps(tmp_path) is None
    steps = {str(count): {"timesteps": list(range(count, 0, -1)), "noise_level": 0} for count in (5, 20)}
    path = tmp_path / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"calibration": {"steps": steps}}))
    assert calibrated_timesteps(tmp_path, 6) == [5, 4, 3, 2, 1]
    assert len(calibrated_timesteps(tmp_path, 100)) == 20


def test_the_code_of_a_class_conditional_card_runs_on_stock_classes():
    text = usage(
        "me/x", "portable", stock_steps=5, few_steps=[19, 12, 4], sample_shape=(1, 8, 8), class_label=2
    )
    ours, seen = untrained_pipeline(num_class_embeds=4), []
    ours.unet.register_forward_hook(
        lambda module, given, options, output: seen.append((int(given[1]), options["class_labels"].tolist())),
        with_kwargs=True,
    )
    pipe = ConsistencyModelPipeline(ours.unet, DDPMScheduler(num_train_timesteps=20))
    alone, *_, few = code_of(text)
    names = {"pipe": pipe}
    exec(compile(alone.split("\n\n")[1].split("\n")[1], "card", "exec"), names)
    assert len(names["images"]) == 4 and seen == [(t, [2] * 4) for t in (16, 12, 8, 4, 0)]
    seen.clear()
    exec(compile(few, "card", "exec"), names)
    assert seen == [(t, [2] * 4) for t in (19, 12, 4)]


@pytest.mark.parametrize("layout", ["portable", "remote-code"])
@pytest.mark.parametrize("classes", [(), (3,), (3, {0: "cat", 1: "dog", 2: "fish"}), (0, {1: "dog"})])
def test_a_plain_card_fits_the_folder(tmp_path, layout, classes):
    pipeline = untrained_pipeline(**({"num_class_embeds": 4} if classes else {}))
    DDPMFromScratchPipeline(pipeline.unet, pipeline.scheduler, *classes).save_pretrained(
        tmp_path, layout=layout
    )
    card = plain_card(tmp_path, "me/x")
    assert layout_of(tmp_path) == layout and card.data.pipeline_tag == "unconditional-image-generation"
    text = str(card)
    assert ("trust_remote_code=True)" in text) is (layout == "remote-code")
    assert ("can be guided" in text) is bool(classes)
    example = '"cat"' if len(classes) == 2 and classes[0] else '"dog"' if len(classes) == 2 else "0"
    assert (f"class_labels={example})" in text) is bool(classes)
    assert ("Its classes are cat, dog, fish." in text) is (len(classes) == 2 and classes[0] == 3)
    stock = bool(classes) and layout == "portable"
    label = 1 if classes and classes[0] == 0 else 0
    assert (f"num_inference_steps=20, class_labels=[{', '.join([str(label)] * 4)}])" in text) is stock
    assert (f"trust_remote_code=True, null_class_label={(classes or [None])[0]}`" in text) is stock


def test_the_metrics_of_a_card_are_what_the_hub_reads(tmp_path):
    template = tmp_path / "card.md"
    template.write_text("---\n{{ card_data }}\n---\n# {{ model_name }}: {{ note }}\n")
    metrics = {"sliced_w2": ("Sliced distance", 0.25)}
    card = model_card(template, model_name="x", dataset="digits", metrics=metrics, note="small")
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_name, result.metric_value) == (
        "sliced_w2",
        "Sliced distance",
        0.25,
    )
    assert str(card).rstrip().endswith("# x: small") and card.data.library_name == "diffusers"


def test_a_card_names_what_it_was_fine_tuned_from(tmp_path):
    template = tmp_path / "card.md"
    template.write_text("---\n{{ card_data }}\n---\n")
    card = model_card(template, model_name="x", dataset="digits", base_model="me/first")
    assert card.data.base_model == "me/first" and "base_model: me/first" in str(card)
    assert "base_model" not in str(model_card(template, model_name="x", dataset="digits"))
