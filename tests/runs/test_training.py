"""The training script in processes of its own, on the real digits with a tiny network."""

import hashlib
import json
import re
import shutil

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

import evaluate
from common import ROOT, run_training
from ddpm_from_scratch import (
    DDPMFromScratchPipeline,
    DDPMFromScratchScheduler,
    FewStepScheduler,
    model_config,
)
from ddpm_from_scratch.data.datasets import load_digits
from faults import NetworksAtTheEnd
from runs import TINY, Run

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
TWO_PROCESSES = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone")


def digest(folder, name=WEIGHTS):
    return hashlib.sha256((folder / name).read_bytes()).hexdigest()


def check_refused(done, names):
    """One line on standard error that names what is wrong, status 2, and no network built."""
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if "error" in line]
    assert len(lines) == 1 and names in lines[0], done.stderr
    assert "parameters" not in done.stdout


def log_rows(folder):
    return [json.loads(line) for line in (folder / "logs" / "metrics.jsonl").read_text().splitlines()]


def test_run_leaves_what_the_readme_promises(tiny_run):
    for name in (
        "model_index.json",
        WEIGHTS,
        "unet/config.json",
        "scheduler/scheduler_config.json",
        "README.md",
        "results.json",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "samples.png",
        "loss.png",
    ):
        assert (tiny_run / name).is_file(), name
    for name in ("samples.png", "loss.png"):
        with Image.open(tiny_run / name) as picture:
            assert min(picture.size) > 90
    assert sorted(path.name for path in tiny_run.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    assert not [path for path in tiny_run.rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".pth")]


def test_results_and_card_hold_the_measured_figures(tiny_run):
    results = json.loads((tiny_run / "results.json").read_text())
    evaluation = results["evaluation"]
    assert evaluation["num_samples"] == 8 and evaluation["network_evaluations"] == 10
    assert evaluation["sliced_w2"] > evaluation["sliced_w2_floor"] > 0
    card = (tiny_run / "README.md").read_text()
    for key in ("sliced_w2", "frechet_distance_digit_classifier"):
        assert f"{evaluation[key]:.4f}" in card
    assert "not FID" in card and "model-index" in card and "trust_remote_code" in card and "--seed=3" in card
    assert "AdamW, learning rate 0.0001, cosine" in card


