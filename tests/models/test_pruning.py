import copy
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from manypose.models import pruning, selecsls
from manypose.models.heads import BACKBONES, StageOne

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
_SPEC = importlib.util.spec_from_file_location("make_selecsls", GOLDEN / "make_selecsls.py")
formula = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(formula)


def _norms(net):
    return {n: m for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}


def _settled(net, seed=0, share=0.0, beta=None):
    """Give normalisation layers statistics, and a share of channels scale 0."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for norm in _norms(net).values():
            c = norm.num_features
            norm.running_mean.copy_(0.1 * torch.randn(c, generator=rng))
            norm.running_var.copy_(0.7 + 0.6 * torch.rand(c, generator=rng))
            norm.weight.copy_(0.7 + 0.6 * torch.rand(c, generator=rng))
            norm.bias.copy_(0.3 * torch.randn(c, generator=rng))
            off = torch.rand(c, generator=rng) < share
            norm.weight[off] = 0
            if beta is not None:
                norm.bias[off] = beta
    return net.eval()


def _answer(net, x):
    with torch.inference_mode():
        out = net(x)
    return torch.cat([m.flatten() for m in out]) if isinstance(out, tuple) else out


def _close(a, b):
    assert (a - b).abs().max() <= 1e-5 * max(1, float(a.abs().max()))


def _flat(key):
    """The authors' fused head is one row of convolutions and ReLUs."""
    parts = key.split(".")
    return f"head.{2 * int(parts[1])}.{parts[3]}" if parts[0] == "head" else key


def _size(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("name", "beta"),
    [
        ("selecsls42", None), ("selecsls42", -0.2), ("resnet50", None), ("ese_vovnet39", -0.2),
        ("res2net50", -0.2), ("espnet", None),
    ],
)  # fmt: skip
def test_a_pruned_stage_one_answers_the_same(name, beta):
    torch.manual_seed(0)
    net = _settled(StageOne(name, 0.25), share=0.3, beta=beta)
    x = torch.rand(1, 3, 64, 96)
    small = pruning.prune(net, 0)
    _close(_answer(net, x), _answer(small, x))
    assert _size(small) < (0.9 if beta else 1.0) * _size(net)
    y = torch.rand(1, 3, 32, 64)  # the size stays free
    _close(_answer(net, y), _answer(small, y))


@pytest.mark.parametrize("name", ["selecsls60_grouped", "espnet_hierarchical", "dlnas_right"])
def test_groups_and_early_designs_are_pruned_too(name):
    net = _settled(BACKBONES[name](0.25), share=0.3, beta=-0.1)
    x = torch.rand(1, 3, 32, 48)
    small = pruning.prune(net, 0)
    with torch.inference_mode():
        whole, cut = net(x), small(x)
    # The tap is the network's output, so its channels stay.
    _close(whole, cut)
    assert _size(small) < _size(net)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SelecSLS42_B", "SelecSLS60"])
def test_the_authors_pruned_networks_come_out(shared, name):
    with np.load(shared / "reference" / "selecsls_golden.npz") as z:
        meta = json.loads(bytes(z["meta_json"]))[f"{name}.pruned"]
        wanted = z[f"{name}.pruned/s224/logits"]
    net = formula.seeded(selecsls.build(name.lower()))
    with torch.no_grad():
        for key, norm in _norms(net).items():
            off = torch.from_numpy(formula.unit(f"{key}.weight.gate", norm.num_features) < 0.25)
            norm.weight[off] = 0
            norm.bias[off] = 0
    small = pruning.prune(net)
    ours = {_flat(k): list(v.shape) for k, v in small.state_dict().items()}
    assert ours == dict(map(tuple, meta["keys"]))
    assert _size(small) == meta["params"]
    np.testing.assert_allclose(_answer(small, formula.picture(224, 224))[0], wanted, atol=1e-4)


