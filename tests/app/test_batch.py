"""Shards read anywhere, workers that die, results equal to those of a plain run."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from drawn_engine import drawn_engine
from made_clips import album, picture, spoil, write_clip
from made_clips import cut as cut_off

from manypose.app import run as run_module
from manypose.app import shards
from manypose.app.batch import Batch
from manypose.app.config import Config, FilterConfig, set_value
from manypose.app.crew import Alone, make_crew
from manypose.app.formats.reading import load_run
from manypose.app.inputs import plan
from manypose.app.main import main
from manypose.app.shards import cut, frames_of, key_frames
from manypose.app.sources import open_source
from manypose.errors import DeviceError, UsageError

HERE = Path(__file__).resolve().parent
FILES = ("pose.npz", "pose.csv", "pose.jsonl", "coco.json", "events.jsonl", "rotations.npz")


def encoded(path: Path, codec: str, options: dict[str, str], stamps: Any = None) -> Path:
    """Write 60 pictures with an encoder's own options."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.options = options
        stream.codec_context.time_base = Fraction(1, 30)
        for i in range(60):
            frame = av.VideoFrame.from_ndarray(picture(i), format="bgr24")
            frame.pts, frame.time_base = i, Fraction(1, 30)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def facts(frames: Any) -> list[tuple[int, float, int]]:
    return [(f.index, f.time_s, hash(f.image.tobytes())) for f in frames]


@pytest.mark.parametrize(
    ("name", "codec", "options", "pieces"),
    [
        ("b.mp4", "libx264", {"g": "12", "bf": "3"}, 3),
        ("open.mp4", "libx264", {"g": "12", "bf": "3", "x264-params": "open-gop=1"}, 3),
        ("b.ts", "libx264", {"g": "12", "bf": "2"}, 3),
        ("refresh.ts", "libx264", {"g": "12", "x264-params": "intra-refresh=1"}, 1),
        ("v.webm", "libvpx", {"g": "12", "deadline": "realtime"}, 3),
        ("m.avi", "mpeg4", {"g": "12", "bf": "2"}, 3),
        ("raw.h264", "libx264", {"g": "12"}, 1),
    ],
)
def test_shards_give_the_frames_of_the_whole(
    tmp_path: Path, name: str, codec: str, options: dict[str, str], pieces: int
) -> None:
    path = encoded(tmp_path / name, codec, options)
    whole = facts(open_source(str(path), Config()))
    assert len(whole) == 60
    found = cut(0, open_source(str(path), Config()), 20)
    assert len(found) == pieces
    assert [f for s in reversed(found) for f in facts(frames_of(s, Config()))] == [
        f for s in reversed(found) for f in whole[s.first :][: s.count]
    ]


def test_shards_of_a_phones_video_are_upright_and_keep_true_times(tmp_path: Path) -> None:
    stamps = list(np.cumsum(np.random.default_rng(0).integers(20, 90, 60)))
    path = write_clip(tmp_path / "vfr.mp4", 60, stamps_ms=[int(s) for s in stamps], offset_s=1.5)
    config = set_value(Config(), "source.rotate", "90", "test")
    whole = facts(open_source(str(path), config))
    found = cut(0, open_source(str(path), config), 20)
    assert len(found) > 1
    assert [f for s in found for f in facts(frames_of(s, config))] == whole


def test_pictures_are_cut_anywhere(tmp_path: Path) -> None:
    for k in range(7):
        cv2.imwrite(str(tmp_path / f"{k}.png"), picture(k))
    (tmp_path / "3.png").write_bytes(b"not a picture")
    found = cut(0, open_source(str(tmp_path), Config()), 3)
    assert [(s.first, s.count) for s in found] == [(0, 3), (3, 3), (6, None)]
    whole = facts(open_source(str(tmp_path), Config()))
    assert [f for s in found for f in facts(frames_of(s, Config()))] == whole


def test_what_packets_do_not_tell_is_not_cut(tmp_path: Path) -> None:
    damaged = cut_off(write_clip(tmp_path / "cut.mp4", 60, faststart=True), 0.6)
    assert len(cut(0, open_source(str(damaged), Config()), 20)) == 1
    assert key_frames(encoded(tmp_path / "raw.h264", "libx264", {"g": "12"})) == []


@pytest.fixture
def work(quiet_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(run_module, "load_engine", drawn_engine)
    monkeypatch.setattr(shards, "FRAMES", 20)
    Path("in").mkdir()
    write_clip(Path("in/a.mp4"), 44, size=(480, 288))
    write_clip(Path("in/b.mp4"), 16, size=(480, 288))
    spoil(write_clip(Path("in/spoilt.mp4"), 30, faststart=True, size=(480, 288)), 8000)
    Path("in/text.mp4").write_text("no video")
    return quiet_home


def test_a_batch_of_one_worker_equals_the_plain_run(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "in", "-o", "plain"]) == 3
    plain = capsys.readouterr().err
    assert main(["run", "in", "-o", "batch", "--batch", "--workers", "1"]) == 3
    batch = capsys.readouterr().err
    for name in ("a", "b", "spoilt"):
        for file in FILES:
            assert Path("batch", name, file).read_bytes() == Path("plain", name, file).read_bytes()
        assert not list(Path("batch", name).glob("*.part"))
    assert "text.mp4" in batch
    assert batch.count("damaged") == plain.count("damaged")
    summary = (Path("batch/a/meta.json")).read_text()
    assert '"frames_recalled": 44' in summary
    # done before, resumed, and told to begin again
    assert main(["run", "in/a.mp4", "-o", "batch", "--batch", "--workers", "1"]) == 2
    assert main(["run", "in/a.mp4", "-o", "batch", "--batch", "--workers", "1", "--resume"]) == 0
    words = ["run", "in/a.mp4", "-o", "batch", "--batch", "--workers", "1", "--overwrite"]
    assert main(words) == 0
    assert Path("batch/a/pose.npz").read_bytes() == Path("plain/a/pose.npz").read_bytes()


