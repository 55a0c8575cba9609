"""The lesson: every figure of its texts is computed here; cards, notebook and example hold."""

import html
import importlib
import json
import os
import re

import nbformat
import pytest
import torch

import build
import claims
import errata
import sequences
import worked
from build import HERE, TEXTS, known_figures, quality, render_text
from ddpm_from_scratch.data.datasets import load_digits
from ddpm_from_scratch.measures.metrics import sliced_wasserstein

# What the lecture's numbers are in truth, to so many digits as are written here.
PINNED = {
    "signal_left": {
        "linear_250": "0.5241", "linear_500": "0.0786", "linear_750": "0.00335", "linear_1000": "4.04e-05",
        "cosine_250": "0.8470", "cosine_500": "0.4938", "cosine_750": "0.1443", "cosine_1000": "2.4e-09",
        "sigmoid_250": "0.851", "sigmoid_500": "0.500", "sigmoid_750": "0.149",
        "geodiff_250": "0.904", "geodiff_500": "0.302", "geodiff_750": "0.0057",
    },
    "one_step": {"mean": "99.50", "std": "0.1"},
    "five_steps": {"x1": "2.070", "x2": "2.020", "x3": "1.989", "x4": "2.010", "x5": "2.019"},
    "jump": {"of_lecture": "0.0958", "of_linear": "-0.207"},
    "training_step": {"x": "1.6263", "y": "0.5657", "squared_norm": "0.0050", "mean_square": "0.0025"},
    "reverse_step": {
        "mean": "1.4941", "x99": "1.4641", "alpha": "0.99793", "alpha_bar": "0.8970",
        "sigma_of_beta": "0.0455", "sigma_of_posterior": "0.0451",
    },
    "sampling_noise": {"std_of_the_listing": "16.6", "std": "1.00"},
    "loss_broadcast": {"size_0": "8", "size_1": "1", "size_2": "8", "size_3": "2"},
    "cosine_formula": {"ratio": "4.8", "last_beta_printed": "1", "last_beta": "0.999"},
    "merged_noises": {"same_noise": "0.0578", "own_noise": "0.0298"},
    "valleys": {"forwards": "0.012", "backwards": "263"},
    "conditional_score": {"of_plus_one": "0.81", "of_minus_one": "-2.01", "marginal": "-0.034"},
    "langevin_step": {"ratio": "2.01", "of_x": "1.01", "ratio_on_normal": "1.00"},
    "closed_form_of_the_sde": {"alpha_bar_of_sde": "0.0791", "alpha_bar": "0.0786", "mean_t": "500.5"},
    "gaussian_reverse": {"kurtosis_of_500": "-2.0"},
    "velocity_target": {"factor_at_1": "0.010", "factor_at_1000": "157", "of_sample_at_1": "100"},
    "any_field": {"around_turning": "6.28", "around_score": "0.000"},
    "exact_likelihood": {"flow_gap": "-0.0003", "bound_gap": "0.93"},
    "number_of_steps": {"left_at_50": "0.60", "left_at_1000": "4.0e-05"},
    "other_noises": {"of_categorical": "0.000000", "of_cauchy": "0.000000"},
    "unit_variance": {"standardised": "1.00"},
}  # fmt: skip


def as_written(value, written):
    """Return a value with as many digits as something that is written."""
    if "e" in written:
        return f"{value:.{len(written.partition('e')[0].partition('.')[2])}e}"
    return f"{value:.{len(written.partition('.')[2])}f}"


@pytest.mark.parametrize("name", PINNED)
def test_figures_are_what_they_are(name):
    found = getattr(worked if hasattr(worked, name) else errata, name)()
    expected = PINNED[name]
    assert {figure: as_written(found[figure], written) for figure, written in expected.items()} == expected


def test_every_demonstration_is_pinned_and_told():
    names = [demonstration.__name__ for demonstration in errata.DEMONSTRATIONS]
    assert len(names) == 15 and set(names) <= set(PINNED)
    text = (HERE / "text" / "errata.md").read_text()
    sections = re.findall(r"^## (\d+)\. .*?(?=^## |\Z)", text, flags=re.M | re.S)
    assert sections == [str(number) for number in range(1, 16)]
    assert re.findall(r"`python lesson/errata\.py (\w+)`", text) == names


def test_demonstration_is_a_command(capsys):
    errata.main(["valleys"])
    claims.main(["langevin_variance"])
    printed = capsys.readouterr().out
    assert "5. valleys" in printed and "263" in printed and "ratio_2" in printed
    for module in (errata, claims):
        with pytest.raises(SystemExit) as stopped:
            module.main(["nothing"])
        assert stopped.value.code == 2


