"""A wider network that answers as a narrow one does, to train on from there.

Source: Chen, Goodfellow and Shlens 2016, "Net2Net", section 2.2 (Net2WiderNet): channels are
repeated, and those who read them share out the old weights among the copies. The shares are
unequal, so that the copies part as soon as they learn.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from manypose.errors import WeightsError
from manypose.models.channel_graph import ChannelGraph, trace
from manypose.models.heads import StageOne

_LAYERS = nn.Conv2d | nn.Linear | nn.BatchNorm2d
_UNEQUAL = 0.25  # spread of the copies' shares, relative to an equal share


def widened(net: StageOne, backbone: str, width: float, seed: int = 0) -> StageOne:
    """Return a network of this width that answers what `net`, a narrower one, answers.

    Raises:
        WeightsError: it has other layers, is not narrower, or has grouped convolutions.
    """
    wide = StageOne(backbone, width)
    fill(wide, net, 3, seed)
    return wide


def fill(wide: nn.Module, net: nn.Module, channels: int | tuple[int, ...], seed: int = 0) -> None:
    """Give a wide network such weights that it answers what `net`, a narrower one, answers.

    channels: of the input, or of each.

    Raises:
        WeightsError: it has other layers, is not narrower, or has grouped convolutions.
    """
    old, new = (ChannelGraph(trace(n), {}, channels=channels) for n in (net, wide))
    rng = torch.Generator().manual_seed(seed)
    # slot of the wide network -> slot of the narrow one
    source = torch.arange(new.picture_channels)
    source = torch.cat([source, torch.full((int(_highest(new)) + 1 - len(source),), -1)])
    have, want = dict(net.named_modules()), dict(wide.named_modules())
    names = [n for n, m in want.items() if isinstance(m, _LAYERS)]
    if {n for n, m in have.items() if isinstance(m, _LAYERS)} != set(names):
        raise WeightsError("weights of other layers than those asked for: give their --backbone")
    for name in new.layers:
        a, b = have[name], want[name]
        wrote, writes = (torch.from_numpy(g.layers[name].writes) for g in (old, new))
        if isinstance(b, nn.Conv2d | nn.Linear):
            if isinstance(b, nn.Conv2d) and b.groups > 1:
                raise WeightsError(f"{name} is a grouped convolution, which is not widened")
            if len(writes) < len(wrote):
                raise WeightsError("weights of a wider network: give its --width")
            source[writes] = wrote[_copied(len(wrote), len(writes))]
    with torch.no_grad():
        for name in names:
            a, b = have[name], want[name]
            wrote, writes = (torch.from_numpy(g.layers[name].writes) for g in (old, new))
            out = _found(source[writes], wrote)
            if isinstance(a, nn.Conv2d | nn.Linear) and isinstance(b, nn.Conv2d | nn.Linear):
                read, reads = (torch.from_numpy(g.layers[name].reads.slots) for g in (old, new))
                kernels = a.weight[out].reshape(len(out), len(read), *_kernel(a))
                found = _shared(kernels, _found(source[reads], read), rng)
                b.weight.copy_(found.reshape(b.weight.shape))
                if a.bias is not None and b.bias is not None:
                    b.bias.copy_(a.bias[out])
            else:
                state = a.state_dict()
                b.load_state_dict({k: v[out] if v.dim() else v for k, v in state.items()})


def reader(weight: Tensor, channels: int, seed: int = 0) -> Tensor:
    """Return the weight (o, channels, h, w) of a layer that reads widened shared features.

    weight: (o, c, h, w), what it was for c of them.
    """
    rng = torch.Generator().manual_seed(seed)
    return _shared(weight, _copied(weight.shape[1], channels), rng)


def _copied(few: int, many: int) -> Tensor:
    """Return for each of many channels of which of few it is a copy; sums stay sums."""
    return torch.arange(many) * few // many


def _found(slots: Tensor, among: Tensor) -> Tensor:
    """Return where among (n,) slots (m,) stand."""
    order = among.argsort()
    return order[torch.searchsorted(among[order], slots)]


def _shared(weight: Tensor, copies: Tensor, rng: torch.Generator) -> Tensor:
    """Return weights of inputs of which number k is a copy of copies[k]; the sums do not change."""
    o, few, h, w = weight.shape
    many = len(copies)
    count = torch.bincount(copies, minlength=few)[copies].float()
    part = (1 + _UNEQUAL * torch.randn(o, many, h, w, generator=rng)) / count[:, None, None]
    whole = torch.zeros(o, few, h, w).index_add_(1, copies, part)
    share = part + ((1 - whole)[:, copies] / count[:, None, None])
    return weight.float()[:, copies] * share


def _kernel(layer: nn.Conv2d | nn.Linear) -> tuple[int, int]:
    return (1, 1) if isinstance(layer, nn.Linear) else (layer.kernel_size[0], layer.kernel_size[1])


def _highest(graph: ChannelGraph) -> int:
    return max(int(layer.writes.max()) for layer in graph.layers.values())
