"""What a traced network does to single channels: which are tied or constant, and who reads them.

One pass over the graph with abstract values in place of tensors. A channel is a slot: a sum ties
the slots of both sides, a concatenation lays them behind each other, a convolution makes new ones.
Beside its slot a channel has a constant where its value is the same for every input and every px
(a normalisation whose scale is nought), or NaN. Nothing here knows a network's names.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

Slots = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Channels:
    """The channels of one tensor: slot (C,), constant value float32 (C,), NaN where it has none."""

    slots: Slots
    const: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A convolution, linear layer, normalisation or PReLU: slots it reads, slots it writes."""

    reads: Channels
    writes: Slots


def trace(net: nn.Module) -> fx.GraphModule:
    """Return a traced copy of a network, in evaluation mode; a traced one is copied."""
    import copy

    net = copy.deepcopy(net).eval()
    return net if isinstance(net, fx.GraphModule) else fx.symbolic_trace(net)


class ChannelGraph(fx.Interpreter):
    """The channels of a whole network.

    Args:
        graph: a traced network; its one input has `channels` channels, or each its own number.
        dead: per normalisation layer the channels whose scale counts as nought.
        drop: a dead channel's constant counts as nought too, as the authors' code has it.
        borders: a constant may pass a convolution that pads with zeros although it differs there.

    Attributes:
        layers: by module name. Where a module is called twice, it is missing and stays as it is.
        cuts: nodes that slice or split channels -> the slots of each part.
        tied: slot -> number of its group; slots of one group live and go together.
        shown: per group, True where someone needs the channel's value.
    """

    def __init__(
        self,
        graph: fx.GraphModule,
        dead: Mapping[str, Mask],
        drop: bool = False,
        borders: bool = False,
        channels: int | tuple[int, ...] = 3,
    ) -> None:
        super().__init__(graph)
        self.graph_module = graph
        self.layers: dict[str, Layer] = {}
        self.cuts: dict[fx.Node, list[Slots]] = {}
        self._dead, self._drop, self._borders = dead, drop, borders
        self._inputs = (channels,) if isinstance(channels, int) else channels
        self.picture_channels = sum(self._inputs)
        self._count = self._given = 0
        self._pairs: list[tuple[Slots, Slots]] = []
        self._shown: list[Slots] = []
        calls = Counter(str(n.target) for n in graph.graph.nodes if n.op == "call_module")
        self._twice = {name for name, count in calls.items() if count > 1}
        with torch.no_grad():
            self.run(None)
        self.tied = self._components()
        self.shown = np.zeros(self.tied.max(initial=-1) + 1, bool)
        for slots in self._shown:
            self.shown[self.tied[slots]] = True

    def _components(self) -> Slots:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        a = np.concatenate([p[0] for p in self._pairs] or [np.zeros(0, np.int64)])
        b = np.concatenate([p[1] for p in self._pairs] or [np.zeros(0, np.int64)])
        size = (self._count, self._count)
        _, labels = connected_components(coo_array((np.ones(len(a)), (a, b)), size), directed=False)
        return np.asarray(labels, np.int64)

    def run_node(self, n: fx.Node) -> Any:
        """Return the channels of a node: `Channels`, a list of them, or None where unknown."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.op == "placeholder":
            picture = self._fresh(self._inputs[self._given])
            self._given += 1
            self._show(picture)
            return picture
        if n.op == "call_module":
            return self._module(str(n.target), args)
        if n.op in ("call_function", "call_method"):
            if isinstance(n.target, type):  # a named tuple
                return list(args)
            rule = _RULES.get(n.target)
            if rule is not None and args and isinstance(args[0], Channels | list):
                return rule(self, n, *args, **kwargs)
            if n.target in _OF_SHAPE:
                return None
        self._show((args, kwargs))
        return args[0] if n.op == "output" else None

    def _fresh(self, count: int, const: Tensor | None = None) -> Channels:
        slots = np.arange(self._count, self._count + count, dtype=np.int64)
        self._count += count
        return Channels(slots, torch.full((count,), torch.nan) if const is None else const)

    def _show(self, values: Any, where: Callable[[Tensor], Tensor] | None = None) -> None:
        """Note that someone needs these values (those of the channels `where` says)."""
        for v in _channels(values):
            needed = slice(None) if where is None else where(v.const).numpy()
            self._shown.append(v.slots[needed])

    def _module(self, name: str, args: tuple[Any, ...]) -> Any:
        module = self.graph_module.get_submodule(name)
        x = args[0] if len(args) == 1 else None
        if not isinstance(x, Channels):
            self._show(args)
            return None
        if isinstance(module, _EACH):
            return Channels(x.slots, _each(module, x.const))
        if isinstance(module, nn.AvgPool2d):
            return _pooled(x, bool(_any(module.padding)) and module.count_include_pad)
        if name in self._twice:
            self._show(x)
            return None
        if isinstance(module, nn.PReLU):
            self.layers[name] = Layer(x, x.slots)
            return Channels(x.slots, _each(module, x.const))
        if isinstance(module, nn.BatchNorm2d):
            self.layers[name] = Layer(x, x.slots)
            return Channels(x.slots, self._normalised(name, module, x.const))
        if isinstance(module, nn.Linear):
            return self._weighted(name, x, module.weight[:, :, None, None], module.bias, 1, False)
        if isinstance(module, nn.Conv2d):
            padded = bool(_any(module.padding)) and not self._borders
            return self._weighted(name, x, module.weight, module.bias, module.groups, padded)
        self._show(x)
        return None

    def _normalised(self, name: str, norm: nn.BatchNorm2d, const: Tensor) -> Tensor:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        out = (const - norm.running_mean) * scale + norm.bias
        off = torch.from_numpy(self._dead.get(name, np.zeros(len(scale), bool))) | (
            norm.weight == 0
        )
        return torch.where(off, norm.bias * 0 if self._drop else norm.bias, out)

    def _weighted(
        self, name: str, x: Channels, weight: Tensor, bias: Tensor | None, groups: int, padded: bool
    ) -> Channels:
        outs, per = weight.shape[:2]
        depthwise = groups > 1 and per == 1 and outs == groups
        group = torch.arange(outs) // (outs // groups)
        const = x.const[group[:, None] * per + torch.arange(per)]  # (outs, per)
        touched = weight.abs().amax((2, 3)) > 0
        varies = const.isnan() | ((const != 0) & padded)
        out = (const.nan_to_num() * weight.sum((2, 3))).sum(1)
        out = torch.where((varies & touched).any(1), torch.nan, out if bias is None else out + bias)
        if depthwise:
            self.layers[name] = Layer(x, x.slots)
            return Channels(x.slots, out)
        self._show(x, lambda c: c.isnan() | ((c != 0) & padded))
        made = self._fresh(outs, out)
        self.layers[name] = Layer(x, made.slots)
        return made

    def _cat(self, _n: fx.Node, parts: list[Any], dim: int = 0) -> Channels | None:
        if dim != 1 or not all(isinstance(p, Channels) for p in parts):
            self._show(parts)
            return None
        return Channels(
            np.concatenate([p.slots for p in parts]), torch.cat([p.const for p in parts])
        )

    def _split(self, n: fx.Node, x: Channels, sizes: Any, dim: int = 0) -> list[Channels] | None:
        if dim != 1:
            self._show(x)
            return None
        total = len(x.slots)
        if isinstance(sizes, int):
            ends = np.arange(sizes, total + sizes, sizes).clip(max=total)
        else:
            ends = np.cumsum(sizes)
        starts = np.concatenate([[0], ends[:-1]])
        parts = [Channels(x.slots[a:b], x.const[a:b]) for a, b in zip(starts, ends)]
        self.cuts[n] = [p.slots for p in parts]
        return parts

    def _getitem(self, n: fx.Node, x: Channels | list[Any], index: Any) -> Any:
        if isinstance(x, list):
            return x[index]
        everything = slice(None)
        plain = isinstance(index, tuple) and len(index) == 2 and index[0] == everything
        if not plain or not isinstance(index[1], slice) or index[1].step not in (None, 1):
            self._show(x)
            return None
        before = slice(0, index[1].indices(len(x.slots))[0])
        part = Channels(x.slots[index[1]], x.const[index[1]])
        self.cuts[n] = [x.slots[before], part.slots]
        return part

    def _binary(self, n: fx.Node, a: Channels, b: Any) -> Channels | None:
        function = getattr(operator, _PLAIN_NAME[n.target])
        if isinstance(b, int | float):
            return Channels(a.slots, function(a.const, b))
        if not isinstance(b, Channels) or len(a.slots) != len(b.slots):
            self._show((a, b))
            return None
        const = function(a.const, b.const)
        if function is operator.mul:
            const = torch.where((a.const == 0) | (b.const == 0), 0.0, const)
        self._pairs.append((a.slots, b.slots))
        return Channels(a.slots, const)

    def _mean(self, _n: fx.Node, x: Channels, dim: Any, keepdim: bool = False) -> Channels | None:
        dims = (dim,) if isinstance(dim, int) else tuple(dim)
        if any(d in (0, 1) or d < -2 for d in dims):
            self._show(x)
            return None
        return x

    def _alike(self, _n: fx.Node, x: Channels, *_args: Any, **_kwargs: Any) -> Channels:
        return x

    def _function(self, n: fx.Node, x: Channels, *args: Any, **kwargs: Any) -> Channels:
        function: Any = getattr(torch.Tensor, n.target) if isinstance(n.target, str) else n.target
        return Channels(x.slots, _each(lambda c: function(c, *args, **kwargs), x.const))


_EACH = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Sigmoid, nn.Hardsigmoid, nn.Identity, nn.Dropout,
    nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Upsample,
)  # fmt: skip
_PLAIN_NAME: dict[Any, str] = {
    operator.add: "add", operator.iadd: "add", torch.add: "add", "add": "add", "add_": "add",
    operator.sub: "sub", torch.sub: "sub", operator.mul: "mul", torch.mul: "mul", "mul": "mul",
}  # fmt: skip
_F = nn.functional
_RULES: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(_PLAIN_NAME, ChannelGraph._binary),
    **dict.fromkeys(
        (torch.relu, _F.relu, "relu", torch.sigmoid, "sigmoid", _F.hardsigmoid, "clamp"),
        ChannelGraph._function,
    ),
    **dict.fromkeys(("detach", "contiguous", _F.interpolate), ChannelGraph._alike),
    **dict.fromkeys((torch.mean, "mean"), ChannelGraph._mean),
    **dict.fromkeys((torch.split, "split"), ChannelGraph._split),
    torch.cat: ChannelGraph._cat,
    operator.getitem: ChannelGraph._getitem,
}
_OF_SHAPE = {getattr, "size", operator.getitem}


def _each(function: Callable[[Tensor], Tensor], const: Tensor) -> Tensor:
    """Return a function of each constant; what is unknown stays so."""
    if isinstance(function, nn.MaxPool2d | nn.AdaptiveAvgPool2d | nn.Upsample):
        return const
    return torch.where(const.isnan(), const, function(const.clone().view(1, -1, 1, 1)).view(-1))


def _pooled(x: Channels, borders: bool) -> Channels:
    """Return channels after averaging; zeros beyond the border leave only zero constant."""
    return Channels(x.slots, torch.where(x.const == 0, x.const, torch.nan) if borders else x.const)


def _any(padding: Any) -> bool:
    return any(padding) if isinstance(padding, tuple) else padding not in (0, "valid")


def _channels(values: Any) -> Iterator[Channels]:
    if isinstance(values, Channels):
        yield values
    elif isinstance(values, Mapping):
        yield from _channels(tuple(values.values()))
    elif isinstance(values, Iterable) and not isinstance(values, str):
        for v in values:
            yield from _channels(v)
