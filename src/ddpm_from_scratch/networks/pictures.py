"""Pictures as users have them, and samples as networks have them: from one to the other.

Pictures are PIL images, arrays (B, H, W, C) or tensors (B, C, H, W) with values in [0, 1], as the pipeline
returns them; samples are tensors (B, C, H, W) in [-1, 1]. Data that are no pictures stay as they are.
"""

from typing import Any

import numpy as np
import torch
from diffusers.utils.pil_utils import numpy_to_pil
from PIL import Image

from ..words import OUTPUT_TYPES

# Channels of samples -> the modes of PIL that have them.
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_DEEP_MODES = ("F", "I", "I;16", "I;16B", "I;16L", "I;16N")
_ROUNDING = 1e-3


def output_type_for(asked: str | None, shape: tuple[int, ...]) -> str:
    """Return what samples of a shape (B, ...) are returned as: what was asked for, or what suits them.

    Raises:
        ValueError: an unknown word, or "pil" for what is no picture.
    """
    is_image, channels = len(shape) == 4, shape[1]
    found = asked or ("pil" if is_image else "np")
    if found not in OUTPUT_TYPES:
        raise ValueError(f"output_type is {found!r}, but must be one of {OUTPUT_TYPES}.")
    if found == "pil" and not (is_image and channels in _MODES):
        raise ValueError(
            f"output_type 'pil' needs images with 1, 3 or 4 channels, but samples have shape "
            f"{shape[1:]}; use 'np' or 'pt'."
        )
    return found


def pictures_of(sample: torch.Tensor, output_type: str) -> list[Image.Image] | np.ndarray | torch.Tensor:
    """Return samples (B, ...) as pictures of that type; data that are no pictures in their own units."""
    if sample.ndim != 4:
        return sample if output_type == "pt" else sample.float().cpu().numpy()
    sample = (sample / 2 + 0.5).clamp(0, 1)
    if output_type == "pt":
        return sample
    array = sample.float().cpu().permute(0, 2, 3, 1).numpy()
    return numpy_to_pil(array) if output_type == "pil" else array


def samples_of(image: Any, shape: tuple[int, ...]) -> torch.Tensor:
    """Return pictures as samples, float32, shape (B, ...).

    Args:
        image: one PIL image, a list of them, an array (H, W, C) or (B, H, W, C), a tensor (C, H, W) or
            (B, C, H, W), or a list of arrays or tensors; uint8, or floating point in [0, 1]. Of data that are
            no pictures: an array or tensor (D,) or (B, D).
        shape: of one sample: (C, H, W), or (D,).

    Raises:
        TypeError: no pictures, or a mode or kind of number that would lose something.
        ValueError: another size or number of channels, values outside [0, 1] or not finite, or a picture
            that is partly transparent where the network knows no transparency.
    """
    parts = list(image) if isinstance(image, (list, tuple)) else [image]
    if not parts:
        raise ValueError("image is an empty list.")
    if len(shape) != 3 and all(isinstance(part, (int, float)) for part in parts):
        parts = [np.asarray(parts, dtype=np.float32)]
    return torch.cat([_samples_of_one(part, shape) for part in parts])


def _samples_of_one(part: Any, shape: tuple[int, ...]) -> torch.Tensor:
    """Return one picture, or one array or tensor of several, as samples (B, ...)."""
    is_picture = len(shape) == 3
    if isinstance(part, Image.Image) and is_picture:
        found, is_array = torch.from_numpy(_pixels(part, shape)), True
    elif isinstance(part, np.ndarray):
        found, is_array = torch.from_numpy(np.ascontiguousarray(part)), is_picture
    elif isinstance(part, torch.Tensor):
        found, is_array = part.detach(), False
    else:
        kinds = "PIL images, arrays or tensors" if is_picture else "an array or a tensor"
        raise TypeError(f"image has {type(part).__name__}, but must be {kinds}, or a list of them.")
    if is_array and found.ndim == 2 and shape[0] == 1:
        found = found[..., None]  # a grey picture without its channel
    given, found = tuple(found.shape), found[None] if found.ndim == len(shape) else found
    if is_array and found.ndim == 4:
        found = found.permute(0, 3, 1, 2)
    if tuple(found.shape[1:]) != tuple(shape) or found.ndim != len(shape) + 1:
        one = (*shape[1:], shape[0]) if is_array else shape
        sides = f" Resize pictures first: image.resize({shape[:0:-1]})." if is_picture else ""
        raise ValueError(
            f"image has shape {given}, but must have {tuple(one)}, or (B, {', '.join(map(str, one))}).{sides}"
        )
    return _in_network_units(found, is_picture)


def _pixels(picture: Image.Image, shape: tuple[int, ...]) -> np.ndarray:
    """Return the pixels (H, W, C) of a PIL image, with the channels that the network has."""
    if shape[0] not in _MODES:
        raise TypeError(
            f"image is a PIL image, but samples have {shape[0]} channels: pass an array or a tensor."
        )
    if picture.mode in _DEEP_MODES:
        raise TypeError(
            f"image has mode {picture.mode!r}, whose numbers have no known range: pass an array in [0, 1]."
        )
    if shape[0] != 4 and np.asarray(picture.convert("RGBA"))[..., 3].min() < 255:
        raise ValueError(
            "image is partly transparent, which the network does not know: put it on a background first."
        )
    return np.atleast_3d(np.array(picture.convert(_MODES[shape[0]])))


def _in_network_units(found: torch.Tensor, is_picture: bool) -> torch.Tensor:
    """Return pictures in [-1, 1], and other data as they are; float32."""
    if found.is_floating_point():
        scaled = found.float()
    elif found.dtype == torch.uint8 and is_picture:
        scaled = found.float() / 255
    else:
        allowed = "uint8 or floating point" if is_picture else "floating point"
        raise TypeError(f"image has dtype {found.dtype}, but must be {allowed}.")
    if not bool(scaled.isfinite().all()):
        raise ValueError("image has numbers that are not finite.")
    if not is_picture:
        return scaled
    low, high = (float(bound) for bound in scaled.aminmax())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise ValueError(
            f"image has values from {low:.3g} to {high:.3g}, but floating-point pictures are in [0, 1], as "
            "the pipeline returns them: from [-1, 1] they get there by x / 2 + 0.5, from 0..255 by x / 255."
        )
    return scaled * 2 - 1


def check_start(latents: torch.Tensor | None, start: torch.Tensor | None, shape: tuple[int, ...]) -> None:
    """Raise ValueError for latents or pictures to start from that do not fit the samples' shape (B, ...)."""
    if latents is not None and latents.shape != shape:
        raise ValueError(
            f"latents have shape {tuple(latents.shape)}, but batch_size is {shape[0]}; make them agree."
        )
    if start is not None and len(start) not in (1, shape[0]):
        raise ValueError(
            f"image has {len(start)} pictures, but batch_size is {shape[0]}; give one, or as many."
        )
