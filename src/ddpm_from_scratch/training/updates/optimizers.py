"""Optimizers by name: fused AdamW, and Muon for matrices and convolution kernels with AdamW for the rest."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from ..config import TrainingConfig


def orthogonalize(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Return matrices with their singular values brought near 1, shape (..., rows, columns).

    Newton-Schulz iteration X <- a X + (b A + c A^2) X, A = X X^T, (a, b, c) = (3.4445, -4.7750, 2.0315), from
    X / |X|; the singular values end between about 0.7 and 1.2. (Jordan et al. 2024, "Muon".) In bfloat16
    on GPUs, in float32 on CPUs, where bfloat16 products are slower and fewer multiplications pay.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    work = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    transposed = work.shape[-2] > work.shape[-1]
    work = work.mT if transposed else work
    work = work / (work.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    if matrices.is_cuda:
        for _ in range(steps):
            gram = work @ work.mT
            work = a * work + (b * gram + c * gram @ gram) @ work
    else:
        # The same in float32 by the small matrices alone: X <- P X makes the Gram matrix P A P.
        gram, product = work @ work.mT, torch.eye(work.shape[-2], device=work.device)
        for step in range(steps):
            polynomial = b * gram + c * gram @ gram
            polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
            product = polynomial @ product
            if step < steps - 1:
                gram = polynomial @ gram @ polynomial
        work = product @ work
    return (work.mT if transposed else work).to(matrices.dtype)


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for parameter groups with muon=True, fused AdamW for the others, as one optimizer.

    Muon: m <- momentum m + g; update = orthogonalize(g + momentum m) sqrt(max(1, rows / columns)). A kernel
    (out, in, k, k) counts as a matrix (out, in k k). (Jordan et al. 2024, "Muon"; torch.optim.Muon takes
    matrices only.)
    AdamW: Loshchilov & Hutter 2019, arXiv:1711.05101.

    Args:
        params: groups with "muon": bool; Muon's use lr and momentum, the others lr, betas, eps and
            weight_decay.
    """

    def __init__(self, params: Iterable[dict[str, Any]]):
        defaults = {"lr": 1e-3, "momentum": 0.95, "betas": (0.95, 0.999), "eps": 1e-8, "weight_decay": 0.0}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            if group["muon"]:
                self._muon(params, group)
            else:
                self._adamw(params, group)
        return loss

    def _muon(self, params: list[nn.Parameter], group: dict[str, Any]) -> None:
        same_shape: dict[torch.Size, list[tuple[nn.Parameter, torch.Tensor]]] = {}
        for p in params:
            assert p.grad is not None  # step() selects those
            state = self.state[p]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(p)
            momentum = state["momentum_buffer"].mul_(group["momentum"]).add_(p.grad)
            direction = p.grad.add(momentum, alpha=group["momentum"]).flatten(1)
            same_shape.setdefault(direction.shape, []).append((p, direction))
        for (rows, columns), pairs in same_shape.items():
            updates = orthogonalize(torch.stack([direction for _, direction in pairs]))
            scale = max(1.0, rows / columns) ** 0.5
            for (p, _), update in zip(pairs, updates, strict=True):
                p.add_(update.reshape(p.shape), alpha=-group["lr"] * scale)

    def _adamw(self, params: list[nn.Parameter], group: dict[str, Any]) -> None:
        for p in params:
            state = self.state[p]
            if not state:
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        # One count for all, kept with the first: one for each, as in torch.optim.AdamW, takes as long to
        # count as the update itself.
        step = self.state[params[0]].setdefault("step", torch.zeros((), device=params[0].device))
        step += 1
        first, second = ([self.state[p][name] for p in params] for name in ("exp_avg", "exp_avg_sq"))
        grads = [p.grad for p in params if p.grad is not None]  # step() selects those
        torch._fused_adamw_(
            [*params], grads, first, second, [], [step] * len(params), amsgrad=False,
            beta1=group["betas"][0], beta2=group["betas"][1], lr=group["lr"],
            weight_decay=group["weight_decay"], eps=group["eps"], maximize=False,
        )  # fmt: skip


def _takes_muon(name: str, module: nn.Module, parameter: nn.Parameter) -> bool:
    """Return whether Muon updates a parameter: inner matrices and kernels, but not embeddings."""
    inner = not name.startswith(("conv_in", "conv_out", "embed_sample", "project"))
    return parameter.ndim >= 2 and inner and not isinstance(module, nn.Embedding)


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return the optimizer that a configuration names, over the parameters of `model`."""
    adamw: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": (config.adam_beta1, config.adam_beta2),
        "eps": config.adam_epsilon,
        "weight_decay": config.adam_weight_decay,
    }
    if config.optimizer == "adamw":
        return MuonWithAdamW([{"params": list(model.parameters()), "muon": False} | adamw])
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            (matrices if _takes_muon(f"{module_name}.{name}", module, parameter) else others).append(
                parameter
            )
    groups = [
        {"params": matrices, "muon": True, "lr": config.muon_learning_rate},
        {"params": others, "muon": False} | adamw,
    ]
    return MuonWithAdamW(group for group in groups if group["params"])
