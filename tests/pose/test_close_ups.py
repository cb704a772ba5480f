from __future__ import annotations

from dataclasses import replace

import numpy as np

from manypose.pose.close_ups import may_be_close, with_close_ups
from manypose.pose.joints import JOINTS_2D
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
