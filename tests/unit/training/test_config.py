import dataclasses
import json
import re
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
    assert names == {"digits", "cifar10", "own_pictures_cpu", "image_folder_64", "swiss_roll", "fine_tune"}
    assert all(f"training/configs/{name}.yaml" in (ROOT / "README.md").read_text() for name in names)


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
        "evaluation_features": "~/dino",
    }
    (tmp_path / "run.yaml").write_text("".join(f"{name}: {value}\n" for name, value in given.items()))
    flags = [f"--{name}={value}" for name, value in given.items()]
    config = parse_config(["--config=~/run.yaml"] if as_file else flags)
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


DIGITS = "dataset_name: digits\nmax_train_steps: 720\nloss_weighting: min_snr\nsnr_gamma: 3\n"


def test_data_on_the_command_line_take_the_place_of_those_in_the_file(tmp_path, capsys):
    """Nothing that names the old data stays, and what was replaced is said."""
    file = tmp_path / "run.yaml"
    file.write_text(DIGITS)
    config = parse_config([f"--config={file}", "--train_data_dir=mine"])
    assert (config.dataset_name, config.train_data_dir, config.max_train_steps) == (None, "mine", 720)
    assert "--train_data_dir takes the place of dataset_name digits" in capsys.readouterr().err
    file.write_text("train_data_dir: old\ndataset_split: test\n")
    config = parse_config([f"--config={file}", "--dataset-name", "me/cats"])
    assert (config.dataset_name, config.train_data_dir) == ("me/cats", None)
    assert config.dataset_split == TrainingConfig(dataset_name="digits").dataset_split
    file.write_text("dataset_name: me/old\ndataset_config_name: big\n")
    config = parse_config(["--dataset_name=me/new", f"--config={file}"])
    assert (config.dataset_name, config.dataset_config_name) == ("me/new", None)
    config = parse_config(["--dataset_name=me/new", "--dataset_config_name=small", f"--config={file}"])
    assert config.dataset_config_name == "small"
    with pytest.raises(SystemExit):
        parse_config([f"--config={file}", "--dataset_name=me/new", "--train_data_dir=mine"])
    assert "got both" in capsys.readouterr().err


def test_a_number_of_epochs_takes_the_place_of_a_number_of_updates_in_the_file(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(DIGITS)
    config = parse_config([f"--config={tmp_path / 'run.yaml'}", "--num_epochs=5"])
    assert (config.num_epochs, config.max_train_steps) == (5, None)
    assert "takes the place of max_train_steps 720" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--snr_gamma=3", "--snr_gamma is given, but only --loss_weighting min_snr uses it."),
        ("--vlb_weight=1", "only --variance_type learned_range uses it"),
        ("--ema_power=1", "only --use_ema uses it"),
        ("--ema_inv_gamma=10", "only --use_ema uses it"),
        ("--ema_max_decay=0.99", "only --use_ema uses it"),
        ("--muon_learning_rate=0.1", "only --optimizer muon uses it"),
        ("--shuffle_buffer_size=10", "only --streaming uses it"),
        ("--beta_end=0.1 --ddpm_beta_schedule=squaredcos_cap_v2", "only --ddpm_beta_schedule linear"),
        ("--beta_start=0.1 --ddpm_beta_schedule=laplace", "only --ddpm_beta_schedule linear"),
        ("--center_crop", "with --dataset_name digits it does nothing"),
        ("--dataset_config_name=c", "with --dataset_name digits it does nothing"),
        ("--image_column=img", "with --dataset_name digits it does nothing"),
        ("--dataset_split=test", "with --dataset_name digits it does nothing"),
        ("--random_flip --dataset_name=swiss_roll", "with --dataset_name swiss_roll it does nothing"),
        ("--resolution=64 --dataset_name=spiral", "with --dataset_name spiral it does nothing"),
        ("--hub_private_repo", "only --push_to_hub uses it"),
        ("--hub_token=t", "only --push_to_hub uses it"),
        ("--calibration_samples=9", "only --calibrate uses it"),
        ("--evaluation_features=pixels", "only --evaluation_samples uses it"),
        ("--lr_warmup_steps=5 --lr_scheduler=constant", "with --lr_scheduler constant it does nothing"),
        ("--num_epochs=5 --max_train_steps=9", "with --max_train_steps 9 it does nothing"),
        ("--overwrite_output_dir --resume_from_checkpoint=latest", "with --resume_from_checkpoint latest it"),
        ("--snr_gamma=5.0", "only --loss_weighting min_snr"),
        ("--local_rank=0", "has no effect: the launcher sets"),
        ("--enable_xformers_memory_efficient_attention", "has no effect: PyTorch's own"),
        ("--preserve_input_precision", "has no effect: pictures of 16 bits"),
    ],
)  # fmt: skip
def test_what_is_given_and_does_nothing_is_said_in_one_line(flags, says, capsys):
    parse_config([DATA, *flags.split()])
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("train.py: warning: --") and says in said


def test_what_is_in_a_file_and_does_nothing_is_said_too(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(DIGITS + "ema_power: 1.0\n")
    parse_config([f"--config={tmp_path / 'run.yaml'}"])
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "--ema_power is given, but only --use_ema uses it" in said


@pytest.mark.parametrize(
    "flags",
    ["", "--snr_gamma=3 --loss_weighting=min_snr", "--ema_power=1 --use_ema", "--random_flip", "--seed=3",
     "--beta_end=0.1", "--num_epochs=3", "--lr_warmup_steps=9", "--hub_model_id=a/b"],
)  # fmt: skip
def test_what_has_an_effect_is_not_talked_about(flags, capsys):
    parse_config([DATA, *flags.split()])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "path", sorted((ROOT / "training" / "configs").glob("*.yaml")), ids=lambda path: path.stem
)
def test_presets_give_nothing_that_does_nothing(path, capsys):
    parse_config([f"--config={path}"])
    assert capsys.readouterr().err == ""


def test_points_have_no_labels(capsys):
    with pytest.raises(SystemExit):
        parse_config(["--dataset_name=spiral", "--label_column=label"])
    assert "the points 'spiral' have no labels" in capsys.readouterr().err


def test_every_setting_that_names_a_folder_or_a_file_is_marked_as_a_path():
    """By its help: a new one that says folder or file is either a path or a name inside another folder."""
    names = {item.name for item in dataclasses.fields(TrainingConfig) if item.metadata["is_path"]}
    by_help = {
        item.name
        for item in dataclasses.fields(TrainingConfig)
        if re.search(r"\b([Ff]olders?|[Ff]iles?|transformers vision model)\b", item.metadata["help"])
    }
    assert by_help - names <= {"logging_dir", "hub_model_id", "overwrite_output_dir", "dataset_split"}
    assert names <= by_help
