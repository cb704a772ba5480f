"""What is drawn on the picture."""

from __future__ import annotations

import numpy as np
import pytest

from manypose.app.overlay import draw
from manypose.pose.joints import JOINTS, JOINTS_2D
from manypose.pose.records import TrackedPerson


def person(height_px: float) -> TrackedPerson:
    """Return somebody with head and pelvis in sight, one above the other."""
    joints = np.full((len(JOINTS_2D), 2), np.nan)
    joints[[JOINTS_2D.index("head_top"), JOINTS_2D.index("pelvis")]] = (
        (320.0, 200.0),
        (320.0, 200.0 + height_px),
    )
    confidence = np.isfinite(joints[:, 0]).astype(float)
    state, quat = np.ones(len(JOINTS), np.uint8), np.zeros((len(JOINTS), 4))
    place = np.full((len(JOINTS), 3), 5.0)
    return TrackedPerson(7, 1.0, joints, confidence, place, state, np.zeros(4), quat)


@pytest.mark.parametrize(("height_px", "widest"), [(30, 30), (250, 120)])
def test_small_people_have_their_number_alone(height_px: float, widest: int) -> None:
    picture = np.full((720, 640, 3), 255, np.uint8)
    above = draw(picture, [person(height_px)])[150:195]
    columns = np.flatnonzero((above < 60).all(2).any(0))
    assert widest / 2 < np.ptp(columns) <= widest
