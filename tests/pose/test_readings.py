import dataclasses
import functools

import numpy as np
import pytest

from manypose.app.bench_people import perfect_maps, walkers
from manypose.app.journal import normalised
from manypose.calib.camera import Camera
from manypose.models.lifter_runtime import load_lifter
from manypose.pose.estimator import Detector, Follower, FollowerConfig, heatmap_front_end
from manypose.pose.lifting import LiftingConfig, lift
from manypose.pose.readings import crowded, sane
from manypose.pose.records import Detections, Frame, Person2D, unlifted


def person(left, top=0.0, side=10.0):
    px = np.full((20, 2), np.nan)
    px[[5, 16]] = (left, top), (left + side, top + side)
    return Person2D(px, np.where(np.isfinite(px[:, 0]), 0.9, 0.0), 0.5)


def test_a_crowd_is_many_who_overlap():
    row = [person(9.0 * i) for i in range(9)]
    assert crowded(row)
    assert not crowded(row[:7])
    assert not crowded([person(11.0 * i) for i in range(20)])
    # one of eight stands apart
    assert not crowded([*row[:7], person(0.0, 99.0)])
    assert not crowded([])


@pytest.fixture(scope="module")
def crowd():
    """Frames of ten walkers, and the front end that finds them."""
    people = walkers(10, 640, 400)
    people = dataclasses.replace(people, points_m=people.points_m[:5])
    maps = perfect_maps(people, 384, 240, encodings=False)
    picture = np.zeros((400, 640, 3), np.uint8)
    frames = [Frame(picture, i / 30, i, people.camera) for i in range(len(maps))]
    return frames, heatmap_front_end(lambda some: [maps[f.index] for f in some])


@pytest.mark.parametrize("still", [False, True])
def test_a_crowd_left_to_the_follower_comes_out_the_same(crowd, still):
    frames, front_end = crowd
    lifts = functools.partial(lift, lifter=load_lifter(), config=LiftingConfig(encodings=False))
    asked = []

    def counted(people, camera):
        asked.append(len(people))
        return lifts(people, camera)

    now, later = Detector(front_end, lifts), Detector(front_end, counted, leave_crowds=True)
    config = FollowerConfig(still=still, min_age=1)
    a, b = Follower(config, lifts), Follower(config, lifts)
    for frame in frames:
        left = later([frame])[0]
        assert len(left.people) >= 8
        assert not any(p.lifted for p in left.people)
        one, two = a(normalised(now([frame])[0])), b(normalised(left))
        assert [p.track_id for p in one.people] == [p.track_id for p in two.people]
        for p, q in zip(one.people, two.people):
            np.testing.assert_allclose(p.joints_m, q.joints_m, atol=1e-3)
    assert len(one.people) >= 8
    assert not asked


def test_few_are_lifted_at_once_and_nobody_is_shown_unlifted():
    camera = Camera.from_fov(640, 400)
    frame = Frame(np.zeros((400, 640, 3), np.uint8), 0.0, 0, camera)
    left = [unlifted(person(99.0))]
    assert sane(left) == left
    assert not left[0].lifted
    assert not Follower(FollowerConfig(still=True))(Detections(frame, tuple(left))).people
