"""Writing that survives a crash: a file or folder is there whole, as it was before, or not at all.

Everything is written under a temporary name, flushed to the disk and then renamed. What a killed run leaves
behind is named `.tmp-` and what it was to become, and is deleted by the next one.
"""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from .errors import StorageError

_PREFIX = ".tmp-"
_CHUNK_BYTES = 16 * 2**20
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG}


def free_bytes(folder: Path) -> int:
    """Return the bytes that may still be written below a folder, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Raise StorageError unless `needed_bytes` are free below `folder`."""
    free = free_bytes(folder)
    if free < needed_bytes:
        raise StorageError(
            f"{what} needs {needed_bytes:,} bytes below {str(folder)!r}, but only {free:,} are free; "
            "make room or choose another --output_dir."
        )


@contextmanager
def disk_errors_named(path: Path, needed_bytes: int | None = None) -> Iterator[None]:
    """Turn the error of a full or failing disk into a StorageError that names the path and the bytes."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        code = getattr(error, "errno", None)
        # The error of safetensors has the number in its text only.
        if code not in _DISK_ERRORS and not any(f"code: {number}," in str(error) for number in _DISK_ERRORS):
            raise
        needed = "" if needed_bytes is None else f" of {needed_bytes:,} bytes"
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StorageError(
            f"writing{needed} to {str(path)!r} failed: {reason}; {free_bytes(path):,} bytes are free. "
            "What was saved before is intact; make room and run again with --resume_from_checkpoint latest."
        ) from error


def write_file(path: Path, content: bytes) -> None:
    """Write a new file and flush it to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view[:_CHUNK_BYTES]) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Put a file in place, or leave the earlier one as it was."""
    temporary = path.with_name(_PREFIX + path.name)
    with disk_errors_named(path, len(content)):
        try:
            write_file(temporary, content)
            os.replace(temporary, path)
            sync(path.parent)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def temporary_folder(target: Path) -> Path:
    """Return a new, empty folder beside `target` to write its content in."""
    folder = target.with_name(_PREFIX + target.name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def commit_folder(temporary: Path, target: Path) -> None:
    """Give a written folder its name, in the place of an earlier one if there is one."""
    sync(temporary)
    if target.exists():
        delete_folder(target)
    os.rename(temporary, target)
    sync(target.parent)


def commit_files(temporary: Path, target: Path, last: str) -> None:
    """Move the files of a written folder into `target` one by one, each replacing its earlier version.

    Args:
        temporary: from `temporary_folder`, on the same file system; deleted.
        target: the folder that others read; a reader finds each file whole at any moment.
        last: name of the file that comes last, without which the others count for nothing.
    """
    files = [path.relative_to(temporary) for path in sorted(temporary.rglob("*")) if path.is_file()]
    for name in files:
        sync(temporary / name)
    for name in sorted(files, key=lambda name: name.name == last):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary / name, target / name)
        sync((target / name).parent)
    shutil.rmtree(temporary)


def delete_folder(folder: Path) -> None:
    """Delete a folder in such a way that no half of it is ever seen under its name."""
    doomed = folder.with_name(f"{_PREFIX}deleted-{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(folder, doomed)
    shutil.rmtree(doomed)


def delete_leftovers(folder: Path, written: re.Pattern[str]) -> None:
    """Delete what an interrupted write left in a folder.

    Args:
        folder: that was written to.
        written: names of what is written there; a temporary name of anything else is not ours.
    """
    for path in folder.glob(f"{_PREFIX}*"):
        if not written.fullmatch(path.name.removeprefix(_PREFIX).removeprefix("deleted-")):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
