"""Calibration of saved pipelines: the command, the flag of train.py, what the Hub's users get of it."""

import json
import re
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline

from common import ROOT, run_training
from ddpm_from_scratch import (
    DDPMFromScratchPipeline,
    DDPMFromScratchScheduler,
    FewStepScheduler,
    build_model,
    model_config,
)
from ddpm_from_scratch.evaluation.candidates import calibrate_pipeline
from ddpm_from_scratch.runtime.errors import Stopped
from promises.trials import folder_data, image_folder

SMALL = ("--num_steps", "2", "4", "--num_samples=4", "--batch_size=64", "--features=pixels")
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def calibrate(run_here, *arguments):
    return run_here(ROOT / "training" / "calibrate.py", *arguments)


def config_of(folder):
    return json.loads((folder / "scheduler" / "scheduler_config.json").read_text())


def calibration_of(folder):
    """Where it stands depends on the layout: stock warns of keys that it does not know."""
    config = config_of(folder)
    return config["_calibration"] if config["_class_name"] == "DDPMScheduler" else config["calibration"]


@pytest.fixture(scope="module")
def calibrated(tiny_run, tmp_path_factory, _hub_and_forks):
    """A copy of a run, calibrated by the command, and what the command said."""
    folder = tmp_path_factory.mktemp("calibrated") / "digits"
    shutil.copytree(tiny_run, folder)
    done = _hub_and_forks[1].run(
        ROOT / "training" / "calibrate.py", folder, "--dataset_name=digits", *SMALL
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done


def test_the_command_prints_a_table_and_saves_what_it_chose(calibrated, tiny_run):
    folder, done = calibrated
    steps = calibration_of(folder)["steps"]
    assert set(steps) == {"2", "4"}
    chosen = [line for line in done.stdout.splitlines() if line.endswith(" *")]
    assert [line.split()[0] for line in chosen] == ["2", "4"]
    for line in chosen:
        count, _, last, level, *_ = line.split()
        assert steps[count]["timesteps"][-1] == int(last)
        assert steps[count]["noise_level"] == pytest.approx(float(level))
    assert len({line.split()[1] for line in done.stdout.splitlines()[1:-1]}) >= 3
    assert (folder / WEIGHTS).read_bytes() == (tiny_run / WEIGHTS).read_bytes()
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in tiny_run.iterdir())


def test_a_number_of_steps_is_all_a_user_gives(calibrated):
    folder, _ = calibrated
    pipe = DDPMFromScratchPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    pipe(1, num_inference_steps=4)
    assert pipe.scheduler.timesteps.tolist() == calibration_of(folder)["steps"]["4"]["timesteps"]


def test_a_stock_pipeline_has_the_calibration_for_the_swap(calibrated, capfd):
    folder, _ = calibrated
    pipe = DiffusionPipeline.from_pretrained(folder)
    assert "not expected" not in capfd.readouterr().err
    ours = FewStepScheduler.from_config(pipe.scheduler.config)
    assert ours.timesteps_for(4) == calibration_of(folder)["steps"]["4"]["timesteps"]
    assert "_calibration" not in ours.config
    ddpm = DDPMFromScratchScheduler.from_config(pipe.scheduler.config)
    assert torch.equal(ddpm.alphas_cumprod, ours.alphas_cumprod)


@pytest.mark.parametrize("layout", ["portable", "remote-code"])
def test_a_choice_of_ancestral_sampling_is_kept(calibrated, tmp_path, layout):
    folder, _ = calibrated
    pipe = DDPMFromScratchPipeline.from_pretrained(folder)
    for kind in (DDPMFromScratchScheduler, FewStepScheduler):
        pipe.scheduler = kind.from_config(pipe.scheduler.config)
        pipe.save_pretrained(tmp_path / kind.__name__, layout=layout)
        again = DDPMFromScratchPipeline.from_pretrained(tmp_path / kind.__name__)
        assert type(again.scheduler) is kind
    assert again.scheduler.config.calibration == calibration_of(folder)


def test_the_card_says_how_stock_diffusers_takes_the_timesteps(calibrated, monkeypatch):
    folder, _ = calibrated
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    (stock,) = [block for block in blocks if "DPMSolverMultistepScheduler" in block]
    pipe = DiffusionPipeline.from_pretrained(folder)
    assert type(pipe).__name__ == "DDPMPipeline" and type(pipe.scheduler).__name__ == "DDPMScheduler"
    namespace = {"pipe": pipe}
    exec(stock, namespace)
    visited = calibration_of(folder)["steps"]["4"]["timesteps"]
    assert namespace["scheduler"].timesteps.tolist() == visited
    assert len(namespace["images"]) == 4 and namespace["images"][0].size == (8, 8)


