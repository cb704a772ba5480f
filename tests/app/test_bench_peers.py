from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_bench import network  # noqa: F401 - a fixture

from manypose.app.main import main

_ = pytest.importorskip("onnxruntime")


@pytest.mark.slow
def test_a_peer_takes_turns_with_ours(
    network: str,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["bench", "peers", "--json", "--people", "2", "--size", "320x200", "--frames", "12"]
    words += ["--turns", "1", "--threads", "1", "--model", network, "--backend", "onnx"]
    # any network that takes a picture can be a bottom-up peer: here ours itself
    assert main([*words, "--against", network]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [r["people"] for r in rows] == [2, 2]
    assert rows[0]["ours_is_faster"] == 1
    assert all(r["fps"] > 0 and r["cpu_ms_per_frame"] > 0 for r in rows)


def test_peers_must_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "peers"]) == 2
    assert "--against" in capsys.readouterr().err
