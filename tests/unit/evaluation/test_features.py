"""Extractors of features: the right preprocessing, names that say what was used, errors before sampling."""

import sys
import types

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from common import DINOV2_PROCESSOR, TINY_TRANSFORMER, save_vision_model, seeded
from ddpm_from_scratch import (
    build_model,
    model_config,
)
from ddpm_from_scratch.evaluation.features import (
    MiddleBlockFeatures,
    VisionModelFeatures,
    load_features,
    to_rgb_uint8,
)
from ddpm_from_scratch.runtime.errors import ConfigError

VIT_PROCESSOR = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "ViTImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": {"height": 28, "width": 28},
}


def test_vision_model_sees_the_whole_image_resized_and_normalised(tiny_dinov2):
    """Against PIL and the model by hand; the processor alone would crop an eighth of the image away."""
    features = load_features(str(tiny_dinov2), (3, 40, 40))
    samples = torch.rand(3, 3, 40, 40, generator=seeded()) * 2 - 1
    pixels = []
    for image in ((samples + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy():
        resized = Image.fromarray(image).resize((28, 28), Image.Resampling.BICUBIC)
        pixels.append((np.asarray(resized) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225])
    inputs = torch.tensor(np.stack(pixels), dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = transformers.Dinov2Model.from_pretrained(tiny_dinov2)(inputs).last_hidden_state[:, 0]
    torch.testing.assert_close(features(samples), expected)  # float32 of either order of operations
    assert features.name == "dinov2-tiny" and str(tiny_dinov2.parent) not in features.description


CONVNEXT_PROCESSOR = DINOV2_PROCESSOR | {
    "crop_pct": 0.875, "do_center_crop": False, "image_processor_type": "ConvNextImageProcessor",
}  # fmt: skip


@pytest.mark.parametrize(
    ("processor", "side"),
    [(DINOV2_PROCESSOR, 28), (VIT_PROCESSOR, 28), (CONVNEXT_PROCESSOR, 32)],
    ids=["crops", "has two sides", "scales the shorter side"],
)
@pytest.mark.parametrize("shape", [(20, 12), (12, 40)])
def test_pictures_that_are_not_square_are_stretched_and_all_of_them_counts(tmp_path, processor, side, shape):
    """Against PIL by hand, for each kind of processor: the same numbers go into the network."""
    network = transformers.Dinov2Model(transformers.Dinov2Config(**TINY_TRANSFORMER | {"image_size": side}))
    features = load_features(str(save_vision_model(tmp_path / "model", network, processor)), (3, *shape))
    seen = []
    features.network.register_forward_pre_hook(
        lambda module, given, named: seen.append(named["pixel_values"]), with_kwargs=True
    )
    samples = torch.rand(2, 3, *shape, generator=seeded()) * 2 - 1
    features(samples)
    images = ((samples + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    resample = Image.Resampling(processor["resample"])
    resized = np.stack(
        [np.asarray(Image.fromarray(image).resize((side, side), resample)) for image in images]
    )
    expected = (resized / 255 - processor["image_mean"]) / processor["image_std"]
    torch.testing.assert_close(seen[0], torch.tensor(expected).permute(0, 3, 1, 2).float())


def test_every_pixel_of_the_border_counts(tiny_dinov2):
    features = load_features(str(tiny_dinov2), (1, 28, 28))
    black = -torch.ones(1, 1, 28, 28)
    for row, column in ((0, 0), (0, 27), (27, 0), (27, 27), (0, 13)):
        spot = black.clone()
        spot[0, 0, row, column] = 1
        assert not torch.equal(features(spot), features(black))


def test_grey_is_the_same_as_equal_red_green_and_blue(tiny_dinov2):
    features = load_features(str(tiny_dinov2), (1, 16, 16))
    grey = torch.rand(2, 1, 16, 16, generator=seeded()) * 2 - 1
    assert torch.equal(features(grey), features(grey.expand(-1, 3, -1, -1)))
    assert to_rgb_uint8(torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 1, 1, 3))[0, 2].tolist() == [[0, 128, 255]]


def test_classifier_saved_without_a_pooler_gives_its_class_token(tmp_path):
    """Random weights of the pooler would make other features at each load."""
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**TINY_TRANSFORMER))
    folder = save_vision_model(tmp_path / "vit", model, VIT_PROCESSOR)
    image = torch.rand(2, 3, 28, 28, generator=seeded()) * 2 - 1
    inputs = to_rgb_uint8(image) / 127.5 - 1  # already of the size: only normalised
    with torch.no_grad():
        expected = model.eval().vit(inputs).last_hidden_state[:, 0]
    torch.testing.assert_close(load_features(str(folder), (3, 28, 28))(image), expected)


def test_image_part_of_a_model_of_images_and_texts_is_used(tmp_path):
    text = {**TINY_TRANSFORMER, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = transformers.CLIPConfig(text_config=text, vision_config=TINY_TRANSFORMER, projection_dim=8)
    processor = DINOV2_PROCESSOR | {"image_processor_type": "CLIPImageProcessor"}
    features = load_features(
        str(save_vision_model(tmp_path / "clip", transformers.CLIPModel(config), processor)), (3, 8, 8)
    )
    assert features(torch.zeros(2, 3, 8, 8)).shape == (2, 16) and "CLIPVision" in features.description


def test_model_with_missing_weights_is_refused(tiny_dinov2):
    from safetensors.torch import load_file, save_file

    weights = load_file(tiny_dinov2 / "model.safetensors")
    weights.pop("layernorm.weight")
    save_file(weights, tiny_dinov2 / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks weights, layernorm\.weight"):
        VisionModelFeatures(str(tiny_dinov2))


def test_nothing_but_inception_is_called_inception(tiny_dinov2):
    folder = tiny_dinov2.rename(tiny_dinov2.parent / "inception")
    with pytest.raises(ConfigError, match="rename the folder"):
        VisionModelFeatures(str(folder))


def test_inception_that_is_not_installed_is_one_line_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ConfigError, match=r"pip install torch-fidelity$") as caught:
        load_features("inception", (3, 32, 32))
    assert "\n" not in str(caught.value)


def test_inception_is_given_rgb_bytes(monkeypatch):
    """With a stand-in of torch-fidelity's class, which takes what that one takes."""

    class StandIn(torch.nn.Module):
        def __init__(self, name, features_list, **kwargs):
            super().__init__()
            assert (name, features_list) == ("inception-v3-compat", ["2048"])

        def forward(self, images):
            assert images.dtype == torch.uint8 and images.shape[1] == 3
            return (images.float().mean((2, 3)),)

    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = StandIn
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    features = load_features("inception", (1, 4, 4))
    assert features.name == "inception"
    assert features(torch.ones(2, 1, 4, 4)).tolist() == [[255.0] * 3] * 2


def test_pixels_are_the_samples_themselves():
    samples = torch.rand(2, 3, 4, 4, generator=seeded())
    assert torch.equal(load_features("pixels", (3, 4, 4))(samples), samples.reshape(2, 48))
    points = torch.rand(5, 2, generator=seeded())
    coordinates = load_features("coordinates", (2,))
    assert torch.equal(coordinates(points), points) and coordinates.name == "coordinates"


@pytest.mark.parametrize(
    ("features", "shape", "message"),
    [
        ("pixels", (3, 64, 64), "at most 4096"),
        ("pixels", (2,), "use 'coordinates' for points"),
        ("coordinates", (3, 8, 8), "use 'coordinates' for points"),
        ("digit_classifier", (3, 8, 8), r"shape \(1, 8, 8\)"),
        ("inception", (4, 8, 8), "1 or 3 channels"),
        ("nobody/nothing", (3, 8, 8), "must be one of .*transformers vision model: "),
        ("/no/such/folder", (3, 8, 8), "must be one of"),
    ],
)
def test_features_that_do_not_fit_are_one_line(features, shape, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_features(features, shape)
    assert "\n" not in str(caught.value)


def test_middle_block_features_are_those_of_the_network(generator):
    torch.manual_seed(0)
    network = build_model(model_config("tiny", num_class_embeds=3)).eval()
    images = torch.randn(5, 1, 8, 8, generator=generator)
    features = MiddleBlockFeatures(network)(images)
    kept = []
    network.mid_block.register_forward_hook(lambda _, __, output: kept.append(output))
    with torch.no_grad():
        network(images, 0, class_labels=torch.zeros(5, dtype=torch.long))
    np.testing.assert_allclose(features.numpy(), kept[0].mean((2, 3)).numpy(), rtol=1e-6)