def _chain(kernel, beta):
    """Three convolutions whose first has one dead channel with this beta."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 4, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 2, 1),
    )  # fmt: skip
    _settled(net)
    with torch.no_grad():
        net[1].weight[1], net[1].bias[1] = 0, beta
    return net


@pytest.mark.parametrize(("kernel", "beta", "width"), [(1, 0.5, 3), (3, 0.5, 4), (3, -0.5, 3)])
def test_a_dead_channel_stays_where_its_constant_could_not_be_folded(kernel, beta, width):
    net = _chain(kernel, beta)
    x = torch.rand(1, 3, 8, 8)
    small = pruning.prune(net, 0)
    assert small.get_submodule("0").out_channels == width
    _close(_answer(net, x), _answer(small, x))


def test_constants_can_be_folded_inside_or_dropped_as_the_authors_do():
    net = _chain(3, 0.5)
    x = torch.rand(1, 3, 9, 9)
    whole, folded = _answer(net, x), _answer(pruning.prune(net, 0, "fold"), x)
    _close(whole[..., 1:-1, 1:-1], folded[..., 1:-1, 1:-1])
    assert (whole - folded).abs().max() > 1e-3
    dropped = pruning.plan(net, 0, "drop")
    _close(_answer(pruning.silence(dropped), x), _answer(pruning.cut(dropped), x))
    assert (whole - _answer(pruning.cut(dropped), x)).abs().max() > 1e-3
    with pytest.raises(ValueError, match="fold"):
        pruning.plan(net, 0, "ignore")


def test_a_layer_without_living_channels_keeps_its_strongest():
    net = _chain(3, -0.5)
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([1e-5, 3e-5, 2e-5, 1e-6]))
        net[1].bias.fill_(-1)
    kept = net[0].weight[1]
    small = pruning.prune(net, 1e-3)
    assert small.get_submodule("0").out_channels == 1
    direction = small.get_submodule("0").weight[0]
    assert torch.nn.functional.cosine_similarity(direction.flatten(), kept.flatten(), 0) > 0.999


def test_what_is_simulated_is_what_is_cut():
    torch.manual_seed(0)
    net = _settled(StageOne("selecsls42", 0.25))
    with torch.no_grad():
        for norm in _norms(net).values():
            weak = torch.rand(norm.num_features) < 0.3
            norm.weight[weak] = 0.05
            norm.bias[weak & (torch.rand(norm.num_features) < 0.7)] = -0.3
    found = pruning.plan(net, 0.06)
    total, dead, gone = found.counts()
    assert 0 < gone < dead < total
    x = torch.rand(1, 3, 32, 64)
    _close(_answer(pruning.silence(found), x), _answer(pruning.cut(found), x))
    assert (_answer(net, x) - _answer(pruning.silence(found), x)).abs().max() > 1e-4


def test_sums_tie_channels():
    net = _settled(BACKBONES["resnet50"](0.25))
    with torch.no_grad():
        net.layer1[1].bn3.weight[:2] = 0
        net.layer1[1].bn3.bias[:2] = 0
        for norm in (net.layer1[0].bn3, net.layer1[0].downsample[1], net.layer1[2].bn3):
            norm.weight[0] = norm.bias[0] = 0
    small = pruning.prune(net, 0)
    # Channel 0 is dead on every side of the sums, channel 1 on one side only.
    full = net.layer1[0].conv3.out_channels
    assert small.get_submodule("layer1.0.conv3").out_channels == full - 1
    assert small.get_submodule("layer2.0.conv1").in_channels == full - 1
    x = torch.rand(1, 3, 32, 32)
    _close(_answer(net, x), _answer(small, x))


def test_fusing_leaves_no_normalisation_behind_convolutions():
    net = _settled(StageOne("res2net50", 0.125))
    before = copy.deepcopy(net.state_dict())
    fused = pruning.fuse(net)
    assert not _norms(fused)
    x = torch.rand(1, 3, 32, 32)
    _close(_answer(net, x), _answer(fused, x))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
