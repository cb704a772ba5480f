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
# So far from the fitted body is a joint of a video believed, and so many medians of its person.
_LOOSE, _LOOSE_MEDIANS = 0.05, 1.5


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


def near_body(points_px: Float, body_px: Float) -> Float:
    """Return the 2D joints (N, K, 2) of a video drawn towards the fitted body; NaN stays NaN.

    points_px (N, K, 2) what was read; body_px (N, K, 2) where the fitted body has these joints. The
    body leaps less than what is read; a joint is shown at most a twentieth of the body's longer
    side away from it, in the direction in which it was read, and farther where all its joints are.
    """
    away = points_px - body_px
    far = np.linalg.norm(away, axis=-1)
    ok = np.isfinite(far)
    extent = _extent(body_px)
    count = ok.sum(1, keepdims=True)
    ranked = np.sort(np.where(ok, far, np.inf), axis=1)
    middle = np.concatenate([np.maximum(count - 1, 0) // 2, count // 2], 1)
    middle = np.minimum(middle, far.shape[1] - 1)
    median = np.take_along_axis(ranked, middle, 1).mean(1, keepdims=True)
    limit = np.maximum(_LOOSE * extent, _LOOSE_MEDIANS * median)
    share = np.minimum(1, limit / np.maximum(np.where(ok, far, 1), 1e-9))
    near = body_px + share[..., None] * away
    return np.asarray(np.where(ok[..., None], near, points_px))


def _extent(body_px: Float) -> Float:
    """Return the longer side (N, 1) px of bodies (N, K, 2) in the picture."""
    ok = np.isfinite(body_px)
    low, high = np.where(ok, body_px, np.inf).min(1), np.where(ok, body_px, -np.inf).max(1)
    return np.asarray((high - low).max(1, keepdims=True))


def off_body(points_px: Float, body_px: Float) -> NDArray[np.bool_]:
    """Return (N, K): the 2D joints that the fitted body contradicts.

    points_px (N, K, 2) what was read, NaN = not seen; body_px (N, K, 2) where the fitted body has
    these joints. A body of the right proportions cannot follow a single joint that went astray;
    where half of the joints are away from it, it is the body that is elsewhere, and nothing is
    said.
    """
    with np.errstate(invalid="ignore"):
        away = np.linalg.norm(points_px - body_px, axis=-1)
        astray = away > _ASTRAY * _extent(body_px)
    seen = np.isfinite(points_px).all(-1)
    return np.asarray(astray & (2 * astray.sum(1, keepdims=True) < seen.sum(1, keepdims=True)))
