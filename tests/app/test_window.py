"""The real window: on an X server where there is one or Xvfb can be started, and without any."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("PyQt5.QtWidgets", reason="extra gui is not installed", exc_type=ImportError)
pytest.importorskip("pyqtgraph", reason="extra gui is not installed")

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("troupe.py")
pytestmark = [pytest.mark.window, pytest.mark.slow]


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    """Return an X display: the user's own, or Xvfb on a free number."""
    if os.environ.get("DISPLAY"):
        yield os.environ["DISPLAY"]
        return
    server = shutil.which("Xvfb")
    if server is None:
        pytest.skip("no DISPLAY and no Xvfb: apt-get install xvfb")
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [server, "-displayfd", str(writing), "-screen", "0", "1280x800x24", "-nolisten", "tcp"],
        pass_fds=[writing],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    with os.fdopen(reading) as answer:
        number = answer.readline().strip()
    if not number:
        process.wait()
        pytest.skip("Xvfb does not start here")
    yield f":{number}"
    process.terminate()
    process.wait()


def environment(folder: Path, **changes: str) -> dict[str, str]:
    drop = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM", "QT_QPA_PLATFORM_PLUGIN_PATH")
    kept = {k: v for k, v in os.environ.items() if k not in drop}
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder / "data")}
    return {**kept, **home, "PYTHONPATH": str(ROOT), **changes}


def opened(case: str, folder: Path, **changes: str) -> dict[str, Any]:
    """Return what the script saw in its window; it must leave with 0."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), case, str(folder)],
        env=environment(folder, **changes),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode < 0 and "could not load the qt platform plugin" in done.stderr.lower():
        pytest.skip("system libraries of the window are missing; manypose doctor names them")
    assert done.returncode == 0, f"rc {done.returncode}\n{done.stdout}\n{done.stderr}"
    report: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return report


def test_qt_after_cv2_xvfb(display: str, tmp_path: Path) -> None:
    """The window shows people and obeys its keys, though OpenCV's plug-in path is in the way."""
    # what opencv-python does on import; with it left in place Qt would abort the process
    poison = str(tmp_path / "cv2" / "qt" / "plugins")
    report = opened("keys", tmp_path, DISPLAY=display, QT_QPA_PLATFORM_PLUGIN_PATH=poison)
    assert report["platform"] == "xcb"
    assert report["people"] == 3
    assert report["video"][0] > 1000
    assert report["picture"][0] > 20
    assert report["space"] > 1000
    assert "3 people" in report["status"]
    assert "lag" in report["status"]
    assert report["keys"] == dict.fromkeys(report["keys"], True)
    assert report["closed"]
    sessions = list((tmp_path / "Videos" / "manypose").glob("2*"))
    assert [sorted(f.name for f in s.iterdir()) for s in sessions if s.is_dir()] == [
        ["meta.json", "pose.jsonl", "video.mkv"]
    ]


def test_two_cameras_make_two_panes_with_one_network(display: str, tmp_path: Path) -> None:
    report = opened("two", tmp_path, DISPLAY=display)
    assert report["panes"] == 2
    assert min(report["video"]) > 500
    assert "6 people" in report["status"]


def test_gl_missing_falls_back(tmp_path: Path) -> None:
    report = opened("keys", tmp_path, QT_QPA_PLATFORM="offscreen")
    assert report["view"] == "PaintedView"
    assert any("No OpenGL" in message for message in report["messages"])
    assert report["space"] > 1000
    assert report["keys"] == dict.fromkeys(report["keys"], True)


def test_ctrl_c_closes_the_window(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "signal", str(tmp_path)],
        env=environment(tmp_path, QT_QPA_PLATFORM="offscreen"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert process.returncode in (1, 130, -signal.SIGINT)


@pytest.mark.parametrize("verb", ["live", "play"])
def test_no_display_exit5(verb: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "manypose.app.main", verb],
        env=environment(tmp_path),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 5
    assert done.stderr.strip().splitlines() == [
        "manypose: No display found (DISPLAY is unset). Use --no-gui, or start under xvfb-run."
    ]
