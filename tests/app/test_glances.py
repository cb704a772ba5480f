from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from drawn_engine import find, lift, truth

from manypose.app.flow import detected
from manypose.app.glances import MOST, Glances, found_in
from manypose.app.pipeline import Engine
from manypose.calib.camera import Camera
from manypose.pose.detector import Detector
from manypose.pose.estimator import FollowerConfig
from manypose.pose.joints import JOINTS_2D
from manypose.pose.records import Detections, Found2D, Frame, FrameResult, Person2D

CAMERA = Camera.from_fov(480, 288)
FRAMES = 40


def person(index: int, number: int) -> Person2D:
    px = CAMERA.camera_to_image(truth(index, number)[0])
    return Person2D(px, np.full(len(JOINTS_2D), 0.9), 0.9)


class Scene:
    """Two people, of whom the second is out of sight from a frame on, and who asked for them."""

    def __init__(self, gone: int = FRAMES, pause_s: float = 0.0) -> None:
        self.gone, self.pause_s = gone, pause_s
        self.whole: list[int] = []
        self.looks: list[int] = []

    def find(self, frames: Sequence[Frame]) -> list[Found2D]:
        self.whole += [f.index for f in frames]
        return [
            Found2D(f2.people[: 2 if f.index < self.gone else 1], f2.stage_ms)
            for f, f2 in zip(frames, find(frames))
        ]

    def look(
        self, frame: Frame, people: Sequence[Person2D], others: Sequence[Person2D]
    ) -> list[Person2D | None]:
        self.looks.append(frame.index)
        there = [person(frame.index, k) for k in range(2 if frame.index < self.gone else 1)]
        near = [[np.nanmean(np.abs(p.joints_px - q.joints_px)) for q in there] for p in people]
        return [there[int(np.argmin(row))] if min(row) < 15 else None for row in near]

    def engine(self, between: int) -> Engine:
        return Engine(Detector(self.find, lift), FollowerConfig(), lift=lift, look=self.look,
                      between=between)  # fmt: skip


def frames(taken: list[int] | None = None, fps: float = 30.0) -> Iterator[Frame]:
    for i in range(FRAMES):
        if taken is not None:
            taken.append(i)
        yield Frame(np.zeros((288, 480, 3), np.uint8), 1 + i / fps, i, CAMERA)


def followed(scene: Scene, between: int, fps: float = 30.0) -> list[FrameResult]:
    engine = scene.engine(between)
    follower = engine.follower()
    flow = detected(frames(fps=fps), engine, live=True, glances=engine.glances(follower))
    return [follower(found) for found, _ in flow]


@pytest.mark.parametrize("between", [1, 2, 5])
def test_people_stay_who_they_are_while_few_frames_are_seen_as_a_whole(between: int) -> None:
    scene = Scene()
    results = followed(scene, between)
    assert [r.frame.index for r in results] == list(range(FRAMES))
    assert all([p.track_id for p in r.people] == [0, 1] for r in results[5:])
    assert len(scene.whole) < 6 + FRAMES / (between + 1)
    assert set(scene.whole) | set(scene.looks) == set(range(FRAMES))
    for result in results[5:]:
        for k, found in enumerate(result.people):
            off_px = found.joints_px - person(result.frame.index, k).joints_px
            assert np.nanmax(np.abs(off_px)) < 6


def test_without_glances_every_frame_is_seen_as_a_whole() -> None:
    scene = Scene()
    followed(scene, 0)
    assert scene.whole == list(range(FRAMES))


@pytest.mark.parametrize(("fps", "all_of_them"), [(10, False), (5, True), (1, True)])
def test_after_a_pause_a_frame_is_seen_as_a_whole(fps: float, all_of_them: bool) -> None:
    scene = Scene()
    followed(scene, 2, fps)
    assert (scene.whole == list(range(FRAMES))) == all_of_them


def test_a_frame_is_seen_as_a_whole_when_somebody_is_lost() -> None:
    scene = Scene(gone=20)
    results = followed(scene, 8)
    first = next(r for r in results if r.frame.index > 19 and r.frame.index in scene.whole)
    assert first.frame.index <= 22
    assert [p.track_id for p in results[-1].people] == [0]


def test_of_many_people_nobody_is_looked_at_alone() -> None:
    def crowd(frames: Sequence[Frame]) -> list[Found2D]:
        return [Found2D(tuple(person(60 * k - 60, 0) for k in range(MOST + 1)), {}) for _ in frames]

    scene = Scene()
    engine = Engine(Detector(crowd, lift), FollowerConfig(), lift=lift, look=scene.look, between=2)
    follower = engine.follower()
    glances = engine.glances(follower)
    assert glances is not None
    for frame in frames():
        assert glances.instead(frame) is None
        assert len(follower(engine.detector([frame])[0]).people) in (0, MOST + 1)
    assert follower.settled == MOST + 1


def test_pictures_of_several_sources_keep_their_order() -> None:
    scene = Scene()
    engine = scene.engine(2)
    follower = engine.follower()
    glances = Glances(follower, 2)
    for frame in list(frames())[:6]:
        follower(engine.detector([frame])[0])
    assert glances.instead(frame) is None  # how long it was since the one before is not known
    some = list(frames())[6:8]
    lanes = [(glances, some[0]), (None, some[1])]
    detections, answers = found_in(lanes, engine.detector)
    assert [d.frame.index for d in detections] == [6, 7]
    assert [len(d.people) for d in detections] == [0, 2]
    assert [d.frame.index for d in answers] == [7]


def test_a_frame_for_a_glance_is_taken_when_the_one_before_is_done() -> None:
    scene = Scene()
    engine = scene.engine(20)
    follower = engine.follower()
    taken: list[int] = []
    flow = detected(frames(taken), engine, live=True, glances=engine.glances(follower))
    early: list[Detections] = []
    for found, _ in flow:
        follower(found)
        time.sleep(0.004)
        if 8 < found.frame.index < 20 and len(taken) > found.frame.index + 1:
            early.append(found)
    assert [d.frame.index for d in early] == []
