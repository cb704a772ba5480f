import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from manypose.models import selecsls

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
_SPEC = importlib.util.spec_from_file_location("make_selecsls", GOLDEN / "make_selecsls.py")
formula = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(formula)
# our name -> the name in the authors' archive
AUTHORS = {n: n.replace("selecsls", "SelecSLS").replace("_b", "_B") for n in selecsls.VARIANTS}


@pytest.fixture(scope="module")
def authors(shared):
    with np.load(shared / "reference" / "selecsls_golden.npz") as z:
        return {k: z[k] for k in z.files}


@pytest.mark.slow
@pytest.mark.parametrize("name", selecsls.VARIANTS)
def test_the_networks_answer_as_the_authors(authors, name):
    theirs = AUTHORS[name]
    entry = json.loads(bytes(authors["meta_json"]))[theirs]
    net = selecsls.build(name)
    assert {k: tuple(v.shape) for k, v in net.state_dict().items()} == {
        k: tuple(s) for k, s in entry["keys"]
    }
    formula.seeded(net)
    sizes = {"s224": (224, 224), "s320x512": (320, 512)}
    for size, (height, width) in sizes.items():
        logits, stages = formula.answer(net, height, width)
        np.testing.assert_allclose(logits, authors[f"{theirs}/{size}/logits"], atol=1e-4)
        wanted = authors[f"{theirs}/{size}/stages"]
        assert stages.shape == wanted.shape
        assert (np.abs(stages - wanted) <= 1e-4 * (1 + np.abs(wanted))).all()


@pytest.mark.parametrize("name", selecsls.VARIANTS)
def test_the_networks_answer_as_before(name):
    with np.load(GOLDEN / "selecsls.npz") as z:
        logits, stages = z[f"{name}/logits"], z[f"{name}/stages"]
    net = formula.seeded(selecsls.build(name, width=formula.WIDTH))
    found, seen = formula.answer(net, formula.SIZE, formula.SIZE)
    np.testing.assert_allclose(found[::20], logits, atol=1e-4)
    np.testing.assert_allclose(seen[:, :10], stages, atol=1e-4, rtol=1e-4)


def test_taps_lie_at_strides_2_4_8_and_16():
    for name in selecsls.VARIANTS:
        net = selecsls.build(name, classes=0, width=0.125).eval()
        with torch.inference_mode():
            taps = net.forward_taps(torch.rand(1, 3, 64, 96))
        assert [t.shape[1] for t in taps] == list(net.channels)
        assert [(64 // t.shape[2], 96 // t.shape[3]) for t in taps] == [(s, s) for s in net.strides]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 112), (176, 80)])
def test_any_size_in_multiples_of_16(height, width):
    net = selecsls.build("selecsls42", classes=0, width=0.125).eval()
    with torch.inference_mode():
        assert net(torch.rand(1, 3, height, width)).shape[-2:] == (height // 16, width // 16)


def test_checkpoints_load_in_both_namings_and_strictly():
    torch.manual_seed(0)
    source = selecsls.build("selecsls42_b", classes=10, width=0.125).eval()
    state = source.state_dict()
    timm = {k.replace("classifier.0.", "fc."): v for k, v in state.items()}
    assert "fc.weight" in timm
    x = torch.rand(1, 3, 64, 64)
    for given in (state, timm, {f"module.{k}": v for k, v in state.items()}):
        net = selecsls.build("selecsls42_b", classes=10, width=0.125).eval()
        selecsls.load_checkpoint(net, given)
        with torch.inference_mode():
            torch.testing.assert_close(net(x), source(x))
    body = selecsls.build("selecsls42_b", classes=0, width=0.125).eval()
    selecsls.load_checkpoint(body, timm)
    with torch.inference_mode():
        torch.testing.assert_close(body(x), source.forward_taps(x)[-1])
    with pytest.raises(RuntimeError):
        selecsls.load_checkpoint(body, {k: v for k, v in state.items() if "stem" not in k})


def test_grouped_convolutions_are_those_of_the_paper():
    net = selecsls.build("selecsls60", classes=0, grouped=True)
    groups = [b.conv1[0].groups for b in net.features]
    assert groups == [1, 1, 2, 2, 4, 4, 4, 4, 4]
    with pytest.raises(ValueError, match="60"):
        selecsls.build("selecsls42", grouped=True)


def test_names_are_forgiving_and_unknown_ones_listed():
    assert selecsls.build("SelecSLS-60_B", width=0.125).classifier[0].out_features == 1000
    with pytest.raises(ValueError, match="selecsls102"):
        selecsls.build("resnet50")
