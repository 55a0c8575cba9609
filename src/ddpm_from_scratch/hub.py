"""Repositories that load anywhere: the portable folder layout, the model card, the upload.

Portable means that the index names diffusers' own classes, so that
`DiffusionPipeline.from_pretrained(folder)` works without this package. The pipeline's `__init__` turns the
stock scheduler back into ours when the package loads the same folder.
"""

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData

from .scheduler_settings import stock_settings

# What a pushed repository may hold; checkpoints, logs and anything unknown stay at home.
PUSHED_FILES = (
    "model_index.json",
    "README.md",
    "results.json",
    "samples.png",
    "loss.png",
    "unet/config.json",
    "unet/diffusion_pytorch_model*.safetensors",
    "unet/diffusion_pytorch_model*.safetensors.index*.json",
    "scheduler/scheduler_config.json",
)


def stock_pipeline_can_run(unet: Any, scheduler: Any) -> bool:
    """Return whether stock DDPMPipeline and DDPMScheduler give what ours give for these.

    It cannot pass class labels, knows only UNet2DModel, and makes pictures of 1 or 3 channels. Classes are
    compared by name, because a class that was loaded from a repository is another object each time.
    """
    return (
        type(unet).__name__ == "UNet2DModel"
        and unet.config.num_class_embeds is None
        and unet.config.class_embed_type is None
        and unet.config.in_channels in (1, 3)
        and type(scheduler).__name__ == "DDPMFromScratchScheduler"
        and _is_stock_expressible(scheduler)
    )


def _is_stock_expressible(scheduler: Any) -> bool:
    try:
        stock_settings(scheduler.config)
    except ValueError:
        return False
    return True


def stock_scheduler_config(scheduler: Any) -> dict[str, Any]:
    """Return a configuration with which stock DDPMScheduler has the same betas and samples the same.

    Keys that only this package knows are kept where they differ from their default: stock ignores them, with
    a warning, and ours finds them again.

    Raises:
        ValueError: stock cannot express it (see `scheduler_settings.stock_settings`).
    """
    config = dict(scheduler.config)
    stock = stock_settings(config)
    parameters = inspect.signature(type(scheduler).__init__).parameters
    own = {
        name: config[name]
        for name, parameter in parameters.items()
        if name not in stock and name in config and config[name] != parameter.default
    }
    header = {"_class_name": "DDPMScheduler", "_diffusers_version": config.get("_diffusers_version")}
    return header | stock | own


def make_portable(folder: Path, scheduler: Any) -> None:
    """Rewrite the index and the scheduler configuration of a saved pipeline so that stock diffusers loads it.

    Args:
        folder: where `save_pretrained` wrote the pipeline.
        scheduler: the pipeline's scheduler; see `stock_pipeline_can_run`.
    """
    index_path = folder / "model_index.json"
    index = json.loads(index_path.read_text())
    index |= {"_class_name": "DDPMPipeline", "scheduler": ["diffusers", "DDPMScheduler"]}
    index.pop("null_class_label", None)  # stock does not know it; only class-conditional pipelines have one
    index_path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    config_path = folder / "scheduler" / "scheduler_config.json"
    config_path.write_text(json.dumps(stock_scheduler_config(scheduler), indent=2, sort_keys=True) + "\n")


def model_card(
    template: str | Path,
    *,
    model_name: str,
    dataset: str,
    dataset_id: str | None = None,
    metrics: dict[str, tuple[str, float]] | None = None,
    license: str = "apache-2.0",
    tags: Sequence[str] = (),
    **values: Any,
) -> ModelCard:
    """Return a model card: the Hub's metadata and a template filled with `values`.

    Args:
        template: path of a Jinja template, such as model_card.md at the top of this project.
        model_name: name shown with the metrics.
        dataset: name of the training data in words.
        dataset_id: its id on the Hub, if it has one.
        metrics: metric type -> (name in words, value). The name says which features a distance is on.
        license: identifier of the model's licence, as the Hub spells it.
        tags: further tags.
        values: everything else that the template asks for.
    """
    results = [
        EvalResult(
            task_type="unconditional-image-generation",
            dataset_type=dataset_id or dataset,
            dataset_name=dataset,
            metric_type=metric_type,
            metric_name=name,
            metric_value=value,
        )
        for metric_type, (name, value) in (metrics or {}).items()
    ]
    data = ModelCardData(
        license=license,
        library_name="diffusers",
        pipeline_tag="unconditional-image-generation",
        tags=["diffusion", "ddpm", *tags],
        datasets=[dataset_id] if dataset_id else None,
        model_name=model_name,
        eval_results=results or None,
    )
    return ModelCard.from_template(
        data,
        template_path=str(template),
        model_name=model_name,
        dataset=dataset,
        metrics=metrics or {},
        **values,
    )


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    commit_message: str = "Upload pipeline",
) -> str:
    """Upload a saved pipeline to the Hub in one commit and return its address.

    Only `PUSHED_FILES` go: no checkpoints, logs or pickles.

    Args:
        folder: a folder with model_index.json.
        repo_id: "user/name", or "name" for the token's user.
        private: create the repository private; an existing public one is refused.
        token: of the Hub; the one stored by `hf auth login` if not given.
        commit_message: of the commit.

    Raises:
        ValueError: the folder holds no pipeline, or the repository is public where a private one was asked
        for. huggingface_hub.errors.HfHubHTTPError: the Hub refused.
    """
    folder = Path(folder)
    if not (folder / "model_index.json").is_file():
        raise ValueError(f"{folder} has no model_index.json: save a pipeline there first.")
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if private and not api.repo_info(repo_id).private:
        raise ValueError(
            f"{repo_id} exists and is public, but a private repository was asked for; nothing was uploaded."
        )
    api.upload_folder(
        repo_id=repo_id, folder_path=folder, allow_patterns=list(PUSHED_FILES), commit_message=commit_message
    )
    return f"{api.endpoint}/{repo_id}"
