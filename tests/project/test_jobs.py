"""The job script starts again what broke off, and lets go of what somebody must see to."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import runs
from common import ROOT

JOB = ["bash", str(ROOT / "training" / "jobs" / "resumable.sh")]
ACCELERATE = f"{sys.executable} -m accelerate.commands.launch --num_processes=1 --num_machines=1"
ACCELERATE += " --mixed_precision=no --dynamo_backend=no"
ENVIRONMENT = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def start(*flags, launch=sys.executable):
    return subprocess.Popen(
        [*JOB, *flags],
        env=os.environ | ENVIRONMENT | {"LAUNCH": launch},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


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
    job = start(*runs.flags(out, *more), launch=ACCELERATE)
    killed_at = wait_for_checkpoint(out, 0)
    launcher = children(job.pid)[0]
    os.kill(children(launcher)[0], signal.SIGKILL)
    wait_for_checkpoint(out, killed_at + 5)
    job.send_signal(signal.SIGTERM)
    stdout, stderr = job.communicate(timeout=60)
    assert job.returncode == 75, stderr[-2000:]
    assert "start 1 of 10 ended with status 1;" in stderr and "from update" in stdout
    assert "stopped after update" in stderr
    assert "on 1 process(es)" in stdout  # with accelerate's launcher


def test_a_run_that_fails_is_given_up_in_the_end(tmp_path):
    job = start("--dataset_name=digits", launch="bash -c exit${IFS}9 --")
    _, stderr = job.communicate(timeout=60)
    assert job.returncode == 9
    assert stderr.count("going on") == 9 and stderr.endswith(
        "start 10 of 10 ended with status 9; giving up\n"
    )


def test_a_wrong_setting_is_not_tried_again(tmp_path):
    job = start("--dataset_name=digits", f"--output_dir={tmp_path / 'run'}", "--learning_rate=inf")
    _, stderr = job.communicate(timeout=60)
    assert job.returncode == 2 and "going on" not in stderr
