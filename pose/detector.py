"""The people of single frames: a 2D front end and Stage II, without memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from manypose.pose.grouping import GroupingConfig, group
from manypose.pose.records import (
    Detections,
    Found2D,
    Frame,
    FrontEnd,
    Network,
    NetworkOutput,
    Person3D,
    unlifted,
)

# Stage II with its network bound, `functools.partial(lifting.lift, lifter=...)`: people in 2D, the
# camera and, as `up`, where up is if the camera does not say, to people in 3D.
Lift = Callable[..., list[Person3D]]


def heatmap_front_end(network: Network, config: GroupingConfig | None = None) -> FrontEnd:
    """Return the 2D front end made of a network of maps and the grouping along limbs.

    A network that returns values that are not finite finds nobody in these places.
    """
    limits = config or GroupingConfig()

    def find(frames: Sequence[Frame]) -> list[Found2D]:
        start = time.perf_counter()
        outputs = network(frames)
        network_ms = (time.perf_counter() - start) * 1e3 / max(len(frames), 1)
        found = []
        for output in outputs:
            start = time.perf_counter()
            people = group(_finite(output), limits)
            group_ms = (time.perf_counter() - start) * 1e3
            found.append(Found2D(tuple(people), {"network": network_ms, "group": group_ms}))
        return found

    return find


def _finite(output: NetworkOutput) -> NetworkOutput:
    """Return the maps with zeros in place of values that are not finite (seldom a copy)."""
    maps = (output.heatmaps, output.pafs, output.encodings)
    # one sum of each tells: a NaN or an infinity anywhere survives it
    if all(m is None or np.isfinite(m.sum(dtype=np.float64)) for m in maps):
        return output
    clean = [None if m is None else np.nan_to_num(m, nan=0.0, posinf=0.0, neginf=0.0) for m in maps]
    heatmaps, pafs, encodings = clean
    if heatmaps is None or pafs is None:
        raise ValueError("NetworkOutput without heat-maps")
    return NetworkOutput(heatmaps, pafs, encodings, output.to_image)


class Detector:
    """Finds and lifts the people of single frames; remembers nothing."""

    def __init__(self, front_end: FrontEnd, lift: Lift, *, leave_lifting: bool = False) -> None:
        """Keep the parts.

        Args:
            front_end: finds people in 2D.
            lift: Stage II.
            leave_lifting: people are left for a Follower to lift, who takes some of their readings
                apart before, and learns where up is.
        """
        self._front_end = front_end
        self._lift = lift
        self._leave_lifting = leave_lifting

    @property
    def front_end(self) -> FrontEnd:
        """The 2D front end in use."""
        return self._front_end

    def finding(self, front_end: FrontEnd) -> Detector:
        """Return a Detector that finds people by another front end and is the same otherwise."""
        return Detector(front_end, self._lift, leave_lifting=self._leave_lifting)

    def __call__(self, frames: Sequence[Frame]) -> list[Detections]:
        """Return the people of every frame, with milliseconds for the front end and `lift`.

        They may be left unlifted, see `records.unlifted`.
        """
        result = []
        for frame, found in zip(frames, self._front_end(frames), strict=True):
            start = time.perf_counter()
            if self._leave_lifting:
                people = [unlifted(person) for person in found.people]
            else:
                people = self._lift(found.people, frame.camera) if found.people else []
            ms = (time.perf_counter() - start) * 1e3
            result.append(Detections(frame, tuple(people), {**found.stage_ms, "lift": ms}))
        return result
