"""What ships is what is in the tree, and importing it stays light."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
FOLDERS = ("app", "models", "pose", "calib", "weights")


def test_every_package_of_the_tree_is_listed() -> None:
    found = {"manypose"}
    for folder in FOLDERS:
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join(("manypose", *init.parent.relative_to(ROOT).parts)))
    assert set(SETUP["packages"]) == found


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_links_lead_to_the_folders(folder: str) -> None:
    assert (ROOT / "manypose" / folder).resolve() == ROOT / folder


def test_weights_of_the_manifest_ship() -> None:
    from fnmatch import fnmatch

    patterns = SETUP["package-data"]["manypose.weights"]
    rows = tomllib.loads((ROOT / "weights" / "weights.toml").read_text("utf-8"))["network"]
    for row in rows:
        assert (ROOT / "weights" / row["file"]).is_file()
        assert any(fnmatch(row["file"], p) for p in patterns)
        assert (ROOT / "weights" / f"{row['name']}.md").is_file()  # a model card beside each


def loaded_by(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_manypose_loads_nothing_heavy() -> None:
    heavy = {"cv2", "torch", "PyQt5", "onnxruntime", "openvino", "matplotlib", "scipy", "numpy"}
    assert not heavy & loaded_by("import manypose")


def test_onnx_runtime_reports_to_nobody(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    kept = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    network = ROOT / "weights" / "light_int8.onnx"
    code = (
        "from pathlib import Path\nfrom manypose.models.sessions import Wish, open_session\n"
        f"open_session(Path({str(network)!r}), 'onnx', Wish())"
    )
    subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True,
        env={**kept, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
    )  # fmt: skip
    # where its reports have their queue and the machine's number
    assert not list(tmp_path.rglob("*onnxruntime*"))


def test_openvino_reports_to_nobody() -> None:
    pytest.importorskip("openvino")
    loaded = loaded_by(
        "from manypose.models.sessions import engine; engine('openvino', 'openvino')"
    )
    assert "openvino" in loaded
    assert "openvino_telemetry" not in loaded


def test_no_gui_imports() -> None:
    loaded = loaded_by("import manypose.app.main, manypose.app.run, manypose.app.live")
    assert not {"PyQt5", "pyqtgraph", "torch", "matplotlib"} & loaded
