"""A jointed body: rest pose, degrees of freedom, forward kinematics and its derivative.

The body's own frame has y up, z to the front and x to the person's left; the rest pose, all
rotations identity, is a T-pose in it. The root rotation turns this frame into the camera's (x
right, y down, z away), so a person who faces the camera has the root rotation diag(1, -1, -1).
The rotation of joint j turns everything that hangs on j, seen from the frame of
KINEMATIC_PARENT[j]; that tree is `joints.PARENT` except that both shoulders hang on the spine
joint: the chest is rigid (spine, neck, shoulders), so the head turns without the shoulders.

Degrees of freedom, 36 (source: XNect, Mehta et al. 2020, has 29 on a skeleton without wrists and
with three at the shoulders, hips, spine and head, one at elbows and knees, two at the ankles; the
wrists are added here so that the hands of the 21 joints are driven):

    pelvis 6   three of position, three of orientation
    spine 3    chest against pelvis             neck 3   head against chest
    shoulders 3 each, elbows 1 (flexion), wrists 2 (flexion, deviation; forearm twist cannot be
               seen in joint positions)
    hips 3 each, knees 1 (flexion), ankles 2 (flexion, toe in or out)

Ball joints are not written as Euler angles: a step is a small rotation in the joint's own frame
(right-multiplied exponential), so there is no gimbal lock anywhere, arms straight up included.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.pose.joints import COCO_NAMES, INDEX, JOINTS, JOINTS_2D, MIRROR, PARENT, ROOT

Float = NDArray[np.floating[Any]]

_J = len(JOINTS)
_FACE = COCO_NAMES[:5]
KINEMATIC_PARENT: tuple[int, ...] = tuple(
    INDEX["spine"] if name in ("r_shoulder", "l_shoulder") else PARENT[j]
    for j, name in enumerate(JOINTS)
)

# Rest positions from the pelvis of an average body 1.70 m tall, metres; the left side is mirrored.
AVERAGE_HEIGHT_M = 1.70
_REST_M: dict[str, tuple[float, float, float]] = {
    "pelvis": (0, 0, 0), "spine": (0, 0.257, -0.008), "neck": (0, 0.588, -0.012),
    "head": (0, 0.720, 0.002), "head_top": (0, 0.854, 0.026),
    "r_shoulder": (-0.190, 0.502, -0.022), "r_elbow": (-0.462, 0.502, -0.022),
    "r_wrist": (-0.717, 0.502, -0.022), "r_hand": (-0.840, 0.502, -0.022),
    "r_hip": (-0.085, 0, 0), "r_knee": (-0.085, -0.378, 0), "r_ankle": (-0.085, -0.753, 0),
    "r_foot": (-0.083, -0.821, 0.181),
}  # fmt: skip
_ANKLE_HEIGHT_M = 0.093
# Points of the face, from mid-head in the frame of the head (the rotation of the neck joint).
_FACE_M = {
    "nose": (0, -0.010, 0.137), "l_eye": (0.031, 0.024, 0.098), "r_eye": (-0.031, 0.024, 0.098),
    "l_ear": (0.078, 0, 0), "r_ear": (-0.078, 0, 0),
}  # fmt: skip


def _rest() -> Float:
    out = np.zeros((_J, 3))
    for j, name in enumerate(JOINTS):
        mirrored = name.startswith("l_")
        x, y, z = _REST_M[JOINTS[MIRROR[j]] if mirrored else name]
        out[j] = (-x if mirrored else x, y, z)
    return out


REST_M = _rest()
_PARENT = np.array([p if p >= 0 else j for j, p in enumerate(PARENT)])
# Bone from the parent of `joints.PARENT` in the rest pose: direction and average length.
BONE_DIRECTIONS = np.zeros((_J, 3))
AVERAGE_LENGTHS_M = np.linalg.norm(REST_M - REST_M[_PARENT], axis=-1)
BONE_DIRECTIONS = (REST_M - REST_M[_PARENT]) / np.maximum(AVERAGE_LENGTHS_M, 1e-9)[:, None]
_FACE_OFFSETS = np.array([_FACE_M[name] for name in _FACE])

# Points of the body: the 21 joints, then the five of the face. 2D joint k shows POINT_OF_2D[k], but
# for the neck: in 2D the middle of the shoulders, 5 to 9 cm below the 3D neck (see `marks`).
POINT_NAMES: tuple[str, ...] = (*JOINTS, *_FACE)
POINT_OF_2D = np.array([POINT_NAMES.index(name) for name in JOINTS_2D])
_NECK_2D = JOINTS_2D.index("neck")
_SHOULDERS = [INDEX["l_shoulder"], INDEX["r_shoulder"]]
_KP = np.array([p if p >= 0 else ROOT for p in KINEMATIC_PARENT])
# Joint in whose frame each point is at rest.
_CARRIER = np.concatenate([_KP, np.full(len(_FACE), INDEX["neck"])])


def _levels() -> list[NDArray[np.intp]]:
    depth = np.zeros(_J, int)
    for _ in range(_J):
        depth = np.where(np.arange(_J) == ROOT, 0, depth[_KP] + 1)
    return [np.flatnonzero(depth == d) for d in range(1, depth.max() + 1)]


_LEVELS = _levels()
# The tree level by level, so that each level is a slice; where its joints and their parents are.
_ORDER = np.concatenate([[ROOT], *_LEVELS])
_PLACE = np.argsort(_ORDER)
_STOPS = np.cumsum([1, *map(len, _LEVELS)])
_SLICES = [slice(int(a), int(b)) for a, b in itertools.pairwise(_STOPS)]
_UP = [_PLACE[_KP[level]] for level in _LEVELS]


@dataclass(frozen=True, slots=True)
class Dof:
    """One axis of a joint in its own frame, and its range (rad) about `middle`'s rotation."""

    joint: str
    axis: tuple[float, float, float]
    low: float
    high: float


