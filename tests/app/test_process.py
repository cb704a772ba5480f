from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from drawn_engine import drawn_engine, find, lift

from manypose.app.config import Config, OutputConfig
from manypose.app.health import memory_mb
from manypose.app.pipeline import Engine, follower_config
from manypose.app.process import Job, Summary, Tally, process
from manypose.app.sources import Counts, LiveSource, Source, SourceInfo
from manypose.calib.camera import Camera
from manypose.errors import DeviceError, OutputError, SourceError
from manypose.pose.detector import Detector
from manypose.pose.records import Found2D, Frame, FrameResult

CAMERA = Camera.from_fov(480, 288)


class Made:
    """A recorded source of blank frames."""

    live = False

    def __init__(self, count: int, fails_at: int | None = None) -> None:
        self.info = SourceInfo("video", "made", "made", fps=30.0, frames=count)
        self.counts = Counts()
        self.warnings: list[str] = []
        self.partial = False
        self._count, self._fails_at = count, fails_at

    def __iter__(self) -> Iterator[Frame]:
        for i in range(self._count):
            if i == self._fails_at:
                raise SourceError("made: the cable was pulled")
            self.counts.read += 1
            yield Frame(np.zeros((288, 480, 3), np.uint8), i / 30, i, CAMERA)

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass


def job(folder: Path, **options: object) -> Job:
    config = Config(output=OutputConfig(formats=("npz", "jsonl")))
    return Job("made", folder, config, **options)  # type: ignore[arg-type]


def adds_up(summary: Summary) -> bool:
    spent = summary.frames_reported + summary.undecodable + sum(summary.dropped.values())
    return summary.frames_read == spent


@pytest.mark.slow
@pytest.mark.skipif(memory_mb() is None, reason="the system does not tell a process's memory")
def test_memory_slope(tmp_path: Path) -> None:
    """A long recorded source in front of a slow consumer: memory stays flat."""
    marks: dict[int, float] = {}

    def look(result: FrameResult, tally: Tally, source: Source) -> None:
        if tally.processed in (500, 3000):
            marks[tally.processed] = memory_mb() or 0.0

    nobody = Detector(lambda frames: [Found2D(()) for _ in frames], lift)
    engine = Engine(nobody, follower_config(Config()))
    summary = process(job(tmp_path / "long", on_result=look), Made(3000), engine)
    assert adds_up(summary)
    assert summary.frames_reported == 3000
    assert marks[3000] - marks[500] < 20


def test_a_source_that_fails_leaves_what_was_got(tmp_path: Path) -> None:
    summary = process(job(tmp_path / "cut"), Made(20, fails_at=9), drawn_engine(Config()))
    assert (summary.status, summary.exit_code) == ("failed", 4)
    assert "cable" in summary.error
    assert summary.frames_reported == 9
    assert adds_up(summary)
    with np.load(tmp_path / "cut/pose.npz") as data:
        assert len(data["t"]) == 9


def test_a_source_without_frames_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        process(job(tmp_path / "none"), Made(0), drawn_engine(Config()))
    assert not (tmp_path / "none").exists()


def test_a_network_that_raises_ends_the_run_with_valid_files(tmp_path: Path) -> None:
    def failing(frames: list[Frame]) -> list[Found2D]:
        if frames[0].index == 7:
            raise DeviceError("the GPU has gone; use --device cpu")
        return find(frames)

    engine = Engine(Detector(failing, lift), follower_config(Config()))  # type: ignore[arg-type]
    summary = process(job(tmp_path / "gone"), Made(20), engine)
    assert (summary.status, summary.exit_code) == ("failed", 5)
    assert adds_up(summary)
    again = process(job(tmp_path / "gone", resume=True), Made(20), drawn_engine(Config()))
    assert again.status == "ok"
    assert again.frames_reported == 20


def test_a_disk_that_fills_up_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from manypose.app.formats import jsonl

    def full(self: object, result: FrameResult) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jsonl.JsonlWriter, "write", full)
    with pytest.raises(OutputError, match="disk is full"):
        process(job(tmp_path / "full"), Made(100), drawn_engine(Config()))
    monkeypatch.undo()
    summary = process(job(tmp_path / "full", resume=True), Made(100), drawn_engine(Config()))
    assert summary.status == "ok"


def test_a_live_source_adds_up_and_starts_at_zero(tmp_path: Path) -> None:
    def frames(live: LiveSource) -> Iterator[Frame]:
        for i in range(60):
            if i not in (20, 21):  # the camera itself lost two
                yield Frame(np.zeros((288, 480, 3), np.uint8), 1000.0 + i / 30, i, CAMERA)
            live.stopping.wait(0.004)

    source = LiveSource(SourceInfo("camera", "camera:0", "made", fps=30.0), frames, Counts())
    summary = process(job(tmp_path / "live"), source, drawn_engine(Config()))
    assert summary.status == "ok"
    assert adds_up(summary)
    assert summary.frames_read == 60
    assert summary.dropped["source"] == 2
    with np.load(tmp_path / "live/pose.npz") as data:
        assert data["t"][0] == 0.0
        assert data["t"][-1] < 2.1
        assert np.all(np.diff(data["t"]) > 0)


def test_a_limit_of_seconds_stops_in_time(tmp_path: Path) -> None:
    summary = process(job(tmp_path / "short", seconds_max=0.3), Made(100), drawn_engine(Config()))
    assert summary.frames_reported == 9
    assert adds_up(summary)


def test_the_input_sizes_that_follow_a_rate_are_counted(tmp_path: Path) -> None:
    class Falling:
        """A network that takes a smaller input from its fourth call on."""

        calls = 0

        def __call__(self, frames: Sequence[Frame]) -> list[Found2D]:
            self.calls += len(frames)
            return find(frames)

        @property
        def input_size(self) -> tuple[int, int]:
            return (384, 240) if self.calls < 4 else (256, 176)

    network = Falling()
    engine = dataclasses.replace(drawn_engine(Config()), adaptive=network)
    engine = dataclasses.replace(engine, detector=Detector(network, lift))
    seen = []
    one = job(tmp_path / "run", on_result=lambda _, tally, __: seen.append(tally.input_size))
    summary = process(one, Made(12), engine)
    assert set(summary.input_sizes) == {"384x240", "256x176"}
    assert sum(summary.input_sizes.values()) == 12
    assert seen[-1] == (256, 176)
    meta = json.loads((tmp_path / "run" / "meta.json").read_text("utf-8"))
    assert meta["summary"]["input_sizes"] == dict(summary.input_sizes)
