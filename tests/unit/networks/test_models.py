import json

import pytest
import torch

from ddpm_from_scratch import MODEL_CONFIGS, build_model, load_model_config, model_config
from ddpm_from_scratch.networks.models import image_sides, sample_shape

PARAMETERS = {
    "digits": 634_273,
    "small-32": 6_472_195,
    "pictures-32": 1_113_955,
    "ddpm-cifar10": 35_746_307,
    "ddpm-256": 113_673_219,
    "points": 42_242,
    "tiny": 44_969,
}


@pytest.mark.parametrize("name", MODEL_CONFIGS)
def test_named_models_have_the_parameters_of_the_readme(name):
    with torch.device("meta"):
        assert sum(p.numel() for p in build_model(model_config(name)).parameters()) == PARAMETERS[name]


def test_config_by_name_json_file_and_folder(tmp_path):
    config = model_config("tiny", sample_size=16, channels=3)
    assert (config["sample_size"], config["in_channels"], config["out_channels"]) == (16, 3, 3)
    build_model(config).save_pretrained(tmp_path / "folder")
    (tmp_path / "tiny.json").write_text(json.dumps(config))
    for source in (tmp_path / "folder", tmp_path / "tiny.json"):
        loaded = load_model_config(str(source))
        assert sum(p.numel() for p in build_model(loaded).parameters()) == sum(
            p.numel() for p in build_model(config).parameters()
        )


@pytest.mark.parametrize("content", [None, "not json", "[1]"])
def test_config_that_is_none_is_named(tmp_path, content):
    path = tmp_path / "model.json"
    if content:
        path.write_text(content)
    with pytest.raises(ValueError, match="model config"):
        load_model_config(str(path))


def test_a_size_is_an_integer_or_a_pair_and_a_list_is_a_pair(tmp_path):
    for size, shape in ((16, (1, 16, 16)), ((20, 12), (1, 20, 12)), ([20, 12], (1, 20, 12))):
        model = build_model(model_config("tiny", sample_size=size))
        assert sample_shape(model) == shape and image_sides(size) == shape[1:]
        model.save_pretrained(tmp_path / "unet")
        assert load_model_config(str(tmp_path / "unet"))["sample_size"] == (size if size == 16 else [20, 12])
        assert model(torch.zeros(2, *shape), 3).sample.shape == (2, *shape)


@pytest.mark.parametrize(
    "size", [[48], [48, 64, 3], "auto", "48x64", 0, -8, True, 8.0, [8, 0], [8, "8"], {}, []]
)
def test_a_size_that_is_none_is_named(tmp_path, size):
    says = "sample_size is .* must be a positive integer, or a pair of them"
    for use in (image_sides, lambda size: model_config("tiny", sample_size=size)):
        with pytest.raises(ValueError, match=says):
            use(size)
    (tmp_path / "unet.json").write_text(json.dumps(model_config("tiny") | {"sample_size": size}))
    with pytest.raises(ValueError, match=f"model config .*unet.json.*{says}"):
        load_model_config(str(tmp_path / "unet.json"))
    model = build_model(model_config("tiny"))
    model.register_to_config(sample_size=size)
    with pytest.raises(ValueError, match=says):
        sample_shape(model)


def test_point_denoiser_embeds_one_time_like_many(generator):
    model = build_model(model_config("points"))
    x = torch.randn(5, 2, generator=generator)
    torch.testing.assert_close(model(x, 7).sample, model(x, torch.full((5,), 7)).sample)
