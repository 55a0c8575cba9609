"""The lesson from a trained network: `python lesson/build.py [runs/swiss_roll]`.

Draws the pictures into lesson/images/, computes all figures, and writes errata.md and lesson.md from
lesson/text/ and index.html, the page, from lesson/page/. The page needs no other file and no network:
weights, chains, data and pictures are in it. Takes two to three minutes on one CPU core.
"""

import argparse
import base64
import io
import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, StrictUndefined
from tqdm.auto import tqdm

import claims
import errata
import worked
from claims import projected
from computed import Figures
from ddpm_from_scratch import DDPMFromScratchPipeline, DDPMFromScratchScheduler, FewStepScheduler
from ddpm_from_scratch.data.exact import seeded
from ddpm_from_scratch.data.points import POINT_DATASETS, swiss_roll
from ddpm_from_scratch.measures.metrics import projected_wasserstein
from ddpm_from_scratch.measures.plots import COLOURS
from ddpm_from_scratch.networks.models import sample_shape
from ddpm_from_scratch.process.noise_schedules import alphas_cumprod_from_betas, betas_for_schedule
from ddpm_from_scratch.sharing.space import TEMPLATE, WEIGHTS, chain_steps
from illustrations import NAMES, draw, quiet

HERE = Path(__file__).resolve().parent

TEXTS = ("errata.md", "lesson.md")
TABS = {
    "forward": "Forward",
    "reverse": "Reverse",
    "score": "Score",
    "schedules": "Schedules",
    "errata": "Errata",
}
SAMPLERS = {"few_step": "few-step", "ddim": "DDIM", "ddpm": "DDPM"}
_STEPS = {
    "few_step": (5, 10, 20, 50),
    "ddim": (5, 10, 20, 50, 100),
    "ddpm": (10, 20, 50, 100, 250, 1000),
}
_TOTALS = (50, 100, 200, 500, 1000, 4000)
_SCALABLE = ("linear", "geodiff")  # their betas are meant for T = 1000
_STILLS = {"forward.gif": 0.25, "reverse.gif": 0.97}  # which part of an animation the page shows
FORMULA_FONT = "STIXTwoMath-subset.woff"
_POINTS, _POINT_UNIT = 2000, 4 / 32767
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def chain_of(pipeline: DDPMFromScratchPipeline, sampler: str) -> Any:
    """Return the scheduler of a sampler's name for the process of a pipeline."""
    config = pipeline.scheduler.config
    if sampler == "ddpm":
        return DDPMFromScratchScheduler.from_config(config, timestep_spacing="trailing")
    if sampler == "ddim":
        return FewStepScheduler.from_config(
            config, calibration={}, solver_order=1, corrector_order=0, noise_level=0.0
        )
    return FewStepScheduler.from_config(config)


def sample(pipeline: DDPMFromScratchPipeline, sampler: str, num_steps: int, count: int) -> torch.Tensor:
    """Return points that a sampler makes with the pipeline's network."""
    return quiet(pipeline, chain_of(pipeline, sampler))(
        batch_size=count, generator=seeded(0), num_inference_steps=num_steps, output_type="pt"
    ).images


def quality(pipeline: DDPMFromScratchPipeline) -> dict[str, float]:
    """Return sliced W2 of samples over the floor, that of fresh data, for two numbers of points.

    20,000 points are compared with data in parts; each figure is the mean of 20 comparisons, and so is its
    floor.
    """
    data, fresh = (swiss_roll(200_000, seeded(seed)).split(10_000) for seed in (100, 200))
    made = {
        sampler: sample(pipeline, sampler, steps, 20_000)
        for sampler, steps in (("few_step", 10), ("ddpm", 1000))
    }
    found = {}
    for count in (2000, 10_000):
        sets = {name: [projected(part) for part in points.split(count)] for name, points in made.items()}
        distances: dict[str, list[float]] = {name: [] for name in ("floor", *sets)}
        for number, (other, another) in enumerate(zip(data, fresh, strict=True)):
            reference = projected(other[:count])
            distances["floor"].append(projected_wasserstein(projected(another[:count]), reference))
            for name, parts in sets.items():
                distances[name].append(projected_wasserstein(parts[number % len(parts)], reference))
        for name in sets:
            found[f"{name}_{count}"] = statistics.mean(distances[name]) / statistics.mean(distances["floor"])
    return found


