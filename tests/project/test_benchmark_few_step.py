"""benchmarks/few_step.py at tiny settings: every sampler runs, is counted, and is divided by the floor."""

import json
import math
import statistics

import pytest
import torch
from PIL import Image

import few_step as benchmark
from ddpm_from_scratch import DDPMFromScratchScheduler, FewStepScheduler
from ddpm_from_scratch.data.exact import exact_scheduler, narrow_mixture, seeded
from ddpm_from_scratch.measures.metrics import sliced_wasserstein

pytestmark = pytest.mark.filterwarnings("ignore")  # of stock schedulers at settings that they are not good at


@pytest.fixture(scope="module")
def problem():
    """Four points, with the exact score."""
    scheduler = exact_scheduler()
    model = narrow_mixture(torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]).double(), 0.1, scheduler)
    reference = model.sample(2000, seeded(1)).float()
    return benchmark.Problem(
        "points",
        lambda sample, t: model(sample, t).sample,
        FewStepScheduler.from_config(scheduler.config, calibration={}),
        (2,),
        torch.float64,
        300,
        {"sliced W2": lambda samples: sliced_wasserstein(samples.float(), reference)},
        lambda seed: model.sample(300, seeded(seed)),
        {"ancestral": DDPMFromScratchScheduler.from_config(scheduler.config, timestep_spacing="trailing")},
    )


def test_every_sampler_is_measured_and_good_ones_are_near_the_floor(problem, tmp_path):
    saved = []
    rows = benchmark.measure(problem, [5, 20, 100], [0, 1], None, lambda rows: saved.append(len(rows)))
    assert rows[0]["sampler"] == "floor" and saved == sorted(saved) and saved[-1] == len(rows)
    of_20 = {row["sampler"] for row in rows if row["steps"] == 20}
    assert of_20 == {"few-step", "ancestral", *benchmark.STOCK}
    assert {row["sampler"] for row in rows if row["steps"] == 100} <= {*benchmark.MANY}
    for row in rows[1:]:  # Heun takes two for each step but the last, so an odd number
        even = row["sampler"] == "Heun" and row["steps"] % 2 == 0
        assert row["evaluations"] == row["steps"] + even
    found = benchmark.means(rows, "sliced W2")
    assert found["few-step"][20] < 1.5 < 2 < found["DDPM"][5]
    assert found["ancestral"][20] == pytest.approx(
        found["DDPM"][20], rel=0.5
    )  # another noise, the same method
    benchmark.write_results(tmp_path, problem, rows)
    assert json.loads((tmp_path / "points.json").read_text()) == rows
    with Image.open(tmp_path / "points-sliced-w2.png") as chart:
        assert min(chart.size) > 300


def test_floor_divides_and_seeds_are_averaged(problem):
    rows = benchmark.measure(problem, [5], [0, 1], None, lambda rows: None)
    of_ddim = [row["sliced W2"] for row in rows if row["sampler"] == "DDIM"]
    assert len(of_ddim) == 2 and of_ddim[0] != of_ddim[1]
    expected = statistics.mean(of_ddim) / rows[0]["sliced W2"]
    assert benchmark.means(rows, "sliced W2")["DDIM"][5] == pytest.approx(expected)
    (line,) = [
        line for line in benchmark.table(rows, ["sliced W2"]).splitlines() if line.startswith("| DDIM ")
    ]
    assert line == f"| DDIM | {expected:.2f} |"


def test_only_finalists_go_on_to_the_second_seed(problem):
    rows = benchmark.measure(problem, [5], [0, 1], 2, lambda rows: None)
    first = {row["sampler"]: row["sliced W2"] for row in rows if row["seed"] == 0}
    second = {row["sampler"] for row in rows if row["seed"] == 1}
    best = sorted((name for name in first if name in benchmark.STOCK), key=first.get)[:2]
    assert second == {"few-step", "ancestral", "DDPM", *best}


def test_samples_that_are_not_finite_are_infinitely_far(problem):
    samples = torch.full((10, 2), math.nan)
    assert problem.figures(samples) == {"sliced W2": math.inf}


def test_trained_network_is_compared_with_held_out_data(tiny_run):
    problem = benchmark.network_problem(tiny_run, 20)
    scheduler = benchmark.stock("DPM++ 2M trailing", problem, 2)
    with torch.no_grad():
        samples, evaluations = benchmark.sample(problem, scheduler, 0)
        figures, floor = problem.figures(samples), problem.figures(problem.fresh(0))
    assert evaluations == 2 and samples.shape == (20, 1, 8, 8)
    assert all(figures[name] > floor[name] > 0 for name in ("Frechet distance", "sliced W2"))


def test_an_error_of_the_score_has_the_size_that_is_asked_for():
    disturbance = benchmark._score_error(64, 0.1)
    sample = torch.randn(2000, 64, generator=seeded(), dtype=torch.float64)
    error = disturbance(sample, torch.full((2000, 1), 0.5))
    assert float(error.square().mean().sqrt()) == pytest.approx(0.1, rel=0.1)
