"""What a folder or an archive holds: each file is used, or is left out by name and with the reason.

A path is taken literally. Links are followed, each folder and each file counts once, and no word in a name
has a meaning.
"""

import io
import os
import stat
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from .archives import ARCHIVE_ENDINGS, PACKED_ENDINGS, opened_archive, read_file
from .images import DataError

METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
# Left behind by systems and programs, and never meant as data; so are names that begin with a dot.
_JUNK = ("Thumbs.db", "ehthumbs.db", "desktop.ini", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found")
# Formats that Pillow knows but cannot decode, or by no sure mark: nothing is taken for them by its content.
_UNSURE = (
    "BUFR", "GRIB", "HDF5", "MPEG", "WMF", "EPS", "TGA", "SPIDER", "IMT", "MCIDAS", "PCD", "IPTC", "FITS",
    "DIB", "CUR",
)  # fmt: skip
_NO_PICTURE_ENDINGS = (".bufr", ".grib", ".h5", ".hdf", ".mpeg", ".mpg", ".wmf", ".emf", ".iim", ".ps")
# Arrays, and pictures that may need more than Pillow: a user who has them wants them, so they are bad images.
_MORE_PICTURE_ENDINGS = (".npy", ".heic", ".heif", ".jxl", ".avif", ".webp", ".jp2")
# Their content looks like TIFF, but what Pillow would read is a small preview.
_CAMERA_ENDINGS = (".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".pef", ".srw")
_SEVERAL_FRAMES = (".gif", ".webp", ".tif", ".tiff", ".apng", ".avif", ".avifs", ".fli", ".flc")

NO_PICTURE = "no picture"
HIDDEN = "hidden or of the system"
LISTED = "a link to what is listed already"
LOOP = "a link to a folder above it"
BROKEN = "a link to nothing"
SPECIAL = "no file"
NESTED = "an archive inside: give it as --train_data_dir, or unpack it"
NOT_UTF8 = "its name is not UTF-8: rename it"
CAMERA = "raw data of a camera: convert it"
NO_FILE = "a row of the metadata, but no picture"
NOT_IN_SLICE = "not in the slice of --dataset_split"
NOT_READ = "other arrays or columns"
TWICE = "in the archive twice, or a link there"


@dataclass(frozen=True)
class File:
    """A file of a folder or an archive.

    Args:
        name: below the folder, with "/" between folders.
        path: to read it by; see `archives.read_file`.
    """

    name: str
    path: str


@dataclass
class Listing:
    """The files of a folder or an archive.

    Args:
        source: the folder or archive, as it was given.
        files: what is used, ordered by name.
        left_out: reason to the names of what is not.
        empty: folders in which no file is.
        several_frames: names of the pictures of which the first of several is used.
        missing: names in the metadata of pictures that are not there.
    """

    source: str
    files: list[File] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    several_frames: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def leave_out(self, reason: str, name: str) -> None:
        """Note that a file is not used."""
        self.left_out.setdefault(reason, []).append(name)

    @property
    def num_left_out(self) -> int:
        """Files and folders that are not used."""
        return sum(map(len, self.left_out.values()))

    def keep(self, files: list[File], reason: str) -> None:
        """Use only these of the files, and leave out the others for a reason."""
        kept = set(files)
        for file in self.files:
            if file not in kept:
                self.leave_out(reason, file.name)
        self.files = files

    def summary(self, classes: dict[str, int] | None = None) -> str:
        """Return one line: what was found, used and left out.

        Args:
            classes: name to the number of pictures, if labels were asked for.
        """
        used = len(self.files)
        text = f"{used + self.num_left_out} found in {self.source}, {used} used"
        text += _in_classes(classes)
        if self.left_out:
            reasons = [f"{some(sorted(names), 3)} ({reason})" for reason, names in self.left_out.items()]
            text += f", {self.num_left_out} left out: {'; '.join(reasons)}"
        if self.several_frames:
            text += f"; the first frame of {some(self.several_frames, 3)}"
        if self.empty:
            text += f"; nothing in {some([name + '/' for name in self.empty], 3)}"
        if self.missing:
            text += f"; {NO_FILE}: {some(self.missing, 3)}"
        return text

    def record(self) -> dict[str, Any]:
        """Return the counts for the record of a run."""
        left_out = {reason: len(names) for reason, names in self.left_out.items()}
        return {
            "used": len(self.files),
            "left_out": left_out | ({NO_FILE: len(self.missing)} if self.missing else {}),
        }


@dataclass(frozen=True)
class RowCount:
    """What is used of a file that has all pictures: of arrays, or a table of pixels.

    Args:
        source: the file, as it was given.
        used: rows that are used.
        left_out: rows that --dataset_split leaves out.
        unused: names of its other arrays or columns.
    """

    source: str
    used: int
    left_out: int
    unused: tuple[str, ...]

    def summary(self, classes: dict[str, int] | None = None) -> str:
        """Return one line, as that of a folder."""
        text = f"{self.used + self.left_out} found in {self.source}, {self.used} used{_in_classes(classes)}"
        if self.left_out:
            text += f", {self.left_out} left out ({NOT_IN_SLICE})"
        if self.unused:
            text += f"; not read: {some(self.unused, 6)}"
        return text

    def record(self) -> dict[str, Any]:
        """Return the counts for the record of a run."""
        left_out = {NOT_IN_SLICE: self.left_out} if self.left_out else {}
        return {
            "used": self.used,
            "left_out": left_out | ({NOT_READ: len(self.unused)} if self.unused else {}),
        }


def _in_classes(classes: dict[str, int] | None) -> str:
    if classes is None:
        return ""
    counted = [f"{name} {count}" for name, count in classes.items()]
    return f" ({len(classes)} class{'es' * (len(classes) != 1)}: {some(counted, 12)})"


def some(names: Sequence[str], most: int) -> str:
    """Return names in one line, the first ones and how many more if they are many."""
    shown = ", ".join(" ".join(name.split()) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def list_folder(folder: str) -> Listing:
    """Return all files below a folder.

    Args:
        folder: literal path.

    Raises:
        DataError: a folder that cannot be read.
    """
    listing = Listing(folder)
    root = os.path.realpath(folder)
    walked, files = {root}, set()
    origins = [root]
    file_links: list[tuple[str, str]] = []
    waiting = [("", folder, root)]  # name, path, and path without links
    links: list[tuple[str, str]] = []
    while waiting or links:
        if not waiting:  # links only now, so that what is there without one has its own name
            name, path = links.pop(0)
            real = os.path.realpath(path)
            within = (os.path.realpath(os.path.dirname(path)), *(top for top in origins if top != real))
            if any((folder + os.sep).startswith(real.rstrip(os.sep) + os.sep) for folder in within):
                listing.leave_out(LOOP, name + "/")
            elif real in walked:
                listing.leave_out(LISTED, name + "/")
            else:
                walked.add(real)
                origins.append(real)
                waiting.append((name, path, real))
            continue
        above, path, real = waiting.pop()
        entries = _entries(path)
        if not entries and above:
            listing.empty.append(above)
        for entry in entries:
            name = f"{above}/{entry.name}" if above else entry.name
            if _is_junk(entry.name):
                listing.leave_out(HIDDEN, name + "/" if entry.is_dir() else name)
            elif not _is_text(name):
                listing.leave_out(NOT_UTF8, os.fsencode(name).decode("utf-8", "backslashreplace"))
            elif entry.is_symlink():
                (links if entry.is_dir() else file_links).append((name, entry.path))
            elif entry.is_dir():
                below = os.path.join(real, entry.name)
                if below in walked:
                    listing.leave_out(LISTED, name + "/")
                else:
                    walked.add(below)
                    waiting.append((name, entry.path, below))
            elif entry.is_file():
                files.add(os.path.join(real, entry.name))
                listing.files.append(File(name, entry.path))
            else:
                listing.leave_out(SPECIAL, name)
    for name, path in sorted(file_links):
        real = os.path.realpath(path)
        if not os.path.exists(real):
            listing.leave_out(BROKEN, name)
        elif not stat.S_ISREG(os.stat(real).st_mode):
            listing.leave_out(SPECIAL, name)
        elif real in files:
            listing.leave_out(LISTED, name)
        else:
            files.add(real)
            listing.files.append(File(name, path))
    listing.files.sort(key=lambda file: file.name)
    listing.empty.sort()
    return listing


def _entries(path: str) -> list[os.DirEntry]:
    try:
        with os.scandir(path) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"folder {path!r} cannot be read: {error.strerror}.") from error


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name in _JUNK or name == "Icon\r"


def _is_text(name: str) -> bool:
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def list_archive(path: str) -> Listing:
    """Return all files of a zip or tar.

    Args:
        path: literal path of the archive.

    Raises:
        DataError: an archive that cannot be read.
    """
    try:
        archive = opened_archive(path)
    except OSError as error:
        raise DataError(f"archive {path!r} cannot be read: {error.strerror or error}.") from error
    listing = Listing(path)
    for name in sorted(archive.members):
        if any(map(_is_junk, name.split("/"))):
            listing.leave_out(HIDDEN, name)
        elif not _is_text(name):
            listing.leave_out(NOT_UTF8, os.fsencode(name).decode("utf-8", "backslashreplace"))
        else:
            listing.files.append(File(name, f"{path}/{name}"))
    for name in archive.others:
        listing.leave_out(TWICE, name)
    return listing


def choose_pictures(listing: Listing) -> None:
    """Leave out of a listing what is no picture, and note of which pictures only the first frame is used.

    What has the ending of a picture is one, even if it cannot be read: then it is a bad image. Of other files
    the content decides.
    """
    Image.init()
    decoded = (ending for ending, name in Image.registered_extensions().items() if name in Image.OPEN)
    endings = (set(decoded) | set(_MORE_PICTURE_ENDINGS)) - set(_NO_PICTURE_ENDINGS)
    formats = [name for name in Image.OPEN if name not in _UNSURE]
    pictures = []
    for file in listing.files:
        lower = file.name.lower()
        ending = os.path.splitext(lower)[1]
        is_picture = ending in endings
        if lower.endswith((*ARCHIVE_ENDINGS, *PACKED_ENDINGS)):
            listing.leave_out(NESTED, file.name)
            continue
        if ending in _CAMERA_ENDINGS:
            listing.leave_out(CAMERA, file.name)
            continue
        frames = 1
        if not is_picture or ending in _SEVERAL_FRAMES or ending == ".png":
            frames = _num_frames(file.path, formats, ending)
        if not (is_picture or frames):
            listing.leave_out(NO_PICTURE, file.name)
            continue
        if frames > 1:
            listing.several_frames.append(file.name)
        pictures.append(file)
    listing.files = pictures


def _num_frames(path: str, formats: list[str], ending: str) -> int:
    """Return how many frames a picture has, 2 for any more; 0 for what is no picture."""
    try:
        if ending == ".png" and os.path.isfile(path):  # one that moves says so before its first pixels
            with open(path, "rb") as file:
                return 2 if b"acTL" in file.read(4096).partition(b"IDAT")[0] else 1
        content: Any = path if os.path.isfile(path) else io.BytesIO(read_file(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures, which are decoded later
            with Image.open(content, formats=formats) as image:
                return 2 if getattr(image, "is_animated", False) and image.format != "MPO" else 1
    except Image.DecompressionBombError:
        return 1
    except (OSError, SyntaxError, ValueError, EOFError):
        return 0
