"""What an upload takes along, and what it refuses before anything is sent."""

import pytest

from common import untrained_pipeline
from ddpm_from_scratch.hub.upload import PushError, check_token, push_folder, push_space
from loopback_hub import READ_ONLY_TOKEN, TOKEN, Fault


@pytest.fixture
def folder(tmp_path):
    """A saved pipeline, and beside it what a run leaves."""
    untrained_pipeline().save_pretrained(tmp_path)
    for name in ("checkpoint-2/model.safetensors", "logs/metrics.jsonl", "weights.bin", "results.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    return tmp_path


def test_one_commit_of_the_files_of_a_pipeline_and_a_card(hub_here, folder):
    named = []
    address = push_folder(folder, "x", token=TOKEN, tag="v1", before_upload=named.append)
    repository = hub_here.repositories["me/x"]
    assert address == f"{hub_here.url}/me/x" and named == ["me/x"] and len(repository.commits) == 2
    assert set(repository.files("v1")) == {
        "model_index.json", "pipeline.py", "README.md", "results.json", "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json",
    }  # fmt: skip
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert repository.files()[weights] == (folder / weights).read_bytes()
    push_folder(folder, "me/x", token=TOKEN, tag="v1", with_report=False)
    assert repository.references["v1"] == repository.references["main"] and len(repository.commits) == 3


def test_a_private_upload_never_goes_to_a_public_repository(hub_here, folder):
    push_folder(folder, "x", token=TOKEN)
    with pytest.raises(PushError, match="me/x exists and is public.*nothing was uploaded"):
        push_folder(folder, "x", token=TOKEN, private=True)
    push_folder(folder, "hidden", token=TOKEN, private=True)
    assert hub_here.repositories["me/hidden"].private and len(hub_here.repositories["me/x"].commits) == 2


@pytest.mark.parametrize(
    ("token", "says"), [("hf_wrong", "refuses the token for x"), (READ_ONLY_TOKEN, "may not write to x")]
)
def test_what_a_token_may_not_is_said_with_what_to_do(hub_here, folder, token, says):
    with pytest.raises(PushError, match=says):
        push_folder(folder, "x", token=token)
    assert hub_here.repositories == {}


def test_a_token_is_tried_without_creating_anything(hub_here):
    check_token("x", TOKEN)
    with pytest.raises(PushError, match="refuses the token"):
        check_token("x", "hf_wrong")
    assert hub_here.repositories == {} and set(hub_here.requests) == {"GET /api/whoami-v2"}


@pytest.mark.parametrize("name", ["a b", "a..b", "-v", "v.lock"])
def test_a_name_that_git_refuses_is_found_before_anything_is_sent(hub_here, folder, name):
    with pytest.raises(ValueError, match="can be no branch or tag"):
        push_folder(folder, "x", token=TOKEN, tag=name)
    assert hub_here.requests == []


def test_a_folder_without_a_pipeline_is_named(hub_here, tmp_path):
    with pytest.raises(ValueError, match="has no model_index.json"):
        push_folder(tmp_path, "x", token=TOKEN)
    assert hub_here.requests == []


def test_a_tag_that_does_not_get_through_is_told_from_the_commit(hub_here, folder):
    hub_here.faults.append(Fault("POST /api/models/me/x/tag", 400))
    with pytest.raises(PushError, match="the commit is there, but not the tag 'v1'"):
        push_folder(folder, "x", token=TOKEN, tag="v1")
    assert len(hub_here.repositories["me/x"].commits) == 2


def test_of_a_space_only_its_page_goes(hub_here, tmp_path):
    for name in ("index.html", "settings.json", ".env"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "README.md").write_text("---\nsdk: static\nshort_description: digits\n---\n")
    assert push_space(tmp_path, "page", token=TOKEN) == f"{hub_here.url}/spaces/me/page"
    files = hub_here.repositories["spaces/me/page"].files()
    assert set(files) == {"README.md", "index.html", "settings.json"}
