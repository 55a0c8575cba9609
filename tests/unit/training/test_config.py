import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from common import ROOT
from ddpm_from_scratch.data import points
from ddpm_from_scratch.training.config import TrainingConfig, parse_config
from ddpm_from_scratch.training.prepare import start_tracking
from ddpm_from_scratch.words import POINT_DATASET_NAMES

DATA = "--dataset_name=digits"

BAD = [
    ([], "--dataset_name"),
    ([DATA, "--train_data_dir=x"], "both"),
    (["--dataset_name=swissroll"], "'swiss_roll'"),
    ([DATA, "--learning_rat=1"], "--learning_rate"),
    ([DATA, "--learning_rate=inf"], "--learning_rate"),
    ([DATA, "--learning_rate=nan"], "--learning_rate"),
    ([DATA, "--learning_rate=-1"], "--learning_rate"),
    ([DATA, "--learning_rate=fast"], "--learning_rate"),
    ([DATA, "--num_epochs=0"], "--num_epochs"),
    ([DATA, "--num_epochs=1.5"], "--num_epochs"),
    ([DATA, "--train_batch_size=0"], "--train_batch_size"),
    ([DATA, "--max_train_steps=-1"], "--max_train_steps"),
    ([DATA, "--gradient_accumulation_steps=0"], "--gradient_accumulation_steps"),
    ([DATA, "--prediction_type=v"], "v_prediction"),
    ([DATA, "--ddpm_beta_schedule=cosine"], "squaredcos_cap_v2"),
    ([DATA, "--mixed_precision=fp8"], "bf16"),
    ([DATA, "--lr_scheduler=step"], "cosine"),
    ([DATA, "--ddpm_num_steps=1"], "--ddpm_num_steps"),
    ([DATA, "--ddpm_num_steps=50", "--ddpm_num_inference_steps=60"], "at most"),
    ([DATA, "--beta_end=1.5"], "--beta_end"),
    ([DATA, "--adam_beta1=1"], "--adam_beta1"),
    ([DATA, "--seed=-1"], "--seed"),
    ([DATA, "--use_ema=maybe"], "--use_ema"),
    ([DATA, "--streaming"], "built-in|max_train_steps"),
    (["--dataset_name=x/y", "--streaming"], "--max_train_steps"),
    (["--dataset_name=x/y", "--streaming", "--max_train_steps=1", "--evaluation_samples=5"], "evaluate.py"),
    ([DATA, "--logging_dir=.."], "--logging_dir"),
    ([DATA, "--logging_dir="], "--logging_dir"),
    ([DATA, "--logging_dir=unet"], "--logging_dir"),
    ([DATA, "--label_dropout=0.1"], "--label_column"),
    ([DATA, "--guidance_scale=2"], "--label_dropout"),
    ([DATA, "--logging_dir=../x"], "--logging_dir"),
    ([DATA, "--hub_push_exports=tag"], "--hub_push_exports"),
    ([DATA, "--config=missing.yaml"], "missing.yaml"),
    ([DATA, "--config"], "--config"),
    ([DATA, "--evaluation_samples=1"], "at least 4"),
    ([DATA, "--rescale_betas_zero_snr"], "v_prediction"),
    ([DATA, "extra"], "extra"),
    ([DATA, "--logger=print"], "tensorboard"),
]


