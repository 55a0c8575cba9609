"""The record of a finished run: results.json, and README.md, its model card, which is written from it.

Both are written here alone, always together, so that the card says what the figures say.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from ..data.datasets import TrainingData
from ..data.settings import DataConfig
from ..evaluation.figures import metric_names
from ..hub.cards import calibrated_timesteps, class_names, example_class, layout_of, model_card, usage
from ..runtime.errors import ConfigError, warn
from ..runtime.privacy import without_folders
from ..runtime.storage import replace_file
from ..schedulers.few_step_profile import default_num_steps
from ..words import POINT_DATASET_NAMES

TEMPLATE = Path(__file__).with_name("model_card.md")
# What is known of the licences of the built-in data.
_DATA_LICENSES = {
    "digits": "CC BY 4.0 (Alpaydin & Kaynak 1998, UCI Machine Learning Repository; scikit-learn's copy)",
} | dict.fromkeys(POINT_DATASET_NAMES, "none: the points are drawn from a formula")
# What a record must hold for a card to be written from it.
_RECORDED = {"config", "data", "evaluation", "command"}

# Settings that say, beside the name, which part of the data a run was trained on.
_WHICH_DATA = ("dataset_config_name", "dataset_split")


@dataclass(frozen=True)
class RunRecord:
    """What a run was and what was measured of it.

    A `with_...` method returns a record that says more; `write` puts it in place of the one before.

    Args:
        folder: of the run, with its exported pipeline.
        results: what results.json holds: "repo_id" (what the card calls the model), "training", "data",
            "evaluation" (empty if nothing was evaluated), "config", "command", "versions", and perhaps
            "likelihood". The file also has "card_sha256", of its card and the one before.
    """

    folder: Path
    results: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the record in the folder of a run.

        Raises:
            ConfigError: results.json was written by an earlier version.
        """
        path = folder / "results.json"
        results = json.loads(path.read_text())
        results.pop("card_sha256", None)
        if not set(results) >= _RECORDED:
            raise ConfigError(
                f"{path} is of an earlier version, which did not record what a card says: delete it to "
                "publish without."
            )
        return cls(folder, results)

    @classmethod
    def find(cls, folder: Path) -> Self | None:
        """Return the record in a folder; None if it holds none, or one that no card can be written from."""
        if not (folder / "results.json").is_file():
            return None
        try:
            return cls.read(folder)
        except ConfigError:
            return None

    @classmethod
    def is_there(cls, folder: Path) -> bool:
        """Return whether a folder holds the record of a run, of any version."""
        try:
            results = json.loads((folder / "results.json").read_bytes())
        except (OSError, ValueError):
            return False
        return isinstance(results, dict) and "ddpm-from-scratch" in results.get("versions", ())

    @classmethod
    def wrote_card(cls, folder: Path) -> bool:
        """Return whether README.md in a folder is as a record wrote it; False if a person has changed it."""
        path = folder / "README.md"
        if not cls.is_there(folder) or not path.is_file():
            return False
        known = json.loads((folder / "results.json").read_bytes()).get("card_sha256")
        return known is None or _digest(path.read_bytes()) in known

    def with_repository(self, repo_id: str) -> Self:
        """Return the record of a run that is published as "user/name"; later cards say so, too."""
        return replace(self, results=self.results | {"repo_id": repo_id})

    def with_evaluation(self, evaluation: dict[str, Any]) -> Self:
        """Return the record with the figures that `quality.evaluate` measured, in place of earlier ones."""
        return replace(self, results=self.results | {"evaluation": evaluation})

    def with_likelihood(self, likelihood: dict[str, Any]) -> Self:
        """Return the record with what `held_out_likelihood` measured; the card shows it, and its chart."""
        return replace(self, results=self.results | {"likelihood": likelihood})

    def with_calibration(self) -> Self:
        """Return the record of a pipeline that was calibrated after its figures were measured."""
        if not self.has_figures:
            return self
        evaluation = self.results["evaluation"] | {"before_calibration": True}
        return replace(self, results=self.results | {"evaluation": evaluation})

    def why_kept(
        self, key: str, measured: dict[str, Any], config: DataConfig, data: TrainingData
    ) -> str | None:
        """Return why the record should keep its figures and not have new ones; None if it should have them.

        The card names the data of the run, and a figure of few samples says less than one of many.

        Args:
            key: "evaluation" or "likelihood".
            measured: what is new.
            config: of the data that it was measured with.
            data: these.
        """
        recorded, settings = self.results["data"], self.results["config"]
        same = {name: without_folders(getattr(config, name)) for name in _WHICH_DATA}
        is_of_run = data.name == recorded["name"] and all(settings.get(name) == same[name] for name in same)
        files = recorded.get("files")
        if files is not None and data.files is not None:
            is_of_run = is_of_run and files["used"] == data.files["used"]
        if not is_of_run:
            return f"the run was trained on other data than these ({recorded['name']})"
        earlier = (self.results.get(key) or {}).get("num_samples", 0)
        if measured["num_samples"] < earlier:
            return f"it has those of {earlier} samples, more than {measured['num_samples']}"
        return None

    @property
    def has_figures(self) -> bool:
        """Whether the samples of the run were evaluated."""
        return bool(self.results["evaluation"])

    @property
    def may_write_card(self) -> bool:
        """Whether `write` writes README.md: there is none, or one that a record wrote."""
        return not (self.folder / "README.md").exists() or self.wrote_card(self.folder)

    def write(self) -> None:
        """Write results.json, and README.md from it and from the pipeline beside it.

        A README.md that a person wrote or changed stays, and that is said.

        Raises:
            StorageError: the disk is full or fails; what was there before is intact.
        """
        card = self.card().encode()  # first: results.json stays as it was if no card can be written from this
        path, is_free = self.folder / "README.md", self.may_write_card
        # Also of the one before: a crash between the two files leaves that.
        before = [_digest(path.read_bytes())] if is_free and path.exists() else []
        results = self.results | {"card_sha256": list(dict.fromkeys([_digest(card), *before]))}
        replace_file(self.folder / "results.json", (json.dumps(results, indent=2) + "\n").encode())
        if is_free:
            replace_file(path, card)
        else:
            warn("README.md was written or changed by hand, and stays as it is; delete it for a new card")

    def card(self) -> str:
        """Return the model card."""
        folder, results = self.folder, self.results
        config, data, evaluation = results["config"], results["data"], results["evaluation"]
        repo_id = results.get("repo_id", folder.resolve().name)
        metrics = {key: (name, evaluation[key]) for key, name in metric_names(evaluation).items()}
        likelihood = results.get("likelihood")
        is_image = len(data["sample_shape"]) == 3
        card = model_card(
            TEMPLATE,
            model_name=repo_id.split("/")[-1],
            dataset=data["name"],
            dataset_id=data["hub_id"],
            license=config["license"],
            base_model=(results.get("started_from") or {}).get("hub_id"),
            pipeline_tag="unconditional-image-generation" if is_image else None,
            metrics=metrics | _likelihood_metrics(likelihood),
            likelihood=likelihood,
            floors={key: evaluation[f"{key}_floor"] for key in metrics},
            evaluation=evaluation,
            results=results,
            config=config,
            class_names=class_names(folder),
            data_license=_DATA_LICENSES.get(config["dataset_name"], "that of its source"),
            usage=usage(
                repo_id,
                layout_of(folder),
                num_inference_steps=config["ddpm_num_inference_steps"]
                or default_num_steps(config["ddpm_num_steps"]),
                stock_steps=min(200, config["ddpm_num_steps"]),
                guidance_scale=config["guidance_scale"] if config["guidance_scale"] != 1 else None,
                few_steps=calibrated_timesteps(folder),
                sample_shape=data["sample_shape"],
                **example_class(folder),
            ),
        )
        return str(card)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _likelihood_metrics(likelihood: dict[str, Any] | None) -> dict[str, tuple[str, float]]:
    """Return the bound for the card's metadata: metric type -> (name in words, value)."""
    if likelihood is None:
        return {}
    kind, unit = likelihood["variance_type"], likelihood["unit"]
    name = f"Bound on -log p of held-out data, {unit}, {kind} variances"
    return {unit.replace(" ", "_"): (name, likelihood["bounds"][kind]["total"])}
