import dataclasses
import functools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from manypose.app.bench_people import perfect_maps, walkers
from manypose.app.journal import normalised
from manypose.calib.camera import Camera
from manypose.models.lifter_runtime import load_lifter
from manypose.pose.detector import Detector, heatmap_front_end
from manypose.pose.estimator import Follower, FollowerConfig
from manypose.pose.lifting import LiftingConfig, lift
from manypose.pose.readings import sane
from manypose.pose.records import Detections, Frame, Person2D, unlifted


def person(left, top=0.0, side=10.0):
    px = np.full((20, 2), np.nan)
    px[[5, 16]] = (left, top), (left + side, top + side)
    return Person2D(px, np.where(np.isfinite(px[:, 0]), 0.9, 0.0), 0.5)


@pytest.fixture(scope="module")
def crowd():
    """Frames of ten walkers, and the front end that finds them."""
    people = walkers(10, 640, 400)
    people = dataclasses.replace(people, points_m=people.points_m[:5])
    maps = perfect_maps(people, 384, 240, encodings=False)
    picture = np.zeros((400, 640, 3), np.uint8)
    # a camera that knows where up is: otherwise who is lifted later is lifted with more knowledge
    turn = Rotation.from_rotvec([0.1, 0, 0]).as_matrix() @ np.diag([1.0, -1.0, -1.0])
    camera = dataclasses.replace(people.camera, R=turn)
    frames = [Frame(picture, i / 30, i, camera) for i in range(len(maps))]
    return frames, heatmap_front_end(lambda some: [maps[f.index] for f in some])


@pytest.mark.parametrize("still", [False, True])
def test_people_left_to_the_follower_come_out_the_same(crowd, still):
    frames, front_end = crowd
    lifts = functools.partial(lift, lifter=load_lifter(), config=LiftingConfig(encodings=False))
    asked = []

    def counted(people, camera, up=None):
        asked.append(len(people))
        return lifts(people, camera, up=up)

    now, later = Detector(front_end, lifts), Detector(front_end, counted, leave_lifting=True)
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


def test_nobody_is_shown_unlifted():
    camera = Camera.from_fov(640, 400)
    frame = Frame(np.zeros((400, 640, 3), np.uint8), 0.0, 0, camera)
    left = [unlifted(person(99.0))]
    assert sane(left) == left
    assert not left[0].lifted
    assert not Follower(FollowerConfig(still=True))(Detections(frame, tuple(left))).people
