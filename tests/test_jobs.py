"""The job script starts again what broke off, and lets go of what somebody must see to."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import runs
from conftest import ROOT

JOB = ["bash", str(ROOT / "training" / "jobs" / "resumable.sh")]
ENVIRONMENT = {"LAUNCH": sys.executable, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def start(*flags):
    return subprocess.Popen(
        [*JOB, *flags],
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_checkpoint(folder, after):
    deadline = time.monotonic() + 120
    while True:
        steps = [int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*")]
        if steps and max(steps) > after:
            return max(steps)
        assert time.monotonic() < deadline, f"no checkpoint after {after}"
        time.sleep(0.1)


def test_a_killed_run_starts_again_and_a_signal_ends_the_job_after_a_checkpoint(tmp_path):
    out = tmp_path / "run"
    more = ("--max_train_steps=100000", "--checkpointing_steps=5", "--checkpoints_total_limit=2")
    job = start(*runs.flags(out, *more))
    killed_at = wait_for_checkpoint(out, 0)
    child = int(Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()[0])
    os.kill(child, signal.SIGKILL)
    wait_for_checkpoint(out, killed_at + 5)
    job.send_signal(signal.SIGTERM)
    stdout, stderr = job.communicate(timeout=60)
    assert job.returncode == 75, stderr[-2000:]
    assert "start 1 of 10 ended with status 137" in stderr and "from update" in stdout


def test_a_wrong_setting_is_not_tried_again(tmp_path):
    job = start("--dataset_name=digits", f"--output_dir={tmp_path / 'run'}", "--learning_rate=inf")
    _, stderr = job.communicate(timeout=60)
    assert job.returncode == 2 and "going on" not in stderr
