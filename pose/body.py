"""The build of every person: bone lengths, symmetric, estimated over time and then kept.

Joints in a picture do not tell a small person near by from a tall one far away, so the size comes
from outside: a height the user gives, or the average body, which gives way as far as Stage II knows
the size better (its encodings may tell). What the pictures always tell are proportions.

A bone's length is a compromise of the average body's and the median seen, weighted by what is
known of both: people differ by `SPREAD` (standard deviation of the log), a single frame errs by
what Stage II states, and the network as such by the share `BIAS` of that, which no number of frames
cures. Lengths are taken as they are: Stage II answers with means, which do not grow with noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.pose import skeleton as sk
from manypose.pose.joints import INDEX, MIRROR, PARENT
from manypose.pose.placement import SIZE_SPREAD

Float = NDArray[np.floating[Any]]
Rows = NDArray[np.intp]

_J = len(PARENT)
_PARENT = np.array([p if p >= 0 else j for j, p in enumerate(PARENT)])
_MIRROR = np.array(MIRROR)
# People round the average body of their stature: 2 to 8 % by bone on 104 rigged figures, most in
# the trunk.
SPREAD = 0.07
# Medians of held-out people's bones missed the truth by a quarter of what Stage II states for one
# frame; by far less where the bones were read (`BIAS_READ`, as far as the size is known).
BIAS, BIAS_READ = 0.25, 0.05
# So many frames count as one: frames resemble each other.
_ALIKE = 3.0
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
        # sums over frames: squares of the relative errors of bones and how many there were
        self._square, self._summed = np.zeros((rows, _J)), np.zeros((rows, _J))
        self._size_square, self._frames = np.zeros(rows), np.zeros(rows)
        self.locked = np.zeros(rows, bool)
        self.lengths_m = np.zeros((rows, _J))
        self.ratio = np.ones(rows)
        self._average = sk.AVERAGE_LENGTHS_M * self.height_m / sk.AVERAGE_HEIGHT_M
        self.clear(np.arange(rows))

    def clear(self, rows: Rows) -> None:
        """Make these rows average bodies again."""
        self._seen[rows] = np.nan
        self._count[rows] = 0
        self._square[rows] = self._summed[rows] = 0
        self._size_square[rows] = self._frames[rows] = 0
        self.locked[rows] = False
        self.lengths_m[rows] = self._average
        self.ratio[rows] = self.height_m / sk.AVERAGE_HEIGHT_M

    def saved(self, row: int) -> tuple[Any, ...]:
        """Return all that is known of one body, for `restore`."""
        return tuple(np.copy(whole[row]) for whole in self._all())

    def restore(self, row: int, body: tuple[Any, ...]) -> None:
        """Give a row the body of a person known from before."""
        for whole, part in zip(self._all(), body, strict=True):
            whole[row] = part

    def _all(self) -> tuple[NDArray[Any], ...]:
        return (
            self.lengths_m, self.ratio, self.locked, self._seen, self._count, self._square,
            self._summed, self._size_square, self._frames,
        )  # fmt: skip

    def observe(
        self, rows: Rows, joints_rel_m: Float, sigma_m: Float, size_error: Float | None = None
    ) -> None:
        """Learn from the poses (N, J, 3) of one frame with errors (N, J), metres.

        `size_error` (N,) is what is expected of the poses' size (of its log); without, they tell
        nothing of it. Lengths are recomputed at every frame at first, then ever more seldom, and
        never once `lock_after` frames with sure limbs and trunk have been seen.
        """
        open_ = ~self.locked[rows]
        if not open_.any():
            return
        rows = rows[open_]
        bone = joints_rel_m[open_] - joints_rel_m[open_][:, _PARENT]
        sigma = sigma_m[open_] / np.sqrt(3)  # along one axis
        error = np.sqrt(sigma**2 + sigma[:, _PARENT] ** 2)
        relative = error / np.maximum(self._average, 1e-3)
        good = relative < _ERROR_MAX
        value = np.where(good, np.linalg.norm(bone, axis=-1), np.nan)
        sure = good[:, _MAIN].sum(-1) >= 3
        use = rows[sure]
        self._seen[use, self._count[use] % self._lock_after] = value[sure]
        self._square[use] += np.where(good, relative**2, 0)[sure]
        self._summed[use] += good[sure]
        given = SIZE_SPREAD if size_error is None else size_error[open_][sure]
        self._size_square[use] += np.minimum(given, SIZE_SPREAD) ** 2
        self._frames[use] += 1
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
        main = (n > 0) * self._average
        main = main[:, _BONES] / np.maximum(main[:, _BONES].sum(-1, keepdims=True), 1e-6)
        size = (log[:, _BONES] * main).sum(-1)
        known = 1 - self._size_square[rows] / self._frames[rows] / SIZE_SPREAD**2
        bias = BIAS + known[:, None] * (BIAS_READ - BIAS)
        square = self._square[rows] + self._square[rows][:, _MIRROR]
        frames = self._summed[rows] + self._summed[rows][:, _MIRROR]
        noise = square / np.maximum(frames, 1) * (bias**2 + _ALIKE / np.maximum(n, 1))
        trust = SPREAD**2 / (SPREAD**2 + noise)
        shape = np.where(n > 0, trust * (log - size[:, None]), 0)
        lengths = self._average * np.exp(shape)
        whole = np.log(self.height_m / sk.stature_m(lengths))
        if self.scale_source != "height":
            whole = whole + known * (size - whole)
        lengths = lengths * np.exp(whole)[:, None]
        self.lengths_m[rows] = lengths
        # ratio of this body to the one Stage II shows, over the bones seen
        part = np.where(n > 0, np.log(np.maximum(lengths, 1e-3) / np.maximum(median, 1e-3)), 0)
        start = np.log(self.height_m / sk.AVERAGE_HEIGHT_M)
        factor = (part[:, _BONES] * main).sum(-1)
        self.ratio[rows] = np.exp(np.clip(factor, start - 0.35, start + 0.35))
