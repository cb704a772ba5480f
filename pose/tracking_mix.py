"""Joints given to whom they belong where people overlap in the picture.

Reading limbs from maps cannot tell whose knee it is where people cover each other: a reading then
mixes them, or swallows somebody whole. What is known of their motion can tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.pose.likeness import oks
from manypose.pose.tracking_memory import assign, assignments

Float = NDArray[np.floating[Any]]
Int = NDArray[np.intp]
Mask = NDArray[np.bool_]

_CAP = 1.0  # squared jump, in sizes, beyond which joints are as far as can be
_NEAR_COST = 0.85  # 1 - OKS up to which a reading is somebody's


@dataclass(frozen=True, slots=True)
class MixConfig:
    """When a joint changes hands; lengths in sizes of the person.

    two: by how much an exchange must shorten the jumps (root of squares), for steps of 1/30 s.
    one: so near to where it is expected a joint of another's reading must lie; it goes over if
    `times` as far from the place of whom it was read for. alone: somebody all
    of whose joints were read for others is put together from so many of them.
    """

    two: float = 0.15
    one: float = 0.06
    times: float = 2.0
    alone: int = 6


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """Where people are expected: points (T, K, 2) px, NaN = not known; sizes (T,) px.

    step_s: since the last frame.
    """

    points: Float
    sizes: Float
    step_s: float = 1 / 30


@dataclass(frozen=True, slots=True, eq=False)
class _Sides:
    """Who stands where: T people expected, M readings, K joints.

    away (T, M, K): squared distance of every reading's joint from where somebody's is expected,
    in sizes; own (T,): each one's reading or -1; seen (M, K); close (T, M, K): joints of others'
    readings that lie where somebody's are expected.
    """

    away: Float
    own: Int
    seen: Mask
    close: Mask

    @property
    def paired(self) -> Int:
        """Those who have a reading of their own."""
        return np.flatnonzero(self.own >= 0)


def regrouped(
    points: Float, expected: Expected, config: MixConfig, certain: Mask | None = None
) -> tuple[Int, Mask]:
    """Return from which reading each joint of R new readings comes (R, K), -1 = from none.

    The first M rows are the readings, points (M, K, 2) px, NaN = not seen, with joints given and
    taken; further rows are people whose joints had all been read for others. The second result
    (T, K) tells which joints of people expected are taken from another's reading. From readings
    that are certain (M,) nothing is.
    """
    m_count, t_count = len(points), len(expected.points)
    seen = np.isfinite(points[..., 0])
    same = np.where(seen, np.arange(m_count)[:, None], -1)
    nothing = np.zeros((t_count, points.shape[1]), bool)
    if not m_count or not t_count:
        return same, nothing
    sizes = expected.sizes[:, None]
    x, y = (expected.points[:, None, :, i] - points[..., i] for i in (0, 1))
    away = (x * x + y * y) / sizes[..., None] ** 2
    away = np.where(np.isfinite(away), away, np.inf)
    near = oks(expected.points, points, np.broadcast_to(sizes, (t_count, m_count)))
    own = np.full(t_count, -1)
    for t, m in assign(1 - near, _NEAR_COST):
        own[t] = m
    low = np.where(seen[..., None], points, np.inf).min(1)
    high = np.where(seen[..., None], points, -np.inf).max(1)
    meet = (low[:, None] <= high[None]).all(-1)
    meet &= meet.T
    close = away < config.one**2
    close &= np.where((own >= 0)[:, None], meet[own], True)[..., None]
    if certain is not None:
        close &= ~certain[:, None]
    paired = np.flatnonzero(own >= 0)
    close[paired, own[paired]] = False
    # who would be left with next to nothing keeps what was read; who gets too little, gets nothing
    for _ in range(3):
        if not close.any():
            return same, nothing
        sides = _Sides(away, own, seen, close)
        takes = _takes(sides, expected.step_s, config)
        count, had = (takes >= 0).sum(1), np.zeros(t_count, np.intp)
        had[paired] = seen[own[paired]].sum(1)
        poor = np.where(own >= 0, count < np.minimum(had, 3), (count > 0) & (count < config.alone))
        if not poor.any():
            return _given(sides, takes, same)
        close[poor] = False
        close[:, own[poor & (own >= 0)]] = False
    return same, nothing


def _takes(sides: _Sides, step_s: float, config: MixConfig) -> Int:
    """Return (T, K) from which reading each one takes each joint: least jumps in all, -1 = none."""
    # what the prediction misses, the acceleration, grows with the square of the time
    two = (config.two * max(1.0, 30 * step_s) ** 2) ** 2
    away, own, paired = sides.away, sides.own, sides.paired
    t_count, m_count, k_count = away.shape
    has = np.zeros((t_count, k_count), bool)
    has[paired] = sides.seen[own[paired]]
    lacking = np.where(sides.close & ~has[:, None], away, np.inf).min(0)  # (M, K)
    held = np.full((m_count, k_count), np.inf)  # how far a joint is from the place of its holder
    held[own[paired]] = away[paired, own[paired]]
    plain = held > config.times**2 * np.maximum(lacking, config.one**2 / 4)
    keeps = np.where(np.isfinite(lacking) & plain, -_CAP, two)
    shared = sides.close.any((0, 1))
    value = np.where(sides.close, _CAP - np.minimum(away, _CAP), -1.0)
    # of one's own reading, also where it is far from the place expected
    here = _CAP - np.minimum(away[paired, own[paired]], _CAP) + keeps[own[paired]]
    value[paired, own[paired]] = np.where(has[paired], here, -1.0)
    best = value.argmax(1)
    takes = np.where(value.max(1) > 0, best, -1)
    takes[:, ~shared] = np.where(has, own[:, None], -1)[:, ~shared]
    order = np.sort(takes, 0)
    twice = np.flatnonzero(((order[1:] == order[:-1]) & (order[1:] >= 0)).any(0) & shared)
    takes[:, twice] = -1  # two want the same joint
    for k, pairs in zip(twice.tolist(), assignments(-value[:, :, twice].transpose(2, 0, 1), 0.0)):
        takes[pairs[0], k] = pairs[1]
    return takes


def _given(sides: _Sides, takes: Int, same: Int) -> tuple[Int, Mask]:
    """Return the new readings and what is taken from others' (see `regrouped`)."""
    own, paired = sides.own, sides.paired
    given = np.zeros_like(sides.seen)
    t, k = np.nonzero(takes >= 0)
    given[takes[t, k], k] = True
    out = np.where(given, -1, same)  # what nobody claims stays where it was
    out[own[paired]] = np.where(takes[paired] >= 0, takes[paired], out[own[paired]])
    foreign = np.zeros(takes.shape, bool)
    foreign[paired] = (takes[paired] >= 0) & (takes[paired] != own[paired][:, None])
    alone = (own < 0) & (takes >= 0).any(1)
    return np.concatenate([out, takes[alone]]), foreign
