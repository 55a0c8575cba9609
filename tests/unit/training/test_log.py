"""The log of a run goes on where the run does."""

from ddpm_from_scratch.training.log import METRICS_FILE, MetricsLog, read_log


def test_rows_after_the_update_that_is_resumed_from_are_dropped(tmp_path):
    log = MetricsLog(tmp_path / "logs", 0)
    rows = [{"step": step, "loss": step / 3} for step in (1, 2, 3)]
    for row in rows:
        log.write(row)
    assert read_log(tmp_path / "logs") == rows
    resumed = MetricsLog(tmp_path / "logs", 2)
    resumed.write({"step": 3, "loss": 0.5})
    assert read_log(tmp_path / "logs") == [*rows[:2], {"step": 3, "loss": 0.5}]
    MetricsLog(tmp_path / "logs", 0)
    assert read_log(tmp_path / "logs") == []


def test_a_line_that_a_crash_cut_short_is_left_out(tmp_path):
    (tmp_path / METRICS_FILE).write_text('{"step": 1}\n{"step": 2}')  # whole, but who knows
    assert read_log(tmp_path) == [{"step": 1}]
    MetricsLog(tmp_path, 5).write({"step": 6})
    assert read_log(tmp_path) == [{"step": 1}, {"step": 6}]
