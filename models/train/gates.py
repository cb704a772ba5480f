"""Pruning of residual networks: gates in the place of normalisation scales, cut step by step.

Source: You et al. 2019, "Gate Decorator" (NeurIPS): phi * BN with the scale moved into phi; a
channel's importance is |phi * dL/dphi| summed over the data; ticks train the gates alone and cut,
tocks fine-tune everything with an L1 penalty on the gates. Sums of a residual network tie channels:
the tied ones (`channel_graph`) add their importance and go together.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from manypose.models import pruning
from manypose.models.channel_graph import ChannelGraph, trace

# What is trained on: a function that gives the batches of one pass, and the loss of a batch.
Batches = Callable[[], Iterable[Any]]
Loss = Callable[[nn.Module, Any], Tensor]
# Told after each tick: ticks done, ticks in all, the share of channels left, the mean loss.
Tell = Callable[[int, int, float, float], None]


@dataclass(frozen=True, slots=True)
class GateConfig:
    """Settings of the paper for VGG-16; a tick is one pass over the data."""

    ticks: int = 40
    share: float = 0.005  # of the channels still there, cut at each tick
    tock_every: int = 10  # ticks between two tocks
    tock_passes: int = 10
    layer_min: float = 0.1  # of a layer's channels always stay
    penalty: float = 1e-3  # L1 on the gates during a tock
    tick_rate: float = 1e-3  # learning rates
    tock_rate: float = 1e-2
    momentum: float = 0.9


class GatedNorm(nn.Module):
    """A normalisation without scale of its own, times a gate: phi * (normalised + beta / gamma)."""

    alive: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        gamma = norm.weight.detach()
        gamma = torch.where(gamma.abs() < 1e-8, 1e-8, gamma)
        self.norm = copy.deepcopy(norm)
        self.phi = nn.Parameter(gamma.clone())
        self.register_buffer("alive", torch.ones_like(gamma))
        with torch.no_grad():
            self.norm.bias.div_(gamma)
            self.norm.weight.fill_(1)
        self.norm.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated, normalised features."""
        gated: Tensor = self.norm(x) * (self.phi * self.alive)[:, None, None]
        return gated

    def plain(self) -> nn.BatchNorm2d:
        """Return a normalisation that does the same; closed channels have scale and bias 0."""
        norm = copy.deepcopy(self.norm)
        with torch.no_grad():
            gate = self.phi * self.alive
            norm.weight.copy_(gate)
            norm.bias.mul_(gate)
        norm.weight.requires_grad_(True)
        return norm