@pytest.mark.parametrize(
    ("argv", "names"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_bad_flag_is_one_line_and_status_2(argv, names, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_config(argv)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(names, error), error


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("learning_rat: 1", "learning_rate"),
        ("- 1", "name: value"),
        ("seed: [1]", "one value"),
        ("seed: x", "--seed"),
        ("a: [", "YAML"),
    ],
)
def test_bad_file_is_one_line_and_status_2(text, names, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(SystemExit) as stop:
        parse_config([DATA, f"--config={tmp_path / 'c.yaml'}"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and names in error


def test_a_flag_wins_over_the_file(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "dataset_name: digits\nseed: 5\nlearning_rate: 1e-3\nuse_ema: true\nclip_sample: false"
    )
    config = parse_config(["--seed", "7", "--config", str(tmp_path / "c.yaml")])
    assert (config.seed, config.learning_rate, config.use_ema, config.clip_sample) == (7, 1e-3, True, False)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "training" / "configs").glob("*.yaml")), ids=lambda path: path.stem
)
def test_presets_parse(path):
    assert parse_config([f"--config={path}"]).output_dir.startswith("runs/")


def test_flags_of_the_stock_script_are_taken():
    """The README command of diffusers' train_unconditional.py, with its data set, and its other flags."""
    config = parse_config(
        """--dataset_name=huggan/flowers-102-categories --resolution=64 --center_crop --random_flip
        --output_dir=ddpm-ema-flowers-64 --train_batch_size=16 --num_epochs=100
        --gradient_accumulation_steps=1 --use_ema --learning_rate=1e-4 --lr_warmup_steps=500
        --mixed_precision=no --push_to_hub --cache_dir=x --eval_batch_size=4 --save_images_epochs=5
        --save_model_epochs=5 --ema_max_decay=0.99 --ema_power=0.7 --ema_inv_gamma=2 --logger=tensorboard
        --checkpointing_steps=9 --checkpoints_total_limit=2 --resume_from_checkpoint=latest --hub_private_repo
        --hub_model_id=a/b --prediction_type=sample --ddpm_num_steps=500 --ddpm_num_inference_steps=100
        --ddpm_beta_schedule=linear --local_rank=0 --dataset_config_name=c --adam_beta1=0.9 --adam_beta2=0.99
        --adam_weight_decay=0 --adam_epsilon=1e-9 --dataloader_num_workers=2 --overwrite_output_dir
        --lr_scheduler=constant --logging_dir=tb --hub_token=t""".split()
    )
    assert config.hub_private_repo and config.random_flip and config.ddpm_num_steps == 500


def test_a_bare_no_in_yaml_is_a_precision(tmp_path):
    (tmp_path / "run.yaml").write_text("dataset_name: digits\nmixed_precision: no\n")
    assert parse_config([f"--config={tmp_path / 'run.yaml'}"]).mixed_precision == "no"


def test_names_of_points_are_those_of_the_library():
    assert POINT_DATASET_NAMES == tuple(points.POINT_DATASETS)


def test_every_flag_has_help():
    for item in dataclasses.fields(TrainingConfig):
        assert item.metadata["help"].endswith("."), item.name


def test_presets_are_those_the_readme_names():
    names = {path.stem for path in (ROOT / "training" / "configs").glob("*.yaml")}
    assert names == {"digits", "cifar10", "image_folder_32_cpu", "image_folder_64", "swiss_roll"}
    assert all(f"training/configs/{name}.yaml" in Path(ROOT / "README.md").read_text() for name in names)


@pytest.mark.parametrize("name", ["digits", "me/digits", "mnist"])
def test_data_set_of_the_hub_is_not_taken_for_a_mistyped_one(name):
    assert parse_config([f"--dataset_name={name}"]).dataset_name == name


@pytest.mark.parametrize("as_file", [False, True])
def test_a_tilde_is_the_home_folder_on_the_command_line_and_in_a_file(as_file, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    given = {
        "train_data_dir": "~/photos",
        "output_dir": "~/runs/x",
        "cache_dir": "~/cache",
        "resume_from_checkpoint": "~/runs/x/checkpoint-1",
        "model_config_name_or_path": "~/unet",
    }
    (tmp_path / "run.yaml").write_text("".join(f"{name}: {value}\n" for name, value in given.items()))
    flags = [f"--{name}={value}" for name, value in given.items()]
    config = parse_config([f"--config={tmp_path / 'run.yaml'}"] if as_file else flags)
    for name, value in given.items():
        assert getattr(config, name) == value.replace("~", str(tmp_path))
    assert parse_config(["--dataset_name=~/photos"]).dataset_name == f"{tmp_path}/photos"


def test_trackers_get_no_folders_and_no_token():
    config = TrainingConfig(
        train_data_dir="/home/me/photos", output_dir="~/runs/x", cache_dir="../cache", hub_token="hf_secret",
        logger="wandb",
    )  # fmt: skip
    told = {}
    start_tracking(config, SimpleNamespace(init_trackers=lambda project, known: told.update(known)))
    assert (told["train_data_dir"], told["output_dir"], told["cache_dir"]) == ("photos", "x", "cache")
    assert told["learning_rate"] == config.learning_rate and "hub_token" not in told
    assert not any("/" in value for value in told.values() if isinstance(value, str))


def test_a_size_is_the_same_on_the_command_line_and_in_a_file(tmp_path):
    file, given = tmp_path / "run.yaml", ["--dataset_name=me/photos"]
    for written, kept in (("64", 64), ("48x64", "48x64"), ("'48 X 64'", "48x64"), ("'64x64'", 64)):
        file.write_text(f"resolution: {written}\n")
        from_file = parse_config([*given, f"--config={file}"])
        assert from_file.resolution == kept
        assert from_file == parse_config([*given, f"--resolution={written.strip(chr(39))}"])
        assert from_file.recipe()["resolution"] == kept == json.loads(json.dumps(kept))


@pytest.mark.parametrize("written", ["[48, 64]", "{height: 48}", "48.5", "-3", "48x", "true", "'0x5'"])
def test_a_size_in_a_file_that_is_none_is_one_line(tmp_path, written, capsys):
    file = tmp_path / "run.yaml"
    file.write_text(f"resolution: {written}\n")
    with pytest.raises(SystemExit):
        parse_config(["--dataset_name=me/photos", f"--config={file}"])
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "resolution" in said and "must be" in said
