from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A small random Stage I as fp32 and int8 files of 96x64, listed in a manifest."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from manypose.models import export, quantise
    from manypose.models.heads import StageOne

    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    net = StageOne("selecsls42", 0.25).eval()
    export.export_onnx(net, folder / "tiny.onnx", 64, 96, "tiny", "MIT", "a test", record=True)
    rng = np.random.default_rng(0)
    pictures = [
        rng.integers(0, 255, (4, 6, 3), np.uint8).repeat(16, 0).repeat(16, 1) for _ in range(8)
    ]
    quantise.quantise(
        folder / "tiny.onnx", folder / "tiny_int8.onnx", pictures, record=True, search=False
    )
    before = {k: os.environ.get(k) for k in ("MANYPOSE_MODELS", "XDG_CACHE_HOME")}
    os.environ["MANYPOSE_MODELS"] = str(folder)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    yield {"fp32": folder / "tiny.onnx", "int8": folder / "tiny_int8.onnx", "folder": folder}
    for key, value in before.items():
        os.environ.pop(key, None)
        if value is not None:
            os.environ[key] = value
