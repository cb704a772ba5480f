"""People close to the camera, whom a network sees best in a small picture.

A network knows people of the sizes it was taught. Of somebody who fills the picture, as before a
webcam, it finds single joints; shown the same picture smaller, the whole person. Their joints are
coarser there, so only people are taken over whom the usual look would not have shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.pose.joining import statures
from manypose.pose.portraits import boxes
from manypose.pose.records import Float, Person2D

_LARGE = 0.5  # of the height of the network's input, between the outermost joints
_FRAGMENT = 0.4  # of that height: somebody close leaves at least such pieces
_SHOWN = 0.4  # the score from which people are reported
_NEAR = 0.2  # of the person's size: two readings of one joint
_SAME = 0.3  # of the joints of either person
_CUT_OFF = 1.2  # the stature, of the height of the picture, of somebody who is not all in it
# Scores from which somebody read in the middle counts: beside others, and where nobody else is.
_SURE, _ALONE = 0.45, 0.6
_CROWD = 5  # so many people are not before a webcam
_UNSURE = 0.5  # the score below which all readings of a picture may be wrong
_UNTOLD = 0.7  # the score of who was read without being told anything counts so much
_COVERED = 0.5  # of a box: readings that have so much in common are of one person


def may_be_close(people: Sequence[Person2D], width: int, height: int) -> bool:
    """Return whether the smaller look is worth its time: nobody was found, or unexplained pieces.

    people: what the usual look found in a picture of width x height px.
    """
    shown = [_box_px(p) for p in people if p.score >= _SHOWN]
    if not shown:
        return True
    least_px = _FRAGMENT * max(height, width / 1.6)
    for person in people:
        low, high = _box_px(person)
        if person.score < _SHOWN and (high - low).max() > least_px:
            middle = (low + high) / 2
            if not any((a <= middle).all() and (middle <= b).all() for a, b in shown):
                return True
    return False


def with_close_ups(
    people: Sequence[Person2D], closer: Sequence[Person2D], width: int, height: int
) -> list[Person2D]:
    """Return the people of a picture, those of a smaller look added who are large and were missed.

    people, closer: what the usual and the smaller look found, image px; width, height: of the
    picture, px. Whoever is added takes the place of the unsure people made of the same joints.
    """
    found = list(people)
    least_px = _LARGE * max(height, width / 1.6)
    for person in sorted(closer, key=lambda p: -p.score):
        if person.score < _SHOWN or (size_px := _extent_px(person)) < least_px:
            continue
        same = [p for p in found if are_one(p, person, _NEAR * size_px)]
        if all(p.score < _SHOWN for p in same):
            found = [p for p in found if not any(p is s for s in same)] + [person]
    return sorted(found, key=lambda p: -p.score)


def cut_off(people: Sequence[Person2D], width: int, height: int) -> bool:
    """Return whether nobody is shown, or somebody of few too large to be all in the picture, px."""
    shown = [p for p in people if p.score >= _SHOWN]
    if len(shown) >= _CROWD:
        return False
    return not shown or any(_too_tall(p, width, height) for p in shown)


def unsure(people: Sequence[Person2D]) -> bool:
    """Return whether nobody in a picture was read surely: they may be upside down, or crouch."""
    return all(p.score < _UNSURE for p in people)


def with_middle(
    people: Sequence[Person2D], person: Person2D, width: int, height: int
) -> list[Person2D]:
    """Return the people of a picture, and who was read in its middle where that is to be believed.

    Whoever is close to the camera is added, others only where nobody is sure, if they are surer
    than everybody. Unsure readings that they cover are theirs. width, height: px.
    """
    close = is_close(person, people, width, height)
    if not unsure(people):
        return [*people, person] if close else list(people)
    score = person.score if close else _UNTOLD * person.score
    if not close and any(p.score >= score for p in people):
        return list(people)
    own = _corners_px(person)
    rest = [p for p in people if _common(_corners_px(p), own) < _COVERED]
    return [*rest, replace(person, score=score)]


def _corners_px(person: Person2D) -> Float:
    return np.asarray(boxes([person])[0])


def _common(a_px: Float, b_px: Float) -> float:
    """Return the share of a box, corners, that another one covers."""
    side = np.minimum(a_px[2:], b_px[2:]) - np.maximum(a_px[:2], b_px[:2])
    return float(side.clip(0).prod() / (a_px[2:] - a_px[:2]).prod())


def _too_tall(person: Person2D, width: int, height: int) -> bool:
    points = np.where(person.confidence[:, None] > 0, person.joints_px, np.nan)
    return bool(statures(points[None])[0] > _CUT_OFF * max(height, width / 1.6))


def middle(width: int, height: int) -> Float:
    """Return corners x1 y1 x2 y2, px, of the middle of a picture, where people before it are."""
    high = min(height, width / 0.75)
    half = np.array([0.375 * high, 0.5 * high])
    centre = np.array([width / 2, height / 2])
    return np.concatenate([centre - half, centre + half])


def is_close(person: Person2D, people: Sequence[Person2D], width: int, height: int) -> bool:
    """Return whether who was read in the middle of a picture is to be believed.

    people: who is there otherwise; where nobody is, they must be surer. width, height: px.
    """
    least = _SURE if any(p.score >= _SHOWN for p in people) else _ALONE
    return person.score >= least and _too_tall(person, width, height)


def _box_px(person: Person2D) -> tuple[NDArray[Any], NDArray[Any]]:
    seen: NDArray[Any] = person.joints_px[person.confidence > 0]
    return seen.min(0), seen.max(0)


def _extent_px(person: Person2D) -> float:
    low, high = _box_px(person)
    return float((high - low).max())


def are_one(a: Person2D, b: Person2D, near_px: float) -> bool:
    """Return whether two readings share a third of the joints of the one that has fewer."""
    both = (a.confidence > 0) & (b.confidence > 0)
    apart_px = np.hypot(*(a.joints_px - b.joints_px)[both].T)
    least = min((a.confidence > 0).sum(), (b.confidence > 0).sum())
    return bool((apart_px < near_px).sum() > _SAME * least)
