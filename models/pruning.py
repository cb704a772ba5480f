"""Smaller networks that answer the same: normalisation folded, dead channels cut as slices.

Networks trained with adaptive steps and weight decay lose whole filters: the scale of their
normalisation goes to nought (Mehta et al. 2019, "On Implicit Filter Level Sparsity"). Which
channels can go follows from the network's graph (`channel_graph`), so any network that torch.fx can
trace is served: with concatenations every channel is free, sums tie those they add.

A dead channel still carries the constant relu(beta). It is folded into the next bias, which is
exact except where the next convolution pads with zeros: see `BETA`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from manypose.models.channel_graph import ChannelGraph, Channels, Mask, trace

THRESHOLD = 1e-3  # |gamma|, as in the authors' example
# What is done with a constant that a zero-padded convolution reads: keep its channel (exact), fold
# it as if there were no border, or drop every constant unseen, as the authors' code does.
BETA = ("keep", "fold", "drop")


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What is to be cut from a traced network.

    removed: per slot of `channels`, True where it goes. dead: per normalisation layer the channels
    at or below the threshold, of which those that must stay are not in removed.
    """

    graph: fx.GraphModule
    channels: ChannelGraph
    removed: Mask
    dead: dict[str, Mask]
    beta: str

    def counts(self) -> tuple[int, int, int]:
        """Return the numbers of normalised channels: all, dead, cut."""
        total = sum(len(d) for d in self.dead.values())
        cut = sum(int(self.removed[self.channels.layers[n].writes].sum()) for n in self.dead)
        return total, sum(int(d.sum()) for d in self.dead.values()), cut


def plan(
    net: nn.Module,
    threshold: float = THRESHOLD,
    beta: str = "keep",
    channels: int = 3,
    dead: Mapping[str, Mask] | None = None,
) -> Plan:
    """Return which channels can go; the network is left as it is.

    Args:
        net: any network that torch.fx can trace, with one input.
        threshold: channels with |gamma| at or below it are dead.
        beta: one of `BETA`.
        channels: of the input.
        dead: masks of dead channels by normalisation layer, instead of the threshold.

    Raises:
        ValueError: beta is none of `BETA`.
    """
    if beta not in BETA:
        raise ValueError(f"beta {beta!r}; there are {', '.join(BETA)}")
    graph = trace(net).cpu()
    norms = {n: m for n, m in graph.named_modules() if isinstance(m, nn.BatchNorm2d)}
    gammas = {n: m.weight.detach().abs().numpy() for n, m in norms.items()}
    first = {n: g <= threshold if dead is None else dead[n] for n, g in gammas.items()}
    masks = dict(first)
    while True:
        found = ChannelGraph(graph, masks, beta == "drop", beta != "keep", channels)
        first = {n: m for n, m in first.items() if n in found.layers}
        removed = _removed(found, gammas)
        # A dead channel that stays keeps its scale, and is then no constant for those behind it.
        next_masks = {n: masks[n] & removed[found.layers[n].writes] for n in first}
        if all((next_masks[n] == masks[n]).all() for n in first):
            return Plan(graph, found, removed, first, beta)
        masks = next_masks


def _removed(found: ChannelGraph, gammas: Mapping[str, np.ndarray]) -> Mask:
    """Return per slot whether it goes, so that no layer is left empty or with uneven groups."""
    strength = np.zeros(len(found.shown))
    for name, layer in found.layers.items():
        if name in gammas:
            np.maximum.at(strength, found.tied[layer.writes], gammas[name])
    gone = ~found.shown
    filled = [part for parts in found.cuts.values() for part in parts[-1:]]
    for node, parts in found.cuts.items():
        filled += parts if node.target in (torch.split, "split") else []
    even: list[np.ndarray] = []
    for name, layer in found.layers.items():
        module = found.graph_module.get_submodule(name)
        filled += [layer.reads.slots, layer.writes]
        if isinstance(module, nn.Conv2d) and 1 < module.groups < module.out_channels:
            even += [layer.reads.slots.reshape(module.groups, -1)]
            even += [layer.writes.reshape(module.groups, -1)]
    while True:
        before = gone.sum()
        for slots in filled:
            at = found.tied[slots]
            if len(at) and gone[at].all():
                gone[at[strength[at].argmax()]] = False
        for rows in even:
            ats = [found.tied[row] for row in rows]
            most = max(int((~gone[at]).sum()) for at in ats)
            for at in ats:
                lost = at[gone[at]]
                back = most - (len(at) - len(lost))
                gone[lost[np.argsort(-strength[lost])[:back]]] = False
        if gone.sum() == before:
            return np.asarray(gone[found.tied])


def silence(cut_plan: Plan) -> fx.GraphModule:
    """Return the network at full size with the planned channels' scales set to nought.

    It answers as the cut one does (with beta "fold" except near borders), so that the loss can be
    measured, and trained away, before anything is cut.
    """
    graph = trace(cut_plan.graph)
    with torch.no_grad():
        for name in cut_plan.dead:
            norm = graph.get_submodule(name)
            gone = torch.from_numpy(cut_plan.removed[cut_plan.channels.layers[name].writes])
            assert isinstance(norm, nn.BatchNorm2d)
            norm.weight[gone] = 0
            if cut_plan.beta == "drop":
                norm.bias[gone] = 0
    return graph


