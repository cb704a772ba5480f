"""A foot that both ankles claim, where the maps show the other one too."""

import numpy as np
import pytest

from manypose.pose import targets
from manypose.pose.grouping import GroupingConfig, group
from manypose.pose.joints import INDEX_2D
from manypose.pose.records import NetworkOutput

L, R = INDEX_2D["l_ankle"], INDEX_2D["r_ankle"]
TO_IMAGE = np.array([[8, 0, 3.5], [0, 8, 3.5]])
BODY = {
    "nose": (0, -150), "neck": (0, -120), "l_shoulder": (30, -115), "r_shoulder": (-30, -115),
    "l_hip": (18, 0), "r_hip": (-18, 0), "pelvis": (0, 0), "l_knee": (24, 75), "r_knee": (-24, 75),
    "l_ankle": (32, 150), "r_ankle": (-32, 150),
}  # fmt: skip


def joints(at=(256, 180)):
    px = np.zeros((1, 20, 3))
    for name, xy in BODY.items():
        px[0, INDEX_2D[name]] = (*np.add(xy, at), 1)
    return px


def both_ways(px, own, other):
    """Maps in which every ankle shows at both feet: so sure at its own and at the other one."""
    swapped = px.copy()
    swapped[:, [L, R]] = px[:, [R, L]]
    heat, fields, _ = targets.draw(px, 384, 512, None)
    heat2, fields2, _ = targets.draw(swapped, 384, 512, None)
    heat, heat2 = heat.copy(), heat2.copy()
    for k in (L, R):
        heat[k] = np.maximum(own[k] * heat[k], other[k] * heat2[k])
    both = np.where(np.abs(fields2) > 0, fields2, fields)  # towards both feet
    return NetworkOutput(heat.astype(np.float32), both.astype(np.float32), None, TO_IMAGE)


@pytest.mark.parametrize("stronger", [L, R])
def test_ankles_shown_at_both_feet_go_to_the_foot_where_each_is_surer(stronger):
    px = joints()
    own = {stronger: 0.9, L + R - stronger: 0.6}
    other = {stronger: 0.5, L + R - stronger: 0.7}  # at the stronger one's foot both win
    (person,) = group(both_ways(px, own, other), GroupingConfig())
    for k in (L, R):
        assert np.abs(person.joints_px[k] - px[0, k, :2]).max() < 4


def test_feet_that_stand_together_stay():
    px = joints()
    px[0, R] = px[0, L]
    (person,) = group(both_ways(px, {L: 0.9, R: 0.8}, {L: 0, R: 0}), GroupingConfig())
    assert np.abs(person.joints_px[[L, R]] - px[0, L, :2]).max() < 4


def test_the_foot_of_somebody_else_is_not_taken():
    two = np.concatenate([joints((150, 180)), joints((260, 180))])
    two[0, R] = two[0, L]
    output = both_ways(two, {L: 0.9, R: 0.8}, {L: 0, R: 0})
    people = group(output, GroupingConfig())
    assert len(people) == 2
    for truth in two:
        seen = truth[:, 2] > 0
        off = [np.abs(p.joints_px[seen] - truth[seen, :2]).max() for p in people]
        assert min(off) < 4
