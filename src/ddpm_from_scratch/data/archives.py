"""Files that are read where they lie: on the disk by their literal path, or inside a zip or tar.

A member of an archive has the path "photos.zip/cat/1.png". No file has files below it, so this path can mean
nothing else, whatever characters are in the names.
"""

import functools
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import fsspec

ARCHIVE_ENDINGS = (".zip", ".tar")
# Their members cannot be reached one by one.
PACKED_ENDINGS = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".7z", ".rar", ".gz", ".bz2", ".xz")

# What reading a damaged member raises, by how it is packed.
_DAMAGE = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, ValueError, EOFError,
)  # fmt: skip


class Archive:
    """The members of a zip or an uncompressed tar, by name.

    Args:
        path: of the archive.

    Attributes:
        members: name, with "/" between folders, to what the library knows of it.
        others: names of what is neither a file nor a folder, and of a file that is there twice.

    Raises:
        OSError: no such archive, or a damaged one, or one that is cut off.
    """

    def __init__(self, path: str):
        self.path = path
        self.members: dict[str, zipfile.ZipInfo | tarfile.TarInfo] = {}
        self.others: list[str] = []
        try:
            if path.lower().endswith(".zip"):
                self._file: zipfile.ZipFile | tarfile.TarFile = zipfile.ZipFile(path)
                found: list[tuple[str, zipfile.ZipInfo | tarfile.TarInfo]] = [
                    (item.filename, item) for item in self._file.infolist() if not item.is_dir()
                ]
            else:
                self._file = tarfile.open(path, "r:")  # noqa: SIM115, it stays open for its members
                infos = [item for item in self._file.getmembers() if not item.isdir()]
                _require_end(path, self._file.offset)
                found = [(item.name, item) for item in infos if item.isfile()]
                self.others = [_plain(item.name) for item in infos if not item.isfile()]
        except (tarfile.TarError, zipfile.BadZipFile, ValueError) as error:
            raise OSError(" ".join(str(error).split())) from error
        for raw, item in found:
            name = _plain(raw)
            if name in self.members:
                self.others.append(name)
            self.members[name] = item  # the last one counts, as when it is unpacked

    def __del__(self) -> None:
        """Close the file."""
        if hasattr(self, "_file"):  # not if it could not be opened
            self._file.close()

    def read(self, name: str) -> bytes:
        """Return the content of a member.

        Raises:
            OSError: no such member, or one that cannot be read.
        """
        if name not in self.members:
            raise FileNotFoundError(f"{self.path} has no {name}")
        item = self.members[name]
        try:
            if isinstance(self._file, zipfile.ZipFile):
                assert isinstance(item, zipfile.ZipInfo)
                return self._file.read(item)
            assert isinstance(item, tarfile.TarInfo)
            file = self._file.extractfile(item)
            assert file is not None  # only files are members
            return file.read()
        except NotImplementedError as error:  # before its base, RuntimeError
            reason = " ".join(str(error).split())
            raise OSError(f"it is packed in a way that cannot be read here ({reason}): unpack it") from error
        except RuntimeError as error:
            raise OSError("it needs a password: unpack the archive") from error
        except _DAMAGE as error:
            raise OSError(" ".join(str(error).split()) or "it is damaged") from error


def _require_end(path: str, offset: int) -> None:
    """Raise OSError unless a tar ends where it should, with a block of zeros: tarfile does not ask for it."""
    with open(path, "rb") as file:
        file.seek(offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise OSError("it is cut off, or damaged after its last whole file")


def _plain(name: str) -> str:
    return str(PurePosixPath(name.replace("\\", "/").lstrip("/")))


@functools.lru_cache(maxsize=8)
def _opened(path: str, process: int, changed: int) -> Archive:
    """Return an archive that stays open; each process has its own, because they move through the file."""
    return Archive(path)


def opened_archive(path: str) -> Archive:
    """Return an archive, which stays open in this process.

    Raises:
        OSError: it cannot be read.
    """
    return _opened(path, os.getpid(), os.stat(path).st_mtime_ns)


def read_file(path: str) -> bytes:
    """Return the content of a file: a literal path, a member of an archive, or an address of fsspec.

    Args:
        path: as it is; no character of it is a pattern. With "://" it is an address, such as of the Hub.

    Raises:
        OSError: it cannot be read.
    """
    if "://" in path:
        with fsspec.open(path, "rb") as file:
            return file.read()
    try:
        return Path(path).read_bytes()
    except (NotADirectoryError, FileNotFoundError):
        for folder in Path(path).parents:
            if folder.is_file():
                return opened_archive(str(folder)).read(Path(path).relative_to(folder).as_posix())
        raise
