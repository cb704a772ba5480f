"""The joint lists against the published orders they claim to follow."""

from __future__ import annotations

from manypose.pose import joints


def test_the_3d_order_is_that_of_muco_and_xnect() -> None:
    assert joints.PARENT == (
        16, 15, 1, 2, 3, 1, 5, 6, 14, 8, 9, 14, 11, 12, -1, 14, 1, 4, 7, 10, 13
    )  # fmt: skip
    assert joints.MIRROR == (
        0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 14, 15, 16, 18, 17, 20, 19
    )  # fmt: skip


def test_mirroring_twice_is_nothing() -> None:
    for mirror in (joints.MIRROR, joints.MIRROR_2D):
        assert [mirror[m] for m in mirror] == list(range(len(mirror)))


def test_parents_come_before_children() -> None:
    seen: set[int] = set()
    for j in joints.TOPOLOGICAL:
        assert joints.PARENT[j] < 0 or joints.PARENT[j] in seen
        seen.add(j)
    assert len(seen) == len(joints.JOINTS)


def test_limbs_join_every_joint_and_mirror_onto_each_other() -> None:
    reached, before = {joints.INDEX_2D["neck"]}, 0
    while len(reached) > before:
        before = len(reached)
        reached |= {b for a, b in joints.LIMBS if a in reached}
        reached |= {a for a, b in joints.LIMBS if b in reached}
    assert len(reached) == len(joints.JOINTS_2D)
    limbs = set(joints.LIMBS)
    assert {(joints.MIRROR_2D[a], joints.MIRROR_2D[b]) for a, b in limbs} == limbs
