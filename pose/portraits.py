"""Each person's own part of a picture: where it is, and the joints in maps made of it.

What the whole picture gave are people found; where exactly their joints are is read again, each
person upright in the middle of a small picture of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from manypose.pose.joining import statures
from manypose.pose.joints import COCO_NAMES, OKS_SIGMAS
from manypose.pose.records import Box, Person2D

Float = NDArray[np.floating[Any]]

WIDTH, HEIGHT = 96, 128  # px of our network's input
STRIDE = 4  # of its maps
SIGMA_CELLS = 1.25  # Gaussian of a joint
LARGER = 1.25  # than the person's box
_C = len(COCO_NAMES)
_CANDIDATE = 0.15  # the score from which somebody found is looked at
_ROUND = 0.1  # of the longer side: what a box shows round the joints
_LEAST = 0.5  # of the stature: the side of a box round a few joints
_SEEN = 0.2  # the height of a map from which a joint is seen
_JOINTS_MIN = 3
_SURER = 1.06  # scores of people found are so much higher than those of their two readings
_BLUR = 5  # cells
_OTHER = 0.3  # the likeness from which a reading may be that of another person
_ONE = 0.7  # the likeness from which two people are one
# A cell where the whole picture's reading has the joint counts so many times more, over so many
# cells round it; where both readings are one place, the joint is surer, elsewhere less.
_TRUST, _TRUST_CELLS = 3.0, 2.0
_AGREED = 0.7
_MOVED = 0.7  # boxes that overlap less are two: the new one is looked at again


@dataclass(frozen=True, slots=True)
class Part:
    """A person's part of a picture and where it lies in the portrait, px; the rest is grey.

    part: corners in the picture, on even px; place: corners x0 y0 x1 y1 in the portrait.
    """

    part: Box
    place: Box


def boxes(people: Sequence[Person2D]) -> Float:
    """Return corners x1 y1 x2 y2 (N, 4), image px, round people of whom some joint is seen."""
    points = np.array([np.where(p.confidence[:, None] > 0, p.joints_px, np.nan) for p in people])
    low, high = np.nanmin(points, 1), np.nanmax(points, 1)
    side = (high - low).max(1)
    margin = np.maximum(_ROUND * side, 0.5 * (_LEAST * statures(points) - side)).clip(2)[:, None]
    return np.concatenate([low - margin, high + margin], 1)


def seen_in(box_px: Float, width: int, height: int) -> Part | None:
    """Return the part of a picture of width x height px that shows a box, None outside of it."""
    affine = part_of(box_px, WIDTH, HEIGHT, LARGER)
    scale = affine[0, 0]
    start = (-0.5 - affine[:, 2]) / scale + 0.5  # of the portrait, in px areas of the picture
    end = start + np.array([WIDTH, HEIGHT]) / scale
    x0, y0 = (2 * max(int(v // 2), 0) for v in start)
    x1, y1 = (min(2 * int(-(-v // 2)), m) for v, m in zip(end, (width, height)))
    if x1 - x0 < 2 or y1 - y0 < 2:
        return None
    place = [round(v) for v in ((x0, y0, x1, y1) - np.tile(start, 2)) * scale]
    left, top = max(place[0], 0), max(place[1], 0)
    right, bottom = min(place[2], WIDTH), min(place[3], HEIGHT)
    if right <= left or bottom <= top:
        return None
    return Part((x0, y0, x1, y1), (left, top, right, bottom))


def read(
    maps: Float, parts: Sequence[Part], known: Sequence[Person2D | None] | None = None
) -> tuple[Float, Float]:
    """Return joints (N, K, 2), image px, and how sure they are (N, K), of maps (N, K, h, w).

    known: what other readings there are of these people; places of their joints count more.
    """
    n, k, h, w = maps.shape
    part = np.array([p.part for p in parts], float)
    place = np.array([p.place for p in parts], float)
    scale = (part[:, 2:] - part[:, :2]) / (place[:, 2:] - place[:, :2])
    maps = np.clip(maps, 0, 1)
    if known is not None and any(p is not None for p in known):
        nowhere = np.full((k, 2), np.nan)
        image = np.array([nowhere if p is None else p.joints_px for p in known], float)
        trust = np.array([np.zeros(k) if p is None else p.confidence for p in known], float)
        px = (image + 0.5 - part[:, None, :2]) / scale[:, None] + place[:, None, :2]
        maps = _trusted(maps, (px - STRIDE / 2) / STRIDE, trust)
    cells, score = highest(maps.reshape(-1, h, w), _BLUR)
    px = (cells * STRIDE + STRIDE / 2).reshape(n, k, 2)  # px areas of the portrait
    image = (px - place[:, None, :2]) * scale[:, None] + part[:, None, :2] - 0.5
    return image, score.reshape(n, k)


def _trusted(maps: Float, cells: Float, trust: Float) -> Float:
    """Return maps in which the cells near those of another reading (N, K, 2) count more."""
    h, w = maps.shape[-2:]
    trust = np.where(np.isfinite(cells).all(-1), trust, 0)
    cells = np.where(trust[..., None] > 0, cells, 0)
    narrow = -0.5 / _TRUST_CELLS**2
    x = np.exp(narrow * (np.arange(w) - cells[..., :1]) ** 2)
    y = np.exp(narrow * (np.arange(h) - cells[..., 1:]) ** 2)
    share = (_TRUST * trust)[..., None, None]
    near = y[..., None] * x[..., None, :]
    return np.asarray(np.minimum(maps * (1 + share * near) / (1 + _AGREED * share), 1))


def person(
    joints_px: Float, sure: Float, bones: Float | None = None, before: Person2D | None = None
) -> Person2D | None:
    """Return the person of a portrait's joints (K, 2), image px, or None if nobody is there.

    bones (3 J,): what the network answered for them; before: the person as the whole picture showed
    them, whose bones, which more pictures have taught, are nearer the truth.
    """
    seen = sure >= _SEEN
    if seen.sum() < _JOINTS_MIN:
        return None
    confidence = np.where(seen, sure, 0).clip(0, 1)
    score = float((sure[:_C] ** 2).sum() / sure[:_C].sum() * np.sqrt(seen[:_C].mean()))
    told = None if bones is None else np.where(seen[:, None], bones, np.nan)
    if before is not None:
        score = _SURER * float(np.sqrt(score * before.score))
        known = before.encoding
        told = None if known is None else np.where(seen[:, None], known, np.nan)
    return Person2D(np.where(seen[:, None], joints_px, np.nan), confidence, min(score, 1.0), told)


def own_readings(
    known: Sequence[Person2D], found: Sequence[Person2D | None]
) -> list[Person2D | None]:
    """Return the readings of portraits, but the first one of whom their portrait shows another.

    known: everybody as the whole picture showed them; found: as their portraits do, if at all.
    """
    rows = [n for n, p in enumerate(found) if p is not None]
    new = [p for p in found if p is not None]
    out = list(found)
    if len(known) < 2 or not new:
        return out
    near = likenesses(new, known)
    own = near[np.arange(len(rows)), rows]
    same = np.zeros_like(near, bool)
    same[:, rows] = likenesses(new, new) > _ONE
    other = (near > own[:, None]) & ((near > _OTHER) | same)
    for i in np.flatnonzero(other.any(1)):
        out[rows[i]] = known[rows[i]]
    return out


def moved(before_px: Float, after_px: Float) -> NDArray[np.bool_]:
    """Return whether boxes (N, 4) show something else than those before."""
    low = np.maximum(before_px[:, :2], after_px[:, :2])
    high = np.minimum(before_px[:, 2:], after_px[:, 2:])
    both = (high - low).clip(0).prod(1)
    areas = [(b[:, 2:] - b[:, :2]).prod(1) for b in (before_px, after_px)]
    return np.asarray(both < _MOVED * (areas[0] + areas[1] - both))


def distinct(people: Sequence[Person2D]) -> list[Person2D]:
    """Return the people, best first, without those who are somebody better once more."""
    ranked = sorted(people, key=lambda p: -p.score)
    one = likenesses(ranked, ranked) > _ONE if len(ranked) > 1 else np.zeros((1, 1), bool)
    kept: list[int] = []
    for n in range(len(ranked)):
        if not one[n, kept].any():
            kept.append(n)
    return [ranked[n] for n in kept]


def likenesses(a: Sequence[Person2D], b: Sequence[Person2D]) -> Float:
    """Return the object key point similarity (A, B) of people over the joints that both show.

    Zero where these are fewer than three; the area is the larger one round these joints.
    """
    seen_a, seen_b = (np.array([p.confidence[:_C] > 0 for p in people]) for people in (a, b))
    both = (seen_a[:, None] & seen_b[None])[..., None]
    points = [np.array([p.joints_px[:_C] for p in people], float) for people in (a, b)]
    pa, pb = points[0][:, None], points[1][None]
    sides = [np.where(both, p, -np.inf).max(2) - np.where(both, p, np.inf).min(2) for p in (pa, pb)]
    enough = both[..., 0].sum(-1) >= _JOINTS_MIN
    area = np.maximum(np.maximum(*(np.where(enough[..., None], s, 1).prod(-1) for s in sides)), 1)
    squared = np.where(both, pa - pb, 0)
    squared = (squared * squared).sum(-1)
    share = np.exp(-squared / (8 * OKS_SIGMAS[:_C].astype(float) ** 2 * area[..., None]))
    total = (share * both[..., 0]).sum(-1)
    return np.asarray(np.where(enough, total / np.maximum(both[..., 0].sum(-1), 1), 0))


def likeness(a: Person2D, b: Person2D) -> float:
    """Return `likenesses` of two people."""
    return float(likenesses([a], [b])[0, 0])


def worth(people: Sequence[Person2D]) -> list[Person2D]:
    """Return the people found who are worth a look."""
    return [p for p in people if p.score >= _CANDIDATE and (p.confidence > 0).any()]


def part_of(box_px: Float, width: int, height: int, larger: float) -> Float:
    """Return the affine (2, 3), image px -> px of a part of width x height, that shows a box.

    box_px: corners x1 y1 x2 y2; it is made `larger` and comes to lie in the middle.
    """
    x1, y1, x2, y2 = box_px[:4]
    w, h = max(x2 - x1, 1.0), max(y2 - y1, 1.0)
    scale = width / (larger * max(w, h * width / height))
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return np.array([[scale, 0, width / 2 - scale * x], [0, scale, height / 2 - scale * y]])


def highest(maps: Float, blur: int) -> tuple[Float, Float]:
    """Return x, y (M, 2) in cells and height (M,) of the largest peak of each map (M, h, w).

    One Newton step on the logarithm of the map smoothed over `blur` cells (odd; 1: not at all);
    maps are smoothed round the peak only. Source: Zhang et al. 2020 (DARK), section 3.2.
    """
    m, h, w = maps.shape
    at = maps.reshape(m, -1).argmax(1)
    y, x = np.divmod(at, w)
    score = maps.reshape(m, -1)[np.arange(m), at]
    reach = 2 + blur // 2
    padded = np.pad(maps, ((0, 0), (reach, reach), (reach, reach)), mode="reflect")
    side = np.arange(2 * reach + 1)
    patch = padded[
        np.arange(m)[:, None, None], y[:, None, None] + side[:, None], x[:, None, None] + side
    ]
    kernel = cv2.getGaussianKernel(blur, 0)[:, 0]
    smooth = np.stack([np.convolve(row, kernel, "valid") for row in np.eye(len(side))], 1)
    g = np.log(np.maximum(smooth @ patch @ smooth.T, 1e-9))
    gx, gy = (g[:, 2, 3] - g[:, 2, 1]) / 2, (g[:, 3, 2] - g[:, 1, 2]) / 2
    xx = (g[:, 2, 4] - 2 * g[:, 2, 2] + g[:, 2, 0]) / 4
    yy = (g[:, 4, 2] - 2 * g[:, 2, 2] + g[:, 0, 2]) / 4
    xy = (g[:, 3, 3] - g[:, 1, 3] - g[:, 3, 1] + g[:, 1, 1]) / 4
    det = xx * yy - xy * xy
    inner = (x > 1) & (x < w - 2) & (y > 1) & (y < h - 2) & (np.abs(det) > 1e-10)
    det = np.where(inner, det, 1)
    dx = np.where(inner, (xy * gy - yy * gx) / det, 0).clip(-2, 2)
    dy = np.where(inner, (xy * gx - xx * gy) / det, 0).clip(-2, 2)
    return np.column_stack([x + dx, y + dy]), score
