import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from manypose.pose.likeness import oks
from manypose.pose.records import Detections, Frame, Person2D
from manypose.pose.tracking import Tracker
from manypose.pose.tracking_memory import TrackingConfig
from manypose.pose.tracking_mix import Expected, MixConfig, regrouped
from tests.pose import simulated as sim

RATE = 30.0


def walkers(starts, frames=30, speed=(0.8, 0.0)):
    """Points (F, P, 26, 3): people who walk across the view from these x, z."""
    t = np.arange(frames) / RATE
    out = []
    for k, (x, z) in enumerate(starts):
        p = sim.turned(sim.walker(t, 1.0, phase=k), np.pi / 2)
        p[..., 0] += (x + speed[0] * t)[:, None]
        p[..., 2] += z
        out.append(sim.to_camera(p))
    return np.stack(out, 1)


def run(tracker, points, clothes=None, times=None, keep=None, cam=None):
    """Ids by frame: list of {id: true person}, leaving out people for whom keep is False."""
    cam = cam or sim.camera()
    if keep is not None:
        points = np.where(keep[..., None, None], points, np.nan)
    rng = np.random.default_rng(0)
    people = sim.people3d(points, cam, rng)
    result = []
    for f, d in enumerate(sim.detections(points, cam, people, clothes, RATE, times)):
        matches = tracker.update(d.frame, d.people)
        ids = {}
        for track, j in matches.pairs:
            gap = np.linalg.norm(points[f, :, 14] - d.people[j].root_m, axis=-1)
            if track.track_id >= 0:
                ids[track.track_id] = int(np.nanargmin(gap))
        result.append(ids)
    return result


def test_an_id_comes_with_age_and_stays():
    ids = run(Tracker(TrackingConfig()), walkers([(-1, -4), (0.5, -5)]))
    assert ids[0] == ids[1] == {}
    assert all(frame == ids[2] for frame in ids[2:])
    assert sorted(ids[2]) == [0, 1]


def test_people_who_cross_keep_their_ids():
    a = walkers([(-1, -4)], 75)
    b = walkers([(1, -4.8)], 75, (-0.8, 0))
    ids = run(Tracker(TrackingConfig()), np.concatenate([a, b], 1))
    assert all(frame == ids[2] for frame in ids[2:])


def test_re_entry_within_the_gap_keeps_the_id():
    points = walkers([(-1, -4)], 90, (0.1, 0))
    keep = np.ones((90, 1), bool)
    keep[20:40] = False  # 0.7 s
    ids = run(Tracker(TrackingConfig()), points, keep=keep)
    assert list(ids[60]) == [0]


def test_somebody_comes_back_by_clothes_and_another_does_not():
    clothes = sim.outfits(4, np.random.default_rng(0))
    points = walkers([(-1, -4), (0.8, -4)], 120, (0.05, 0))
    keep = np.ones((120, 2), bool)
    keep[30:90, 0] = False
    ids = run(Tracker(TrackingConfig()), points, clothes, keep=keep)
    assert ids[119] == ids[10]
    tracker = Tracker(TrackingConfig())
    run(tracker, points[:60], clothes, keep=keep[:60])
    other = np.stack([clothes[2], clothes[1]])
    times = 2 + np.arange(60) / RATE
    ids = run(tracker, points[60:], other, times=times)
    assert sorted(ids[-1]) == [1, 2]


def test_a_track_led_astray_gives_its_id_to_the_new_one_in_the_same_clothes():
    points = walkers([(-1, -4), (0.8, -4)], 60, (0.05, 0))
    points[30:, 0] += np.array([0, 0, 1.6])  # farther than anybody gets in a frame
    clothes = sim.outfits(2, np.random.default_rng(0))
    ids = run(Tracker(TrackingConfig()), points, clothes)
    assert ids[59] == ids[10]


def test_three_who_took_one_anothers_places_unseen_get_their_ids_back():
    """While out of sight for a moment everybody went to the next one's place."""
    points = walkers([(-0.7, -4), (0, -4), (0.7, -4)], 75, (0.02, 0))
    points[20:] = points[20:, [2, 0, 1]]
    keep = np.ones((75, 3), bool)
    keep[20:28] = False
    clothes = sim.outfits(3, np.random.default_rng(0))
    ids = run(Tracker(TrackingConfig()), points, clothes, keep=keep)
    assert ids[74] == ids[10]


