"""What a network costs, counted and not timed: parameters, operations, traffic, peak memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True, slots=True)
class Costs:
    """Of one forward pass; macs, activations and traffic of convolutions and linear layers.

    macs: multiply-accumulate operations. activations: numbers written. traffic: numbers read and
    written, weights included, each once.
    """

    parameters: int
    macs: int
    activations: int
    traffic: int


def count(net: nn.Module, x: Tensor) -> Costs:
    """Return what one forward pass of `x` costs."""
    macs = activations = traffic = 0

    def seen(layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal macs, activations, traffic
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        macs += out.numel() * layer.weight[0].numel()
        activations += out.numel()
        traffic += inputs[0].numel() + out.numel() + layer.weight.numel()

    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [m.register_forward_hook(seen) for m in layers]
    try:
        with torch.no_grad():
            net(x)
    finally:
        for hook in hooks:
            hook.remove()
    return Costs(sum(p.numel() for p in net.parameters()), macs, activations, traffic)


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of all tensors that are alive, and keeps the most there ever were."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._seen: set[int] = set()
        for t in known:
            self._note(t)

    def _note(self, t: Tensor) -> None:
        storage = t.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, Tensor):
                self._note(t)
        return out


def peak_bytes(net: nn.Module, x: Tensor, training: bool = False) -> int:
    """Return the most bytes of tensors alive at once: weights, pictures, features and gradients.

    Workspace inside an operation and the optimiser's state are not in it. On CUDA it is what the
    allocator handed out. With `training` a backward pass of the summed outputs is run too.
    """
    was = net.training
    net.train(training)
    if x.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        _pass(net, x, training)
        most = int(torch.cuda.max_memory_allocated())
    else:
        live = _Live([x, *net.parameters(), *net.buffers()])
        with live:
            _pass(net, x, training)
        most = live.most
    for p in net.parameters():
        p.grad = None
    net.train(was)
    return most


def _pass(net: nn.Module, x: Tensor, training: bool) -> None:
    with torch.set_grad_enabled(training):
        out = net(x)
        if training:
            total: Tensor = sum(t.mean() for t in tree_leaves(out))
            total.backward()  # type: ignore[no-untyped-call]


def interleaved(
    calls: Mapping[str, Callable[[], Any]], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Return the seconds of each call in each round, by a clock; one round warms up, uncounted.

    Calls take turns, so that whatever else the machine does disturbs all alike.
    """
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for at in range(rounds + 1):
        for name, call in calls.items():
            started = clock()
            call()
            if at:
                spent[name].append(clock() - started)
    return spent
