"""Each person's own part of a picture: where it is, and the joints in maps made of it.

What the whole picture gave are people found; where exactly their joints are is read again, each
person upright in the middle of a small picture of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from manypose.pose.joining import statures
from manypose.pose.joints import COCO_NAMES, JOINTS_2D, OKS_SIGMAS
from manypose.pose.records import ALONE, Box, Person2D, UInt8

Float = NDArray[np.floating[Any]]

WIDTH, HEIGHT = 96, 128  # px of our network's input
STRIDE = 4  # of its maps
# A sheet is what the network is given: a portrait and, in the bytes of the rows below it, clues.
SHEET_HEIGHT = HEIGHT + 112
CLUES = 2 * len(JOINTS_2D)  # maps of the person, then of others
SIGMA_CELLS = 1.25  # Gaussian of a joint
LARGER = 1.25  # than the person's box
_C = len(COCO_NAMES)
# People looked at: the largest, or everybody; then the unlikely ones are, too.
LARGEST, EVERYBODY = 4, 100
_CANDIDATE, _UNLIKELY = 0.3, 0.15  # the score from which somebody found is looked at
_ROUND = 0.1  # of the longer side: what a box shows round the joints
_LEAST = 0.5  # of the stature: the side of a box round a few joints
_SEEN = 0.2  # the height of a map from which a joint is seen
_JOINTS_MIN = 3
_SURER = 1.06  # scores of people found are so much higher than those of their two readings
_BLUR = 5  # cells
_OTHER = 0.3  # the likeness from which a reading may be that of another person
_ONE = 0.5  # the likeness from which two people are one
_TAKEN = 0.6  # and from which a joint is that of somebody better
_LEFT = 0.4  # share of their joints that people have for themselves
_REACH = 4.0  # cells that a joint beside the portrait is seen from in it
_MOVED = 0.5  # boxes of which less of their union is common are two, and the new one is looked at
_CLOSER = 0.8  # so much of a box is shown once it is known where the person is


@dataclass(frozen=True, slots=True)
class Part:
    """A person's part of a picture and where it lies in the portrait, px; the rest is grey.

    part: corners in the picture, on even px; place: corners x0 y0 x1 y1 in the portrait.
    """

    part: Box
    place: Box


def boxes(people: Sequence[Person2D]) -> Float:
    """Return corners x1 y1 x2 y2 (N, 4), image px, round people of whom some joint is seen."""
    points = np.array([p.joints_px for p in people], float)
    points[np.array([p.confidence for p in people]) <= 0] = np.nan
    low, high = np.fmin.reduce(points, 1), np.fmax.reduce(points, 1)
    side = (high - low).max(1)
    margin = np.maximum(_ROUND * side, 0.5 * (_LEAST * statures(points) - side)).clip(2)[:, None]
    return np.concatenate([low - margin, high + margin], 1)


def next_looks(
    rows: Sequence[int], boxes_px: Float, moved: NDArray[np.bool_], left: int
) -> list[int]:
    """Return who is looked at next: who has moved, and of the others the largest.

    rows: the numbers of all who may be; boxes_px (N, 4): everybody's, corners; moved: whether each
    of `rows` has; left: looks that are left. Who has moved is looked at even if none are.
    """
    own = boxes_px[rows]
    area = (own[:, 2:] - own[:, :2]).prod(1)
    order = np.lexsort((-area, ~moved))[: max(left, int(moved.sum()))]
    return [rows[i] for i in sorted(order)]


def closer(boxes_px: Float) -> Float:
    """Return corners (N, 4) that show people, once read in their boxes, from somewhat nearer.

    Source of the idea: Toshev and Szegedy 2014 (DeepPose), section 3.2: later stages of a cascade
    see smaller parts of the picture round what was read.
    """
    middle = (boxes_px[:, :2] + boxes_px[:, 2:]) / 2
    half = _CLOSER * (boxes_px[:, 2:] - middle)
    return np.concatenate([middle - half, middle + half], 1)


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


def sheets(portraits: UInt8, clues: UInt8) -> UInt8:
    """Return sheets (N, SHEET_HEIGHT, W, 3) of portraits (N, H, W, 3) and `clues` of them."""
    n = len(portraits)
    out = np.zeros((n, SHEET_HEIGHT, WIDTH, 3), np.uint8)
    out[:, :HEIGHT] = portraits
    below = out[:, HEIGHT:].reshape(n, -1)
    below[:, : clues[0].size] = clues.reshape(n, -1)
    out[:, HEIGHT:] = below.reshape(out[:, HEIGHT:].shape)
    return out


def unfolded(sheet: UInt8) -> tuple[UInt8, UInt8]:
    """Return the portraits (N, H, W, 3) and clues (N, 2 K, h, w) of sheets."""
    h, w = HEIGHT // STRIDE, WIDTH // STRIDE
    below = sheet[:, HEIGHT:].reshape(len(sheet), -1)[:, : CLUES * h * w]
    return sheet[:, :HEIGHT], below.reshape(-1, CLUES, h, w)


def clues(parts: Sequence[Part], known: Sequence[Person2D], whose: Sequence[int]) -> UInt8:
    """Return maps (N, 2 K, h, w) of joints read before, in portraits, 255 where they are sure.

    Of each portrait those of the person come first, then those of everybody else. known: the people
    who were read, if anybody; whose: which of them each part is of.
    """
    k, h, w = len(JOINTS_2D), HEIGHT // STRIDE, WIDTH // STRIDE
    out = np.zeros((len(parts), 2, k, h, w), np.uint8)
    if not known:
        return out.reshape(-1, CLUES, h, w)
    px = np.array([p.joints_px for p in known], np.float32)
    trust = np.array([p.confidence for p in known], np.float32)
    cells, sure = _cells(px, trust, parts)
    reach = ((cells > -_REACH) & (cells < (w + _REACH, h + _REACH))).all(-1) & (sure > 0)
    part, person, joint = np.nonzero(reach)
    maps = _gaussians(cells[reach], 255 * sure[reach])
    own = person == np.array(whose)[part]
    out[part[own], 0, joint[own]] = maps[own]
    for one in np.unique(person[~own]):
        its = ~own & (person == one)
        others = part[its], 1, joint[its]
        out[others] = np.maximum(out[others], maps[its])
    return out.reshape(-1, CLUES, h, w)


def _cells(px: Float, trust: Float, parts: Sequence[Part]) -> tuple[Float, Float]:
    """Return where joints (P, K, 2), image px, are in portraits, cells (N, P, K, 2), how sure."""
    part = np.array([p.part for p in parts], np.float32)[:, None, None]
    place = np.array([p.place for p in parts], np.float32)[:, None, None]
    scale = (part[..., 2:] - part[..., :2]) / (place[..., 2:] - place[..., :2])
    cells = ((px + 0.5 - part[..., :2]) / scale + place[..., :2] - STRIDE / 2) / STRIDE
    sure = np.where(np.isfinite(cells).all(-1), trust, 0).clip(0, 1)
    return np.where(sure[..., None] > 0, cells, -99), sure


def _gaussians(cells: Float, high: Float) -> UInt8:
    """Return maps (M, h, w) of joints (M, 2) so high (M,)."""
    narrow = np.float32(-0.5 / SIGMA_CELLS**2)
    side = np.arange(max(WIDTH, HEIGHT) // STRIDE, dtype=np.float32)
    x = np.exp(narrow * (side[: WIDTH // STRIDE] - cells[:, :1]) ** 2)
    y = np.exp(narrow * (side[: HEIGHT // STRIDE] - cells[:, 1:]) ** 2)
    maps = (y * high[:, None])[..., None] * x[:, None]
    maps += np.float32(0.5)
    return maps.astype(np.uint8)


def read(maps: Float, parts: Sequence[Part]) -> tuple[Float, Float]:
    """Return joints (N, K, 2), image px, and how sure they are (N, K), of maps (N, K, h, w)."""
    n, k, h, w = maps.shape
    part = np.array([p.part for p in parts], float)
    place = np.array([p.place for p in parts], float)
    scale = (part[:, 2:] - part[:, :2]) / (place[:, 2:] - place[:, :2])
    maps = np.clip(maps, 0, 1)
    cells, score = highest(maps.reshape(-1, h, w), _BLUR)
    px = (cells * STRIDE + STRIDE / 2).reshape(n, k, 2)  # px areas of the portrait
    image = (px - place[:, None, :2]) * scale[:, None] + part[:, None, :2] - 0.5
    return image, score.reshape(n, k)


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
        if before.encoding is not None:
            told = np.where(seen[:, None], before.encoding, np.nan)
    px = np.where(seen[:, None], joints_px, np.nan).astype(np.float32)
    alone = np.full(len(seen), ALONE, np.int8)
    return Person2D(px, confidence.astype(np.float32), min(score, 1.0), told, alone)


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
    """Return whether boxes (N, 4) have less than half of their union in common with others."""
    low = np.maximum(before_px[:, :2], after_px[:, :2])
    high = np.minimum(before_px[:, 2:], after_px[:, 2:])
    both = (high - low).clip(0).prod(1)
    areas = [(b[:, 2:] - b[:, :2]).prod(1) for b in (before_px, after_px)]
    return np.asarray(both < _MOVED * (areas[0] + areas[1] - both))


def distinct(people: Sequence[Person2D]) -> list[Person2D]:
    """Return the people, best first, each with joints that are nobody's who is better.

    Who is somebody better once more, or has few joints left, is left out.
    """
    ranked = sorted(people, key=lambda p: -p.score)
    if len(ranked) < 2:
        return ranked
    alike, both = _joint_likenesses(ranked, ranked)
    one = _mean(alike, both) > _ONE
    taken = (alike > _TAKEN) & both
    kept: list[int] = []
    out: list[Person2D] = []
    for n, person in enumerate(ranked):
        if one[n, kept].any():
            continue
        others = np.zeros(len(person.confidence), bool)
        others[:_C] = taken[n, kept].any(0)
        seen = person.confidence > 0
        left = int((seen & ~others).sum())
        if left < max(_JOINTS_MIN, _LEFT * seen.sum()):
            continue
        kept.append(n)
        out.append(_without(person, others) if others.any() else person)
    return out


def _without(person: Person2D, joints: NDArray[np.bool_]) -> Person2D:
    told = person.encoding
    return replace(
        person,
        joints_px=np.where(joints[:, None], np.nan, person.joints_px),
        confidence=np.where(joints, 0, person.confidence),
        encoding=None if told is None else np.where(joints[:, None], np.nan, told),
    )


def likenesses(a: Sequence[Person2D], b: Sequence[Person2D]) -> Float:
    """Return the object key point similarity (A, B) of people over the joints that both show.

    Zero where these are fewer than three; the area is the larger one round these joints.
    """
    return _mean(*_joint_likenesses(a, b))


def _joint_likenesses(
    a: Sequence[Person2D], b: Sequence[Person2D]
) -> tuple[Float, NDArray[np.bool_]]:
    """Return the similarity of each joint of people (A, B, C), and which of them both show."""
    # joints first, in memory as well: sums over them run along whole rows of pairs
    seen_a, seen_b = (
        np.array([p.confidence[:_C] > 0 for p in people]).T.copy() for people in (a, b)
    )
    both = seen_a[:, :, None] & seen_b[:, None]
    points = [np.array([p.joints_px[:_C] for p in people], float).T.copy() for people in (a, b)]
    pa, pb = points[0][..., None], points[1][:, :, None]  # (2, C, A or 1, 1 or B)
    sides = [np.where(both, p, -np.inf).max(1) - np.where(both, p, np.inf).min(1) for p in (pa, pb)]
    enough = both.sum(0) >= _JOINTS_MIN
    area = np.maximum(np.maximum(*(np.where(enough, s, 1).prod(0) for s in sides)), 1)
    apart = np.where(both, pa - pb, 0)
    squared = (apart * apart).sum(0)
    variance = 8 * OKS_SIGMAS[:_C].astype(float)[:, None, None] ** 2
    return np.moveaxis(np.exp(-squared / (variance * area)), 0, 2), np.moveaxis(both, 0, 2)


def _mean(alike: Float, both: NDArray[np.bool_]) -> Float:
    count = both.sum(-1)
    total = (alike * both).sum(-1)
    return np.asarray(np.where(count >= _JOINTS_MIN, total / np.maximum(count, 1), 0))


def likeness(a: Person2D, b: Person2D) -> float:
    """Return `likenesses` of two people."""
    return float(likenesses([a], [b])[0, 0])


def worth(
    people: Sequence[Person2D], boxes_px: Float, most: int = EVERYBODY, crowds: bool = True
) -> list[int]:
    """Return the numbers of the people found who are worth a look, of `most` the largest.

    boxes_px (N, 4): theirs, corners. crowds: False, where there are more than `most`, nobody is.
    """
    least = _UNLIKELY if most >= EVERYBODY else _CANDIDATE
    rows = [n for n, p in enumerate(people) if p.score >= least]
    if len(rows) <= most:
        return rows
    if not crowds:
        return []
    area = (boxes_px[:, 2:] - boxes_px[:, :2]).prod(1)
    return sorted(sorted(rows, key=lambda n: -area[n])[:most])


def part_of(box_px: Float, width: int, height: int, larger: float) -> Float:
    """Return the affine (2, 3), image px -> px of a part of width x height, that shows a box.

    box_px: corners x1 y1 x2 y2; it is made `larger` and comes to lie in the middle.
    """
    x1, y1, x2, y2 = box_px[:4]
    w, h = max(x2 - x1, 1.0), max(y2 - y1, 1.0)
    scale = width / (larger * max(w, h * width / height))
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return np.array([[scale, 0, width / 2 - scale * x], [0, scale, height / 2 - scale * y]])


def _mirrored(at: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    """Return numbers of rows with those beyond the first and the last one mirrored there."""
    return np.asarray((size - 1) - np.abs((size - 1) - np.abs(at)))


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
    side = np.arange(-reach, reach + 1)
    rows, columns = _mirrored(y[:, None] + side, h), _mirrored(x[:, None] + side, w)
    patch = maps[np.arange(m)[:, None, None], rows[:, :, None], columns[:, None]]
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