@pytest.mark.parametrize("first", ["album", "a.mp4"])
def test_photographs_among_videos_are_found_as_without_a_batch(work: Path, first: str) -> None:
    album(Path("in/album"))
    inputs = sorted(("in/album", "in/a.mp4"), key=lambda name: first not in name)
    assert main(["run", *inputs, "-o", "plain"]) == 0
    assert main(["run", *inputs, "-o", "batch", "--batch", "--workers", "1"]) == 0
    recalled = []
    for name in ("album", "a"):
        for file in FILES:
            assert Path("batch", name, file).read_bytes() == Path("plain", name, file).read_bytes()
        recalled.append(load_run(f"batch/{name}").meta["summary"]["frames_recalled"])
    # the crew is for what comes first
    assert recalled == ([2, 0] if first == "album" else [0, 44])


class Half(Alone):
    """A crew that does not manage every second shard."""

    def work(self, shards: Any) -> Any:
        for k, (shard, found) in enumerate(super().work(shards)):
            yield shard, None if k % 2 else found


def test_what_no_worker_managed_is_done_by_the_run(work: Path) -> None:
    from manypose.app.process import Job, process

    assert main(["run", "in/a.mp4", "-o", "plain", "--smooth", "none"]) == 0
    config = Config(filter=FilterConfig(smooth="none"))
    inputs = plan(["in/a.mp4"], Path("half"))
    batch = Batch(
        Half(drawn_engine, config), drawn_engine, config, still=False, resume=False, frames=20
    )
    try:
        for one in batch.ready(inputs):
            job = Job(one.address, one.folder, config, resume=True)
            summary = process(job, open_source(one.address, config), batch.engine)
    finally:
        batch.close()
    assert 0 < summary.frames_recalled < 44
    for file in FILES:
        assert Path("half/a", file).read_bytes() == Path("plain/a", file).read_bytes()


def test_a_batch_that_was_stopped_goes_on(work: Path) -> None:
    config = Config()
    crew = Alone(drawn_engine, config)
    batch = Batch(crew, drawn_engine, config, still=False, resume=False, frames=12)
    shard_count = 0
    original = crew.work

    def stopping(shards: Any) -> Any:
        nonlocal shard_count
        for done in original(shards):
            shard_count += 1
            yield done
            if shard_count == 2:
                raise KeyboardInterrupt

    crew.work = stopping  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        list(batch.ready(plan(["in/a.mp4"], Path("out"))))
    batch.close()
    assert main(["run", "in/a.mp4", "-o", "plain"]) == 0
    words = ["run", "in/a.mp4", "-o", "out", "--batch", "--workers", "1", "--resume"]
    assert main(words) == 0
    for file in FILES:
        assert Path("out/a", file).read_bytes() == Path("plain/a", file).read_bytes()


def test_wrong_use_is_said(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--workers", "2"], ["--batch", "--seconds", "3"], ["--batch", "--workers=-1"]):
        assert main(["run", "in/a.mp4", *words]) == 2
        assert "--batch" in capsys.readouterr().err or "--workers" in words[-1]
    with pytest.raises(UsageError, match="files"):
        cut(0, type("Camera", (), {"live": True, "info": open_source("in/a.mp4", Config()).info})())  # type: ignore[arg-type]


def test_without_ray_the_remedy_is_said(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DeviceError, match=r"pip install 'manypose\[batch\]'"):
        make_crew(drawn_engine, Config(), 2)


_DYING = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {here!r})
import drawn_engine
from manypose.app import pipeline, shards

def engine(config, *, still=False, batch=1):
    made = drawn_engine.drawn_engine(config, still=still, batch=batch)
    inner = made.detector
    def detector(frames):
        mark = Path({mark!r})
        if frames[0].index >= 30 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(frames)
    object.__setattr__(made, "detector", detector)
    return made

if __name__ == "__main__":
    shards.FRAMES = 20
    pipeline.load_engine = engine
    from manypose.app.main import main
    sys.exit(main())
"""


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(work: Path) -> None:
    pytest.importorskip("ray")
    Path("dying.py").write_text(_DYING.format(here=str(HERE), mark=str(work / "died")))
    assert main(["run", "in", "-o", "plain"]) == 3
    env = {**os.environ, "PYTHONPATH": f"{HERE.parents[1]}{os.pathsep}{HERE}"}
    done = subprocess.run(
        [sys.executable, "dying.py", "run", "in", "-o", "batch", "--batch", "--workers", "2"],
        capture_output=True, text=True, env=env, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert Path("died").exists()
    for name in ("a", "b", "spoilt"):
        for file in FILES:
            assert Path("batch", name, file).read_bytes() == Path("plain", name, file).read_bytes()
