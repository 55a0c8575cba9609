"""A page that samples from a model in the browser: a static Space of the Hub, no server, nothing to install.

It loads the weights of the model's repository; made from a folder, it has them beside it and runs from any
web server.
"""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from jinja2 import Template
from safetensors import safe_open

from ..hub.requests import CONNECTION_ERRORS, patiently
from ..hub.safe_loading import fetch
from ..hub.upload import SPACE_FILES
from ..networks.models import PointDenoiser, sample_shape
from ..pipeline_ddpm_from_scratch import DDPMFromScratchPipeline
from ..process.diffusion import Scales, to_original
from ..runtime.errors import ConfigError, UploadError
from ..words import LEARNED_VARIANCE_TYPES

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
TEMPLATE = Path(__file__).with_name("page")
# One of 6.5 million takes one to two seconds for an evaluation at 32 px.
_MAX_PARAMETERS = 20_000_000
# What network.js knows of UNet2DModel.
_KNOWN: dict[str, tuple[Any, ...]] = {
    "time_embedding_type": ("positional",),
    "act_fn": ("silu",),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "mid_block_type": ("UNetMidBlock2D",),
    "class_embed_type": (None,),
    "center_input_sample": (False,),
    "resnet_time_scale_shift": ("default", "scale_shift"),
}
_KNOWN_BLOCKS = {"DownBlock2D", "AttnDownBlock2D", "UpBlock2D", "AttnUpBlock2D"}


def make_space(
    model: str, output_dir: Path, num_inference_steps: int | None, revision: str | None, token: str | None
) -> None:
    """Write the page of a model into a folder.

    Args:
        model: a repository's id, or the folder of a pipeline.
        output_dir: the page's folder; made if it is missing.
        num_inference_steps: steps of the reverse chain; 10 by few steps, else 100, if not given.
        revision: of the repository; the page stays with the commit that this is now.
        token: of the Hub.

    Raises:
        ConfigError: a model that a page cannot run, or none; or the folder holds files of others.
        UploadError: the Hub cannot be reached.
    """
    _require_free(output_dir)
    is_folder, api, commit = Path(model).is_dir(), HfApi(token=token), None
    try:
        if not is_folder:
            info = patiently(functools.partial(api.repo_info, model, revision=revision))
            commit = info.sha
            if info.private:
                raise ConfigError(
                    f"{model!r} is private, and a visitor's browser has no token for it: make the page from "
                    "the model's folder, which puts the weights beside it."
                )
        folder = fetch(model, revision=commit, token=token)
        pipeline = DDPMFromScratchPipeline.from_pretrained(folder)
    except (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ConfigError(f"{model!r} cannot be loaded: {str(error).splitlines()[0]}") from error
    except CONNECTION_ERRORS as error:
        raise UploadError(f"{model!r} cannot be fetched: {str(error).splitlines()[0]}") from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
    network = pipeline.unet
    if type(network) not in (UNet2DModel, PointDenoiser):
        raise ConfigError(
            f"the network is a {type(network).__name__}, but the page knows UNet2DModel and PointDenoiser."
        )
    shape = sample_shape(network)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    _require_runnable(dict(network.config), shape, parameters)
    _require_readable(folder / WEIGHTS, network)
    title = f"{(Path(model).resolve() if is_folder else Path(model)).name}: sampling in the browser"
    model_url = "." if is_folder else f"{api.endpoint}/{model}"
    settings = {
        "title": title,
        "model_url": model_url,
        "weights_url": WEIGHTS if is_folder else f"{model_url}/resolve/{commit}/{WEIGHTS}",
        "parameters": parameters,
        "sample_shape": shape,
        "num_classes": getattr(network.config, "num_class_embeds", None),
        "null_label": pipeline.config.null_class_label,
        "class_names": pipeline.config.id2label or {},
        # As the network has it, defaults included, which its file may lack.
        "config": json.loads(network.to_json_string()) | {"_name_or_path": None},
        "steps": chain_steps(pipeline.scheduler, num_inference_steps),
    }
    output_dir.mkdir(parents=True, exist_ok=True)
    for name in ("index.html", "network.js", "page.js"):
        shutil.copy(TEMPLATE / name, output_dir)
    if is_folder:
        (output_dir / WEIGHTS).parent.mkdir(exist_ok=True)
        shutil.copy(folder / WEIGHTS, output_dir / WEIGHTS)
    (output_dir / "settings.json").write_text(json.dumps(settings, indent=1) + "\n")
    card = Template((TEMPLATE / "README.md").read_text(), keep_trailing_newline=True).render(
        title=title,
        repo_id=None if is_folder else model,
        model_url=model_url,
        steps=len(settings["steps"]),
        revision=commit,
    )
    (output_dir / "README.md").write_text(card)


def _require_free(folder: Path) -> None:
    """Raise ConfigError if a folder holds files that the page would replace, but no page."""
    try:
        is_page = "weights_url" in json.loads((folder / "settings.json").read_bytes())
    except (OSError, ValueError, TypeError):
        is_page = False
    theirs = [name for name in SPACE_FILES if (folder / name).exists()]
    if theirs and not is_page:
        raise ConfigError(
            f"--output_dir is {str(folder)!r}, which holds {', '.join(theirs)} of something else, and the "
            "page would replace that: choose another folder."
        )


def _require_runnable(config: dict[str, Any], shape: tuple[int, ...], parameters: int) -> None:
    """Raise ConfigError for a network that network.js does not know, or that would take too long."""
    for name, known in _KNOWN.items():
        if name in config and config[name] not in known:
            raise ConfigError(f"the network has {name} {config[name]!r}, but the page knows {known} only.")
    blocks = {*config.get("down_block_types", ()), *config.get("up_block_types", ())}
    if blocks - _KNOWN_BLOCKS:
        raise ConfigError(
            f"the network has {sorted(blocks - _KNOWN_BLOCKS)}, but the page knows none of them."
        )
    if shape[0] not in ((1, 3) if len(shape) == 3 else (2,)):
        raise ConfigError(f"samples have shape {shape}, but the page draws grey or RGB images and points.")
    if parameters > _MAX_PARAMETERS:
        raise ConfigError(
            f"the network has {parameters:,} parameters, but a page takes minutes for a sample from "
            f"{_MAX_PARAMETERS:,} on."
        )


def _require_readable(path: Path, network: Any) -> None:
    """Raise ConfigError for weights that network.js cannot read: one file of float32, names of today."""
    if not path.is_file():
        raise ConfigError(f"the page reads one file of weights, {WEIGHTS}, which the model does not have.")
    with safe_open(path, framework="pt") as file:
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}
        names = set(file.keys())
    if kinds != {"F32"} or names != set(network.state_dict()):
        raise ConfigError(
            f"the weights are {sorted(kinds)} or have names of an older diffusers, but the page reads "
            "float32 and today's names: load the model, save it again, and make the page from that."
        )


