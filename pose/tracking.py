"""Who is who between frames: one id per person for as long as the video runs.

A track predicts where its person is (constant velocity of the root, last pose), detections are
compared with it in 2D, in 3D and by the colours of the clothes, and the cheapest assignment wins
(Hungarian method). A person not seen for more than `max_gap_s` goes to a memory, from which only
a convincing likeness of clothes, not contradicted by the distance walked, brings the id back.

Sources: XNect (Mehta et al. 2020), section on tracking: sum of similarities of appearance (hue and
saturation histogram), 2D and 3D pose; OKS as COCO defines it; unsure detections for what sure ones
leave over, as in ByteTrack (Zhang et al. 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.pose.appearance import (
    appearance,
    colour_distances,
    covered,
    thumbnail,
    unlike,
)
from manypose.pose.joints import MIRROR_2D
from manypose.pose.likeness import Seen, alike, oks, stacked
from manypose.pose.records import Frame, Person3D
from manypose.pose.tracking_memory import (
    Changes,
    Track,
    TrackingConfig,
    assign,
    learn,
    reassign,
    recognise,
)
from manypose.pose.tracking_parts import shared_out
from manypose.pose.tracking_surplus import parts, thin

Float = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Result of one frame: pairs (track, index of detection), and what became of tracks.

    moved: (track, the one that had its identity until now); rows' bodies must follow. reset: time
    ran back or the video was cut.
    """

    pairs: list[tuple[Track, int]]
    missed: list[Track]
    ended: list[Track]
    born: list[Track]
    returned: list[Track]
    moved: list[tuple[Track, Track]]
    reset: bool


