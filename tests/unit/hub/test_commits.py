"""A commit is made once, however often it is tried, and holds what it should."""

import pytest
from huggingface_hub import HfApi

from ddpm_from_scratch.hub.commits import Commit
from ddpm_from_scratch.hub.requests import CONNECTION_ERRORS
from loopback_hub import TOKEN, Fault, Repository


@pytest.fixture
def repository(hub_here):
    hub_here.repositories["me/x"] = Repository(private=False)
    return hub_here.repositories["me/x"]


@pytest.fixture
def folder(tmp_path):
    for name in ("a.json", "sub/b.bin", "secret.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def commit(folder, patterns=("*.json", "sub/*"), **options):
    return Commit(HfApi(token=TOKEN), "me/x", folder, list(patterns), **options)


def test_a_commit_replaces_and_deletes_what_it_may_and_keeps_the_rest(repository, folder):
    there = {"a.json": b"old", "sub/gone": b"old", "sub/kept": b"old", "other": b"old"}
    repository.commit("main", there)
    oid = commit(folder, extra={"README.md": b"card"}, kept=["sub/kept"])()
    assert repository.references["main"] == oid and len(repository.commits) == 3
    assert repository.files() == {
        "a.json": b"a.json", "sub/b.bin": b"sub/b.bin", "README.md": b"card", "sub/kept": b"old",
        "other": b"old",
    }  # fmt: skip


def test_a_commit_whose_answer_was_lost_is_found_and_not_made_twice(hub_here, repository, folder):
    hub_here.faults.append(Fault("POST /api/models/me/x/commit", "lost"))
    tried = commit(folder)
    with pytest.raises(CONNECTION_ERRORS):
        tried()
    assert len(repository.commits) == 2, "it is there"
    assert tried() == repository.references["main"] and len(repository.commits) == 2


def test_a_commit_that_did_not_get_through_is_made_by_the_next_try(hub_here, repository, folder):
    hub_here.faults.append(Fault("POST /api/models/me/x/commit", "drop"))
    tried = commit(folder)
    with pytest.raises(CONNECTION_ERRORS):
        tried()
    assert repository.files() == {}
    assert tried() == repository.references["main"] and set(repository.files()) == {"a.json", "sub/b.bin"}


def test_a_file_that_holds_the_token_is_named(folder):
    (folder / "secret.txt").write_text(TOKEN)
    commit(folder).require_no_secret(TOKEN)  # it does not go
    (folder / "a.json").write_text(f'{{"x": "{TOKEN}"}}')
    with pytest.raises(ValueError, match="a.json holds the token.*Nothing was uploaded"):
        commit(folder).require_no_secret(TOKEN)
