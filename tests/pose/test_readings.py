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
from manypose.pose.readings import near_body, off_body, sane
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


def test_a_joint_that_the_body_contradicts_is_not_shown_as_seen(crowd):
    """The body stays where it is, the joint comes back with the next frame."""
    frames, find = crowd
    follower = Follower(lift=functools.partial(lift, lifter=load_lifter()))
    wrist, shown = 9, []
    for frame, found in zip(frames, find(frames), strict=True):
        people = [dataclasses.replace(p, joints_px=p.joints_px.copy()) for p in found.people]
        if frame.index == 3:
            for p in people:
                p.joints_px[wrist] += np.ptp(p.joints_px[p.confidence > 0], axis=0).max()
        shown.append(follower(Detections(frame, tuple(unlifted(p) for p in people), {})).people)
    before, there, after = ({p.track_id: p for p in people} for people in shown[2:])
    both = [n for n in before if n in after and before[n].confidence[wrist] > 0]
    assert len(both) >= 8
    for n in both:
        one, other = before[n], there[n]
        assert other.confidence[wrist] == 0
        assert np.isnan(other.joints_px[wrist]).all()
        assert (np.delete(other.confidence, wrist) > 0).sum() >= 10
        assert np.linalg.norm(other.joints_m - one.joints_m, axis=-1).mean() < 0.1
        assert after[n].confidence[wrist] > 0


def test_where_half_of_the_joints_are_away_nothing_is_said():
    body = np.random.default_rng(0).uniform(0, 100, (1, 20, 2))
    read = body.copy()
    read[0, :9] += 50
    assert off_body(read, body)[0].tolist() == [True] * 9 + [False] * 11
    read[0, 9] += 50
    assert not off_body(read, body).any()
    assert not off_body(read, np.full_like(body, np.nan)).any()
    assert not off_body(np.full_like(body, np.nan), body).any()


def test_a_joint_that_leaps_is_shown_near_the_body():
    body = np.random.default_rng(0).uniform(0, 100, (2, 20, 2))
    body[:, 0], body[:, 1] = (0, 0), (100, 100)
    read = body + np.array([3.0, 0])
    read[0, 7] += (40, 0)
    read[1, 4] = np.nan
    near = near_body(read, body)
    np.testing.assert_allclose(near[0, 7], body[0, 7] + (5, 0))
    others = np.arange(20) != 7
    np.testing.assert_array_equal(near[0, others], read[0, others])
    np.testing.assert_array_equal(near[1], read[1])


def test_joints_that_are_all_away_from_the_body_are_believed():
    body = np.random.default_rng(0).uniform(0, 100, (1, 20, 2))
    read = body + np.array([15.0, 0])
    np.testing.assert_array_equal(near_body(read, body), read)
    np.testing.assert_array_equal(near_body(read, np.full_like(body, np.nan)), read)


def test_joints_in_a_video_do_not_leap_and_those_of_a_photograph_are_as_read(crowd):
    frames, find = crowd
    found = list(zip(frames, find(frames), strict=True))
    wrist, leap_px = 9, 12.0
    lifting = functools.partial(lift, lifter=load_lifter())
    for config, least, most in (
        (FollowerConfig(), 0.0, 0.6),
        (FollowerConfig(still=True), 0.99, 1.01),
    ):
        moved = []
        for leap in (0.0, leap_px):
            follower = Follower(config, lift=lifting)
            for frame, seen in found:
                people = [dataclasses.replace(p, joints_px=p.joints_px.copy()) for p in seen.people]
                if frame.index == 4:
                    for p in people:
                        p.joints_px[wrist] += leap
                people = tuple(unlifted(p) for p in people)
                last = follower(Detections(frame, people, {})).people
            moved.append({p.track_id: p.joints_px[wrist] for p in last})
        shift = [np.linalg.norm(moved[1][n] - moved[0][n]) for n in moved[0] if n in moved[1]]
        share = np.nanmedian(shift) / (leap_px * 2**0.5)
        assert least <= share <= most
