"""A network that gives nan is found at the step where it happens, at less than a hundredth of that step."""

from typing import Any

import torch


class FiniteOutputs:
    """What a pipeline's loop shows of each step, so that nan ends it with one error.

    The sum of an output is finite if all of it is. On the CPU it is read at once. An accelerator would have
    to be waited for, so there the sums stay on it until the loop is over; likewise where several processes
    run together, because all of them must evaluate the network equally often. In a compiled loop nothing is
    done.

    Args:
        network: that is evaluated, for the message.
    """

    def __init__(self, network: Any):
        self._network = network
        self._later = torch.distributed.is_available() and torch.distributed.is_initialized()
        self._pending: list[tuple[torch.Tensor, Any]] = []

    def see(self, output: torch.Tensor, timestep: Any, given: torch.Tensor) -> None:
        """Look at the output of a step.

        Args:
            output: of the network, shape (B, ...).
            timestep: of the step.
            given: the network's input.

        Raises:
            FloatingPointError: the output is not finite (on the CPU).
        """
        if torch.compiler.is_compiling():
            return
        total = output.sum(dtype=torch.float32)  # half precision would overflow
        if self._later or not output.is_cpu:
            self._pending.append((total, timestep))
        elif not total.isfinite() and not output.isfinite().all():
            raise FloatingPointError(self._message(timestep, bool(given.isfinite().all()), output.dtype))

    def finish(self, sample: torch.Tensor) -> None:
        """Look at what is left when the loop is over.

        Args:
            sample: that the loop ended with.

        Raises:
            FloatingPointError: an output of a step on an accelerator, or the sample, is not finite.
        """
        if torch.compiler.is_compiling():
            return
        if self._pending:
            are_finite = torch.stack([total for total, _ in self._pending]).isfinite().tolist()
            if not all(are_finite):
                timestep = self._pending[are_finite.index(False)][1]
                raise FloatingPointError(self._message(timestep, True, sample.dtype))
        if not bool(sample.isfinite().all()):
            raise FloatingPointError(
                "the network's outputs are finite, but the last sample is not: look at the scheduler and at "
                "what callback_on_step_end returns."
            )

    def _message(self, timestep: Any, input_is_finite: bool, sample_dtype: torch.dtype) -> str:
        """Return what happened and what to do."""
        dtype = getattr(self._network, "dtype", sample_dtype)
        where = f"at timestep {float(timestep):g}, in {str(dtype).removeprefix('torch.')}"
        if not input_is_finite:
            return (
                f"the network's input is not finite {where}: look at latents, at the scheduler, and at what "
                "callback_on_step_end returns."
            )
        half = (
            " float16 ends at 65504: try bfloat16, or pipe.to(torch.float32)."
            if dtype == torch.float16
            else " Under autocast, try without it, or in bfloat16."
        )
        return (
            f"the network's output is not finite {where}.{half} If it is so in float32, too, look whether "
            "the weights and the loss of training are finite, and take an earlier checkpoint."
        )
