"""Muon: steps of convolution weights made orthogonal, everything else by AdamW, in one optimiser.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the
Newton-Schulz polynomial (3.4445, -4.7750, 2.0315) and Nesterov momentum are theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
# Step of the orthogonal part against that of AdamW (0.02 beside 0.002).
RATIO = 10.0


def orthogonal(gradient: Tensor) -> Tensor:
    """Return the matrix (n, m) with its singular values pushed towards 1, by Newton-Schulz.

    Each round multiplies by a polynomial of x x^T from the left, so that all rounds work on these
    small squares and the long side is multiplied only at the end.
    """
    a, b, c = _COEFFICIENTS
    x = gradient / (gradient.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    square = x @ x.T
    whole = torch.eye(len(x), dtype=x.dtype, device=x.device)
    one = a * whole
    for left in reversed(range(_ROUNDS)):
        factor = one + torch.addmm(b * square, square, square, alpha=c)
        whole = factor @ whole
        if left:
            square = factor @ square @ factor
    out: Tensor = whole @ x
    return out.T if tall else out


def grouped(net: nn.Module, weight_decay: float, lr: float) -> list[dict[str, Any]]:
    """Return parameter groups: inner convolutions; other matrices; norms and biases, no decay.

    The first convolution and the last of each head, which meet pixels and maps, are left to AdamW.
    """
    outer = [p for n, p in net.named_parameters() if p.dim() == 4 and _meets_the_outside(n, net)]
    is_outer = {id(p) for p in outer}
    inner = [p for p in net.parameters() if p.dim() == 4 and id(p) not in is_outer]
    outer += [p for p in net.parameters() if p.dim() in (2, 3)]
    plain = [p for p in net.parameters() if p.dim() <= 1]
    rows = ((inner, weight_decay, True), (outer, weight_decay, False), (plain, 0.0, False))
    return [{"params": p, "weight_decay": w, "lr": lr, "orthogonal": m} for p, w, m in rows if p]


def _meets_the_outside(name: str, net: nn.Module) -> bool:
    module = net.get_submodule(name.rpartition(".")[0])
    if not isinstance(module, nn.Conv2d):
        return True
    return module.in_channels <= 4 or module.bias is not None


class Muon(torch.optim.Optimizer):
    """Muon for groups marked "orthogonal", AdamW for the others; both follow the groups' "lr"."""

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float = 2e-3) -> None:
        defaults = {
            "lr": lr, "weight_decay": 0.01, "momentum": 0.95, "betas": (0.9, 0.98), "eps": 1e-8,
            "orthogonal": False,
        }  # fmt: skip
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; returns the loss if a closure computes it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            move = self._orthogonal if group["orthogonal"] else self._adam
            for p in group["params"]:
                if p.grad is not None:
                    move(p, p.grad, group)
        return loss

    def _orthogonal(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        mean = state["momentum"].lerp_(grad, 1 - group["momentum"])
        ahead = grad.lerp(mean, group["momentum"])
        rows = p.shape[0]
        step = orthogonal(ahead.reshape(rows, -1).float()).reshape(p.shape).to(p.dtype)
        lr = group["lr"] * RATIO
        p.mul_(1 - lr * group["weight_decay"])
        p.add_(step, alpha=-lr * max(1.0, rows / (p.numel() / rows)) ** 0.5)

    def _adam(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, (b1, b2) = self.state[p], group["betas"]
        if "first" not in state:
            state["first"], state["second"] = torch.zeros_like(p), torch.zeros_like(p)
            state["count"] = 0
        state["count"] += 1
        first = state["first"].lerp_(grad, 1 - b1)
        second = state["second"].mul_(b2).addcmul_(grad, grad, value=1 - b2)
        size = (second / (1 - b2 ** state["count"])).sqrt_().add_(group["eps"])
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.addcdiv_(first, size, value=-group["lr"] / (1 - b1 ** state["count"]))
