"""What is remembered of people, and whose clothes somebody wears.

Clothes settle what motion cannot: who is who after an embrace or after people hid each other, and
who has come back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.pose.appearance import (
    colour_changes,
    colour_distances,
    mixed_colours,
    stacked_colours,
)
from manypose.pose.joints import JOINTS_2D
from manypose.pose.likeness import alike

Float = NDArray[np.floating[Any]]

_NEVER = 1e3  # the cost of what must not be


@dataclass(frozen=True, slots=True)
class TrackingConfig:
    """Limits of the tracker; costs are in [0, 1], times in seconds."""

    max_gap_s: float = 1.0  # seen again within this time: matched by motion alone
    memory_s: float = 180.0  # gone for longer: forgotten
    cost_max: float = 0.7  # gate of a match
    near_min: float = 0.15  # least likeness in the picture to what is expected
    likeness_max: float = 0.30  # largest distance of clothes that brings an id back
    swap_max: float = 0.35  # that shows that somebody is taken for another one
    place_s: float = 2.5  # lost for no longer: known again by the place
    place_near: float = 0.4  # if so much alike in the picture
    likeness_margin: float = 0.08  # by which the second best must be worse
    speed_max_m_s: float = 6.0
    wait_s: float = 1.0  # a new person without visible clothes waits, while others are gone
    min_age: int = 3  # frames before a new person is shown, who is found for certain
    evidence: float = 0.15  # mean lead of the scores in these frames; unsure ones take longer
    min_score: float = 0.2  # less sure ones start nobody; they carry on what is known
    weak_s: float = 0.5  # for so long
    weak_near: float = 0.4  # and if so much like what is expected
    repeat: float = 0.6  # likeness from which a reading repeats another one
    parts_s: float = 1.0  # seen within this time: parts of readings go to whom they fit
    body_s: float = 0.1  # a joint not seen for longer is expected where the body has it
    mend_s: float = 0.3  # seen within this time: joints read for others are taken back
    joint_s: float = 0.2  # a joint not seen for so long is expected nowhere,
    borrow_s: float = 0.5  # nor one that has been taken from others for longer
    people_max: int = 20


@dataclass(slots=True, eq=False)
class Track:
    """What is remembered of one person; `slot` is its row in the follower's arrays."""

    slot: int
    track_id: int = -1  # -1 until the person is old enough to be shown
    hits: int = 0
    evidence: float = 0.0  # sum over readings of how far their scores are above the least
    misses: int = 0
    seen_s: float = 0.0
    sound_s: float = 0.0  # when last seen well enough to be believed without its past
    score: float = 0.0
    points_px: Float = field(default_factory=lambda: np.zeros((0, 2)))
    joint_s: Float = field(default_factory=lambda: np.full(len(JOINTS_2D), -np.inf))  # last seen
    borrowed_s: Float = field(default_factory=lambda: np.zeros(len(JOINTS_2D)))
    body_px: Float | None = None  # where the body was in the picture, also what was not seen
    size_px: float = 1.0
    velocity_px: Float = field(default_factory=lambda: np.zeros(2))
    root_m: Float = field(default_factory=lambda: np.zeros(3))
    velocity_m: Float = field(default_factory=lambda: np.zeros(3))
    pose_m: Float = field(default_factory=lambda: np.zeros((0, 3)))
    colours: Float | None = None
    colours_seen: int = 0
    strange: int = 0  # looks in a row that were not like the person
    born_s: float = 0.0
    whole_s: float = -np.inf  # when last found in a whole picture, not by a look at them alone
    resumed_s: float = -np.inf  # when last seen again after having been out of sight


@dataclass(slots=True, eq=False)
class Changes:
    """Who turned out to be somebody else.

    moved: (track, track whose identity it has now), rows' bodies must follow. returned: tracks
    that are people gone or out of sight before. strangers: tracks that are somebody new. left:
    people whose track was somebody else's. found: of `returned`, who they were.
    """

    moved: list[tuple[Track, Track]] = field(default_factory=list)
    returned: list[Track] = field(default_factory=list)
    strangers: list[Track] = field(default_factory=list)
    left: list[Track] = field(default_factory=list)
    found: list[Track] = field(default_factory=list)


def learn(looks: Sequence[tuple[Track, Float]]) -> list[tuple[Track, Float]]:
    """Mix in what clothes look like; return those who wear other clothes, twice in a row."""
    if not looks:
        return []
    distance = colour_changes([c for _, c in looks], [t.colours for t, _ in looks]).tolist()
    suspects, believed = [], []
    for (track, look), far in zip(looks, distance, strict=True):
        strange = track.colours_seen >= 3 and far > 0.5
        track.strange = track.strange + 1 if strange else 0
        if not strange or track.strange > 20:
            believed.append((track, look))
        elif track.strange >= 2:
            suspects.append((track, look))
    if believed:
        new = stacked_colours([look for _, look in believed])
        known = np.asarray(np.isfinite(new).any(1))
        gain = np.array([max(0.05, 1 / (t.colours_seen + 1)) for t, _ in believed])
        mixed = mixed_colours(stacked_colours([t.colours for t, _ in believed]), new, gain)
        for (track, _), colours, some in zip(believed, mixed, known, strict=True):
            track.colours = colours
            track.colours_seen += some
    return suspects


