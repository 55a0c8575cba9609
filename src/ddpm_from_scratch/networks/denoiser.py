"""Denoiser: a network with the process it was trained on, and what one evaluation of it says.

    denoiser = Denoiser(network, scheduler)
    at_t = denoiser(x_t, t)
    at_t.original, at_t.noise, at_t.velocity, at_t.score

Whatever the network was trained to predict, each evaluation gives the estimate of x_0, of the noise, of v and
the score: one follows from the other. Score, likelihood, loss, calibration and the pipeline are built on it.
"""

import copy
import functools
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from .. import checks
from ..process.diffusion import (
    Scales,
    at_least_float32,
    broadcast_to_sample,
    scales,
    to_epsilon,
    to_original,
    to_score,
    to_velocity,
)
from ..process.estimate import clipped, guided_output, split_variance
from ..process.timesteps import check_signal, checked_timesteps
from ..schedulers.other_schedulers import check_process
from .conditions import condition_kind
from .registry import is_foreign
from .wrapped import unwrapped

_HALF = (torch.float16, torch.bfloat16)


def output_tensor(output: Any) -> torch.Tensor:
    """Return the prediction in what a forward returned: a tensor, `.sample`, or the first of a tuple.

    Raises:
        TypeError: something else.
    """
    for found in (
        output,
        getattr(output, "sample", None),
        output[0] if isinstance(output, (tuple, list)) and output else None,
        output.get("sample") if isinstance(output, Mapping) else None,
    ):
        if isinstance(found, torch.Tensor):
            return found
    raise TypeError(
        f"the network returned {type(output).__name__}, but its forward must return the prediction: a "
        "tensor, an output with .sample, a dictionary with 'sample', or a tuple whose first element it is."
    )


def device_of(network: Any) -> torch.device:
    """Return where a network is, by its first parameter or buffer; the CPU if it has none."""
    first = first_tensor(network)
    return torch.device("cpu") if first is None else first.device


def dtype_of(network: Any) -> torch.dtype:
    """Return the precision of a network: its `dtype`, or that of its weights; float32 if it has none."""
    # That of a diffusers model without a single tensor raises.
    has_own = first_tensor(network) is not None or not isinstance(network, nn.Module)
    dtype = getattr(network, "dtype", None) if has_own else None
    if isinstance(dtype, torch.dtype):
        return dtype
    found = (tensor.dtype for tensor in _tensors(network) if tensor.is_floating_point())
    return next(found, torch.float32)


def first_tensor(network: Any) -> torch.Tensor | None:
    """Return the first parameter or buffer of a network; None if it has none."""
    return next(_tensors(network), None)


def _tensors(network: Any) -> Iterator[torch.Tensor]:
    """Return parameters, then buffers, of a network; of a functools.partial those of what it calls."""
    network = getattr(network, "func", network)
    if not isinstance(network, nn.Module):
        return iter(())
    return itertools.chain(network.parameters(), network.buffers())


def _check_call(network: Any, has_labels: bool) -> None:
    """Raise TypeError for a forward that cannot be called with what a Denoiser has to give."""
    function = network.forward if isinstance(network, nn.Module) else network
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of a function that is not written in Python
        return
    given = {"class_labels": None} if has_labels else {}
    try:
        signature.bind(None, None, **given)
    except TypeError as error:
        name = getattr(network, "__name__", type(network).__name__)
        beside = ", class_labels=labels" if has_labels else ""
        raise TypeError(
            f"{name} is called as network(sample, timesteps{beside}), which its arguments {signature} do not "
            f"allow ({error}): for others use a function that gives them, such as "
            "functools.partial(network, name=value)."
        ) from None


def _check_shape(output: torch.Tensor, sample: torch.Tensor) -> None:
    """Raise ValueError unless an output has the sample's shape, or twice its channels."""
    found, wanted = output.shape, sample.shape
    if found == wanted or (len(wanted) > 1 and found == (wanted[0], 2 * wanted[1], *wanted[2:])):
        return
    raise ValueError(
        f"the network returned a prediction of shape {tuple(found)} for samples of shape {tuple(wanted)}, "
        "but it must have their shape (or twice their channels, with a learned variance)."
    )


