"""A finished run is checked, named and uploaded; the whole command is in tests/runs/test_push.py."""

import shutil

import pytest

from common import untrained_pipeline
from ddpm_from_scratch.hub.upload import PushError
from ddpm_from_scratch.runtime.errors import ConfigError, UploadError
from ddpm_from_scratch.sharing.publish import hub_errors, plan, publish
from loopback_hub import TOKEN

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def test_a_pipeline_without_a_record_goes_with_a_plain_card(hub_here, tmp_path):
    folder = tmp_path / "digits"
    untrained_pipeline().save_pretrained(folder)
    assert publish(folder, token=TOKEN, private=True) == f"{hub_here.url}/me/digits"
    files = hub_here.repositories["me/digits"].files()
    assert files[WEIGHTS] == (folder / WEIGHTS).read_bytes() and b"# digits" in files["README.md"]
    assert not (folder / "README.md").exists() and hub_here.repositories["me/digits"].private


def test_a_dry_run_says_what_would_go_and_sends_nothing(hub_here, finished_run, tmp_path, monkeypatch):
    """Without a token: names and sizes as they then are on the Hub, the card that they get, what stays."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    run = shutil.copytree(finished_run, tmp_path / "digits")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    said = plan(run, "me/digits")
    assert hub_here.requests == [] and before == {path: path.read_bytes() for path in before}
    assert "checkpoint-2" in said.split("stays here: ")[1].splitlines()[0] and "logs" in said
    publish(run, "me/digits", token=TOKEN)
    files = hub_here.repositories["me/digits"].files()
    del files["results.json"]
    for name, content in files.items():
        assert f"{len(content):>15,} bytes  {name}\n" in said
    assert files["README.md"].decode() in said and said.count(" bytes  ") == len(files) + 2


def test_a_dry_run_says_that_a_run_without_its_card_gets_a_new_one(hub_here, finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "digits")
    (run / "README.md").unlink()
    said = plan(run, "me/digits")
    assert "written anew for the repository" in said and "made of the pipeline alone" not in said
    publish(run, "me/digits", token=TOKEN)
    assert hub_here.repositories["me/digits"].files()["README.md"].decode() in said
    (run / "results.json").write_text("{}")
    for refuses in (lambda: plan(run, "me/digits"), lambda: publish(run, "me/digits", token=TOKEN)):
        with pytest.raises(ConfigError, match="results.json is of an earlier version"):
            refuses()


def test_a_dry_run_finds_what_publishing_would_refuse(hub_here, tmp_path):
    with pytest.raises(ConfigError, match="holds no pipeline"):
        plan(tmp_path)
    untrained_pipeline().save_pretrained(tmp_path / "x")
    with pytest.raises(ConfigError, match="^--repo_id: .*a/b/c"):
        plan(tmp_path / "x", "a/b/c")
    assert "made of the pipeline alone" in plan(tmp_path / "x") and "# x" in plan(tmp_path / "x")
    (tmp_path / "x" / "README.md").write_text("my own card")
    assert plan(tmp_path / "x").endswith("as it is in the folder:\n\nmy own card")
    (tmp_path / "x" / WEIGHTS).write_bytes(b"")
    with pytest.raises(ConfigError, match=WEIGHTS):
        plan(tmp_path / "x")
    assert hub_here.requests == []


@pytest.mark.parametrize("variant", [None, "non_ema"])
def test_damaged_weights_of_any_variant_are_found_before_anything_is_sent(hub_here, tmp_path, variant):
    pipeline = untrained_pipeline()
    pipeline.save_pretrained(tmp_path)
    pipeline.unet.save_pretrained(tmp_path / "unet", variant="non_ema")
    name = WEIGHTS if variant is None else WEIGHTS.replace(".safetensors", f".{variant}.safetensors")
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-4])
    with pytest.raises(ConfigError, match="cut short"):
        publish(tmp_path, "x", token=TOKEN)
    assert hub_here.requests == []


def test_no_pipeline_and_a_refusal_of_the_hub_are_told_apart(hub_here, tmp_path):
    with pytest.raises(ConfigError, match="holds no pipeline"):
        publish(tmp_path, "x", token=TOKEN)
    untrained_pipeline().save_pretrained(tmp_path)
    with pytest.raises(UploadError, match="refuses the token"):
        publish(tmp_path, "x", token="hf_wrong")


@pytest.mark.parametrize(
    ("raised", "becomes", "says"),
    [(ValueError("bad"), ConfigError, "^--name: bad$"), (PushError("no"), UploadError, "^--push: no$")],
)
def test_each_end_of_an_upload_has_its_status(raised, becomes, says):
    with pytest.raises(becomes, match=says), hub_errors("--name: ", "--push: "):
        raise raised
