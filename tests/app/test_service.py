"""A service on a network camera whose plug is pulled: it comes back, and its files are whole."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rtsp_camera import RtspCamera

HERE = Path(__file__).resolve().parent


@pytest.mark.slow
def test_a_camera_that_is_unplugged_and_returns(quiet_home: Path) -> None:
    camera = RtspCamera()
    lines = Path(f"poses/127.0.0.1_{camera.port}_cam/pose.jsonl.part")
    words = ["run", camera.address, "--format", "jsonl", "--no-gui", "-o", "poses"]
    service = subprocess.Popen(
        [sys.executable, str(HERE / "drawn_engine.py"), *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ,
    )  # fmt: skip
    try:
        _wait(lines, 10)
        camera.close()
        time.sleep(0.3)
        before = lines.read_text().count("\n")
        camera = RtspCamera(camera.port)
        _wait(lines, before + 20)
    finally:
        service.terminate()
        out, err = service.communicate(timeout=20)
        camera.close()
    assert service.returncode == 143, err
    folder = lines.parent
    assert out == f"{folder}\n"
    assert "source lost (" in err
    assert "source is back" in err
    assert "Traceback" not in err
    assert "--resume" not in err  # what is live cannot be done again
    told = [json.loads(line) for line in (folder / "pose.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "meta.json").read_text())["summary"]
    assert summary["frames_reported"] == len(told)
    lost = sum(summary["dropped"].values()) + summary["undecodable"]
    assert summary["frames_read"] == summary["frames_reported"] + lost
    times = [line["t"] for line in told]
    assert times == sorted(times)
    assert max(b - a for a, b in itertools.pairwise(times)) > 0.4  # the pause before the retry


def _wait(path: Path, count: int) -> None:
    deadline = time.monotonic() + 30
    while not path.exists() or path.read_text().count("\n") < count:
        assert time.monotonic() < deadline, f"{path} did not grow to {count} lines"
        time.sleep(0.05)
