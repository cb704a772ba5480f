import json

import pytest
import torch
from torch import nn

from manypose.app.main import main
from manypose.models import onnx_file
from manypose.models.backends import input_size
from manypose.models.heads import StageOne
from manypose.models.train import packs
from manypose.models.train.figures import figures


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small Stage I a third of whose channels have died."""
    torch.manual_seed(0)
    net = StageOne("selecsls42", 0.25)
    with torch.no_grad():
        for norm in net.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(0, 0.2)
                weak = torch.rand(norm.num_features) < 0.33
                norm.weight[weak] *= 1e-5
                norm.bias[weak] = -0.1
    path = tmp_path_factory.mktemp("pruning") / "ema.pt"
    torch.save({"ema": net.state_dict(), "backbone": "selecsls42", "width": 0.25}, path)
    return path


def _report(capsys, *words):
    assert main(["prune", *map(str, words), "--json", "--rounds", "1"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_checkpoint_becomes_a_smaller_file_that_answers_the_same(checkpoint, tmp_path, capsys):
    out = tmp_path / "small.onnx"
    report = _report(capsys, checkpoint, "-o", out, "--size", "96x64")
    assert input_size(out) == (96, 64)
    assert onnx_file.describe(out).metadata["manypose.name"] == "small"
    assert [p.name for p in tmp_path.iterdir()] == ["small.onnx"]
    c = report["channels"]
    # The one sum of Stage I ties channels of which some are dead on one side only.
    assert 0.2 * c["all"] < 0.95 * c["dead"] < c["cut"] <= c["dead"] < 0.5 * c["all"]
    for key in ("parameters", "macs"):
        assert report["after"][key] < 0.7 * report["before"][key]
    assert report["difference_to_unpruned"] < 1e-3
    assert report["parity_to_silenced"] < 1e-5
    assert report["parity_to_onnx"] < 2e-4


def test_simulating_scores_and_writes_nothing(checkpoint, tmp_path, capsys):
    packs.write_pack(figures(2, 64, 64), tmp_path / "photos")
    none, report = _report(
        capsys, checkpoint, "--simulate", "--size", "64x64", "--threshold", "0", "0.6",
        "--val", f"pack:{tmp_path / 'photos'}",
    )  # fmt: skip
    assert set(report["scores"]) == {"before", "after"}
    assert all(0 <= s["AP"] <= 1 for s in report["scores"].values())
    assert none["scores"]["before"] is not None
    assert none["scores"]["before"] == pytest.approx(report["scores"]["before"], nan_ok=True)
    assert none["scores"]["before"] == pytest.approx(none["scores"]["after"], nan_ok=True)
    assert report["written"] is None
    assert report["difference_to_unpruned"] > 1e-3
    assert [p.name for p in checkpoint.parent.iterdir()] == ["ema.pt"]


@pytest.mark.slow
def test_gates_are_trained_on_photos_and_cut_a_residual_network(tmp_path, capsys):
    torch.manual_seed(0)
    net = StageOne("resnet50", 0.0625)
    torch.save({"ema": net.state_dict(), "backbone": "resnet50", "width": 0.0625},
               tmp_path / "ema.pt")  # fmt: skip
    packs.write_pack(figures(4, 64, 64), tmp_path / "photos")
    out = tmp_path / "small.onnx"
    report = _report(
        capsys, tmp_path / "ema.pt", "-o", out, "--size", "64x64", "--train-size", "64x64",
        "--gates", f"pack:{tmp_path / 'photos'}", "--ticks", "2", "--share", "0.2", "--tock-every",
        "1", "--tock-passes", "1", "--steps", "2", "--batch", "2",
    )  # fmt: skip
    left = report["left_by_tick"]
    assert 1 > left[0] > left[1] > 0.4
    assert report["after"]["macs"] < 0.9 * report["before"]["macs"]
    assert report["parity_to_silenced"] < 1e-4
    assert input_size(out) == (64, 64)
    assert "2 ticks" in onnx_file.describe(out).metadata["manypose.source"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "-o"),
        (["-o", "x.pt"], 2, ".onnx"),
        (["--simulate", "--beta", "ignore"], 2, "fold"),
        (["--simulate", "--threshold", "-1"], 2, "0.001"),
        (["--simulate", "--size", "100x64"], 2, "512x320"),
        (["--simulate", "--gates", "pack:none", "--ticks", "0"], 2, "--ticks"),
        (["--simulate", "--gates", "pack:none", "--share", "1"], 2, "--share"),
        (["--simulate", "--gates", "pack:none"], 4, "none"),
    ],
)
def test_wrong_use_is_told_in_a_line(checkpoint, capsys, words, code, said):
    assert main(["prune", str(checkpoint), *words]) == code
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_other_files_are_refused(tmp_path, capsys):
    path = tmp_path / "other.pt"
    torch.save({"weights": 1}, path)
    assert main(["prune", str(path), "--simulate"]) == 5
    assert "ema.pt" in capsys.readouterr().err