def cut(cut_plan: Plan) -> fx.GraphModule:
    """Return the network without the planned channels, normalisation folded."""
    graph = trace(cut_plan.graph)
    found, kept = cut_plan.channels, ~cut_plan.removed
    with torch.no_grad():
        for name, layer in found.layers.items():
            module = graph.get_submodule(name)
            if isinstance(module, nn.Conv2d | nn.Linear):
                replace(graph, name, _sliced(module, layer.reads, kept, kept[layer.writes]))
            elif isinstance(module, nn.BatchNorm2d | nn.PReLU):
                if isinstance(module, nn.PReLU) and module.num_parameters == 1:
                    continue
                _slice_each(module, torch.from_numpy(kept[layer.writes]))
    nodes = {n.name: n for n in graph.graph.nodes}
    for node, parts in found.cuts.items():
        copy, sizes = nodes[node.name], [int(kept[part].sum()) for part in parts]
        if node.target in (torch.split, "split"):
            copy.args = (copy.args[0], sizes, 1)
            copy.kwargs = {}
        else:
            copy.args = (copy.args[0], (slice(None), slice(sizes[0], sizes[0] + sizes[1])))
    return _fused(graph)


def prune(
    net: nn.Module, threshold: float = THRESHOLD, beta: str = "keep", channels: int = 3
) -> fx.GraphModule:
    """Return the network without its dead channels, normalisation folded; see `plan`."""
    return cut(plan(net, threshold, beta, channels))


def fuse(net: nn.Module) -> fx.GraphModule:
    """Return the network with every normalisation behind a convolution folded into it."""
    return _fused(trace(net))


def _fused(graph: fx.GraphModule) -> fx.GraphModule:
    modules = dict(graph.named_modules())
    calls = [str(n.target) for n in graph.graph.nodes if n.op == "call_module"]
    for node in list(graph.graph.nodes):
        norm = modules.get(str(node.target)) if node.op == "call_module" else None
        before = node.args[0] if isinstance(norm, nn.BatchNorm2d) else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        conv = modules[str(before.target)]
        if not isinstance(conv, nn.Conv2d) or calls.count(str(before.target)) > 1:
            continue
        assert isinstance(norm, nn.BatchNorm2d)
        replace(graph, str(before.target), torch.nn.utils.fuse_conv_bn_eval(conv, norm))
        node.replace_all_uses_with(before)
        graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def _sliced(
    layer: nn.Conv2d | nn.Linear, reads: Channels, kept: Mask, outs: Mask
) -> nn.Conv2d | nn.Linear:
    """Return a layer without cut inputs (their constants go to the bias) and outputs."""
    weight, bias = layer.weight, layer.bias
    ins = kept[reads.slots]
    keep_out = torch.from_numpy(outs)
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    per_in, per_out = weight.shape[1], len(weight) // groups
    if groups > 1 and per_in == 1:  # depth-wise: input and output go together
        groups = int(outs.sum())
        weight = weight[keep_out]
    else:
        const = torch.where(torch.from_numpy(ins), 0.0, reads.const)
        rows = []
        folded = torch.zeros(len(weight))
        for g in range(groups):
            out, into = slice(g * per_out, (g + 1) * per_out), slice(g * per_in, (g + 1) * per_in)
            part = weight[out]
            total = part.flatten(2).sum(2) if part.dim() == 4 else part
            folded[out] = total @ const[into]
            rows.append(part[:, torch.from_numpy(ins[into])][keep_out[out]])
        weight = torch.cat(rows)
        if folded.abs().max() > 0:
            bias = nn.Parameter(folded if bias is None else bias + folded)
    new: nn.Conv2d | nn.Linear
    if isinstance(layer, nn.Conv2d):
        shape: dict[str, Any] = {
            k: getattr(layer, k) for k in ("kernel_size", "stride", "padding", "dilation")
        }
        new = nn.Conv2d(
            weight.shape[1] * groups, len(weight), groups=groups, bias=bias is not None, **shape
        )
    else:
        new = nn.Linear(weight.shape[1], len(weight), bias is not None)
    new.weight.copy_(weight)
    if bias is not None:
        assert new.bias is not None
        new.bias.copy_(bias[keep_out])
    return new.eval()


def _slice_each(module: nn.Module, kept: Tensor) -> None:
    """Slice every per-channel tensor of a layer."""
    for key, value in (*module.named_parameters(), *module.named_buffers()):
        if value.dim() == 1:
            part = value.detach()[kept].clone()
            setattr(module, key, nn.Parameter(part) if isinstance(value, nn.Parameter) else part)
    if isinstance(module, nn.BatchNorm2d):
        module.num_features = int(kept.sum())
    elif isinstance(module, nn.PReLU):
        module.num_parameters = int(kept.sum())


def replace(graph: fx.GraphModule, name: str, module: nn.Module) -> None:
    """Put another module in the place of the one of this name."""
    owner, _, leaf = name.rpartition(".")
    setattr(graph.get_submodule(owner), leaf, module)
