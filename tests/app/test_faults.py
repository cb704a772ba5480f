"""What goes wrong in use, done to the real program: nothing is lost, nothing hangs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from drawn_engine import drawn_engine, find, lift
from made_clips import write_clip

from manypose.app import run as run_module
from manypose.app.formats.reading import load_run
from manypose.app.main import main
from manypose.app.pipeline import Engine
from manypose.pose.detector import Detector
from manypose.pose.records import Found2D, Person2D

HERE = Path(__file__).resolve().parent
pytestmark = pytest.mark.slow


def start(*words: str, before: str = "") -> subprocess.Popen[str]:
    """Start the program with the drawn engine, after `before`."""
    code = (
        f"import runpy, sys\n{before}\nsys.argv = ['manypose', *{list(words)!r}]\n"
        f"runpy.run_path({str(HERE / 'drawn_engine.py')!r}, run_name='__main__')"
    )
    env = {**os.environ, "PYTHONPATH": f"{HERE.parents[1]}{os.pathsep}{HERE}"}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=env,
    )  # fmt: skip


def clip(frames: int = 300) -> str:
    return str(write_clip(Path("clip.mp4"), frames, size=(480, 288)))


def lines_in(folder: str, count: int) -> None:
    path = Path(folder, "pose.jsonl.part")
    deadline = time.monotonic() + 40
    while not path.exists() or path.read_text().count("\n") < count:
        assert time.monotonic() < deadline, f"{path} does not grow"
        time.sleep(0.05)


def test_a_killed_session_is_readable(quiet_home: Path) -> None:
    running = start("live", clip(), "--no-gui", "--format", "none", "--record", "kept", "--loop")
    lines_in("kept", 60)
    running.kill()
    running.communicate(timeout=20)
    run = load_run("kept")
    assert len(run) >= 60
    with av.open("kept/video.mkv") as container:
        pictures = sum(1 for _ in container.decode(video=0))
    assert pictures >= len(run) - 35  # a second of pictures at most


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_service_told_to_end_leaves_whole_files(quiet_home: Path, number: int, code: int) -> None:
    running = start("live", clip(), "--no-gui", "--format", "none", "--record", "kept", "--loop")
    lines_in("kept", 10)
    running.send_signal(number)
    _, err = running.communicate(timeout=20)
    assert running.returncode == code, err
    assert "Traceback" not in err
    assert json.loads(Path("kept/meta.json").read_text())["status"] == "ok"
    assert not list(Path("kept").glob("*.part"))


FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))"


def test_a_recording_on_a_full_disk_ends_and_the_service_goes_on(quiet_home: Path) -> None:
    running = start(
        "live", clip(), "--no-gui", "--record", "kept", "--duration", "8", "--loop", before=FULL
    )
    out, err = running.communicate(timeout=60)
    assert "Traceback" not in err
    assert "recording stopped" in err
    assert running.returncode in (0, 5), err
    assert out.count("\n") > 20  # results still came


def test_a_run_on_a_full_disk_says_so_and_goes_on_later(quiet_home: Path) -> None:
    running = start("run", clip(90), "-o", "out", "-q", before=FULL)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 5, err
    assert "Traceback" not in err
    assert "cannot be written" in err
    for words in (("out", "--resume"), ("whole",)):
        again = start("run", "clip.mp4", "-q", "-o", *words)
        assert again.wait(60) == 0
        again.communicate()
    for name in ("pose.npz", "pose.csv", "pose.jsonl"):
        assert Path("out/clip", name).read_bytes() == Path("whole/clip", name).read_bytes()


def test_a_network_that_answers_nan_finds_nobody_there(
    quiet_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ill(frames: list[object]) -> list[Found2D]:
        found = find(frames)  # type: ignore[arg-type]
        for k, frame in enumerate(frames):
            if frame.index % 5 == 0:  # type: ignore[attr-defined]
                people = [
                    Person2D(p.joints_px * np.nan, p.confidence, p.score) for p in found[k].people
                ]
                found[k] = Found2D(tuple(people), {})
        return found

    def engine(*args: object, **options: object) -> Engine:
        made = drawn_engine(*args, **options)  # type: ignore[arg-type]
        return Engine(Detector(ill, lift), made.follower_config, made.info, made.batch)  # type: ignore[arg-type]

    monkeypatch.setattr(run_module, "load_engine", engine)
    with np.errstate(all="ignore"):
        assert main(["run", clip(30), "-q", "--format", "npz,jsonl"]) == 0
    run = load_run("out/clip")
    assert len(run) == 30
    assert np.isfinite(run.kp3d[run.state > 0]).all()


@pytest.mark.parametrize("kind", ["udp", "websocket"])
def test_a_stalled_receiver_holds_nobody_up(quiet_home: Path, kind: str) -> None:
    client = pytest.importorskip("websockets.sync.client")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    running = start(
        "live", clip(150), "--no-gui", "--format", "none", f"--{kind}", str(port), "--loop",
        "--duration", "5", "--record", "kept",
    )  # fmt: skip
    if kind == "udp":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
            deaf.bind(("127.0.0.1", port))
            _, err = running.communicate(timeout=40)
    else:
        deadline = time.monotonic() + 20
        while True:
            try:
                with client.connect(f"ws://127.0.0.1:{port}", max_queue=1) as connection:
                    _, err = running.communicate(timeout=40)  # it never reads
                    connection.socket.close()
                break
            except OSError:
                assert running.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
    assert running.returncode == 0, err
    assert "Traceback" not in err
    run = load_run("kept")
    assert len(run) > 20


def test_mutated_inputs_are_read_or_refused(quiet_home: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--count", "40"], capture_output=True, text=True,
        env=env, timeout=300, check=False, cwd=HERE.parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-500:]
