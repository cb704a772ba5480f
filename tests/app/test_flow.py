from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from drawn_engine import find, lift

from manypose.app.flow import detected
from manypose.app.pipeline import Engine
from manypose.calib.camera import Camera
from manypose.errors import SourceError
from manypose.pose.detector import Detector
from manypose.pose.estimator import FollowerConfig
from manypose.pose.records import Detections, Found2D, Frame

CAMERA = Camera.from_fov(480, 288)


def frames(count: int, error: Exception | None = None) -> Iterator[Frame]:
    for i in range(count):
        yield Frame(np.zeros((288, 480, 3), np.uint8), i / 30, i, CAMERA)
    if error is not None:
        raise error


def engine(batch: int, parallel: bool, calls: list[int]) -> Engine:
    def uneven(some: list[Frame]) -> list[Found2D]:
        calls.append(len(some))
        time.sleep(0.002 * (some[0].index % 3))  # later frames may be ready first
        return find(some)

    return Engine(Detector(uneven, lift), FollowerConfig(), {}, batch, parallel)


@pytest.mark.parametrize(("batch", "parallel"), [(1, False), (3, False), (3, True)])
def test_frames_come_in_order_and_all_of_them(batch: int, parallel: bool) -> None:
    calls: list[int] = []
    got = list(detected(frames(20), engine(batch, parallel, calls)))
    assert [d.frame.index for d, _ in got] == list(range(20))
    assert not any(known for _, known in got)
    assert max(calls) == (1 if parallel else batch)
    assert threading.active_count() < 10


def test_what_is_known_is_not_asked_again() -> None:
    calls: list[int] = []

    def known(frame: Frame) -> Detections | None:
        return Detections(frame, ()) if frame.index < 7 else None

    got = list(detected(frames(10), engine(2, False, calls), known=known))
    assert [d.frame.index for d, _ in got] == list(range(10))
    assert [k for _, k in got] == [True] * 7 + [False] * 3
    assert sum(calls) == 3


def test_errors_come_after_what_was_found_before() -> None:
    flow = detected(frames(5, SourceError("unplugged")), engine(2, True, []))
    assert [next(flow)[0].frame.index for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(SourceError, match="unplugged"):
        next(flow)


def test_closing_early_ends_the_reading() -> None:
    taken = []

    def counted() -> Iterator[Frame]:
        for frame in frames(1000):
            taken.append(frame.index)
            yield frame

    flow = detected(counted(), engine(2, True, []))
    next(flow)
    flow.close()
    assert len(taken) < 15


def test_live_frames_are_taken_one_at_a_time() -> None:
    at_work: list[int] = []

    def watched() -> Iterator[Frame]:
        for frame in frames(6):
            at_work.append(frame.index)
            yield frame

    flow = detected(watched(), engine(4, True, []), live=True)
    for n, (found, _) in enumerate(flow):
        assert found.frame.index == n
        assert len(at_work) <= n + 3