class Gated:
    """A network under gates.

    Attributes:
        net: the network with gates, to be trained.
        history: per tick the share of channels left.
    """

    def __init__(self, net: nn.Module, config: GateConfig | None = None, channels: int = 3) -> None:
        self.config = config or GateConfig()
        self.net: fx.GraphModule = trace(net)
        self.history: list[float] = []
        whole = trace(net).cpu()
        found = ChannelGraph(whole, {}, channels=channels)
        self._groups = {n: found.tied[layer.writes] for n, layer in found.layers.items()}
        fixed = _kept_whole(whole, found)
        self._gates: dict[str, GatedNorm] = {}
        for name, module in list(self.net.named_modules()):
            if isinstance(module, nn.BatchNorm2d) and name in self._groups:
                self._gates[name] = GatedNorm(module)
                pruning.replace(self.net, name, self._gates[name])
        self._open = np.zeros(len(found.shown), bool)
        for name in self._gates:
            self._open[self._groups[name]] = True
        self._open &= ~fixed
        self._left = {n: np.ones(len(g), bool) for n, g in self._groups.items() if n in self._gates}

    @property
    def left(self) -> float:
        """The share of gated channels still open."""
        total = sum(len(m) for m in self._left.values())
        return sum(int(m.sum()) for m in self._left.values()) / max(1, total)

    @property
    def left_by_layer(self) -> dict[str, np.ndarray]:
        """Which channels are open, by the name of the normalisation layer."""
        return {name: left.copy() for name, left in self._left.items()}

    def run(self, batches: Batches, loss: Loss, tell: Tell | None = None) -> None:
        """Tick and tock through the whole schedule; the network keeps its size until `cut`."""
        for at in range(self.config.ticks):
            mean_loss = self.tick(batches, loss)
            if tell is not None:
                tell(at + 1, self.config.ticks, self.left, mean_loss)
            if (at + 1) % self.config.tock_every == 0:
                self.tock(batches, loss)

    def tick(self, batches: Batches, loss: Loss) -> float:
        """Train gates and last layers for one pass, then close the least important channels.

        Returns the mean loss of the pass.
        """
        importance = np.zeros(len(self._open))
        phis = [g.phi for g in self._gates.values()]
        trained = [*phis, *self._last()]
        self.net.requires_grad_(False)
        for p in trained:
            p.requires_grad_(True)
        optimiser = torch.optim.SGD(trained, self.config.tick_rate, self.config.momentum)
        self.net.eval()  # statistics stay as they are: a tick measures, it does not learn features
        spent = []
        for batch in batches():
            optimiser.zero_grad()
            value = loss(self.net, batch)
            value.backward()  # type: ignore[no-untyped-call]
            spent.append(value.item())
            for name, gate in self._gates.items():
                assert gate.phi.grad is not None
                score = (gate.phi * gate.phi.grad).detach().abs().cpu().numpy()
                np.add.at(importance, self._groups[name], score)
            optimiser.step()
        self._close(importance)
        self.history.append(self.left)
        return float(np.mean(spent))

    def tock(self, batches: Batches, loss: Loss) -> None:
        """Fine-tune everything with the L1 penalty on the gates, one-cycle learning rate."""
        self.net.requires_grad_(True)
        for gate in self._gates.values():
            gate.norm.weight.requires_grad_(False)
        trained = [p for p in self.net.parameters() if p.requires_grad]
        c = self.config
        optimiser = torch.optim.SGD(trained, c.tock_rate, c.momentum)
        self.net.train()
        for at in range(c.tock_passes):
            x = 2 * (at + 0.5) / c.tock_passes
            for row in optimiser.param_groups:
                row["lr"] = c.tock_rate * max(0.05, min(x, 2 - x))
            for batch in batches():
                optimiser.zero_grad()
                total = loss(self.net, batch)
                for gate in self._gates.values():
                    total = total + c.penalty * (gate.phi * gate.alive).abs().sum()
                total.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        self.net.eval()

    def _close(self, importance: np.ndarray) -> None:
        """Close the least important groups, whole, but never below the least share of a layer."""
        count = max(1, round(self.config.share * int(self._open.sum())))
        open_now = np.flatnonzero(self._open)
        for group in open_now[np.argsort(importance[open_now])]:
            if count == 0:
                break
            members = [n for n, g in self._groups.items() if n in self._left and (g == group).any()]
            after = {n: self._left[n] & (self._groups[n] != group) for n in members}
            if any(m.sum() < max(1, self.config.layer_min * len(m)) for m in after.values()):
                continue
            self._left.update(after)
            self._open[group] = False
            count -= 1
        for name, gate in self._gates.items():
            gate.alive.copy_(torch.from_numpy(self._left[name].astype(np.float32)))

    def _last(self) -> Sequence[nn.Parameter]:
        """Return the parameters of layers that no gate follows: classifiers, output maps."""
        gated = {
            node.args[0].target
            for node in self.net.graph.nodes
            if node.op == "call_module" and node.target in self._gates
            if isinstance(node.args[0], fx.Node)
        }
        return [
            p
            for name, m in self.net.named_modules()
            if isinstance(m, nn.Conv2d | nn.Linear) and name not in gated
            for p in m.parameters()
        ]

    def plain(self) -> fx.GraphModule:
        """Return the network at full size with plain normalisation; closed channels are dead."""
        net = trace(self.net)
        for name, gate in self._gates.items():
            pruning.replace(net, name, gate.plain().eval())
        return net

    def cut(self) -> fx.GraphModule:
        """Return the network without the closed channels, normalisation folded."""
        return pruning.cut(pruning.plan(self.plain(), dead={n: ~m for n, m in self._left.items()}))


def _kept_whole(net: fx.GraphModule, found: ChannelGraph) -> np.ndarray:
    """Return per group whether it would be needed even if every gate were closed (outputs)."""
    norms = {n: m for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    dead = {n: np.ones(m.num_features, bool) for n, m in norms.items() if n in found.layers}
    return ChannelGraph(net, dead, drop=True, borders=True, channels=found.picture_channels).shown
