"""Uploading, through the real huggingface_hub client, to a Hub on loopback."""

import json
import shutil
import textwrap

import pytest

from common import ROOT
from ddpm_from_scratch.sharing.results import RunRecord
from loopback_hub import READ_ONLY_TOKEN, TOKEN, Fault

NEEDED = {
    "model_index.json", "pipeline.py", "README.md", "results.json", "samples.png", "loss.png",
    "scheduler/scheduler_config.json", "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors",
}  # fmt: skip


@pytest.fixture
def publish(run_here, tiny_run):
    def run(*flags, folder=tiny_run, **options):
        return run_here(ROOT / "training" / "publish.py", folder, *flags, **options)

    return run


def fails(done, status, *texts):
    assert done.returncode == status and "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1 and all(text in lines[0] for text in texts), done.stderr


@pytest.mark.parametrize("private", [False, True])
def test_publishing_is_one_commit_of_the_needed_files(publish, loopback_hub, tiny_run, private):
    (tiny_run / "samples").mkdir(exist_ok=True)
    shutil.copy(tiny_run / "samples.png", tiny_run / "samples" / "step-1.png")  # as a longer run leaves
    done = publish("--repo_id=digits", *(["--private"] if private else []))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"pushed to {loopback_hub.url}/me/digits"
    repository = loopback_hub.repositories["me/digits"]
    assert repository.private is private and len(repository.commits) == 2  # the empty first one, and this
    assert set(repository.files()) == NEEDED
    for name, content in repository.files().items():
        assert content == (tiny_run / name).read_bytes(), name
    card = repository.files()["README.md"].decode()
    assert 'DDPMFromScratchPipeline.from_pretrained("me/digits")' in card and "model_name: digits" not in card
    assert json.loads(repository.files()["results.json"])["repo_id"] == "me/digits"


def test_a_card_that_is_written_after_publishing_keeps_the_repository(publish, tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    assert publish("--repo_id=digits", folder=folder).returncode == 0
    RunRecord.read(folder).with_calibration().write()
    assert json.loads((folder / "results.json").read_text())["repo_id"] == "me/digits"
    assert 'from_pretrained("me/digits")' in (folder / "README.md").read_text()


def test_a_second_push_replaces_what_is_no_longer_there(publish, run_here, loopback_hub, tiny_run, tmp_path):
    assert publish("--repo_id=digits").returncode == 0
    folder = tmp_path / "again"
    shutil.copytree(tiny_run, folder)
    (folder / "unet" / "diffusion_pytorch_model.non_ema.safetensors").unlink()
    (folder / "README.md").unlink()
    (folder / "results.json").unlink()
    done = publish("--repo_id=me/digits", folder=folder)
    assert done.returncode == 0, done.stderr
    files = loopback_hub.repositories["me/digits"].files()
    assert set(files) == NEEDED - {"unet/diffusion_pytorch_model.non_ema.safetensors", "results.json"}
    assert b"Measured quality" in files["README.md"], "the card that was there is kept"


def test_branches_and_tags(publish, loopback_hub):
    assert publish("--repo_id=digits", "--branch=dev", "--tag=v1").returncode == 0
    repository = loopback_hub.repositories["me/digits"]
    first = repository.references["v1"]
    assert repository.references["dev"] == first and repository.files("main") == {}
    assert set(repository.files("v1")) == NEEDED
    assert publish("--repo_id=digits", "--tag=v1").returncode == 0
    assert repository.references["main"] == repository.references["v1"] != first, "the tag moves"


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        ("POST /api/repos/create", 500),
        ("POST /api/models/me/digits/commit", 503),
        ("POST /api/models/me/digits/commit", "drop"),
        ("POST /api/models/me/digits/preupload", "drop"),
        ("GET /api/models/me/digits", 502),
        ("POST /api/models/me/digits/tag", 500),
        ("POST /api/models/me/digits/commit", "lost"),
    ],
)
def test_what_fails_on_the_way_is_tried_again(publish, loopback_hub, request_, kind):
    loopback_hub.faults.append(Fault(request_, kind))
    done = publish("--repo_id=digits", "--tag=v1")
    assert done.returncode == 0, done.stderr
    assert loopback_hub.faults[0].times == 0, "the fault did not strike"
    repository = loopback_hub.repositories["me/digits"]
    assert len(repository.commits) == 2 and set(repository.files()) == NEEDED


