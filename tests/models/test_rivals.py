import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from manypose.models import espnet, res2net, resnet, vovnet
from manypose.models.heads import BACKBONES

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
_SPEC = importlib.util.spec_from_file_location("make_selecsls", GOLDEN / "make_selecsls.py")
formula = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(formula)
# timm's name -> our network
RIVALS = {
    "resnet50": resnet.build,
    "vovnet39a": lambda: vovnet.build("vovnet39"),
    "ese_vovnet39b": lambda: vovnet.build("ese_vovnet39"),
    "res2net50_26w_4s": res2net.build,
}


@pytest.fixture(scope="module")
def golden(shared):
    with np.load(shared / "reference" / "selecsls_golden.npz") as z:
        return {k: z[k] for k in z.files}


@pytest.mark.slow
@pytest.mark.parametrize("name", RIVALS)
def test_the_rivals_answer_as_timm(golden, name):
    entry = json.loads(bytes(golden["meta_json"]))[name]
    net = RIVALS[name]()
    ours = {k: list(v.shape) for k, v in net.state_dict().items()}
    assert ours == dict(map(tuple, entry["keys"]))
    assert sum(p.numel() for p in net.parameters()) == entry["params"]
    formula.seeded(net)
    found = {}
    for stage, _ in entry["stages"]["s224"]:
        module = net.get_submodule("stem.2" if stage == "stem" else stage)
        module.register_forward_hook(
            lambda _m, _i, o, stage=stage: found.update({stage: formula.summary(o)})
        )
    with torch.inference_mode():
        logits = net(formula.picture(224, 224))[0].numpy()
    wanted = golden[f"{name}/s224/logits"]
    assert np.abs(logits - wanted).max() <= 1e-4 * max(1, wanted.std())
    for (stage, _), row in zip(entry["stages"]["s224"], golden[f"{name}/s224/stages"]):
        assert (np.abs(found[stage] - row) <= 1e-4 * (max(1, row[1]) + np.abs(row))).all(), stage


@pytest.mark.parametrize("name", [n for n in BACKBONES if not n.startswith("selecsls")])
def test_taps_lie_at_strides_2_4_8_and_16(name):
    net = BACKBONES[name](0.125).eval()
    with torch.inference_mode():
        taps = net.forward_taps(torch.rand(1, 3, 64, 96))
        last = net(torch.rand(1, 3, 48, 80))
    assert [t.shape[1] for t in taps] == list(net.channels)
    assert [(64 // t.shape[2], 96 // t.shape[3]) for t in taps] == [(s, s) for s in net.strides]
    assert last.shape[-2:] == (3, 5)


def test_the_reorganised_espnet_is_deeper_at_equal_cost():
    flat, deep = espnet.build("espnet", 0.25), espnet.build("espnet_hierarchical", 0.25)
    assert [tuple(p.shape) for p in flat.parameters()] == [
        tuple(p.shape) for p in deep.parameters()
    ]
    reach = []
    for net in (flat, deep):
        block = net.levels[0][0].eval()
        channels = block.norm.num_features
        x = torch.zeros(1, channels, 65, 65, requires_grad=True)
        block(x)[0, -1, 32, 32].backward()
        rows = x.grad[0].abs().sum((0, 2)).nonzero()
        reach.append(int(rows.max() - rows.min()) + 1)
    # The last output sees 2 * 16 + 1 rows, or all four dilations of the chain in a row.
    assert reach == [2 * 16 + 1, 2 * (2 + 4 + 8 + 16) + 1]


def test_an_unknown_design_is_named():
    with pytest.raises(ValueError, match="dlnas_right"):
        espnet.build("dlnas_left")
    with pytest.raises(ValueError, match="res5a"):
        resnet.build("resnet50", 0, tail="res6")
