"""Every flag of diffusers' script train_unconditional.py is taken.

The list is from its source at commit 58eb52c of August 2026, as the source packages of releases have no
examples: name, kind, default, a value to try, and the words that it may be.
"""

import pytest

from ddpm_from_scratch.training.config import TrainingConfig, parse_config

FLAGS = [
    ("dataset_name", "str", None, "me/cats", ()),
    ("dataset_config_name", "str", None, "small", ()),
    ("model_config_name_or_path", "str", None, "me/unet", ()),
    ("train_data_dir", "str", None, "photos", ()),
    ("output_dir", "str", "ddpm-model-64", "out", ()),
    ("overwrite_output_dir", "switch", False, None, ()),
    ("cache_dir", "str", None, "cache", ()),
    ("resolution", "int", 64, "32", ()),
    ("center_crop", "switch", False, None, ()),
    ("random_flip", "switch", False, None, ()),
    ("train_batch_size", "int", 16, "4", ()),
    ("eval_batch_size", "int", 16, "9", ()),
    ("dataloader_num_workers", "int", 0, "2", ()),
    ("num_epochs", "int", 100, "3", ()),
    ("save_images_epochs", "int", 10, "5", ()),
    ("save_model_epochs", "int", 10, "6", ()),
    ("gradient_accumulation_steps", "int", 1, "2", ()),
    ("learning_rate", "float", 0.0001, "0.01", ()),
    ("lr_scheduler", "str", "cosine", "polynomial", ()),
    ("lr_warmup_steps", "int", 500, "7", ()),
    ("adam_beta1", "float", 0.95, "0.9", ()),
    ("adam_beta2", "float", 0.999, "0.99", ()),
    ("adam_weight_decay", "float", 1e-06, "0.1", ()),
    ("adam_epsilon", "float", 1e-08, "1e-9", ()),
    ("use_ema", "switch", False, None, ()),
    ("ema_inv_gamma", "float", 1.0, "2", ()),
    ("ema_power", "float", 0.75, "0.7", ()),
    ("ema_max_decay", "float", 0.9999, "0.99", ()),
    ("push_to_hub", "switch", False, None, ()),
    ("hub_token", "str", None, "secret", ()),
    ("hub_model_id", "str", None, "me/cats", ()),
    ("hub_private_repo", "switch", False, None, ()),
    ("logger", "str", "tensorboard", "wandb", ("tensorboard", "wandb")),
    ("logging_dir", "str", "logs", "tb", ()),
    ("local_rank", "int", -1, "0", ()),
    ("mixed_precision", "str", "no", "fp16", ("no", "fp16", "bf16")),
    ("prediction_type", "str", "epsilon", "sample", ("epsilon", "sample")),
    ("ddpm_num_steps", "int", 1000, "500", ()),
    ("ddpm_num_inference_steps", "int", 1000, "100", ()),
    ("ddpm_beta_schedule", "str", "linear", "squaredcos_cap_v2", ()),
    ("checkpointing_steps", "int", 500, "9", ()),
    ("checkpoints_total_limit", "int", None, "2", ()),
    ("resume_from_checkpoint", "str", None, "latest", ()),
    ("enable_xformers_memory_efficient_attention", "switch", False, None, ()),
    ("preserve_input_precision", "switch", False, None, ()),
]
# Where ours has another default, and why.
OTHER_DEFAULTS = {
    "resolution": None,  # the network's, else 64
    "ddpm_num_inference_steps": None,  # the ten steps of the few-step sampler do as well as its 1,000
    "logger": "jsonl",  # always written, and needs no package
    "mixed_precision": None,  # the launcher's, else no: the same without a launcher
}
# What is taken and has no effect, with the reason that is said.
IGNORED = {
    "local_rank": "the launcher sets the rank",
    "enable_xformers_memory_efficient_attention": "PyTorch's own attention",
    "preserve_input_precision": "16 bits and more are read as fine as they are",
}
# What a flag needs beside it, to have an effect.
BESIDE = {
    **dict.fromkeys(("ema_inv_gamma", "ema_power", "ema_max_decay"), ["--use_ema"]),
    **dict.fromkeys(("hub_token", "hub_private_repo"), ["--push_to_hub"]),
}


@pytest.mark.parametrize(
    ("name", "kind", "default", "value", "choices"), FLAGS, ids=lambda item: str(item)[:20]
)
def test_a_flag_of_the_stock_script_is_followed_or_said_to_be_ignored(
    name, kind, default, value, choices, capsys
):
    data = [] if name in ("dataset_name", "train_data_dir") else ["--dataset_name=me/flowers"]
    flag = f"--{name}" if kind == "switch" else f"--{name}={value}"
    config = parse_config([*data, *BESIDE.get(name, ()), flag])
    wanted = {"switch": lambda _: True, "str": str, "int": int, "float": float}[kind](value)
    said = capsys.readouterr().err
    assert getattr(config, name) == wanted
    if name in IGNORED:
        assert (
            said.count("\n") == 1
            and f"--{name} is given, but has no effect" in said
            and IGNORED[name] in said
        )
    else:
        assert said == ""
    assert (
        getattr(TrainingConfig(dataset_name="digits"), name) == OTHER_DEFAULTS.get(name, default) or not data
    )
    for word in choices:
        assert getattr(parse_config([*data, f"--{name}={word}"]), name) == word


def test_the_list_is_whole_and_every_default_is_accounted_for():
    assert len(FLAGS) == len({name for name, *_ in FLAGS}) == 45
    ours = TrainingConfig(dataset_name="me/flowers")
    differ = {name for name, _, default, *_ in FLAGS if getattr(ours, name) != default} - {"dataset_name"}
    assert differ == set(OTHER_DEFAULTS)


_COMMON = (
    " --resolution=64 --center_crop --random_flip --train_batch_size=16 --num_epochs=100 --use_ema"
    " --gradient_accumulation_steps=1 --learning_rate=1e-4 --lr_warmup_steps=500 --mixed_precision="
)


@pytest.mark.parametrize(
    "command",
    [
        "--dataset_name=huggan/flowers-102-categories --output_dir=ddpm-ema-flowers-64 --push_to_hub"
        + _COMMON
        + "no",
        "--dataset_name=huggan/pokemon --output_dir=ddpm-ema-pokemon-64 --logger=wandb" + _COMMON + "fp16",
        "--train_data_dir photos",
    ],
)
def test_the_commands_of_its_readme_run_without_a_word(command, capsys):
    parse_config(command.split())
    assert capsys.readouterr().err == ""