def test_an_edge_taken_for_a_person_starts_nobody_and_unsure_people_take_longer():
    cam = sim.camera()
    points = walkers([(-1, -4), (0.8, -4)], 30, (0.05, 0))
    people = sim.people3d(points, cam, np.random.default_rng(0))
    tracker, named = Tracker(TrackingConfig(min_score=0.4)), []
    for d in sim.detections(points, cam, people):
        edge, unsure = d.people
        line = edge.seen.joints_px.copy()
        line[:, 0] = 300 + 0.01 * line[:, 0]
        edge = replace(edge, seen=replace(edge.seen, joints_px=line))
        unsure = replace(unsure, seen=replace(unsure.seen, score=0.45))
        matches = tracker.update(d.frame, [edge, unsure])
        assert all(j == 1 for _, j in matches.pairs)
        named.append(any(t.track_id >= 0 for t, _ in matches.pairs))
    assert not any(named[:4])
    assert all(named[8:])


def test_a_part_of_somebody_in_front_does_not_lead_a_track_astray():
    """One of two is hidden; an arm of the other is read as a person of its own near by."""
    cam = sim.camera()
    points = walkers([(0, -4), (0.15, -4.5)], 60, (0.0, 0))
    people = sim.people3d(points, cam, np.random.default_rng(0))
    tracker = Tracker(TrackingConfig(min_score=0.4))
    for d in sim.detections(points, cam, people):
        front, behind = d.people
        if 30 <= d.frame.index < 42:
            arm = np.full((20, 2), np.nan)
            arm[[5, 7, 9]] = front.seen.joints_px[[5, 7, 9]]
            confidence = np.isfinite(arm[:, 0]) * 0.5
            behind = replace(behind, seen=Person2D(arm, confidence, 0.2))
        matches = tracker.update(d.frame, [front, behind])
        if 30 <= d.frame.index < 42:
            assert [j for _, j in matches.pairs] == [0]
    assert sorted((t.track_id, j) for t, j in matches.pairs) == [(0, 0), (1, 1)]


def two_who_overlap():
    rng = np.random.default_rng(0)
    last = rng.uniform(0, 100, (2, 20, 2))
    last[1] += 15
    return Expected(last, np.full(2, 80.0)), last + rng.normal(0, 0.5, last.shape)


def test_joints_read_for_the_wrong_one_of_two_who_overlap_go_back():
    expected, points = two_who_overlap()
    mixed = points.copy()
    mixed[:, [7, 13]] = points[::-1, [7, 13]]  # exchanged
    mixed[0, 9], mixed[1, 9] = points[1, 9], np.nan  # read for the other one alone
    places, foreign = regrouped(mixed, expected, MixConfig())
    assert places[0, [7, 13]].tolist() == [1, 1]
    assert places[1, [7, 13, 9]].tolist() == [0, 0, 0]
    assert places[0, 9] == -1
    rest = np.delete(np.arange(20), [7, 9, 13])
    assert (places[:, rest] == [[0], [1]]).all()
    assert np.argwhere(foreign).tolist() == [[0, 7], [0, 13], [1, 7], [1, 9], [1, 13]]


def test_somebody_read_as_a_part_of_another_is_put_together_again():
    expected, points = two_who_overlap()
    whole = points[:1].copy()
    whole[0, :8] = points[1, :8]
    places, _ = regrouped(whole, expected, MixConfig())
    assert places[0].tolist() == [-1] * 8 + [0] * 12
    assert places[1].tolist() == [0] * 8 + [-1] * 12


def test_from_somebody_who_was_looked_at_alone_nothing_is_taken():
    expected, points = two_who_overlap()
    whole = points[:1].copy()
    whole[0, :8] = points[1, :8]
    places, foreign = regrouped(whole, expected, MixConfig(), np.array([True]))
    assert places.tolist() == [[0] * 20]
    assert not foreign.any()
    mixed = points.copy()
    mixed[:, 7] = points[::-1, 7]
    places, _ = regrouped(mixed, expected, MixConfig(), np.array([True, False]))
    assert (places == [[0], [1]]).all()


