"""What a network is conditioned on: classes, numbers or vectors, and what stands for none of them.

The configuration says it, in the words of UNet2DModel:

    num_class_embeds                   classes: integers (B,), looked up in a table (see class_labels.py)
    class_embed_type "timestep"        numbers: (B,), embedded as timesteps are
    class_embed_type "identity"        vectors: (B, D), added to the embedding of the timestep as they are

Any other class_embed_type takes vectors. All of them are called `class_labels`, as in diffusers.
"""

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch

from .. import checks
from .class_labels import ClassLabels
from .wrapped import unwrapped

ConditionKind = Literal["classes", "numbers", "vectors"]


def condition_kind(network: Any) -> ConditionKind | None:
    """Return what the configuration of a network says that it is conditioned on; None if nothing."""
    config = getattr(unwrapped(network), "config", None)
    embedding = getattr(config, "class_embed_type", None)
    if embedding is not None:
        return "numbers" if embedding == "timestep" else "vectors"
    return None if getattr(config, "num_class_embeds", None) is None else "classes"


def conditions(
    network: Any, null_label: float | None = None, names: Mapping[int | str, str] | None = None
) -> "ClassLabels | Numbers | None":
    """Return what a network may be asked for; None if it is not conditional.

    Args:
        network: with a configuration.
        null_label: what stood for "none" in training: a label of a class, or a number. For vectors it is the
            vector that has this number everywhere; 0 is usual.
        names: label -> name of a class.

    Raises:
        ValueError, TypeError: one of both that does not fit the network.
    """
    kind = condition_kind(network)
    config: Any = getattr(unwrapped(network), "config", None)
    if kind == "classes":
        return ClassLabels(config.num_class_embeds, cast(int | None, null_label), names)  # it checks that
    if names is not None:
        what = "is not class-conditional" if kind is None else f"is conditional on {kind}, not on classes"
        raise ValueError(f"id2label is {names!r}, but the network {what}; leave it out.")
    if kind is not None:
        widths = getattr(config, "block_out_channels", None)
        # What UNet2DModel adds to its embedding of the timestep is as long as that.
        size = 4 * widths[0] if widths and config.class_embed_type == "identity" else None
        return Numbers(kind == "vectors", size, null_label)
    if null_label is not None:
        raise ValueError(
            f"null_class_label is {null_label!r}, but the network is not class-conditional; leave it out."
        )
    return None


def chosen_conditions(
    known: "ClassLabels | Numbers | None", asked: Any, batch_size: int, device: torch.device | str | None
) -> torch.Tensor | None:
    """Return the conditions that a user asks for, shape (B, ...); None for a network without any.

    Args:
        known: what the network may be asked for.
        asked: see `ClassLabels.chosen` and `Numbers.chosen`.
        batch_size: number of samples B.
        device: of the result.

    Raises:
        ValueError: what the network does not know.
    """
    if known is not None:
        return known.chosen(asked, batch_size, device)
    if asked is not None:
        raise ValueError("class_labels were given, but the network is not class-conditional.")
    return None


def check_guidance(guidance_scale: float, class_labels: Any, null_label: float | None) -> None:
    """Raise ValueError or TypeError for a guidance scale that a pipeline cannot use.

    Args:
        guidance_scale: as given.
        class_labels: as given.
        null_label: of the pipeline.
    """
    scale = checks.real("guidance_scale", guidance_scale, 0)
    if scale == 1:
        return
    got = f"guidance_scale is {scale:g}, but"
    if not math.isfinite(scale):
        raise ValueError(f"{got} must be finite; 1 is no guidance, and 1.5 to 5 are usual.")
    if null_label is None:
        raise ValueError(
            f"{got} the pipeline has no null_class_label: guidance needs a class-conditional network "
            "that was trained with label dropout. If yours was, load the pipeline with "
            "null_class_label=its null label; if not, leave guidance_scale at 1."
        )
    if class_labels is None:
        raise ValueError(
            f"{got} class_labels are missing: pass the classes to guide to, or leave guidance_scale at 1 "
            "for unconditional samples."
        )


@dataclass(frozen=True)
class Numbers:
    """Conditions that are numbers, or vectors of them.

    Args:
        are_vectors: one vector for a sample, and not one number.
        size: D of the vectors, if it is known.
        null_label: the number that stood for "none" in training, or None. A vector has it everywhere.

    Raises:
        ValueError, TypeError: a null_label that is no finite number.
    """

    are_vectors: bool
    size: int | None = None
    null_label: float | None = None

    #: Classes have names, these have none.
    names = None

    def __post_init__(self) -> None:
        """Check the null label."""
        if self.null_label is not None:
            number = checks.real("null_class_label", self.null_label)
            if not math.isfinite(number):
                raise ValueError(f"null_class_label is {number}, but must be a finite number.")

    def chosen(self, asked: Any, batch_size: int, device: torch.device | str | None = None) -> torch.Tensor:
        """Return the conditions, floating point, shape (B,), or (B, D) of vectors.

        Args:
            asked: one number or vector for all samples, or a list, array or tensor of B; None for samples of
                no condition.
            batch_size: number of samples B.
            device: of the result.

        Raises:
            ValueError: another number or size of them, one that is not finite, or None without a null label.
        """
        wanted = self._in_words(batch_size)
        if asked is None:
            size = (self.size,) if self.are_vectors else ()
            if self.null_label is None or None in size:
                kind = "vectors" if self.are_vectors else "numbers"
                raise ValueError(f"the network is conditional on {kind}: pass class_labels, {wanted}.")
            return torch.full((batch_size, *size), float(self.null_label), device=device)
        try:
            found = torch.as_tensor(asked, device=device)
        except (TypeError, ValueError, RuntimeError):
            found = torch.empty(0)
        found = found if found.is_floating_point() else self._floating(found)
        if not self.are_vectors:
            found = found.reshape(-1) if found.ndim == 0 or found.shape[1:] == (1,) else found
            fits = found.ndim == 1 and len(found) in (1, batch_size)
        else:
            found = found[None] if found.ndim == 1 else found
            fits = found.ndim == 2 and len(found) in (1, batch_size)
            fits = fits and found.shape[1] > 0 and self.size in (None, found.shape[1])
        if not fits or not bool(found.isfinite().all()):
            shape = f" of shape {tuple(found.shape)}" if found.numel() else ""
            raise ValueError(f"class_labels must be {wanted}, all finite; got {reprlib.repr(asked)}{shape}.")
        return found.expand(batch_size, *found.shape[1:])

    def _floating(self, found: torch.Tensor) -> torch.Tensor:
        is_number = found.dtype != torch.bool and not found.is_complex()
        return found.float() if is_number else torch.empty(0)

    def _in_words(self, batch_size: int) -> str:
        """Return what a user may ask for."""
        if not self.are_vectors:
            return f"one number, or {batch_size} of them"
        size = "D" if self.size is None else self.size
        return f"one vector of {size} numbers, or {batch_size} of them, shape ({batch_size}, {size})"