def test_averaged_and_raw_weights_differ_and_both_load(tiny_run):
    averaged, raw = (DDPMFromScratchPipeline.from_pretrained(tiny_run, variant=v) for v in (None, "non_ema"))
    pairs = list(zip(averaged.unet.parameters(), raw.unet.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in pairs) and all(a.dtype == torch.float32 for a, _ in pairs)


def test_stock_diffusers_gives_the_same_images_without_the_package(tiny_run, tmp_path, run_here):
    """In a fresh process in which importing the package fails."""
    code = (
        "import sys; sys.modules['ddpm_from_scratch'] = None\n"
        "import numpy, torch\nfrom diffusers import DiffusionPipeline\n"
        f"pipe = DiffusionPipeline.from_pretrained({str(tiny_run)!r})\n"
        "images = pipe(2, generator=torch.Generator().manual_seed(0), num_inference_steps=10, "
        "output_type='np').images\n"
        f"print(type(pipe).__name__, "
        f"type(pipe.scheduler).__name__)\nnumpy.save({str(tmp_path / 'stock.npy')!r}, images)\n"
    )
    done = run_here("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["DDPMPipeline", "DDPMScheduler"] and "Traceback" not in done.stderr
    assert "not expected" not in done.stderr  # no key that stock does not know
    ours = DDPMFromScratchPipeline.from_pretrained(tiny_run)
    assert type(ours.scheduler) is FewStepScheduler
    ours.scheduler = DDPMFromScratchScheduler.from_config(ours.scheduler.config)
    images = ours(2, torch.Generator().manual_seed(0), 10, output_type="np").images
    np.testing.assert_allclose(
        np.load(tmp_path / "stock.npy"), images, rtol=0, atol=1e-5
    )  # two mappings of one file
    assert type(DiffusionPipeline.from_pretrained(tiny_run).scheduler).__name__ == "DDPMScheduler"


def test_same_command_twice_gives_the_same_weights_and_another_seed_others(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_training(tmp_path / name, f"--seed={seed}")
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


def test_resumed_run_equals_the_straight_one(tmp_path):
    flags = (
        "--use_ema",
        "--optimizer=muon",
        "--max_train_steps=6",
        "--checkpointing_steps=3",
        "--num_epochs=99",
    )
    run_training(tmp_path / "straight", *flags)
    run_training(tmp_path / "resumed", *flags)
    for name in (WEIGHTS, "model_index.json"):
        (tmp_path / "resumed" / name).unlink()
    checkpoint = tmp_path / "resumed" / "checkpoint-3"
    run_training(tmp_path / "resumed", *flags, f"--resume_from_checkpoint={checkpoint}")
    for name in (WEIGHTS, "unet/diffusion_pytorch_model.non_ema.safetensors"):
        assert digest(tmp_path / "straight", name) == digest(tmp_path / "resumed", name)
    assert [row["step"] for row in log_rows(tmp_path / "resumed")] == [1, 2, 3, 4, 5, 6]


def test_digits_from_an_npz_and_from_a_csv_give_the_weights_of_the_built_in_ones(tmp_path):
    images, labels, _, _ = load_digits()
    numbers = ((images[:, 0] + 1) * 8).round().to(torch.uint8).numpy()
    np.savez(tmp_path / "digits.npz", images=numbers, labels=labels.numpy())
    table = np.concatenate([labels.numpy()[:, None], numbers.reshape(len(numbers), -1)], axis=1)
    names = ",".join(["label", *(f"pixel{number}" for number in range(64))])
    np.savetxt(tmp_path / "digits.csv", table, fmt="%d", delimiter=",", header=names, comments="")
    (tmp_path / "range.yaml").write_text("value_range: [0, 16]\n")
    common = ("--label_column=label", "--random_flip", "--variance_type=learned_range", "--vlb_weight=0.1")
    of_file = (*common, "--resolution=8", f"--config={tmp_path / 'range.yaml'}")
    run_training(tmp_path / "built_in", *common)
    for ending in ("npz", "csv"):
        data = [f"--train_data_dir={tmp_path}/digits.{ending}"]
        run_training(tmp_path / ending, *of_file, data=data)
        assert digest(tmp_path / ending) == digest(tmp_path / "built_in")


def test_a_run_on_floats_resumes_exactly_and_its_pipeline_can_be_judged(tmp_path, capfd):
    generator = np.random.default_rng(0)
    for name, count in (("train", 24), ("unseen", 12)):
        np.save(tmp_path / f"{name}.npy", generator.normal(0, 300, (count, 2, 8, 8)).astype(np.float32))
    data = [f"--train_data_dir={tmp_path}/train.npy"]
    flags = ("--channels=2", "--resolution=8")
    refused = run_training(tmp_path / "refused", *flags, data=data, check=False)
    check_refused(refused, "--value_range LOW HIGH")
    flags += ("--value_range", "-2000", "2000")
    run_training(tmp_path / "straight", *flags, data=data)
    run_training(tmp_path / "parts", *flags, "--max_train_steps=2", data=data)
    resume = ("--resume_from_checkpoint=latest", "--allow_recipe_change")
    run_training(tmp_path / "parts", *flags, *resume, data=data)
    assert digest(tmp_path / "parts") == digest(tmp_path / "straight")
    other = run_training(
        tmp_path / "parts", *flags[:2], *resume, "--value_range", "-3000", "3000", data=data, check=False
    )
    check_refused(other, "value_range")
    status = evaluate.main(
        [str(tmp_path / "straight"), *data, "--value_range", "-2000", "2000", "--num_samples=12",
         "--features=pixels", "--num_inference_steps=2", f"--reference_data_dir={tmp_path}/unseen.npy",
         "--likelihood"]
    )  # fmt: skip
    assert status == 0 and "nats" in capfd.readouterr().out


def test_checkpoint_and_sample_frequency_change_nothing(tmp_path):
    run_training(tmp_path / "quiet", "--checkpointing_steps=100")
    run_training(
        tmp_path / "busy",
        "--checkpointing_steps=1",
        "--checkpoints_total_limit=1",
        "--save_images_epochs=1",
        "--train_batch_size=16",
    )
    assert digest(tmp_path / "quiet") == digest(tmp_path / "busy")
    assert [path.name for path in (tmp_path / "busy").glob("checkpoint-*")] == ["checkpoint-4"]


def test_learning_rate_is_counted_in_updates(tmp_path):
    curves = []
    for steps in (1, 2, 4):
        folder = tmp_path / str(steps)
        run_training(
            folder,
            f"--gradient_accumulation_steps={steps}",
            "--max_train_steps=5",
        )
        curves.append([row["lr"] for row in log_rows(folder)])
    assert curves[0] == curves[1] == curves[2]
    assert (
        curves[0][0] == pytest.approx(5e-5)
        and curves[0][1] == pytest.approx(1e-4)
        and curves[0][-1] == pytest.approx(0, abs=1e-12)
    )


def test_accumulated_batches_equal_one_large_batch(tmp_path):
    """Same samples; the noise has other streams, so the losses agree only on average."""
    run_training(tmp_path / "one", "--train_batch_size=64", "--max_train_steps=8")
    run_training(
        tmp_path / "four", "--train_batch_size=16", "--gradient_accumulation_steps=4", "--max_train_steps=8"
    )
    one, four = ([row["loss"] for row in log_rows(tmp_path / name)] for name in ("one", "four"))
    assert np.mean(one) == pytest.approx(np.mean(four), rel=0.1)


def test_two_processes_train_and_agree_with_themselves(tmp_path):
    for name in ("a", "b"):
        run_training(tmp_path / name, launcher=TWO_PROCESSES if name == "a" else (), processes=2)
    results = json.loads((tmp_path / "a" / "results.json").read_text())
    assert results["training"]["num_processes"] == 2
    assert results["training"]["samples_seen"] == 4 * 16 * 2
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert [row["lr"] for row in log_rows(tmp_path / "a")][:2] == pytest.approx([5e-5, 1e-4])


def test_no_network_outlives_the_process_group(tmp_path):
    """Or it joins a thread that may be waiting for the GIL: one run of some 300 then never ended."""
    run_training(tmp_path / "run", processes=2, faults=[NetworksAtTheEnd(str(tmp_path / "alive"))])
    assert (tmp_path / "alive").read_text().split() == ["0", "0"]


def test_bfloat16_trains_and_saves_float32(tmp_path):
    run_training(
        tmp_path / "run",
        "--mixed_precision=bf16",
        "--use_ema",
        "--max_train_steps=20",
        "--learning_rate=1e-3",
    )
    losses = [row["loss"] for row in log_rows(tmp_path / "run")]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    pipeline = DDPMFromScratchPipeline.from_pretrained(tmp_path / "run")
    assert pipeline.unet.dtype == torch.float32
    assert (
        json.loads((tmp_path / "run" / "results.json").read_text())["training"]["mixed_precision"] == "bf16"
    )


def test_learned_variances_labels_and_loss_aware_timesteps_train_resume_and_load(tmp_path, monkeypatch):
    """Every objective at once; T = 2, so that the sampler has its ten losses for each timestep at once."""
    flags = (
        "--label_column=label",
        "--label_dropout=0.2",
        "--guidance_scale=2",
        "--variance_type=learned_range",
        "--timestep_sampling=loss_aware",
        "--loss_weighting=min_snr",
        "--evaluation_samples=8",
        "--ddpm_num_steps=2",
        "--max_train_steps=6",
        "--checkpointing_steps=3",
    )
    run_training(tmp_path / "straight", *flags)
    shutil.copytree(tmp_path / "straight", tmp_path / "run")
    run_training(tmp_path / "run", *flags, "--resume_from_checkpoint=checkpoint-3")
    assert digest(tmp_path / "straight") == digest(tmp_path / "run")
    state = load_file(tmp_path / "run" / "checkpoint-6" / "timesteps.safetensors")
    assert state["counts"].sum() == 6 * 16
    pipeline = DDPMFromScratchPipeline.from_pretrained(tmp_path / "run")
    assert pipeline.unet.config.out_channels == 2 and pipeline.unet.config.num_class_embeds == 11
    images = pipeline(2, class_labels=[3, 7], num_inference_steps=2, guidance_scale=3.0).images
    assert len(images) == 2
    card = (tmp_path / "run" / "README.md").read_text()
    anywhere, example, _ = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert "class_labels=0, guidance_scale=2.0" in example
    assert "class_labels=[0, 0, 0, 0])" in anywhere and "trust_remote_code" not in anywhere
    monkeypatch.chdir(tmp_path)
    namespace = {}
    exec(example, namespace)
    assert len(namespace["images"]) == 4


def test_loss_aware_timesteps_see_the_losses_of_all_processes(tmp_path):
    run_training(tmp_path / "run", "--timestep_sampling=loss_aware", processes=2)
    state = load_file(tmp_path / "run" / "checkpoint-4" / "timesteps.safetensors")
    assert state["counts"].sum() == 4 * 16 * 2


def test_points_train_from_the_preset(tmp_path):
    run_training(
        tmp_path / "roll",
        f"--config={ROOT / 'training' / 'configs' / 'swiss_roll.yaml'}",
        "--dataset_name=swiss_roll",
        "--model_config_name_or_path=points",
        "--evaluation_samples=100",
        "--train_batch_size=64",
        "--eval_batch_size=1000",
    )
    pipeline = DDPMFromScratchPipeline.from_pretrained(tmp_path / "roll")
    assert pipeline(5, num_inference_steps=3).images.shape == (5, 2)
    assert json.loads((tmp_path / "roll" / "results.json").read_text())["evaluation"]["sliced_w2"] > 0


@pytest.fixture
def image_folder(tmp_path):
    generator = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for index in range(4):
        pixels = generator.integers(0, 255, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
    return tmp_path / "images"


def train_on_folder(folder, output_dir, *flags, check=True):
    return run_training(
        output_dir,
        "--resolution=16",
        f"--cache_dir={output_dir.parent / 'cache'}",
        *flags,
        data=(f"--train_data_dir={folder}",),
        check=check,
    )


@pytest.mark.parametrize("how", [(), ("--streaming",)], ids=["in memory", "stream"])
def test_image_folder_trains_with_tensorboard(image_folder, tmp_path, how):
    train_on_folder(image_folder, tmp_path / "run", "--logger=tensorboard", "--random_flip", *how)
    assert list((tmp_path / "run" / "logs").rglob("events.out.tfevents.*"))
    pipeline = DDPMFromScratchPipeline.from_pretrained(tmp_path / "run")
    (image,) = pipeline(1, num_inference_steps=2).images
    assert image.size == (16, 16) and image.mode == "RGB"


def test_stock_readme_command_trains(image_folder, tmp_path):
    """The flags of diffusers' README as they stand; behind them, what makes a run of hours one of seconds."""
    stock = """--resolution=64 --center_crop --random_flip --train_batch_size=16 --num_epochs=100
        --gradient_accumulation_steps=1 --use_ema --learning_rate=1e-4 --lr_warmup_steps=500
        --mixed_precision=no""".split()
    # Without attention, which takes most of the time at 64 pixels.
    network = model_config(
        "tiny", channels=3, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2
    )
    (tmp_path / "unet.json").write_text(json.dumps(network | {"add_attention": False}))
    small = (
        f"--model_config_name_or_path={tmp_path / 'unet.json'}",
        "--ddpm_num_inference_steps=2",
        "--eval_batch_size=2",
    )
    argv = [f"--train_data_dir={image_folder}", f"--output_dir={tmp_path / 'run'}", *stock, *small]
    argv.append(f"--cache_dir={tmp_path / 'cache'}")
    done = Run(argv).wait()
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["training"]["updates"] == 100 * 4 / 16
    # Said, because a run that is all warm-up learns little; half way up, to 24 of 500.
    assert "--lr_warmup_steps is 500, but the run has 25 updates" in done.stderr and " 5% " in done.stderr
    assert DDPMFromScratchPipeline.from_pretrained(tmp_path / "run").unet.config.sample_size == 64


def test_image_folder_is_judged_by_the_features_that_are_asked_for(image_folder, tmp_path):
    for index in range(4, 8):  # eight images, to be parted in two
        shutil.copy(image_folder / "0.png", image_folder / f"{index}.png")
    flags = ("--evaluation_samples=4", "--evaluation_features=pixels")
    train_on_folder(image_folder, tmp_path / "run", *flags)
    evaluation = json.loads((tmp_path / "run" / "results.json").read_text())["evaluation"]
    assert (
        evaluation["frechet_distance_pixels"] > 0 and "training samples themselves" in evaluation["reference"]
    )


def test_features_that_cannot_be_had_cost_no_training(image_folder, tmp_path):
    flags = ("--evaluation_samples=4", "--evaluation_features=nobody/nothing")
    check_refused(train_on_folder(image_folder, tmp_path / "run", *flags, check=False), "nobody/nothing")


@pytest.mark.parametrize(
    ("damage", "flags", "names"),
    [
        ("image", [], "2.png"),
        ("folder", [], "--train_data_dir"),
        (None, ["--image_column=picture"], "--image_column"),
        (None, ["--resolution=15"], "multiple of 2"),
    ],
)
def test_data_that_cannot_be_used_are_named_before_the_model_is_built(
    image_folder, tmp_path, damage, flags, names
):
    if damage == "image":
        (image_folder / "2.png").write_bytes((image_folder / "2.png").read_bytes()[:99])
    folder = tmp_path / "nowhere" if damage == "folder" else image_folder
    check_refused(train_on_folder(folder, tmp_path / "run", *flags, check=False), names)


BAD_RUNS = {
    "model": (["--model_config_name_or_path=unknown"], "--model_config_name_or_path"),
    "label": (["--label_column=colour"], "--label_column"),
    "resume": (["--resume_from_checkpoint=checkpoint-7"], "no such folder"),
    "resolution": (["--resolution=32"], "--resolution 8"),
    "kind of model": (["--model_config_name_or_path=points"], "UNet2DModel"),
}


@pytest.mark.parametrize("name", BAD_RUNS)
def test_what_cannot_be_trained_is_one_line_and_status_2(tmp_path, name):
    flags, names = BAD_RUNS[name]
    check_refused(run_training(tmp_path / "run", *flags, check=False), names)
    assert not (tmp_path / "run" / "model_index.json").exists()


def test_used_folder_is_refused_without_the_flag(tiny_run):
    before = digest(tiny_run)
    done = run_training(tiny_run, check=False)
    assert done.returncode == 2 and "--overwrite_output_dir" in done.stderr and digest(tiny_run) == before


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_damaged_checkpoint_is_named(tiny_run, tmp_path, file):
    shutil.copytree(tiny_run, tmp_path / "run")
    victim = tmp_path / "run" / "checkpoint-4" / file
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    done = run_training(tmp_path / "run", f"--resume_from_checkpoint={victim.parent}", check=False)
    assert done.returncode == 2 and file in done.stderr and "damaged" in done.stderr


@pytest.mark.parametrize("spelling", [["--hub_token=hf_canary"], ["--hub-token", "hf_canary"]])
def test_no_token_in_any_file(tmp_path, spelling):
    run_training(tmp_path / "run", *spelling, "--checkpointing_steps=2")
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or b"hf_canary" not in path.read_bytes(), path


def test_network_stays_in_half_precision_after_saving_and_sampling(tmp_path, run_here):
    """Unwrapping a prepared network must not take its autocast away; seen on a layer inside it."""
    flags = [
        *TINY,
        "--dataset_name=digits",
        f"--output_dir={tmp_path}",
        "--mixed_precision=bf16",
        "--use_ema",
    ]
    code = f"""
import torch
from pathlib import Path
from accelerate import Accelerator
from ddpm_from_scratch.training.config import parse_config
from ddpm_from_scratch.training.prepare import choose_model_and_data
from ddpm_from_scratch.training.trainer import Trainer
config = parse_config({flags!r})
trainer = Trainer(config, *choose_model_and_data(config), Accelerator(mixed_precision="bf16"))
trainer.pipeline(); trainer.export(); trainer.save_checkpoint()
trainer.save_samples(Path(config.output_dir) / "x.png")
seen = []
middle = trainer.state.network.mid_block
middle.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
trainer.run()
assert set(seen) == {{torch.bfloat16}}, seen
assert all(p.dtype == torch.float32 for p in trainer.state.ema.tensors.values())
"""
    done = run_here("-c", code)
    assert done.returncode == 0, done.stderr[-2000:]


def test_resuming_with_another_recipe_is_refused_and_lists_it(tiny_run):
    done = run_training(
        tiny_run, "--resume_from_checkpoint=latest", "--seed=3", "--train_batch_size=8", check=False
    )
    check_refused(done, "train_batch_size: 16 -> 8")


def test_a_typo_does_not_cost_the_earlier_run(tiny_run):
    before = digest(tiny_run)
    flags = ("--overwrite_output_dir", "--label_column=colour")
    check_refused(run_training(tiny_run, *flags, check=False), "--label_column")
    assert digest(tiny_run) == before and (tiny_run / "checkpoint-4").exists()


def test_files_of_other_origin_stay(tmp_path):
    (tmp_path / "run" / "samples").mkdir(parents=True)
    for name in ("README.md", "samples/photo.png"):
        (tmp_path / "run" / name).write_text("mine")
    run_training(
        tmp_path / "run",
        "--overwrite_output_dir",
        "--learning_rate=1e-8",
        "--lr_scheduler=polynomial",
        check=False,
    )
    assert (tmp_path / "run" / "README.md").read_text() == "mine"
    run_training(tmp_path / "run", "--overwrite_output_dir")
    assert (tmp_path / "run" / "samples" / "photo.png").read_text() == "mine"


def test_a_schedule_without_a_value_is_named(tmp_path):
    flags = ("--lr_scheduler=polynomial", "--lr_warmup_steps=4")
    check_refused(run_training(tmp_path / "run", *flags, check=False), "--lr_scheduler polynomial")


def test_later_checkpoints_are_set_aside_when_an_earlier_one_is_resumed(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    flags = ("--use_ema", "--prediction_type=v_prediction", "--seed=3", "--checkpointing_steps=1")
    done = run_training(tmp_path / "run", *flags, "--resume_from_checkpoint=checkpoint-2")
    assert "checkpoint-4 is no longer of this run" in done.stderr
    assert (tmp_path / "run" / "superseded-checkpoint-4").is_dir()
    names = sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))
    assert names == ["checkpoint-2", "checkpoint-3", "checkpoint-4"] and digest(tmp_path / "run") == digest(
        tiny_run
    )
