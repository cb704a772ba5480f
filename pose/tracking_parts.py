"""Readings put together anew from their parts, by where motion expects everybody's joints.

Where people cover each other, what is seen of one of them falls into parts that no limb connects.
In a single picture only the lengths of a body tell which belong together; motion tells far better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.pose.likeness import stacked
from manypose.pose.records import ALONE, Person2D, Person3D
from manypose.pose.tracking_memory import Track, TrackingConfig, assign
from manypose.pose.tracking_mix import Expected, MixConfig, regrouped

Float = NDArray[np.floating[Any]]
Int = NDArray[np.intp]
Numbers = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class PartsConfig:
    """When a part is somebody's; lengths in sizes of the person, evidence as logarithms.

    near: error of the place expected for a joint seen in the last frame; growth: by how much it
    grows in every second a joint is not seen, up to far. against_max: so much a single joint may
    speak against a person. keep: least evidence, for each joint of whose place something is
    known, with which a part stays with the person it was read for.
    """

    near: float = 0.05
    growth: float = 0.4
    far: float = 0.35
    against_max: float = 3.0
    keep: float = -1.0

    def spread(self, unseen_s: Float) -> Float:
        """Return the errors to be expected of joints not seen for so long, in sizes."""
        late = np.maximum(unseen_s - 0.033, 0)
        return np.asarray(np.minimum(self.near + self.growth * late, self.far))


def shared_out(
    tracks: Sequence[Track], now: float, step_s: float, people: Sequence[Person3D],
    limits: TrackingConfig,
) -> Int:  # fmt: skip
    """Return (R, K) from which of the people each joint of R readings comes, -1 = from none.

    First whole parts go to whom motion expects them at, then single joints that were read for
    somebody else, but not in a picture of that one's own. step_s: since the last frame.
    """
    points = stacked(people).points
    joints = np.arange(points.shape[1])
    places = np.where(np.isfinite(points[..., 0]), np.arange(len(points))[:, None], -1)
    numbers = np.array([p.seen.part_numbers for p in people]).reshape(places.shape)
    known = [t for t in tracks if t.hits >= 3 and 0 <= now - t.seen_s < limits.parts_s]
    if known and (np.where(places >= 0, numbers != numbers.max(1, keepdims=True), False)).any():
        config, unseen = PartsConfig(), now - np.array([t.joint_s for t in known])
        sizes = np.array([t.size_px for t in known])
        expected = _ahead(known, now, unseen > limits.body_s)
        places = reunited(points, numbers, expected, sizes, config.spread(unseen), config)
    sure = [t for t in known if t.hits >= 5 and now - t.seen_s < limits.mend_s]
    if not sure:
        return places
    last = _ahead(sure, now)
    unknown = now - np.array([t.joint_s for t in sure]) >= limits.joint_s
    unknown |= np.array([t.borrowed_s for t in sure]) > limits.borrow_s
    last = np.where(unknown[..., None], np.nan, last)
    near = Expected(last, np.array([t.size_px for t in sure]), step_s)
    points = np.where((places >= 0)[..., None], points[places, joints], np.nan)
    alone = ((places >= 0) & (numbers[places, joints] == ALONE)).any(1)
    again, foreign = regrouped(points, near, MixConfig(), alone)
    since = np.array([t.borrowed_s for t in sure]) + step_s
    for track, borrowed_s in zip(sure, np.where(foreign, since, 0.0)):
        track.borrowed_s = borrowed_s
    return np.where(again >= 0, places[again, joints], -1)


def _ahead(tracks: Sequence[Track], now: float, hidden: NDArray[np.bool_] | None = None) -> Float:
    """Return where the joints (T, K, 2) of tracks are expected now, px.

    Those that are hidden (T, K) are where the body has them, as far as it is known.
    """
    # nobody keeps a velocity for longer than 0.4 s
    gap = np.minimum(np.array([now - t.seen_s for t in tracks]), 0.4)[:, None]
    shift = np.array([t.velocity_px for t in tracks]) * gap
    last = np.array([t.points_px for t in tracks])
    if hidden is not None:
        body = np.array([p if t.body_px is None else t.body_px for t, p in zip(tracks, last)])
        last = np.where(hidden[..., None] & np.isfinite(body), body, last)
    return np.asarray(last + shift[:, None])


def rearranged(people: Sequence[Person3D], places: Int) -> tuple[list[Person3D], list[Person2D]]:
    """Return the people who stay as they are, and those made anew, by `places` of `shared_out`."""
    confidence = np.array([p.seen.confidence for p in people])
    px = np.array([p.seen.joints_px for p in people])
    there, taken = np.isfinite(px[..., 0]), places >= 0
    source = places.max(1)  # the reading that a row is, if it is one as it was
    same = (taken == there[source]).all(1) & ((places == source[:, None]) | ~taken).all(1)
    bones = [p.seen.encoding for p in people if p.seen.encoding is not None]
    worth = np.array([p.seen.score for p in people]) / np.sqrt(np.maximum(there.sum(1), 1))
    rows = places[~same & (taken.sum(1) >= 2)]
    own, joints = rows >= 0, np.arange(places.shape[1])
    found = np.where(own[..., None], px[rows, joints], np.nan)
    sure = np.where(own, confidence[rows, joints], 0)
    count = np.maximum(own.sum(1), 1)
    scores = np.minimum(1.0, np.where(own, worth[rows], 0).sum(1) / np.sqrt(count)).tolist()
    encodings: list[Float | None] = [None] * len(rows)
    if bones and len(bones) == len(people):  # large: nothing is copied but what is taken
        for i, place in enumerate(rows):
            encodings[i] = encoding = np.full_like(bones[0], np.nan)
            for m in set(place[own[i]].tolist()):
                encoding[place == m] = bones[m][place == m]
    anew = [Person2D(*each) for each in zip(found, sure, scores, encodings)]
    return [people[m] for m in source[same]], anew


def reunited(
    points: Float, numbers: Numbers, expected: Float, sizes: Float, spread: Float,
    config: PartsConfig,
) -> Int:  # fmt: skip
    """Return (R, K) from which reading each joint of R new readings comes, -1 = from none.

    The evidence that a part is somebody's is the sum over its joints of the logarithm of how much
    likelier they lie there as this person's (a Gaussian round the place expected) than as
    anybody's (anywhere in a square of the person's size). Every part goes to one person, nobody
    gets a joint twice, most evidence first. A part nobody is expected at stays with whom most of
    its reading went to, else the rest of a reading is one of its own.

    Args:
        points: (M, K, 2) px of the readings, NaN = not seen.
        numbers: (M, K) of the parts within each reading.
        expected: (T, K, 2) px where people's joints should be, NaN = not known.
        sizes: (T,) px of these people.
        spread: (T, K) error of the places expected, in sizes.
        config: limits.
    """
    reading, joint = np.nonzero(np.isfinite(points[..., 0]))
    _, first, unit = np.unique(
        reading * 1024 + numbers[reading, joint], return_index=True, return_inverse=True
    )
    of, people = reading[first], len(expected)  # the reading of each part
    slots = np.zeros((len(first), points.shape[1]), bool)
    slots[unit, joint] = True
    error = expected.transpose(2, 0, 1)[..., joint]
    error -= points[reading, joint].T[:, None]
    error *= error
    square = (error[0] + error[1]) / sizes[:, None] ** 2
    variance = spread[:, joint] ** 2
    known = np.isfinite(square)
    value = -square / (2 * variance) - np.log(2 * math.pi * variance)
    value = np.where(known, np.maximum(value, -config.against_max), 0.0)
    parts = (unit == np.arange(len(first))[:, None]).astype(float)
    gain, against = parts @ value.T, config.keep * (parts @ known.T)
    owner, taken = _owners(gain, slots)
    size = slots.sum(1)
    for m in sorted(set(of[owner < 0].tolist())):
        held = np.flatnonzero((of == m) & (owner >= 0))
        if not len(held):
            continue
        t = int(np.bincount(owner[held], size[held]).argmax())
        left = np.flatnonzero((of == m) & (owner < 0))
        for u in left[np.argsort(-size[left], kind="stable")]:
            if gain[u, t] >= against[u, t] and not (slots[u] & taken[t]).any():
                owner[u] = t
                taken[t] |= slots[u]
    some, row = np.unique(np.where(owner >= 0, owner, people + of)[unit], return_inverse=True)
    places = np.full((len(some), points.shape[1]), -1)
    places[row, joint] = reading
    return places


def _owners(gain: Float, slots: NDArray[np.bool_]) -> tuple[Int, NDArray[np.bool_]]:
    """Return whose each part is (U,), -1 = nobody's, and the joints (T, K) people have then.

    gain (U, T): evidence; slots (U, K): joints of the parts. Round by round everybody gets at
    most one part, and no part goes to the second best while the best could still take it.
    """
    owner = np.full(len(gain), -1)
    taken = np.zeros((gain.shape[1], slots.shape[1]), bool)
    free = np.where(gain > 0, gain, -1.0)
    while (best := free.max(1)).max() > 0:
        pairs = [(u, t) for u, t in assign(-free, 0.0) if free[u, t] >= best[u]]
        if not pairs:
            u = int(best.argmax())
            pairs = [(u, int(free[u].argmax()))]
        units, whose = (list(side) for side in zip(*pairs, strict=True))
        owner[units] = whose
        taken[whose] |= slots[units]
        free[units] = -1.0
        free[slots @ taken.T] = -1.0  # who has such a joint already
    return owner, taken
