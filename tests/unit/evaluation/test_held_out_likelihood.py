"""`evaluate.py --likelihood`: what it writes, for whom, and what it refuses."""

import json
import math
import shutil

import pytest
import torch
import yaml
from PIL import Image

import evaluate
from ddpm_from_scratch import (
    DDPMFromScratchPipeline,
    DDPMFromScratchScheduler,
    Denoiser,
    build_model,
    model_config,
)
from ddpm_from_scratch.data.datasets import load_digits, load_training_data
from ddpm_from_scratch.density.bound import variational_bound, variational_bounds
from ddpm_from_scratch.density.flow import flow_likelihood
from ddpm_from_scratch.density.residuals import residual_curve, smooth_residuals
from ddpm_from_scratch.evaluation import held_out_likelihood as likelihoods
from ddpm_from_scratch.evaluation.held_out_likelihood import held_out_likelihood, in_words, spread
from ddpm_from_scratch.hub import upload as hub
from ddpm_from_scratch.networks.mixtures import GaussianMixtureDenoiser
from ddpm_from_scratch.training.config import TrainingConfig


def save_pipeline(folder, name="tiny", variance_type="fixed_small", null_class_label=None, **model):
    """Save an untrained pipeline of 20 timesteps."""
    torch.manual_seed(0)
    scheduler = DDPMFromScratchScheduler(
        20, beta_end=0.6, variance_type=variance_type, clip_sample=name == "tiny"
    )
    network = build_model(model_config(name, **model)).eval()
    DDPMFromScratchPipeline(network, scheduler, null_class_label=null_class_label).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def digits_pipeline(tmp_path_factory):
    return save_pipeline(tmp_path_factory.mktemp("pipeline") / "digits")


def measure(folder, *flags, dataset="digits"):
    """Return what the command writes."""
    assert (
        evaluate.main([str(folder), f"--dataset_name={dataset}", "--num_samples=0", "--likelihood", *flags])
        == 0
    )
    return json.loads((folder / "evaluation" / "results.json").read_text())["likelihood"]


def test_figures_are_those_of_the_library(digits_pipeline, capfd):
    """With other noise: within the errors."""
    likelihood = measure(digits_pipeline, "--likelihood_flow=10", "--likelihood_samples=120")
    pipeline = DDPMFromScratchPipeline.from_pretrained(digits_pipeline)
    train, held_out = load_digits()[0], load_digits()[2]
    options = {"data_levels": 17, "generator": torch.Generator().manual_seed(5)}
    denoiser = Denoiser(pipeline.unet, pipeline.scheduler)
    residuals, kinds = residual_curve(denoiser, train[:200]), ["fixed_small", "analytic"]
    expected = variational_bounds(denoiser, held_out, kinds, residuals=residuals, **options)
    assert list(likelihood["bounds"]) == list(expected) and likelihood["variance_type"] == "fixed_small"
    for kind, bound in expected.items():
        found = likelihood["bounds"][kind]
        assert found["total"] == pytest.approx(bound.bits_per_dim, abs=8 * bound.standard_error)
        assert found["standard_error"] == pytest.approx(bound.standard_error * 3**0.5, rel=0.3)
        assert found["total"] == pytest.approx(found["prior"] + found["steps"] + found["decoder"])
        assert found["prior"] == pytest.approx(bound.prior, rel=0.05) and found["decoder"] > 0
    # an untrained network is off by more than the noise that fixed_small expects
    assert likelihood["bounds"]["analytic"]["total"] < likelihood["bounds"]["fixed_small"]["total"]
    # at least 4,096 numbers of training data
    assert (likelihood["num_samples"], likelihood["num_training_samples"]) == (120, 64)
    assert (likelihood["unit"], likelihood["data_levels"]) == ("bits per dimension", 17)
    flow = flow_likelihood(
        Denoiser(pipeline.unet, pipeline.scheduler),
        held_out[:120],
        timesteps=spread(range(20), 10),
        **options,
    )
    assert likelihood["flow"]["total"] == pytest.approx(flow.bits_per_dim, abs=4 * flow.standard_error)
    assert (
        likelihood["flow"]["dequantization"] == "uniform"
        and likelihood["flow"]["noise_std"] == flow.noise_std
    )
    printed = capfd.readouterr().out
    assert in_words(likelihood) in printed and f"{flow.noise_std:.4f}" in printed
    with Image.open(digits_pipeline / "evaluation" / "bound.png") as chart:
        assert min(chart.size) > 300


def test_the_size_of_batches_changes_nothing_and_the_seed_does(digits_pipeline):
    one, two, other = (
        measure(digits_pipeline, "--likelihood_samples=70", *flags)["bounds"]["fixed_small"]["total"]
        for flags in ([], ["--batch_size=1400"], ["--seed=1"])
    )
    assert one == pytest.approx(two, rel=1e-6) and one != pytest.approx(other, rel=1e-4)


