"""The command evaluate.py: figures that do not depend on the processes, and errors of one line."""

import json

import pytest
import torch
from PIL import Image

import evaluate
from common import save_images, untrained_pipeline
from ddpm_from_scratch import DDPMFromScratchPipeline
from ddpm_from_scratch.data.datasets import load_digits
from ddpm_from_scratch.evaluation import quality
from ddpm_from_scratch.evaluation.figures import format_results, metric_names
from ddpm_from_scratch.evaluation.sampling import generate
from ddpm_from_scratch.measures import metrics
from runs import Run


@pytest.fixture(scope="module")
def digits_pipeline(tmp_path_factory):
    """The folder of an untrained pipeline for digits."""
    folder = tmp_path_factory.mktemp("pipeline") / "digits"
    untrained_pipeline().save_pretrained(folder)
    return folder


FLAGS = [
    "--dataset_name=digits", "--features=pixels", "--num_samples=70", "--batch_size=32",
    "--num_inference_steps=3", "--seed=5", "--likelihood", "--likelihood_samples=150",
]  # fmt: skip


@pytest.fixture(scope="module")
def two_processes(digits_pipeline, tmp_path_factory):
    """A run of two processes: what each one got from generate() and from the command, and its folder."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "two.py").write_text(f"""
import torch; torch.set_num_threads(1)
from accelerate import PartialState
import evaluate
from ddpm_from_scratch import DDPMFromScratchPipeline
from ddpm_from_scratch.evaluation import quality
from ddpm_from_scratch.evaluation.sampling import generate
state = PartialState(cpu=True)
pipeline = DDPMFromScratchPipeline.from_pretrained({str(digits_pipeline)!r})
sizes, steps, results = [], [], []
pipeline.unet.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
made = generate(pipeline, 10, batch_size=4, num_inference_steps=5, seed=3, on_step=lambda: steps.append(1))
whole = quality.evaluate
quality.evaluate = lambda *args, **options: results.append(whole(*args, **options)) or results[0]
status = evaluate.main([{str(digits_pipeline)!r}, *{FLAGS!r}, "--output_dir={folder}"])
torch.save(dict(num_processes=state.num_processes, sizes=sizes, steps=len(steps), samples=made.samples,
                evaluations=made.evaluations_per_sample, status=status, results=results[0]),
           {str(folder)!r} + f"/rank{{state.process_index}}.pt")