def test_a_tag_that_does_not_move_is_not_lost(publish, loopback_hub):
    assert publish("--repo_id=digits", "--tag=v1").returncode == 0
    for request in ("POST /api/models/me/digits/tag", "DELETE /api/models/me/digits/tag"):
        loopback_hub.faults[:] = [Fault(request, 400)]
        fails(publish("--repo_id=digits", "--tag=v1"), 5, "the commit is there, but not the tag 'v1'")
        assert "v1" in loopback_hub.repositories["me/digits"].references
    loopback_hub.faults.clear()
    fails(publish("--repo_id=digits", "--tag=a b"), 2, "'a b' can be no branch or tag")


def test_a_lost_answer_does_not_ask_to_delete_twice(publish, loopback_hub, tiny_run, tmp_path):
    assert publish("--repo_id=digits").returncode == 0
    folder = shutil.copytree(tiny_run, tmp_path / "again")
    (folder / "unet" / "diffusion_pytorch_model.non_ema.safetensors").unlink()
    loopback_hub.faults.append(Fault("POST /api/models/me/digits/commit", "lost"))
    assert publish("--repo_id=digits", folder=folder).returncode == 0
    assert len(loopback_hub.repositories["me/digits"].commits) == 3


def test_a_commit_that_never_gets_through_leaves_nothing(publish, loopback_hub):
    loopback_hub.faults.append(Fault("POST /api/models/me/digits/commit", "drop", times=-1))
    fails(publish("--repo_id=digits"), 5, "cannot be reached", "push again")
    assert loopback_hub.repositories["me/digits"].files() == {}


def test_what_the_hub_refuses_is_one_line(publish, loopback_hub, tiny_run, tmp_path):
    fails(publish(token=None), 5, "no token", "hf auth login")
    fails(publish(token="hf_wrong"), 5, "refuses the token")
    fails(publish(token=READ_ONLY_TOKEN), 5, "may not write to")
    fails(publish("--repo_id=a/b/c"), 2, "a/b/c")
    fails(publish(folder=tmp_path), 2, "holds no pipeline")
    assert loopback_hub.repositories == {}


