"""What happens to folders, archives and lists of any shape: the table of docs/data.md.

    python tests/claims/folder_shapes.py    prints the table; each row is tried

Each shape is written into an empty folder and read as train.py reads it. What a row says is what the command
prints: the line that it begins with, a warning, or the error that it ends with.
"""

import contextlib
import io
import os
import re
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddpm_from_scratch.data.datasets import load_training_data
from ddpm_from_scratch.data.images import DataError
from ddpm_from_scratch.training.config import TrainingConfig

SIZE = 4


@dataclass(frozen=True)
class Shape:
    """One shape of a folder, archive or list.

    Args:
        what: it is, for people.
        files: to write: "cat/1.png" is a picture in the format of its ending, "notes.txt=words" a text,
            "a -> b" a link, "cat/" an empty folder, "x.png~gif" a picture in another format than its ending.
        used: pictures that are trained on; None if the command must refuse.
        says: regular expressions that must be in what it prints.
        labels: with --label_column label.
        given: what is given to train on.
        flags: more of them.
        then: makes more of it, in the folder that holds `given`.
        classes: names of the classes, if labels were asked for.
    """

    what: str
    files: tuple[str, ...]
    used: int | None
    says: tuple[str, ...] = ()
    labels: bool = False
    given: str = "photos"
    flags: dict[str, Any] = field(default_factory=dict)
    then: Callable[[Path], Any] | None = None
    classes: tuple[str, ...] | None = None


def picture(number: int, frames: int = 1) -> list[Image.Image]:
    """Return different pictures of noise."""
    generator = np.random.default_rng(number)
    return [Image.fromarray(generator.integers(0, 255, (6, 6, 3), np.uint8)) for _ in range(frames)]


FORMATS = {
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "jfif": "JPEG",
    "tif": "TIFF",
    "tiff": "TIFF",
    "jp2": "JPEG2000",
    "pgm": "PPM",
    "ppm": "PPM",
    "apng": "PNG",
    "": "PNG",
}


def write_picture(path: Path, number: int, form: str, frames: int = 1) -> None:
    """Write a picture, of several frames if asked for."""
    first, *more = picture(number, frames)
    if path.suffix == ".pgm":
        first = first.convert("L")
    options = {"save_all": True, "append_images": more} if more else {}
    first.save(path, format=FORMATS.get(form, form.upper()), **options)


