"""Who is who between frames: one id per person for as long as the video runs.

A track predicts where its person is (constant velocity of the root, last pose), detections are
compared with it in 2D, in 3D and by the colours of the clothes, and the cheapest assignment wins
(Hungarian method). A person not seen for more than `max_gap_s` goes to a memory, from which only
a convincing likeness of clothes, not contradicted by the distance walked, brings the id back.

Sources: XNect (Mehta et al. 2020), section on tracking: sum of similarities of appearance (hue and
saturation histogram), 2D and 3D pose; OKS as COCO defines it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.pose.joints import INDEX_2D, OKS_SIGMAS
from manypose.pose.records import Frame, Person3D

Float = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class TrackingConfig:
    """Limits of the tracker; costs are in [0, 1], times in seconds."""

    max_gap_s: float = 1.0  # seen again within this time: matched by motion alone
    memory_s: float = 180.0  # gone for longer: forgotten
    cost_max: float = 0.7  # gate of a match
    likeness_max: float = 0.30  # largest distance of clothes that brings an id back
    likeness_margin: float = 0.08  # by which the second best must be worse
    speed_max_m_s: float = 6.0
    min_age: int = 3  # frames before a new person is shown
    min_score: float = 0.2
    people_max: int = 20


@dataclass(slots=True, eq=False)
class Track:
    """What is remembered of one person; `slot` is its row in the follower's arrays."""

    slot: int
    track_id: int = -1  # -1 until the person is old enough to be shown
    hits: int = 0
    misses: int = 0
    seen_s: float = 0.0
    score: float = 0.0
    points_px: Float = field(default_factory=lambda: np.zeros((0, 2)))
    size_px: float = 1.0
    velocity_px: Float = field(default_factory=lambda: np.zeros(2))
    root_m: Float = field(default_factory=lambda: np.zeros(3))
    velocity_m: Float = field(default_factory=lambda: np.zeros(3))
    pose_m: Float = field(default_factory=lambda: np.zeros((0, 3)))
    colours: Float | None = None
    colours_age: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Result of one frame: pairs (track, index of detection), and the tracks that ended."""

    pairs: list[tuple[Track, int]]
    missed: list[Track]
    ended: list[Track]
    born: list[Track]
    returned: list[Track]
    reset: bool


_TORSO = tuple(INDEX_2D[n] for n in ("l_shoulder", "r_shoulder", "r_hip", "l_hip"))
_KNEES = tuple(INDEX_2D[n] for n in ("r_knee", "l_knee"))
_HUES, _GREYS, _SATURATIONS = 12, 4, 2
_BINS = _HUES * _SATURATIONS + _GREYS


class Tracker:
    """Assigns detections to people. Ids start at 0 and are never used again."""

    def __init__(self, config: TrackingConfig) -> None:
        self._config = config
        self._tracks: list[Track] = []
        self._gone: list[Track] = []
        self._next_id = 0
        self._free = list(range(slot_count(config)))[::-1]
        self._time_s: float | None = None
        self._thumbnail: Float | None = None
        self._f_px = 1.0

    @property
    def tracks(self) -> tuple[Track, ...]:
        """The people being followed now, seen or missed within `max_gap_s`."""
        return tuple(self._tracks)

    def update(self, frame: Frame, people: Sequence[Person3D]) -> Matches:
        """Return which detection is whom in this frame.

        A time before the last one forgets all motion; a cut in the video forgets all people.
        """
        now = frame.time_s
        reset = False
        if self._time_s is not None and now < self._time_s:
            for track in self._tracks:
                track.seen_s = now
                track.velocity_px = np.zeros(2)
                track.velocity_m = np.zeros(3)
            for track in self._gone:
                track.seen_s = min(track.seen_s, now)
            reset = True
        self._time_s = now
        self._f_px = float(frame.camera.K[0, 0])
        points, sizes, poses, roots = _stack(people)
        colours = appearance(frame.image, points)
        crowded = _covered(points, roots)

        cost = self._costs(now, points, sizes, poses, roots, colours)
        pairs = _assign(cost, self._config.cost_max)
        change = self._changed(frame)
        ended: list[Track] = []
        explained = len(pairs) >= 0.5 * max(len(self._tracks), 1)
        if change > 0.85 or (change > 0.5 and not explained):
            ended = self._tracks
            self._tracks, self._gone, pairs, reset = [], [], [], True
        matched = [(self._tracks[i], j) for i, j in pairs]
        taken = {j for _, j in matched}
        hit = {id(track) for track, _ in matched}
        missed = [track for track in self._tracks if id(track) not in hit]
        for track, j in matched:
            self._observe(track, now, people[j], points[j], sizes[j], poses[j], roots[j])
            if not crowded[j]:
                _remember_colours(track, colours[j])

        born, returned = [], []
        rest = [
            j for j in np.argsort([-p.score for p in (q.seen for q in people)]) if j not in taken
        ]
        for j in rest:
            if people[j].seen.score < self._config.min_score or not self._free:
                continue
            if any(_same(points[j], sizes[j], points[i], sizes[i]) for i in taken):
                continue  # a second reading of a person already there
            track = Track(self._free.pop())
            self._observe(track, now, people[j], points[j], sizes[j], poses[j], roots[j])
            _remember_colours(track, colours[j])
            self._tracks.append(track)
            matched.append((track, int(j)))
            taken.add(int(j))
            born.append(track)
        for track in missed:
            track.misses += 1
            young = track.track_id < 0
            if now - track.seen_s > self._config.max_gap_s or (young and track.misses > 1):
                ended.append(track)
        self._retire(ended, keep=not (change > 0.5))
        for track, _ in matched:
            if track.track_id < 0 and track.hits >= self._config.min_age:
                old = self._recognise(track, now)
                if old is not None:
                    self._gone.remove(old)
                    track.track_id = old.track_id
                    returned.append(track)
                else:
                    track.track_id = self._next_id
                    self._next_id += 1
        return Matches(matched, [t for t in missed if t not in ended], ended, born, returned, reset)

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
        self, track: Track, now: float, person: Person3D, points: Float, size: float,
        pose: Float, root: Float,
    ) -> None:  # fmt: skip
        dt = now - track.seen_s
        if track.hits and 1e-3 < dt <= self._config.max_gap_s:
            gain = min(1.0, dt / 0.1)  # time constant of the velocities: a tenth of a second
            both = np.isfinite(points[:, 0]) & np.isfinite(track.points_px[:, 0])
            if both.sum() >= 3:
                step = np.median(points[both] - track.points_px[both], axis=0) / dt
                track.velocity_px = track.velocity_px + gain * (step - track.velocity_px)
            speed = (root - track.root_m) / dt
            speed *= min(1.0, self._config.speed_max_m_s / max(float(np.linalg.norm(speed)), 1e-6))
            track.velocity_m = track.velocity_m + gain * (speed - track.velocity_m)
        # a joint not seen now is remembered where it was, moved along with the rest
        old = track.points_px + track.velocity_px * min(dt, 0.2) if track.hits else points
        track.points_px = np.where(np.isfinite(points), points, old)
        track.size_px, track.pose_m, track.root_m = size, pose, root
        track.score = person.seen.score if not track.hits else (
            0.8 * track.score + 0.2 * person.seen.score
        )  # fmt: skip
        track.seen_s = now
        track.hits += 1
        track.misses = 0

    def _costs(
        self, now: float, points: Float, sizes: Float, poses: Float, roots: Float, colours: Float
    ) -> Float:
        """Return the cost (T, M) of every track with every detection, 1e6 beyond the gates."""
        tracks = self._tracks
        if not tracks or not len(points):
            return np.zeros((len(tracks), len(points)))
        gap = np.array([now - t.seen_s for t in tracks])
        ahead = np.minimum(gap, 0.4)[:, None]  # nobody keeps a velocity for longer
        last = np.stack([t.points_px for t in tracks])
        shift = np.stack([t.velocity_px for t in tracks]) * ahead
        size = np.array([t.size_px for t in tracks])
        slack = 1 + 3 * np.minimum(gap, 1.0)  # less sure the longer not seen
        near = oks(last + shift[:, None], points, np.maximum(size[:, None], sizes[None]), slack)
        pose = np.stack([t.pose_m for t in tracks])
        apart = np.linalg.norm(pose[:, None] - poses[None], axis=-1).mean(-1)
        looks = np.array([[_distance(t.colours, c) for c in colours] for t in tracks])
        cost = 0.5 * (1 - near) + 0.3 * np.minimum(1, apart / 0.3) + 0.2 * looks
        expected = np.stack([t.root_m + t.velocity_m * min(g, 0.4) for t, g in zip(tracks, gap)])
        away = expected[:, None] - roots[None]
        # depth is the uncertain coordinate: a quarter of the weight of the others
        walked = np.hypot(np.hypot(away[..., 0], away[..., 1]), 0.25 * away[..., 2])
        reach = 0.5 + self._config.speed_max_m_s * np.maximum(gap, 1 / 30)
        return np.where((walked > reach[:, None]) & (near < 0.3), 1e6, cost)

    def _recognise(self, track: Track, now: float) -> Track | None:
        """Return the person gone whom this new track resembles beyond doubt, or None."""
        if track.colours is None:
            return None
        scored = []
        for old in self._gone:
            gap = max(now - old.seen_s, 0.0)
            if np.linalg.norm(track.root_m - old.root_m) > 1.5 + self._config.speed_max_m_s * gap:
                continue
            scored.append((_distance(track.colours, old.colours), old))
        if not scored:
            return None
        scored.sort(key=lambda pair: pair[0])
        best = scored[0][0]
        second = scored[1][0] if len(scored) > 1 else 1.0
        present = min(
            (_distance(track.colours, t.colours) for t in self._tracks if t is not track),
            default=1.0,
        )
        clear = best + self._config.likeness_margin <= second and best <= present
        return scored[0][1] if best <= self._config.likeness_max and clear else None

    def _changed(self, frame: Frame) -> float:
        """Return how little this picture has to do with the last, 0 (same) to 1 (nothing)."""
        h, w = frame.image.shape[:2]
        small = frame.image[h // 36 :: max(h // 18, 1), w // 64 :: max(w // 32, 1)]
        new = small.astype(np.float64).mean(-1)
        old, self._thumbnail = self._thumbnail, new
        if old is None or old.shape != new.shape or old.std() < 4 or new.std() < 4:
            return 0.0
        a, b = old - old.mean(), new - new.mean()
        return float(1 - max((a * b).mean() / (a.std() * b.std()), 0.0))


def slot_count(config: TrackingConfig) -> int:
    """Return how many tracks can live at once: people shown, missed and not yet shown."""
    return 2 * config.people_max + 4


def oks(a: Float, b: Float, size: Float, slack: Float | float = 1.0) -> Float:
    """Return the likeness (A, B) in [0, 1] of point sets (A, K, 2) and (B, K, 2), NaN = not seen.

    Object keypoint similarity with `size` (A, B) px as the root of the area; `slack` (A,) widens
    the tolerance. Pairs without common points get 0; few common points count less.
    """
    d2 = ((a[:, None] - b[None]) ** 2).sum(-1)
    both = np.isfinite(d2)
    spread = 2 * OKS_SIGMAS.astype(float) * 1.5
    wide = np.broadcast_to(np.asarray(slack, float), (len(a),))[:, None, None]
    scale = (size[..., None] * spread * wide) ** 2
    e = np.where(both, np.exp(-np.where(both, d2, 0) / (2 * scale)), 0)
    n = both.sum(-1)
    return np.asarray(e.sum(-1) / np.maximum(n, 1) * np.minimum(1, n / 3))


def appearance(image: NDArray[np.uint8], points: Float) -> Float:
    """Return the colours (M, bins) of the clothes of people with points (M, K, 2) px.

    Two histograms, of the trunk and of the thighs: hue and saturation where there is colour,
    brightness where there is none. Some 200 pixels a person are read. NaN where too few of them
    lie in the picture.
    """
    h, w = image.shape[:2]
    out = np.full((len(points), 2 * _BINS), np.nan)
    if not len(points):
        return out
    u, v = (g.ravel() for g in np.meshgrid(np.linspace(0.15, 0.85, 9), np.linspace(0.1, 0.9, 13)))
    ls, rs, rh, lh = (points[:, i] for i in _TORSO)
    rk, lk = (points[:, i] for i in _KNEES)
    for part, (a, b, c, d, fall) in enumerate(((ls, rs, rh, lh, 1.0), (lh, rh, rk, lk, 0.8))):
        # bilinear patch a-b above, d-c below; without the lower points a square of the upper ones
        across = (b - a)[:, None] * u[None, :, None]
        down = np.where(np.isfinite(c + d), (c + d - a - b) / 2, _down(b - a) * 1.4)
        xy = a[:, None] + across + fall * down[:, None] * v[None, :, None]
        ok = np.isfinite(xy).all(-1)
        x, y = (np.rint(np.where(ok, xy[..., k], -1)).astype(np.int64) for k in (0, 1))
        ok &= (x >= 0) & (y >= 0) & (x < w) & (y < h)
        pixel = image[np.clip(y, 0, h - 1), np.clip(x, 0, w - 1)]
        bins = _colour_bins(pixel)
        row = np.broadcast_to(np.arange(len(points))[:, None], bins.shape)
        count = np.zeros((len(points), _BINS))
        np.add.at(count, (row[ok], bins[ok]), 1.0)
        total = count.sum(-1, keepdims=True)
        share = np.where(total >= 20, count / np.maximum(total, 1), np.nan)
        out[:, part * _BINS : (part + 1) * _BINS] = share
    return out


def _down(across: Float) -> Float:
    """Return the vector across shoulders turned a quarter towards the feet (image y down)."""
    turned = np.stack([-across[:, 1], across[:, 0]], -1)
    return np.asarray(np.where(turned[:, 1:] < 0, -turned, turned))


def _colour_bins(bgr: NDArray[np.uint8]) -> NDArray[np.intp]:
    c = bgr.astype(np.float32)
    top, low = c.max(-1), c.min(-1)
    spread = top - low
    safe = np.maximum(spread, 1e-6)
    b, g, r = c[..., 0], c[..., 1], c[..., 2]
    hue = np.where(
        top == r, (g - b) / safe % 6, np.where(top == g, (b - r) / safe + 2, (r - g) / safe + 4)
    )
    saturation = spread / np.maximum(top, 1)
    hue_bin = np.minimum((hue / 6 * _HUES).astype(np.int64), _HUES - 1)
    coloured = hue_bin * _SATURATIONS + (saturation > 0.55)
    grey = _HUES * _SATURATIONS + np.minimum((top * _GREYS / 256).astype(np.int64), _GREYS - 1)
    return np.asarray(np.where((saturation > 0.2) & (top > 40), coloured, grey))


def _distance(a: Float | None, b: Float | None) -> float:
    """Return the Bhattacharyya distance in [0, 1] of two appearances; 0.5 where none is known."""
    if a is None or b is None:
        return 0.5
    parts = []
    for k in (0, _BINS):
        p, q = a[k : k + _BINS], b[k : k + _BINS]
        if p[0] == p[0] and q[0] == q[0]:
            parts.append(float(np.sqrt(max(0.0, 1 - np.sqrt(p * q).sum()))))
    return sum(parts) / len(parts) if parts else 0.5


def _remember_colours(track: Track, colours: Float) -> None:
    """Mix new colours in slowly; parts not seen keep what is known."""
    if track.colours is None:
        track.colours = colours
        return
    gain = max(0.05, 1 / (track.colours_age + 2))
    old = track.colours
    mixed = np.where(np.isfinite(colours), old + gain * (colours - old), old)
    track.colours = np.where(np.isfinite(old), mixed, colours)
    track.colours_age += 1


def _stack(people: Sequence[Person3D]) -> tuple[Float, Float, Float, Float]:
    k, j = len(OKS_SIGMAS), (people[0].joints_rel_m.shape[0] if people else 21)
    points = np.array([p.seen.joints_px for p in people], float).reshape(-1, k, 2)
    poses = np.array([p.joints_rel_m for p in people], float).reshape(-1, j, 3)
    roots = np.array([p.root_m for p in people], float).reshape(-1, 3)
    if not len(points):
        return points, np.zeros(0), poses, roots
    low = np.nanmin(np.where(np.isfinite(points), points, np.inf), axis=1)
    high = np.nanmax(np.where(np.isfinite(points), points, -np.inf), axis=1)
    side = np.maximum(high - low, 1.0)
    return points, np.maximum(np.sqrt(side[:, 0] * side[:, 1]), 0.4 * side.max(-1)), poses, roots


def _covered(points: Float, roots: Float) -> NDArray[np.bool_]:
    """Return (M,) whether somebody nearer stands before the trunk, so that colours are not own."""
    out = np.zeros(len(points), bool)
    if len(points) < 2:
        return out
    trunk = points[:, _TORSO]
    seen = np.isfinite(trunk).all((1, 2))
    low, high = trunk.min(1), trunk.max(1)
    for i in np.flatnonzero(seen):
        meet = (low[i] < high).all(-1) & (low < high[i]).all(-1) & seen
        meet[i] = False
        out[i] = bool((meet & (roots[:, 2] < roots[i, 2] + 0.3)).any())
    return out


def _same(a: Float, size_a: float, b: Float, size_b: float) -> bool:
    """Return whether two detections of one frame show one person (common joints coincide)."""
    size = np.array([[max(size_a, size_b)]])
    return bool(oks(a[None], b[None], size)[0, 0] > 0.9)


def _assign(cost: Float, cost_max: float) -> list[tuple[int, int]]:
    """Return the cheapest pairs (row, column) below the gate."""
    from scipy.optimize import linear_sum_assignment

    if not cost.size:
        return []
    rows, columns = linear_sum_assignment(np.where(cost < cost_max, cost, 1e3))
    return [(int(i), int(j)) for i, j in zip(rows, columns) if cost[i, j] < cost_max]
