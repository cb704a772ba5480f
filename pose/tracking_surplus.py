"""Which detections are nobody of their own: lines taken for people, and parts of somebody found.

A network that is unsure finds a person twice, or an arm beside the whole. Such a reading starts
nobody and must lead no track astray.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.pose.joints import LIMBS
from manypose.pose.likeness import Seen

Float = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

_LIMBS = np.array(LIMBS, np.intp)
# A body is never so thin in a picture: spread across over spread along. People seen from the side
# had 0.077 and more in 99 of 100 detections; the edge of a shelf 0.03.
_THIN_MAX, _THIN_JOINTS = 0.05, 10
# A reading is a part of somebody if so many of its joints lie so near to their limbs, in sizes.
_PART_SHARE, _PART_NEAR = 0.6, 0.12


def thin(points: Float) -> Mask:
    """Return (M,) whether joints (M, K, 2), NaN = not seen, lie on a line as no body's do."""
    seen = np.isfinite(points[..., 0])
    count = np.maximum(seen.sum(1), 1)[:, None]
    flat = np.where(seen[..., None], points, 0.0)
    flat = np.where(seen[..., None], flat - (flat.sum(1) / count)[:, None], 0.0)
    xx, yy = (flat**2).sum(1).T
    xy = flat.prod(-1).sum(1)
    # eigenvalues of the 2 x 2 scatter: half its trace plus or minus this
    half, root = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    line = np.maximum(half - root, 0) < _THIN_MAX**2 * (half + root)
    return np.asarray(line & (count[:, 0] >= _THIN_JOINTS))


def parts(seen: Seen, weak: Mask, sound: Mask) -> Mask:
    """Return (M,) which of the weak detections lie on one of the sound ones."""
    out = np.zeros(len(weak), bool)
    i, j = np.flatnonzero(weak), np.flatnonzero(sound)
    if not len(i) or not len(j):
        return out
    # P pairs with enough joints in the box: those outside lie on no limb in it
    there = np.isfinite(seen.points[..., 0])
    low = np.where(there[..., None], seen.points, np.inf).min(1)
    high = np.where(there[..., None], seen.points, -np.inf).max(1)
    room = (_PART_NEAR * seen.sizes[j])[:, None]
    at, least, most = (
        v.transpose(2, 0, 1)
        for v in (seen.points[i], (low[j] - room)[None], (high[j] + room)[None])
    )
    inside = (at[:, :, None] >= least[..., None]) & (at[:, :, None] <= most[..., None])
    enough = (inside[0] & inside[1]).sum(-1) >= _PART_SHARE * there[i].sum(-1, keepdims=True)
    weaker, other = np.nonzero(enough)
    i, j = i[weaker], j[other]
    ax, ay = seen.points[j][:, None, _LIMBS[:, 0]].transpose(3, 0, 1, 2)  # (P, 1, L)
    bx, by = seen.points[j][:, None, _LIMBS[:, 1]].transpose(3, 0, 1, 2)
    px, py = seen.points[i][..., None].transpose(2, 0, 1, 3)  # (P, K, 1)
    ux, uy = bx - ax, by - ay
    dx, dy = px - ax, py - ay
    t = (dx * ux + dy * uy) / np.maximum(ux * ux + uy * uy, 1e-6)
    t = np.minimum(np.maximum(t, 0), 1)
    away2 = (dx - t * ux) ** 2 + (dy - t * uy) ** 2  # (P, K, L)
    nearest = np.where(np.isfinite(away2), away2, np.inf).min(-1)
    on = (nearest < ((_PART_NEAR * seen.sizes[j]) ** 2)[:, None]) & there[i]
    share = on.sum(-1) / np.maximum(there[i].sum(-1), 1)
    out[i[share >= _PART_SHARE]] = True
    return out