state.destroy_process_group()
""")
    done = Run([], processes=2, script=folder / "two.py").wait()
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]
    assert [rank["num_processes"] for rank in ranks] == [2, 2]
    return ranks, folder


def test_samples_do_not_depend_on_the_number_of_processes(digits_pipeline, two_processes):
    pipeline = DDPMFromScratchPipeline.from_pretrained(digits_pipeline)
    made = generate(pipeline, 10, batch_size=4, num_inference_steps=5, seed=3)
    assert made.samples.shape == (10, 1, 8, 8) and made.evaluations_per_sample == 5
    for rank in two_processes[0]:
        assert torch.equal(rank["samples"], made.samples) and rank["evaluations"] == 5


def test_every_process_evaluates_the_network_equally_often(two_processes):
    """Three batches on two processes: in the last round the second one makes one sample and drops it."""
    first, second = two_processes[0]
    assert first["sizes"] == [4] * 5 + [2] * 5 and second["sizes"] == [4] * 5 + [1] * 5
    assert first["steps"] == second["steps"] == 10


def results_of(folder):
    """Return what the command wrote, and what of it does not depend on the processes."""
    results = json.loads((folder / "results.json").read_text())
    alike = {
        key: value for key, value in results.items() if key not in ("seconds_per_sample", "num_processes")
    }
    if "likelihood" in results:
        alike["likelihood"] = results["likelihood"] | {"seconds": None}
    return results, alike


def test_command_measures_digits_the_same_with_one_and_two_processes(digits_pipeline, two_processes, capfd):
    assert evaluate.main([str(digits_pipeline), *FLAGS]) == 0
    printed = capfd.readouterr().out
    ranks, folder = two_processes
    (one, alike), (two, alike_two) = (results_of(f) for f in (digits_pipeline / "evaluation", folder))
    assert (one["num_processes"], two["num_processes"]) == (1, 2) and alike == alike_two
    assert one["likelihood"]["num_samples"] == 150  # five streams: one process has three of them
    del two["likelihood"]
    assert all(rank["status"] == 0 and rank["results"] == two for rank in ranks)  # in every process
    assert one["seconds_per_sample"] > 0 and one["network_evaluations"] == 3
    assert (one["num_samples"], one["num_held_out"], one["num_training"]) == (70, 360, 1437)
    for key, name in metric_names(one).items():
        assert f"{name} " in printed
        assert f"{one[key]:.4f}" in printed and f"{one[key + '_floor']:.4f}" in printed
    assert "70 is too few samples" in printed
    assert "too few" not in format_results(one | {"num_samples": 200, "num_floor": 200})
    for place in (digits_pipeline / "evaluation", folder):
        with Image.open(place / "samples.png") as picture:
            assert min(picture.size) > 300


def test_figures_of_the_command_are_those_of_the_metrics(digits_pipeline, two_processes):
    pipeline = DDPMFromScratchPipeline.from_pretrained(digits_pipeline)
    made = generate(pipeline, 70, batch_size=32, num_inference_steps=3, seed=5)
    samples, held_out = made.samples.flatten(1), load_digits()[2].flatten(1)
    results = two_processes[0][0]["results"]
    assert results["frechet_distance_pixels"] == pytest.approx(metrics.frechet_distance(samples, held_out))
    expected = metrics.sliced_wasserstein(samples, held_out)
    assert results["sliced_w2"] == pytest.approx(expected, rel=1e-5)  # projected in float32


def test_digits_are_judged_by_a_classifier_that_knows_them(tiny_run):
    """At the end of a training run, which evaluates by the same function."""
    results = json.loads((tiny_run / "results.json").read_text())["evaluation"]
    accuracy = float(results["features"]["digit_classifier"].split("accuracy ")[1].split()[0])
    assert accuracy > 0.97 and results["reference"] == "360 held-out samples"
    assert len(metric_names(results)) == 6 and set(metric_names(results)) < set(results)


def test_half_precision_is_inside_the_network_alone(digits_pipeline, tmp_path, monkeypatch):
    inside, outside, whole = set(), set(), quality.evaluate

    def watched(pipeline, data, **options):
        pipeline.unet.mid_block.register_forward_hook(lambda *_: inside.add(_[-1].dtype))
        pipeline.unet.register_forward_hook(lambda *_: outside.add(_[-1].sample.dtype))
        return whole(pipeline, data, **options)

    monkeypatch.setattr(quality, "evaluate", watched)
    flags = [str(digits_pipeline), "--dataset_name=digits", "--features=pixels", "--num_samples=8"]
    flags += ["--num_inference_steps=2", "--mixed_precision=bf16", f"--output_dir={tmp_path}"]
    assert evaluate.main(flags) == 0
    assert inside == {torch.bfloat16} and outside == {torch.float32}


def test_folder_of_images_is_judged_with_and_without_held_out_ones(tiny_dinov2, tmp_path, capfd):
    untrained_pipeline(sample_size=16).save_pretrained(tmp_path / "pipe")  # grey: photos follow
    photos, unseen = save_images(tmp_path / "photos", 12, 0), save_images(tmp_path / "unseen", 5, 1)
    flags = [
        str(tmp_path / "pipe"), f"--train_data_dir={photos}", "--center_crop",
        f"--cache_dir={tmp_path / 'cache'}", "--num_samples=8", "--num_inference_steps=2",
        "--features", str(tiny_dinov2), "pixels",
    ]  # fmt: skip
    assert evaluate.main(flags) == 0
    out = capfd.readouterr().out
    alone, _ = results_of(tmp_path / "pipe" / "evaluation")
    assert "No held-out samples were given" in out and "its own training data" in out
    assert alone["num_held_out"] == 0 and "12 training samples themselves" in alone["reference"]
    assert list(alone["features"]) == ["dinov2-tiny", "pixels"] and alone["num_floor"] == 6
    assert alone["frechet_distance_dinov2-tiny"] > 0 and str(tmp_path) not in json.dumps(alone)
    assert evaluate.main([*flags, f"--reference_data_dir={unseen}"]) == 0
    out = capfd.readouterr().out
    judged, _ = results_of(tmp_path / "pipe" / "evaluation")
    assert "No held-out" not in out and judged["num_held_out"] == 5 and judged["num_floor"] == 8
    assert judged["frechet_distance_pixels"] != alone["frechet_distance_pixels"]


def test_points_are_judged_in_their_coordinates(tmp_path):
    untrained_pipeline("points").save_pretrained(tmp_path / "pipe")
    flags = [
        str(tmp_path / "pipe"),
        "--dataset_name=swiss_roll",
        "--num_samples=50",
        "--num_inference_steps=2",
    ]
    assert evaluate.main([*flags, "--batch_size=5000"]) == 0
    results, _ = results_of(tmp_path / "pipe" / "evaluation")
    assert results["sliced_w2"] > results["sliced_w2_floor"] > 0 and results["recall_coordinates_floor"] > 0.8
    assert (tmp_path / "pipe" / "evaluation" / "samples.png").is_file()


BAD_COMMANDS = {
    "no pipeline": (["/no/such", "--dataset_name=digits"], "--output_dir"),
    "not a pipeline": ([".", "--dataset_name=digits"], "model_index.json"),
    "no data": (["{pipe}"], "exactly one of --dataset_name and --train_data_dir"),
    "other data": (["{pipe}", "--dataset_name=swiss_roll"], "samples of shape (1, 8, 8)"),
    "resolution": (["{pipe}", "--dataset_name=digits", "--resolution=16"], "--resolution 8"),
    "no folder": (["{pipe}", "--train_data_dir=/no/such"], "--train_data_dir"),
    "reference of digits": (["{pipe}", "--dataset_name=digits", "--reference_split=test"], "of its own"),
    "labels": (
        ["{pipe}", "--dataset_name=digits", "--label_column=label"],
        "10 classes, but the pipeline none",
    ),
    "features": (["{pipe}", "--dataset_name=digits", "--features=coordinates"], "for points"),
    "features twice": (
        ["{pipe}", "--dataset_name=digits", "--features", "pixels", "pixels"],
        "may come once",
    ),
    "few samples": (
        ["{pipe}", "--dataset_name=digits", "--num_samples=3"],
        "3 samples to generate, but needs",
    ),
    "batch": (["{pipe}", "--dataset_name=digits", "--features=pixels", "--batch_size=0"], "batch_size is 0"),
    "steps": (
        ["{pipe}", "--dataset_name=digits", "--features=pixels", "--num_inference_steps=21"],
        "num_inference_steps",
    ),
    "no steps": (
        ["{pipe}", "--dataset_name=digits", "--num_inference_steps=0"],
        "--num_inference_steps is 0, but must be at least 1",
    ),
    "seed": (["{pipe}", "--dataset_name=digits", "--seed=-1"], "--seed is -1"),
}


@pytest.mark.parametrize("name", BAD_COMMANDS)
def test_what_cannot_be_evaluated_is_one_line_and_status_2(
    name, digits_pipeline, tmp_path, capfd, monkeypatch
):
    flags, names = BAD_COMMANDS[name]
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    assert evaluate.main([flag.replace("{pipe}", str(digits_pipeline)) for flag in flags]) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1 and lines[0].startswith("evaluate.py: error:") and names in lines[0], lines


def test_processes_that_do_not_see_each_other_are_refused(digits_pipeline, capfd, monkeypatch):
    """Each would sample all and write the same files."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert evaluate.main([str(digits_pipeline), "--dataset_name=digits"]) == 2
    assert "2 processes were launched, but this one sees 1" in capfd.readouterr().err


def test_unknown_flag_is_one_line(capfd):
    with pytest.raises(SystemExit) as caught:
        evaluate.main(["somewhere", "--dataset_nam=digits"])
    assert caught.value.code == 2 and len(capfd.readouterr().err.splitlines()) == 1
