"""Recordings show people from their first frame on, and nobody who is none."""

from dataclasses import replace

import numpy as np
import pytest

from manypose.pose.estimator import Follower, FollowerConfig
from manypose.pose.hindsight import Hindsight
from manypose.pose.records import Detections
from tests.pose import simulated as sim
from tests.pose.test_estimator import scene


def both(points, config=None, edit=None):
    """Results of the Follower alone and of the same one with hindsight."""
    cam = sim.camera()
    people = sim.people3d(points, cam, np.random.default_rng(0))
    found = list(sim.detections(points, cam, people))
    found = [edit(d) if edit else d for d in found]
    follower, follow = Follower(config), Hindsight(Follower(config), wait=True)
    live = [follower(d) for d in found]
    recorded = [r for d in found for r in follow(d)]
    return live, recorded + follow.rest()


def ids(results):
    return [[p.track_id for p in r.people] for r in results]


def test_everybody_is_there_from_the_first_frame_with_the_later_id():
    points = scene(24, 2)
    points[:12, 1] = np.nan
    live, recorded = both(points)
    assert ids(live) == [[]] * 2 + [[0]] * 12 + [[0, 1]] * 10
    assert ids(recorded) == [[0]] * 12 + [[0, 1]] * 12
    assert [r.frame.index for r in recorded] == list(range(24))
    for a, b in zip(live, recorded):  # and nothing else is changed
        later = {p.track_id: p for p in b.people}
        for p in a.people:
            assert np.array_equal(p.joints_m, later[p.track_id].joints_m, equal_nan=True)
    for r in recorded:
        for p in r.people:
            truth = points[r.frame.index, p.track_id, :21]
            error = (p.joints_m - p.joints_m[14]) - (truth - truth[14])
            assert np.linalg.norm(error, axis=-1).mean() < 0.06


def test_who_is_seen_for_two_frames_only_is_in_none():
    points = scene(20, 2)
    points[:7, 1] = points[9:, 1] = np.nan
    _, recorded = both(points)
    assert ids(recorded) == [[0]] * 20


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_film_shorter_than_it_takes_to_be_sure_is_not_empty(frames):
    points = scene(frames, 2)
    _, recorded = both(points)
    assert ids(recorded) == [[0, 1]] * frames
    if frames == 2:
        points[0, 1] = np.nan
        assert ids(both(points)[1]) == [[0]] * 2


def test_somebody_unsure_of_whom_one_becomes_sure_later():
    def doubtful(d):
        unsure = (replace(p, seen=replace(p.seen, score=0.44)) for p in d.people)
        return Detections(d.frame, tuple(unsure))

    live, recorded = both(scene(12, 1), edit=doubtful)
    assert ids(live)[3] == []
    assert ids(recorded) == [[0]] * 12


def test_people_are_not_carried_over_a_cut():
    rooms = np.random.default_rng(1).integers(0, 255, (2, 400, 640, 3), np.uint8)

    def cut(d):
        return replace(d, frame=replace(d.frame, picture=rooms[int(d.frame.index >= 10)]))

    live, recorded = both(scene(20, 1), edit=cut)
    assert ids(live)[10:12] == [[], []]
    assert ids(recorded) == [[0]] * 10 + [[1]] * 10


def test_live_and_photographs_do_not_wait():
    cam = sim.camera()
    points = scene(4, 1)
    people = sim.people3d(points, cam, np.random.default_rng(0))
    for follow in (
        Hindsight(Follower(), wait=False),
        Hindsight(Follower(FollowerConfig(still=True)), wait=True),
    ):
        for n, d in enumerate(sim.detections(points, cam, people)):
            assert [r.frame.index for r in follow(d)] == [n]
        assert follow.rest() == []
