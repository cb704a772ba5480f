from __future__ import annotations

import numpy as np
import pytest

from manypose.pose.tracking_scores import Sightings, closeness, tracking_scores


def frames(*found: dict[int, int], true: tuple[int, ...] = (1, 2)) -> list[Sightings]:
    """Each dict: found id -> the true id it lies on (0: nobody)."""
    out = []
    for one in found:
        ids = list(one)
        alike = np.array([[float(one[i] == t) for i in ids] for t in true]).reshape(
            len(true), len(ids)
        )
        out.append(Sightings(np.array(true), np.array(ids, int), alike))
    return out


def test_perfect_tracks_score_one() -> None:
    scores = tracking_scores(frames({7: 1, 9: 2}, {9: 2, 7: 1}, {7: 1, 9: 2}))
    assert [scores[k] for k in ("MOTA", "IDF1", "HOTA", "DetA", "AssA", "LocA")] == [1.0] * 6
    assert scores["switches"] == scores["misses"] == scores["false_positives"] == 0


def test_one_exchange_of_two_people_half_way() -> None:
    scores = tracking_scores(frames({7: 1, 9: 2}, {7: 1, 9: 2}, {7: 2, 9: 1}, {7: 2, 9: 1}))
    assert scores["switches"] == 2
    assert scores["MOTA"] == pytest.approx(1 - 2 / 8)
    assert scores["IDF1"] == pytest.approx(0.5)
    # all eight detections right, each pair of ids together in 2 frames of 4 + 4 - 2
    assert scores["DetA"] == 1
    assert scores["AssA"] == pytest.approx(1 / 3)
    assert scores["HOTA"] == pytest.approx(np.sqrt(1 / 3))


def test_misses_and_ghosts() -> None:
    scores = tracking_scores(frames({7: 1, 9: 2}, {7: 1}, {7: 1, 9: 2, 5: 0}, {7: 1, 9: 2}))
    assert (scores["misses"], scores["false_positives"], scores["switches"]) == (1, 1, 0)
    assert scores["MOTA"] == pytest.approx(1 - 2 / 8)
    assert scores["IDF1"] == pytest.approx(2 * 7 / (8 + 8))
    assert scores["DetA"] == pytest.approx(7 / 9)
    # id 7: 4 of 4; id 9: 3 of 4 in each of its 3 detections
    assert scores["AssA"] == pytest.approx((4 * 1 + 3 * 3 / 4) / 7)


def test_a_return_under_a_new_id_is_one_switch() -> None:
    scores = tracking_scores(frames({7: 1}, {}, {8: 1}, {8: 1}, true=(1,)))
    assert (scores["switches"], scores["misses"]) == (1, 1)
    assert scores["IDF1"] == pytest.approx(2 * 2 / (4 + 3))


def test_nothing_found_and_nobody_there() -> None:
    scores = tracking_scores(frames({}, {}))
    assert (scores["MOTA"], scores["IDF1"], scores["HOTA"]) == (0, 0, 0)
    ghosts = tracking_scores(frames({4: 0}, {4: 0}, true=()))
    assert np.isnan(ghosts["MOTA"])
    assert (ghosts["IDF1"], ghosts["HOTA"]) == (0, 0)
    assert np.isnan(tracking_scores([])["HOTA"])


def test_hota_counts_each_threshold_for_itself() -> None:
    one = [Sightings(np.array([1]), np.array([3]), np.array([[0.5]]))] * 3
    scores = tracking_scores(one)
    # right for the 10 thresholds up to 0.5, wrong for the other 9
    assert scores["HOTA"] == pytest.approx(10 / 19)
    assert scores["LocA"] == pytest.approx((10 * 0.5 + 9) / 19)
    assert scores["MOTA"] == 1
    assert tracking_scores(one, threshold=0.51)["MOTA"] == -1


def test_a_match_of_the_frame_before_is_kept_while_near_enough() -> None:
    first = Sightings(np.array([1]), np.array([7, 8]), np.array([[0.9, 0.0]]))
    second = Sightings(np.array([1]), np.array([7, 8]), np.array([[0.6, 0.9]]))
    assert tracking_scores([first, second])["switches"] == 0


def test_closeness_is_a_half_at_the_reach() -> None:
    true, found = np.zeros((1, 3)), np.array([[0, 0, 0], [0.25, 0, 0], [0, 0.5, 0], [np.nan, 0, 0]])
    assert closeness(true, found, 0.25).tolist() == [[1, 0.5, 0, 0]]


def test_wrong_sightings_are_refused() -> None:
    with pytest.raises(ValueError, match="alike: shape"):
        Sightings(np.array([1]), np.array([2]), np.zeros((2, 1)))
    with pytest.raises(ValueError, match="twice"):
        Sightings(np.array([1, 1]), np.array([2]), np.zeros((2, 1)))