class Denoiser:
    """A network and its process.

    Args:
        network: called as `network(x_t, timesteps)`, with `class_labels=` if there are labels: a diffusers
            model, a plain `nn.Module` or any function, which get timesteps of shape (B,); it returns a
            tensor, an output with `.sample`, or a tuple (see `output_tensor`).
        process: a scheduler of this package or of diffusers, which gives `alphas_cumprod` and
            `config.prediction_type`, and may give a variance_type and the clipping of x_0.
        labels: classes of the samples: one for all, or one for each, shape (N,). For networks that are
            conditioned on them, numbers, likewise, or vectors, shape (D,) or (N, D) (see conditions.py).
        guidance_scale: s of classifier-free guidance (see `guided_output`); 1 is none. Each evaluation then
            sees every sample twice, in one batch of 2B. A learned variance stays the conditional one.
        null_label: the label of no class, which guidance needs. For vectors, the one that has this number
            everywhere.

    Raises:
        TypeError, ValueError: labels that do not fit the network, guidance without what it needs, a network
            that cannot be called so, or a scheduler of another process, such as flow matching.
    """

    def __init__(
        self,
        network: Callable[..., Any],
        process: Any,
        labels: torch.Tensor | Sequence[float] | float | None = None,
        guidance_scale: float = 1.0,
        null_label: float | None = None,
    ):
        check_process(process)
        self.network, self.process = network, process
        known = getattr(unwrapped(network), "config", None) is not None
        self._kind = condition_kind(network) if known else "unknown"
        self.labels = self._checked(labels)
        self.guidance_scale = checks.real("guidance_scale", guidance_scale, 0, sys.float_info.max)
        self.null_label = null_label
        if null_label is not None:
            are_numbers = self.labels is not None and self.labels.is_floating_point()
            check = checks.real if are_numbers else functools.partial(checks.integer, minimum=0)
            self.null_label = check("null_label", null_label)
        if guidance_scale != 1 and (self.labels is None or null_label is None):
            raise ValueError(
                f"guidance_scale is {guidance_scale:g}, but guidance needs labels and a null_label: give "
                "both, or leave guidance_scale at 1."
            )
        #: How many samples the network has evaluated; a guided one counts twice.
        self.evaluations = 0
        inside = unwrapped(network)
        _check_call(inside, self.labels is not None)
        self._is_own = not isinstance(inside, ModelMixin) or is_foreign(type(inside))
        dtype = dtype_of(network)
        self._half = dtype if dtype in _HALF else None

    def with_labels(self, labels: torch.Tensor | Sequence[float] | float | None) -> "Denoiser":
        """Return a denoiser of the same network for other samples, with a count of its own.

        It looks at no weight, so that a loop can make one for each batch.
        """
        found = copy.copy(self)
        found.labels = self._checked(labels)
        found.evaluations = 0
        return found

    def _checked(self, labels: torch.Tensor | Sequence[float] | float | None) -> torch.Tensor | None:
        """Return labels as a tensor, shape (N,) or (N, D).

        Raises:
            TypeError: no numbers, or not those that the network takes.
        """
        if labels is None:
            return None
        found, kind = torch.as_tensor(labels), self._kind
        numeric = not (found.is_complex() or found.dtype == torch.bool)
        got = f"labels have dtype {found.dtype} and shape {tuple(found.shape)}, but must be"
        if kind == "vectors":
            if not found.is_floating_point() or found.ndim not in (1, 2):
                raise TypeError(f"{got} floating point, one vector for all samples or one for each.")
            return found.reshape(-1, found.shape[-1])
        if kind == "numbers":
            if not numeric or found.ndim > 1:
                raise TypeError(f"{got} numbers, one for all samples or one for each.")
            return found.reshape(-1) if found.is_floating_point() else found.reshape(-1).float()
        if kind == "unknown" and found.is_floating_point() and found.ndim <= 2:
            return found if found.ndim else found.reshape(-1)
        if not numeric or found.is_floating_point() or found.ndim > 1:
            raise TypeError(f"{got} integers, one for all samples or one for each.")
        return found.reshape(-1)

    @property
    def evaluations_of_a_sample(self) -> int:
        """How often the network sees a sample in one evaluation: twice if guided."""
        return 1 if self.guidance_scale == 1 else 2

    @property
    def num_train_timesteps(self) -> int:
        """T, the number of noise levels of the process."""
        return len(self.process.alphas_cumprod)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return device_of(self.network)

    @property
    def variance_type(self) -> str | None:
        """The process's variance_type; None if it has none, as DDIM."""
        return getattr(self.process.config, "variance_type", None)

    def labels_of(self, batch_size: int, rows: torch.Tensor | None = None) -> torch.Tensor | None:
        """Return the labels of samples, shape (B,) or (B, D); None without labels.

        Args:
            batch_size: B.
            rows: the numbers of the samples among those that `labels` are of; 0..B-1 if not given.

        Raises:
            ValueError: another number of labels.
        """
        if self.labels is None or len(self.labels) == 1:
            return None if self.labels is None else self.labels.expand(batch_size, *self.labels.shape[1:])
        if rows is not None:
            return self.labels[rows.to(self.labels.device)]
        self.require_labels_for(batch_size)
        return self.labels

    def require_labels_for(self, num_samples: int) -> None:
        """Raise ValueError unless there are no labels, one for all, or one for each of some samples."""
        if self.labels is not None and len(self.labels) not in (1, num_samples):
            raise ValueError(
                f"labels have shape {tuple(self.labels.shape)}, but there are {num_samples} samples: give "
                "one label for each, or one for all."
            )

    def output(
        self, sample: torch.Tensor, timesteps: torch.Tensor, rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the network's output as a scheduler's `step` takes it, guided, in the dtype of `sample`.

        Args:
            sample: x_t, shape (B, ...).
            timesteps: as the network takes them: one for all, or shape (B,).
            rows: see `labels_of`.
        """
        batch_size = len(sample)
        labels = self.labels_of(batch_size, rows)
        labels = None if labels is None else labels.to(sample.device)
        if self._is_own:
            timesteps = timesteps.expand(batch_size)  # one for each: what a network of one's own expects
        given = sample if self._half is None else sample.to(self._half)
        if labels is None or self.guidance_scale == 1:
            self.evaluations += batch_size
            options = {} if labels is None else {"class_labels": labels}
            output = output_tensor(self.network(given, timesteps, **options)).to(sample.dtype)
            _check_shape(output, sample)
            return output
        self.evaluations += 2 * batch_size
        assert self.null_label is not None  # the constructor has seen to it
        both = torch.cat([labels, torch.full_like(labels, self.null_label)])
        if timesteps.ndim and len(timesteps) == batch_size:
            timesteps = torch.cat([timesteps, timesteps])
        given = torch.cat([given, given])
        output = output_tensor(self.network(given, timesteps, class_labels=both))
        _check_shape(output, given)
        conditional, unconditional = output.to(sample.dtype).chunk(2)
        if conditional.shape == sample.shape:
            return guided_output(conditional, unconditional, self.guidance_scale)
        channels = sample.shape[1]
        guided = guided_output(conditional[:, :channels], unconditional[:, :channels], self.guidance_scale)
        return torch.cat([guided, conditional[:, channels:]], dim=1)

    def alpha_prod_at(self, timesteps: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        """Return alpha_bar_t of timesteps, shape (B, 1, ...); float64 if the sample is, or float32."""
        alpha_prod_t = self.process.alphas_cumprod.to(sample.device)[timesteps.to(sample.device)]
        precise = torch.float64 if sample.dtype == torch.float64 else torch.float32
        return broadcast_to_sample(alpha_prod_t.to(precise), sample)

    def informative_timesteps(
        self, timesteps: Sequence[int] | torch.Tensor | None = None, order: str | None = None
    ) -> list[int]:
        """Return the timesteps of a chain at which the network's output says something of x_0.

        Args:
            timesteps: numbers in 0..T-1; all T if not given.
            order: see `checked_timesteps`.

        Raises:
            TypeError, ValueError: as in `checked_timesteps`; or a timestep whose alpha_bar is 0, where the
                noise says nothing of x_0.
        """
        table = self.process.alphas_cumprod
        given = range(len(table)) if timesteps is None else timesteps
        chosen = checked_timesteps(given, len(table), order=order)
        check_signal(chosen, table, self.process.config.prediction_type)
        return chosen.tolist()

    def __call__(
        self, sample: torch.Tensor, timesteps: Any, rows: torch.Tensor | None = None
    ) -> "Evaluation":
        """Return what one evaluation of the network says; float32, or float64 if the sample is.

        Args:
            sample: x_t, shape (B, ...), floating point.
            timesteps: integers in 0..T-1, one for all samples or shape (B,).
            rows: see `labels_of`.

        Raises:
            TypeError, ValueError: samples, timesteps or labels that do not fit, or a network's output whose
                shape does not fit the sample and the variance type.
        """
        sample = at_least_float32(checks.samples("sample", sample))
        timesteps = checked_timesteps(timesteps, self.num_train_timesteps, batch_size=len(sample))
        timesteps = timesteps.to(sample.device)
        output = self.output(sample, timesteps, rows)
        return Evaluation(self, sample, timesteps, *split_variance(output, sample, self.variance_type))


class Evaluation:
    """What one evaluation of a network says of a batch; each property has the shape of the sample.

    Args:
        denoiser: that was evaluated.
        sample: x_t, shape (B, ...).
        timesteps: shape (B,), or (1,) for all.
        prediction: of the network: eps, x_0 or v, guided.
        variance_values: the second half of its 2C channels, for a learned variance_type.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        sample: torch.Tensor,
        timesteps: torch.Tensor,
        prediction: torch.Tensor,
        variance_values: torch.Tensor | None,
    ):
        self.sample, self.timesteps = sample, timesteps
        self.prediction, self.variance_values = prediction, variance_values
        self._denoiser = denoiser

    @cached_property
    def alpha_prod_t(self) -> torch.Tensor:
        """alpha_bar_t, shape (B, 1, ...), or (1, ...) for all."""
        return self._denoiser.alpha_prod_at(self.timesteps, self.sample)

    @cached_property
    def scales(self) -> Scales[torch.Tensor]:
        """How much signal and noise is in x_t, each of the shape of `alpha_prod_t`."""
        return scales(self.alpha_prod_t)

    def _as(self, conversion: Callable[..., torch.Tensor]) -> torch.Tensor:
        return conversion(
            self.prediction, self.sample, self.scales, self._denoiser.process.config.prediction_type
        )

    @property
    def original(self) -> torch.Tensor:
        """The estimate of x_0, E[x_0 | x_t] for an exact network (see `to_original`)."""
        return self._as(to_original)

    @property
    def clipped_original(self) -> torch.Tensor:
        """The estimate of x_0 that sampling uses: clipped or thresholded if the process does so."""
        return clipped(self.original, self._denoiser.process.config)

    @property
    def noise(self) -> torch.Tensor:
        """The estimate of eps (see `to_epsilon`)."""
        return self._as(to_epsilon)

    @property
    def velocity(self) -> torch.Tensor:
        """The estimate of v, the velocity of the probability flow (see `to_velocity`)."""
        return self._as(to_velocity)

    @property
    def score(self) -> torch.Tensor:
        """The score of the noised data, grad_x log p_t(x_t) (see `to_score`)."""
        return self._as(to_score)
