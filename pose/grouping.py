"""Joints to people: bottom-up grouping along part affinity fields.

Everything up to the choice of limbs is done for all joints and limbs at once on flat arrays: one
list of peaks, one list of candidate pairs. Only the greedy joining at the end is a Python loop,
over the few hundred pairs that survive.
Source: Cao et al. 2017, sections 2.3 (line integral) and 2.4 (greedy matching); sub-pixel
position by a parabola through the logarithm (Zhang et al. 2020, DARK, in one dimension).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.pose.joining import LIMB_LENGTHS, joined, mended
from manypose.pose.joints import JOINTS_2D, LIMBS
from manypose.pose.records import NetworkOutput, Person2D
from manypose.pose.sides import set_apart
from manypose.pose.targets import SIGMA_CELLS

Float = NDArray[np.floating[Any]]
Int = NDArray[np.intp]

_K, _L = len(JOINTS_2D), len(LIMBS)
_LIMBS = np.array(LIMBS, np.intp)


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
    fragments = joined(joint, links, config.rival_max)
    part = np.zeros(len(joint), np.int8)
    part[[n for peaks in fragments for n in peaks]] = np.repeat(
        np.arange(len(fragments)) % 128, [len(peaks) for peaks in fragments]
    )
    people = mended(fragments, joint, xy, config.mend_stretch_max)
    members, part = set_apart(people, part, joint, xy, score, links)
    return _people(members, joint, xy, score, part, output, config)


def _peaks(heatmaps: Float, config: GroupingConfig) -> tuple[Int, Float, Float]:
    """Return all peaks, sorted by joint: joint (P,), cells x y (P, 2) sub-pixel, score (P,)."""
    k, h, w = heatmaps.shape
    padded = np.full((k, h + 2, w + 2), -1, np.float32)
    # the limit keeps infinity out of the logarithms
    np.minimum(heatmaps, 1, out=padded[:, 1:-1, 1:-1], casting="same_kind")
    flat, row = padded.ravel(), w + 2
    at = np.flatnonzero(flat > config.peak_score_min)
    value = flat.take(at)
    # Of equal neighbours (a joint half-way between two cells) the first one is the peak.
    earlier = np.array([[-row - 1], [-row], [-row + 1], [-1]])
    higher = (flat.take(at + earlier) >= value).any(0)  # NaN is never higher
    higher |= (flat.take(at - earlier) > value).any(0)
    top = np.flatnonzero(~higher)
    at, value = at.take(top), value.take(top)
    joint, rest = np.divmod(at, (h + 2) * row)
    y, x = np.divmod(rest, row)
    if len(at) and np.bincount(joint).max() > config.peaks_max:
        order = np.lexsort((-value, joint))
        start = np.searchsorted(joint, joint[order])
        keep = np.sort(order[np.arange(len(order)) - start < config.peaks_max])
        at, value, joint, x, y = at[keep], value[keep], joint[keep], x[keep], y[keep]
    step, place = np.array([[1], [row]]), np.stack([x, y])
    end = place == [[w], [h]]
    before, after = _log(flat.take(at - step)), _log(flat.take(at + step))
    shift = _offset(before, _log(value), after, place == 1, end)
    return joint, (place - 1 + shift).T.astype(np.float32), value


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
    border = first | last
    if border.any():
        right = 0.5 - variance * (here - after)
        left = variance * (here - before) - 0.5
        inner = np.where(first, right, np.where(last, left, inner))
        inner[first & last] = 0
    return np.asarray(np.minimum(np.maximum(inner, -0.5), 0.5))


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
    longest = np.minimum(config.limb_length_max, config.body_height_max * LIMB_LENGTHS) * max(h, w)
    keep = np.flatnonzero(square < np.maximum(longest**2, 4).astype(np.float32).take(limb))
    limb, a, b, dx, dy = limb.take(keep), a.take(keep), b.take(keep), dx.take(keep), dy.take(keep)
    length = np.sqrt(square.take(keep))
    over = 1 / np.maximum(length, 1e-6)
    # half up and cut gives the nearest cell
    lines = np.empty((6, len(keep)), np.float32)
    lines[0], lines[1], lines[2], lines[3] = x.take(a), y.take(a), dx, dy
    lines[:2] += 0.5
    np.multiply(lines[2:4], over, out=lines[4:])
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
    short = short.take(some)
    mean, share = dot.sum(0) / config.line_samples, (dot > 0.05).sum(0) / config.line_samples
    mean = np.where(short, np.maximum(mean, 0.3), mean)
    good = (mean > config.limb_score_min) & ((share >= config.limb_share_min) | short)
    some, mean = some[good], mean[good]
    total = mean + 0.1 * (score.take(a.take(some)) + score.take(b.take(some)))
    order = np.argsort(-total, kind="stable")
    some = some.take(order)
    return limb.take(some), a.take(some), b.take(some), total.take(order)


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
    members = [p for p in members if len(p) >= config.joints_min]
    ranked = [
        item for item in zip(_person_scores(members, score), members) if item[0] >= config.score_min
    ]
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


def _person_scores(members: list[list[int]], score: Float) -> list[float]:
    """Return how sure people are: confident joints count most, people of few joints for less.

    Of nine forms tried on the maps of a bottom-up network this one ranked best (COCO AP).
    """
    count = np.array([len(p) for p in members], np.intp)
    person = np.repeat(np.arange(len(members)), count)
    sure = score[[n for p in members for n in p]].astype(float)
    weighted = np.bincount(person, sure * sure) / np.bincount(person, sure)
    scores: list[float] = (weighted * np.sqrt(count / _K)).tolist()
    return scores
