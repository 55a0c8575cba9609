"""The files for accelerate launch --config_file are what Accelerate understands."""

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType

from common import ROOT

FILES = sorted((ROOT / "training" / "accelerate_configs").glob("*.yaml"))
KINDS = {
    "one_gpu": DistributedType.NO,
    "ddp_8_gpus": DistributedType.MULTI_GPU,
    "fsdp_8_gpus": DistributedType.FSDP,
    "two_nodes": DistributedType.MULTI_GPU,
}


def test_there_is_a_file_for_each_kind_of_machine():
    assert {file.stem for file in FILES} == KINDS.keys()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_accelerate_loads_the_file_as_what_its_name_says(file):
    config = load_config_from_file(str(file))  # raises for an unknown key
    assert config.distributed_type == KINDS[file.stem]
    assert config.num_processes == {"one_gpu": 1, "two_nodes": 16}.get(file.stem, 8)
    assert config.num_machines == (2 if file.stem == "two_nodes" else 1)
    assert config.mixed_precision == "bf16"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_nested_settings_are_flags_of_accelerate_launch(file):
    # The loader looks at the outer keys only, and the launcher ignores a nested one that it does not know.
    known = vars(launch_command_parser().parse_args(["train.py"]))
    content = yaml.safe_load(file.read_text())
    nested = [key for value in content.values() if isinstance(value, dict) for key in value]
    assert [key for key in nested if key not in known] == []
