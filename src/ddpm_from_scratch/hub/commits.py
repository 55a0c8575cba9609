"""Commits to the Hub that are made once, however often they are tried."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import filter_repo_objects


@dataclass
class Commit:
    """One commit that makes a repository hold the allowed files of a folder; called, it returns its id.

    It can be called again when an answer was lost: a commit that got through is found, not made twice.

    Args:
        api: of the Hub.
        repo_id: of the repository.
        folder: the files.
        patterns: of those that go, and that are deleted where the folder lacks them.
        extra: further files, by name.
        message: of the commit.
        branch: to commit to.
        create_pr: commit to a new pull request.
        repo_type: "model" or "space".
        kept: patterns of files that are not deleted.
    """

    api: HfApi
    repo_id: str
    folder: Path
    patterns: list[str]
    extra: dict[str, bytes] = field(default_factory=dict)
    message: str = "Upload"
    branch: str | None = None
    create_pr: bool = False
    repo_type: str = "model"
    kept: list[str] = field(default_factory=list)
    was_tried: bool = False

    def __post_init__(self) -> None:
        """List the files that go."""
        self.files = list(filter_repo_objects(_files(self.folder), allow_patterns=self.patterns))

    def __call__(self) -> str:
        """Commit, unless an earlier call has done it, and return the commit's id."""
        where: dict[str, Any] = {"repo_type": self.repo_type, "revision": self.branch}
        tree = self.api.list_repo_tree(self.repo_id, recursive=True, **where)
        there = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
        # Made anew each time: an operation keeps what an interrupted upload left in it.
        additions = [CommitOperationAdd(name, self.folder / name) for name in self.files]
        additions += [CommitOperationAdd(name, content) for name, content in self.extra.items()]
        sent = [*self.files, *self.extra]
        candidates = filter_repo_objects(
            there, allow_patterns=self.patterns, ignore_patterns=self.kept or None
        )
        stale = sorted(set(candidates) - set(sent))
        if self.was_tried and not stale and all(_is_there(each, there) for each in additions):
            return str(self.api.repo_info(self.repo_id, **where).sha)
        self.was_tried = not self.create_pr
        operations: list[Any] = [*additions, *(CommitOperationDelete(name) for name in stale)]
        done = self.api.create_commit(
            self.repo_id, operations, commit_message=self.message, create_pr=self.create_pr, **where
        )
        return str(done.oid)

    def require_no_secret(self, token: str) -> None:
        """Raise ValueError if a file to upload holds the token."""
        for name in self.files:
            is_text = Path(name).suffix in (".json", ".md", ".py", ".js", ".html")
            if is_text and token.encode() in (self.folder / name).read_bytes():
                raise ValueError(
                    f"{self.folder / name} holds the token of the Hub; remove it. Nothing was uploaded."
                )


def _is_there(operation: CommitOperationAdd, there: dict[str, Any]) -> bool:
    """Return whether a file of the repository has the content of one to upload."""
    file = there.get(operation.path_in_repo)
    if file is None or file.size != operation.upload_info.size:
        return False
    with operation.as_file() as content:
        read = content.read()
    blob = hashlib.sha1(b"blob %d\0" % len(read) + read, usedforsecurity=False).hexdigest()
    return hashlib.sha256(read).hexdigest() == file.lfs.sha256 if file.lfs else blob == file.blob_id


def _files(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
