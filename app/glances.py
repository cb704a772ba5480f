"""Live frames in which only the people followed are looked at, each in a picture of their own.

A look at the whole frame costs as much for one person as for twenty, and most of the time it shows
who was there before. So while few people are followed, and all of them are in sight, it is taken
now and then only; newcomers are seen that much later. Source of the idea: Bazarevsky et al. 2020
(BlazePose), which looks for people anew only when it has lost them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from manypose.pose.estimator import Follower
from manypose.pose.records import Detections, Frame
from manypose.pose.regained import RegainConfig

_STEP_S = 0.12  # after a longer pause people are no longer where they were
MOST = RegainConfig().most  # people: of more, a look at the whole costs less


class Glances:
    """Decides for the frames of one live source, in their order, which are seen as a whole."""

    def __init__(self, follower: Follower, between: int) -> None:
        """Keep them; between: frames after one seen as a whole for which a glance is enough."""
        self._follower = follower
        self._between = between
        self._since = 0
        self._time_s = 0.0

    @property
    def enough(self) -> bool:
        """Whether a glance is enough for the next frame, as far as is known now.

        Such a frame is to be taken when the follower is free: until then it would only get old.
        """
        return self._since < self._between and 1 <= self._follower.settled <= MOST

    def instead(self, frame: Frame) -> Detections | None:
        """Return that nobody is found yet in a frame, or None if it must be seen as a whole.

        The follower then looks for those it knows. It may be at work on the frame before.
        """
        step_s, self._time_s = frame.time_s - self._time_s, frame.time_s
        if self.enough and 0 < step_s <= _STEP_S:
            self._since += 1
            return Detections(frame, ())
        self._since = 0
        return None


def found_in(
    frames: Sequence[tuple[Glances | None, Frame]],
    find: Callable[[Sequence[Frame]], list[Detections]],
) -> tuple[list[Detections], list[Detections]]:
    """Return what is found in each frame, and of those that are seen as a whole, by `find`."""
    known = [None if glances is None else glances.instead(frame) for glances, frame in frames]
    whole = [frame for (_, frame), nobody in zip(frames, known) if nobody is None]
    answers = find(whole) if whole else []
    left = iter(answers)
    return [next(left) if nobody is None else nobody for nobody in known], answers