def test_readings_stay_as_they_are_where_motion_says_nothing_else():
    expected, points = two_who_overlap()
    nobody = Expected(points[:0], np.zeros(0))
    for known in (expected, nobody, replace(expected, points=np.full_like(points, np.nan))):
        places, foreign = regrouped(points, known, MixConfig())
        assert (places == [[0], [1]]).all()
        assert not foreign.any()
    assert regrouped(points[:0], expected, MixConfig())[0].shape == (0, 20)


def test_a_cut_forgets_everybody_and_ids_are_not_used_again():
    rng = np.random.default_rng(1)
    cam = sim.camera()
    points = walkers([(-1, -4), (0.5, -4)], 20)
    people = sim.people3d(points, cam, rng)
    scenes = [np.kron(rng.integers(0, 255, (20, 32, 3)), np.ones((20, 20, 1))) for _ in range(2)]
    tracker = Tracker(TrackingConfig())
    seen = []
    for f in range(20):
        image = np.clip(scenes[f // 10] + rng.normal(0, 3, (400, 640, 3)), 0, 255).astype(np.uint8)
        matches = tracker.update(Frame(image, f / RATE, f, cam), people[f])
        assert matches.reset == (f == 10)
        seen.append({t.track_id for t, _ in matches.pairs} - {-1})
    assert seen[9] == {0, 1}
    assert seen[19] == {2, 3}


def test_a_second_reading_of_one_person_starts_nobody():
    cam = sim.camera()
    points = walkers([(-1, -4)], 10)
    twice = sim.people3d(np.repeat(points, 2, 1), cam, np.random.default_rng(0))
    tracker = Tracker(TrackingConfig())
    for d in sim.detections(points, cam, twice):
        pairs = tracker.update(d.frame, d.people).pairs
    assert len(pairs) == 1


def test_time_running_back_keeps_people_who_stand_where_they_stood():
    points = walkers([(-1, -4)], 40, (0.05, 0))
    times = np.concatenate([np.arange(20), np.arange(5, 25)]) / RATE
    ids = run(Tracker(TrackingConfig()), points, times=times)
    assert list(ids[-1]) == [0]


def test_oks_of_the_same_points_is_one_and_needs_common_points():
    p = np.random.default_rng(0).uniform(0, 100, (2, 20, 2))
    size = np.full((2, 2), 80.0)
    assert np.diag(oks(p, p, size)) == pytest.approx([1, 1])
    p[0] = np.nan
    assert oks(p, p, size)[0].max() == 0


def idf1(predicted, true):
    """IDF1 of lists over frames of {id: root}, pairs within 0.3 m (Ristani et al. 2016)."""
    a, b = (
        {i: k for k, i in enumerate(sorted({i for f in x for i in f}))} for x in (predicted, true)
    )
    together = np.zeros((len(a), len(b)))
    for p, q in zip(predicted, true):
        if p and q:
            way = np.linalg.norm(
                np.array(list(p.values()))[:, None] - np.array(list(q.values()))[None], axis=-1
            )
            for i, j in zip(*linear_sum_assignment(np.where(way < 0.3, way, 1e3))):
                if way[i, j] < 0.3:
                    together[a[list(p)[i]], b[list(q)[j]]] += 1
    rows, columns = linear_sum_assignment(-together)
    total = sum(map(len, predicted)) + sum(map(len, true))
    return 2 * together[rows, columns].sum() / total


@pytest.mark.slow
def test_ten_people_cross_hug_leave_and_return_for_two_minutes(capsys):
    rate, cam, rng = 10.0, sim.camera(1280, 720, 70), np.random.default_rng(3)
    points = sim.party(10, 120, rate, seed=4)
    people = sim.people3d(points, cam, rng, dt=1 / rate)
    tracker, predicted, true = Tracker(TrackingConfig()), [], []
    for f, d in enumerate(sim.detections(points, cam, people, sim.outfits(10, rng), rate)):
        assert isinstance(d, Detections)
        matches = tracker.update(d.frame, d.people)
        predicted.append(
            {t.track_id: d.people[j].root_m for t, j in matches.pairs if t.track_id >= 0}
        )
        way = [np.linalg.norm(points[f, :, 14] - p.root_m, axis=-1) for p in d.people]
        true.append({int(np.nanargmin(w)): p.root_m for w, p in zip(way, d.people)})
    assert np.mean([len(t) for t in true]) > 5
    with capsys.disabled():
        sys.stdout.write(f"\nIDF1 {idf1(predicted, true):.3f}")
    assert idf1(predicted, true) > 0.9
