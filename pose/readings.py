"""What is told of all readings of a frame at once: who is sound, and the boxes round them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.pose.records import Person3D

Float = NDArray[np.floating[Any]]

# A person behind the camera, nearer than an arm or farther than this is a misreading.
_NEAR_M, _FAR_M = 0.15, 200.0
# A 2D joint farther from the fitted body than this share of its longer side is somebody else's, or
# nobody's: `python -m tests.off_body` says how often that is true.
_ASTRAY = 0.2


def sane(people: Sequence[Person3D]) -> list[Person3D]:
    """Return those whose numbers are finite and whose bodies can stand in a picture.

    Of those who are not lifted nothing is known: they stay.
    """
    if not any(p.lifted for p in people):
        return list(people)
    joints = np.array([p.joints_rel_m for p in people])
    sigma = np.array([p.sigma_m for p in people])
    root = np.array([p.root_m for p in people])
    single = np.array([(p.root_sigma_m, p.seen.score) for p in people])
    confidence = np.array([p.seen.confidence for p in people])
    good = (np.abs(joints) < 3.0).all((1, 2)) & (confidence > 0).any(1)  # no NaN is below 3
    good &= np.isfinite(sigma).all(1) & np.isfinite(root).all(1) & np.isfinite(single).all(1)
    good &= (root[:, 2] > _NEAR_M) & (root[:, 2] < _FAR_M)
    return [p for p, fine in zip(people, good.tolist()) if fine or not p.lifted]


def boxes_round(points: Float) -> Float:
    """Return x y w h (N, 4) round points (N, K, 2) that are not NaN; NaN when there are none."""
    ok = np.isfinite(points)
    low = np.where(ok, points, np.inf).min(1)
    size = np.where(ok, points, -np.inf).max(1) - low
    return np.asarray(np.where(np.isfinite(low[:, :1]), np.concatenate([low, size], -1), np.nan))


def off_body(points_px: Float, body_px: Float) -> NDArray[np.bool_]:
    """Return (N, K): the 2D joints that the fitted body contradicts.

    points_px (N, K, 2) what was read, NaN = not seen; body_px (N, K, 2) where the fitted body has
    these joints. A body of the right proportions cannot follow a single joint that went astray;
    where half of the joints are away from it, it is the body that is elsewhere, and nothing is
    said.
    """
    ok = np.isfinite(body_px)
    low, high = np.where(ok, body_px, np.inf).min(1), np.where(ok, body_px, -np.inf).max(1)
    extent = (high - low).max(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        away = np.linalg.norm(points_px - body_px, axis=-1)
        astray = away > _ASTRAY * extent
    seen = np.isfinite(points_px).all(-1)
    return np.asarray(astray & (2 * astray.sum(1, keepdims=True) < seen.sum(1, keepdims=True)))
