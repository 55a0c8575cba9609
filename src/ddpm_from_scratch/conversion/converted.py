"""A saved pipeline from weights of another code base: which layout they have, and where the result goes."""

from pathlib import Path

from ..hub.safe_loading import some
from ..pipeline_ddpm_from_scratch import DDPMFromScratchPipeline
from ..runtime.errors import ConfigError
from .bin_repositories import convert_repository
from .checkpoints import unpickled, weights_of
from .lucidrains import convert_lucidrains, is_lucidrains
from .openai import convert_openai, is_openai
from .settings import ConversionSettings


def convert(source: str, output_dir: str, settings: ConversionSettings) -> list[str]:
    """Save a pipeline made from a checkpoint or an old repository; return what was read and what assumed.

    Args:
        source: a file of torch.save; or a folder or a repository's id with weights as `.bin`.
        output_dir: for the pipeline: a folder that is empty or missing.
        settings: what the file does not say.

    Raises:
        ConfigError: weights of an unknown layout, or that nothing here can hold; settings that do not fit.
    """
    path, folder = Path(source).expanduser(), Path(output_dir).expanduser()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(f"output_dir is {output_dir!r}, which is there and not empty; give a new folder.")
    notes: list[str] = []
    if not path.is_file():
        settings.require_only((), "a folder or repository of diffusers")
        convert_repository(source, folder, notes)
        return notes
    weights = weights_of(unpickled(path), settings.weights, path, notes)
    if is_openai(weights):
        unet, scheduler = convert_openai(weights, settings, notes)
    elif is_lucidrains(weights):
        unet, scheduler = convert_lucidrains(weights, settings, notes)
    elif any(name.startswith(("down_blocks.", "conv_in.")) for name in weights):
        raise ConfigError(
            f"{source!r} has the names of diffusers: give its folder, which must have config.json, in place "
            "of the file."
        )
    else:
        raise ConfigError(
            f"{source!r} has {some(sorted(weights))}, but must have the names of improved-diffusion, "
            "guided-diffusion or denoising-diffusion-pytorch."
        )
    DDPMFromScratchPipeline(unet=unet, scheduler=scheduler).save_pretrained(folder)
    return notes
