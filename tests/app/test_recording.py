from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from manypose.app.formats.reading import load_run
from manypose.app.recording import Recorder, session_name
from manypose.app.replay import Replay, pictures_of
from manypose.calib.camera import Camera
from manypose.errors import OutputError
from manypose.pose.joints import JOINTS, JOINTS_2D
from manypose.pose.records import Frame, FrameResult, TrackedPerson


def result(k: int, people: int = 1) -> FrameResult:
    """Return frame k at 25 Hz; a bright column of its picture tells its number."""
    image = np.full((90, 120, 3), 40, np.uint8)
    image[:, 3 * k : 3 * k + 3] = 230
    frame = Frame(image, 1000.0 + k / 25, 3 * k, Camera.from_fov(120, 90))
    px = np.full((len(JOINTS_2D), 2), 10.0 + k)
    joints = np.full((len(JOINTS), 3), 3.0)
    joints[0] = np.nan
    state = np.ones(len(JOINTS), np.uint8)
    body = [
        TrackedPerson(7 + p, 0.9, px, np.full(len(px), 0.8), joints, state, np.zeros(4))
        for p in range(people)
    ]
    return FrameResult(frame, tuple(body), {"network": 1.0})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home" / "data"))
    return tmp_path


@pytest.fixture
def session(home: Path) -> Path:
    recorder = Recorder(home / "session", {"source": {"name": "sofa"}})
    for k in range(40):
        recorder.write(result(k, people=k % 3))
    recorder.close()
    return home / "session"


def test_a_session_is_read_back_whole(session: Path) -> None:
    run = load_run(session)
    assert len(run) == 40
    np.testing.assert_allclose(run.t, np.arange(40) / 25, atol=1e-6)
    np.testing.assert_array_equal(run.frame, np.arange(40))
    assert np.isnan(run.kp3d[:, 0]).all()
    meta = json.loads((session / "meta.json").read_text("utf-8"))
    assert meta["status"] == "ok"
    assert meta["frames"] == 40
    assert meta["source"]["name"] == "sofa"
    assert not list(session.glob("*.part"))


def test_pictures_and_people_stay_together_in_both_directions(session: Path) -> None:
    run = load_run(session)
    film = pictures_of(run)
    assert film is not None
    try:
        for k in (0, 1, 2, 30, 31, 5, 39, 0):
            image = film.at(float(run.t[k]), k)
            assert image is not None
            assert int(image.mean((0, 2)).argmax()) // 3 == k
    finally:
        film.close()


def settled(replay: Replay, index: int) -> int:
    """Return the people's x in the view once frame `index` is shown."""
    deadline = time.perf_counter() + 5
    while time.perf_counter() < deadline:
        view = replay.views()[0]
        if abs(view.time_s - index / 25) < 1e-3 and view.serial:
            return round(float(view.people[0].joints_px[0, 0])) if view.people else -1
        time.sleep(0.005)
    raise AssertionError(f"frame {index} does not appear")


@pytest.mark.parametrize("with_video", [True, False])
def test_a_replay_steps_seeks_and_stops(session: Path, with_video: bool) -> None:
    if not with_video:
        (session / "video.mkv").unlink()
    replay = Replay(load_run(session))
    try:
        replay.set_paused(True)
        replay.seek(10 / 25)
        assert settled(replay, 10) == 20
        replay.step(1)
        assert settled(replay, 11) == 21
        replay.step(-3)
        assert settled(replay, 8) == 18
        view = replay.views()[0]
        assert (view.image is not None) == with_video
        assert view.camera is not None
        assert ("3D only" in replay.status().text) != with_video
        replay.set_speed(4.0)
        replay.set_paused(False)
        deadline = time.perf_counter() + 5
        while not replay.paused() and time.perf_counter() < deadline:
            replay.views()
            time.sleep(0.01)
        assert replay.position_s() == replay.length_s
        replay.set_paused(False)
        assert replay.position_s() < 0.5
    finally:
        replay.close()


def test_the_newest_session_is_what_play_last_means(session: Path) -> None:
    from manypose.app.remembered import last_run

    assert last_run() == session.resolve()


def test_a_folder_with_other_things_in_it_is_refused(home: Path) -> None:
    (home / "full").mkdir()
    (home / "full" / "thesis.txt").write_text("dear", "utf-8")
    with pytest.raises(OutputError, match="not empty"):
        Recorder(home / "full", {})


def test_a_session_name_is_a_folder_name() -> None:
    assert session_name("rtsp://cam/1?x").endswith("_rtsp___cam_1_x")


_FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from manypose.app.recording import Recorder
from manypose.calib.camera import Camera
from manypose.errors import OutputError
from manypose.pose.records import Frame, FrameResult
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
recorder = Recorder(Path(sys.argv[1]), {})
noise = np.random.default_rng(0)
for k in range(80):
    image = noise.integers(0, 255, (240, 320, 3), dtype=np.uint8)
    recorder.write(FrameResult(Frame(image, k / 30, k, Camera.from_fov(320, 240)), ()))
try:
    recorder.close()
except OutputError:
    sys.exit(5)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of Linux")
def test_a_video_that_fills_the_disk_leaves_the_poses(home: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(home / "full disk")], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(root)}, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 5, done.stderr
    assert "Traceback" not in done.stderr
    assert len(load_run(home / "full disk")) > 5
    meta = json.loads((home / "full disk" / "meta.json").read_text("utf-8"))
    assert meta["status"] == "partial"


_KILLED = """
import sys, time, importlib.util
from pathlib import Path
spec = importlib.util.spec_from_file_location("t", sys.argv[1])
t = importlib.util.module_from_spec(spec); spec.loader.exec_module(t)
from manypose.app.recording import Recorder
recorder = Recorder(Path(sys.argv[2]), {})
for k in range(10**6):
    recorder.write(t.result(k % 40) if k < 40 else t.moved(k))
    time.sleep(0.005)
    if k == 100:
        sys.stdout.write("now\\n"); sys.stdout.flush()
"""


def moved(k: int) -> FrameResult:
    """Return a later frame of the same kind."""
    early = result(k % 40)
    frame = Frame(early.frame.image, 1000.0 + k / 25, k, early.frame.camera)
    return FrameResult(frame, early.people)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_killed_recording_readable(home: Path) -> None:
    av = pytest.importorskip("av")
    folder = home / "killed"
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, __file__, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "now"
    process.kill()
    process.communicate()
    run = load_run(folder)
    assert len(run) > 60
    with av.open(str(folder / "video.mkv")) as container:
        frames = sum(1 for _ in container.decode(video=0))
    # a second of video at most is lost; every written line stays
    assert frames >= len(run) - 35
    assert json.loads((folder / "meta.json").read_text("utf-8"))["status"] == "recording"
