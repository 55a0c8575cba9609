"""Upload to the Hub: one commit of allowed files, tried again when the connection drops."""

import contextlib
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)

from .cards import layout_of, plain_card
from .commits import Commit
from .requests import CONNECTION_ERRORS, patiently, status_of

# What a pushed repository may hold; checkpoints, logs and anything unknown stay at home.
PIPELINE_FILES = [
    "model_index.json",
    "pipeline.py",
    "unet/config.json",
    "unet/diffusion_pytorch_model*.safetensors",
    "unet/diffusion_pytorch_model*.safetensors.index*.json",
    "unet/*.py",
    "scheduler/scheduler_config.json",
    "scheduler/scheduling_ddpm_from_scratch.py",
    "scheduler/scheduling_few_step.py",
]
DEFAULT_WEIGHTS = [
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.safetensors.index.json",
]
REPORT_FILES = ["README.md", "results.json", "samples.png", "loss.png", "bound.png"]
SPACE_FILES = [
    "README.md",
    "index.html",
    "network.js",
    "page.js",
    "settings.json",
    "unet/diffusion_pytorch_model.safetensors",
]


def files_to_upload(folder: Path) -> list[str]:
    """Return the names of the files that `push_folder` takes of a folder, its card and figures among them."""
    return Commit(HfApi(), "", folder, [*PIPELINE_FILES, *REPORT_FILES]).files


class PushError(RuntimeError):
    """An upload that the Hub refused or that did not get through; the message says what to do."""


def check_token(repo_id: str, token: str | None = None) -> None:
    """Ask the Hub whether it knows a token; nothing is created.

    Args:
        repo_id: what the token is for.
        token: of the Hub; the one stored by `hf auth login` if not given.

    Raises:
        PushError: no token, one that the Hub refuses, or no connection.
    """
    _push(HfApi(token=_token(token)).whoami, repo_id)


def prepare_repository(
    repo_id: str, *, private: bool = False, token: str | None = None, repo_type: str = "model", **options: Any
) -> str:
    """Create a repository if there is none and return its full id.

    Args:
        repo_id: "user/name", or "name" for the token's user.
        private: create it private.
        token: of the Hub; the one stored by `hf auth login` if not given.
        repo_type: "model" or "space".
        options: as in `HfApi.create_repo`.

    Raises:
        PushError: no token, one that the Hub refuses, no connection, or a public repository where a private
            one was asked for.
    """
    api = HfApi(token=_token(token))
    create = functools.partial(
        api.create_repo, repo_id, private=private, exist_ok=True, repo_type=repo_type, **options
    )
    full_id = _push(create, repo_id).repo_id
    info = _push(functools.partial(api.repo_info, full_id, repo_type=repo_type), full_id)
    if private and not info.private:
        raise PushError(
            f"{full_id} exists and is public, but a private repository was asked for; nothing was uploaded. "
            "Make it private in its settings, or choose another name."
        )
    return full_id


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    commit_message: str = "Upload pipeline",
    branch: str | None = None,
    tag: str | None = None,
    create_pr: bool = False,
    with_report: bool = True,
    before_upload: Callable[[str], object] | None = None,
) -> str:
    """Upload a saved pipeline to the Hub in one commit and return its address.

    Only `PIPELINE_FILES` and `REPORT_FILES` go: no checkpoints, logs or pickles. What of these the repository
    has and the folder has not is deleted in the same commit, but for a model card; if the folder has weights
    of a variant only, other weights stay. A request that fails on the way is tried again; a commit is there
    whole or not at all.

    Args:
        folder: a folder with model_index.json.
        repo_id: "user/name", or "name" for the token's user.
        private: create the repository private; an existing public one is refused.
        token: of the Hub; the one stored by `hf auth login` if not given.
        commit_message: of the commit.
        branch: to commit to, created if it is missing; "main" if not given.
        tag: to give the commit; one of that name is moved.
        create_pr: commit to a new pull request.
        with_report: also upload the card, figures and pictures that the folder has.
        before_upload: called with the repository's full id, "user/name", before the files are read.

    Raises:
        ValueError: the folder holds no pipeline, a file to upload holds the token, or no branch or tag may
            have that name.
        PushError: as in `prepare_repository`, or the Hub refused or could not be reached.
    """
    folder = Path(folder)
    if not (folder / "model_index.json").is_file():
        raise ValueError(f"{folder} has no model_index.json: save a pipeline there first.")
    for name in (branch, tag):
        if name is not None and not re.fullmatch(r"(?!.*(\.\.|//|\.lock$))[\w][\w./+-]*", name):
            raise ValueError(f"{name!r} can be no branch or tag: use letters, digits, '.', '-', '_' and '/'.")
    token = token or get_token()
    repo_id = prepare_repository(repo_id, private=private, token=token)
    if before_upload is not None:
        before_upload(repo_id)
    api = HfApi(token=token)
    patterns = [*PIPELINE_FILES, *(REPORT_FILES if with_report else [])]
    if branch is not None:
        _push(functools.partial(api.create_branch, repo_id, branch=branch, exist_ok=True), repo_id)
    there = _push(functools.partial(api.list_repo_files, repo_id, revision=branch), repo_id)
    has_card = with_report and (folder / "README.md").is_file()
    needs_card = not has_card and ("README.md" not in there or _layout_changes(api, repo_id, branch, folder))
    # Weights of a variant alone are added to those that are there.
    is_whole = any((folder / name).is_file() for name in DEFAULT_WEIGHTS)
    commit = Commit(
        api,
        repo_id,
        folder,
        patterns,
        extra={"README.md": str(plain_card(folder, repo_id)).encode()} if needs_card else {},
        message=commit_message,
        branch=branch,
        create_pr=create_pr,
        kept=["README.md"] if is_whole else ["README.md", "unet/*.safetensors*"],
    )
    commit.require_no_secret(str(token))
    oid = _push(commit, repo_id)
    if tag is not None:
        try:
            _push(functools.partial(_move_tag, api, repo_id, tag, oid), repo_id)
        except PushError as error:
            raise PushError(f"the commit is there, but not the tag {tag!r}: {error}") from error
    return f"{api.endpoint}/{repo_id}"


