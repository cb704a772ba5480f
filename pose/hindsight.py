"""Recordings with hindsight: people are there from the frame in which they were first seen.

A Follower gives somebody new an id once it is sure of them, in the third frame at the earliest, and
live nobody can do better. A recording can wait: results are held back for some frames, and whoever
gets an id meanwhile is put into the frames before. Who never gets one is in none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from manypose.pose.estimator import Follower
from manypose.pose.records import Detections, FrameResult, TrackedPerson
from manypose.pose.tracking_memory import Track

# Sure people get their id in the frame `min_age`, unsure ones somewhat later. The pictures of the
# frames held back stay in memory, so they cannot be many.
_FRAMES, _FRAMES_MAX = 8, 30

_Held = tuple[FrameResult, Sequence[tuple[Track, TrackedPerson]]]


class Hindsight:
    """A Follower of recordings, whose results may come some frames later."""

    def __init__(self, follower: Follower, *, wait: bool) -> None:
        """Start with nobody; without `wait`, results are the Follower's, at once."""
        self._follower = follower
        config = follower.config
        frames = min(max(config.min_age - 1, _FRAMES), _FRAMES_MAX)
        self._frames = frames if wait and not config.still else 0
        self._held: deque[_Held] = deque()
        self._count = 0

    def __call__(self, detections: Detections) -> list[FrameResult]:
        """Follow people into the next frame; return the results that are ready, in order."""
        result = self._follower(detections)
        self._held.append((result, self._follower.nameless))
        self._count += 1
        ready = len(self._held) - self._frames
        return [_named(*self._held.popleft()) for _ in range(ready)]

    def rest(self) -> list[FrameResult]:
        """Return the results still held back, at the end of the recording.

        In a film too short for anybody to get an id, those seen in every frame get theirs now.
        """
        if self._frames and 0 < self._count < self._follower.config.min_age:
            self._follower.name_everybody()
        rest = [_named(*held) for held in self._held]
        self._held.clear()
        return rest


def _named(result: FrameResult, nameless: Sequence[tuple[Track, TrackedPerson]]) -> FrameResult:
    """Return the result with those who have got an id since; seen people go before held ones."""
    people = {p.track_id: p for p in result.people}
    for track, person in nameless:
        there = people.get(track.track_id)
        if track.track_id >= 0 and (there is None or not there.confidence.any()):
            people[track.track_id] = replace(person, track_id=track.track_id)
    if len(people) == len(result.people) and not nameless:
        return result
    return replace(result, people=tuple(people[k] for k in sorted(people)))