# Middle of the range of ball joints as a rotation vector (degrees); limits count from there.
_MIDDLE_DEG: dict[str, tuple[float, float, float]] = {
    "spine": (20, 0, 0), "l_shoulder": (0, -45, 0), "r_shoulder": (0, 45, 0),
    "l_hip": (-50, 0, 8), "r_hip": (-50, 0, -8),
}  # fmt: skip
# Joint: three (low, high) degrees about x, y, z; None where the joint does not turn. Ranges are
# those of healthy adults, widened by some ten degrees (Magee 2014, tables of active motion).
_RANGES_DEG: dict[str, tuple[tuple[float, float] | None, ...]] = {
    "spine": ((-60, 60), (-50, 50), (-45, 45)),
    "neck": ((-60, 65), (-85, 85), (-50, 50)),
    "l_shoulder": ((-100, 100), (-95, 95), (-115, 115)),
    "l_elbow": (None, (-155, 5), None),
    "l_wrist": (None, (-45, 45), (-85, 85)),
    "l_hip": ((-90, 90), (-55, 55), (-50, 50)),
    "l_knee": ((-5, 160), None, None),
    "l_ankle": ((-45, 65), (-35, 35), None),
}


def _dofs() -> tuple[Dof, ...]:
    out = []
    for j, name in enumerate(JOINTS):
        right = name.startswith("r_")
        for axis, span in enumerate(_RANGES_DEG.get(JOINTS[MIRROR[j]] if right else name, ())):
            if span is not None:
                low, high = span
                if right and axis > 0:  # mirroring in x turns rotations about y and z round
                    low, high = -high, -low
                unit = tuple(float(i == axis) for i in range(3))
                out.append(Dof(name, (unit[0], unit[1], unit[2]), math.radians(low),
                               math.radians(high)))  # fmt: skip
    return tuple(out)


DOFS = _dofs()
# Columns of the Jacobian: root position (3), root orientation (3), then DOFS.
DOF_COUNT = 6 + len(DOFS)
DOF_JOINT = np.array([INDEX[d.joint] for d in DOFS])
DOF_AXIS = np.array([d.axis.index(1.0) for d in DOFS])
DOF_LOW = np.array([d.low for d in DOFS])
DOF_HIGH = np.array([d.high for d in DOFS])
_TURNING = np.concatenate([[ROOT] * 3, DOF_JOINT])  # joint of each rotational column
_TURN_AXIS = np.concatenate([np.arange(3), DOF_AXIS])
_COUNT = np.bincount(DOF_JOINT, minlength=_J)
_TWO = np.flatnonzero(_COUNT == 2)  # wrists and ankles: no twist about the bone
_TWO_TWIST = np.stack([BONE_DIRECTIONS[PARENT.index(j)] for j in _TWO])  # their one bone


