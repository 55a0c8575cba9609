"""What happens to arrays, tables of pixels and deep pictures: the table of docs/arrays.md.

    python tests/claims/array_shapes.py    prints the table; each row is tried

Each is written into an empty folder and read as train.py reads it.
"""

import base64
import contextlib
import gzip
import io
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddpm_from_scratch.data.datasets import load_training_data
from ddpm_from_scratch.runtime.errors import ConfigError
from ddpm_from_scratch.training.config import TrainingConfig

SIDE = 8


@dataclass(frozen=True)
class Shape:
    """One shape of data.

    Args:
        what: it is, for people.
        write: writes it into a folder and returns its name there.
        sample: (C, H, W) of what is trained on; None if the command must refuse.
        levels: of the likelihood; None for fractions.
        says: regular expression that must be in what is printed, or in the error.
        flags: of the command.
        count: of pictures.
        of_dataset: whether it is given as --dataset_name.
    """

    what: str
    write: Callable[[Path], str]
    sample: tuple[int, ...] | None
    levels: int | None = 256
    says: str = ""
    flags: dict[str, Any] = field(default_factory=dict)
    count: int = 6
    of_dataset: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of a shape: the data or an error, and what was printed."""

    data: Any
    printed: str


def numbers(*shape: int, high: int = 256, kind: Any = np.uint8) -> np.ndarray:
    """Return whole numbers from 0 to high - 1, both of which occur."""
    array = np.random.default_rng(len(shape)).integers(0, high, shape)
    array.flat[0], array.flat[-1] = 0, high - 1
    return array.astype(kind)


def npy(array: np.ndarray) -> Callable[[Path], str]:
    """Return a function that writes an .npy."""
    return lambda root: np.save(root / "pictures.npy", array) or "pictures.npy"


def npz(**arrays: np.ndarray) -> Callable[[Path], str]:
    """Return a function that writes an .npz."""
    return lambda root: np.savez(root / "pictures.npz", **arrays) or "pictures.npz"  # type: ignore[arg-type]


def table(array: Any, names: str = "", name: str = "pictures.csv", **options: Any) -> Callable[[Path], str]:
    """Return a function that writes a table of numbers."""

    def write(root: Path) -> str:
        text = io.StringIO()
        np.savetxt(
            text, array, **({"fmt": "%s", "delimiter": ",", "header": names, "comments": ""} | options)
        )
        content = text.getvalue().lstrip("\n").encode()
        (root / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        return name

    return write


def content(name: str, data: bytes) -> Callable[[Path], str]:
    """Return a function that writes a file."""
    return lambda root: (root / name).write_bytes(data) and name or name


def pictures(*arrays: np.ndarray, ending: str = "png") -> Callable[[Path], str]:
    """Return a function that writes a folder of pictures."""

    def write(root: Path) -> str:
        (root / "photos").mkdir()
        for number, array in enumerate(arrays):
            Image.fromarray(array).save(root / "photos" / f"{number}.{ending}")
        return "photos"

    return write


def arrays(*of: np.ndarray, classes: tuple[str, ...] = ("",)) -> Callable[[Path], str]:
    """Return a function that writes a folder of .npy, in class folders if asked for."""

    def write(root: Path) -> str:
        for number, array in enumerate(of):
            folder = root / "photos" / classes[number % len(classes)]
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / f"{number}.npy", array)
        return "photos"

    return write


def pgm(highest: int) -> Callable[[Path], str]:
    """Return a function that writes a folder of PGM files of 16 bits."""

    def write(root: Path) -> str:
        (root / "photos").mkdir()
        for number in range(6):
            data = numbers(SIDE, SIDE, high=highest + 1, kind=">u2").tobytes()
            (root / "photos" / f"{number}.pgm").write_bytes(b"P5\n8 8\n%d\n" % highest + data)
        return "photos"

    return write


def column(values: Any, feature: str = "") -> Callable[[Path], str]:
    """Return a function that saves a data set with one column by datasets' save_to_disk."""

    def write(root: Path) -> str:
        import datasets

        features = datasets.Features({"image": eval(feature, vars(datasets))}) if feature else None
        rows = datasets.Dataset.from_dict({"image": values}, features=features)
        with contextlib.redirect_stderr(io.StringIO()):
            rows.save_to_disk(root / "rows")
        return "rows"

    return write