def known_figures() -> dict[str, Figures]:
    """Return all figures that no trained network is needed for, by the function that computes them."""
    functions = tqdm((*errata.DEMONSTRATIONS, *claims.CLAIMS), desc="figures", unit="demonstration")
    found = {function.__name__: function() for function in functions}
    short = {"left": worked.signal_left, "one_step": worked.one_step, "five": worked.five_steps}
    short |= {"jump": worked.jump, "training": worked.training_step, "reverse": worked.reverse_step}
    return found | {name: function() for name, function in short.items()}


def _digits(value: float, count: int) -> str:
    """Return a number with so many significant digits, as 4.0 × 10⁻⁵ if it is small."""
    number, _, power = f"{value:#.{count}g}".partition("e")
    number = number.rstrip(".")
    return (
        f"{number}\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}10{str(int(power)).translate(_SUPERSCRIPTS)}"
        if power
        else number
    )


def render_text(name: str, figures: dict[str, Figures]) -> str:
    """Return a text of lesson/text/ with the figures in it; a figure that is not known raises."""
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters |= {
        "digits": _digits,
        "fixed": lambda value, count: f"{value:.{count}f}",
        # What should be 0 is rounding, which differs from machine to machine.
        "under": lambda value: f"less than 1e{max(math.floor(math.log10(abs(value) + 1e-30)) + 2, -12)}",
    }
    written = environment.from_string((HERE / "text" / name).read_text()).render(**figures)
    return f"<!-- Written by `python lesson/build.py`; edit lesson/text/{name}. -->\n\n{written}"


def _to_html(text: str) -> str:
    """Return Markdown as HTML, with formulas in MathML."""
    from latex2mathml.converter import convert
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    def formula(source: str, options: dict[str, Any]) -> str:
        return convert(source, display="block" if options["display_mode"] else "inline")

    markdown = MarkdownIt("commonmark").enable("table").use(dollarmath_plugin, renderer=formula)
    # Tables scroll within the page where it is narrower than they are.
    return re.sub(
        r"<table>.*?</table>", r'<div class="scrolls">\g<0></div>', markdown.render(text), flags=re.S
    )