def test_without_data_the_density_is_measured(run_here, tmp_path):
    torch.manual_seed(0)
    pipe = DDPMFromScratchPipeline(
        build_model(model_config("tiny")), DDPMFromScratchScheduler(beta_schedule="laplace")
    )
    pipe.save_pretrained(tmp_path / "plain", layout="remote-code")
    done = calibrate(run_here, tmp_path / "plain")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "no data were given" in done.stdout
    assert set(calibration_of(tmp_path / "plain")) == {"density", "half_log_snr"}
    assert (tmp_path / "plain" / "scheduler" / "scheduling_few_step.py").is_file()
    assert not (tmp_path / "plain" / "scheduler" / "scheduling_ddpm_from_scratch.py").exists()
    loaded = DDPMFromScratchPipeline.from_pretrained(tmp_path / "plain")
    loaded.set_progress_bar_config(disable=True)
    assert len(loaded(2, num_inference_steps=5).images) == 2


def test_a_calibration_with_data_is_not_lost_by_mistake(run_here, calibrated, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(calibrated[0], folder)
    refused = calibrate(run_here, folder)
    assert refused.returncode == 2 and "--without_data" in refused.stderr
    assert "steps" in calibration_of(folder)
    done = calibrate(run_here, folder, "--without_data")
    assert done.returncode == 0 and "steps" not in calibration_of(folder)


def test_card_says_that_its_figures_are_from_before(calibrated, tiny_run):
    folder, done = calibrated
    assert "figures in the card are from before" in done.stdout
    assert "Measured before" in (folder / "README.md").read_text()
    assert "Measured before" not in (tiny_run / "README.md").read_text()


def test_training_calibrates_in_the_main_process_for_all(tmp_path):
    flags = ("--calibrate", "--calibration_samples=2", "--max_train_steps=2")
    data = folder_data(image_folder())  # whose features are the middle of the network
    run_training(tmp_path / "run", *flags, data=data, processes=2)
    calibration = calibration_of(tmp_path / "run")
    assert set(calibration["steps"]) == {"5", "10", "20"}
    pipe = DDPMFromScratchPipeline.from_pretrained(tmp_path / "run")
    assert pipe.scheduler.timesteps_for(10) == calibration["steps"]["10"]["timesteps"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nowhere", "--dataset_name=digits"], 2, "not the folder of a saved pipeline"),
        (["{run}", "--dataset_name=digits", "--num_steps", "0"], 2, "a number of steps is 0"),
        (["{run}", "--dataset_name=digits", "--num_samples=1"], 2, "samples of a candidate are 1"),
        (["{run}", "--dataset_name=digits", "--batch_size=0"], 2, "--batch_size is 0"),
        (["{run}", "--dataset_name=swiss_roll"], 2, "swiss_roll has (2,)"),
        (["{run}", "--dataset_name=digits", "--features=coordinates"], 2, "'coordinates'"),
    ],
)
def test_wrong_arguments_are_refused_and_nothing_changes(
    run_here, tiny_run, tmp_path, arguments, status, message
):
    shutil.copytree(tiny_run, tmp_path / "run")
    done = calibrate(run_here, *(word.format(run=tmp_path / "run") for word in arguments))
    assert done.returncode == status and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert message in done.stderr.splitlines()[-1]
    assert config_of(tmp_path / "run") == config_of(tiny_run)


@pytest.mark.filterwarnings("ignore::ddpm_from_scratch.SchedulerWarning")
def test_a_stop_is_heard_after_a_candidate(tiny_run, digits_data):
    pipeline, asked = DDPMFromScratchPipeline.from_pretrained(tiny_run), []

    def stop():
        asked.append(True)
        return len(asked) == 3

    with pytest.raises(Stopped, match="resume_from_checkpoint latest"):
        calibrate_pipeline(
            pipeline, digits_data, num_steps=[2], num_samples=4, features="pixels", stop_requested=stop
        )
    assert len(asked) == 3 and not pipeline.scheduler.config.calibration


STOPPED = """
import os, runpy, signal, sys
from ddpm_from_scratch.evaluation import candidates
plain, count = candidates.distance_from, []
def distance_from(*of):
    distance = plain(*of)
    def judged(samples):
        count.append(1)
        if len(count) == {after}:
            os.kill(os.getpid(), signal.SIGTERM)
        return distance(samples)
    return judged
candidates.distance_from = distance_from
sys.argv = {argv!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(("after", "kept"), [(5, {"2"}), (1, set())])
def test_a_calibration_that_is_stopped_keeps_the_best_so_far(run_here, tiny_run, tmp_path, after, kept):
    folder = tmp_path / "digits"
    shutil.copytree(tiny_run, folder)
    before = config_of(folder)
    argv = [str(ROOT / "training" / "calibrate.py"), str(folder), "--dataset_name=digits", *SMALL]
    done = run_here("-c", STOPPED.format(after=after, argv=argv))
    assert done.returncode == 130, done.stderr[-3000:]
    if kept:
        assert set(calibration_of(folder)["steps"]) == kept and " *" in done.stdout
        assert "the best of what was judged so far is kept" in done.stderr
        DDPMFromScratchPipeline.from_pretrained(folder)
    else:
        assert config_of(folder) == before and "stopped before anything was found" in done.stderr