def encoded(array: np.ndarray) -> bytes:
    """Return a picture as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png")
    return file.getvalue()


GREY, COLOUR = numbers(6, SIDE, SIDE), numbers(6, SIDE, SIDE, 3)
DEEP = numbers(6, SIDE, SIDE, high=65536, kind=np.uint16)
TWELVE = numbers(6, SIDE, SIDE, high=4096, kind=np.uint16)
FLOATS = DEEP / 65535
LABELS = np.array([0, 1, 2, 0, 1, 2])
FLAT = GREY.reshape(6, -1)
WITH_FIRST = np.concatenate([LABELS[:, None], FLAT], axis=1)
WITH_LAST = np.concatenate([FLAT, LABELS[:, None]], axis=1)
NAMES = ",".join(f"pixel{number}" for number in range(64))
G, RGB = (1, SIDE, SIDE), (3, SIDE, SIDE)
LABEL = {"label_column": "label"}
OBJECTS = np.array([{}, []], dtype=object)
NAN = np.where(np.arange(64).reshape(SIDE, SIDE) == 9, np.nan, FLOATS)
PICKLE = b"\x80\x04]\x94(K\x01K\x02e."

SHAPES = [
    # .npy
    Shape(".npy (N, H, W)", npy(GREY), G),
    Shape(".npy (N, H, W, 3)", npy(COLOUR), RGB),
    Shape(".npy (N, 3, H, W)", npy(COLOUR.transpose(0, 3, 1, 2)), RGB),
    Shape(".npy (N, 1, H, W)", npy(GREY[:, None]), G),
    Shape(".npy (N, H, W, 4)", npy(numbers(6, SIDE, SIDE, 4)), (4, SIDE, SIDE)),
    Shape(".npy (N, H, W, 5)", npy(numbers(6, SIDE, SIDE, 5)), None, says="--channels"),
    Shape(".npy (N, H, W, 5)", npy(numbers(6, SIDE, SIDE, 5)), (5, SIDE, SIDE), flags={"channels": 5}),
    Shape(".npy (N, pixels)", npy(FLAT), G),
    Shape(".npy (N, pixels), no square", npy(FLAT[:, :63]), None, says="63 numbers .* no square"),
    Shape(".npy in Fortran's order", npy(np.asfortranarray(COLOUR)), RGB),
    Shape(".npy, a slice of it", npy(GREY), G, flags={"dataset_split": "train[:50%]"}, count=3),
    Shape(".npy, a split that is not there", npy(GREY), None, says="'test'", flags={"dataset_split": "test"}),
    Shape(".npy of one picture (64, 48, 3)", npy(numbers(64, 48, 3)), None, says="is one picture"),
    Shape(".npy of a single number", npy(np.array(7)), None, says=r"shape \(\)"),
    Shape(".npy of films (N, T, H, W, 3)", npy(numbers(2, 3, 8, 8, 3)), None, says=r"shape \(2, 3, 8"),
    Shape(".npy without pictures", npy(GREY[:0]), None, says="at least one picture"),
    Shape(".npy of lines", npy(numbers(3, 2, 500)), None, says="100 times"),
    Shape(".npy of objects", npy(OBJECTS), None, says="Python objects"),
    Shape(".npy of texts", npy(np.full((6, 8, 8), "a")), None, says="array of <U1"),
    Shape(".npy of dates", npy(np.zeros((6, 8, 8), "M8[s]")), None, says="datetime64"),
    Shape(".npy of complex numbers", npy(FLOATS * 1j), None, says="complex128"),
    Shape(".npy, labels asked for", npy(GREY), None, says="pictures only", flags=LABEL),
    Shape(".npy, empty", content("a.npy", b""), None, says="cannot be read"),
    Shape(".npy, a text", content("a.npy", b"no array"), None, says="no file of numpy"),
    Shape(".npy, a pickle", content("a.npy", PICKLE), None, says="Python objects"),
    # folders of .npy
    Shape("a folder of .npy (H, W)", arrays(*GREY), G),
    Shape("a folder of .npy (3, H, W)", arrays(*COLOUR.transpose(0, 3, 1, 2)), RGB),
    Shape("class folders of .npy", arrays(*DEEP, classes=("cat", "dog")), G, 65536, flags=LABEL),
    Shape("a folder of .npy of floats", arrays(*FLOATS), None, says="float64 from 0 to 1.*--value_range 0 1"),
    Shape("a folder of .npy, one of objects", arrays(*GREY, OBJECTS), None, says="6.npy.*allow_pickle"),
    # numbers
    Shape("8 bits as int64", npy(GREY.astype(np.int64)), G),
    Shape("16 bits", npy(DEEP), G, 65536),
    Shape("16 bits, big end first", npy(DEEP.astype(">u2")), G, 65536),
    Shape("yes and no", npy(GREY > 127), G, 2),
    Shape("whole numbers to 4095 as int16", npy(TWELVE.astype(np.int16)), None, says="int16 from 0 to 4095"),
    Shape("the same", npy(TWELVE.astype(np.int16)), G, 4096, flags={"value_range": (0, 4095)}),
    Shape(
        "12 bits in 16", npy(TWELVE), G, 65536, "warning: .* small part of .*--value_range 0 4095"
    ),
    Shape("the same", npy(TWELVE), G, 4096, flags={"value_range": (0, 4095)}),
    Shape("0 to 16 in 8 bits", npy(GREY // 16), G, 256, "warning: .*--value_range 0 15"),
    Shape("masks of 0 and 1", npy(GREY // 128), G, 256, "warning: .*--value_range 0 1"),
    Shape("masks of 0 and 1", npy(GREY // 128), G, 2, flags={"value_range": (0, 1)}),
    Shape("from -1024 to 3071", npy(TWELVE.astype(np.int16) - 1024), G, 4096,
          flags={"value_range": (-1024, 3071)}),
    Shape("floats", npy(FLOATS), None, says="float64 from 0 to 1.*--value_range 0 1"),
    Shape("floats", npy(FLOATS), G, None, flags={"value_range": (0, 1)}),
    Shape("floats in half precision", npy(FLOATS.astype(np.float16)), G, None, flags={"value_range": (0, 1)}),
    Shape("floats outside the range", npy(FLOATS * 2), None, says="to 1.9.*, but must be in 0 to 1",
          flags={"value_range": (0, 1)}),
    Shape("floats with nan", npy(NAN), None, says="not finite", flags={"value_range": (0, 1)}),
    Shape("a range the wrong way round", npy(FLOATS), None, says="--value_range is 1 0",
          flags={"value_range": (1, 0)}),
    # .npz
    Shape(".npz, images and labels", npz(images=GREY, labels=LABELS), G, flags=LABEL),
    Shape(".npz, x and y", npz(x=COLOUR, y=LABELS), RGB, flags=LABEL),
    Shape(".npz, data and target, of scikit-learn", npz(data=FLAT, target=LABELS), G, flags=LABEL),
    Shape(".npz without names", npz(arr_0=GREY, arr_1=LABELS), G, flags=LABEL),
    Shape(".npz, x_train and x_test, as mnist.npz", npz(x_train=GREY, y_train=LABELS, x_test=GREY[:2]), G,
          flags=LABEL),
    Shape("the same", npz(x_train=GREY, y_train=LABELS, x_test=GREY[:2]), G, flags={"dataset_split": "test"},
          count=2),
    Shape(".npz, train_images, train_labels (N, 1)", npz(train_images=COLOUR, train_labels=LABELS[:, None]),
          RGB, flags=LABEL),
    Shape(".npz, images and x", npz(images=GREY, x=GREY), None, says="images, x: give --image_column"),
    Shape(".npz, images and x", npz(images=GREY, x=GREY), G, flags={"image_column": "x"}),
    Shape(".npz, other names", npz(a=GREY, b=LABELS), None, says="arrays a, b, .*--image_column"),
    Shape(".npz, other names", npz(a=GREY, b=LABELS), G, flags={"image_column": "a", "label_column": "b"}),
    Shape(".npz, other names, a split", npz(a=GREY, b=LABELS), None, says="'test', but --image_column",
          flags={"image_column": "a", "dataset_split": "test"}),
    Shape(".npz, fewer labels than pictures", npz(images=GREY, y=LABELS[:4]), None, says="6 pictures",
          flags=LABEL),
    Shape(".npz, objects", npz(images=OBJECTS), None, says="Python objects"),
    Shape(".npz, cut off", content("a.npz", b"PK\x03\x04 and no more"), None, says="cut off"),
    # tables of pixels
    Shape("CSV, label,pixel0,...", table(WITH_FIRST, "label," + NAMES), G, flags=LABEL),
    Shape("the same without labels", table(WITH_FIRST, "label," + NAMES), G),
    Shape("CSV, compressed", table(WITH_FIRST, "label," + NAMES, "pictures.csv.gz"), G, flags=LABEL),
    Shape("TSV", table(FLAT, NAMES.replace(",", "\t"), "pictures.tsv", delimiter="\t"), G),
    Shape("CSV, blanks between numbers", table(FLAT, delimiter=" "), G),
    Shape("CSV without names", table(FLAT), G),
    Shape("CSV without names, a label first", table(WITH_FIRST), None, says="one more than pixels"),
    Shape("CSV without names, a label first", table(WITH_FIRST), G, flags={"label_column": "0"}),
    Shape("CSV without names, a label last", table(WITH_LAST), G, flags={"label_column": "64"}),
    Shape("CSV with names 0 to 63, of pandas", table(FLAT, ",".join(map(str, range(64)))), G),
    Shape("CSV with names r0, ..., g0, ..., b0, ...",
          table(numbers(6, 192), ",".join(f"{c}{n}" for c in "rgb" for n in range(64))), RGB,
          flags={"channels": 3}),
    Shape("CSV of fractions", table(FLOATS.reshape(6, -1)), G, None, flags={"value_range": (0, 1)}),
    Shape("CSV of 0 to 16", table(FLAT // 16), G, 17, flags={"value_range": (0, 16)}),
    Shape("CSV, colours plane after plane", table(numbers(6, 192)), RGB, flags={"channels": 3}),
    Shape("CSV, 60 numbers a line", table(FLAT[:, :60]), None, says="60 numbers .* no square"),
    Shape("CSV, a gap", content("a.csv", b"1,2,3,4,5,6,7,8,9\n1,,3,4,5,6,7,8,9\n"), None, says="in line 2"),
    Shape("CSV, a line cut short", content("a.csv", b"1,2,3,4\n1,2,3,4\n1,2\n"), None,
          says="lines of one length"),
    Shape("CSV, empty", content("a.csv", b""), None, says="empty"),
    # pictures
    Shape("PNG of 16 bits", pictures(*DEEP), RGB, 65536),
    Shape("TIFF of 16 bits", pictures(*DEEP, ending="tif"), G, 65536, flags={"channels": 1}),
    Shape("PNG of 12 bits in 16", pictures(*TWELVE), G, 65536, "warning: .*--value_range 0 4095",
          {"channels": 1}),
    Shape("PGM of 16 bits", pgm(65535), G, 65536, flags={"channels": 1}),
    Shape("PGM that says 4095", pgm(4095), G, 4096, flags={"channels": 1}),
    Shape("TIFF of 32-bit whole numbers", pictures(*DEEP.astype(np.int32), ending="tif"), None,
          says="int32 from 0 to 65535.*--value_range 0 65535"),
    Shape("TIFF of floats", pictures(*FLOATS.astype(np.float32), ending="tif"), None,
          says="float32 from 0 to 1.*--value_range 0 1"),
    Shape("TIFF of floats", pictures(*FLOATS.astype(np.float32), ending="tif"), G, None,
          flags={"channels": 1, "value_range": (0, 1)}),
    Shape("8 and 16 bits mixed", pictures(*GREY[:3], *DEEP[:3]), G, 65536, flags={"channels": 1}),
    # columns
    Shape("a column Array2D, uint8", column(GREY, "Array2D((8, 8), 'uint8')"), G, of_dataset=True),
    Shape("a column Array3D (3, H, W), uint16",
          column(numbers(6, 3, 8, 8, high=65536, kind=np.uint16), "Array3D((3, 8, 8), 'uint16')"), RGB, 65536,
          of_dataset=True),
    Shape("a column of lists in lists", column(GREY.tolist()), G, of_dataset=True),
    Shape("a column of lists of floats", column(FLOATS.tolist()), None, says="float64 from 0 to 1",
          of_dataset=True),
    Shape("a column of lists of different lengths", column([[[1, 2], [3]]] * 6), None, says="not an array",
          of_dataset=True),
    Shape("a column of bytes", column([encoded(array) for array in COLOUR]), RGB, of_dataset=True),
    Shape("a column of base64", column([base64.b64encode(encoded(a)).decode() for a in COLOUR]), RGB,
          of_dataset=True),
    Shape("a column of data: addresses",
          column([f"data:image/png;base64,{base64.b64encode(encoded(a)).decode()}" for a in COLOUR]), RGB,
          of_dataset=True),
    Shape("a column of words", column(["cat"] * 6), None, says="image 0 cannot be read.*cat",
          of_dataset=True),
    Shape("a column of numbers", column([1, 2, 3]), None, says="image 0 is 1", of_dataset=True),
]  # fmt: skip


def read(shape: Shape) -> Outcome:
    """Write a shape into an empty folder and read it.

    Raises:
        Exception: the command would end in it.
    """
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        said = io.StringIO()
        os.chdir(folder)
        try:
            name = shape.write(Path(folder))
            given = {"dataset_name" if shape.of_dataset else "train_data_dir": name}
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                config = TrainingConfig(**given, **shape.flags, cache_dir="cache")
                data = load_training_data(config, SIDE, config.channels)
        finally:
            os.chdir(before)
    lines = [line for line in said.getvalue().splitlines() if "warning: " in line]
    return Outcome(data, " ".join(line[line.index("warning: ") :] for line in lines))


def is_right(shape: Shape, outcome: Outcome) -> bool:
    """Return whether a shape that is to be trained on was read as it should be, and no word said else."""
    data = outcome.data
    values = data.dataset.plain(range(data.num_samples))
    return (
        data.num_samples == shape.count
        and data.sample_shape == shape.sample == tuple(values.shape[1:])
        and data.levels == shape.levels
        and (float(values.min()) == -1 or "-1024" in shape.what or "half" in shape.what)
        and float(values.max()) <= 1
        and bool(outcome.printed) == bool(shape.says)
    )


def verdict(shape: Shape) -> tuple[str, str]:
    """Return how a shape is answered, in the words of tests/claims/bad_inputs.py, and what is printed."""
    is_bad = shape.sample is None
    try:
        outcome = read(shape)
    except Exception as error:
        said = str(error)
        is_clear = isinstance(error, ConfigError) and re.search(shape.says, said) and "\n" not in said
        return (
            "clear" if is_clear else "obscure"
        ) if is_bad else "refused", f"{type(error).__name__}: {said}"
    if is_bad:
        return "silent", outcome.printed
    as_should_be = is_right(shape, outcome) and re.search(shape.says, outcome.printed)
    return "right" if as_should_be else "wrong", outcome.printed


def cell(text: str) -> str:
    """Return text for a cell of a Markdown table."""
    for mark in "|*_[]<>":
        text = text.replace(mark, "\\" + mark)
    return text


def markdown() -> str:
    """Return the table."""
    lines = ["| what is given | flags | what happens |", "|---|---|---|"]
    for shape in SHAPES:
        flags = " ".join(
            f"`--{name} {' '.join(map(str, value)) if isinstance(value, tuple) else value}`"
            for name, value in shape.flags.items()
        )
        try:
            outcome = read(shape)
            levels = "fractions" if outcome.data.levels is None else f"{outcome.data.levels} levels"
            happens = f"{outcome.data.num_samples} of {outcome.data.sample_shape}, {levels}"
            happens += f"; {outcome.printed}" if outcome.printed else ""
        except ValueError as error:
            happens = re.sub(r"/\S*?/tmp\w+/", "", f"error: {error}")
        lines.append(f"| {cell(shape.what)} | {flags} | {cell(happens)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
