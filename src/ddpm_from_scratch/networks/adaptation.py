"""Weights of one network made to fit another, with other channels, classes, size or variances."""

from collections.abc import Mapping
from typing import Any

import torch

from .models import image_sides

Weights = dict[str, torch.Tensor]

# What two networks may differ in.
ADAPTABLE = ("sample_size", "in_channels", "out_channels", "num_class_embeds")
_KINDS = {1: "grey", 3: "RGB", 4: "RGBA"}
# Number of channels -> which of them is which of the three colours.
_RGB = {1: torch.ones(1, 3), 3: torch.eye(3), 4: torch.eye(4)[:, :3]}
_CLASSES = "class_embedding.weight"
_TIME_BIAS = "time_embedding.linear_2.bias"


def differences(
    source: Mapping[str, Any], target: Mapping[str, Any], null_label: int | None = None, drops: bool = False
) -> list[str]:
    """Return in words what `adapted` does to the weights of one network for another; nothing if they fit.

    Args:
        source: configuration of the network that the weights are of, all settings.
        target: the same but for those of `ADAPTABLE`.
        null_label: the row of the classes of `source` that stands for none, if it has one.
        drops: whether the last row of those of `target` stands for none.

    Raises:
        ValueError: weights cannot be carried over; the message says from what to what.
    """
    fixed = [
        name
        for name in source
        if name not in ADAPTABLE and as_stored(source[name]) != as_stored(target[name])
    ]
    if fixed:
        name = fixed[0]
        raise ValueError(
            f"the weights are of a network with {name} {source[name]!r}, not {target[name]!r}; this must "
            "stay."
        )
    if "sample_shape" in source:
        return []
    return [
        *_size_in_words(source["sample_size"], target["sample_size"]),
        *_channels_in_words(source, target),
        *_classes_in_words(source, target, null_label, drops),
    ]


def as_stored(value: Any) -> Any:
    """Return a setting of a network as JSON has it, for comparisons: a tuple is a list."""
    return list(value) if isinstance(value, tuple) else value


def _size_in_words(old: Any, new: Any) -> list[str]:
    if old is None or new is None or image_sides(old) == image_sides(new):
        return []
    sides = (image_sides(old), image_sides(new))
    before, after = (height if height == width else f"{height}x{width}" for height, width in sides)
    return [f"made for {before} px, goes on at {after} px with the same weights"]


def _channels_in_words(source: Mapping[str, Any], target: Mapping[str, Any]) -> list[str]:
    old, new = source["in_channels"], target["in_channels"]
    words = []
    if old != new:
        if old not in _RGB or new not in _RGB:
            raise ValueError(
                f"the weights are of {old} channels and the data have {new}, but only between grey, RGB and "
                f"RGBA (1, 3, 4) can weights be carried over; give data of {old} channels, or start from "
                "fresh weights."
            )
        how = ["the kernel of grey is shared out to the colours, and its output copied"] * (old == 1)
        how += ["the kernels of the colours are added up, and their outputs averaged"] * (new == 1)
        how += ["alpha is left out"] * (old == 4) + ["alpha starts at 0"] * (new == 4)
        words.append(f"{_KINDS[old]} to {_KINDS[new]}: {', '.join(how)}")
    before, after = (config["out_channels"] / config["in_channels"] for config in (source, target))
    if before not in (1, 2):
        raise ValueError(
            f"the weights are of {old} input and {source['out_channels']} output channels, but must have as "
            "many outputs as inputs, or twice as many, with learned variances."
        )
    if before < after:
        words.append("the outputs for learned variances are new and start midway between their bounds")
    if before > after:
        words.append("the outputs for learned variances are left out")
    return words


def _classes_in_words(
    source: Mapping[str, Any], target: Mapping[str, Any], null_label: int | None, drops: bool
) -> list[str]:
    kind = source["class_embed_type"]
    if kind is not None:
        raise ValueError(
            f"the weights are of a network with class_embed_type {kind!r}, but must have classes by number "
            "or none."
        )
    old, new = source["num_class_embeds"], target["num_class_embeds"]
    blank = "the mean of all" if null_label is None else "that of no class"
    if new is None:
        return [] if old is None else [f"{old} classes to none: {blank} goes into the embedding of time"]
    if old is None:
        return [f"no classes to {new}: their embeddings start at 0, where nothing changes"]
    classes, wanted = old - (null_label is not None), new - drops
    words = []
    if classes != wanted:
        kept = min(classes, wanted)
        rest = f"{classes - kept} are left out" if classes > kept else f"{wanted - kept} start as {blank}"
        words.append(f"{classes} classes to {wanted}: the first {kept} are kept by their number, {rest}")
    if drops and null_label is None:
        words.append("no class starts as the mean of all")
    if null_label is not None and not drops:
        words.append("that of no class is left out")
    return words


def adapted(
    weights: Weights,
    source: Mapping[str, Any],
    target: Mapping[str, Any],
    null_label: int | None = None,
    drops: bool = False,
) -> Weights:
    """Return weights for `target`, made from those of `source`; see `differences`, which must accept them.

    A size changes nothing, for the network is made of convolutions and attention. A picture whose channels
    are all alike is seen by a network for RGB as by the one for grey, and the other way round. Labels are
    added to the embedding of the timestep, so no label at all becomes a part of its bias.

    Args:
        weights: by name; not changed.
        source: see `differences`; so are the other arguments.
        target: likewise.
        null_label: likewise.
        drops: likewise.
    """
    made = dict(weights)
    if "sample_shape" in source:
        return made
    old, channels = source["in_channels"], target["in_channels"]
    if old != channels:
        share = _carried(old, channels) / (3 if old == 1 else 1)
        made["conv_in.weight"] = torch.einsum("ochw,cd->odhw", made["conv_in.weight"], share)
    for name in ("conv_out.weight", "conv_out.bias"):
        halves = list(made[name].split(old))
        if old != channels:
            share = _carried(old, channels) / (3 if channels == 1 else 1)
            halves = [torch.einsum("c...,cd->d...", half, share) for half in halves]
        if len(halves) * channels < target["out_channels"]:
            halves.append(torch.zeros_like(halves[0]))
        made[name] = torch.cat(halves)[: target["out_channels"]]
    rows = made.pop(_CLASSES, None)
    new = target["num_class_embeds"]
    if rows is None and new is not None:
        made[_CLASSES] = made[_TIME_BIAS].new_zeros(new, len(made[_TIME_BIAS]))
    if rows is not None:
        blank = rows.mean(0) if null_label is None else rows[null_label]
        if new is None:
            made[_TIME_BIAS] = made[_TIME_BIAS] + blank
        else:
            classes = rows if null_label is None else torch.cat([rows[:null_label], rows[null_label + 1 :]])
            kept = classes[: new - drops]
            made[_CLASSES] = torch.cat([kept, blank.expand(new - len(kept), -1)])
    return made


def _carried(old: int, new: int) -> torch.Tensor:
    """Return which channel becomes which, through RGB, shape (old, new)."""
    return _RGB[old] @ _RGB[new].T