class Tracker:
    """Assigns detections to people. Ids start at 0 and are never used again."""

    def __init__(self, config: TrackingConfig) -> None:
        self._config = config
        self._tracks: list[Track] = []
        self._gone: list[Track] = []
        self._next_id = 0
        # the import takes a tenth of a second, which belongs to the start, not to the first frame
        from scipy.optimize import linear_sum_assignment  # noqa: F401

        self._free = list(range(slot_count(config)))[::-1]
        self._time_s: float | None = None
        self._thumbnail: Float | None = None
        self._frames = 0

    @property
    def tracks(self) -> tuple[Track, ...]:
        """The people being followed now, seen or missed within `max_gap_s`."""
        return tuple(self._tracks)

    def update(self, frame: Frame, people: Sequence[Person3D]) -> Matches:
        """Return which detection is whom in this frame.

        A time before the last one forgets all motion; a cut in the video forgets all people.
        """
        now = frame.time_s
        reset = self._time_s is not None and now < self._time_s
        if reset:
            self._rewind(now)
        self._time_s = now
        self._frames += 1
        seen = stacked(people)
        line = thin(seen.points)
        sound = (seen.scores >= self._config.min_score) & ~line
        weak = ~sound & ~line
        weak &= ~parts(seen, weak, sound)
        near, cost = self._costs(now, seen)
        colours = self._look(frame, seen, near)
        if cost.size:
            looks = colour_distances([t.colours for t in self._tracks], colours)
            away = np.array([now - t.seen_s > 0.15 for t in self._tracks])[:, None]
            # out of sight for a moment, and other clothes: somebody else in the same place
            cost = cost + 0.25 * looks + 0.4 * (away & (looks > 0.6))
        pairs = self._pair(near, cost, sound, weak, now)
        change = self._changed(frame)
        cut = change > 0.85 or (change > 0.5 and len(pairs) < 0.5 * max(len(self._tracks), 1))
        ended: list[Track] = []
        if cut:
            ended, self._tracks, self._gone, pairs = self._tracks, [], [], []
        matched = [(self._tracks[i], j) for i, j in pairs]
        hit = {id(track) for track, _ in matched}
        missed = [track for track in self._tracks if id(track) not in hit]
        for track in missed:
            track.misses += 1
            young = track.track_id < 0
            if now - track.seen_s > self._config.max_gap_s or (young and track.misses > 1):
                ended.append(track)
        born = self._begin(now, seen, {j for _, j in matched}, sound)
        matched += born
        self._observe(matched, now, seen, sound)
        changes = self._remember(matched, missed, colours, now)
        self._retire(ended, keep=not cut)
        over = [t for t in changes.found if t in missed and t not in ended]
        self._retire(over, keep=False)
        ended += over
        returned = changes.returned + self._name(now, ended, self._config.min_age)
        missed = [t for t in missed if t not in ended]
        return Matches(
            matched,
            missed,
            ended,
            [*(t for t, _ in born), *changes.strangers],
            returned,
            changes.moved,
            reset or cut,
        )

    def regrouped(self, now: float, people: Sequence[Person3D]) -> NDArray[np.intp]:
        """Return (R, K) from which of the people each joint of R readings comes, -1 = from none.

        To be asked before `update`. See `tracking_parts.shared_out`.
        """
        step = max(now - self._time_s, 0.0) if self._time_s is not None else 0.0
        return shared_out(self._tracks, now, step, people, self._config)

    def _remember(
        self, matched: list[tuple[Track, int]], missed: list[Track],
        colours: list[Float | None], now: float,
    ) -> Changes:  # fmt: skip
        """Learn clothes; put right who has been taken for somebody else."""
        suspects = learn([(t, c) for t, j in matched if (c := colours[j]) is not None])
        if not suspects:
            return Changes()
        strange = {id(t) for t, _ in suspects}
        own = [t for t, _ in matched if id(t) not in strange and t.colours is not None]
        lost = [t for t in missed if t.track_id >= 0]
        changes = reassign(suspects, [*self._gone, *lost], own, now, self._config)
        self._gone = [t for t in self._gone if t not in changes.found] + changes.left
        return changes

    def _rewind(self, now: float) -> None:
        """Time went back: positions still count, motion does not."""
        for track in self._tracks:
            track.seen_s = now
            track.born_s = min(track.born_s, now)
            track.velocity_px = np.zeros(2)
            track.velocity_m = np.zeros(3)
        for track in self._gone:
            track.seen_s = min(track.seen_s, now)

    def _look(self, frame: Frame, seen: Seen, near: Float) -> list[Float | None]:
        """Return the colours of those detections for whom they matter in this frame.

        Reading them costs more than everything else here, so it is done where two people may be
        taken for one another, for new people, and for everybody in every fifth frame; never for
        somebody whose trunk another one hides.
        """
        colours: list[Float | None] = [None] * len(seen.points)
        if not colours:
            return colours
        wanted = np.ones(len(colours), bool)
        if near.size and self._frames % 5:
            close = near > 0.15
            rival = (close.sum(1) > 1)[:, None] & close
            wanted = (close.sum(0) != 1) | rival.any(0)
            unsure = np.array([t.colours_seen < 5 or t.strange > 0 for t in self._tracks])
            wanted |= (close & unsure[:, None]).any(0)
        index = np.flatnonzero(wanted & ~covered(seen.points, seen.roots))
        for j, look in zip(index, appearance(frame, seen.points[index])):
            colours[int(j)] = look
        return colours

    def _pair(
        self, near: Float, cost: Float, sound: Mask, weak: Mask, now: float
    ) -> list[tuple[int, int]]:
        """Return which track is which detection: sound ones first, then weak ones for the rest.

        A weak one may only carry on what is known well from a moment ago.
        """
        columns = np.flatnonzero(sound)
        pairs = [(i, int(columns[j])) for i, j in assign(cost[:, columns], self._config.cost_max)]
        taken = {i for i, _ in pairs}
        rows = [
            i
            for i, t in enumerate(self._tracks)
            if i not in taken and t.track_id >= 0 and now - t.sound_s <= self._config.weak_s
        ]
        columns = np.flatnonzero(weak)
        if rows and len(columns):
            some = np.ix_(np.array(rows), columns)
            gated = np.where(near[some] > self._config.weak_near, cost[some], 1e6)
            found = assign(gated, self._config.cost_max)
            pairs += [(rows[i], int(columns[j])) for i, j in found]
        return pairs

    def _begin(
        self, now: float, seen: Seen, taken: set[int], sound: Mask
    ) -> list[tuple[Track, int]]:
        """Return new tracks for detections nobody claims, unless they repeat another one."""
        born = []
        for j in np.argsort(-seen.scores).tolist():
            if j in taken or not sound[j] or not self._free:
                continue
            others = sorted(taken)
            size = np.maximum(seen.sizes[others], seen.sizes[j])[None]
            if (
                others
                and alike(seen.points[[j]], seen.points[others], size).max() > self._config.repeat
            ):
                continue  # a second reading of a person already there
            track = Track(self._free.pop(), born_s=now)
            self._tracks.append(track)
            born.append((track, j))
            taken.add(j)
        return born

    def name_everybody(self) -> None:
        """Give ids to those seen in every frame so far, as if `min_age` were the film's length."""
        self._name(self._time_s or 0.0, [], min(self._frames, self._config.min_age))

    def _name(self, now: float, ended: list[Track], age: int) -> list[Track]:
        """Give ids to tracks seen in so many frames; return those of people known from before.

        They may have gone or just be missed, their tracks led astray by a reading that mixed two
        people: then the new track takes over, and the old one is added to `ended`.
        """
        returned = []
        for track in list(self._tracks):
            young = track.hits < age or track.evidence < age * self._config.evidence
            if track.track_id >= 0 or track.misses or young:
                continue
            lost = [t for t in self._tracks if t.misses and t.track_id >= 0]
            waits = (self._gone or lost) and now - track.born_s < self._config.wait_s
            others = [t for t in self._tracks if t is not track and not t.misses]
            old = recognise(track, [*self._gone, *lost], others, now, self._config)
            if old is None and waits and track.colours_seen < 5:
                continue
            if old is not None:
                if old in lost:
                    ended.append(old)
                    self._retire([old], keep=False)
                else:
                    self._gone.remove(old)
                track.track_id = old.track_id
                returned.append(track)
            else:
                track.track_id = self._next_id
                self._next_id += 1
        return returned

    def forget(self) -> None:
        """End all tracks and the memory of people gone; ids go on."""
        self._retire(list(self._tracks), keep=False)
        self._gone = []
        self._time_s = None
        self._thumbnail = None

    def _retire(self, ended: list[Track], keep: bool) -> None:
        for track in ended:
            self._free.append(track.slot)
            if keep and track.track_id >= 0:
                self._gone.append(track)
        self._tracks = [t for t in self._tracks if t not in ended]
        now = self._time_s or 0.0
        self._gone = [t for t in self._gone if now - t.seen_s <= self._config.memory_s][-200:]

    def _observe(
        self, matched: list[tuple[Track, int]], now: float, seen: Seen, sound: Mask
    ) -> None:
        """Move tracks to their detections; velocities have a time constant of 0.1 s."""
        if not matched:
            return
        tracks, index = [t for t, _ in matched], [j for _, j in matched]
        points, roots = seen.points[index], seen.roots[index]
        dt = np.array([now - t.seen_s for t in tracks])
        old = np.array([t.hits > 0 for t in tracks])
        moved = old & (dt > 1e-3) & (dt <= self._config.max_gap_s)
        step = np.where(moved, dt, 1.0)[:, None]
        gain = np.where(moved, np.minimum(1, dt / 0.1), 0)[:, None]
        last = np.array([t.points_px if t.hits else p for t, p in zip(tracks, points)])
        both = np.isfinite(points) & np.isfinite(last)
        n = both[..., 0].sum(-1)[:, None]
        drift = np.where(both, points - last, 0).sum(1) / np.maximum(n, 1) / step
        v_px = np.array([t.velocity_px for t in tracks])
        v_px = v_px + np.where(n >= 3, gain, 0) * (drift - v_px)
        v_m = np.array([t.velocity_m for t in tracks])
        speed = (roots - np.array([t.root_m for t in tracks])) / step
        top = np.maximum(np.linalg.norm(speed, axis=-1, keepdims=True), 1e-6)
        speed *= np.minimum(1.0, self._config.speed_max_m_s / top)
        v_m = v_m + gain * (speed - v_m)
        # a joint not seen now is remembered where it was, moved along with the rest
        carried = last + (v_px * np.clip(dt, 0, 0.2)[:, None])[:, None]
        there = np.isfinite(points[..., 0])
        points = np.where(there[..., None], points, carried)
        seen_s = np.where(there, now, np.array([t.joint_s for t in tracks]))
        for i, (track, j) in enumerate(matched):
            track.points_px, track.joint_s = points[i], seen_s[i]
            if sound[j]:  # weak ones tell little of the whole
                track.velocity_px, track.velocity_m = v_px[i], v_m[i]
                track.pose_m, track.root_m = seen.poses[j], roots[i]
                track.size_px, track.sound_s = seen.sizes[j], now
            share = 0.2 if track.hits else 1.0
            track.score += share * (float(seen.scores[j]) - track.score)
            if track.hits and dt[i] > 0.15:
                track.resumed_s = now
            track.seen_s, track.misses = now, 0
            track.hits += 1
            track.evidence += float(seen.scores[j]) - self._config.min_score + 0.05

    def _costs(self, now: float, seen: Seen) -> tuple[Float, Float]:
        """Return OKS and cost (T, M) of every track with every detection, 1e6 beyond the gates.

        The colours' share of the cost is not in it.
        """
        tracks = self._tracks
        if not tracks or not len(seen.points):
            nothing = np.zeros((len(tracks), len(seen.points)))
            return nothing, nothing
        gap = np.array([now - t.seen_s for t in tracks])
        ahead = np.minimum(gap, 0.4)[:, None]  # nobody keeps a velocity for longer
        last = np.array([t.points_px for t in tracks])
        shift = np.array([t.velocity_px for t in tracks]) * ahead
        size = np.maximum(np.array([t.size_px for t in tracks])[:, None], seen.sizes[None])
        slack = 1 + 3 * np.minimum(gap, 1.0)  # less sure the longer not seen
        near = oks(last + shift[:, None], seen.points, size, slack)
        if (near.max(1) < 0.5).any():  # somebody jumped, or left and right were exchanged
            mirrored = seen.points[:, MIRROR_2D]
            near = np.maximum(near, oks(last + shift[:, None], mirrored, size, slack))
        root = np.array([t.root_m for t in tracks])
        expected = root + np.array([t.velocity_m for t in tracks]) * ahead
        away = expected[:, None] - seen.roots[None]
        # depth is the uncertain coordinate: a quarter of the weight of the others
        walked = np.hypot(np.hypot(away[..., 0], away[..., 1]), 0.25 * away[..., 2])
        reach = 0.5 + self._config.speed_max_m_s * np.maximum(gap, 1 / 30)
        out = (walked > reach[:, None]) & (near < 0.3)
        many = np.isfinite(seen.points[..., 0]).sum(1) >= 8  # few joints of somebody near jump far
        out |= (near < self._config.near_min) & many
        cost = np.full(out.shape, 1e6)
        i, j = np.nonzero(~out)  # few: poses are compared where they can matter
        pose = np.array([t.pose_m for t in tracks])
        # sums run over the first axes, which is quick
        change = pose.transpose(2, 1, 0)[..., i] - seen.poses.transpose(2, 1, 0)[..., j]
        change *= change
        apart = np.sqrt(change.sum(0)).sum(0) / pose.shape[1]
        cost[i, j] = (
            0.4 * (1 - near[i, j])
            + 0.25 * np.minimum(1, apart / 0.3)
            + 0.2 * np.minimum(1, walked[i, j])
        )
        return near, cost

    def _changed(self, frame: Frame) -> float:
        """Return how little this picture has to do with the last, 0 (same) to 1 (nothing)."""
        old, self._thumbnail = self._thumbnail, thumbnail(frame)
        return 0.0 if old is None else unlike(old, self._thumbnail)


def slot_count(config: TrackingConfig) -> int:
    """Return how many tracks can live at once: people shown, missed and not yet shown."""
    return 2 * config.people_max + 4