_TURN_FLAT = 3 * _TURNING + _TURN_AXIS  # where it is in rotation vectors (J, 3) as one row


def _moved() -> Float:
    """Return (26, DOF_COUNT): 1 where a column of the Jacobian moves a point, else 0."""
    out = np.ones((len(POINT_NAMES), 3 + len(_TURNING)))
    for point, carrier in enumerate(_CARRIER):
        j = int(carrier)
        chain = {ROOT} if point != ROOT else set()
        while j != ROOT:
            chain.add(j)
            j = int(_KP[j])
        out[point, 3:] = np.isin(_TURNING, list(chain))
    return out


MOVED = _moved()


def _product_table() -> Float:
    """Return (16, 4): products of components, a b^T in rows, to the components of a b."""
    out = np.zeros((4, 4, 4))
    for a, b, sign, c in (
        (3, 0, 1, 0), (0, 3, 1, 0), (1, 2, 1, 0), (2, 1, -1, 0),
        (3, 1, 1, 1), (0, 2, -1, 1), (1, 3, 1, 1), (2, 0, 1, 1),
        (3, 2, 1, 2), (0, 1, 1, 2), (1, 0, -1, 2), (2, 3, 1, 2),
        (3, 3, 1, 3), (0, 0, -1, 3), (1, 1, -1, 3), (2, 2, -1, 3),
    ):  # fmt: skip
        out[a, b, c] = sign
    return out.reshape(16, 4)


def _matrix_table() -> Float:
    """Return (16, 9): products of components, q q^T in rows, to a rotation less the identity."""
    out = np.zeros((4, 4, 3, 3))
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        out[j, j, i, i] = out[k, k, i, i] = -2
        out[i, j, i, j] = out[i, j, j, i] = 2
        out[k, 3, i, j], out[k, 3, j, i] = -2, 2
    return out.reshape(16, 9)


# One product with a table instead of thirty operations on slices: arrays are small here, and the
# time goes into calls.
_PRODUCT, _MATRIX = _product_table(), _matrix_table()
_EYE, _CONJUGATE = np.eye(3), np.array([-1.0, -1, -1, 1])
# (4, 3, 6): 1 x y z of a point, from the pelvis, to the form that gives its velocity (`jacobian`).
FORMS = np.zeros((4, 3, 6))
for _i, _j, _k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
    FORMS[0, _i, _i] = FORMS[1 + _k, _i, 3 + _j] = 1
    FORMS[1 + _j, _i, 3 + _k] = -1
# Products of components, a b^T in rows, to those of a x b.
_CROSS = -FORMS[1:, :, 3:].swapaxes(1, 2).reshape(9, 3)


def quaternion_multiply(a: Float, b: Float) -> Float:
    """Return the product a b of quaternions (..., 4), x y z w: b is applied first."""
    outer = a[..., :, None] * b[..., None, :]
    product: Float = outer.reshape(-1, 16) @ _PRODUCT
    return product.reshape(outer.shape[:-1])


def conjugate(q: Float) -> Float:
    """Return the inverse of unit quaternions (..., 4)."""
    return np.asarray(q * _CONJUGATE)


def exp_map(vector: Float) -> Float:
    """Return the quaternions (..., 4) of rotation vectors (..., 3), rad."""
    half = 0.5 * np.sqrt(np.vecdot(vector, vector))[..., None]
    safe = np.maximum(half, 1e-9)
    out = np.empty((*vector.shape[:-1], 4))
    np.multiply(vector, 0.5 * np.sin(safe) / safe, out=out[..., :3])
    np.cos(half, out=out[..., 3:])
    return out