def reassign(
    suspects: Sequence[tuple[Track, Float]], away: Sequence[Track], present: Sequence[Track],
    now: float, config: TrackingConfig,
) -> Changes:  # fmt: skip
    """Give suspects (track, look) the identities whose clothes they wear; return what changed.

    away: people gone or out of sight; present: those seen who wear their own clothes. A suspect
    whose clothes are nobody's is somebody new, if it was out of sight a moment ago.
    """
    changes = Changes()
    if not suspects:
        return changes
    tracks = [t for t, _ in suspects]
    owners = [*tracks, *away]
    new = _alike(suspects, owners, present, now, config)
    identity = [(t.track_id, t.colours, t.colours_seen) for t in owners]
    taken = set(new.values())
    for i, track in enumerate(tracks):
        late = track.strange >= 3 and now - track.resumed_s < 3.0
        if i not in new and i not in taken and not late:
            continue
        if i not in taken and track.track_id >= 0:
            lost_s = track.resumed_s if np.isfinite(track.resumed_s) else now
            changes.left.append(replace(track, seen_s=lost_s))
        if i in new:
            k = new[i]
            track.track_id, track.colours, track.colours_seen = identity[k]
            if k < len(tracks):
                changes.moved.append((track, tracks[k]))
            else:
                changes.returned.append(track)
                changes.found.append(owners[k])
        else:
            track.track_id, track.born_s = -1, now
            track.colours, track.colours_seen = suspects[i][1], 1
            changes.strangers.append(track)
        track.strange = 0
    return changes


def _alike(
    suspects: Sequence[tuple[Track, Float]], owners: Sequence[Track], present: Sequence[Track],
    now: float, config: TrackingConfig,
) -> dict[int, int]:  # fmt: skip
    """Return which suspects wear the clothes of which owners, nobody else's and their own least."""
    looks = [look for _, look in suspects]
    distance = colour_distances(looks, [t.colours for t in owners])
    distance[:, [t.track_id < 0 for t in owners]] = 1.0
    np.fill_diagonal(distance, 1.0)
    if not (distance < config.swap_max).any():
        return {}
    if present:
        nearest = colour_distances(looks, [t.colours for t in present]).min(1)
        distance[distance >= nearest[:, None]] = 1.0
    distance[~_reachable([t for t, _ in suspects], owners, now, config)] = 1.0
    if len(owners) > 1:
        order = np.sort(distance, 1)
        distance[order[:, 1] - order[:, 0] < config.likeness_margin] = 1.0
    return dict(assign(distance, config.swap_max))


def _reachable(
    tracks: Sequence[Track], old: Sequence[Track], now: float, config: TrackingConfig
) -> NDArray[np.bool_]:
    """Return (T, O) whether people can have walked from where they were last seen to the tracks."""
    gap = np.array([max(now - t.seen_s, 0.0) for t in old])
    there, here = (np.array([t.root_m for t in some]) for some in (old, tracks))
    away = here[:, None] - there
    return np.asarray(np.sqrt(np.vecdot(away, away)) <= 1.5 + config.speed_max_m_s * gap)


def recognise(
    track: Track, away: Sequence[Track], others: Sequence[Track], now: float,
    config: TrackingConfig,
) -> Track | None:  # fmt: skip
    """Return the person out of sight (`away`) whom this new track is beyond doubt, or None.

    Clothes decide; where two are dressed alike, or none were seen, the place where somebody was
    lost a moment ago. others: the people in view.
    """
    if away:
        away = [t for t, near in zip(away, _reachable([track], away, now, config)[0]) if near]
    if not away:
        return None
    looks = colour_distances([track.colours], [t.colours for t in away])[0]
    at = _place(track, away, now, config)
    if at.max() > config.place_near and looks[at.argmax()] <= 0.5:
        return away[int(at.argmax())]
    if track.colours is None:
        return None
    scored = sorted(zip(looks.tolist(), away), key=lambda pair: pair[0])
    best, old = scored[0]
    similar = [o for d, o in scored if d < best + config.likeness_margin]
    if len(similar) > 1:  # only one who left close by can be told from the others
        walked = [float(np.linalg.norm(track.root_m - o.root_m)) for o in similar]
        near, other = sorted(walked)[:2]
        if near > 1.5 or near > 0.5 * other:
            return None
        old = similar[walked.index(near)]
    colours = [t.colours for t in others if t is not old]
    present = colour_distances([track.colours], colours).min() if colours else 1.0
    return old if best <= min(config.likeness_max, present) else None


def _place(track: Track, away: Sequence[Track], now: float, config: TrackingConfig) -> Float:
    """Return how much (N,) a track is where and as people were last seen, if that is not long."""
    gap = np.array([now - t.seen_s for t in away])
    last = np.array([t.points_px for t in away])
    size = np.array([[max(t.size_px, track.size_px)] for t in away])
    near = alike(last, track.points_px[None], size, 2.0)[:, 0]
    return np.where(gap <= config.place_s, near, 0.0)


def assign(cost: Float, cost_max: float) -> list[tuple[int, int]]:
    """Return the cheapest pairs (row, column) below the gate."""
    rows, columns = next(assignments(cost[None], cost_max))
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def assignments(costs: Float, cost_max: float) -> Iterator[NDArray[np.intp]]:
    """Yield rows and columns (2, P) of the cheapest pairs below the gate, for each of the costs."""
    from scipy.optimize import linear_sum_assignment

    for gated in np.where(costs < cost_max, costs, _NEVER):
        pairs = np.array(linear_sum_assignment(gated))
        yield pairs[:, gated[pairs[0], pairs[1]] < _NEVER]
