"""People who are followed and were not found: they are looked for where they must be.

Whoever is followed is seen in the picture more surely than somebody new, since their place and size
are known; a look at this place alone finds most of those whom the look at the whole missed, or all
of them in frames that nobody looked at as a whole. Source of the idea: Bazarevsky et al. 2020
(BlazePose), where the last frame's pose is the next one's box.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from manypose.pose.joints import JOINTS_2D
from manypose.pose.likeness import Float, alike
from manypose.pose.records import Frame, Person2D, Person3D
from manypose.pose.tracking_memory import Track

# A frame, people as they must be in it and others who were found, to how the former are.
Look = Callable[[Frame, Sequence[Person2D], Sequence[Person2D]], "list[Person2D | None]"]
_K = len(JOINTS_2D)


@dataclass(frozen=True, slots=True)
class RegainConfig:
    """Limits; likenesses and scores in [0, 1]."""

    gap_s: float = 0.5  # out of sight for longer: where they are is not known well enough
    whole_s: float = 1.0  # a look at them alone believes too much to be asked for longer
    found: float = 0.3  # a reading so much like what is expected is them
    other: float = 0.4  # a reading so much like somebody found is that one
    score_min: float = 0.4
    sure: float = 0.3  # a joint is where it must be
    joints_min: int = 4  # known well enough to tell where to look
    most: int = 3  # people looked for, those seen last
    crowd: int = 8  # people followed; among more, looks take more time than they find people


def regained(
    frame: Frame, tracks: Sequence[Track], people: Sequence[Person3D], look: Look,
    config: RegainConfig,
) -> list[Person2D]:  # fmt: skip
    """Return those of the tracks whom nobody of the people found is, as a look at them finds them.

    tracks: before they are matched with the people of this frame; of those who are among these,
    it is noted.
    """
    now = frame.time_s
    wanted = [t for t in tracks if t.track_id >= 0 and now - t.seen_s <= config.gap_s]
    if not wanted or len(wanted) > config.crowd:
        return []
    points = np.array([_expected(t, now, config.gap_s) for t in wanted])
    known = np.isfinite(points[..., 0])
    size = np.array([t.size_px for t in wanted])
    seen = np.array([p.seen.joints_px for p in people], float).reshape(-1, _K, 2)
    lost = known.sum(1) >= config.joints_min
    if len(seen):
        near = alike(points, seen, np.repeat(size[:, None], len(seen), 1))
        there = near.max(1) >= config.found
        for n in np.flatnonzero(known.any(1) & there):
            wanted[n].whole_s = now
        lost &= ~there
    lost &= np.array([now - max(t.whole_s, t.born_s) <= config.whole_s for t in wanted])
    height, width = frame.shape
    middle = np.where(known[..., None], points, 0).sum(1) / np.maximum(known.sum(1), 1)[:, None]
    lost &= ((middle > 0) & (middle < (width, height))).all(1)
    seen_s = np.array([t.seen_s for t in wanted])
    rows = np.sort(np.flatnonzero(lost)[np.argsort(-seen_s[lost], kind="stable")[: config.most]])
    if not len(rows):
        return []
    must = [Person2D(points[n], config.sure * known[n], config.score_min) for n in rows]
    found: list[Person2D] = []
    for n, reading in zip(rows, look(frame, must, [p.seen for p in people])):
        if reading is None or reading.score < config.score_min:
            continue
        one = np.array(reading.joints_px, float)[None]
        own = np.full((1, 1), size[n])
        if alike(points[n : n + 1], one, own).max() < config.found:
            continue
        others = np.concatenate([seen, *(np.array(f.joints_px, float)[None] for f in found)])
        if len(others) and alike(one, others, np.full((1, len(others)), size[n])).max() > (
            config.other
        ):
            continue
        found.append(reading)
    return found


def _expected(track: Track, now: float, gap_s: float) -> Float:
    """Return where the joints (K, 2) of somebody must be, px; NaN where that is not known."""
    recent = now - track.joint_s <= gap_s
    ahead = track.velocity_px * min(now - track.seen_s, 0.4)
    return np.where(recent[:, None], track.points_px + ahead, np.nan)
