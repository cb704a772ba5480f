"""What is known of every joint: seen, inferred, extrapolated or missing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.pose.joints import (
    EXTRAPOLATED,
    INFERRED,
    JOINTS,
    MISSING,
    PARENT,
    ROOT,
    SEEN,
    SHOWN_BY,
)

Float = NDArray[np.floating[Any]]
_J = len(JOINTS)
# How many bones away from the nearest seen joint a position is still worth showing.
_BONES_MAX = 3


def _bone_distance() -> NDArray[np.intp]:
    """Return (J, J): how many bones lie between two joints."""
    d = np.full((_J, _J), 99)
    np.fill_diagonal(d, 0)
    for j, p in enumerate(PARENT):
        if p >= 0:
            d[j, p] = d[p, j] = 1
    for k in range(_J):
        d = np.minimum(d, d[:, k : k + 1] + d[k : k + 1])
    return d


_CLOSE = _bone_distance() <= _BONES_MAX
_SHOWN = np.array(SHOWN_BY)


def shown_joints(confidence: Float) -> NDArray[np.bool_]:
    """Return (N, J): which 3D joints are seen, from confidences (N, K) of the 2D joints.

    Mid-head counts as seen with an ear, nose or eye; spine, hands and feet have no 2D joint.
    """
    seen = (confidence[:, np.maximum(_SHOWN, 0)] > 0) & (_SHOWN >= 0)
    seen[:, JOINTS.index("head")] = (confidence[:, :5] > 0).any(-1)
    return np.asarray(seen)


def joint_states(seen: NDArray[np.bool_], recent: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the state (N, J) of every joint.

    seen: its 2D joint was found in this picture; extrapolated: not now, but `recent`ly; inferred:
    never, but a joint at most three bones away is seen; else missing. The pelvis, being the root,
    is never missing while anything is seen.
    """
    near = seen @ _CLOSE
    near[:, ROOT] |= seen.any(-1)
    state = np.where(near, INFERRED, MISSING)
    state = np.where(recent, EXTRAPOLATED, state)
    return np.where(seen, SEEN, state).astype(np.uint8)
