"""benchmarks/fine_tuning.py at tiny settings: every start is trained and judged, on few pictures and all."""

import pytest

import fine_tuning

pytestmark = pytest.mark.filterwarnings("ignore")  # of datasets and multiprocessing


def test_every_start_gives_a_line_and_a_mean(monkeypatch, capsys):
    monkeypatch.setattr(fine_tuning, "NETWORK", "tiny")
    monkeypatch.setattr(fine_tuning, "seconds_per_update", lambda recipe, flags, images: 0.01)
    flags = "--pictures 20 0 --seconds 0.03 --seeds 0 1 --first_updates 3 --num_samples 40"
    fine_tuning.main(flags.split())
    lines = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    runs = [[cell.strip() for cell in cells] for cells in lines if len(cells) == 7]
    starts = ["the weights alone", *list(fine_tuning.STARTS) * 2]
    assert [run[0] for run in runs] == ["start", "real pictures", "real pictures", *starts, *starts]
    assert [run[1] for run in runs[1:3]] == ["20", "716"]
    assert {run[1] for run in runs[4:7]} == {"20"} and {run[4] for run in runs[3:10]} == {"0"}
    assert all(float(run[5]) > 0 for run in runs[3:])
    means = [cells for cells in lines if len(cells) == 4]
    assert len(means) == 1 + 1 + 2 * len(fine_tuning.STARTS) and all("±" in row[3] for row in means[1:])
