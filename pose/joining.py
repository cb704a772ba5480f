"""Peaks to people along the believable limbs between them, and fragments no limb connects.

A crowd has a thousand limbs that contradict each other. What can be told of all of them at once is
worked out on arrays; only the unions themselves, where every one changes the next, are loops.
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.pose.joints import JOINTS_2D, LIMBS

Float = NDArray[np.floating[Any]]
Int = NDArray[np.intp]

_K = len(JOINTS_2D)
# Longest length of each limb in body heights, in the order of LIMBS (proportions after Drillis
# and Contini 1966; the face by hand).
LIMB_LENGTHS = np.array([
    .13, .035, .035, .07, .07, .12, .12, .18, .18, .15, .15, .30, .30, .25, .25, .25, .25, .18,
    .29, .06, .06, .16, .16,
])  # fmt: skip


def _reach() -> Float:
    """Return (K, K): how far apart two joints can be, in body heights (shortest way over limbs)."""
    reach = np.full((_K, _K), np.inf)
    np.fill_diagonal(reach, 0)
    for (a, b), length in zip(LIMBS, LIMB_LENGTHS):
        reach[a, b] = reach[b, a] = length
    for k in range(_K):
        reach = np.minimum(reach, reach[:, k, None] + reach[k])
    np.fill_diagonal(reach, 1e-3)  # a joint has no distance from itself
    return reach


_REACH_INVERSE = (1 / _reach()).astype(np.float32).ravel()  # (K * K,)


def statures(points: Float) -> Float:
    """Return how tall (N,) bodies must at least be to have these joints (N, K, 2), in their unit.

    NaN = not seen. Two joints are never farther apart than the way over the limbs between them.
    """
    x, y = points[..., 0], points[..., 1]
    apart = np.hypot(x[:, :, None] - x[:, None], y[:, :, None] - y[:, None])
    tall = np.nan_to_num(apart) * _REACH_INVERSE.reshape(_K, _K)
    return np.asarray(tall.max((1, 2)))


def joined(joint: Int, links: tuple[Int, Int, Int, Float], rival_max: float) -> list[list[int]]:
    """Return people as lists of peaks, no joint twice.

    joint (P,) of the peaks; links: kind, peaks a and b and score (M,) of the believable limbs, best
    first. Links without a rival come first and make fragments. These are then united two by two,
    always the two with most evidence: the sum of the scores of all links between them.
    Source of the second step: Keuper et al. 2015, greedy additive edge contraction.
    """
    limb, a, b, score = links
    if len(a) == 0:
        return [[n] for n in range(len(joint))]
    people, slots, owner = _fragments(joint, limb, a, b, score, rival_max)
    rows = _between(a, b, score, slots, owner)
    # The heap holds everybody's best link as it was when last looked at. What changes is either
    # less by now, which shows when it comes up, or a link of somebody who has just been put in.
    known = [max(row.values()) if row else 0.0 for row in rows]
    heap = [(-value, p) for p, value in enumerate(known) if value]
    heapq.heapify(heap)
    while heap:
        value, p = heapq.heappop(heap)
        row = rows[p]
        if known[p] != -value or not row:
            continue
        best = max(row.values())
        if best != -value:
            known[p] = best
            heapq.heappush(heap, (-best, p))
            continue
        q = min([r for r, sum_ in row.items() if sum_ == best])
        if q < p:
            p, q = q, p
        mine, others, had, new = rows[p], rows[q], slots[p], slots[q]
        rows[q] = {}
        del mine[q], others[p]
        for r, more in others.items():
            theirs = rows[r]
            del theirs[q]
            if not had & slots[r]:
                theirs[p] = mine[r] = mine.get(r, 0.0) + more
        for r in [r for r in mine if new & slots[r]]:
            del mine[r], rows[r][p]
        people[p] += people[q]
        people[q] = []
        slots[p] = had | new
        if mine:
            known[p] = best = max(mine.values())
            heapq.heappush(heap, (-best, p))
    return [p for p in people if p]


def _between(
    a: Int, b: Int, score: Float, slots: list[int], owner: list[int]
) -> list[dict[int, float]]:
    """Return for everybody the evidence of being one with others who share no joint with them."""
    whose, has = np.array(owner), np.array(slots)
    p, q = whose[a], whose[b]
    free = (has[p] & has[q]) == 0
    p, q = p[free], q[free]
    key = np.minimum(p, q) * len(slots) + np.maximum(p, q)
    pairs, number = np.unique(key, return_inverse=True)
    total = np.bincount(number, score[free])
    rows: list[dict[int, float]] = [{} for _ in slots]
    low, high = np.divmod(pairs, len(slots))
    for i, k, value in zip(low.tolist(), high.tolist(), total.tolist()):
        rows[i][k] = rows[k][i] = value
    return rows


def _fragments(
    joint: Int, limb: Int, a: Int, b: Int, score: Float, rival_max: float
) -> tuple[list[list[int]], list[int], list[int]]:
    """Return lists of peaks joined by the links that have no rival at either end, best first.

    Also which joints each has, as bits, and whose each peak is. Some are empty: all are numbered
    by a peak of theirs.
    """
    rival = np.zeros(len(a))
    small = np.uint16 if len(joint) * len(LIMBS) < 2**16 else np.intp  # sorted by radix, quickly
    for end in (a, b):
        key = (limb * len(joint) + end).astype(small)
        order = np.argsort(key, kind="stable")  # the best of each key stays first
        key = key[order]
        first: NDArray[np.bool_] = np.ones(len(key) + 1, bool)
        np.not_equal(key[1:], key[:-1], out=first[1:-1])
        ranked = score[order]
        head = np.flatnonzero(first)
        count = np.diff(head)
        against = np.repeat(ranked[head[:-1]], count)
        # the best one's rival is the second, every other one's is the best
        against[head[:-1]] = np.where(count > 1, ranked[np.minimum(head[:-1] + 1, len(key) - 1)], 0)
        rival[order] = np.maximum(rival[order], against)
    sure = rival < rival_max * score
    people: list[list[int]] = [[n] for n in range(len(joint))]
    slots = (1 << joint).tolist()
    owner = list(range(len(joint)))
    for i, k in zip(a[sure].tolist(), b[sure].tolist()):
        p, q = owner[i], owner[k]
        if p == q or slots[p] & slots[q]:
            continue
        if len(people[p]) < len(people[q]):
            p, q = q, p
        for n in people[q]:
            owner[n] = p
        people[p] += people[q]
        slots[p] |= slots[q]
        people[q] = []
    return people, slots, owner


def mended(people: list[list[int]], joint: Int, xy: Float, stretch_max: float) -> list[list[int]]:
    """Return people with fragments joined that no limb connects (a wrist without its elbow).

    Two joints are never farther apart than the way over the limbs, so every pair of joints says
    how tall a body must at least be. Fragments that share no joint become one person if that
    makes nobody taller by more than `stretch_max`, the most compact union first.

    people: lists of peaks; joint (P,) and xy (P, 2) cells of the peaks.
    """
    order = np.array([n for p in people for n in p], np.intp)
    count = np.array([len(p) for p in people])
    every = np.arange(len(people))
    at, k = xy[order], joint[order]
    seen = np.zeros((len(people), _K), np.float32)
    seen[np.repeat(every, count), k] = 1
    free = (seen @ seen.T) == 0
    apart = np.flatnonzero(free & (every[:, None] < every))
    if not len(apart):
        return people
    start = np.cumsum(count) - count
    # blocks: every fragment with itself, then every pair of fragments that share no joint
    first, second = np.divmod(apart, len(people))
    p, q = np.concatenate([every, first]), np.concatenate([every, second])
    width = count[q]
    size = count[p] * width
    begin = np.cumsum(size) - size
    within = np.arange(size.sum()) - np.repeat(begin, size)
    row, column = np.divmod(within, np.repeat(width, size))
    i, j = np.repeat(start[p], size) + row, np.repeat(start[q], size) + column
    x, y = np.ascontiguousarray(at.T)
    dx, dy = x.take(i) - x.take(j), y.take(i) - y.take(j)
    dx *= dx
    dy *= dy
    dx += dy
    tall = np.maximum(np.sqrt(dx) - 0.5, 0) * _REACH_INVERSE.take(k.take(i) * _K + k.take(j))
    most, total = np.zeros((2, len(people), len(people)), np.float32)
    most[p, q] = most[q, p] = np.maximum.reduceat(tall, begin)
    total[p, q] = total[q, p] = np.add.reduceat(tall, begin)
    return _united(people, free, most, total, stretch_max)


def _united(
    people: list[list[int]], free: NDArray[np.bool_], most: Float, total: Float, stretch: float
) -> list[list[int]]:
    """Return people after uniting free pairs, the most compact union first.

    free, most, total (F, F): fragments without a common joint; the largest and the sum of the
    body heights that their pairs of joints ask for (on the diagonal: within a fragment).
    """
    people = [list(p) for p in people]
    own = np.diagonal(most).copy()
    count = np.array([len(p) for p in people], np.float32)
    most[~free] = np.inf  # which stays so whatever is united

    def cost_of(p: int | slice) -> Float:
        height = np.maximum(own[p, None], own)
        cost: Float = total[p] / np.maximum(count[p, None] * count * height, 1e-6)
        cost[most[p] >= stretch * height] = np.inf
        return cost

    cost = cost_of(slice(None))
    while True:
        p, q = divmod(int(cost.argmin()), len(people))
        if cost[p, q] == np.inf:
            return [p for p in people if p]
        people[p] += people[q]
        people[q] = []
        own[p] = max(own[p], own[q], most[p, q])
        count[p] += count[q]
        most[p] = most[:, p] = np.maximum(most[p], most[q])
        total[p] = total[:, p] = total[p] + total[q]
        most[q] = most[:, q] = np.inf
        cost[p] = cost[:, p] = cost_of(p)
        cost[q] = cost[:, q] = np.inf
