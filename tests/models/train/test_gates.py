import numpy as np
import pytest
import torch
from torch import nn

from manypose.models import resnet
from manypose.models.train.gates import GateConfig, Gated, GatedNorm


class Tiny(nn.Module):
    """Two residual blocks and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12))
        self.one = self._branch()
        self.two = self._branch()
        self.last = nn.Linear(12, 2)

    def _branch(self):
        return nn.Sequential(
            nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
            nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12),
        )  # fmt: skip

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.one(x))
        x = torch.relu(x + self.two(x))
        return self.last(x.mean((2, 3)))


def _data():
    """Pictures with upright or lying stripes."""
    rng = torch.Generator().manual_seed(0)
    kinds = torch.arange(64) % 2
    wave = torch.sin(torch.arange(8) * 1.6)
    x = torch.where(kinds[:, None, None] > 0, wave[None, None], wave[None, :, None])
    x = x.expand(64, 8, 8) + 0.3 * torch.randn(64, 8, 8, generator=rng)
    return x[:, None], kinds


def _loss(net, batch):
    return nn.functional.cross_entropy(net(batch[0]), batch[1])


def _batches():
    x, y = _data()
    return [(x[i : i + 16], y[i : i + 16]) for i in range(0, 64, 16)]


def _accuracy(net):
    x, y = _data()
    with torch.no_grad():
        return float((net.eval()(x).argmax(1) == y).float().mean())


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    net = Tiny()
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(10):
        for batch in _batches():
            optimiser.zero_grad()
            _loss(net, batch).backward()
            optimiser.step()
    assert _accuracy(net) > 0.95
    return net.eval()


def test_gates_change_nothing_at_first(trained):
    gated = Gated(trained, channels=1)
    x, _ = _data()
    torch.testing.assert_close(gated.net(x), trained(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gated.plain()(x), trained(x), atol=1e-5, rtol=1e-5)
    assert gated.left == 1


def test_a_residual_network_is_halved_and_still_right(trained):
    config = GateConfig(ticks=8, share=0.1, tock_every=2, tock_passes=3)
    gated = Gated(trained, config, channels=1)
    gated.run(_batches, _loss)
    assert len(gated.history) == 8
    assert all(np.diff(gated.history) < 0)
    assert gated.left < 0.6
    small = gated.cut()
    x, _ = _data()
    torch.testing.assert_close(small(x), gated.net.eval()(x), atol=1e-5, rtol=1e-4)
    assert _accuracy(small) > 0.95
    # All that is added up has lost the same channels.
    wide = {small.get_submodule(n).out_channels for n in ("stem.0", "one.3", "two.3")}
    assert len(wide) == 1
    assert wide.pop() < 12
    assert sum(p.numel() for p in small.parameters()) < 0.6 * sum(
        p.numel() for p in trained.parameters()
    )


def test_a_layer_keeps_its_least_share(trained):
    config = GateConfig(ticks=4, share=0.9, tock_every=99, layer_min=0.25)
    gated = Gated(trained, config, channels=1)
    gated.run(_batches, _loss)
    small = gated.cut()
    widths = [m.out_channels for m in small.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [3] * 5


def test_a_channel_with_scale_nought_can_be_gated():
    norm = nn.BatchNorm2d(2).eval()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.0, 2.0]))
        norm.bias.fill_(0.5)
    x = torch.randn(1, 2, 4, 4)
    torch.testing.assert_close(GatedNorm(norm).eval()(x), norm(x), atol=1e-5, rtol=1e-5)


def test_a_bottleneck_network_is_cut_too():
    torch.manual_seed(0)
    net = resnet.ResNet(resnet.Variant((1, 1, 1, 1)), 2, 0.125).eval()
    gated = Gated(net, GateConfig(ticks=1, share=0.3))
    x = torch.rand(2, 3, 32, 32)
    gated.tick(lambda: [(x, torch.tensor([0, 1]))], _loss)
    small = gated.cut()
    assert 0.6 < gated.left < 0.8
    torch.testing.assert_close(small(x), gated.net(x), atol=1e-4, rtol=1e-4)
