"""benchmarks/training.py at tiny settings: all columns train one network from the same weights."""

import itertools
import json
import math

import pytest
import torch

import training as benchmark
from ddpm_from_scratch import model_config

pytestmark = pytest.mark.filterwarnings("ignore")  # of datasets and multiprocessing, in the loop of diffusers

TINY_ROWS = {
    "digits": benchmark.Row("digits", model_config("tiny")),
    "drawn": benchmark.Row("drawn", model_config("tiny", channels=3), "bf16"),
}


@pytest.mark.parametrize("name", TINY_ROWS)
def test_the_columns_start_from_the_same_weights_and_learn(name, tmp_path):
    loops = benchmark.make_loops(TINY_ROWS[name], tmp_path, learning_rate=3e-3, lr_warmup_steps=2)
    assert tuple(loops) == benchmark.COLUMNS
    start = loops["ours"].network.state_dict()
    for loop in loops.values():
        weights = loop.network.state_dict()
        assert weights.keys() == start.keys()
        assert all(torch.equal(weights[key], start[key]) for key in start)
        assert loop.scheduler.config.prediction_type == "epsilon"
    for loop in loops.values():
        losses = [float(loss) for loss in itertools.islice(loop.updates(), 30)]
        assert all(map(math.isfinite, losses))
        assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
        assert not torch.equal(loop.average().conv_in.weight, start["conv_in.weight"])


def test_stock_and_ours_see_the_same_images(tmp_path):
    loops = benchmark.make_loops(TINY_ROWS["drawn"], tmp_path)
    stock = torch.cat([batch["input"] for batch in loops["stock"].loader])
    ours = loops["ours"].trainer.data
    batch = next(ours.batches(len(stock), 0, 1, 0, 0))["samples"]
    torch.testing.assert_close(batch.sum(0), stock.sum(0), atol=1e-2, rtol=0)  # in any order
    assert batch.dtype == stock.dtype == torch.float32


def test_speed_gives_a_line_per_row():
    row = TINY_ROWS["digits"]
    blocks = benchmark.measure_speed(row, rounds=2, updates=2)
    for measured in blocks.values():
        assert len(measured) == 2
        assert all(0 < block.network < block.total and math.isfinite(block.loss) for block in measured)
    assert benchmark.speed_line(row, blocks).count("|") == 10


def test_quality_reports_every_run(tmp_path, monkeypatch, capsys):
    flags = "--what quality --milliseconds 100 100 --seconds 2 --speedups 2 --seeds 1 --num_samples 20 "
    flags += "--num_inference_steps 3 --changes=--mixed_precision=bf16"
    benchmark.main([*flags.split(), "--output", str(tmp_path / "figures.json")])
    runs = json.loads((tmp_path / "figures.json").read_text())["runs"]
    assert [(run["recipe"], run["updates"]) for run in runs] == [("stock", 20), ("ours", 10)]
    for run in runs:
        assert run["last_loss"] < run["first_loss"]
        assert all(math.isfinite(run[key]) for key in ("frechet_distance", "sliced_w2", "nearest_train_mean"))
    printed = capsys.readouterr().out
    assert sum(line.startswith("| ") for line in printed.splitlines()) == 1 + 2 + 2  # head, floors, runs


def test_time_of_an_update_is_measured_for_both_recipes(tmp_path):
    per_update = benchmark.seconds_per_update(tmp_path, benchmark.CLOCKS["cpu"], rounds=1, updates=1)
    assert set(per_update) == {"stock", "ours"} and min(per_update.values()) > 0


def test_the_verdict_takes_the_shortest_run_that_is_good_enough():
    runs = [{"recipe": "stock", "seed": 0, "seconds": 600, "frechet_distance": 1.0}]
    runs += [
        {"recipe": "ours", "seed": 0, "seconds": seconds, "frechet_distance": distance}
        for seconds, distance in ((100, 0.5), (60, 0.9), (50, 1.2))
    ]
    assert "in 60 s, 10.0 times less" in benchmark.verdict(runs, 600)
    assert "in none" in benchmark.verdict([runs[0], runs[-1]], 600)
