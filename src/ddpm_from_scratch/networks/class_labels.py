"""The classes of a class-conditional network: their numbers, their names, and those that a user asks for."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .. import checks


@dataclass(frozen=True)
class ClassLabels:
    """The labels that a network knows.

    Args:
        count: size of its table of classes, with the null class.
        null_label: the label that stood for "no class" in training, or None.
        names: label -> name of the class, the `id2label` of diffusers' DiTPipeline (a JSON file makes the
            labels texts); None if the classes have no names.

    Raises:
        ValueError, TypeError: a null label outside the table, or names that do not fit it.
    """

    count: int
    null_label: int | None = None
    names: Mapping[int | str, str] | None = None

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
        if self.null_label is not None:
            label = checks.integer("null_class_label", self.null_label, 0, self.count - 1)
            object.__setattr__(self, "null_label", label)
        if self.names is None:
            return
        if not isinstance(self.names, Mapping) or not all(
            isinstance(name, str) and name for name in self.names.values()
        ):
            raise TypeError(
                "id2label must be a dictionary of labels and their names, such as {0: 'cat', 1: 'dog'}, got "
                f"{self.names!r:.200}."
            )
        labels = {label: str(label) for label in self.labels}
        unknown = [label for label in self.names if str(label) not in labels.values()]
        if unknown:
            raise ValueError(f"id2label names the label {unknown[0]!r}, but there are {self._numbers()}.")
        named = {str(label): name for label, name in self.names.items()}
        double = sorted({name for name in named.values() if list(named.values()).count(name) > 1})
        if double:
            raise ValueError(f"id2label has {double[0]!r} more than once: give each class its own name.")
        by_label = {label: named[text] for label, text in labels.items() if text in named}
        object.__setattr__(self, "names", by_label)

    @property
    def labels(self) -> list[int]:
        """The labels of classes, in order."""
        return [label for label in range(self.count) if label != self.null_label]

    def chosen(self, asked: Any, batch_size: int, device: torch.device | str | None = None) -> torch.Tensor:
        """Return the labels (B,) int64 that a user asks for.

        Args:
            asked: one label, or name of a class, for all samples, or a list or tensor (B,) of them; None for
                samples of no class.
            batch_size: number of samples B.
            device: of the result.

        Raises:
            ValueError: an unknown name or label, another number of them, or None without a null class.
        """
        if asked is None:
            if self.null_label is None:
                raise ValueError(
                    f"the network is class-conditional: pass class_labels in {self._in_words()}."
                )
            return torch.full((batch_size,), self.null_label, device=device)
        if isinstance(asked, str):
            asked = [asked]
        if isinstance(asked, Sequence):
            asked = [self._label_of(label) if isinstance(label, str) else label for label in asked]
        try:
            labels = torch.as_tensor(asked, device=device).reshape(-1)
        except (TypeError, ValueError, RuntimeError):
            labels = torch.empty(0)
        if len(labels) == 1:
            labels = labels.expand(batch_size)
        if len(labels) != batch_size or labels.is_floating_point() or labels.dtype == torch.bool:
            kind = "integer or name" if self.names else "integer"
            raise ValueError(f"class_labels must be one {kind} or {batch_size} of them, got {asked!r:.200}.")
        if not set(labels.tolist()) <= set(self.labels):
            hint = ""
            if self.null_label is not None:
                hint = (
                    f" {self.null_label} is the null class: leave class_labels out for unconditional samples."
                )
            raise ValueError(f"class_labels must be in {self._in_words()}, got {labels.tolist()}.{hint}")
        return labels.long()

    def _label_of(self, name: str) -> int:
        if not self.names:
            raise ValueError(
                f"class_labels has the name {name!r}, but the classes of this pipeline have no names: pass "
                f"labels in {self._numbers()}, or load it with id2label={{0: ..., 1: ...}}."
            )
        labels = {named: int(label) for label, named in self.names.items()}
        if name in labels:
            return labels[name]
        close = difflib.get_close_matches(name, labels, n=1)
        known = ", ".join(list(labels)[:20]) + (", ..." if len(labels) > 20 else "")
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"class_labels has {name!r}, which is no class; {hint}The classes are: {known}.")

    def _numbers(self) -> str:
        """Return which labels there are, in words."""
        last = self.count - 1
        if self.null_label is None or self.null_label == last:
            return f"0..{last if self.null_label is None else last - 1}"
        return f"0..{last} but {self.null_label}"

    def _in_words(self) -> str:
        """Return what a user may ask for."""
        return f"{self._numbers()}{' or their names' if self.names else ''}"
