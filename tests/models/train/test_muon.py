"""Muon: its matrices, its AdamW half against torch's own, and going on from a checkpoint."""

from __future__ import annotations

import copy

import torch
from torch import nn

from manypose.models.heads import StageOne
from manypose.models.train.muon import Muon, grouped, orthogonal


def test_a_step_has_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((16, 40), (40, 16), (24, 24)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert values.min() > 0.3
        assert values.max() < 1.3


def test_every_parameter_is_in_one_group() -> None:
    net = StageOne("selecsls42", 0.25)
    groups = grouped(net, 0.01, 2e-3)
    ids = [id(p) for g in groups for p in g["params"]]
    assert sorted(ids) == sorted(id(p) for p in net.parameters())
    inner = {id(p) for p in groups[0]["params"]}
    assert id(net.backbone.get_parameter("stem.0.weight")) not in inner
    assert id(net.get_parameter("head2d.1.weight")) not in inner
    assert id(net.get_parameter("trunk.0.0.weight")) in inner


def test_the_plain_half_is_adamw() -> None:
    torch.manual_seed(1)
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    a = Muon([{"params": list(ours.parameters()), "weight_decay": 0.1, "lr": 0.01}])
    b = torch.optim.AdamW(theirs.parameters(), 0.01, betas=(0.9, 0.98), weight_decay=0.1)
    x = torch.randn(20, 5)
    for _ in range(5):
        for net, optimiser in ((ours, a), (theirs, b)):
            optimiser.zero_grad()
            net(x).square().mean().backward()
            optimiser.step()
    torch.testing.assert_close(ours.weight, theirs.weight, atol=1e-6, rtol=1e-5)


def test_a_run_goes_on_from_its_state() -> None:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
    x = torch.randn(4, 8, 6, 6)

    def go(net: nn.Module, optimiser: Muon, steps: int) -> None:
        for _ in range(steps):
            optimiser.zero_grad()
            net(x).square().mean().backward()
            optimiser.step()

    optimiser = Muon(grouped(net, 0.01, 1e-3))
    go(net, optimiser, 3)
    other = copy.deepcopy(net)
    again = Muon(grouped(other, 0.01, 1e-3))
    again.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    go(net, optimiser, 3)
    go(other, again, 3)
    for p, q in zip(net.parameters(), other.parameters()):
        assert torch.equal(p, q)