def log_map(q: Float) -> Float:
    """Return the rotation vectors (..., 3), rad, of quaternions (..., 4); at most half a turn."""
    v, w = q[..., :3], q[..., 3:]
    s = np.maximum(np.sqrt(np.vecdot(v, v)), 1e-9)[..., None]
    return np.asarray(v * np.copysign(2 * np.arctan2(s, np.abs(w)) / s, w))


def quaternion_to_matrix(q: Float) -> Float:
    """Return the rotation matrices (..., 3, 3) of unit quaternions (..., 4)."""
    matrices: Float = (q[..., :, None] * q[..., None, :]).reshape(-1, 16) @ _MATRIX
    matrices[:, ::4] += 1
    return matrices.reshape(*q.shape[:-1], 3, 3)


def matrix_to_quaternion(m: Float) -> Float:
    """Return the unit quaternions (..., 4), w >= 0, of rotation matrices (..., 3, 3)."""
    d = np.diagonal(m, axis1=-2, axis2=-1)
    trace = d.sum(-1)
    # four squared components; the largest decides signs (Shepperd 1978)
    square = np.stack([1 + 2 * d[..., i] - trace for i in range(3)] + [1 + trace], -1)
    off = np.empty((*m.shape[:-2], 4, 4))
    for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        off[..., a, a] = square[..., a]
        off[..., a, b] = off[..., b, a] = m[..., a, b] + m[..., b, a]
        off[..., a, 3] = off[..., 3, a] = m[..., c, b] - m[..., b, c]
    off[..., 3, 3] = square[..., 3]
    best = np.argmax(square, -1)
    q = np.take_along_axis(off, best[..., None, None], -2)[..., 0, :]
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    return np.asarray(np.where(q[..., 3:] < 0, -q, q))


def offsets_m(lengths_m: Float) -> Float:
    """Return rest positions (..., 26, 3), each in the frame of the joint that carries it.

    `lengths_m` (..., J) are bone lengths along `joints.PARENT`. Face points follow the size of
    the head (neck to crown).
    """
    bones = BONE_DIRECTIONS * lengths_m[..., None]
    i = INDEX
    for side in ("r_shoulder", "l_shoulder"):
        bones[..., i[side], :] += bones[..., i["neck"], :]
    head = (lengths_m[..., i["head"]] + lengths_m[..., i["head_top"]]) / (
        AVERAGE_LENGTHS_M[i["head"]] + AVERAGE_LENGTHS_M[i["head_top"]]
    )
    face = bones[..., None, i["head"], :] + _FACE_OFFSETS * head[..., None, None]
    return np.concatenate([bones, face], -2)


def stature_m(lengths_m: Float) -> Float:
    """Return the standing height (...,) of bodies with bone lengths (..., J)."""
    rise = np.abs(BONE_DIRECTIONS[:, 1]) * lengths_m
    names = ("spine", "neck", "head", "head_top")
    trunk = sum(rise[..., INDEX[n]] for n in names)
    leg = sum(rise[..., INDEX[s + n]] for s in ("l_", "r_") for n in ("knee", "ankle")) / 2
    known = AVERAGE_HEIGHT_M - _ANKLE_HEIGHT_M
    return np.asarray((trunk + leg) * AVERAGE_HEIGHT_M / known)


def forward(root_m: Float, rotations: Float, offsets: Float) -> tuple[Float, Float]:
    """Return points (N, 26, 3) and the global rotations (N, J, 3, 3) of every joint's frame.

    root_m (N, 3); rotations (N, J, 4) local, x y z w; offsets (N, 26, 3) from `offsets_m`.
    """
    count = len(root_m)
    local = np.zeros((count, _J, 4, 4))  # rotation and place in the parent's frame
    local[..., :3, :3] = quaternion_to_matrix(rotations[:, _ORDER])
    local[:, 1:, :3, 3] = offsets[:, _ORDER[1:]]
    local[:, 0, :3, 3] = root_m
    local[..., 3, 3] = 1
    whole = np.empty_like(local)
    whole[:, 0] = local[:, 0]
    for level, up in zip(_SLICES, _UP):
        np.matmul(whole[:, up], local[:, level], out=whole[:, level])
    whole = whole[:, _PLACE]
    frames = whole[..., :3, :3]
    points = np.empty((count, len(POINT_NAMES), 3))
    points[:, :_J] = whole[..., :3, 3]
    neck = INDEX["neck"]
    np.matmul(offsets[:, _J:], frames[:, neck].swapaxes(-1, -2), out=points[:, _J:])
    points[:, _J:] += points[:, None, neck]
    return points, frames


