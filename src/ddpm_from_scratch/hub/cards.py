"""Model cards: what the Hub shows of a repository, and the metadata that it finds it by."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..networks.registry import OWN_NETWORKS
from ..schedulers.few_step_profile import HIDDEN_CALIBRATION
from .layouts import class_settings


def model_card(
    template: str | Path,
    *,
    model_name: str,
    dataset: str,
    dataset_id: str | None = None,
    metrics: dict[str, tuple[str, float]] | None = None,
    license: str = "apache-2.0",
    pipeline_tag: str | None = "unconditional-image-generation",
    tags: Sequence[str] = (),
    base_model: str | None = None,
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
        pipeline_tag: the task, as the Hub spells it; None for data that are no images.
        tags: further tags.
        base_model: id on the Hub of what it was fine-tuned from, if it has one.
        values: everything else that the template asks for.
    """
    results = [
        EvalResult(
            task_type=pipeline_tag or "other",
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
        pipeline_tag=pipeline_tag,
        tags=["diffusion", "ddpm", *tags],
        base_model=base_model,
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


def layout_of(folder: Path) -> str:
    """Return the layout of a saved pipeline: "portable" or "remote-code" (see layouts.py)."""
    index = json.loads((folder / "model_index.json").read_text())
    return "remote-code" if isinstance(index["_class_name"], list) else "portable"


def usage(
    repo_id: str,
    layout: str,
    *,
    num_inference_steps: int | None = None,
    stock_steps: int | None = None,
    class_label: int | None = None,
    class_name: str | None = None,
    null_class_label: int | None = None,
    guidance_scale: float | None = None,
    few_steps: Sequence[int] | None = None,
    sample_shape: Sequence[int] | None = None,
    own_network: str | None = None,
) -> str:
    """Return the part of a model card that says how to use a pipeline, in Markdown.

    Args:
        repo_id: "user/name".
        layout: see layouts.py.
        num_inference_steps: number of steps to recommend.
        stock_steps: likewise for DDPMScheduler, which is what stock classes of the portable layout sample by.
        class_label: the label of a class, as an example, for class-conditional networks.
        class_name: its name, which stock classes do not know.
        null_class_label: of the pipeline; nor this.
        guidance_scale: to recommend, for networks that were trained with label dropout.
        few_steps: timesteps of a calibration, for schedulers of diffusers.
        sample_shape: of one sample, which they need; of pictures that are not square, it is said.
        own_network: the class of a network that neither diffusers nor this package knows.
    """
    is_portable, is_class = layout == "portable", class_label is not None

    def call(steps: int | None, label: Any, scale: float | None = None) -> str:
        given = {
            "batch_size": 4,
            "num_inference_steps": steps,
            "class_labels": label,
            "guidance_scale": scale,
        }
        named = (f"{name}={json.dumps(value)}" for name, value in given.items() if value is not None)
        return f"pipe({', '.join(named)}).images"

    ours = call(num_inference_steps, class_label if class_name is None else class_name, guidance_scale)
    stock = call(stock_steps, [class_label] * 4 if is_class else None)
    null = "" if null_class_label is None else f", null_class_label={null_class_label}"
    trusted = "" if is_portable else ", trust_remote_code=True"
    alone = "With diffusers alone, on stock classes" if is_portable else "With diffusers and the code here"
    swap = "DDPMFromScratchScheduler.from_config(pipe.scheduler.config)"
    trust = (
        "The first way runs no code of this repository, so `trust_remote_code` is not needed. To have it "
        "with the checks of the second, without installing anything, pass "
        f'`custom_pipeline="{repo_id}", trust_remote_code=True{null}`: that runs `pipeline.py`.'
        if is_portable
        else f"The network is a `{own_network}`, which its author wrote, so both ways run `.py` files of "
        "this repository, and ask for `trust_remote_code=True`. Read them first. Who has the class calls "
        f"`register_network({own_network})`; the second way then needs no flag and runs nothing of here."
        if own_network
        else "Stock classes cannot run this model, so the first way runs `pipeline.py` and the other `.py` "
        "files of this repository, and diffusers asks for `trust_remote_code=True`. Read them first, or use "
        "the second way, which runs no code of this repository."
    )
    # One string a line: in a code file, diffusers' loader takes lines that begin with "from" for its imports.
    return "\n".join(
        (
            *_size_in_words(sample_shape),
            f"{alone}:",
            "",
            "```python",
            "from diffusers import DiffusionPipeline",
            "",
            f'pipe = DiffusionPipeline.from_pretrained("{repo_id}"{trusted})',
            f"images = {stock if is_portable else ours}",
            "```",
            "",
            *(_STOCK_CLASSES if is_portable and is_class else ()),
            "After `pip install ddpm-from-scratch`, which checks the weights and every argument:",
            "",
            "```python",
            "from ddpm_from_scratch import DDPMFromScratchPipeline",
            "",
            f'pipe = DDPMFromScratchPipeline.from_pretrained("{repo_id}"{trusted if own_network else ""})',
            f"images = {ours}",
            "```",
            "",
            "In any pipeline of diffusers, the scheduler of ddpm-from-scratch in the place of DDPMScheduler:",
            "",
            "```python",
            "from ddpm_from_scratch import DDPMFromScratchScheduler",
            "",
            f"pipe.scheduler = {swap}",
            "```",
            "",
            *(
                _stock_few_steps(few_steps, sample_shape, class_label)
                if is_portable and few_steps and sample_shape
                else ()
            ),
            f"{trust} The weights are safetensors; nothing here is a pickle.",
        )
    )


_STOCK_CLASSES = (
    "Stock classes take labels as numbers, and know no guidance. The next way takes names of classes where "
    "there are any, and guides a network that was trained for it.",
    "",
)


def _size_in_words(sample_shape: Sequence[int] | None) -> tuple[str, ...]:
    """Return the lines that say which side of the pictures is which; none of squares and points."""
    if sample_shape is None or len(sample_shape) != 3 or sample_shape[1] == sample_shape[2]:
        return ()
    return (f"The pictures are {sample_shape[1]} pixels high and {sample_shape[2]} wide.", "")


def _stock_few_steps(
    timesteps: Sequence[int], sample_shape: Sequence[int], class_label: int | None
) -> tuple[str, ...]:
    """Return the lines that say how stock diffusers takes calibrated timesteps."""
    size = ", ".join(map(str, sample_shape))
    taken = (
        f"Diffusers alone takes {len(timesteps)} steps well with DPM-Solver++ at the timesteps that were "
        "found for this network"
    )
    if class_label is not None:
        labels = f"class_labels={[class_label] * 4}"
        return (
            f"{taken}:",
            "",
            "```python",
            "from diffusers import DPMSolverMultistepScheduler",
            "",
            "pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)",
            f"timesteps = {list(timesteps)}",
            f"images = pipe(batch_size=4, {labels}, num_inference_steps=None, timesteps=timesteps).images",
            "```",
            "",
        )
    return (
        f"{taken}; DDPMPipeline has no argument for them, so the loop is written out:",
        "",
        "```python",
        "import torch",
        "from diffusers import DPMSolverMultistepScheduler",
        "",
        "scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)",
        f"scheduler.set_timesteps(timesteps={list(timesteps)})",
        f"sample = torch.randn(4, {size})",
        "for t in scheduler.timesteps:",
        "    with torch.no_grad():",
        "        output = pipe.unet(sample, t).sample",
        "    sample = scheduler.step(output, t, sample).prev_sample",
        "images = pipe.numpy_to_pil((sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy())",
        "```",
        "",
    )


def calibrated_timesteps(folder: Path, num_steps: int = 10) -> list[int] | None:
    """Return the timesteps of the calibration of a saved pipeline for a number of steps, or the nearest."""
    path = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    steps = (config.get("calibration") or config.get(HIDDEN_CALIBRATION) or {}).get("steps", {})
    if not steps:
        return None
    return steps[min(steps, key=lambda count: abs(int(count) - num_steps))]["timesteps"]


def class_names(folder: Path) -> list[str]:
    """Return the names of the classes of a saved pipeline in the order of their labels; empty without any."""
    names = class_settings(json.loads((folder / "model_index.json").read_text()))["id2label"] or {}
    return [names[label] for label in sorted(names, key=int)]


def example_class(folder: Path) -> dict[str, Any]:
    """Return a class of a saved pipeline, as arguments of `usage`: class_label and what goes with it."""
    index = json.loads((folder / "model_index.json").read_text())
    network = json.loads((folder / "unet" / "config.json").read_text())
    if network.get("num_class_embeds") is None:
        return {}
    settings = class_settings(index)
    names = settings["id2label"] or {}
    first = min(map(int, names)) if names else 1 if settings["null_class_label"] == 0 else 0
    null = settings["null_class_label"]
    return {"class_label": first, "class_name": names.get(str(first)), "null_class_label": null}


def own_network(folder: Path) -> str | None:
    """Return the class of the network of a saved pipeline if only its author has it."""
    name = json.loads((folder / "model_index.json").read_text())["unet"][1]
    known = {kind.__name__ for kind in OWN_NETWORKS.values()}
    return None if name in known or hasattr(diffusers, name) else name


def plain_card(folder: Path, repo_id: str) -> ModelCard:
    """Return the card of a pipeline of which nothing but its files is known."""
    index = json.loads((folder / "model_index.json").read_text())
    network = json.loads((folder / "unet" / "config.json").read_text())
    is_image = len(network.get("sample_shape") or (3, 1, 1)) == 3
    data = ModelCardData(
        library_name="diffusers",
        pipeline_tag="unconditional-image-generation" if is_image else None,
        tags=["diffusion", "ddpm"],
    )
    size = network.get("sample_size")
    shape = [network.get("in_channels", 3), *size] if isinstance(size, list) else None
    example = example_class(folder)
    # ConsistencyModelPipeline would take one step if nobody says.
    steps = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())["num_train_timesteps"]
    stock_steps = steps if example else None
    how = usage(
        repo_id,
        layout_of(folder),
        stock_steps=stock_steps,
        sample_shape=shape,
        own_network=own_network(folder),
        **example,
    )
    name = repo_id.split("/")[-1]
    can_be_guided = class_settings(index)["null_class_label"] is not None
    more = " It can be guided (`guidance_scale`)." if can_be_guided else ""
    named = class_names(folder)
    more += f" Its classes are {', '.join(named)}." if named else ""
    return ModelCard(
        f"---\n{data.to_yaml()}\n---\n\n# {name}\n\nA denoising diffusion model (DDPM).{more} Data, "
        f"training and licence are not described yet.\n\n## Use\n\n{how}\n"
    )
