"""What a run says of itself on stderr while it goes on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest

from manypose.app.health import memory_mb
from manypose.app.process import Tally
from manypose.app.progress import Lines
from manypose.app.sources import Counts, LiveSource, SourceInfo
from manypose.calib.camera import Camera
from manypose.pose.records import Frame, FrameResult

CAMERA = Camera.from_fov(64, 48)


def stream(count: int) -> LiveSource:
    """Return a live source that gives so many pictures and then looks for its camera."""

    def frames(live: LiveSource) -> Iterator[Frame]:
        for index in range(count):
            yield Frame(np.zeros((48, 64, 3), np.uint8), time.perf_counter(), index, CAMERA)
            time.sleep(0.01)
        live.trouble = "source lost (it ended), retry 1 in 0.5 s"
        live.stopping.wait()

    return LiveSource(SourceInfo("stream", "rtsp://cam", "cam"), frames, Counts())


def follow(source: LiveSource, lines: Lines, count: int) -> None:
    tally = Tally()
    for _ in range(count):
        frame = source.latest(2.0)
        assert frame is not None
        tally.captured_s = tally.captured_s or frame.time_s
        told = Frame(frame.image, frame.time_s - tally.captured_s, frame.index, CAMERA)
        tally.add(FrameResult(told, ()), recalled=False)
        lines.step(FrameResult(told, ()), tally, source)


def test_a_source_that_has_fallen_silent_still_has_a_line_of_health(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with stream(5) as source, Lines("plain", every_s=0.1) as lines:
        assert isinstance(source, LiveSource)
        lines.start("cam", 1, 1)
        follow(source, lines, 5)
        time.sleep(0.45)
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert len(told) >= 3
    (last,) = told[-1]["sources"]
    assert told[-1]["schema"] == "manypose-health/1"
    assert last["state"].startswith("source lost")
    assert last["silent_s"] > 0.2
    assert last["read"] == last["processed"] + sum(last["dropped"].values()) == 5


@pytest.mark.parametrize("style", ["none", "plain"])
def test_nothing_is_said_without_an_open_source(
    style: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Lines(style, every_s=0.02) as lines:
        lines.start("clip", 1, 1)
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(memory_mb() is None, reason="the system does not tell a process's memory")
def test_memory_counts_the_processes_that_were_begun() -> None:
    before = memory_mb()
    hold = "import sys; x = b'1' * 50_000_000; print(1, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.read(1)
        with_child = memory_mb()
        child.communicate()
    assert before is not None
    assert with_child is not None
    assert with_child - before > 50


def test_the_smoothing_of_a_recording_counts_from_the_beginning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for style in ("plain", "json"):
        with (
            LiveSource(
                SourceInfo("film", "film.mp4", "file"), lambda live: iter(()), Counts()
            ) as film,
            Lines(style, every_s=0.05) as lines,
        ):
            film.live = False
            lines.start("film", 1, 1)
            tally = Tally()
            frame = Frame(np.zeros((48, 64, 3), np.uint8), 0.0, 0, CAMERA)
            tally.add(FrameResult(frame, ()), recalled=False)
            lines.step(FrameResult(frame, ()), tally, film)
            for done in (0, 30, 60):
                lines.afterwards("smoothing", done, 90)
                time.sleep(0.15)
        told = capsys.readouterr().err
        assert ("film, smoothing: 60 of 90 frames" in told) == (style == "plain")
        assert ('"event": "smoothing"' in told) == (style == "json")
