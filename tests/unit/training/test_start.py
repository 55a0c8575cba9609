"""Weights to start from: found in every layout, followed in their process, fitted to the data, or refused."""

import json
import shutil

import pytest
import safetensors.torch
import torch
from accelerate import Accelerator
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DConditionModel

from common import save_images, untrained_pipeline
from ddpm_from_scratch import (
    DDPMFromScratchPipeline,
    DDPMFromScratchScheduler,
    FewStepScheduler,
    build_model,
    model_config,
)
from ddpm_from_scratch.runtime.errors import ConfigError
from ddpm_from_scratch.training import Trainer, start
from ddpm_from_scratch.training.config import TrainingConfig, parse_config
from ddpm_from_scratch.training.prepare import choose_model_and_data
from ddpm_from_scratch.training.start import find_start

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a pipeline, averaged and raw weights: v, cosine schedule of 20 steps, few steps."""
    folder = tmp_path_factory.mktemp("saved") / "pipeline"
    pipeline = untrained_pipeline()
    settings = {"num_train_timesteps": 20, "beta_schedule": "squaredcos_cap_v2"}
    scheduler = DDPMFromScratchScheduler(prediction_type="v_prediction", clip_sample=False, **settings)
    DDPMFromScratchPipeline(
        pipeline.unet, FewStepScheduler.from_config(scheduler.config, calibration={}, clip_sample=False)
    ).save_pretrained(folder)
    raw = build_model(model_config("tiny"))
    raw.load_state_dict({name: value + 1 for name, value in pipeline.unet.state_dict().items()})
    raw.save_pretrained(folder / "unet", variant="non_ema")
    return folder


def weights_of(folder, name=WEIGHTS):
    return safetensors.torch.load_file(folder / "unet" / name)


def config(source, **settings):
    given = {"dataset_name": "digits", "output_dir": "unused", "init_from": str(source)} | settings
    return TrainingConfig(**given)


def trainer(settings):
    return Trainer(settings, *choose_model_and_data(settings), Accelerator(cpu=True))


def check_starts_from(made, weights):
    for name, value in made.state.network.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_a_run_starts_from_the_weights_their_network_and_their_process(saved, capsys):
    settings = config(saved, use_ema=True)
    made = trainer(settings)
    check_starts_from(made, weights_of(saved))
    assert all(torch.equal(made.state.ema.tensors[name], value) for name, value in weights_of(saved).items())
    assert made.scheduler.config.prediction_type == "v_prediction" and len(made.scheduler) == 20
    assert made.scheduler.config.beta_schedule == "squaredcos_cap_v2"
    assert not made.scheduler.config.clip_sample
    assert settings.recipe()["prediction_type"] == "v_prediction"
    said = capsys.readouterr()
    assert "starting from the default weights of" in said.out and "prediction_type v_prediction" in said.out
    assert "beta_end" not in said.out and not said.err


def test_raw_weights_and_the_folder_of_the_network_alone(saved, tmp_path, capsys):
    check_starts_from(
        trainer(config(saved, init_variant="raw")),
        weights_of(saved, "diffusion_pytorch_model.non_ema.safetensors"),
    )
    inside = config(saved / "unet")  # the scheduler is beside it
    check_starts_from(trainer(inside), weights_of(saved))
    assert inside.prediction_type == "v_prediction"
    alone = shutil.copytree(saved / "unet", tmp_path / "alone")
    capsys.readouterr()
    by_itself = config(alone)
    check_starts_from(trainer(by_itself), weights_of(saved))
    assert by_itself.prediction_type == "epsilon"
    assert "has no scheduler" in capsys.readouterr().err


def test_stock_pipelines_half_precision_and_points(tmp_path):
    torch.manual_seed(1)
    network = build_model(model_config("tiny"))
    stock = DDPMPipeline(network, DDPMScheduler(beta_end=0.03, prediction_type="sample", clip_sample=True))
    stock.save_pretrained(tmp_path / "stock")
    network.half().save_pretrained(tmp_path / "stock" / "unet", variant="fp16")
    settings = config(tmp_path / "stock", init_variant="fp16")
    made = trainer(settings)
    check_starts_from(made, {name: value.float() for name, value in network.state_dict().items()})
    assert made.state.network.dtype == torch.float32
    assert (settings.beta_end, settings.prediction_type, settings.clip_sample) == (0.03, "sample", True)
    points = untrained_pipeline("points")
    points.save_pretrained(tmp_path / "points")
    settings = config(tmp_path / "points", dataset_name="swiss_roll")
    check_starts_from(trainer(settings), points.unet.state_dict())
    assert settings.ddpm_num_steps == 20


def test_what_is_given_wins_and_both_are_named(saved, capsys):
    argv = ["--dataset_name=digits", "--output_dir=unused", f"--init_from={saved}"]
    settings = parse_config([*argv, "--prediction_type=epsilon", "--ddpm_num_steps=30", "--clip_sample"])
    choose_model_and_data(settings)
    assert (settings.prediction_type, settings.ddpm_num_steps) == ("epsilon", 30)
    assert settings.ddpm_beta_schedule == "squaredcos_cap_v2" and settings.clip_sample
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "--prediction_type is epsilon, they were trained with v_pred" in said
    assert "--ddpm_num_steps is 30, they were trained with 20" in said and "clip_sample" not in said


def test_settings_are_checked_when_the_process_is_known(saved):
    """Without signal at T, v is fine and epsilon is not; that it is v only the weights say."""
    settings = config(saved, rescale_betas_zero_snr=True)
    choose_model_and_data(settings)
    assert settings.prediction_type == "v_prediction" and settings.rescale_betas_zero_snr
    with pytest.raises(ConfigError, match="--ddpm_num_inference_steps is 25, but must be at most"):
        choose_model_and_data(config(saved, ddpm_num_inference_steps=25))


def test_the_weights_are_found_and_checked_once(saved, monkeypatch):
    """From the Hub, network and weights could otherwise be of two commits."""
    opened, find = [], start._open
    monkeypatch.setattr(start, "_open", lambda config: opened.append(config) or find(config))
    made = trainer(config(saved))
    assert len(opened) == 1 and made.start is not None and made.start.hub_id is None


def test_classes_channels_size_and_variances_follow_the_run(saved, tmp_path, capsys):
    images = save_images(tmp_path / "images", 3, seed=0)
    settings = config(
        saved, dataset_name=None, train_data_dir=str(images), cache_dir=str(tmp_path / "cache"),
        resolution=16, channels=3, variance_type="learned_range",
    )  # fmt: skip
    made = trainer(settings)
    shape = made.state.network.config
    assert (shape.sample_size, shape.in_channels, shape.out_channels) == (16, 3, 6)
    said = capsys.readouterr().out
    for words in ("made for 8 px, goes on at 16 px", "grey to RGB", "learned variances are new"):
        assert words in said
    labelled = trainer(config(saved, label_column="label", label_dropout=0.1))
    assert labelled.state.network.config.num_class_embeds == 11
    assert "no classes to 11" in capsys.readouterr().out


def test_the_class_of_none_is_known_from_the_pipeline(tmp_path):
    pipeline = untrained_pipeline(num_class_embeds=6)
    saved = DDPMFromScratchPipeline(pipeline.unet, pipeline.scheduler, null_class_label=5)
    saved.save_pretrained(tmp_path / "labelled")
    made = trainer(config(tmp_path / "labelled", label_column="label", label_dropout=0.1))
    rows, old = made.state.network.class_embedding.weight, pipeline.unet.class_embedding.weight
    assert torch.equal(rows, torch.cat([old[:5], old[5].expand(6, -1)]))


def test_a_network_named_beside_the_weights_must_agree(saved):
    network, _, _ = choose_model_and_data(config(saved, model_config_name_or_path="tiny"))
    assert network["block_out_channels"] == [8, 16]
    with pytest.raises(ConfigError, match="has block_out_channels .32, 64.*but the weights.*leave the first"):
        choose_model_and_data(config(saved, model_config_name_or_path="digits"))


def test_trained_weights_named_as_a_network_are_said_to_be_unused(saved, capsys):
    settings = TrainingConfig(
        dataset_name="digits", output_dir="unused", model_config_name_or_path=str(saved / "unet")
    )
    made = trainer(settings)
    assert not torch.equal(made.state.network.conv_in.weight, weights_of(saved)["conv_in.weight"])
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "starts from fresh weights; --init_from" in said
    choose_model_and_data(TrainingConfig(dataset_name="digits", output_dir="unused"))
    assert not capsys.readouterr().err


def test_weights_come_from_the_hub(saved, hub_here, tmp_path):
    from huggingface_hub import HfApi

    from loopback_hub import TOKEN

    api = HfApi(token=TOKEN)
    api.create_repo("tester/digits")
    api.upload_folder(repo_id="tester/digits", folder_path=saved)
    found = {"cache_dir": str(tmp_path / "cache")}
    for variant, name in ((None, WEIGHTS), ("raw", "diffusion_pytorch_model.non_ema.safetensors")):
        settings = config("tester/digits", init_variant=variant, **found)
        made = trainer(settings)
        check_starts_from(made, weights_of(saved, name))
        assert settings.prediction_type == "v_prediction"
        assert made.start.about() == {"name": "tester/digits", "hub_id": "tester/digits"}
    with pytest.raises(ConfigError, match="the Hub has no such repository, or it is private"):
        find_start(config("tester/nothing", **found))


def test_a_checkpoint_has_all_that_a_run_needs_to_go_on(saved, tmp_path):
    """The weights may be gone by then; what they were trained for, and whether they had an id, is kept."""
    source = shutil.copytree(saved, tmp_path / "source")
    folder = tmp_path / "run"
    argv = ["--dataset_name=digits", f"--output_dir={folder}", f"--init_from={source}", "--max_train_steps=2"]
    made = trainer(parse_config(argv))
    made.save_checkpoint()
    shutil.rmtree(source)
    again = parse_config([*argv, "--resume_from_checkpoint=latest"])
    resumed = trainer(again)
    resumed.resume("latest")
    check_starts_from(resumed, made.state.network.state_dict())
    assert again.prediction_type == "v_prediction" and not again.clip_sample
    assert resumed.start.hub_id is None and resumed.start.name == str(source)
    with pytest.raises(ConfigError, match="no such folder"):
        find_start(parse_config([*argv[:1], f"--output_dir={tmp_path / 'other'}", *argv[2:]]))
    other = parse_config([*argv, "--resume_from_checkpoint=latest", "--init_from=elsewhere"])
    with pytest.raises(ConfigError, match="init_from cannot change within a run"):
        trainer(other).resume("latest")


def changed(folder, name, **settings):
    """Change a JSON file of a saved pipeline; None takes a setting out."""
    path = folder / name
    stored = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({key: value for key, value in stored.items() if value is not None}))


def cut(folder):
    path = folder / "unet" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-10])


def pickled(folder):
    for path in (folder / "unet").glob("*.safetensors"):
        path.unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")


def not_finite(folder):
    weights = weights_of(folder)
    weights["conv_in.bias"][0] = float("nan")
    safetensors.torch.save_file(weights, folder / "unet" / WEIGHTS)


def without(name):
    def remove(folder):
        shutil.rmtree(folder / name)

    return remove


def conditional(folder):
    shutil.rmtree(folder / "unet")
    UNet2DConditionModel(
        8, 1, 1, block_out_channels=(4, 4), norm_num_groups=2, cross_attention_dim=4,
        attention_head_dim=2, layers_per_block=1, down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    ).save_pretrained(folder / "unet")  # fmt: skip


def latent(folder):
    changed(folder, "model_index.json", vae=["diffusers", "AutoencoderKL"])


def flow(folder):
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 1.0}))


def other_betas(folder):
    changed(folder, "scheduler/scheduler_config.json", trained_betas=[0.1 + 0.01 * i for i in range(20)])


@pytest.mark.parametrize(
    ("damage", "settings", "names"),
    [
        (without("unet"), {}, "neither unet/config.json nor config.json; give a pipeline's folder"),
        (cut, {}, "damaged or cut short"),
        (not_finite, {}, "not finite"),
        (pickled, {}, "weights as a pickle, which could run code"),
        (conditional, {}, "of a UNet2DConditionModel, but must be of one of UNet2DModel, PointDenoiser"),
        (latent, {}, "components scheduler, unet, vae, but only"),
        (flow, {}, "FlowMatchEulerDiscreteScheduler, which has no beta_schedule"),
        (other_betas, {}, "betas that no --ddpm_beta_schedule makes; give the schedule"),
        (
            None,
            {"init_variant": "fp16"},
            "--init_variant is 'fp16', but the weights there are the default, raw",
        ),
        (None, {"dataset_name": "swiss_roll"}, "an image network, but the data are points"),
    ],
)
def test_what_cannot_be_started_from_is_refused_in_one_line(saved, tmp_path, damage, settings, names):
    folder = shutil.copytree(saved, tmp_path / "weights")
    if damage is not None:
        damage(folder)
    with pytest.raises(ConfigError, match=names) as caught:
        choose_model_and_data(config(folder, **settings))
    assert "--init_" in str(caught.value) and "\n" not in str(caught.value)


def test_betas_of_their_own_are_left_when_a_schedule_is_given(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "weights")
    other_betas(folder)
    settings = config(folder, ddpm_beta_schedule="sigmoid")
    choose_model_and_data(settings)
    assert (settings.ddpm_beta_schedule, settings.prediction_type) == ("sigmoid", "v_prediction")


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("/nowhere/at/all", "there is no such folder; give one, or a Hub id"),
        ("runs/of/mine", "there is no such folder"),
        (f"unet/{WEIGHTS}", "that is a file; give the folder"),
        ("no id!", "there is no such folder, and it cannot be had from the Hub"),
    ],
)
def test_a_name_of_nothing_is_refused(saved, monkeypatch, name, names):
    monkeypatch.chdir(saved)
    with pytest.raises(ConfigError, match=names):
        find_start(config(name))


def test_a_checkpoint_is_no_pipeline(saved, tmp_path):
    made = trainer(config(saved, output_dir=str(tmp_path / "run")))
    made.save_checkpoint()
    with pytest.raises(ConfigError, match="that is a checkpoint; give the folder of its run"):
        find_start(config(tmp_path / "run" / "checkpoint-0"))


def test_flags_that_do_not_go_with_it_are_refused(saved):
    with pytest.raises(ConfigError, match="--init_variant applies to --init_from only"):
        TrainingConfig(dataset_name="digits", init_variant="raw")
    for output in (saved, saved.parent):
        with pytest.raises(ConfigError, match="which --overwrite_output_dir would delete"):
            config(saved / "unet", output_dir=str(output), overwrite_output_dir=True)
    config(saved, output_dir=str(saved.parent / "other"), overwrite_output_dir=True)