# What huggingface_hub makes of the variables HF_HUB_OFFLINE and HF_ENDPOINT when it is imported.
WITH_CONSTANT = """
import runpy, sys
from huggingface_hub import constants
name, value, *sys.argv = sys.argv[1:]
setattr(constants, name, value)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("constant", "texts"),
    [
        (["HF_HUB_OFFLINE", "1"], ["HF_HUB_OFFLINE is set"]),
        (["ENDPOINT", "http://127.0.0.1:9"], ["cannot be reached", "127.0.0.1:9"]),
    ],
)
def test_no_way_to_the_hub_is_one_line(run_here, tiny_run, constant, texts):
    done = run_here("-c", WITH_CONSTANT, *constant, ROOT / "training" / "publish.py", tiny_run)
    fails(done, 5, *texts)


def test_nothing_goes_to_a_public_repository_when_private_was_asked_for(publish, loopback_hub):
    assert publish("--repo_id=digits").returncode == 0
    before = dict(loopback_hub.repositories["me/digits"].references)
    fails(publish("--repo_id=digits", "--private"), 5, "is public")
    assert loopback_hub.repositories["me/digits"].references == before


def test_damaged_weights_and_tokens_in_files_are_not_uploaded(publish, loopback_hub, tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps(json.loads((folder / "scheduler" / "scheduler_config.json").read_text()) | {"x": TOKEN})
    )
    fails(publish("--repo_id=digits", folder=folder), 2, "holds the token", "scheduler_config.json")
    for name in ("diffusion_pytorch_model.non_ema.safetensors", "diffusion_pytorch_model.safetensors"):
        weights = folder / "unet" / name
        weights.write_bytes(weights.read_bytes()[:-4])
        fails(publish("--repo_id=other", folder=folder), 2, "cut short", name)
    assert "me/other" not in loopback_hub.repositories
    assert loopback_hub.repositories["me/digits"].files() == {}


def test_training_publishes_its_exports_and_its_end(run_here, loopback_hub, tmp_path):
    flags = [
        "--dataset_name=digits", "--model_config_name_or_path=tiny", "--train_batch_size=700",
        "--num_epochs=2", "--lr_warmup_steps=1", "--ddpm_num_inference_steps=2", "--eval_batch_size=4",
        "--save_model_epochs=1", f"--output_dir={tmp_path / 'run'}", "--push_to_hub",
        "--hub_model_id=classes", "--hub_private_repo", "--hub_push_exports=tag", f"--hub_token={TOKEN}",
        "--label_column=label", "--label_dropout=0.1",
    ]  # fmt: skip
    loopback_hub.faults.append(Fault("POST /api/models/me/classes/tag", 400))  # the run goes on
    (tmp_path / "run").mkdir()
    earlier = dict.fromkeys(("config", "data", "evaluation", "command"), {}) | {
        "versions": {"ddpm-from-scratch": "0"}
    }  # not of these exports
    (tmp_path / "run" / "results.json").write_text(json.dumps(earlier))
    done = run_here(ROOT / "training" / "train.py", *flags, token=None)
    assert done.returncode == 0, done.stderr
    assert "was not uploaded" in done.stderr and "pushed to" in done.stdout
    repository = loopback_hub.repositories["me/classes"]
    assert repository.private and len(repository.commits) >= 3
    exports = [files for files in repository.commits.values() if files and "results.json" not in files]
    assert exports and all(b"trust_remote_code=True" in files["README.md"] for files in exports)
    assert all(str(tmp_path).encode() not in content for content in repository.files().values())
    files = repository.files()
    assert b"trust_remote_code=True" in files["README.md"] and b"me/classes" in files["README.md"]
    assert "pipeline.py" in files
    assert not any(TOKEN.encode() in content for content in files.values())
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path
    assert TOKEN not in done.stdout + done.stderr


def test_training_asks_for_the_token_first_and_keeps_what_it_trained(run_here, loopback_hub, tmp_path):
    flags = [
        "--dataset_name=digits", "--model_config_name_or_path=tiny", "--max_train_steps=1",
        "--lr_warmup_steps=0", "--ddpm_num_inference_steps=2", f"--output_dir={tmp_path / 'run'}",
        "--push_to_hub",
    ]  # fmt: skip
    command = (ROOT / "training" / "train.py", *flags)
    fails(run_here(*command, token=None), 5, "no token")
    assert not loopback_hub.repositories
    without_data = (*command[:1], "--dataset_name=/nowhere", *flags[1:])
    fails(run_here(*without_data, token="hf_wrong"), 5, "refuses the token")
    fails(run_here(*without_data), 2, "/nowhere")
    assert not loopback_hub.repositories, "what is wrong here is found first"
    loopback_hub.faults.append(Fault("POST /api/models/me/run/commit", 400))
    done = run_here(*command)
    fails(done, 5, "is saved, but not published", f"publish.py {tmp_path / 'run'} --repo_id me/run")
    assert (tmp_path / "run" / "model_index.json").exists()


def test_a_pipeline_pushes_itself(run_here, loopback_hub, tmp_path):
    code = """
    import sys
    from ddpm_from_scratch import *
    pipeline = DDPMFromScratchPipeline(build_model(model_config("points")), DDPMFromScratchScheduler())
    print(pipeline.push_to_hub("points", private=True, commit_message="First"))
    pipeline.save_pretrained(sys.argv[1], push_to_hub=True, repo_id="me/points", tag="again")
    """
    done = run_here("-c", textwrap.dedent(code), tmp_path / "points")
    assert done.returncode == 0, done.stderr
    repository = loopback_hub.repositories["me/points"]
    assert repository.private and len(repository.commits) == 3 and "again" in repository.references
    assert set(repository.files()) == {
        "model_index.json", "pipeline.py", "README.md", "unet/config.json", "unet/models.py",
        "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json",
        "scheduler/scheduling_ddpm_from_scratch.py",
    }  # fmt: skip
    assert b"unconditional-image-generation" not in repository.files()["README.md"]
    assert (
        b'DiffusionPipeline.from_pretrained("me/points", trust_remote_code=True)'
        in repository.files()["README.md"]
    )


def test_a_variant_is_added_and_a_card_of_another_layout_replaced(run_here, loopback_hub, tmp_path):
    code = """
    import sys
    from ddpm_from_scratch import *
    for number, channels in enumerate((1, 1, 4)):
        model = build_model(model_config("tiny", channels=channels))
        pipeline = DDPMFromScratchPipeline(model, DDPMFromScratchScheduler())
        pipeline.save_pretrained(sys.argv[1])
        pipeline = DDPMFromScratchPipeline.from_pretrained(sys.argv[1])
        pipeline.push_to_hub("v", variant=(None, "fp16", None)[number], tag=f"v{number}")
    """
    done = run_here("-c", textwrap.dedent(code), tmp_path / "x")
    assert done.returncode == 0, done.stderr
    repository = loopback_hub.repositories["me/v"]
    names = {
        version: {name for name in repository.files(version) if "safetensors" in name}
        for version in ("v0", "v1", "v2")
    }
    default = "unet/diffusion_pytorch_model.safetensors"
    assert names["v0"] == names["v2"] == {default}
    assert names["v1"] == {default, "unet/diffusion_pytorch_model.fp16.safetensors"}
    assert b"trust_remote_code=True)" not in repository.files("v1")["README.md"]
    assert b"trust_remote_code=True)" in repository.files("v2")["README.md"]
    for files in repository.commits.values():
        assert not any(str(tmp_path).encode() in content for content in files.values()), "a folder's name"
