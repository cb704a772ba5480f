"""The build of every person: bone lengths, symmetric, estimated over time and then kept.

One picture does not tell a small person near by from a tall one far away, so the size comes from
outside: a height the user gives, or the average body. What the pictures tell are proportions.

A bone's length is a compromise of the average body's and the median seen, weighted by what is
known of both: people differ by `SPREAD` (standard deviation of the log), a single frame errs by
`FRAME_ERROR`, and the lifting network as such by `BIAS`, which no number of frames cures.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.pose import skeleton as sk
from manypose.pose.joints import INDEX, MIRROR, PARENT

Float = NDArray[np.floating[Any]]
Rows = NDArray[np.intp]

_J = len(PARENT)
_PARENT = np.array([p if p >= 0 else j for j, p in enumerate(PARENT)])
_MIRROR = np.array(MIRROR)
# Measured on 104 rigged figures: 2 to 5 % by bone.
SPREAD, FRAME_ERROR, BIAS = 0.05, 0.15, 0.025
# Frames whose error of a bone exceeds this share of its length tell nothing of it.
_ERROR_MAX = 0.6
_BONES = np.array([j for j, p in enumerate(PARENT) if p >= 0])
_MAIN = np.array([INDEX[n] for n in ("r_elbow", "l_elbow", "r_knee", "l_knee", "neck")])


class Bodies:
    """Bone lengths of all tracks, one row each.

    lengths_m (rows, J) along `joints.PARENT`; ratio (rows,): this body's size against that of
    Stage II's output, by which its joints and distances are multiplied.
    """

    def __init__(self, rows: int, height_m: float | None = None, lock_after: int = 60) -> None:
        self.height_m = height_m or sk.AVERAGE_HEIGHT_M
        self.scale_source = "height" if height_m else "average-body"
        self._lock_after = max(lock_after, 1)
        self._seen = np.full((rows, self._lock_after, _J), np.nan, np.float32)
        self._count = np.zeros(rows, int)
        self.locked = np.zeros(rows, bool)
        self.lengths_m = np.zeros((rows, _J))
        self.ratio = np.ones(rows)
        self._average = sk.AVERAGE_LENGTHS_M * self.height_m / sk.AVERAGE_HEIGHT_M
        self.clear(np.arange(rows))

    def clear(self, rows: Rows) -> None:
        """Make these rows average bodies again."""
        self._seen[rows] = np.nan
        self._count[rows] = 0
        self.locked[rows] = False
        self.lengths_m[rows] = self._average
        self.ratio[rows] = self.height_m / sk.AVERAGE_HEIGHT_M

    def saved(self, row: int) -> tuple[Float, float, bool]:
        """Return what is known of one body, for `restore`."""
        return self.lengths_m[row].copy(), float(self.ratio[row]), bool(self.locked[row])

    def restore(self, row: int, body: tuple[Float, float, bool]) -> None:
        """Give a row the body of a person known from before."""
        self.lengths_m[row], self.ratio[row], self.locked[row] = body

    def observe(self, rows: Rows, joints_rel_m: Float, sigma_m: Float) -> None:
        """Learn from the poses (N, J, 3) of one frame with errors (N, J), metres.

        Lengths are recomputed at every frame at first, then ever more seldom, and never once
        `lock_after` frames with sure limbs and trunk have been seen.
        """
        open_ = ~self.locked[rows]
        if not open_.any():
            return
        rows = rows[open_]
        bone = joints_rel_m[open_] - joints_rel_m[open_][:, _PARENT]
        sigma = sigma_m[open_] / np.sqrt(3)  # along one axis
        error2 = sigma**2 + sigma[:, _PARENT] ** 2
        length = np.linalg.norm(bone, axis=-1)
        # noise across the bone makes it look longer: E|v + n|^2 = |v|^2 + 2 s^2 (two axes)
        square = length**2 - 2 * error2
        good = (square > 0.25 * length**2) & (np.sqrt(error2) < _ERROR_MAX * self._average)
        value = np.where(good, np.sqrt(np.maximum(square, 1e-6)), np.nan)
        sure = good[:, _MAIN].sum(-1) >= 3
        use = rows[sure]
        self._seen[use, self._count[use] % self._lock_after] = value[sure]
        self._count[use] += 1
        count = self._count[use]
        self.locked[use] = count >= self._lock_after
        due = (count <= 8) | (count % 8 == 0) | self.locked[use]
        if due.any():
            self._estimate(use[due])

    def _estimate(self, rows: Rows) -> None:
        seen = self._seen[rows][:, : int(self._count[rows].max())]
        both = np.concatenate([seen, seen[:, :, _MIRROR]], 1)  # left and right as one
        n = np.isfinite(both).sum(1) / 2
        # median of what is there: NaN sorts to the end
        order = np.sort(both, axis=1)
        middle = np.maximum(np.isfinite(both).sum(1) - 1, 0)
        low, high = (
            np.take_along_axis(order, i[:, None], 1)[:, 0] for i in (middle // 2, (middle + 1) // 2)
        )
        median = np.where(n > 0, (low + high) / 2, self._average)
        # size first, from bones seen, then proportions against the average body of that size
        log = np.where(n > 0, np.log(np.maximum(median, 1e-3) / np.maximum(self._average, 1e-6)), 0)
        main = n * self._average
        size = (log * main)[:, _BONES].sum(-1) / np.maximum(main[:, _BONES].sum(-1), 1e-6)
        trust = SPREAD**2 / (SPREAD**2 + BIAS**2 + FRAME_ERROR**2 / np.maximum(n, 0.1))
        shape = np.where(n > 0, trust * (log - size[:, None]), 0)
        lengths = self._average * np.exp(shape)
        lengths *= (self.height_m / sk.stature_m(lengths))[:, None]
        self.lengths_m[rows] = lengths
        # ratio of this body to the one Stage II shows, over the bones seen; near one at first
        part = np.where(n > 0, np.log(np.maximum(lengths, 1e-3) / np.maximum(median, 1e-3)), 0)
        factor = (part * main)[:, _BONES].sum(-1) / np.maximum(main[:, _BONES].sum(-1), 1e-6)
        few = np.minimum(self._count[rows] / 4, 1)
        start = np.log(self.height_m / sk.AVERAGE_HEIGHT_M)
        self.ratio[rows] = np.exp(
            start + few * (np.clip(factor, start - 0.35, start + 0.35) - start)
        )
