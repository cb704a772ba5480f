"""What is done when a recording is whole: joints smoothed, and drawn as they are then."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from made_clips import clip, cut, picture

from manypose.app import completion, made_people, smoothing
from manypose.app.formats.reading import Run, load_run
from manypose.app.formats.video import OverlayWriter
from manypose.app.main import main
from manypose.app.recording import Recorder
from manypose.calib.camera import Camera
from manypose.pose.records import Frame, FrameResult, TrackedPerson

Call = Callable[..., int]
FILM = Path("out/clip/overlay.mp4")


def drawn(path: Path) -> tuple[list[float], list[np.ndarray]]:
    with av.open(str(path)) as film:
        frames = [(f.time, f.to_ndarray(format="bgr24")) for f in film.decode(video=0)]
    return [float(t or 0) for t, _ in frames], [image for _, image in frames]


def white_at(image: np.ndarray, joints: np.ndarray) -> float:
    """The share of joints (x y confidence) on which there is a white dot."""
    seen = joints[joints[:, 2] > 0, :2].round().astype(int)
    return float(np.mean([image[y, x].min() > 150 for x, y in seen]))


def test_each_picture_shows_the_smoothed_joints_of_its_own_frame(call: Call) -> None:
    stamps = [500, 533, 600, 620, 700, 733, 800, 833, 900, 933, 1000, 1033, 1100, 1200]
    assert call(clip(frames=14, stamps_ms=stamps), "-o", "out", "--video") == 0
    run = load_run("out/clip")
    assert run.meta["smooth"] == "adaptive"
    assert "overlay.mp4" in run.meta["summary"]["outputs"]
    times, images = drawn(FILM)
    np.testing.assert_allclose(times, run.t, atol=1e-3)
    plain = [picture(k, 480, 288)[144:, :100].astype(float) for k in range(14)]
    for k, (image, one) in enumerate(zip(images, run)):
        unlike = [np.abs(image[144:, :100] - p).mean() for p in plain]
        assert int(np.argmin(unlike)) == k
        assert all(white_at(image, p.kp2d) > 0.7 for p in one.persons)


def test_a_film_stopped_while_it_is_drawn_is_drawn_by_resume(
    call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as broken:
        count = itertools.count()

        def stopped(self: OverlayWriter, result: object) -> None:
            if next(count) == 3:
                raise KeyboardInterrupt

        broken.setattr(OverlayWriter, "write", stopped)
        assert call(clip(), "-o", "out", "--video") == 130
    assert sorted(p.name for p in Path("out/clip").glob("*overlay*")) == []
    whole = Path("out/clip/pose.npz").read_bytes()
    assert load_run("out/clip").meta["smooth"] == "adaptive"
    assert call("clip.mp4", "-o", "out", "--video", "--resume") == 0
    assert len(drawn(FILM)[0]) == 12
    assert Path("out/clip/pose.npz").read_bytes() == whole
    assert "starts anew" not in capsys.readouterr().err


def test_where_nothing_is_smoothed_the_film_is_drawn_at_once(call: Call) -> None:
    assert call(clip(), "-o", "out", "--video", "--smooth", "none") == 0
    run = load_run("out/clip")
    for image, one in zip(drawn(FILM)[1], run):
        assert all(white_at(image, p.kp2d) > 0.7 for p in one.persons)


def test_damaged_and_vanished_sources_cost_no_results(
    call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(cut(clip(frames=60, faststart=True), 0.6), "-o", "out", "--video") == 3
    run = load_run("out/clip")
    assert 10 < len(run) < 60
    assert len(drawn(FILM)[0]) == len(run)

    smooth = completion._smoothed

    def gone(*args: object) -> object:
        Path("clip.mp4").unlink()
        return smooth(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(completion, "_smoothed", gone)
    assert call(clip(), "-o", "out", "--video", "--overwrite") == 0
    assert len(load_run("out/clip")) == 12
    assert not FILM.exists()
    assert "overlay.mp4 ends early" in capsys.readouterr().err


def shaken(frames: int = 90) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Twenty joints that stand for two seconds and then leave fast, with noise: px, 30 fps."""
    t = np.arange(frames) / 30
    rng = np.random.default_rng(4)
    start = rng.uniform([200, 100], [300, 400], (20, 2))
    true = np.repeat(start[None], frames, 0)
    true[60:, :, 0] += (np.arange(frames - 60) * 12)[:, None]
    found = np.concatenate([true + rng.normal(0, 3, true.shape), np.full((frames, 20, 1), 0.8)], -1)
    return true, found, np.tile([190.0, 90, 120, 320], (frames, 1)), t


