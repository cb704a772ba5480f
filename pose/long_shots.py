"""People far from the camera, whom a network sees best where their part of the picture is enlarged.

A network knows people of the sizes it was taught. Of somebody small in its input it reads coarse
joints, or none; shown their part of the picture alone, it reads as many as of anybody near.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.pose.close_ups import are_one
from manypose.pose.joining import statures
from manypose.pose.records import Box, Person2D

Float = NDArray[np.floating[Any]]

_SMALL = 90.0  # px of the network's input: statures below are seen better enlarged
_CANDIDATE = 0.2  # the score from which a reading may be somebody far away
_ROUND = 0.3  # of their stature: what is shown round people
_LEAST, _MOST = 1.2, 3.0  # enlargements that are worth their time; more only blurs
_SAME_SIZE = 1.3  # statures of two readings of one person differ by less
_NEAR = 0.2  # of the person's extent: two readings of one joint
_SURER = 1.4  # so much surer a reading of the whole picture is kept


def enlarged_part(
    people: Sequence[Person2D], width: int, height: int, size: tuple[int, int]
) -> Box | None:
    """Return the part of a picture, width x height px, that is worth a look of its own, or None.

    people: what was found in the whole, image px; size: width and height of the network's input.
    The part has the sides of the input, as far as the picture reaches, on even px.
    """
    if not people:
        return None
    scale = min(size[0] / width, size[1] / height)
    points = np.array([p.joints_px for p in people], float)
    tall = statures(points)
    far = (tall > 0) & (tall * scale < _SMALL)
    far &= np.array([p.score for p in people]) >= _CANDIDATE
    if not far.any():
        return None
    margin = _ROUND * tall[far, None]
    low = np.maximum((np.nanmin(points[far], 1) - margin).min(0), 0)
    high = np.minimum((np.nanmax(points[far], 1) + margin).max(0), (width, height))
    within = np.array(size) / scale  # px of the picture as one look shows them
    zoom = min(float((within / np.maximum(high - low, 1)).min()), _MOST)
    if zoom < _LEAST:
        return None
    sides = np.minimum(within / zoom, (width, height))
    start = np.clip((low + high - sides) / 2, 0, np.array((width, height)) - sides)
    x0, y0 = (2 * int(v / 2) for v in start)
    x1, y1 = (min(2 * int(np.ceil(v / 2)), end) for v, end in zip(start + sides, (width, height)))
    return x0, y0, x1, y1


def with_far(
    people: Sequence[Person2D], enlarged: Sequence[Person2D], width: int, height: int,
    size: tuple[int, int],
) -> list[Person2D]:  # fmt: skip
    """Return the people of a picture, those far away as they were read in an enlarged part of it.

    people, enlarged: what the look at the whole and that at the part found, image px; the rest as
    in `enlarged_part`. Who is large in the whole picture stays as they were read there.
    """
    scale = min(size[0] / width, size[1] / height)
    found = list(zip(people, _tall(people, scale)))
    for person, tall in sorted(zip(enlarged, _tall(enlarged, scale)), key=lambda pt: -pt[0].score):
        if not 0 < tall <= _SMALL:
            continue
        seen = person.joints_px[person.confidence > 0]
        near_px = _NEAR * float(np.ptp(seen, axis=0).max())
        same = [f for f in found if are_one(f[0], person, near_px)]
        if all(t < _SAME_SIZE * _SMALL and p.score <= _SURER * person.score for p, t in same):
            found = [f for f in found if not any(f is s for s in same)] + [(person, tall)]
    return sorted((p for p, _ in found), key=lambda p: -p.score)


def _tall(people: Sequence[Person2D], scale: float) -> list[float]:
    """Return the statures in px of the network's input."""
    if not people:
        return []
    heights: list[float] = (scale * statures(np.array([p.joints_px for p in people]))).tolist()
    return heights
