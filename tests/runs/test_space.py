"""The page that samples in the browser: its network is the network, its steps are the scheduler's."""

import json
import re
import shutil
import subprocess

import pytest
import torch
from huggingface_hub import RepoCard

from common import ROOT
from ddpm_from_scratch import (
    DDPMFromScratchPipeline,
    DDPMFromScratchScheduler,
    FewStepScheduler,
    build_model,
    model_config,
)
from ddpm_from_scratch.networks.models import sample_shape
from loopback_hub import TOKEN, Fault, Repository
from pages import page_at_rest

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")
NETWORK = (ROOT / "src" / "ddpm_from_scratch" / "sharing" / "page" / "network.js").read_text()

# Evaluate the network once, and walk the whole chain with the same noise in each step, as the page would.
PROGRAM = """
import { readFileSync } from "node:fs";
import { makeNetwork, readSafetensors, reverseStep } from "./network.mjs";
const how = JSON.parse(readFileSync("how.json"));
const file = readFileSync("page/unet/diffusion_pytorch_model.safetensors");
const weights = readSafetensors(file.buffer.slice(file.byteOffset, file.byteOffset + file.length));
const settings = JSON.parse(readFileSync("page/settings.json"));
const network = makeNetwork(settings.config, weights);
let sample = Float32Array.from(how.sample);
const output = network(sample, how.timestep, how.label);
const estimates = [];
for (const step of settings.steps) {
  sample = reverseStep(
    network, sample, step, how.label, settings.null_label, how.guidance, () => 0.5, estimates,
  );
}
console.log(JSON.stringify([Array.from(output), Array.from(sample)]));
"""