def marks(points: Float) -> Float:
    """Return what the 2D joints show (N, 20, ...) of points (N, 26, ...), or of their derivatives.

    The 2D neck is the middle of the shoulders, not the 3D neck.
    """
    out: Float = points[:, POINT_OF_2D]
    left, right = (points[:, j] for j in _SHOULDERS)
    out[:, _NECK_2D] = 0.5 * (left + right)
    return out


def jacobian(forms: Float, moved: Float, points: Float, frames: Float, out: Float) -> None:
    """Write d numbers / d step to `out` (N, R, DOF_COUNT); the step is what `step` takes.

    forms (N, R, 6): how each number changes with the motion of the body that carries its point,
    velocity at the pelvis, then turn (see `FORMS`); moved (R, DOF_COUNT): 1 where a column moves
    that body, else 0 (rows of `MOVED`); points and frames are those of `forward`.
    """
    count = len(points)
    axes = frames.swapaxes(2, 3).reshape(count, 3 * _J, 3)[:, _TURN_FLAT]
    centres = points[:, _TURNING] - points[:, None, ROOT]
    motions = np.zeros((count, DOF_COUNT, 6))
    motions[:, :3, :3] = _EYE
    # a turn about an axis elsewhere moves what is at the pelvis
    outer = (centres[..., :, None] * axes[..., None, :]).reshape(-1, 9)
    motions[:, 3:, :3] = (outer @ _CROSS).reshape(count, -1, 3)
    motions[:, 3:, 3:] = axes
    np.matmul(forms, motions.swapaxes(1, 2), out=out)
    out *= moved


def step(root_m: Float, rotations: Float, change: Float) -> tuple[Float, Float]:
    """Return root and rotations after a step (N, DOF_COUNT): metres, then rad in joint frames."""
    vector = np.zeros((len(change), 3 * _J))
    vector[:, _TURN_FLAT] = change[:, 3:]
    q = quaternion_multiply(rotations, exp_map(vector.reshape(-1, _J, 3)))
    return root_m + change[:, :3], normalised(q)


def normalised(rotations: Float) -> Float:
    """Return rotations (N, J, 4) of length one, wrists and ankles freed of twist."""
    q = rotations / np.sqrt(np.vecdot(rotations, rotations))[..., None]
    part = q[:, _TWO]
    back = np.empty_like(part)  # the twist about the bone, undone
    about = np.vecdot(part[..., :3], _TWO_TWIST)[..., None]
    np.multiply(about, -_TWO_TWIST, out=back[..., :3])
    back[..., 3] = part[..., 3]
    n = np.sqrt(np.vecdot(back, back))[..., None]
    none = n <= 1e-6
    if none.any():
        back, n = np.where(none, np.array([0.0, 0, 0, 1]), back), np.where(none, 1.0, n)
    q[:, _TWO] = quaternion_multiply(part, back / n)
    q *= np.where(q[..., 3:] < 0, -1.0, 1.0)
    return np.asarray(q)


_MIDDLE = exp_map(
    np.radians(np.array([_MIDDLE_DEG.get(name, (0.0, 0.0, 0.0)) for name in JOINTS], float))
)
FROM_MIDDLE = conjugate(_MIDDLE)  # (J, 4)


def coordinates(rotations: Float) -> Float:
    """Return one number (N, len(DOFS)), rad, for each degree of freedom but the root's.

    Components of the rotation vector from the middle of the joint's range (Grassia 1998): the
    numbers that DOF_LOW and DOF_HIGH bound.
    """
    return turns(log_map(quaternion_multiply(FROM_MIDDLE, rotations)))[..., 3:]


def turns(vectors: Float) -> Float:
    """Return rotation vectors (..., J, 3) as the turns (..., DOF_COUNT - 3) of `step`."""
    return np.asarray(vectors.reshape(*vectors.shape[:-2], 3 * _J)[..., _TURN_FLAT])
