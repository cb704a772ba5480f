from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from manypose.app.main import main
from manypose.models import weights

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty models folder of the user's."""
    monkeypatch.setenv("MANYPOSE_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def _constant(path: Path, outputs: dict[str, np.ndarray]) -> None:
    nodes, described = [], []
    for name, array in outputs.items():
        value = onnx.numpy_helper.from_array(array.astype(np.float32), name + "_value")
        nodes.append(onnx.helper.make_node("Constant", [], [name], value=value))
        described.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, array.shape)
        )
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 64, 64])
    graph = onnx.helper.make_graph(nodes, "g", [x], described)
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A description of a one-stage network beside its file."""
    folder = tmp_path / "download"
    folder.mkdir()
    _constant(
        folder / "net.onnx",
        {"dets": np.array([[[1, 1, 60, 60, 0.9]]]), "joints": np.full((1, 1, 17, 3), 0.5)},
    )
    (folder / "net.toml").write_text(
        '# a network of somebody\'s\n[pose]\nkind = "one-stage"\nfile = "net.onnx"\n'
        'input = [64, 64]\nlicence = "Apache-2.0"\n'
    )
    return folder / "net.toml"


def test_what_was_added_is_listed_verified_and_found_by_name(
    home: Path, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "add", str(own), "--name", "mine", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["name"], row["kind"], row["licence"]) == ("mine", "own", "Apache-2.0")
    assert Path(row["path"]).is_relative_to(home)
    assert len(row["sha256"]) == 64
    assert main(["models", "list"]) == 0
    assert "mine" in capsys.readouterr().out
    (found,) = weights.find("mine")
    weights.verify(found)
    assert 'sha256 = "' in found.path.read_text()
    from manypose.models.front_end import load_front_end

    assert load_front_end("mine", "onnx", "cpu", 1).info.model == "mine"


def test_verify_names_the_file_that_was_changed(
    home: Path, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "add", str(own)]) == 0
    (home / "net" / "net.onnx").write_bytes(b"other")
    capsys.readouterr()
    assert main(["models", "verify"]) == 5
    out = capsys.readouterr().out
    assert "net.onnx: damaged or changed" in out


def test_names_cannot_escape_and_do_not_replace_in_silence(
    home: Path, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("../evil", "a/b", "..", "", ".hidden", "/abs"):
        assert main(["models", "add", str(own), f"--name={name}"]) in (0, 2)
        assert not (home.parent / "evil").exists()
    assert main(["models", "add", str(own), "--name", "x"]) == 0
    assert main(["models", "add", str(own), "--name", "x"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["models", "add", str(own), "--name", "x", "--overwrite"]) == 0
    assert not list(home.glob("*.part"))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["add"], 2, "needs a FILE"),
        (["list", "x.onnx"], 2, "takes no FILE"),
        (["add", "gone.onnx"], 5, "no such file"),
        (["add", "README.txt"], 2, "give an .onnx"),
        (["add", "letter.onnx"], 5, "not an ONNX file"),
    ],
)
def test_mistakes_are_said_in_one_line(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.txt").write_text("x")
    (tmp_path / "letter.onnx").write_text("dear friend")
    assert main(["models", *words]) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
