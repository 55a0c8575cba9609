"""Images to train on in benchmarks, as users have them: PIL images, and an encoded data set.

`python benchmarks/pictures.py FOLDER` writes 8,000 printed digits of 16 pixels as PNG files into a folder;
with `--emoji FONT`, the emoji of a colour font of 109 pixels (Debian's NotoColorEmoji.ttf) at 32. `--classes`
keeps those of four kinds, each in a folder of its own.
"""

import argparse
import io
import random
from functools import cache
from pathlib import Path

import datasets
import matplotlib
import numpy as np
import torch
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

from ddpm_from_scratch.data.datasets import load_digits

# Fonts that matplotlib ships and that have upright or slanted digits.
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *("DejaVuSansMono", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    *("cmr10", "cmb10", "cmss10", "cmtt10"),
)

# Kind of emoji -> its code points, in blocks of Unicode.
KINDS = {
    "faces": (*range(0x1F600, 0x1F638), *range(0x1F910, 0x1F930), *range(0x1F970, 0x1F97B)),
    "animals": (*range(0x1F400, 0x1F440), *range(0x1F980, 0x1F9AF)),
    "food": (*range(0x1F344, 0x1F380), *range(0x1F950, 0x1F970), *range(0x1F9C0, 0x1F9CC)),
    "vehicles": (*range(0x1F680, 0x1F6A5), *range(0x1F6F0, 0x1F6FD)),
}


def to_images(samples: torch.Tensor) -> list[Image.Image]:
    """Return grey images of samples in [-1, 1], shape (N, 1, H, W)."""
    levels = ((samples[:, 0] + 1) * 127.5).round().to(torch.uint8).numpy()
    return [Image.fromarray(image) for image in levels]


def digit_images() -> list[Image.Image]:
    """Return the training digits as grey 8x8 images."""
    return to_images(load_digits()[0])


def drawn_images(number: int = 1024, side: int = 32, seed: int = 0) -> list[Image.Image]:
    """Return pictures of coloured shapes on coloured ground."""
    generator = np.random.default_rng(seed)
    images = []
    for _ in range(number):
        ground, first, second = (tuple(map(int, generator.integers(0, 256, 3))) for _ in range(3))
        image = Image.new("RGB", (2 * side, 2 * side), ground)
        draw = ImageDraw.Draw(image)
        for colour, shape in ((first, draw.ellipse), (second, draw.rectangle)):
            x, y, width, height = map(int, generator.integers(side // 4, side, 4))
            shape((x, y, x + width, y + height), fill=colour)
        images.append(image.resize((side, side), Image.Resampling.LANCZOS))
    return images


def glyphs(number: int, seed: int, side: int = 28) -> tuple[torch.Tensor, torch.Tensor]:
    """Return printed digits of many fonts, sizes, angles and places, and which digit each is.

    Shape (N, 1, side, side) in [-1, 1], ink is 1; drawn at four times the size.
    """
    generator = random.Random(seed)
    images, labels = [], []
    for index in range(number):
        large = Image.new("L", (4 * side, 4 * side))
        size = round(4 * side * generator.uniform(0.55, 0.85))
        middle = tuple(2 * side + 4 * generator.uniform(-2, 2) for _ in range(2))
        ink = generator.randint(160, 255)
        ImageDraw.Draw(large).text(
            middle, str(index % 10), fill=ink, font=_font(generator.choice(FONTS), size), anchor="mm"
        )
        angle = generator.gauss(0, 8)
        turned = large.rotate(angle, Image.Resampling.BICUBIC).resize((side, side), Image.Resampling.BOX)
        images.append(np.array(turned))
        labels.append(index % 10)
    return torch.from_numpy(np.stack(images))[:, None].float() / 127.5 - 1, torch.tensor(labels)


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf", size)


def emoji(font: Path, side: int = 32) -> dict[str, Image.Image]:
    """Return what a colour font draws for single code points, by name: cropped, squared, on white."""
    large, images = ImageFont.truetype(font, 109, layout_engine=ImageFont.Layout.BASIC), {}
    for code in sorted(TTFont(font).getBestCmap()):
        box = Image.new("RGBA", (160, 160))
        ImageDraw.Draw(box).text((8, 8), chr(code), font=large, embedded_color=True)
        ink = box.crop(box.getbbox())
        if np.ptp(np.array(ink)[..., :3], axis=2).max(initial=0) < 32:  # nothing, or grey as digits are
            continue
        square = Image.new("RGBA", (max(ink.size), max(ink.size)), "white")
        square.alpha_composite(ink, tuple((square.width - length) // 2 for length in ink.size))
        images[f"{code:x}"] = square.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
    return images


def as_dataset(images: list[Image.Image]) -> datasets.Dataset:
    """Return a data set with one column of images, encoded as PNG."""
    encoded = []
    for image in images:
        file = io.BytesIO()
        image.save(file, "PNG")
        encoded.append({"bytes": file.getvalue(), "path": None})
    return datasets.Dataset.from_dict({"image": encoded}).cast_column("image", datasets.Image())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write pictures into a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--emoji", type=Path, metavar="FONT", help="a colour font, whose emoji are drawn")
    parser.add_argument("--classes", action="store_true", help="of the emoji four kinds, in class folders")
    args = parser.parse_args()
    if args.classes and not args.emoji:
        parser.error("--classes needs --emoji")
    if args.emoji:
        pictures = emoji(args.emoji)
        if args.classes:
            kind_of = {f"{code:x}": kind for kind, codes in KINDS.items() for code in codes}
            pictures = {f"{kind_of[code]}/{code}": pictures[code] for code in pictures if code in kind_of}
    else:
        digits = to_images(glyphs(8000, seed=0, side=16)[0])
        pictures = {f"{number:04}": image for number, image in enumerate(digits)}
    args.folder.mkdir(parents=True)
    for name, picture in pictures.items():
        (args.folder / name).parent.mkdir(exist_ok=True)
        picture.save(args.folder / f"{name}.png")
