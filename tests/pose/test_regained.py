import numpy as np
import pytest

from manypose.calib.camera import Camera
from manypose.pose.joints import JOINTS_2D
from manypose.pose.records import Frame, Person2D, unlifted
from manypose.pose.regained import RegainConfig, regained
from manypose.pose.tracking_memory import Track
from tests.pose.test_portraits import standing

K = len(JOINTS_2D)
NOW = 1.0


def track_of(person, seen_s=NOW - 1 / 30, velocity=(0.0, 0.0)):
    points = person.joints_px
    seen = np.isfinite(points[:, 0])
    return Track(
        0, 7, hits=9, seen_s=seen_s, points_px=points, size_px=120.0,
        joint_s=np.where(seen, seen_s, -np.inf), velocity_px=np.array(velocity),
    )  # fmt: skip


def frame():
    return Frame(np.zeros((480, 640, 3), np.uint8), NOW, 30, Camera.from_fov(640, 480))


class Looker:
    """Finds whom it is told, and remembers where it was asked."""

    def __init__(self, *people):
        self.people = people
        self.asked = None

    def __call__(self, frame, people, others):
        self.asked = people
        return [self.people[n % len(self.people)] for n in range(len(people))]


def test_somebody_not_found_is_looked_for_where_they_must_be():
    look = Looker(standing(x=210))
    person = track_of(standing(), velocity=(300.0, 0.0))
    found = regained(frame(), [person], [], look, RegainConfig())
    assert found == [look.people[0]]
    assert look.asked[0].joints_px[0, 0] == pytest.approx(standing(x=210).joints_px[0, 0], abs=1)


def test_nobody_is_looked_for_who_was_found():
    look = Looker(standing())
    people = [unlifted(standing(x=203))]
    assert regained(frame(), [track_of(standing())], people, look, RegainConfig()) == []
    assert look.asked is None


@pytest.mark.parametrize(
    "person",
    [
        track_of(standing(), seen_s=0.2),  # too long ago
        track_of(standing(x=2000)),  # outside of the picture
        Track(0, -1, points_px=standing().joints_px, seen_s=NOW, joint_s=np.full(K, NOW)),  # no id
    ],
)
def test_nobody_is_looked_for_whose_place_is_not_known(person):
    look = Looker(standing())
    assert regained(frame(), [person], [], look, RegainConfig()) == []
    assert look.asked is None


def test_a_reading_that_is_nobody_or_somebody_else_is_not_believed():
    lost = track_of(standing())
    unsure = Person2D(standing().joints_px, standing().confidence, 0.3)
    elsewhere = standing(x=380)
    for reading in (None, unsure, elsewhere):
        assert regained(frame(), [lost], [], Looker(reading), RegainConfig()) == []
    beside = unlifted(standing(x=262))
    assert regained(frame(), [lost], [beside], Looker(standing(x=250)), RegainConfig()) == []


def test_nobody_is_believed_for_long_whom_no_look_at_the_whole_finds():
    look = Looker(standing())
    person = track_of(standing())
    person.born_s = person.whole_s = NOW - 1.1
    assert regained(frame(), [person], [], look, RegainConfig()) == []
    assert regained(frame(), [person], [unlifted(standing())], look, RegainConfig()) == []
    assert person.whole_s == NOW
    assert regained(frame(), [person], [], look, RegainConfig()) == [look.people[0]]


def test_of_many_who_are_lost_those_seen_last_are_looked_for():
    lost = [track_of(standing(x=100 * n + 80), seen_s=NOW - (5 - n) / 30) for n in range(5)]
    look = Looker(None)
    regained(frame(), lost, [], look, RegainConfig(most=2))
    assert [p.joints_px[0, 0] for p in look.asked] == [lost[n].points_px[0, 0] for n in (3, 4)]


def test_in_a_crowd_nobody_is_looked_for():
    crowd = [track_of(standing(x=60 * n + 40)) for n in range(9)]
    look = Looker(None)
    regained(frame(), crowd, [], look, RegainConfig())
    assert look.asked is None
    regained(frame(), crowd[:8], [], look, RegainConfig())
    assert look.asked is not None


def test_two_who_are_lost_are_not_found_in_one():
    lost = [track_of(standing()), track_of(standing(x=205))]
    assert len(regained(frame(), lost, [], Looker(standing()), RegainConfig())) == 1
