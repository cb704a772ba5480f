import torch
from torch import nn

from manypose.models import selecsls
from manypose.models.costs import count, interleaved, peak_bytes


def _three():
    return nn.Sequential(
        nn.Conv2d(1, 8, 1, bias=False), nn.Conv2d(8, 1, 1, bias=False), nn.Conv2d(1, 1, 1)
    )


def test_costs_are_those_counted_by_hand():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 8, 1))
    c = count(net, torch.zeros(2, 3, 8, 8))
    assert c.parameters == 4 * 27 + 4 * 8 + 8
    assert c.macs == 2 * 16 * (4 * 27 + 8 * 4)
    assert c.activations == 2 * 16 * (4 + 8)
    assert c.traffic == 2 * (3 * 64 + 4 * 16 + 4 * 16 + 8 * 16) + 4 * 27 + 4 * 8


def test_costs_are_those_published_for_selecsls60():
    net = selecsls.build("selecsls60")
    c = count(net, torch.zeros(1, 3, 224, 224))
    assert round(c.macs / 1e9, 2) == 3.58
    assert round(c.parameters / 1e6, 2) == 30.67


def test_peak_memory_is_that_of_the_widest_moment():
    net, x = _three(), torch.zeros(1, 1, 100, 100)
    weights = 4 * (8 + 8 + 1 + 1)
    # Picture, eight planes and the one made of them live together.
    assert peak_bytes(net, x) == weights + 40_000 * (1 + 8 + 1)
    # Every plane is stored for the backward pass, which then makes gradients of eight more.
    assert 40_000 * 11 + 40_000 * 8 < peak_bytes(net, x, training=True) < 40_000 * 11 + 40_000 * 11
    assert all(p.grad is None for p in net.parameters())


def test_calls_take_turns_after_one_round_of_warming_up():
    order, ticks = [], iter(range(100))
    calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    spent = interleaved(calls, 3, lambda: float(next(ticks)))
    assert order == ["a", "b"] * 4
    assert spent == {"a": [1.0] * 3, "b": [1.0] * 3}
