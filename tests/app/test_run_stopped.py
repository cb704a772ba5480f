"""Runs that are stopped, killed or taken up again leave whole files, and lose nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from drawn_engine import drawn_engine
from made_clips import clip

from manypose.app import run as run_module
from manypose.app.formats.reading import load_run

HERE = Path(__file__).resolve().parent
Call = Callable[..., int]


def test_a_stopped_run_goes_on_and_ends_the_same(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(clip(frames=24), "-o", "whole", "--video") == 0
    asked: list[int] = []

    def stopping(*args: object, **options: object) -> object:
        engine = drawn_engine(*args, **options)  # type: ignore[arg-type]
        inner = engine.detector

        def detect(frames: list[object]) -> object:
            asked.extend(f.index for f in frames)  # type: ignore[attr-defined]
            if asked[-1] >= 11 and stop:
                raise KeyboardInterrupt
            return inner(frames)  # type: ignore[arg-type]

        object.__setattr__(engine, "detector", detect)
        return engine

    stop = True
    monkeypatch.setattr(run_module, "load_engine", stopping)
    assert call("clip.mp4", "-o", "parts", "--video") == 130
    part = load_run("parts/clip")
    assert 6 < len(part) <= 12
    assert part.meta["status"] == "interrupted"
    summary = part.meta["summary"]
    assert summary["frames_read"] == summary["frames_reported"] + sum(summary["dropped"].values())
    stop = False
    asked.clear()
    assert call("clip.mp4", "-o", "parts", "--video", "--resume") == 0
    assert min(asked) == len(part)
    for name in ("pose.npz", "pose.csv", "pose.jsonl", "coco.json", "events.jsonl"):
        assert Path("parts/clip", name).read_bytes() == Path("whole/clip", name).read_bytes(), name
    assert not list(Path("parts/clip").glob("*.part"))
    asked.clear()
    assert call("clip.mp4", "-o", "parts", "--video", "--resume") == 0
    assert asked == []


def test_a_journal_of_other_settings_is_not_used(call: Call) -> None:
    assert call(clip(frames=6), "--format", "npz") == 0
    before = load_run("out/clip").meta["key"]
    assert call("clip.mp4", "--format", "npz", "--fov", "70", "--resume") == 0
    assert load_run("out/clip").meta["key"] != before
    assert call("clip.mp4", "--format", "csv", "--fov", "70", "--resume") == 0
    assert Path("out/clip/pose.csv").exists()  # a file more is asked for: not done


def test_a_part_of_a_clip_does_not_count_as_the_whole(call: Call) -> None:
    assert call(clip(), "--format", "npz", "--seconds", "0.2") == 0
    assert len(load_run("out/clip")) == 6
    assert call("clip.mp4", "--format", "npz", "--resume") == 0
    assert len(load_run("out/clip")) == 12


def started(*words: str, pause_s: float = 0.03) -> subprocess.Popen[str]:
    env = {**os.environ, "DRAWN_PAUSE_S": str(pause_s)}
    return subprocess.Popen(
        [sys.executable, str(HERE / "drawn_engine.py"), "run", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
    )  # fmt: skip


def wait_for_lines(path: Path, count: int) -> None:
    deadline = time.monotonic() + 30
    while not path.exists() or path.read_text().count("\n") < count:
        assert time.monotonic() < deadline, f"{path} did not grow"
        time.sleep(0.05)


@pytest.mark.slow
def test_sigint_130_and_valid_files(quiet_home: Path) -> None:
    clip(frames=90)
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        running = started("clip.mp4", "-o", f"out{code}")
        wait_for_lines(Path(f"out{code}/clip/pose.jsonl.part"), 4)
        running.send_signal(number)
        _, err = running.communicate(timeout=30)
        assert running.returncode == code, err
        assert "--resume goes on" in err
        assert "Traceback" not in err
        assert len(load_run(f"out{code}/clip")) >= 4
        json.loads(Path(f"out{code}/clip/coco.json").read_text())


@pytest.mark.slow
def test_killed_recording_readable(quiet_home: Path, call: Call) -> None:
    clip(frames=24)
    running = started("clip.mp4", "-o", "killed")
    wait_for_lines(Path("killed/clip/pose.jsonl.part"), 4)
    running.kill()
    running.communicate(timeout=30)
    assert len(load_run("killed/clip")) >= 4
    assert call("clip.mp4", "-o", "killed") == 2
    assert call("clip.mp4", "-o", "killed", "--resume") == 0
    assert load_run("killed/clip").meta["summary"]["frames_recalled"] >= 4
    assert call("clip.mp4", "-o", "whole") == 0
    for name in ("pose.npz", "pose.csv", "pose.jsonl", "coco.json", "events.jsonl"):
        assert Path("killed/clip", name).read_bytes() == Path("whole/clip", name).read_bytes()


@pytest.mark.slow
def test_broken_pipe_quiet(quiet_home: Path) -> None:
    clip(frames=60)
    running = started("clip.mp4", "-o", "-", pause_s=0.0)
    assert running.stdout is not None
    assert json.loads(running.stdout.readline())["frame"] == 0
    running.stdout.close()
    assert running.stderr is not None
    err = running.stderr.read()
    assert running.wait(30) == 0
    assert "Error" not in err
    running.stderr.close()
