"""DeepSpeed's ZeRO: the same training as with copies; it skips, resumes and shares out as promised."""

import importlib.util
import json
import signal
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMPipeline

import zero
from config import TrainingConfig
from conftest import run_training
from errors import ConfigError
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


def plan_of(precision="no", **settings):
    plan = {"zero_optimization": {"stage": 2}, "gradient_clipping": "auto", "bf16": {}} | settings
    return SimpleNamespace(mixed_precision=precision, deepspeed_plugin=SimpleNamespace(deepspeed_config=plan))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"zero_optimization": {"stage": 3}}, "zero_stage is 3, but must be 1 or 2"),
        ({"zero_optimization": {}}, "zero_stage is 0"),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
            "offload_optimizer_device is 'cpu', but must be 'none'",
        ),
        ({"precision": "fp16"}, "use bf16 or no"),
        ({"scheduler": {"type": "WarmupLR"}}, "has 'scheduler', which flags of train.py decide"),
        ({"gradient_clipping": 0.5}, "gradient_clipping is 0.5"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused(settings, message):
    config = TrainingConfig(dataset_name="digits", max_grad_norm=1.0)
    zero.check_plan(plan_of(), config)
    zero.check_plan(plan_of(gradient_clipping=1.0), config)
    with pytest.raises(ConfigError, match=message):
        zero.check_plan(plan_of(**settings), config)


def test_a_missing_or_old_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    zero.check_installed()  # was not asked for
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigError, match="not installed: pip install 'deepspeed>="):
        zero.check_installed()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(zero, "compare_versions", lambda *_: False)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.15")
    with pytest.raises(ConfigError, match="DeepSpeed is 0.15"):
        zero.check_installed()
