"""First readings of photos: what the program finds in the whole picture, to learn beside it.

Faults that are drawn by chance are more innocent than real ones, which come together and where the
picture is hard; a network that learnt from drawn ones alone believes too much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from manypose.models.train.packs import Photo
from manypose.pose.joints import JOINTS_2D
from manypose.pose.portraits import boxes, likenesses
from manypose.pose.records import Person2D

Array = NDArray[Any]
Find = Callable[[Photo], list[Person2D]]
OTHERS = 2  # readings of other people that are kept, the nearest
_ALIKE = 0.3  # a reading is somebody's whose box or joints are so much like theirs
_APART = 0.1  # and nobody's whose box overlaps that of nobody more


def of_people(photo: Photo, people: Sequence[Person2D]) -> list[int | None]:
    """Return which of the people found is each labelled one of a photo."""
    n = len(photo.joints_px)
    out: list[int | None] = [None] * n
    if not n or not people:
        return out
    joints = np.where(photo.joints_px[..., 2:] > 0, photo.joints_px[..., :2], np.nan)
    sure = (photo.joints_px[..., 2] > 0).astype(float)
    labelled = [Person2D(joints[i], sure[i], 1.0) for i in range(n)]
    alike = np.maximum(likenesses(labelled, people), _overlaps(_corners(photo), boxes(people)))
    for a, b in zip(*linear_sum_assignment(-alike)):
        if alike[a, b] >= _ALIKE:
            out[a] = int(b)
    return out


def of_nobody(photo: Photo, people: Sequence[Person2D]) -> list[int]:
    """Return which of the people found are nobody, in a photo whose people are all labelled."""
    whole = photo.source.startswith("render") or not len(photo.joints_px)
    if len(photo.ignore_px) or not whole or not people:
        return []
    if not len(photo.joints_px):
        return list(range(len(people)))
    near = _overlaps(boxes(people), _corners(photo)).max(1)
    return np.flatnonzero(near < _APART).tolist()


def readings(people: Sequence[Person2D], own: int | None, affine: Array, middle: Array) -> Array:
    """Return joints (1 + OTHERS, K, 3) of a person and the nearest others: px, px and how sure.

    own: the person's number among the people found; middle (2,): theirs, image px; affine (2, 3):
    image px to those wanted.
    """
    out = np.zeros((1 + OTHERS, len(JOINTS_2D), 3), np.float32)
    corners = boxes(people) if people else np.zeros((0, 4))
    far = np.linalg.norm((corners[:, :2] + corners[:, 2:]) / 2 - middle, axis=1)
    order = [int(n) for n in np.argsort(far) if n != own][:OTHERS]
    for row, n in enumerate([own, *order]):
        if n is None:
            continue
        sure = people[n].confidence > 0
        out[row, sure, :2] = people[n].joints_px[sure] @ affine[:, :2].T + affine[:, 2]
        out[row, sure, 2] = people[n].confidence[sure]
    return out


def _corners(photo: Photo) -> Array:
    return np.concatenate([photo.box_px[:, :2], photo.box_px[:, :2] + photo.box_px[:, 2:]], 1)


def _overlaps(a: Array, b: Array) -> Array:
    """Return intersection over union (A, B) of boxes given by corners."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = (high - low).clip(0).prod(-1)
    areas = [(v[:, 2:] - v[:, :2]).prod(1) for v in (a, b)]
    return np.asarray(both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-6))
