import functools
from dataclasses import replace

import numpy as np
import pytest

from manypose.app.finder import _packed, _unpacked
from manypose.app.journal import normalised
from manypose.models.lifter_runtime import load_lifter
from manypose.pose import lifting
from manypose.pose.estimator import Follower, FollowerConfig
from manypose.pose.records import ALONE, Detections, Person2D, Person3D
from manypose.pose.tracking_memory import Track, TrackingConfig
from manypose.pose.tracking_parts import PartsConfig, reunited, shared_out
from tests.pose import simulated as sim

CONFIG, LEGS = PartsConfig(), np.arange(13, 17)
SIZES = np.full(2, 80.0)
UNSEEN = np.zeros((2, 20))  # every joint was seen in the last frame


def two():
    """Where two who overlap are expected (2, K, 2), and where they are."""
    rng = np.random.default_rng(0)
    expected = rng.uniform(0, 100, (2, 20, 2))
    expected[1] += 25
    return expected, expected + rng.normal(0, 1, expected.shape)


def test_a_part_read_for_another_goes_to_whom_it_fits():
    expected, points = two()
    read, numbers = points.copy(), np.zeros((2, 20), int)
    read[0, LEGS], read[1, LEGS] = points[1, LEGS], np.nan
    numbers[0, LEGS] = 1
    places = reunited(read, numbers, expected, SIZES, CONFIG.spread(UNSEEN), CONFIG)
    assert (places[1, LEGS] == 0).all()
    assert (places[0, LEGS] == -1).all()
    rest = np.delete(np.arange(20), LEGS)
    assert (places[:, rest] == [[0], [1]]).all()


def test_nobody_gets_a_joint_twice_and_the_rest_is_a_reading_of_its_own():
    expected, points = two()
    read = np.stack([*points, points[1] + 2])  # somebody new at nearly the same place
    places = reunited(read, np.zeros((3, 20), int), expected, SIZES, CONFIG.spread(UNSEEN), CONFIG)
    assert sorted(map(tuple, places)) == [(0,) * 20, (1,) * 20, (2,) * 20]


def test_a_part_stays_with_its_reading_unless_motion_speaks_against_it():
    expected, points = two()
    arm = [7, 9]
    read, numbers = points[:1].copy(), np.zeros((1, 20), int)
    numbers[0, arm] = 1
    read[0, arm] += 25  # a third of its size away from where it should be
    long_ago = UNSEEN.copy()
    long_ago[:, arm] = 5.0
    for unseen, readings in ((UNSEEN, 2), (long_ago, 1)):
        places = reunited(read, numbers, expected[:1], SIZES[:1], CONFIG.spread(unseen)[:1], CONFIG)
        assert len(places) == readings
        assert (places >= 0).sum() == 20


def test_a_joint_out_of_sight_for_long_is_expected_where_the_body_has_it():
    _, points = two()
    track = Track(0, hits=9, points_px=points[0].copy(), size_px=80.0)
    track.joint_s = np.zeros(20)
    track.joint_s[LEGS] = -2.0  # seconds before
    track.points_px[LEGS] += 60
    numbers = np.zeros(20, np.int8)
    numbers[LEGS] = 1
    standing = Person3D(
        Person2D(points[0], np.ones(20), 0.9, parts=numbers),
        np.zeros((21, 3)), np.ones(21), np.ones(3), 0.1,
    )  # fmt: skip
    for body, readings in ((None, 2), (points[0], 1)):
        track.body_px = body
        places = shared_out([track], 0.03, 0.03, [standing], TrackingConfig())
        assert len(places) == readings


@pytest.mark.parametrize("number", [0, ALONE])
def test_joints_go_back_by_motion_but_not_from_a_picture_of_somebody_alone(number):
    expected, points = two()
    tracks = [Track(n, hits=9, points_px=p, size_px=80.0, joint_s=np.zeros(20))
              for n, p in enumerate(expected)]  # fmt: skip
    read = points.copy()
    read[:, LEGS] = points[::-1, LEGS]
    people = [
        Person3D(Person2D(px, np.ones(20), 0.9, parts=np.full(20, number)),
                 np.zeros((21, 3)), np.ones(21), np.ones(3), 0.1)
        for px in read
    ]  # fmt: skip
    places = shared_out(tracks, 0.03, 0.03, people, TrackingConfig())
    swapped = places[0, LEGS].tolist() == [1] * 4
    assert swapped == (number != ALONE)


@pytest.fixture(scope="module")
def crossing():
    """Two who cross, as they are and with their legs, parts of their own, read for each other."""
    cam = sim.camera()
    t = np.arange(40) / 30
    walks = []
    for x, z, speed in ((-0.6, -4, 0.8), (0.6, -4.4, -0.8)):
        one = sim.turned(sim.walker(t, 1.0), np.pi / 2)
        one[..., 0] += (x + speed * t)[:, None]
        one[..., 2] += z
        walks.append(sim.to_camera(one))
    points = np.stack(walks, 1)
    true = sim.detections(points, cam, sim.people3d(points, cam, np.random.default_rng(0)))
    parts = np.zeros(20, np.int8)
    parts[LEGS] = 1
    read = []
    for d in true:
        px = np.stack([p.seen.joints_px for p in d.people])
        if d.frame.index % 2 and d.frame.index > 10:
            px[:, LEGS] = px[::-1, LEGS]
        seen = [replace(p.seen, joints_px=a, parts=parts) for p, a in zip(d.people, px)]
        people = tuple(replace(p, seen=s) for p, s in zip(d.people, seen))
        read.append(Detections(d.frame, people))
    return true, read


def test_legs_read_for_another_are_shown_on_whom_they_belong_to(crossing):
    lift = functools.partial(lifting.lift, lifter=load_lifter())
    follower = Follower(FollowerConfig(filter="off"), lift)
    right = shown = 0
    for true, read in zip(*crossing):
        at = np.stack([p.seen.joints_px for p in true.people])
        for person in follower(read).people:
            off = np.abs(person.joints_px - at).max((1, 2))
            right += bool(off.min() < 1)
            shown += 1
    assert {p.track_id for p in follower(crossing[1][-1]).people} == {0, 1}
    assert shown >= 74
    assert right >= 0.95 * shown


def test_parts_pass_through_the_journal_and_the_second_process(crossing):
    d = crossing[1][0]
    bare = replace(d.people[0], seen=replace(d.people[0].seen, parts=None))
    d = Detections(d.frame, (*d.people, bare))
    for people in (normalised(d).people, _unpacked(_packed(d.people))):
        for p, q in zip(people, d.people, strict=True):
            assert p.seen.part_numbers.tolist() == q.seen.part_numbers.tolist()
