"""The model card of a finished run, filled from what the run wrote into its folder."""

import json
from pathlib import Path
from typing import Any

from ..evaluation.figures import metric_names
from ..hub.cards import calibrated_timesteps, layout_of, model_card, usage
from ..runtime.errors import ConfigError
from ..runtime.storage import replace_file
from ..schedulers.few_step_profile import default_num_steps
from ..words import POINT_DATASET_NAMES

TEMPLATE = Path(__file__).with_name("model_card.md")
# What is known of the licences of the built-in data.
_DATA_LICENSES = {
    "digits": "CC BY 4.0 (Alpaydin & Kaynak 1998, UCI Machine Learning Repository; scikit-learn's copy)",
} | dict.fromkeys(POINT_DATASET_NAMES, "none: the points are drawn from a formula")
# What a run writes into results.json, and a card says.
_RECORDED = {"config", "data", "evaluation", "command"}


def write_card(folder: Path, repo_id: str) -> None:
    """Write README.md into the folder of a run, from its results.json and its index.

    Args:
        folder: of the run, exported and reported.
        repo_id: where the card says that the model is: "user/name", or the folder's name.

    Raises:
        ConfigError: results.json was written by an earlier version.
    """
    results = _recorded(folder)
    config, data, evaluation = results["config"], results["data"], results["evaluation"]
    metrics = {key: (name, evaluation[key]) for key, name in metric_names(evaluation).items()}
    likelihood = results.get("likelihood")
    is_image = len(data["sample_shape"]) == 3
    card = model_card(
        TEMPLATE,
        model_name=repo_id.split("/")[-1],
        dataset=data["name"],
        dataset_id=data["hub_id"],
        license=config["license"],
        pipeline_tag="unconditional-image-generation" if is_image else None,
        metrics=metrics | _likelihood_metrics(likelihood),
        likelihood=likelihood,
        floors={key: evaluation[f"{key}_floor"] for key in metrics},
        evaluation=evaluation,
        results=results,
        config=config,
        data_license=_DATA_LICENSES.get(config["dataset_name"], "that of its source"),
        usage=usage(
            repo_id,
            layout_of(folder),
            num_inference_steps=config["ddpm_num_inference_steps"]
            or default_num_steps(config["ddpm_num_steps"]),
            stock_steps=min(200, config["ddpm_num_steps"]),
            class_label=0 if config["label_column"] else None,
            guidance_scale=config["guidance_scale"] if config["guidance_scale"] != 1 else None,
            few_steps=calibrated_timesteps(folder),
            sample_shape=data["sample_shape"],
        ),
    )
    replace_file(folder / "README.md", str(card).encode())


def _recorded(folder: Path) -> dict[str, Any]:
    """Return the results.json of a run that recorded what a card says."""
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    if not _RECORDED <= set(results):
        raise ConfigError(
            f"{folder / 'results.json'} is of an earlier version, which did not record what a card says: "
            "delete it to publish without."
        )
    return results


def name_repository(folder: Path, repo_id: str) -> None:
    """Write where a run is published into its results.json, for the cards of later, and into its card.

    Args:
        folder: of the run, exported and reported.
        repo_id: "user/name".

    Raises:
        ConfigError: as in `write_card`.
    """
    _replace_results(folder, _recorded(folder) | {"repo_id": repo_id})


def _likelihood_metrics(likelihood: dict[str, Any] | None) -> dict[str, tuple[str, float]]:
    """Return the bound for the card's metadata: metric type -> (name in words, value)."""
    if likelihood is None:
        return {}
    kind, unit = likelihood["variance_type"], likelihood["unit"]
    name = f"Bound on -log p of held-out data, {unit}, {kind} variances"
    return {unit.replace(" ", "_"): (name, likelihood["bounds"][kind]["total"])}


def add_likelihood(folder: Path, likelihood: dict[str, Any], chart: Path) -> None:
    """Write the likelihood that was measured later into results.json and the card of a run.

    Nothing happens in a folder that is not of a run.

    Args:
        folder: of the pipeline.
        likelihood: see `likelihoods.held_out_likelihood`.
        chart: of the terms, which the card shows.
    """
    path = folder / "results.json"
    if not path.is_file():
        return
    results = json.loads(path.read_text())
    if not _RECORDED <= set(results):
        return
    replace_file(folder / chart.name, chart.read_bytes())
    _replace_results(folder, results | {"likelihood": likelihood})


def note_calibration(folder: Path) -> None:
    """Write the card of a run anew, and that its figures are from before the calibration.

    Nothing happens in a folder that is not of a run.
    """
    path = folder / "results.json"
    if not path.is_file():
        return
    results = json.loads(path.read_text())
    if results.get("evaluation"):
        results["evaluation"]["before_calibration"] = True
        print("the figures in the card are from before; evaluate.py measures them anew")
    _replace_results(folder, results)


def _replace_results(folder: Path, results: dict[str, Any]) -> None:
    """Replace results.json and the card that is written from it."""
    replace_file(folder / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    write_card(folder, results.get("repo_id", folder.resolve().name))
