from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from manypose.errors import UsageError, WeightsError
from manypose.models import onnx_file, quantise, weights
from manypose.pose.joints import JOINTS_2D, LIMBS

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
export = pytest.importorskip("manypose.models.export")
StageOne = pytest.importorskip("manypose.models.heads").StageOne

Files = dict[str, Path]


def test_the_file_says_what_it_is(small_files: Files) -> None:
    info = onnx_file.describe(small_files["fp32"])
    assert [(t.name, t.shape, t.type) for t in info.inputs] == [("image", (None, None, None, 3), 2)]
    assert [(t.name, t.shape) for t in info.outputs] == [
        ("heatmaps", (None, 20, None, None)),
        ("pafs", (None, 46, None, None)),
        ("encodings", (None, 63, None, None)),
    ]
    assert json.loads(info.metadata["manypose.joints"]) == list(JOINTS_2D)
    assert json.loads(info.metadata["manypose.limbs"]) == [list(limb) for limb in LIMBS]
    assert json.loads(info.metadata["manypose.input"]) == [96, 64]
    assert info.metadata["manypose.stride"] == "8"


def test_batch_normalisation_is_folded_and_no_path_is_left(small_files: Files) -> None:
    model = onnx.load(str(small_files["fp32"]))
    assert "BatchNormalization" not in {n.op_type for n in model.graph.node}
    assert str(Path.cwd()).encode() not in small_files["fp32"].read_bytes()


@pytest.mark.slow
def test_torch_and_file_agree_on_a_size_that_does_not_halve_evenly(tmp_path: Path) -> None:
    torch.manual_seed(1)
    net = StageOne("selecsls42", 0.25).eval()
    path = tmp_path / "odd.onnx"
    assert export.export_onnx(net, path, 80, 48) < 1e-4
    pictures = np.random.default_rng(0).integers(0, 255, (3, 80, 48, 3), np.uint8)
    got = quantise.answer(path, pictures)
    with torch.no_grad():
        wanted = net(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255)
    np.testing.assert_allclose(got[0], wanted[0].clamp(0, 1).numpy(), atol=1e-5)
    np.testing.assert_allclose(got[2], wanted[2].numpy(), atol=1e-5)


@pytest.mark.slow
def test_nothing_is_written_when_the_outputs_are_not_finite(tmp_path: Path) -> None:
    net = StageOne("selecsls42", 0.25).eval()
    torch.nn.init.constant_(net.head2d[-1].bias, float("nan"))
    with pytest.raises(WeightsError, match="export refused"):
        export.export_onnx(net, tmp_path / "bad.onnx", 64, 64)
    assert list(tmp_path.iterdir()) == []


def test_an_odd_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="multiples of 16"):
        export.export_onnx(StageOne("selecsls42", 0.25), tmp_path / "x.onnx", 100, 64)


def test_the_manifest_has_both_files(small_files: Files) -> None:
    rows = weights.manifest(small_files["folder"])
    assert [(r.name, r.precision, r.input_size) for r in rows] == [
        ("tiny", "fp32", (96, 64)),
        ("tiny", "int8", (96, 64)),
    ]
    for row in rows:
        assert weights.verify(row) == row.sha256


def test_int8_is_smaller_and_close(small_files: Files) -> None:
    info = onnx_file.describe(small_files["int8"])
    assert info.metadata["manypose.precision"] == "int8"
    assert min(json.loads(info.metadata["manypose.sqnr_db"]).values()) > 15
    assert small_files["int8"].stat().st_size < 0.5 * small_files["fp32"].stat().st_size
    last = [n for n in onnx.load(str(small_files["int8"])).graph.node if n.op_type == "Conv"]
    assert len(last) == 50


def test_without_pictures_there_is_no_int8(small_files: Files, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no pictures"):
        quantise.quantise(small_files["fp32"], tmp_path / "q.onnx", tmp_path)


@pytest.mark.slow
def test_a_checkpoint_goes_through_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = StageOne("selecsls42", 0.25)
    torch.save(
        {"backbone": "selecsls42", "width": 0.25, "model": net.state_dict(), "step": 3},
        tmp_path / "c.pt",
    )
    options = ["--size", "64x64", "--out", str(tmp_path), "--name", "mine"]
    assert export.main([str(tmp_path / "c.pt"), *options]) == 0
    assert json.loads(capsys.readouterr().out)["parity"] < 1e-4
    assert [r.name for r in weights.manifest(tmp_path)] == ["mine"]


def test_what_is_no_checkpoint_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.pt").write_bytes(b"not a checkpoint at all")
    assert export.main([str(tmp_path / "c.pt"), "--out", str(tmp_path)]) == 5
    assert capsys.readouterr().err.count("\n") == 1
