"""DeepSpeed's ZeRO: the same training as with copies; it skips, resumes and shares out as promised."""

import importlib.util
import json
import signal
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMPipeline

from common import run_training
from ddpm_from_scratch.runtime.errors import ConfigError
from ddpm_from_scratch.training.config import TrainingConfig
from ddpm_from_scratch.training.updates import zero_plan
from ddpm_from_scratch.training.updates.zero_plan import check_package, engine_section
from faults import AtUpdate, NonFinite, ZeroOnCpu
from runs import digest

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None,
    reason="DeepSpeed is not installed: pip install -e '.[deepspeed]'",
)
STAGES = pytest.mark.parametrize("stage", [1, 2])
# With a small epsilon, Adam turns a rounding error in a gradient near zero into a whole step.
FLAGS = ("--use_ema", "--gradient_accumulation_steps=2", "--adam_epsilon=1e-4")
VARIANTS = ("", ".non_ema")


def zero_run(folder, *flags, stage, faults=(), report=None, **options):
    faults = [ZeroOnCpu(stage, report and str(report)), *faults]
    return run_training(folder, *FLAGS, *flags, processes=2, faults=faults, **options)


def digests(folder):
    return [digest(folder, f"unet/diffusion_pytorch_model{variant}.safetensors") for variant in VARIANTS]