def test_terms_may_be_drawn_and_the_chain_may_end_early(digits_pipeline, capfd):
    drawn = measure(digits_pipeline, "--likelihood_terms=4", "--likelihood_samples=70")
    assert list(drawn["bounds"]) == ["fixed_small"]  # analytic variances need all
    assert (drawn["num_terms"], drawn["num_timesteps"], drawn["num_training_samples"]) == (5, 20, 0)
    assert "by 5 of 20 terms for each sample" in capfd.readouterr().out
    short = measure(digits_pipeline, "--likelihood_first_timestep=3", "--likelihood_samples=70")
    assert (short["first_timestep"], short["num_terms"]) == (3, 17)
    bound = variational_bound(
        Denoiser(
            (pipeline := DDPMFromScratchPipeline.from_pretrained(digits_pipeline)).unet, pipeline.scheduler
        ),
        load_digits()[2],
        timesteps=range(3, 20),
        data_levels=17,
    )
    assert short["bounds"]["fixed_small"]["decoder"] == pytest.approx(bound.decoder, rel=0.2)


def test_learned_variances_come_with_fixed_ones_beside(tmp_path):
    folder = save_pipeline(tmp_path / "learned", variance_type="learned_range", out_channels=2)
    bounds = measure(folder, "--likelihood_samples=60")["bounds"]
    assert set(bounds) == {"learned_range", "fixed_small", "analytic"}
    assert len({round(bound["total"], 6) for bound in bounds.values()}) == 3
    assert len({bound["prior"] for bound in bounds.values()}) == 1


def test_points_have_nats():
    """An exact network of eight Gaussians, whose true density is known."""
    scheduler = DDPMFromScratchScheduler(clip_sample=False)
    angle, variance = torch.arange(8) * math.pi / 4, 1 / 2 + 1 / 64
    exact = GaussianMixtureDenoiser(
        (torch.stack([angle.cos(), angle.sin()], dim=1) / variance**0.5).tolist(),
        (torch.eye(2) / 64 / variance).tolist(),
        scheduler.alphas_cumprod.tolist(),
    )
    data = load_training_data(TrainingConfig(dataset_name="eight_gaussians"), None, None)
    likelihood = held_out_likelihood(
        DDPMFromScratchPipeline(exact, scheduler), data, num_samples=300, num_terms=40, num_flow_timesteps=60
    )
    assert (likelihood["unit"], likelihood["data_levels"]) == ("nats per sample", None)
    truth = -float(exact.log_prob(data.held_out).mean())  # of all; 300 of them were measured
    flow, bound = likelihood["flow"], likelihood["bounds"]["fixed_small"]
    assert flow["dequantization"] == "none" and flow["total"] == pytest.approx(truth, abs=0.15)
    assert bound["total"] > truth
    assert bound["total"] == pytest.approx(bound["prior"] + bound["steps"] + bound["decoder"])


def test_analytic_variances_are_smoothed_once_for_all_streams(tmp_path, monkeypatch):
    """64 training digits are two streams; each alone has another variance, and would be clipped to that."""
    seen = []
    monkeypatch.setattr(
        likelihoods, "smooth_residuals", lambda means, x: seen.append(len(x)) or smooth_residuals(means, x)
    )
    measure(save_pipeline(tmp_path / "digits"), "--likelihood_samples=5")
    assert seen == [64]


def test_the_label_of_no_class_is_given_to_a_conditional_network(tmp_path, capfd, monkeypatch):
    folder, seen = save_pipeline(tmp_path / "null", null_class_label=10, num_class_embeds=11), set()
    whole, flags = held_out_likelihood, ["--likelihood_samples=60", "--label_column=label"]

    def watched(pipeline, *args, **options):
        pipeline.unet.register_forward_pre_hook(
            lambda module, given, named: seen.update(named["class_labels"].tolist()), with_kwargs=True
        )
        return whole(pipeline, *args, **options)

    monkeypatch.setattr(likelihoods, "held_out_likelihood", watched)
    measure(folder, *flags, "--likelihood_flow=3")
    assert seen == {10}
    save_pipeline(tmp_path / "no_null", num_class_embeds=10)
    capfd.readouterr()
    command = [str(tmp_path / "no_null"), "--dataset_name=digits", "--num_samples=0", "--likelihood", *flags]
    assert evaluate.main(command) == 2
    assert "--label_dropout" in capfd.readouterr().err


def test_a_run_shows_it_on_its_card(finished_run, tmp_path):
    """And its upload takes the chart along."""
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    before = json.loads((run / "results.json").read_text())
    likelihood = measure(run, "--likelihood_samples=60", "--likelihood_flow=5")
    after = json.loads((run / "results.json").read_text())
    assert after == before | {"likelihood": likelihood, "card_sha256": after["card_sha256"]}
    card = (run / "README.md").read_text()
    section = card[card.index("## Likelihood") : card.index("## Limits")]
    total = likelihood["bounds"]["fixed_small"]["total"]
    assert f"| fixed_small | {total:.4f} |" in section and "](bound.png)" in section
    assert f"{likelihood['flow']['total']:.4f}" in section and "5 evaluations" not in section
    (entry,) = yaml.safe_load(card.split("---")[1])["model-index"]
    metrics = {metric["type"]: metric["value"] for metric in entry["results"][0]["metrics"]}
    assert metrics["bits_per_dimension"] == pytest.approx(total)
    assert (run / "bound.png").is_file() and "bound.png" in hub.REPORT_FILES
    assert "## Likelihood" not in (finished_run / "README.md").read_text()