def chain_steps(scheduler: Any, num_inference_steps: int | None) -> list[dict[str, Any]]:
    """Return the coefficients of every step: of x_0 from sample and output, then of the next sample.

    Raises:
        ConfigError: a scheduler whose steps are no such table.
    """
    config, name = scheduler.config, type(scheduler).__name__
    if name not in ("DDPMFromScratchScheduler", "FewStepScheduler"):
        raise ConfigError(f"the model has a {name}, but the page samples by DDPM and by few steps only.")
    if config.thresholding or config.variance_type in LEARNED_VARIANCE_TYPES:
        raise ConfigError("the page knows neither dynamic thresholding nor learned variances.")
    if num_inference_steps is None:
        most = min(100, len(scheduler.alphas_cumprod))
        num_inference_steps = getattr(scheduler, "default_num_inference_steps", most)
    try:
        scheduler.set_timesteps(num_inference_steps)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"--num_inference_steps: {error}") from error
    nothing, one = torch.zeros(1), torch.ones(1)
    rows = []
    for timestep, step in zip(scheduler.timesteps.tolist(), scheduler.linear_steps(), strict=True):
        at_t = Scales(step.signal, step.noise)
        rows.append(
            {
                "timestep": timestep,
                # x_0 is linear in both, so two calls give its coefficients.
                "sample": to_original(nothing, one, at_t, config.prediction_type).item(),
                "output": to_original(one, nothing, at_t, config.prediction_type).item(),
                "clip": config.clip_sample_range if config.clip_sample else None,
                "estimates": step.estimates,
                "keep": step.sample,
                "noise": step.noise_std,
            }
        )
    return rows