def write(root: Path, files: tuple[str, ...], folder: str = "photos") -> None:
    """Write the files of a shape below a folder."""
    (root / folder).mkdir(exist_ok=True)
    for number, spec in enumerate(files):
        if " -> " in spec:
            name, _, target = spec.partition(" -> ")
            (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (root / folder / name).symlink_to(target)
            continue
        name, has_text, text = spec.partition("=")
        name, _, form = name.partition("~")
        path = root / folder / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if has_text:
            path.write_text(text)
        elif not name.endswith("/"):
            form, _, frames = (form or path.suffix[1:].lower()).partition("*")
            write_picture(path, number, form, int(frames or 1))


def zipped(name: str = "photos.zip", folder: str = "photos", around: str = "") -> Callable[[Path], None]:
    """Return a function that packs the folder into a zip."""

    def pack(root: Path) -> None:
        with zipfile.ZipFile(root / name, "w") as archive:
            for file in sorted((root / folder).rglob("*")):
                archive.write(file, around + str(file.relative_to(root / folder)))

    return pack


def packed_tar(root: Path) -> None:
    """Pack the folder into a tar, as `tar cf photos.tar -C photos .` does."""
    with tarfile.open(root / "photos.tar", "w") as archive:
        archive.add(root / "photos", ".")


def locked_zip(root: Path) -> None:
    """Write a zip whose one member says that it needs a password."""
    zipped()(root)
    content = bytearray((root / "photos.zip").read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + offset] |= 1
    (root / "photos.zip").write_bytes(content)


def cut_zip(root: Path) -> None:
    """Write the first half of a zip."""
    zipped()(root)
    content = (root / "photos.zip").read_bytes()
    (root / "photos.zip").write_bytes(content[: len(content) // 2])


def text(name: str, content: str) -> Callable[[Path], None]:
    """Return a function that writes a text file beside or in the folder."""
    return lambda root: (root / name).write_text(content) and None


def parquet_metadata(root: Path) -> None:
    """Write metadata.parquet into the folder."""
    import pyarrow
    import pyarrow.parquet

    columns = {"file_name": ["a.png", "b.png"], "label": ["x", "y"]}
    pyarrow.parquet.write_table(pyarrow.table(columns), root / "photos" / "metadata.parquet")


def fifo(root: Path) -> None:
    """Put a named pipe into the folder, which nobody writes to."""
    os.mkfifo(root / "photos" / "pipe.png")


def saved(*parts: str) -> Callable[[Path], None]:
    """Return a function that saves a data set of 10 rows a part by datasets' save_to_disk."""

    def save(root: Path) -> None:
        import datasets

        rows = [{"image": picture(number)[0], "label": number % 2} for number in range(10)]
        made = {part or "train": datasets.Dataset.from_list(rows, split=part or None) for part in parts}
        whole = made["train"] if parts == ("",) else datasets.DatasetDict(made)
        whole.save_to_disk(root / "saved")

    return save


PAIR = ("a.png", "b.png")
CLASSES = ("bus/1.png", "bus/2.png", "car/1.png", "car/2.png", "train/1.png", "train/2.png")
CAT_DOG = ("cat/1.png", "dog/1.png")
TABLE = "file_name,label\na.png,x\nb.png,y\n"

SHAPES = [
    # names without meaning
    Shape("seven pictures, one called train.png", ("train.png", *(f"{n}.png" for n in range(6))), 7),
    Shape("pictures all called test_*.png", ("test_1.png", "test_2.png"), 2),
    Shape("pictures all called val-*.jpg", ("val-1.jpg", "val-2.jpg"), 2),
    Shape("a picture called dev.png, one called eval.png", ("dev.png", "eval.png", "x.png"), 3),
    Shape(
        "class folders bus, car and train",
        CLASSES,
        6,
        ("bus 2, car 2, train 2",),
        True,
        classes=("bus", "car", "train"),
    ),
    Shape("the same without labels", CLASSES, 6),
    Shape(
        "class folders test and other",
        ("test/1.png", "other/1.png"),
        2,
        ("other 1, test 1",),
        True,
        classes=("other", "test"),
    ),
    Shape("folders train and test", ("train/1.png", "test/1.png"), 2, ("warning.*--dataset_split train",)),
    Shape(
        "folders train and test, without class folders",
        ("train/1.png", "test/1.png"),
        None,
        ("look like splits",),
        True,
    ),
    Shape(
        "folders train and test, one asked for",
        ("train/1.png", "train/2.png", "test/1.png"),
        2,
        (r"1 left out: test/1.png \(not in --dataset_split train",),
        flags={"dataset_split": "train"},
    ),
    Shape(
        "class folders in a split, the split asked for",
        ("train/cat/1.png", "train/dog/1.png", "test/cat/2.png"),
        2,
        ("cat 1, dog 1",),
        True,
        flags={"dataset_split": "train"},
        classes=("cat", "dog"),
    ),
    Shape(
        "a split that is not there",
        ("train/1.png", "test/1.png"),
        None,
        ("has test, train, all",),
        flags={"dataset_split": "validation"},
    ),
    Shape(
        "nine tenths of a folder",
        tuple(f"{n}.png" for n in range(10)),
        9,
        ("1 left out: 9.png",),
        flags={"dataset_split": "all[:90%]"},
    ),
    Shape(
        "two pictures of a split",
        tuple(f"train/{n}.png" for n in range(4)),
        2,
        ("2 left out",),
        flags={"dataset_split": "train[:2]"},
    ),
    # literal paths
    Shape(
        "a folder called set*",
        PAIR,
        2,
        given="set*",
        then=lambda root: (write(root, PAIR, "set*"), write(root, ("stranger.png",), "sets")),
    ),
    Shape(
        "a folder called [1]",
        PAIR,
        2,
        given="[1]",
        then=lambda root: (write(root, PAIR, "[1]"), write(root, ("stranger.png",), "1")),
    ),
    Shape(
        "a folder called what?",
        PAIR,
        2,
        given="what?",
        then=lambda root: (write(root, PAIR, "what?"), write(root, ("stranger.png",), "whats")),
    ),
    Shape("a folder called {a,b}", PAIR, 2, given="{a,b}", then=lambda root: write(root, PAIR, "{a,b}")),
    Shape(
        "names with * [ ] ? # % and ::", ("a*.png", "[b].png", "c?.png", "d#1.png", "e%20.png", "f::g.png"), 6
    ),
    Shape("names with blanks, accents and emoji", ("my photo.png", "é.png", "猫.png", "🙂.png"), 4),
    Shape("a name with a line break", ("a\nb.png", "c.png"), 2),
    Shape(
        "a hidden folder as the root",
        PAIR,
        2,
        given=".photos",
        then=lambda root: write(root, PAIR, ".photos"),
    ),
    # links
    Shape(
        "a folder that is a link",
        PAIR,
        2,
        given="here",
        then=lambda root: (root / "here").symlink_to("photos"),
    ),
    Shape(
        "class folders that are links",
        ("cat -> ../far/cat", "dog -> ../far/dog"),
        2,
        ("cat 1, dog 1",),
        True,
        then=lambda root: write(root, CAT_DOG, "far"),
        classes=("cat", "dog"),
    ),
    Shape(
        "pictures that are links",
        ("a.png -> ../far/cat/1.png", "b.png -> ../far/dog/1.png"),
        2,
        then=lambda root: write(root, CAT_DOG, "far"),
    ),
    Shape(
        "links to files without an ending, as the cache of the Hub has",
        ("a.png -> ../far/1f", "b.png -> ../far/2e"),
        2,
        then=lambda root: write(root, ("1f", "2e"), "far"),
    ),
    Shape("a link to the folder itself", (*PAIR, "loop -> ."), 2, ("loop/ .a link to a folder above",)),
    Shape("a link to the folder above", (*PAIR, "up -> .."), 2, ("up/ .a link to a folder above",)),
    Shape(
        "two folders that link to each other",
        ("a/1.png", "b/1.png", "a/b -> ../b", "b/a -> ../a"),
        2,
        ("2 left out.*listed already",),
    ),
    Shape(
        "a link to a folder that is there too", ("cat/1.png", "all -> cat"), 1, ("all/ .a link to what is",)
    ),
    Shape(
        "a link to a picture that is there too", ("a.png", "b.png -> a.png"), 1, ("b.png .a link to what is",)
    ),
    Shape("a link to nothing", ("a.png", "b.png -> gone.png"), 1, ("b.png .a link to nothing",)),
    # strangers
    Shape(
        "a text among pictures",
        (*PAIR, "notes.txt=words"),
        2,
        (r"3 found.*1 left out: notes.txt .no picture",),
    ),
    Shape(
        "files of systems",
        (*PAIR, ".DS_Store=x", "Thumbs.db=x", "__MACOSX/._a.png", ".ipynb_checkpoints/a.png"),
        2,
        ("4 left out.*hidden or of the system",),
    ),
    Shape(
        "a table and a JSON file beside pictures",
        (*PAIR, "scores.csv=a,b", "info.json={}"),
        2,
        ("2 left out: info.json, scores.csv .no picture",),
    ),
    Shape(
        "a film among pictures",
        (*PAIR, "clip.mp4=film", "clip.mpg=film"),
        2,
        ("clip.mp4, clip.mpg .no picture",),
    ),
    Shape("raw data of a camera", (*PAIR, "c.nef~tif"), 2, ("c.nef .raw data of a camera",)),
    Shape("a named pipe", PAIR, 2, ("pipe.png .no file",), then=fifo),
    Shape("a zip among pictures", (*PAIR, "more.zip=x"), 2, ("more.zip .an archive inside",)),
    Shape("an empty folder", (), None, ("holds no files",)),
    Shape("folders with nothing in them", ("cat/", "dog/"), None, ("holds no files|no pictures",)),
    Shape("texts only", ("a.txt=words", "b.md=words"), None, ("no pictures.*a.txt, b.md",)),
    Shape("zips only", ("a.zip=x",), None, ("a.zip .an archive inside: give it",)),
    Shape("no such folder", (), None, ("no such folder",), given="nowhere"),
    Shape("one picture in place of a folder", PAIR, None, ("a file; give a folder",), given="photos/a.png"),
    # formats
    Shape("PNG, JPEG, GIF, BMP, TIFF", ("a.png", "b.jpg", "c.jpeg", "d.gif", "e.bmp", "f.tif", "g.tiff"), 7),
    Shape("WebP, AVIF, QOI, JPEG 2000", ("a.webp", "b.avif", "c.qoi", "d.jp2"), 4),
    Shape(
        "PPM, PGM, TGA, ICO, SGI, PCX, DDS",
        ("a.ppm", "b.pgm", "c.tga", "d.ico", "e.sgi", "f.pcx", "g.dds"),
        7,
    ),
    Shape("endings in capitals", ("A.PNG", "B.JPG", "C.JpEg"), 3),
    Shape("files without an ending", ("1f", "2e~jpg", "3d~webp"), 3),
    Shape("a wrong ending", ("a.png~jpg", "b.jpg~webp", "c.dat~png", "d.txt~gif"), 4),
    Shape("a GIF of several frames", ("a.gif~gif*3", "b.gif"), 2, ("the first frame of a.gif",)),
    Shape("a TIFF of several pages", ("a.tif~tif*2", "b.tif"), 2, ("the first frame of a.tif",)),
    Shape(
        "an animated WebP and an animated PNG",
        ("a.webp~webp*2", "b.png~png*2"),
        2,
        ("the first frame of a.webp, b.png",),
    ),
    Shape("a picture of 0 bytes", ("a.png", "b.png="), None, ("b.png.*cannot be read as an image",)),
    Shape("a text that is called .jpg", ("a.png", "b.jpg=words"), None, ("b.jpg.*no known format",)),
    Shape(
        "a HEIC, which Pillow cannot read", ("a.png", "b.heic=ftypheic"), None, ("b.heic.*no known format",)
    ),
    Shape(
        "the same, passed over",
        ("a.png", "b.jpg=words"),
        2,
        ("passing over it: .*b.jpg",),
        flags={"skip_bad_images": 1},
    ),
    # classes
    Shape(
        "class folders, one of them empty",
        (*CAT_DOG, "eel/"),
        2,
        ("nothing in eel/",),
        True,
        classes=("cat", "dog"),
    ),
    Shape(
        "a loose picture beside class folders", (*CAT_DOG, "x.png"), None, ("loose pictures: x.png",), True
    ),
    Shape("the same without labels", (*CAT_DOG, "x.png"), 3),
    Shape("loose pictures only", PAIR, None, ("no class folders",), True),
    Shape(
        "class folders with folders in them",
        ("cat/a/1.png", "cat/2.png", "dog/b/c/1.png"),
        3,
        ("cat 2, dog 1",),
        True,
        classes=("cat", "dog"),
    ),
    Shape(
        "one folder around the class folders",
        ("all/cat/1.png", "all/dog/1.png"),
        2,
        ("cat 1, dog 1",),
        True,
        classes=("cat", "dog"),
    ),
    Shape(
        "class folders called 10, 9 and 1",
        ("10/a.png", "9/a.png", "1/a.png"),
        3,
        ("1 1, 10 1, 9 1",),
        True,
        classes=("1", "10", "9"),
    ),
    Shape(
        "another column than label",
        CAT_DOG,
        None,
        ("'kind'.*the columns image, label",),
        flags={"label_column": "kind"},
    ),
    # metadata
    Shape(
        "metadata.csv with labels",
        PAIR,
        2,
        ("x 1, y 1",),
        True,
        then=text("photos/metadata.csv", TABLE),
        classes=("x", "y"),
    ),
    Shape(
        "a picture without a row, without labels",
        (*PAIR, "c.png"),
        3,
        then=text("photos/metadata.csv", TABLE),
    ),
    Shape(
        "a picture without a row, with labels",
        (*PAIR, "c.png"),
        2,
        ("c.png .no row in the metadata",),
        True,
        then=text("photos/metadata.csv", TABLE),
        classes=("x", "y"),
    ),
    Shape(
        "a row without a picture",
        ("a.png",),
        1,
        ("a row of the metadata, but no picture: b.png",),
        True,
        then=text("photos/metadata.csv", TABLE),
        classes=("x",),
    ),
    Shape(
        "a row without a label",
        PAIR,
        None,
        ("no value for b.png",),
        True,
        then=text("photos/metadata.csv", "file_name,label\na.png,x\nb.png,\n"),
    ),
    Shape(
        "metadata.jsonl with whole numbers",
        PAIR,
        2,
        ("3 1, 11 1",),
        True,
        classes=("3", "11"),
        then=text(
            "photos/metadata.jsonl", '{"file_name": "a.png", "label": 11}\n{"file_name": "b.png", "label": 3}'
        ),
    ),
    Shape("metadata.parquet", PAIR, 2, ("x 1, y 1",), True, then=parquet_metadata, classes=("x", "y")),
    Shape(
        "metadata with semicolons and a byte-order mark",
        PAIR,
        2,
        ("x 1, y 1",),
        True,
        classes=("x", "y"),
        then=text("photos/metadata.csv", "\ufefffile_name;label\na.png;x\nb.png;y\n"),
    ),
    Shape(
        "metadata in a folder below",
        ("in/a.png", "in/b.png"),
        2,
        ("x 1, y 1",),
        True,
        classes=("x", "y"),
        then=text("photos/in/metadata.csv", TABLE),
    ),
    Shape(
        "metadata without file_name",
        PAIR,
        2,
        ("metadata.csv .a table without file_name",),
        then=text("photos/metadata.csv", "id,label\n1,x\n"),
    ),
    Shape(
        "labels that are fractions",
        PAIR,
        None,
        ("0.5.*whole numbers or texts",),
        True,
        then=text("photos/metadata.csv", "file_name,label\na.png,0.5\nb.png,1\n"),
    ),
    Shape(
        "labels that are numbers of rows",
        tuple(f"{n}.png" for n in range(6)),
        6,
        ("warning.*nearly each with one",),
        True,
        then=text("photos/metadata.csv", "file_name,label\n" + "".join(f"{n}.png,{n}\n" for n in range(6))),
        classes=tuple("012345"),
    ),
    Shape(
        "labels that are whole numbers, written with a point",
        PAIR,
        2,
        ("0 1, 1 1",),
        True,
        classes=("0", "1"),
        then=text("photos/metadata.csv", "file_name,label\na.png,1.0\nb.png,0.0\n"),
    ),
    Shape(
        "labels with leading zeros",
        PAIR,
        2,
        ("007 1, 1 1",),
        True,
        classes=("007", "1"),
        then=text("photos/metadata.csv", "file_name,label\na.png,007\nb.png,1\n"),
    ),
    Shape(
        "labels that are true and false",
        PAIR,
        2,
        ("False 1, True 1",),
        True,
        classes=("False", "True"),
        then=text(
            "photos/metadata.jsonl",
            '{"file_name": "a.png", "label": true}\n{"file_name": "b.png", "label": false}',
        ),
    ),
    Shape(
        "labels of two kinds",
        PAIR,
        None,
        ("values of several kinds",),
        True,
        then=text(
            "photos/metadata.jsonl",
            '{"file_name": "a.png", "label": 1}\n{"file_name": "b.png", "label": "one"}',
        ),
    ),
    Shape(
        "labels that are lists",
        PAIR,
        None,
        ("values that are no labels",),
        True,
        then=text(
            "photos/metadata.jsonl",
            '{"file_name": "a.png", "label": [1]}\n{"file_name": "b.png", "label": [2]}',
        ),
    ),
    Shape(
        "a label that is not a number",
        PAIR,
        None,
        ("no value for b.png",),
        True,
        then=text(
            "photos/metadata.jsonl",
            '{"file_name": "a.png", "label": 1}\n{"file_name": "b.png", "label": NaN}',
        ),
    ),
    Shape(
        "a picture with two different rows",
        PAIR,
        None,
        ("names 'a.png', which has another row",),
        True,
        then=text("photos/metadata.csv", TABLE + "a.png,z\n"),
    ),
    # archives
    Shape(
        "a zip of class folders",
        CAT_DOG,
        2,
        ("cat 1, dog 1",),
        True,
        "photos.zip",
        then=zipped(),
        classes=("cat", "dog"),
    ),
    Shape(
        "a zip with one folder around them",
        CAT_DOG,
        2,
        ("cat 1, dog 1",),
        True,
        "photos.zip",
        then=zipped(around="photos/"),
        classes=("cat", "dog"),
    ),
    Shape(
        "a zip with names of any kind",
        ("a*.png", "é b.png", "c::d.png", "notes.txt=words"),
        3,
        ("notes.txt .no picture",),
        given="photos.zip",
        then=zipped(),
    ),
    Shape(
        "a zip with metadata.csv",
        (*PAIR, f"metadata.csv={TABLE}"),
        2,
        ("x 1, y 1",),
        True,
        "photos.zip",
        then=zipped(),
        classes=("x", "y"),
    ),
    Shape("a zip called [1].zip", PAIR, 2, given="[1].zip", then=zipped("[1].zip")),
    Shape(
        "a tar of class folders",
        CAT_DOG,
        2,
        ("cat 1, dog 1",),
        True,
        "photos.tar",
        then=packed_tar,
        classes=("cat", "dog"),
    ),
    Shape(
        "half of a zip", PAIR, None, ("photos.zip.*File is not a zip file",), given="photos.zip", then=cut_zip
    ),
    Shape(
        "a zip with a password", ("a.png",), None, ("a.png.*password",), given="photos.zip", then=locked_zip
    ),
    Shape(
        "a tar.gz",
        (),
        None,
        ("must be unpacked first",),
        given="photos.tar.gz",
        then=text("photos.tar.gz", "x"),
    ),
    # lists
    Shape(
        "a CSV of paths",
        PAIR,
        2,
        given="list.csv",
        then=text("list.csv", "path\nphotos/a.png\nphotos/b.png\n"),
    ),
    Shape(
        "a CSV of paths and labels",
        PAIR,
        2,
        ("x 1, y 1",),
        True,
        "list.csv",
        classes=("x", "y"),
        then=text("list.csv", "image,label\nphotos/a.png,x\n./photos/b.png,y\n"),
    ),
    Shape(
        "JSON lines of paths",
        PAIR,
        2,
        given="list.jsonl",
        then=text("list.jsonl", '{"file_name": "photos/a.png"}\n{"file_name": "photos/b.png"}\n'),
    ),
    Shape(
        "a path in the list that is not there",
        PAIR,
        None,
        ("gone.png.*No such file",),
        given="list.csv",
        then=text("list.csv", "path\nphotos/a.png\ngone.png\n"),
    ),
    Shape(
        "addresses in the list",
        PAIR,
        None,
        ("row 1.*https://x/a.png.*download",),
        given="list.csv",
        then=text("list.csv", "path\nhttps://x/a.png\n"),
    ),
    Shape(
        "a list with a row cut short",
        PAIR,
        None,
        ("row 2, has 1 cells",),
        given="list.csv",
        then=text("list.csv", "path,label\nphotos/a.png,x\nphotos/b.png\n"),
    ),
    # saved by datasets
    Shape("a data set on disk", (), 10, given="--dataset_name saved", then=saved("")),
    Shape(
        "its own split by name",
        (),
        10,
        given="--dataset_name saved",
        then=saved(""),
        flags={"dataset_split": "train"},
    ),
    Shape(
        "a slice of it",
        (),
        3,
        given="--dataset_name saved",
        then=saved(""),
        flags={"dataset_split": "train[:3]"},
    ),
    Shape(
        "a split that it has not",
        (),
        None,
        ("'nonsense'.*has train",),
        given="--dataset_name saved",
        then=saved(""),
        flags={"dataset_split": "nonsense"},
    ),
    Shape(
        "two splits on disk, one asked for",
        (),
        10,
        given="--dataset_name saved",
        then=saved("train", "test"),
        flags={"dataset_split": "test"},
    ),
    Shape(
        "two splits on disk, both asked for",
        (),
        15,
        given="--dataset_name saved",
        then=saved("train", "test"),
        flags={"dataset_split": "train+test[:50%]"},
    ),
    Shape("a folder of pictures as --dataset_name", ("train.png", "b.png"), 2, given="--dataset_name photos"),
]


@dataclass(frozen=True)
class Outcome:
    """What became of a shape: pictures used, None if refused; what was printed; names of the classes."""

    used: int | None
    printed: str
    classes: tuple[str, ...] | None = None


def outcome(shape: Shape, **flags: Any) -> Outcome:
    """Write a shape into a folder of its own, read it, and return what happened.

    Args:
        shape: to try.
        flags: more settings.
    """
    with tempfile.TemporaryDirectory() as root, contextlib.chdir(root):
        write(Path(root), shape.files)
        if shape.then is not None:
            shape.then(Path(root))
        named = shape.given.removeprefix("--dataset_name ")
        source = "train_data_dir" if named == shape.given else "dataset_name"
        settings = {source: named, "label_column": "label" if shape.labels else None, "cache_dir": root}
        printed = io.StringIO()
        with (
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            try:
                data = load_training_data(TrainingConfig(**(settings | shape.flags | flags)), SIZE, 3)
            except DataError as error:
                return Outcome(None, f"error: {error}")
        lines = printed.getvalue().replace("\r", "\n").splitlines()
        said = [line for line in lines if line and "decoding" not in line]
        names = None if data.class_names is None else tuple(data.class_names)
        return Outcome(
            data.num_samples, " ".join(re.sub(r"^\S+: (?=warning: )", "", line) for line in said), names
        )


def verdict(shape: Shape) -> tuple[str, str]:
    """Return how a shape is answered, in the words of tests/claims/bad_inputs.py, and what is printed."""
    try:
        result = outcome(shape)
    except Exception as error:
        return ("obscure" if shape.used is None else "refused"), f"{type(error).__name__}: {error}"
    says = all(re.search(part, result.printed) for part in shape.says)
    if shape.used is None:
        kind = "silent" if result.used is not None else "clear" if says else "obscure"
    elif result.used is None:
        kind = "refused"
    else:
        is_right = says and not is_silent(shape, result)
        kind = (
            "right" if is_right and (result.used, result.classes) == (shape.used, shape.classes) else "wrong"
        )
    return kind, result.printed


def is_silent(shape: Shape, result: Outcome) -> bool:
    """Return whether files are neither used nor counted as left out."""
    counted = re.search(r"data: (\d+) found in .*?, (\d+) used", result.printed)
    if counted is None or result.used is None:
        return result.used is not None and not shape.given.startswith("--dataset_name")
    left_out = re.search(r"(\d+) left out", result.printed)
    return int(counted[1]) != int(counted[2]) + int(left_out[1] if left_out else 0)


def _plain(words: str) -> str:
    """Return words as Markdown shows them as they are."""
    return re.sub(r"([*|\[\]_<>])", r"\\\1", words)


def markdown() -> str:
    """Return the table."""
    lines = ["| what is given | flags | what happens |", "|---|---|---|"]
    for shape in SHAPES:
        flags = {"label_column": "label"} if shape.labels else {}
        shown = " ".join(f"`--{name} {value}`" for name, value in (flags | shape.flags).items())
        result = outcome(shape)
        said = result.printed or f"{result.used} rows are used"
        lines.append(f"| {_plain(shape.what)} | {shown} | {_plain(said)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