def push_space(folder: str | Path, space_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload the page of a static Space in one commit and return its address.

    Only `SPACE_FILES` go; what of these the Space has and the folder has not is deleted in the same commit.

    Args:
        folder: the page and README.md, the Space's card.
        space_id: "user/name", or "name" for the token's user.
        private: create the Space private; an existing public one is refused.
        token: of the Hub; the one stored by `hf auth login` if not given.

    Raises:
        ValueError: a file to upload holds the token. PushError: as in `push_folder`.
    """
    token = token or get_token()
    space_id = prepare_repository(
        space_id, private=private, token=token, repo_type="space", space_sdk="static"
    )
    api = HfApi(token=token)
    commit = Commit(api, space_id, Path(folder), SPACE_FILES, message="Upload page", repo_type="space")
    commit.require_no_secret(str(token))
    _push(commit, space_id)
    return f"{api.endpoint}/spaces/{space_id}"


def _token(token: str | None) -> str:
    """Return the token to use: the given one, or the one stored by `hf auth login`."""
    token = token or get_token()
    if token is None:
        raise PushError(
            "there is no token for the Hub: run 'hf auth login' or set HF_TOKEN, with a token that may write "
            "(https://huggingface.co/settings/tokens)."
        )
    return token


def _layout_changes(api: HfApi, repo_id: str, branch: str | None, folder: Path) -> bool:
    """Return whether a repository has its pipeline in another layout, so that its card would mislead."""
    download = functools.partial(api.hf_hub_download, repo_id, "model_index.json", revision=branch)
    try:
        earlier = Path(patiently(download)).parent
    except EntryNotFoundError:
        return False
    return layout_of(earlier) != layout_of(folder)


def _move_tag(api: HfApi, repo_id: str, tag: str, revision: str) -> None:
    """Give a commit a tag; one of that name is taken from where it was."""
    try:
        api.create_tag(repo_id, tag=tag, revision=revision)
    except HfHubHTTPError as error:
        if status_of(error) != 409:
            raise
        with contextlib.suppress(RevisionNotFoundError):
            api.delete_tag(repo_id, tag=tag)
        api.create_tag(repo_id, tag=tag, revision=revision)


def _push(request: Callable[[], Any], repo_id: str) -> Any:
    """Return what a request returns, tried again where that can help.

    Raises:
        PushError: it failed for good, with what to do.
    """
    try:
        return patiently(request)
    except OfflineModeIsEnabled as error:
        raise PushError("HF_HUB_OFFLINE is set: unset it to reach the Hub.") from error
    except HfHubHTTPError as error:
        raise PushError(_in_words(error, repo_id)) from error
    except CONNECTION_ERRORS as error:
        reason = str(error) or type(error).__name__
        raise PushError(
            f"the Hub at {HfApi().endpoint} cannot be reached ({reason}): check the connection and "
            "HF_ENDPOINT, then push again."
        ) from error


def _in_words(error: HfHubHTTPError, repo_id: str) -> str:
    status = status_of(error)
    reason = error.server_message or str(error).splitlines()[0]
    if status == 401:
        return (
            f"the Hub refuses the token for {repo_id}: it is wrong or expired. Run 'hf auth login' with a "
            "token that may write (https://huggingface.co/settings/tokens)."
        )
    if status == 403:
        return (
            f"the token may not write to {repo_id} ({reason}): use one that may write there, or another name."
        )
    return f"the Hub refused {repo_id} with status {status}: {reason}"