def test_claims_hold():
    wasted = claims.wasted_steps()
    expected = {"linear_spiral": 672, "linear_digits": 700, "cosine_spiral": 935, "cosine_digits": 947}
    assert {name: wasted[name] for name in expected} == pytest.approx(expected, abs=15)
    after = {"after_700_spiral": 0.0009, "after_700_digits": 0.0004}
    assert {name: wasted[name] for name in after} == pytest.approx(after, abs=0.0001)
    ten = claims.ten_steps()
    # with the linear, cosine and sigmoid schedule
    pinned = {
        "spiral_{}_ddim_even": (2.55, 1.45, 1.51), "digits_{}_ddim_even": (1.22, 1.15, 1.16),
        "spiral_{}_even": (1.46, 0.92, 0.94), "digits_{}_even": (1.01, 0.99, 0.99),
        "spiral_{}_equal_error": (0.88, 0.92, 0.89), "digits_{}_equal_error": (0.97, 0.98, 0.97),
    }  # fmt: skip
    expected = {
        name.format(schedule): figure
        for name, figures in pinned.items()
        for schedule, figure in zip(("linear", "cosine", "sigmoid"), figures, strict=True)
    }
    assert ten == pytest.approx(expected, abs=0.02)
    assert claims.tweedie_error()["largest"] < 1e-11
    assert all(abs(ratio - 1) < 0.01 for ratio in claims.langevin_variance().values())
    gaps = claims.bound_gaps()
    expected = {
        "linear_fixed_small": 0.55, "cosine_fixed_small": 0.60, "sigmoid_fixed_small": 0.37,
        "linear_analytic": 0.065, "cosine_analytic": 0.04, "sigmoid_analytic": 0.09,
    }  # fmt: skip
    for name, gap in gaps.items():
        assert gap == pytest.approx(expected[name], abs=0.015 if "analytic" in name else 0.03)


def test_what_the_page_cannot_be_built_from_is_one_line(tiny_run, tmp_path, capsys):
    images = tmp_path / "images"
    for run, message in ((tmp_path, "there is no pipeline"), (tiny_run, "must make points")):
        with pytest.raises(SystemExit) as stopped:
            build.main([str(run), f"--output_dir={tmp_path}"])
        assert stopped.value.code == 2 and message in capsys.readouterr().err
    assert not images.exists()


def test_texts_have_the_figures_that_are_computed(pipeline_of_the_page):
    with torch.no_grad():
        figures = known_figures() | {"quality": quality(pipeline_of_the_page)}
    for name in TEXTS:
        assert (HERE / name).read_text() == render_text(name, figures), f"run python lesson/build.py: {name}"


def cards():
    return re.split(r"^## ", (HERE / "lesson.md").read_text(), flags=re.M)[1:]


@pytest.mark.parametrize("card", cards(), ids=lambda card: card.partition("\n")[0])
def test_card_has_equation_picture_function_and_source(card):
    card = re.split(r"^# ", card, flags=re.M)[0]
    assert card.count("$$") == 2
    picture = re.search(r"!\[[^\]]{10,}\]\((images/[^)]+)\)", card)
    assert (HERE / picture[1]).is_file()
    last = card.strip().splitlines()[-1]
    path = re.match(r"`([\w.]+)` · \S", last)[1]
    found = importlib.import_module("ddpm_from_scratch")
    for part in path.split(".")[1:]:
        try:
            found = getattr(found, part)
        except AttributeError:
            found = importlib.import_module(f"{found.__name__}.{part}")
    assert callable(found) and found.__doc__
    assert re.search(r"\d{4}", last)


def test_the_font_of_the_page_has_every_sign_of_its_formulas():
    from fontTools.ttLib import TTFont

    known = TTFont(HERE / "page" / "vendor" / build.FORMULA_FONT).getBestCmap()
    formulas = re.findall(r"<math.*?</math>", (HERE / "index.html").read_text(), flags=re.S)
    signs = set(html.unescape("".join(re.sub(r"<[^>]+>", "", formula) for formula in formulas)))
    letters = set(map(html.unescape, re.findall(r"<mi>(\w|&#x[0-9A-F]+;)</mi>", "".join(formulas))))
    # A browser sets a letter that stands alone in italics, which are signs of their own; that of h is apart.
    for first, last, italic in (("a", "z", 0x1D44E), ("A", "Z", 0x1D434), ("\u03b1", "\u03c9", 0x1D6FC)):
        alone = [letter for letter in letters - {"h"} if first <= letter <= last]
        signs |= {chr(italic + ord(letter) - ord(first)) for letter in alone}
    assert len(letters) > 20 and {sign for sign in signs if ord(sign) not in known} == set()


def test_notebook_runs(tmp_path, monkeypatch):
    from nbclient import NotebookClient

    # Where it stands its charts stand, too; here its pictures go elsewhere.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(HERE / "21-ddpm-2d.ipynb", as_version=4)
    assert (HERE / "21-ddpm-2d.ipynb").stat().st_size < 1_000_000
    assert all(
        cell.get("outputs") for cell in notebook.cells if cell.cell_type == "code" and "print(" in cell.source
    )
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    one, ten = map(float, re.search(r"1,000 steps ([\d.]+); ten steps ([\d.]+)", printed).groups())
    assert one < 2.5 and ten < 2.5
    bound, flow = map(
        float, re.search(r"at most ([\d.]+) by the bound, ([\d.]+) by the flow", printed).groups()
    )
    assert flow < bound < 2.5 and "-0.2073" in printed


def test_transformer_learns_sequences(capsys):
    images, _, held_out, _ = load_digits()
    training, held_out = images.squeeze(1), held_out.squeeze(1).flatten(1)
    pipeline = sequences.train(training, 200)
    samples = pipeline(
        batch_size=300, generator=torch.Generator().manual_seed(1), num_inference_steps=10, output_type="pt"
    ).images
    assert samples.shape == (300, 8, 8)
    noise = torch.randn(300, 64, generator=torch.Generator().manual_seed(2))
    distance = sliced_wasserstein(samples.flatten(1), held_out)
    assert distance < 0.4 * sliced_wasserstein(noise, held_out)
    assert json.loads(pipeline.unet.to_json_string())["sample_shape"] == [8, 8]
