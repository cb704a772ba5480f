from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import signal
from collections.abc import Generator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn_engine import find, lift

from manypose.app import finder as finders
from manypose.app.config import load_config
from manypose.app.finder import Finder
from manypose.app.flow import detected
from manypose.app.pipeline import Engine, load_detector, load_engine
from manypose.app.sources import open_source
from manypose.calib.camera import Camera
from manypose.errors import SourceError
from manypose.pose.detector import Detector
from manypose.pose.estimator import FollowerConfig
from manypose.pose.records import Box, Detections, Found2D, Frame

CAMERA = Camera.from_fov(480, 288)
SAMPLE = Path(finders.__file__).with_name("sample.mp4")
SIZE = (96, 64)  # the input of a network


def drawn(frames: Sequence[Frame]) -> list[Found2D]:
    """People at places that depend on what the network is given to see."""
    small = np.empty((58, 96, 3), np.uint8)
    moved = []
    for frame in frames:
        picture = frame.picture
        assert not isinstance(picture, np.ndarray), "the whole picture came over"
        picture.resized(small)
        if frame.index % 2:  # what a part shows counts as well
            picture.resized(small[:40, :80], (20, 10, 180, 90))
        if frame.index == 90:
            raise SourceError("as asked")
        if frame.index == 91:
            os.kill(os.getpid(), signal.SIGKILL)
        moved.append(Frame(picture, frame.time_s, int(small.sum()) % 50, frame.camera))
    return find(moved)


def detector() -> Detector:
    return Detector(drawn, lift)


def here(frames: Sequence[Frame]) -> list[Detections]:
    """The same in this process."""
    return [d for f in frames for d in Detector(lambda some: drawn([_boxed(some[0])]), lift)([f])]


class _Boxed:
    def __init__(self, image: np.ndarray) -> None:
        self.shape = image.shape
        self._image = image

    def whole(self) -> np.ndarray:
        return self._image

    def resized(self, out: np.ndarray, part: Box | None = None) -> None:
        x0, y0, x1, y1 = part or (0, 0, *self._image.shape[1::-1])
        cv2.resize(self._image[y0:y1, x0:x1], (out.shape[1], out.shape[0]), dst=out)

    def pixels(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return self._image[y, x]


def _boxed(frame: Frame) -> Frame:
    return Frame(_Boxed(frame.image), frame.time_s, frame.index, frame.camera)


def frames(count: int, first: int = 0) -> Generator[Frame]:
    for i in range(first, first + count):
        noise = np.random.default_rng(i).integers(0, 255, (288, 480, 3), np.uint8)
        yield Frame(noise, i / 30, i, CAMERA)


@pytest.fixture(scope="module")
def begun() -> Generator[Finder]:
    finder = Finder(detector, here, SIZE, 2)
    finder.start()
    assert finder.wait(60)
    yield finder
    finder.close()


def same(a: Detections, b: Detections) -> None:
    assert a.frame.index == b.frame.index
    assert len(a.people) == len(b.people) > 0
    for p, q in zip(a.people, b.people):
        for x, y in ((p.joints_rel_m, q.joints_rel_m), (p.root_m, q.root_m), (p.sigma_m, q.sigma_m),
                     (p.seen.joints_px, q.seen.joints_px)):  # fmt: skip
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
        errors = [(r.seen.score, r.root_sigma_m, r.size_error) for r in (p, q)]
        np.testing.assert_array_equal(*errors)


@pytest.mark.slow
def test_the_second_process_finds_the_same_bit_for_bit(begun: Finder) -> None:
    before = begun.answered
    engine = Engine(detector(), FollowerConfig(), {}, 2, True, finder=begun)
    got = [d for d, _ in detected(frames(12), engine)]
    want = [here([f])[0] for f in frames(12)]
    assert begun.answered == before + 12
    for a, b in zip(got, want, strict=True):
        same(a, b)
        assert "resize" in a.stage_ms
    assert begun.cpu_s > 0


@pytest.mark.slow
def test_a_look_at_each_person_is_the_same_there() -> None:
    config = load_config([("model.portraits", "always"), ("model.backend", "openvino")])
    engine = load_engine(config)
    with open_source(str(SAMPLE), config) as clip:
        some = [f for f in itertools.islice(clip, 61) if f.index % 30 == 0]
    with finders.begun(engine, load_detector, config) as helped:
        assert helped.finder is not None
        for frame in some:
            there = helped.finder([frame])[0]
            same(there, engine.detector([frame])[0])
        assert helped.finder.answered == len(some) == 3


def test_it_rests_and_begins_again() -> None:
    finder = Finder(detector, here, SIZE, 1)
    try:
        for answered in (1, 2):
            finder.start()
            assert finder.wait(60)
            same(finder(list(frames(1)))[0], here(list(frames(1)))[0])
            assert finder.answered == answered
            finder.rest()
            same(finder(list(frames(1)))[0], here(list(frames(1)))[0])
            assert finder.answered == answered
    finally:
        finder.close()
    finder.start()
    assert not finder.wait(0)


def test_its_errors_come_here(begun: Finder) -> None:
    with pytest.raises(SourceError, match="as asked"):
        begun(list(frames(1, 90)))
    same(begun(list(frames(1)))[0], here(list(frames(1)))[0])


def broken() -> Detector:
    raise SourceError("no weights")


@pytest.mark.slow
def test_a_process_that_cannot_load_says_why(caplog: pytest.LogCaptureFixture) -> None:
    finder = Finder(broken, here, SIZE, 1)
    finder.start()
    with contextlib.closing(finder), caplog.at_level(logging.WARNING):
        finder.wait(60)
        same(finder(list(frames(1)))[0], here(list(frames(1)))[0])
    assert "no weights" in caplog.text


@pytest.mark.slow
def test_before_it_is_ready_and_after_it_is_lost_this_process_works(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = []

    def counted(some: Sequence[Frame]) -> list[Detections]:
        calls.append(some[0].index)
        return [Detections(f, ()) for f in some]

    finder = Finder(functools.partial(detector), counted, SIZE, 1)
    finder(list(frames(1)))
    assert calls == [0]
    finder.start()
    try:
        assert finder.wait(60)
        finder(list(frames(1, 1)))
        assert calls == [0]
        with caplog.at_level(logging.WARNING):
            finder(list(frames(1, 91)))
            finder(list(frames(1, 2)))
        assert calls == [0, 91, 2]
        assert len(caplog.records) == 1
        assert "goes on alone" in caplog.text
    finally:
        finder.close()