def _picture(path: Path, description: str) -> str:
    """Return a picture as HTML with its content in it, in WebP; of an animation one frame."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(path) as picture:
        picture.seek(int(_STILLS.get(path.name, 0) * (getattr(picture, "n_frames", 1) - 1)))
        picture.convert("RGB").save(buffer, "WEBP", quality=80, method=6)
        wide = ' class="wide"' if picture.width > 2 * picture.height else ""
    content = base64.b64encode(buffer.getvalue()).decode()
    return f'<img{wide} src="data:image/webp;base64,{content}" alt="{description}">'


def _cards(text: str, folder: Path) -> dict[str, str]:
    """Return tab -> HTML of its cards, from headings of the first and second level."""
    tabs = {}
    for tab in re.split(r"^# ", text, flags=re.M)[1:]:
        title, _, body = tab.partition("\n")
        cards = [f"## {card}" for card in re.split(r"^## ", body, flags=re.M)[1:]]
        html = "".join(f'<article class="card">{_to_html(card)}</article>' for card in cards)
        html = re.sub(
            r'<img src="(images/[^"]+)" alt="([^"]*)" />',
            lambda found: f'<div class="scrolls">{_picture(folder / found[1], found[2])}</div>',
            html,
        )
        tabs[title.strip().lower()] = f'<div class="cards">{html}</div>'
    return tabs


def alphas_cumprod(beta_schedule: str, total: int, scale_betas: bool = False) -> torch.Tensor:
    """Return alpha-bar of a schedule of diffusers, shape (T,); betas as they are or times 1000 / T."""
    betas = betas_for_schedule(beta_schedule, total, scale_betas_by_length=scale_betas)
    return alphas_cumprod_from_betas(betas)


def _rounded(values: Any) -> list[float]:
    return [float(f"{value:.7g}") for value in values]


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()


def page_data(run: Path, pipeline: DDPMFromScratchPipeline) -> dict[str, Any]:
    """Return what the page needs of the library: schedules, chains, data and the network."""
    chains = {
        sampler: {
            str(count): [
                [step["timestep"]]
                + _rounded((step["sample"], step["output"], step["keep"], step["noise"], *step["estimates"]))
                for step in chain_steps(chain_of(pipeline, sampler), count)
            ]
            for count in counts
        }
        for sampler, counts in _STEPS.items()
    }
    schedules = {
        str(total): {
            name: _packed(alphas_cumprod(kind, total).numpy()) for name, kind in worked.SCHEDULES.items()
        }
        for total in _TOTALS
    }
    scaled = {
        str(total): {
            name: _packed(alphas_cumprod(worked.SCHEDULES[name], total, scale_betas=True).numpy())
            for name in _SCALABLE
        }
        for total in _TOTALS
    }
    return {
        "config": json.loads(pipeline.unet.to_json_string()) | {"_name_or_path": None},
        "weights": base64.b64encode((run / WEIGHTS).read_bytes()).decode(),
        "scheduler": json.loads(pipeline.scheduler.to_json_string()),
        "chains": chains,
        "schedules": schedules,
        "scaled_schedules": scaled,
        "schedule_names": NAMES,
        "points": {
            name: _packed((make(_POINTS, seeded(0)).numpy() / _POINT_UNIT).round().astype("<i2"))
            for name, make in POINT_DATASETS.items()
        },
        "point_unit": _POINT_UNIT,
        "colours": {"light": COLOURS[:4], "dark": ["#56B4E9", *COLOURS[1:4]]},
    }


def page(run: Path, texts: dict[str, str], images: Path = HERE) -> str:
    """Return the page of a trained network.

    Args:
        run: folder of the pipeline.
        texts: name -> text with figures, of TEXTS.
        images: folder that the pictures' addresses start from.
    """
    pipeline = DDPMFromScratchPipeline.from_pretrained(run)
    source = HERE / "page"
    network = (TEMPLATE / "network.js").read_text()
    font = base64.b64encode((source / "vendor" / FORMULA_FONT).read_bytes()).decode()
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    styles = environment.from_string((source / "page.css").read_text()).render(formula_font=font)
    return environment.from_string((source / "page.html").read_text()).render(
        styles=f"{(source / 'vendor' / 'uPlot.min.css').read_text()}\n{styles}",
        parameters=f"{sum(p.numel() for p in pipeline.unet.parameters()):,}",
        tabs=[{"id": name, "title": title} for name, title in TABS.items()],
        datasets=sorted(POINT_DATASETS, key=lambda name: name != "swiss_roll"),
        schedules=NAMES,
        samplers=SAMPLERS,
        totals=_TOTALS,
        cards=_cards(texts["lesson.md"], images),
        errata=_to_html(texts["errata.md"].partition("-->")[2]),
        data=json.dumps(page_data(run, pipeline), separators=(",", ":")),
        network_source=network.replace("export function", "function"),
        score_source=(source / "score.js").read_text(),
        worker_source=(source / "worker.js").read_text(),
        page_source=(source / "page.js").read_text(),
        chart_library=(source / "vendor" / "uPlot.iife.min.js").read_text(),
    )


def main(argv: list[str] | None = None) -> None:
    """Write the texts and the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="?", type=Path, default=Path("runs/swiss_roll"))
    parser.add_argument("--output_dir", type=Path, default=HERE)
    args = parser.parse_args(argv)
    if not (args.run / "model_index.json").is_file():
        parser.error(
            f"there is no pipeline in {str(args.run)!r}; train it: accelerate launch training/train.py "
            f"--config training/configs/swiss_roll.yaml --output_dir {args.run}"
        )
    pipeline = DDPMFromScratchPipeline.from_pretrained(args.run)
    if (shape := sample_shape(pipeline.unet)) != (2,):
        parser.error(
            f"the pipeline in {str(args.run)!r} makes samples of shape {shape}, but must make points."
        )
    draw(args.run, pipeline, args.output_dir / "images")
    figures = known_figures() | {"quality": quality(pipeline)}
    texts = {name: render_text(name, figures) for name in TEXTS}
    for name, text in texts.items():
        (args.output_dir / name).write_text(text)
    (args.output_dir / "index.html").write_text(page(args.run, texts, args.output_dir))
    print(f"written to {args.output_dir}: images, {', '.join((*TEXTS, 'index.html'))}")


if __name__ == "__main__":
    main()
