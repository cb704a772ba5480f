"""The joint lists: names, parents, mirror pairs, limbs; the only place where an order is written.

Two sets are used. The 2D set (K = 20) is what the network's heat-maps find: the 17 COCO key
points, then neck, head_top and pelvis. The 3D set (J = 21) is that of MuCo-3DHP, MuPoTS-3D and
XNect (Mehta et al. 2020). "r" is the person's own right.
"""

from __future__ import annotations

import numpy as np

COCO_NAMES: tuple[str, ...] = (
    "nose", "l_eye", "r_eye", "l_ear", "r_ear", "l_shoulder", "r_shoulder", "l_elbow", "r_elbow",
    "l_wrist", "r_wrist", "l_hip", "r_hip", "l_knee", "r_knee", "l_ankle", "r_ankle",
)  # fmt: skip
JOINTS_2D: tuple[str, ...] = (*COCO_NAMES, "neck", "head_top", "pelvis")
JOINTS: tuple[str, ...] = (
    "head_top", "neck", "r_shoulder", "r_elbow", "r_wrist", "l_shoulder", "l_elbow", "l_wrist",
    "r_hip", "r_knee", "r_ankle", "l_hip", "l_knee", "l_ankle", "pelvis", "spine", "head",
    "r_hand", "l_hand", "r_foot", "l_foot",
)  # fmt: skip
INDEX_2D = {name: i for i, name in enumerate(JOINTS_2D)}
INDEX = {name: i for i, name in enumerate(JOINTS)}

_PARENT_NAME = {
    "head_top": "head", "head": "neck", "neck": "spine", "spine": "pelvis",
    "r_shoulder": "neck", "r_elbow": "r_shoulder", "r_wrist": "r_elbow", "r_hand": "r_wrist",
    "l_shoulder": "neck", "l_elbow": "l_shoulder", "l_wrist": "l_elbow", "l_hand": "l_wrist",
    "r_hip": "pelvis", "r_knee": "r_hip", "r_ankle": "r_knee", "r_foot": "r_ankle",
    "l_hip": "pelvis", "l_knee": "l_hip", "l_ankle": "l_knee", "l_foot": "l_ankle",
}  # fmt: skip
ROOT = INDEX["pelvis"]
# Parent of every 3D joint; the root has -1.
PARENT: tuple[int, ...] = tuple(
    INDEX[_PARENT_NAME[name]] if name in _PARENT_NAME else -1 for name in JOINTS
)


def _depth(joint: int) -> int:
    return 0 if PARENT[joint] < 0 else 1 + _depth(PARENT[joint])


# Joints ordered so that a parent comes before its children.
TOPOLOGICAL: tuple[int, ...] = tuple(sorted(range(len(JOINTS)), key=_depth))


def _mirror(names: tuple[str, ...]) -> tuple[int, ...]:
    swap = {"l_": "r_", "r_": "l_"}
    return tuple(names.index(swap.get(n[:2], n[:2]) + n[2:]) for n in names)


MIRROR_2D = _mirror(JOINTS_2D)
MIRROR = _mirror(JOINTS)

# Limbs of the part affinity fields, (from, to). Ear-shoulder on both sides keeps a person whole
# where a shoulder, and with it the constructed neck, is not seen.
_LIMB_NAMES: tuple[tuple[str, str], ...] = (
    ("neck", "nose"), ("nose", "l_eye"), ("nose", "r_eye"), ("l_eye", "l_ear"), ("r_eye", "r_ear"),
    ("neck", "l_shoulder"), ("neck", "r_shoulder"), ("l_shoulder", "l_elbow"),
    ("r_shoulder", "r_elbow"), ("l_elbow", "l_wrist"), ("r_elbow", "r_wrist"),
    ("l_shoulder", "l_hip"), ("r_shoulder", "r_hip"), ("l_hip", "l_knee"), ("r_hip", "r_knee"),
    ("l_knee", "l_ankle"), ("r_knee", "r_ankle"), ("neck", "head_top"), ("neck", "pelvis"),
    ("pelvis", "l_hip"), ("pelvis", "r_hip"), ("l_ear", "l_shoulder"), ("r_ear", "r_shoulder"),
)  # fmt: skip
LIMBS: tuple[tuple[int, int], ...] = tuple((INDEX_2D[a], INDEX_2D[b]) for a, b in _LIMB_NAMES)
# Number of the limb on the other side.
MIRROR_LIMBS: tuple[int, ...] = tuple(LIMBS.index((MIRROR_2D[a], MIRROR_2D[b])) for a, b in LIMBS)

# Pixels of a 2D joint carry the 3D bones (joint minus parent, named by the child) that meet there.
_CARRIED_NAMES: dict[str, tuple[str, ...]] = {
    "head_top": ("head_top", "head"),
    "nose": ("head",),
    "neck": ("neck", "spine", "head", "head_top", "r_shoulder", "l_shoulder"),
    "r_shoulder": ("r_shoulder", "r_elbow"),
    "r_elbow": ("r_elbow", "r_wrist"),
    "r_wrist": ("r_wrist", "r_hand"),
    "l_shoulder": ("l_shoulder", "l_elbow"),
    "l_elbow": ("l_elbow", "l_wrist"),
    "l_wrist": ("l_wrist", "l_hand"),
    "r_hip": ("r_hip", "r_knee", "spine"),
    "r_knee": ("r_knee", "r_ankle"),
    "r_ankle": ("r_ankle", "r_foot"),
    "l_hip": ("l_hip", "l_knee", "spine"),
    "l_knee": ("l_knee", "l_ankle"),
    "l_ankle": ("l_ankle", "l_foot"),
    "pelvis": ("r_hip", "l_hip", "spine"),
}
# (2D joint, 3D joint whose bone its pixels carry)
CARRIED: tuple[tuple[int, int], ...] = tuple(
    (INDEX_2D[k], INDEX[j]) for k, bones in _CARRIED_NAMES.items() for j in bones
)
# Network units of the encoding: bone vectors in metres divided by this, so that they are O(1).
BONE_UNIT_M = 0.25

# For every 3D joint the 2D joint that shows it, or -1 (spine, hands, feet, mid-head).
SHOWN_BY: tuple[int, ...] = tuple(INDEX_2D.get(name, -1) for name in JOINTS)

# OKS constants of the 2D joints; the 17 COCO ones are the published values, the last three ours.
OKS_SIGMAS = np.array(
    [.026, .025, .025, .035, .035, .079, .079, .072, .072, .062, .062, .107, .107, .087, .087,
     .089, .089, .079, .06, .107], np.float32)  # fmt: skip

# What is known about a joint of a result, from Stage I to every output.
MISSING, SEEN, INFERRED, EXTRAPOLATED = 0, 1, 2, 3
STATE_NAMES = ("missing", "seen", "inferred", "extrapolated")
