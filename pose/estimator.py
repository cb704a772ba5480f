"""From pictures to people over time: Detector (no memory), Follower (all of it), Estimator (both).

A Detector may run on any frames in any order, on any machine; one Follower per camera or video
then takes the small results in the order of their times.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.pose import filters
from manypose.pose import skeleton as sk
from manypose.pose.body import Bodies
from manypose.pose.contact import Feet
from manypose.pose.detector import Detector, Lift
from manypose.pose.fitting import Evidence, Fitter, FitWeights
from manypose.pose.joints import EXTRAPOLATED, INDEX, JOINTS, JOINTS_2D, MISSING
from manypose.pose.readings import boxes_round, near_body, off_body, sane
from manypose.pose.records import (
    Detections,
    Frame,
    FrameResult,
    Person2D,
    Person3D,
    TrackedPerson,
    unlifted,
)
from manypose.pose.regained import Look, RegainConfig, regained
from manypose.pose.states import joint_states, shown_joints
from manypose.pose.tracking import Matches, Tracker, slot_count
from manypose.pose.tracking_memory import Track, TrackingConfig
from manypose.pose.tracking_parts import rearranged
from manypose.pose.vertical import Vertical, up_in_picture

Float = NDArray[np.floating[Any]]
_J, _K = len(JOINTS), len(JOINTS_2D)


@dataclass(frozen=True, slots=True)
class FollowerConfig:
    """Settings of everything that remembers.

    filter: a name in `filters.PRESETS`, or "off". smoothed_later: it is left out, because all is
    smoothed when the recording is whole. height_m: the true height of the people, None for the
    average body. lock_bones_after: confident frames
    after which bone lengths are frozen.
    max_gap_s: how long a person may be out of sight and be found again by motion. hold_s: how
    long a person out of sight is shown where the motion leads. min_age: frames before a new
    person is shown. min_score: below it, a detection starts no person. still: every frame on its
    own, without tracking and filters. contact: feet that stand are held where they are.
    """

    filter: str = "normal"
    smoothed_later: bool = False
    height_m: float | None = None
    lock_bones_after: int = 60
    max_gap_s: float = 1.0
    hold_s: float = 0.2
    min_age: int = 3
    min_score: float = 0.4
    people_max: int = 20
    still: bool = False
    contact: bool = True
    weights: FitWeights = field(default_factory=FitWeights)


class Follower:
    """Knows people over time: identity, body, smooth motion. One for each camera or video."""

    def __init__(
        self, config: FollowerConfig | None = None, lift: Lift | None = None,
        look: Look | None = None,
    ) -> None:  # fmt: skip
        """Start with nobody; with `lift`, readings that mix people who overlap are put right.

        look: with it, and `lift`, people followed who were not found are looked for.
        """
        self.config = config or FollowerConfig()
        self._lift = lift
        self._find = None if self.config.still or lift is None else look
        c = self.config
        limits = TrackingConfig(
            max_gap_s=c.max_gap_s,
            min_age=1 if c.still else c.min_age,
            min_score=c.min_score,
            people_max=c.people_max,
        )
        if c.still:  # nothing comes later that could make sure
            limits = replace(limits, evidence=0.0, repeat=0.9)
        self._limits = limits
        self._tracker = Tracker(limits)
        rows = slot_count(limits)
        smooth = None if c.still or c.filter == "off" else filters.preset(c.filter)
        self._draw_near = smooth is not None
        smooth = None if c.smoothed_later else smooth
        self._pixels = filters.OneEuro(rows, (_K, 2), smooth.pixel) if smooth else None
        self._across = filters.OneEuro(rows, (2,), smooth.root) if smooth else None
        self._depth = filters.OneEuro(rows, (1,), smooth.depth) if smooth else None
        self._turns = filters.OneEuro(rows, (_J, 4), smooth.angle) if smooth else None
        self._fitter = Fitter(rows, Bodies(rows, c.height_m, c.lock_bones_after), c.weights)
        self._vertical = Vertical() if lift is not None and not c.still else None
        self._feet = Feet(rows) if c.contact and not c.still else None
        self._known_bodies: dict[int, tuple[Any, ...]] = {}
        self._joint_time = np.full((rows, _J), -np.inf)  # when a joint was last seen
        self._last: dict[int, TrackedPerson] = {}
        self._lift_ms = 0.0  # of the frame at hand
        self._nameless: list[tuple[Track, TrackedPerson]] = []
        self._settled = 0

    def __call__(self, detections: Detections) -> FrameResult:
        """Return the people of this frame in the order of their ids."""
        frame = detections.frame
        start = time.perf_counter()
        if self.config.still:
            self._tracker.forget()
        self._lift_ms = 0.0
        found = self._completed(detections.people, frame)
        looked = time.perf_counter()
        people = self._regrouped(found, frame)
        matches = self._tracker.update(frame, people)
        self._exchange(matches)
        tracked = time.perf_counter()
        pairs = [(t, people[j]) for t, j in matches.pairs]
        rows = np.array([t.slot for t, _ in pairs], np.intp)
        root, rotations = self._fit(frame, rows, [p for _, p in pairs])
        offsets = sk.offsets_m(self._fitter.bodies.lengths_m[rows])
        body_px = self._outline(frame, pairs, offsets, root, rotations)
        fitted = time.perf_counter()
        self._learn_up(frame, pairs, root, matches.reset)
        there = self._show(frame, pairs, rows, root, rotations, offsets, body_px) if pairs else []
        there += self._hold(frame, matches.missed)
        self._nameless = [(t, p) for t, p in there if p.track_id < 0]
        shown = sorted((p for _, p in there if p.track_id >= 0), key=lambda p: p.track_id)
        known = not self._nameless and not matches.missed
        self._settled = len(shown) if known and self._find is not None else 0
        done = time.perf_counter()
        ms = {
            "lift": detections.stage_ms.get("lift", 0.0) + self._lift_ms,
            "track": (tracked - looked) * 1e3 - self._lift_ms,
            "fit": (fitted - tracked) * 1e3,
            "filter": (done - fitted) * 1e3,
        }
        if self._find is not None:
            ms["look"] = (looked - start) * 1e3
        up = frame.camera.up
        if up is None and self._vertical is not None:
            up = self._vertical.up
        return FrameResult(frame, tuple(shown), {**detections.stage_ms, **ms}, up)

    @property
    def settled(self) -> int:
        """How many people are followed, if all were seen in the last frame and none is new, else 0.

        Then they can be looked for one by one in the next frame, which needs `look`; people whom
        nobody found in it are.
        """
        return self._settled

    @property
    def nameless(self) -> Sequence[tuple[Track, TrackedPerson]]:
        """The people of the last frame who have no id yet; their tracks may get one later."""
        return self._nameless

    def name_everybody(self) -> None:
        """Give ids to those seen in every frame so far; for films shorter than `min_age`."""
        self._tracker.name_everybody()

    def smooth(self, preset: filters.Preset) -> None:
        """Smooth by this preset from the next frame on; without effect where the filter is off."""
        for bank, settings in (
            (self._pixels, preset.pixel),
            (self._across, preset.root),
            (self._depth, preset.depth),
            (self._turns, preset.angle),
        ):
            if bank is not None:
                bank.retune(settings)

    @property
    def scale_source(self) -> str:
        """Where absolute sizes come from: "height" (given) or "average-body"."""
        return self._fitter.bodies.scale_source

    def bone_lengths_m(self) -> dict[int, Float]:
        """Return the bone lengths (J,) along `joints.PARENT` of the people followed now, by id."""
        lengths = self._fitter.bodies.lengths_m
        return {t.track_id: lengths[t.slot].copy() for t in self._tracker.tracks if t.track_id >= 0}

    def _completed(self, found: Sequence[Person3D], frame: Frame) -> Sequence[Person3D]:
        """Return the people found, and those followed who are found where they must be."""
        if self._find is None:
            return found
        limits = RegainConfig(self.config.max_gap_s / 2, score_min=self.config.min_score)
        more = regained(frame, self._tracker.tracks, found, self._find, limits)
        return [*found, *(unlifted(p) for p in more)]

    def _regrouped(self, found: Sequence[Person3D], frame: Frame) -> list[Person3D]:
        """Return people with joints of others given back to these, lifted who changed or is not."""
        people, anew = sane(found), list[Person2D]()
        if self._lift is None or not people:
            return [p for p in people if p.lifted]
        if not self.config.still:
            people, anew = rearranged(people, self._tracker.regrouped(frame.time_s, people))
        anew = [p.seen for p in people if not p.lifted] + anew
        kept = [p for p in people if p.lifted]
        if not anew:
            return kept
        start = time.perf_counter()
        up = None if self._vertical is None else self._vertical.up
        lifted = sane(self._lift(anew, frame.camera, up=up))
        if self.config.still and frame.camera.up is None and lifted:
            necks = np.array([p.joints_rel_m[INDEX["neck"]] for p in lifted])
            up = up_in_picture(np.array([p.root_m for p in lifted]), necks)
            lifted = lifted if up is None else sane(self._lift(anew, frame.camera, up=up))
        self._lift_ms = (time.perf_counter() - start) * 1e3
        return kept + lifted

    def _learn_up(
        self, frame: Frame, pairs: list[tuple[Track, Person3D]], root: Float, reset: bool
    ) -> None:
        """Let the people of a frame tell where up is, if the camera does not know."""
        if self._vertical is None or frame.camera.up is not None:
            return
        if reset:
            self._vertical.forget()
        known = [(i, t.track_id, p) for i, (t, p) in enumerate(pairs) if t.track_id >= 0]
        self._vertical.learn(
            {number: root[i] for i, number, _ in known},
            {number: p.joints_rel_m[INDEX["neck"]] for _, number, p in known},
            frame.time_s,
        )

    def _exchange(self, matches: Matches) -> None:
        """Make the rows of tracks that begin or end empty; keep bodies for people who return."""
        bodies = self._fitter.bodies
        for track in matches.ended:
            self._known_bodies.pop(track.track_id, None)
            if track.track_id >= 0:
                self._known_bodies[track.track_id] = bodies.saved(track.slot)
        while len(self._known_bodies) > 200:
            self._known_bodies.pop(next(iter(self._known_bodies)))
        if matches.born or matches.ended:
            self._clear([*matches.born, *matches.ended])
        if matches.reset:
            rows = np.array([t.slot for t in self._tracker.tracks], np.intp)
            self._fitter.stop(rows)
            self._clear_filters(rows)
        for track, body in [(a, bodies.saved(b.slot)) for a, b in matches.moved]:
            bodies.restore(track.slot, body)
        for track in matches.returned:
            if track.track_id in self._known_bodies:
                bodies.restore(track.slot, self._known_bodies[track.track_id])

    def _clear(self, tracks: list[Track]) -> None:
        rows = np.array([t.slot for t in tracks], np.intp)
        self._clear_filters(rows)
        self._fitter.clear(rows)
        for track in tracks:
            self._last.pop(track.slot, None)

    def _clear_filters(self, rows: NDArray[np.intp]) -> None:
        for bank in (self._pixels, self._across, self._depth, self._turns):
            if bank is not None:
                bank.clear(rows)
        if self._feet is not None:
            self._feet.clear(rows)
        self._joint_time[rows] = -np.inf

    def _fit(
        self, frame: Frame, rows: NDArray[np.intp], people: list[Person3D]
    ) -> tuple[Float, Float]:
        if not people:
            return np.zeros((0, 3)), np.zeros((0, _J, 4))
        camera = frame.camera
        px = np.array([p.seen.joints_px for p in people], float)
        evidence = Evidence(
            np.array([p.joints_rel_m for p in people], float),
            np.array([p.sigma_m for p in people], float),
            np.array([p.root_m for p in people], float),
            np.array([p.root_sigma_m for p in people], float),
            camera.image_to_rays(px)[..., :2],
            np.array([p.seen.confidence for p in people], float),
            camera.width / 512 / float(camera.K[0, 0]),
            np.array([p.size_error for p in people], float),
        )
        return self._fitter.fit(rows, evidence, frame.time_s)

    def _outline(
        self, frame: Frame, pairs: list[tuple[Track, Person3D]], offsets: Float,
        root: Float, rotations: Float,
    ) -> Float:  # fmt: skip
        """Return where the joints of the fitted bodies are in the picture, (N, K, 2) px.

        The tracks of people partly seen are told, for the rest of the body.
        """
        if not pairs:
            return np.zeros((0, _K, 2))
        body = sk.marks(sk.forward(root, rotations, offsets)[0])
        body_px = frame.camera.camera_to_image(body)
        if self._lift is not None:
            for (track, person), px in zip(pairs, body_px):
                if not np.isfinite(person.seen.joints_px).all():
                    track.body_px = px
        return body_px

    def _smooth(
        self, now: float, rows: NDArray[np.intp], root: Float, rotations: Float
    ) -> tuple[Float, Float]:
        """Return root and rotations after the filters; depth along the line of sight apart."""
        if self._across is None or self._depth is None or self._turns is None:
            return root, rotations
        z = root[:, 2:]
        across = self._across(root[:, :2] / z, now, rows, unit=1 / z)
        z = self._depth(z, now, rows)
        # q and -q are one rotation: take the sign nearer to the last
        last = self._turns.last(rows)
        flip = (rotations * last).sum(-1, keepdims=True) < 0
        turns = self._turns(np.where(flip, -rotations, rotations), now, rows)
        return np.concatenate([across * z, z], -1), sk.normalised(turns)

    def _show(
        self, frame: Frame, pairs: list[tuple[Track, Person3D]], rows: NDArray[np.intp],
        root: Float, rotations: Float, offsets: Float, body_px: Float,
    ) -> list[tuple[Track, TrackedPerson]]:  # fmt: skip
        now = frame.time_s
        px = np.array([p.seen.joints_px for _, p in pairs], float)
        confidence = np.array([p.seen.confidence for _, p in pairs])
        astray = off_body(px, body_px)
        px[astray], confidence[astray] = np.nan, 0
        root, rotations = self._smooth(now, rows, root, rotations)
        if self._feet is None:
            points = sk.forward(root, rotations, offsets)[0]
        else:
            rotations, points = self._feet.plant(rows, root, rotations, offsets, now)
        joints = points[:, :_J]
        if self._draw_near:
            px = self._steady(px, frame.camera.camera_to_image(sk.marks(points)), now, rows, pairs)
        seen = shown_joints(confidence)
        self._joint_time[rows] = np.where(seen, now, self._joint_time[rows])
        state = joint_states(seen, now - self._joint_time[rows] <= self.config.max_gap_s)
        joints = np.where(state[..., None] == MISSING, np.nan, joints)
        boxes = boxes_round(px)
        out = []
        for i, (track, _) in enumerate(pairs):
            tracked = TrackedPerson(
                track.track_id, min(max(track.score, 0.0), 1.0), px[i], confidence[i],
                joints[i], state[i], boxes[i], rotations[i],
            )  # fmt: skip
            self._last[track.slot] = tracked
            out.append((track, tracked))
        return out

    def _steady(
        self, px: Float, body_px: Float, now: float, rows: NDArray[np.intp],
        pairs: list[tuple[Track, Person3D]],
    ) -> Float:  # fmt: skip
        """Return the 2D joints near those of the body, and what is left between them filtered."""
        px = near_body(px, body_px)
        if self._pixels is None:
            return px
        body_px = np.where(np.isfinite(body_px), body_px, 0)
        size = np.array([t.size_px for t, _ in pairs])[:, None, None]
        return np.asarray(body_px + self._pixels(px - body_px, now, rows, unit=size))

    def _hold(self, frame: Frame, missed: list[Track]) -> list[tuple[Track, TrackedPerson]]:
        """Return people out of sight for a moment, moved on along their motion."""
        out = []
        for track in missed:
            gap = frame.time_s - track.seen_s
            last = self._last.get(track.slot)
            if last is None or not 0 <= gap <= self.config.hold_s:
                continue
            state = np.where(last.state == MISSING, MISSING, EXTRAPOLATED).astype(np.uint8)
            joints = last.joints_m + track.velocity_m * gap
            held = TrackedPerson(
                track.track_id, last.score * (1 - 0.5 * gap / self.config.hold_s),
                np.full((_K, 2), np.nan), np.zeros(_K), joints, state,
                last.box_px + np.array([*(track.velocity_px * gap), 0, 0]), last.rotations,
            )  # fmt: skip
            out.append((track, held))
        return out


class Estimator:
    """Detector and Follower in one: a frame in, its people out."""

    def __init__(self, detector: Detector, follower: Follower) -> None:
        self.detector = detector
        self.follower = follower

    def __call__(self, frame: Frame) -> FrameResult:
        """Return the people of the next frame of the video this estimator follows."""
        return self.follower(self.detector([frame])[0])