BAD_COMMANDS = {
    "nothing to do": (["--num_samples=0"], "nothing to measure"),
    "flow without": (["--likelihood_flow=5"], "goes with --likelihood"),
    "no samples": (["--likelihood", "--likelihood_samples=0"], "--likelihood_samples is 0"),
    "no terms": (["--likelihood", "--likelihood_terms=-1"], "--likelihood_terms is -1"),
    "first": (["--likelihood", "--likelihood_first_timestep=19"], "leave two"),
    "negative": (["--likelihood", "--likelihood_first_timestep=-1"], "must be at least 0"),
    "all terms": (["--likelihood", "--likelihood_terms=19"], "leave --likelihood_terms out"),
    "batch": (["--likelihood", "--batch_size=0"], "--batch_size is 0"),
    "folder": (["--likelihood", "--output_dir={pipe}"], "the pipeline's own folder"),
    "flow": (["--likelihood", "--likelihood_flow=1"], "must be in 2..20"),
    "long flow": (["--likelihood", "--likelihood_flow=21"], "must be in 2..20"),
}


@pytest.mark.parametrize("name", BAD_COMMANDS)
def test_what_cannot_be_measured_is_one_line_and_status_2(name, digits_pipeline, capfd):
    flags, says = BAD_COMMANDS[name]
    flags = [flag.replace("{pipe}", str(digits_pipeline)) for flag in flags]
    command = [str(digits_pipeline), "--dataset_name=digits", "--num_samples=0", *flags]
    capfd.readouterr()
    assert evaluate.main(command) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1 and says in lines[0], lines


def test_training_data_alone_have_no_likelihood(tmp_path, capfd):
    save_pipeline(tmp_path / "pipe", sample_size=16)
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(2):
        Image.new("L", (16, 16), 40 * index).save(photos / f"{index}.png")
    command = [
        str(tmp_path / "pipe"), f"--train_data_dir={photos}", f"--cache_dir={tmp_path / 'cache'}",
        "--num_samples=0", "--likelihood",
    ]  # fmt: skip
    assert evaluate.main(command) == 2 and "--reference_data_dir" in capfd.readouterr().err
    command += [f"--reference_data_dir={photos}", "--likelihood_samples=1"]
    assert evaluate.main(command) == 0
    results = json.loads((tmp_path / "pipe" / "evaluation" / "results.json").read_text())["likelihood"]
    assert results["data_levels"] == 256 and results["bounds"]["fixed_small"]["standard_error"] is None


def test_a_network_that_is_not_finite_is_one_line(tmp_path, capfd):
    save_pipeline(tmp_path / "nan")
    pipeline = DDPMFromScratchPipeline.from_pretrained(tmp_path / "nan")
    torch.nn.init.constant_(pipeline.unet.conv_out.bias, float("inf"))
    pipeline.scheduler.register_to_config(clip_sample=False)
    pipeline.save_pretrained(tmp_path / "nan")
    capfd.readouterr()
    command = [str(tmp_path / "nan"), "--dataset_name=digits", "--num_samples=0", "--likelihood"]
    assert evaluate.main(command) == 2
    assert "not finite" in capfd.readouterr().err
    assert not (tmp_path / "nan" / "evaluation").exists()


def test_quality_and_likelihood_do_not_erase_each_other(tmp_path):
    folder = save_pipeline(tmp_path / "digits")
    first = measure(folder, "--likelihood_samples=5", "--likelihood_terms=2")
    quality = [str(folder), "--dataset_name=digits", "--num_samples=8", "--num_inference_steps=2"]
    assert evaluate.main([*quality, "--features=pixels"]) == 0
    results = json.loads((folder / "evaluation" / "results.json").read_text())
    assert results["likelihood"] == first and results["num_samples"] == 8
    second = measure(folder, "--likelihood_samples=6", "--likelihood_terms=2", "--mixed_precision=bf16")
    after = json.loads((folder / "evaluation" / "results.json").read_text())
    assert after == results | {"likelihood": second} and second["mixed_precision"] == "bf16"


def test_timesteps_of_the_flow_are_denser_where_there_is_little_noise():
    chosen = spread(range(10, 1000), 100)
    gaps = torch.tensor(chosen).diff()
    assert (chosen[0], chosen[-1]) == (10, 999) and 95 < len(chosen) <= 100
    assert gaps[:5].max() <= 1 < 15 < gaps[-5:].min()
