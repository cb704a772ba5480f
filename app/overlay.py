"""Skeletons drawn on the picture: plain OpenCV, one colour for each identity, fast.

Joints are px of the upright picture. What was not seen is not drawn: no lines to a corner.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from manypose.app.viewer.look import person_colour
from manypose.pose.joints import INDEX_2D
from manypose.pose.records import TrackedPerson

# What the eye expects of a skeleton; the network's limbs have more, to hold people together.
_BONES: tuple[tuple[int, int], ...] = tuple(
    (INDEX_2D[a], INDEX_2D[b])
    for a, b in (
        ("head_top", "neck"), ("neck", "pelvis"), ("nose", "l_eye"), ("nose", "r_eye"),
        ("l_eye", "l_ear"), ("r_eye", "r_ear"), ("neck", "l_shoulder"), ("neck", "r_shoulder"),
        ("l_shoulder", "l_elbow"), ("l_elbow", "l_wrist"), ("r_shoulder", "r_elbow"),
        ("r_elbow", "r_wrist"), ("pelvis", "l_hip"), ("pelvis", "r_hip"), ("l_hip", "l_knee"),
        ("l_knee", "l_ankle"), ("r_hip", "r_knee"), ("r_knee", "r_ankle"),
    )
)  # fmt: skip
_SHIFT = 3  # OpenCV draws at 1/8 px
_DARK = (20, 16, 12)
_LABEL_SHARE = 1.5  # a person smaller than this many widths of the label gets the number alone


def draw(
    image: NDArray[np.uint8], people: Iterable[TrackedPerson], *, labels: bool = True
) -> NDArray[np.uint8]:
    """Return a copy of a BGR picture (H, W, 3) with the people drawn on it.

    labels: the identity, and of those large enough the distance in metres, above each head.
    """
    canvas = np.ascontiguousarray(image).copy()
    for person in people:
        draw_person(canvas, person, labels=labels)
    return canvas


def draw_person(canvas: NDArray[np.uint8], person: TrackedPerson, *, labels: bool = True) -> None:
    """Draw one person into a BGR picture."""
    red, green, blue = person_colour(person.track_id)
    colour = (blue, green, red)
    seen = np.isfinite(person.joints_px).all(1) & (person.confidence > 0)
    if not seen.any():
        return
    # A joint far outside would overflow OpenCV's integers; the line to it still leaves the picture.
    limit = 4 * max(canvas.shape)
    points = np.clip(np.where(seen[:, None], person.joints_px, 0), -limit, limit)
    points = np.round(points * (1 << _SHIFT)).astype(int)
    extent = float(max(np.ptp(person.joints_px[seen], axis=0).max(), 1.0))
    thick = int(np.clip(round(extent / 70), 2, max(2, canvas.shape[0] // 150)))
    lines = [
        (tuple(points[a].tolist()), tuple(points[b].tolist()))
        for a, b in _BONES
        if seen[a] and seen[b]
    ]
    for width, ink in ((thick + 2, _DARK), (thick, colour)):
        for start, end in lines:
            cv2.line(canvas, start, end, ink, width, cv2.LINE_8, _SHIFT)
    for x, y in points[seen].tolist():
        cv2.circle(canvas, (x, y), (thick << _SHIFT) * 3 // 4, (255, 255, 255), -1, 8, _SHIFT)
    if labels:
        _label(canvas, person, seen, colour)


def _label(
    canvas: NDArray[np.uint8],
    person: TrackedPerson,
    seen: NDArray[np.bool_],
    colour: tuple[int, int, int],
) -> None:
    depth_m = float(np.nanmedian(person.joints_m[:, 2])) if _any_3d(person) else float("nan")
    text = f"{person.track_id}" + (f"  {depth_m:.1f} m" if np.isfinite(depth_m) else "")
    scale = float(np.clip(canvas.shape[0] / 900, 0.4, 1.2))
    top = person.joints_px[seen]
    (w, h), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    if np.ptp(top, axis=0).max() < _LABEL_SHARE * w:  # in a crowd labels would hide each other
        text = f"{person.track_id}"
        (w, h), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    x = int(np.clip(top[np.argmin(top[:, 1]), 0] - w / 2, 2, max(2, canvas.shape[1] - w - 6)))
    y = int(np.clip(top[:, 1].min() - 10, h + 6, canvas.shape[0] - 4))
    cv2.rectangle(canvas, (x - 4, y - h - 4), (x + w + 4, y + base), _DARK, -1)
    cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)


def _any_3d(person: TrackedPerson) -> bool:
    return bool(np.isfinite(person.joints_m[:, 2]).any())
