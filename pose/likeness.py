"""The detections of one frame as arrays, and how alike two sets of 2D points are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.pose.joints import MIRROR_2D, OKS_SIGMAS
from manypose.pose.records import Person3D

Float = NDArray[np.floating[Any]]

_SPREAD = 2 * OKS_SIGMAS.astype(float) * 1.5
_ONES = np.ones(len(_SPREAD))  # products add up faster than sums along so short an axis
_FAR_PX, _EXPONENT_MIN = 1e12, -40.0


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """The people of one frame as arrays over M detections."""

    points: Float
    sizes: Float
    poses: Float
    roots: Float
    scores: Float


def oks(a: Float, b: Float, size: Float, slack: Float | float = 1.0) -> Float:
    """Return the likeness (A, B) in [0, 1] of point sets (A, K, 2) and (B, K, 2), NaN = not seen.

    Object keypoint similarity with `size` (A, B) px as the root of the area; `slack` (A,) widens
    the tolerance. Pairs without common points get 0; few common points count less.
    """
    seen_a, seen_b = np.isfinite(a[..., 0] + a[..., 1]), np.isfinite(b[..., 0] + b[..., 1])
    # joints not seen are put so far away, each side to its own end, that they add nothing
    ax, ay = np.where(seen_a, a.transpose(2, 0, 1), _FAR_PX) / _SPREAD
    bx, by = np.where(seen_b, b.transpose(2, 0, 1), -_FAR_PX) / _SPREAD
    e, y = ax[:, None] - bx, ay[:, None] - by
    e *= e
    y *= y
    e += y
    e *= (-0.5 / (size * np.reshape(slack, (-1, 1))) ** 2)[..., None]
    # exp is slow, slowest where its result is too small to count, as it is for most pairs
    on = np.flatnonzero(e > _EXPONENT_MIN)
    share = np.zeros(e.shape)
    share.reshape(-1)[on] = np.exp(e.reshape(-1).take(on))
    n = seen_a.astype(float) @ seen_b.T
    return np.asarray((share @ _ONES) / np.maximum(n, 1) * np.minimum(1, n / 3))


def alike(a: Float, b: Float, size: Float, slack: Float | float = 1.0) -> Float:
    """Return `oks`, or that of b with left and right exchanged where this is larger."""
    return np.maximum(oks(a, b, size, slack), oks(a, b[:, MIRROR_2D], size, slack))


def stacked(people: Sequence[Person3D]) -> Seen:
    """Return the people of one frame as arrays; sizes as the root of the box's area, px."""
    k, j = len(OKS_SIGMAS), (people[0].joints_rel_m.shape[0] if people else 21)
    points = np.array([p.seen.joints_px for p in people], float).reshape(-1, k, 2)
    poses = np.array([p.joints_rel_m for p in people], float).reshape(-1, j, 3)
    roots = np.array([p.root_m for p in people], float).reshape(-1, 3)
    scores = np.array([p.seen.score for p in people], float)
    low = np.where(np.isfinite(points), points, np.inf).min(1)
    high = np.where(np.isfinite(points), points, -np.inf).max(1)
    side = np.maximum(np.where(high >= low, high - low, 1.0), 1.0)
    sizes = np.maximum(np.sqrt(side[:, 0] * side[:, 1]), 0.4 * side.max(-1, initial=0))
    return Seen(points, sizes, poses, roots, scores)