def saved(folder, name, scheduler=None, null_class_label=None, **overrides):
    torch.manual_seed(0)
    model = build_model(model_config(name, **overrides)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # so that no bias is 0 and no scale is 1
    scheduler = scheduler or {}
    kind = FewStepScheduler if "calibration" in scheduler else DDPMFromScratchScheduler
    pipeline = DDPMFromScratchPipeline(model, kind(**scheduler), null_class_label)
    pipeline.save_pretrained(folder)
    return pipeline


def make_space(run_here, *arguments, **options):
    return run_here(ROOT / "training" / "make_space.py", *arguments, **options)


@needs_node
@pytest.mark.parametrize(
    ("name", "scheduler", "overrides"),
    [
        ("tiny", {}, {}),
        ("tiny", {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, {"channels": 3}),
        ("tiny", {"variance_type": "fixed_large"}, {"num_class_embeds": 3, "null_class_label": 2}),
        ("digits", {"beta_schedule": "sigmoid_alpha_bar", "prediction_type": "sample"}, {}),
        ("points", {"clip_sample": False}, {}),
        ("tiny", {"calibration": {}, "noise_level": 0.7, "noise_interval": [0, 600]}, {}),
        (
            "tiny",
            {"clip_sample_range": 2.0},
            {
                "downsample_padding": 0, "attention_head_dim": None, "resnet_time_scale_shift": "scale_shift",
                "flip_sin_to_cos": False, "freq_shift": 1, "layers_per_block": 2, "norm_eps": 1e-6,
                "sample_size": (8, 12), "mid_block_scale_factor": 2, "attn_norm_num_groups": 8,
            },
        ),
    ],
)  # fmt: skip
def test_the_page_computes_what_the_pipeline_computes(
    run_here, tmp_path, monkeypatch, name, scheduler, overrides
):
    pipeline = saved(tmp_path / "model", name, scheduler, **overrides)
    arguments = (tmp_path / "model", "--output_dir", tmp_path / "page", "--num_inference_steps", 4)
    done = make_space(run_here, *arguments)
    assert done.returncode == 0, done.stderr
    is_conditional = "num_class_embeds" in overrides
    how = {"timestep": 437, "label": 1 if is_conditional else None, "guidance": 2 if is_conditional else 1}
    sample = torch.randn(1, *sample_shape(pipeline.unet), generator=torch.Generator().manual_seed(1))
    (tmp_path / "how.json").write_text(json.dumps(how | {"sample": sample.flatten().tolist()}))
    (tmp_path / "network.mjs").write_text(NETWORK)
    (tmp_path / "program.mjs").write_text(PROGRAM)
    result = subprocess.run([NODE, "program.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    output, final = (torch.tensor(values) for values in json.loads(result.stdout))
    labels = {"class_labels": torch.tensor([1])} if is_conditional else {}
    with torch.no_grad():
        here = pipeline.unet(sample, 437, **labels).sample.flatten()
    assert torch.allclose(output, here, atol=1e-5)
    step = pipeline.scheduler.step
    constant = torch.full_like(sample, 0.5)
    monkeypatch.setattr(pipeline.scheduler, "step", lambda *given, **_: step(*given, variance_noise=constant))
    pipeline.set_progress_bar_config(disable=True)
    options = {"class_labels": 1, "guidance_scale": 2} if is_conditional else {}
    walked = pipeline(num_inference_steps=4, latents=sample, return_trajectory=True, **options).trajectory[-1]
    assert torch.allclose(final, walked.flatten(), atol=1e-4)


def test_a_space_is_made_and_pushed_by_one_command(run_here, loopback_hub, tmp_path):
    saved(tmp_path / "model", "tiny")
    code = "import sys; from ddpm_from_scratch import push_folder; push_folder(sys.argv[1], 'tiny')"
    assert run_here("-c", code, tmp_path / "model").returncode == 0
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / ".env").write_text(TOKEN)  # what else is there stays there
    done = make_space(run_here, "me/tiny", "--output_dir", tmp_path / "page", "--space_id", "tiny-space")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(f"pushed to {loopback_hub.url}/spaces/me/tiny-space")
    files = loopback_hub.repositories["spaces/me/tiny-space"].files()
    assert set(files) == {"README.md", "index.html", "network.js", "page.js", "settings.json"}
    card = RepoCard(files["README.md"].decode()).data
    assert card.sdk == "static" and card.models == ["me/tiny"] and card.title.startswith("tiny: ")
    settings = json.loads(files["settings.json"])
    commit = loopback_hub.repositories["me/tiny"].references["main"]
    assert settings["weights_url"] == (
        f"{loopback_hub.url}/me/tiny/resolve/{commit}/unet/diffusion_pytorch_model.safetensors"
    )
    assert len(settings["steps"]) == 100 and TOKEN not in str(files)


def test_what_the_page_cannot_run_is_one_line(run_here, tmp_path):
    """What it cannot run is in tests/unit/sharing/test_space.py."""
    saved(tmp_path / "model", "tiny", act_fn="gelu")
    done = make_space(run_here, tmp_path / "model", "--output_dir", tmp_path / "page")
    assert done.returncode == 2 and "act_fn 'gelu'" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "page").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["me/nothing"], 2, "cannot be loaded"),
        (["a/b/c"], 2, "cannot be loaded"),
        (["me/tiny", "--revision=v9"], 2, "cannot be loaded"),
        (["me/tiny", "--num_inference_steps=5000"], 2, "--num_inference_steps"),
        (["me/tiny", "--space_id=a/b/c"], 2, "a/b/c"),
        (["me/hidden"], 2, "is private"),
        (["me/busy"], 5, "cannot be fetched"),
    ],
)
def test_what_cannot_be_fetched_is_one_line(run_here, loopback_hub, tmp_path, arguments, status, message):
    saved(tmp_path / "model", "tiny")
    files = {
        path.relative_to(tmp_path / "model").as_posix(): path.read_bytes()
        for path in (tmp_path / "model").rglob("*.*")
    }
    for name in ("tiny", "hidden", "busy"):
        loopback_hub.repositories[f"me/{name}"] = Repository(private=name == "hidden")
        loopback_hub.repositories[f"me/{name}"].commit("main", files)
    loopback_hub.faults.append(Fault("GET /api/models/me/busy", 503, times=-1))
    done = make_space(run_here, *arguments, "--output_dir", tmp_path / "page")
    assert done.returncode == status and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_the_page_samples_in_a_browser(run_here, tmp_path):
    saved(tmp_path / "model", "tiny", num_class_embeds=3)
    arguments = (tmp_path / "model", "--output_dir", tmp_path / "page", "--num_inference_steps", 3)
    assert make_space(run_here, *arguments).returncode == 0
    page = page_at_rest(tmp_path / "page", tmp_path / "browser", "index.html?start")
    assert re.search(r'id="status"[^>]*>8 samples in 3 steps', page), page
    assert page.count("<canvas") == 8 and page.count("<option") == 3