def assert_same_training(first, second, atol):
    for variant in ("", "non_ema"):
        networks = [
            DDPMPipeline.from_pretrained(folder, variant=variant or None).unet for folder in (first, second)
        ]
        for one, other in zip(*(network.parameters() for network in networks), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The folders of finished runs by stage, 0 for copies, and what the first process held."""
    folder = tmp_path_factory.mktemp("zero")
    run_training(folder / "0", *FLAGS, processes=2)
    for stage in (1, 2):
        zero_run(folder / str(stage), stage=stage, report=folder / f"{stage}.json")
    return folder


@needs_deepspeed
@STAGES
def test_state_and_average_are_shared_out(straight, stage):
    seen = json.loads((straight / f"{stage}.json").read_text())
    assert seen["stage"] == stage
    assert seen["state"] < 1.01 * seen["weights"]  # two moments, half of each
    assert seen["average"] < 0.51 * seen["weights"]
    assert seen["bucket"] == seen["weights"]  # and not the engine's two gigabytes


@needs_deepspeed
@STAGES
def test_shares_and_copies_are_the_same_training(straight, stage):
    assert_same_training(straight / str(stage), straight / "0", atol=1e-7)


@needs_deepspeed
@STAGES
def test_stopped_and_resumed_equals_straight(straight, stage, tmp_path):
    stopped = zero_run(
        tmp_path / "run", stage=stage, check=False, faults=[AtUpdate(2, signal.SIGTERM, rank=1)]
    )
    assert stopped.returncode == 75 and (tmp_path / "run" / "checkpoint-2").is_dir(), stopped.stderr
    zero_run(tmp_path / "run", "--resume_from_checkpoint=latest", stage=stage)
    assert digests(tmp_path / "run") == digests(straight / str(stage))


@needs_deepspeed
def test_a_checkpoint_is_that_of_any_other_run(straight, tmp_path):
    """Stopped under ZeRO, resumed with copies, and the reverse: as trained in one go."""
    stop = [AtUpdate(2, signal.SIGTERM)]
    zero_run(tmp_path / "first", stage=2, check=False, faults=stop)
    run_training(tmp_path / "first", *FLAGS, "--resume_from_checkpoint=latest", processes=2)
    run_training(tmp_path / "second", *FLAGS, processes=2, check=False, faults=stop)
    zero_run(tmp_path / "second", "--resume_from_checkpoint=latest", stage=2)
    for folder in ("first", "second"):
        assert_same_training(tmp_path / folder, straight / "0", atol=1e-7)


@needs_deepspeed
@pytest.mark.parametrize(("stage", "what"), [(1, "gradient"), (2, "gradient"), (2, "loss alone")])
def test_an_update_that_is_not_finite_is_skipped_in_all_processes(tmp_path, stage, what):
    """And changes nothing: as a run in which it is skipped with copies."""
    bad = [NonFinite([2], what, float("inf"), rank=1)]
    done = zero_run(tmp_path / "zero", stage=stage, faults=bad)
    assert done.stderr.count("update 2 skipped") == 1, done.stderr
    run_training(tmp_path / "copies", *FLAGS, processes=2, faults=bad)
    assert_same_training(tmp_path / "zero", tmp_path / "copies", atol=1e-7)


@needs_deepspeed
def test_the_gradient_is_clipped_as_with_copies(tmp_path):
    flags = ("--max_grad_norm=1e-3", "--max_train_steps=2")
    zero_run(tmp_path / "zero", *flags, stage=2)
    run_training(tmp_path / "copies", *FLAGS, *flags, processes=2)
    assert_same_training(tmp_path / "zero", tmp_path / "copies", atol=1e-7)
    run_training(tmp_path / "unclipped", *FLAGS, *flags, "--max_grad_norm=1e3", processes=2)
    with pytest.raises(AssertionError):
        assert_same_training(tmp_path / "zero", tmp_path / "unclipped", atol=1e-7)


@needs_deepspeed
def test_bfloat16_is_autocast_over_float32_weights(tmp_path):
    zero_run(tmp_path / "zero", "--mixed_precision=bf16", stage=2)
    run_training(tmp_path / "copies", *FLAGS, "--mixed_precision=bf16", processes=2)
    assert_same_training(tmp_path / "zero", tmp_path / "copies", atol=2e-6)
    weights = list(DDPMPipeline.from_pretrained(tmp_path / "zero").unet.parameters())
    assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in weights)


@needs_deepspeed
def test_muon_is_refused_because_it_needs_whole_matrices(tmp_path):
    done = zero_run(tmp_path / "run", "--optimizer=muon", stage=2, check=False)
    assert done.returncode == 2 and "DEEPSPEED shards them: use adamw" in done.stderr, done.stderr


def accelerator_of(precision="no", **written):
    """What Accelerate makes of a DeepSpeed configuration that a user wrote, without processes."""
    from accelerate.utils import DeepSpeedPlugin

    plan = {"zero_optimization": {"stage": 2}} | written
    plugin = DeepSpeedPlugin(hf_ds_config=plan) if written else DeepSpeedPlugin(zero_stage=2)
    plugin.set_mixed_precision(precision)
    return SimpleNamespace(mixed_precision=precision, num_processes=2, deepspeed_plugin=plugin)


CONFIG = TrainingConfig(
    dataset_name="digits", max_grad_norm=1.0, train_batch_size=4, gradient_accumulation_steps=3
)


@pytest.fixture
def launched(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)


@needs_deepspeed
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_what_accelerate_writes_by_itself_is_followed(launched, precision):
    assert engine_section(accelerator_of(precision), CONFIG) == {"stage": 2}


@needs_deepspeed
def test_what_the_flags_say_may_be_said_again_and_buckets_chosen(launched):
    section = {"stage": 1, "reduce_bucket_size": 1000, "overlap_comm": True, "allgather_bucket_size": "auto",
               "offload_optimizer": None, "stage3_max_live_parameters": 10}  # fmt: skip
    accelerator = accelerator_of(
        zero_optimization=section, gradient_clipping=1.0, gradient_accumulation_steps=3,
        train_micro_batch_size_per_gpu=4, train_batch_size=24, wall_clock_breakdown=False,
        communication_data_type="fp32",
    )  # fmt: skip
    expected = {"stage": 1, "reduce_bucket_size": 1000, "overlap_comm": True}
    assert engine_section(accelerator, CONFIG) == expected


@needs_deepspeed
@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"zero_optimization": {"stage": 3}}, "zero_stage is 3, but must be 1 or 2"),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
            "offload_optimizer_device is 'cpu', but must be 'none'",
        ),
        ({"zero_optimization": {"stage": 2, "cpu_offload": True}}, "has 'cpu_offload'"),
        ({"precision": "fp16"}, "use bf16 or no"),
        ({"bf16": {"enabled": True, "bf16_optimizer_states": True}}, "has 'bf16_optimizer_states'"),
        ({"scheduler": {"type": "WarmupLR"}}, "has 'scheduler', which this trainer does not follow"),
        ({"gradient_clipping": 0.5}, "gradient_clipping is 0.5 .* --max_grad_norm makes it 1;"),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps is 4 .* makes it 3;"),
        ({"train_micro_batch_size_per_gpu": 8}, "train_micro_batch_size_per_gpu is 8 .* makes it 4;"),
        ({"train_batch_size": 12}, "train_batch_size is 12 .* makes it 24;"),
        ({"communication_data_type": "bf16"}, "has 'communication_data_type'"),
    ],
)
def test_a_configuration_that_is_not_followed_is_refused(launched, written, message):
    accelerator = accelerator_of(**{"steps_per_print": 10} | written)
    with pytest.raises(ConfigError, match=message):
        engine_section(accelerator, CONFIG)


@needs_deepspeed
def test_a_precision_against_the_flag_is_refused(launched):
    config = TrainingConfig(dataset_name="digits", mixed_precision="no")
    with pytest.raises(ConfigError, match="is 'no', but the DeepSpeed configuration makes it 'bf16'"):
        engine_section(accelerator_of("bf16"), config)


@needs_deepspeed
def test_processes_without_a_launcher_are_refused():
    with pytest.raises(ConfigError, match="accelerate launch, also a single one"):
        engine_section(accelerator_of(), CONFIG)


@needs_deepspeed
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CLIPPING", "0", "gradient_clipping is 0 .* makes it 1;"),
        ("ACCUMULATION_STEPS", "4", "gradient_accumulation_steps is 4 .* makes it 3;"),
    ],
)
def test_nested_keys_of_accelerate_are_compared_with_the_flags(monkeypatch, name, value, message):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    for allowed in ("1", "auto"):
        monkeypatch.setenv(f"ACCELERATE_GRADIENT_{name}", allowed)
        check_package(CONFIG)
    monkeypatch.setenv(f"ACCELERATE_GRADIENT_{name}", value)
    with pytest.raises(ConfigError, match=message):
        check_package(CONFIG)


def test_a_missing_or_old_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_package(CONFIG)  # was not asked for
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigError, match="not installed: pip install 'deepspeed>="):
        check_package(CONFIG)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(zero_plan, "compare_versions", lambda *_: False)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.15")
    with pytest.raises(ConfigError, match="DeepSpeed is 0.15"):
        check_package(CONFIG)