@pytest.mark.parametrize("how", smoothing.METHODS[1:])
def test_joints_in_the_picture_are_calmed_and_follow(how: str) -> None:
    true, found, box, t = shaken()
    calm = smoothing.smooth_pixels(found, box, t, how)

    def jitter(joints: np.ndarray) -> float:
        return float(np.abs(np.diff(joints[5:50, :, :2], n=2, axis=0)).mean())

    assert jitter(calm) < (0.1 if how == "adaptive" else 0.5) * jitter(found)
    error = np.linalg.norm(calm[..., :2] - true, axis=-1)
    assert error[5:50].mean() < 2.5
    assert error[68:85].mean() < 4
    np.testing.assert_array_equal(calm[..., 2], found[..., 2])


def test_only_short_gaps_in_one_place_are_bridged() -> None:
    true, found, box, t = shaken()
    for joint, lost in ((0, slice(20, 22)), (1, slice(20, 26)), (2, slice(20, 22))):
        found[lost, joint] = (np.nan, np.nan, 0)
    found[22:, 2, :2] += 90  # somebody else's
    found[80:, 3] = (np.nan, np.nan, 0)
    calm = smoothing.smooth_pixels(found, box, t, "adaptive")
    assert np.linalg.norm(calm[20:22, 0, :2] - true[20:22, 0], axis=-1).max() < 3
    assert (calm[20:22, 0, 2] == np.float64(0.1)).all()
    for joint, lost in ((1, slice(20, 26)), (2, slice(20, 22)), (3, slice(80, 90))):
        assert np.isnan(calm[lost, joint, :2]).all()
        assert (calm[lost, joint, 2] == 0).all()


def session(folder: str) -> Run:
    """Record a session of forty pictures with one person who trembles, in view from the fifth."""
    rng = np.random.default_rng(0)
    recorder = Recorder(Path(folder), {"source": {"name": "sofa"}})
    body = made_people.walkers(1, 0.1).joints_m[0, 0]
    for k in range(40):
        frame = Frame(picture(k, 480, 288), 7.0 + k / 30, 3 * k, Camera.from_fov(480, 288))
        joints_px = rng.normal([[200.0, 100.0]], 1, (20, 2)) + np.arange(20)[:, None] * 8
        person = TrackedPerson(
            4, 0.9, joints_px, np.full(20, 0.8), body + rng.normal(0, 0.01, 3),
            np.ones(21, np.uint8), np.array([180.0, 90, 60, 180]),
        )  # fmt: skip
        recorder.write(FrameResult(frame, (person,) if k > 4 else (), {"network": 1.0}))
    recorder.close()
    return load_run(folder)


def test_a_session_is_smoothed_afterwards(
    quiet_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = session("kept")
    assert main(["export", "kept", "--to", "trc"]) == 0
    table = Path("kept/person_4.trc").read_bytes()
    assert main(["smooth", "last", "-o", "calm"]) == 0
    after, kept = load_run("calm"), load_run("kept")
    np.testing.assert_array_equal(kept.kp3d, before.kp3d)
    assert main(["smooth", "kept"]) == 0
    for run in (after, load_run("kept")):
        np.testing.assert_array_equal(run.t, before.t)
        np.testing.assert_array_equal(run.frame, before.frame)
        np.testing.assert_array_equal(run.id, before.id)
        for values, old in ((run.kp3d, before.kp3d), (run.kp2d[..., :2], before.kp2d[..., :2])):
            bend = [np.abs(np.diff(x, n=2, axis=0)).mean() for x in (values, old)]
            assert bend[0] < 0.2 * bend[1]
        assert run.meta["smooth"] == "adaptive"
        assert run.meta["source"] == {"name": "sofa"}
    assert Path("kept/video.mkv").exists()
    assert Path("kept/person_4.trc").read_bytes() != table
    capsys.readouterr()
    assert main(["smooth", "kept"]) == 2
    assert "smoothed already" in capsys.readouterr().err
    assert main(["smooth", "nothing"]) == 4


def test_photographs_and_what_is_being_recorded_are_not_smoothed(
    call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(clip(), "-o", "out", "--still") == 0
    assert main(["smooth", "out/clip"]) == 2
    assert "photographs" in capsys.readouterr().err
    session("kept")
    Path("kept/pose.jsonl").rename("kept/pose.jsonl.part")
    assert main(["smooth", "kept"]) == 2
    assert "recorded" in capsys.readouterr().err
