"""Joints to people: bottom-up grouping along part affinity fields.

Everything up to the choice of limbs is done for all joints and limbs at once on flat arrays: one
list of peaks, one list of candidate pairs. Only the greedy joining at the end is a Python loop,
over the few hundred pairs that survive.
Source: Cao et al. 2017, sections 2.3 (line integral) and 2.4 (greedy matching); sub-pixel
position by a parabola through the logarithm (Zhang et al. 2020, DARK, in one dimension).
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.pose.joints import JOINTS_2D, LIMBS
from manypose.pose.records import NetworkOutput, Person2D
from manypose.pose.sides import set_apart
from manypose.pose.targets import SIGMA_CELLS

Float = NDArray[np.floating[Any]]
Int = NDArray[np.intp]

_K, _L = len(JOINTS_2D), len(LIMBS)
_LIMBS = np.array(LIMBS, np.intp)
# Longest length of each limb in body heights, in the order of LIMBS (proportions after Drillis
# and Contini 1966; the face by hand).
_LIMB_LENGTHS = np.array([
    .13, .035, .035, .07, .07, .12, .12, .18, .18, .15, .15, .30, .30, .25, .25, .25, .25, .18,
    .29, .06, .06, .16, .16,
])  # fmt: skip


def _reach() -> Float:
    """Return (K, K): how far apart two joints can be, in body heights (shortest way over limbs)."""
    reach = np.full((_K, _K), np.inf)
    np.fill_diagonal(reach, 0)
    for (a, b), length in zip(LIMBS, _LIMB_LENGTHS):
        reach[a, b] = reach[b, a] = length
    for k in range(_K):
        reach = np.minimum(reach, reach[:, k, None] + reach[k])
    np.fill_diagonal(reach, 1e-3)  # a joint has no distance from itself
    return reach


_REACH_INVERSE = (1 / _reach()).astype(np.float32).ravel()  # (K * K,)


@dataclass(frozen=True, slots=True)
class GroupingConfig:
    """Limits of the grouping; scores in [0, 1]."""

    peak_score_min: float = 0.15  # lower local maxima are no joints
    peaks_max: int = 40  # of one joint
    line_samples: int = 10  # along a candidate limb
    limb_score_min: float = 0.2  # mean agreement of the samples with the limb's direction
    limb_share_min: float = 0.7  # of samples that agree at all
    limb_length_max: float = 0.7  # of the longer side of the maps
    body_height_max: float = 10.0  # of the longer side (a face may fill the picture)
    rival_max: float = 0.8  # a limb is sure if no other at its ends scores more than this share
    mend_stretch_max: float = 1.2  # fragments become one person if it need not be taller than this
    joints_min: int = 2  # people of fewer joints are dropped
    score_min: float = 0.0  # people less sure than this are dropped
    people_max: int = 20


def group(output: NetworkOutput, config: GroupingConfig) -> list[Person2D]:
    """Return the people in one frame, best first; at most `config.people_max`.

    O(limbs * peaks^2) in time; a frame without peaks costs one pass over the heat-maps. NaN in
    the maps counts as "nothing there".
    """
    joint, xy, score = _peaks(output.heatmaps, config)
    if len(joint) == 0:
        return []
    links = _limbs(joint, xy, score, output.pafs, config)
    fragments = _join(joint, *links, config)
    part = np.zeros(len(joint), np.int8)
    for n, fragment in enumerate(fragments):
        part[fragment] = n % 128
    members, part = set_apart(_mend(fragments, joint, xy, config), part, joint, xy, score, links)
    return _people(members, joint, xy, score, part, output, config)


def _peaks(heatmaps: Float, config: GroupingConfig) -> tuple[Int, Float, Float]:
    """Return all peaks, sorted by joint: joint (P,), cells x y (P, 2) sub-pixel, score (P,)."""
    k, h, w = heatmaps.shape
    padded = np.full((k, h + 2, w + 2), -1, np.float32)
    padded[:, 1:-1, 1:-1] = heatmaps
    np.minimum(padded, 1, out=padded)  # keeps infinity out of the logarithms
    flat, row = padded.ravel(), w + 2
    at = np.flatnonzero(flat > config.peak_score_min)
    value = flat[at]
    # Of equal neighbours (a joint half-way between two cells) the first one is the peak.
    earlier = (-row - 1, -row, -row + 1, -1)
    top = np.ones(len(at), bool)
    for step in earlier:
        top &= (value > flat[at + step]) | np.isnan(flat[at + step])
        top &= (value >= flat[at - step]) | np.isnan(flat[at - step])
    at, value = at[top], value[top]
    joint, rest = np.divmod(at, (h + 2) * row)
    y, x = np.divmod(rest, row)
    if len(at) and np.bincount(joint).max() > config.peaks_max:
        order = np.lexsort((-value, joint))
        start = np.searchsorted(joint, joint[order])
        keep = np.sort(order[np.arange(len(order)) - start < config.peaks_max])
        at, value, joint, x, y = at[keep], value[keep], joint[keep], x[keep], y[keep]
    log = _log(value)
    dx = _offset(_log(flat[at - 1]), log, _log(flat[at + 1]), x == 1, x == w)
    dy = _offset(_log(flat[at - row]), log, _log(flat[at + row]), y == 1, y == h)
    xy = np.stack([x - 1 + dx, y - 1 + dy], 1).astype(np.float32)
    return joint, xy, value


def _log(value: Float) -> Float:
    return np.log(np.fmax(value, 1e-3))


def _offset(
    before: Float, here: Float, after: Float, first: NDArray[np.bool_], last: NDArray[np.bool_]
) -> Float:
    """Return where between -0.5 and 0.5 a peak lies, from the logarithms of three neighbours.

    At the border, where one neighbour is missing, the width of the target's Gaussian stands in.
    """
    variance = SIGMA_CELLS**2
    bend = before - 2 * here + after
    inner = np.where(bend < -1e-6, 0.5 * (before - after) / np.minimum(bend, -1e-6), 0)
    right = 0.5 - variance * (here - after)
    left = variance * (here - before) - 0.5
    alone = first & last
    out = np.where(first, right, np.where(last, left, inner))
    return np.where(alone, 0, np.clip(out, -0.5, 0.5))


def _limbs(
    joint: Int, xy: Float, score: Float, pafs: Float, config: GroupingConfig
) -> tuple[Int, Int, Int, Float]:
    """Return the believable limbs, best first: kind, peaks a and b, pair score, all (M,)."""
    h, w = pafs.shape[1:]
    start = np.searchsorted(joint, np.arange(_K + 1))
    count = np.diff(start)
    pairs = count[_LIMBS[:, 0]] * count[_LIMBS[:, 1]]
    limb = np.repeat(np.arange(_L), pairs)
    within = np.arange(len(limb)) - np.repeat(np.cumsum(pairs) - pairs, pairs)
    row, column = np.divmod(within, np.repeat(count[_LIMBS[:, 1]], pairs))
    a = np.repeat(start[_LIMBS[:, 0]], pairs) + row
    b = np.repeat(start[_LIMBS[:, 1]], pairs) + column
    x, y = np.ascontiguousarray(xy.T)
    dx, dy = x.take(b) - x.take(a), y.take(b) - y.take(a)
    square = dx * dx + dy * dy
    longest = np.minimum(config.limb_length_max, config.body_height_max * _LIMB_LENGTHS) * max(h, w)
    keep = np.flatnonzero(square < np.maximum(longest**2, 4).astype(np.float32).take(limb))
    limb, a, b, dx, dy = limb.take(keep), a.take(keep), b.take(keep), dx.take(keep), dy.take(keep)
    length = np.sqrt(square.take(keep))
    over = 1 / np.maximum(length, 1e-6)
    # half up and cut gives the nearest cell
    lines = np.stack([x.take(a) + 0.5, y.take(a) + 0.5, dx, dy, dx * over, dy * over])
    field = limb * (2 * h * w)
    flat = np.ascontiguousarray(pafs).reshape(-1)
    if not np.isfinite(flat.sum()):
        flat = np.nan_to_num(flat, posinf=0, neginf=0)

    def agreement(lines: Float, field: Int, t: Float) -> Float:
        x, y, dx, dy, ux, uy = lines[:, None]
        at = np.minimum((y + dy * t).astype(np.intp), h - 1) * w
        at += np.minimum((x + dx * t).astype(np.intp), w - 1) + field
        dot: Float = flat.take(at) * ux
        dot += flat.take(at + h * w) * uy
        return dot  # (samples, pairs)

    # most pairs join two people: three samples tell
    quick = agreement(lines, field, np.array([[0.25], [0.5], [0.75]], np.float32)) > 0.05
    short = length < 1  # both ends in one cell: the direction means little
    some = np.flatnonzero((quick.sum(0) >= 2) | short)
    t = (np.arange(config.line_samples, dtype=np.float32)[:, None] + 0.5) / config.line_samples
    dot = agreement(lines.take(some, 1), field.take(some), t)
    mean, share, short = dot.mean(0), (dot > 0.05).mean(0), short[some]
    mean = np.where(short, np.maximum(mean, 0.3), mean)
    good = (mean > config.limb_score_min) & ((share >= config.limb_share_min) | short)
    some, mean = some[good], mean[good]
    total = mean + 0.1 * (score[a[some]] + score[b[some]])
    order = np.argsort(-total, kind="stable")
    some = some[order]
    return limb[some], a[some], b[some], total[order]


def _join(
    joint: Int, limb: Int, a: Int, b: Int, pair_score: Float, config: GroupingConfig
) -> list[list[int]]:
    """Return people as lists of peaks, no joint twice.

    Links without a rival come first and make fragments. These are then united two by two, always
    the two with most evidence: the sum of the scores of all links between them.
    Source of the second step: Keuper et al. 2015, greedy additive edge contraction.
    """
    if len(a) == 0:
        return [[n] for n in range(len(joint))]
    fragments = _fragments(joint, limb, a, b, pair_score, config)
    owner = [0] * len(joint)
    slots = [0] * len(fragments)
    for n, fragment in enumerate(fragments):
        for peak in fragment:
            owner[peak] = n
            slots[n] |= 1 << int(joint[peak])
    between: list[dict[int, float]] = [{} for _ in fragments]
    for i, k, value in zip(a.tolist(), b.tolist(), pair_score.tolist()):
        p, q = owner[i], owner[k]
        if not slots[p] & slots[q]:
            between[p][q] = between[q][p] = between[p].get(q, 0.0) + value
    heap = [(-value, p, q) for p, row in enumerate(between) for q, value in row.items() if p < q]
    heapq.heapify(heap)
    while heap:
        value, p, q = heapq.heappop(heap)
        if between[p].get(q) != -value:
            continue  # united with others meanwhile
        fragments[p] += fragments[q]
        fragments[q] = []
        slots[p] |= slots[q]
        del between[p][q], between[q][p]
        changed, between[q] = between[q], {}
        mine, taken = between[p], slots[p]
        for r, more in changed.items():
            del between[r][q]
            mine[r] = mine.get(r, 0.0) + more
        for r in [r for r in mine if taken & slots[r]]:
            del mine[r]
            between[r].pop(p, None)
        for r in changed:  # the others are in the heap as they are
            if (total := mine.get(r)) is not None:
                between[r][p] = total
                heapq.heappush(heap, (-total, p, r) if p < r else (-total, r, p))
    return [f for f in fragments if f]


def _fragments(
    joint: Int, limb: Int, a: Int, b: Int, pair_score: Float, config: GroupingConfig
) -> list[list[int]]:
    """Return lists of peaks joined by the links that have no rival at either end, best first."""
    rival = np.zeros(len(a))
    for end in (a, b):
        key = limb * len(joint) + end
        order = np.argsort(key, kind="stable")  # the best of each key stays first
        key = key[order]
        first = np.append(True, key[1:] != key[:-1])
        # the best one's rival is the second, every other one's is the best
        following = np.append(order[1:], 0)
        alone = np.append(first[1:], True)
        head = order[np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))]
        against = np.where(first, np.where(alone, 0, pair_score[following]), pair_score[head])
        rival[order] = np.maximum(rival[order], against)
    sure = rival < config.rival_max * pair_score
    people: list[list[int]] = [[n] for n in range(len(joint))]
    slots = [1 << k for k in joint.tolist()]
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
    return [p for p in people if p]


def _mend(
    people: list[list[int]], joint: Int, xy: Float, config: GroupingConfig
) -> list[list[int]]:
    """Return people with fragments joined that no limb connects (a wrist without its elbow).

    Two joints are never farther apart than the way over the limbs, so every pair of joints says
    how tall a body must at least be. Fragments that share no joint become one person if that
    makes nobody taller by more than `mend_stretch_max`, the most compact union first.
    """
    seen = np.zeros((len(people), _K), np.float32)
    for n, peaks in enumerate(people):
        seen[n, joint[peaks]] = 1
    free = (seen @ seen.T) == 0
    if not free.any():
        return people
    order = np.array([n for p in people for n in p], np.intp)
    count = np.array([len(p) for p in people])
    start = np.cumsum(count) - count
    at, k = xy[order], joint[order]
    # blocks: every fragment with itself, then every pair of fragments that share no joint
    every = np.arange(len(people))
    first, second = np.nonzero(np.triu(free))
    p, q = np.concatenate([every, first]), np.concatenate([every, second])
    size = count[p] * count[q]
    begin = np.cumsum(size) - size
    within = np.arange(size.sum()) - np.repeat(begin, size)
    row, column = np.divmod(within, np.repeat(count[q], size))
    i, j = np.repeat(start[p], size) + row, np.repeat(start[q], size) + column
    apart = at.take(i, 0) - at.take(j, 0)
    apart = np.sqrt(apart[:, 0] ** 2 + apart[:, 1] ** 2)
    tall = np.maximum(apart - 0.5, 0) * _REACH_INVERSE.take(k[i] * _K + k[j])
    most, total = np.zeros((2, len(people), len(people)), np.float32)
    most[p, q] = most[q, p] = np.maximum.reduceat(tall, begin)
    total[p, q] = total[q, p] = np.add.reduceat(tall, begin)
    return _unite(people, free, most, total, config.mend_stretch_max)


def _unite(
    people: list[list[int]], free: NDArray[np.bool_], most: Float, total: Float, stretch: float
) -> list[list[int]]:
    """Return people after uniting free pairs, the most compact union first.

    free, most, total (F, F): fragments without a common joint; the largest and the sum of the
    body heights that their pairs of joints ask for (on the diagonal: within a fragment).
    """
    people = [list(p) for p in people]
    own = np.diagonal(most).copy()
    count = np.array([len(p) for p in people], np.float32)

    def cost_of(p: slice) -> Float:
        height = np.maximum(own[p, None], own)
        cost: Float = total[p] / np.maximum(count[p, None] * count * height, 1e-6)
        cost[~free[p] | (height == 0) | (most[p] > stretch * height)] = np.inf
        return cost

    cost = cost_of(slice(None))
    lowest = cost.min(1)  # of each row, or less: corrected when a row comes up
    while True:
        p = int(np.argmin(lowest))
        q = int(np.argmin(cost[p]))
        if cost[p, q] > lowest[p]:
            lowest[p] = cost[p, q]
            continue
        if not np.isfinite(cost[p, q]):
            return [p for p in people if p]
        people[p] += people[q]
        people[q] = []
        own[p] = max(own[p], own[q], most[p, q])
        count[p] += count[q]
        most[p] = most[:, p] = np.maximum(most[p], most[q])
        total[p] = total[:, p] = total[p] + total[q]
        free[p] = free[:, p] = free[p] & free[q]
        free[q] = free[:, q] = False
        cost[p] = cost[:, p] = cost_of(slice(p, p + 1))[0]
        cost[q] = cost[:, q] = np.inf
        np.minimum(lowest, cost[p], out=lowest)
        lowest[p], lowest[q] = cost[p].min(), np.inf


def _people(
    members: list[list[int]],
    joint: Int,
    xy: Float,
    score: Float,
    part: NDArray[np.int8],
    output: NetworkOutput,
    config: GroupingConfig,
) -> list[Person2D]:
    """Return records of the people that have enough evidence, best first."""
    ranked = [(_person_score(score[p]), p) for p in members if len(p) >= config.joints_min]
    ranked = [item for item in ranked if item[0] >= config.score_min]
    ranked.sort(key=lambda item: -item[0])
    ranked = ranked[: config.people_max]
    if not ranked:
        return []
    peaks = np.array([n for _, p in ranked for n in p], np.intp)
    person = np.repeat(np.arange(len(ranked)), [len(p) for _, p in ranked])
    k = joint[peaks]
    joints_px = np.full((len(ranked), _K, 2), np.nan, np.float32)
    joints_px[person, k] = xy[peaks] @ output.to_image[:, :2].T + output.to_image[:, 2]
    confidence = np.zeros((len(ranked), _K), np.float32)
    confidence[person, k] = score[peaks]
    parts = np.zeros((len(ranked), _K), np.int8)
    parts[person, k] = part[peaks]
    encoding = None
    if output.encodings is not None:
        channels, h, w = output.encodings.shape
        x, y = np.clip((xy[peaks] + 0.5).astype(np.intp), 0, (w - 1, h - 1)).T
        encoding = np.full((len(ranked), _K, channels), np.nan, np.float32)
        encoding[person, k] = output.encodings.reshape(channels, -1)[:, y * w + x].T
    return [
        Person2D(
            joints_px[n], confidence[n], total, None if encoding is None else encoding[n], parts[n]
        )
        for n, (total, _) in enumerate(ranked)
    ]


def _person_score(confidence: Float) -> float:
    """Return how sure a person is: confident joints count most, people of few joints for less.

    Of nine forms tried on the maps of a bottom-up network this one ranked best (COCO AP).
    """
    weighted = float(confidence @ confidence) / float(confidence.sum())
    return weighted * math.sqrt(len(confidence) / _K)
