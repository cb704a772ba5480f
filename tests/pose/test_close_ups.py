from __future__ import annotations

from dataclasses import replace

import numpy as np

from manypose.pose.close_ups import (
    cut_off,
    is_close,
    may_be_close,
    middle,
    unsure,
    with_close_ups,
    with_middle,
)
from manypose.pose.joints import INDEX_2D, JOINTS_2D
from manypose.pose.records import Person2D

W, H = 640, 400
K = len(JOINTS_2D)


def person(score: float, middle: tuple[float, float], tall_px: float, seen: int = K) -> Person2D:
    """Return somebody whose joints lie on a zigzag of this height round a middle."""
    rng = np.random.default_rng(5)
    joints = np.array(middle) + tall_px * (rng.random((K, 2)) - 0.5)
    joints[0, 1], joints[1, 1] = middle[1] - tall_px / 2, middle[1] + tall_px / 2
    joints[seen:] = np.nan
    confidence = np.where(np.arange(K) < seen, score, 0.0)
    return Person2D(joints, confidence, score)


def test_somebody_large_who_was_missed_is_added_in_place_of_their_pieces() -> None:
    close = person(0.7, (300, 200), 380)
    piece = replace(close, score=0.2, confidence=np.where(np.arange(K) < 5, 0.2, 0.0))
    other = person(0.6, (80, 100), 90)
    assert with_close_ups([other, piece], [close], W, H) == [close, other]
    assert with_close_ups([], [close], W, H) == [close]


def test_who_was_found_small_or_unsure_stays_as_they_are() -> None:
    close = person(0.7, (300, 200), 380)
    usual = replace(close, joints_px=close.joints_px + 6.0, score=0.45)
    assert with_close_ups([usual], [close], W, H) == [usual]  # finer joints
    assert with_close_ups([usual], [person(0.9, (80, 100), 120)], W, H) == [usual]
    assert with_close_ups([usual], [person(0.3, (80, 200), 390)], W, H) == [usual]
    assert with_close_ups([], [], W, H) == []


def test_the_smaller_look_is_taken_where_somebody_may_be_missing() -> None:
    shown = person(0.8, (300, 200), 200)
    assert may_be_close([], W, H)
    assert may_be_close([person(0.3, (300, 200), 60)], W, H)
    assert not may_be_close([shown], W, H)
    assert not may_be_close([shown, person(0.3, (90, 200), 60)], W, H)
    assert may_be_close([shown, person(0.3, (560, 200), 220)], W, H)
    assert not may_be_close([shown, person(0.3, (310, 210), 220)], W, H)  # made of shown joints


def before_the_camera(shoulders_px: float) -> Person2D:
    """Return somebody of whom shoulders, so wide, and nose are seen."""
    joints = np.full((K, 2), np.nan)
    joints[INDEX_2D["l_shoulder"]] = 300 + shoulders_px / 2, 250
    joints[INDEX_2D["r_shoulder"]] = 300 - shoulders_px / 2, 250
    joints[INDEX_2D["nose"]] = 300, 250 - 0.6 * shoulders_px
    return Person2D(joints, np.where(np.isnan(joints[:, 0]), 0.0, 0.8), 0.6)


def test_who_does_not_fit_into_the_picture_is_known_by_their_stature() -> None:
    small, large = before_the_camera(60), before_the_camera(160)
    assert cut_off([], W, H)
    assert cut_off([replace(small, score=0.3)], W, H)
    assert not cut_off([small], W, H)
    assert cut_off([small, large], W, H)
    assert not cut_off([small, large] * 3, W, H), "a crowd is not before a webcam"


def test_the_middle_is_as_high_as_the_picture_or_as_wide() -> None:
    np.testing.assert_allclose(middle(W, H), [170, 0, 470, 400])
    np.testing.assert_allclose(middle(270, 480), [0, 60, 270, 420])


def test_who_is_read_in_the_middle_must_be_large_and_surer_where_nobody_is() -> None:
    others = [person(0.5, (80, 100), 90)]
    small, large = (replace(before_the_camera(w), score=0.5) for w in (60, 160))
    assert is_close(large, others, W, H)
    assert not is_close(small, others, W, H)
    assert not is_close(large, [], W, H)
    assert is_close(replace(large, score=0.65), [], W, H)


def test_who_is_read_untold_takes_the_place_of_unsure_readings_of_the_same_person() -> None:
    acrobat = replace(before_the_camera(60), score=0.8)
    upside_down = acrobat.joints_px * (1, -1) + (0, 2 * np.nanmean(acrobat.joints_px[:, 1]))
    wrong, far = replace(acrobat, joints_px=upside_down, score=0.3), person(0.35, (60, 60), 60)
    assert unsure([])
    assert unsure([wrong, far])
    assert not unsure([wrong, replace(far, score=0.6)])
    kept, added = with_middle([far, wrong], acrobat, W, H)
    assert kept == far
    assert added.joints_px is acrobat.joints_px
    assert 0.35 < added.score < acrobat.score
    (alone,) = with_middle([], acrobat, W, H)
    assert alone.score == added.score
    others = [replace(far, score=0.6), wrong]  # somebody is sure
    assert with_middle(others, acrobat, W, H) == others
    weak = replace(acrobat, score=0.4)  # no surer than they
    assert with_middle([far, wrong], weak, W, H) == [far, wrong]
    large = replace(before_the_camera(160), score=0.8)
    kept, added = with_middle([far, wrong], large, W, H)
    assert kept == far
    assert (added.joints_px is large.joints_px, added.score) == (True, 0.8)
    assert with_middle(others, large, W, H) == [*others, large]
