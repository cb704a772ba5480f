"""Rotations from joint positions, and rotations as the angles people of sport and medicine name.

Sources of the angle definitions: Grood and Suntay 1983 (hip, knee, ankle), Wu et al. 2002 and 2005
(International Society of Biomechanics; spine, shoulder). Signs as there, in the table of
`joint_angles`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.pose import skeleton as sk
from manypose.pose.joints import INDEX, JOINTS

Float = NDArray[np.floating[Any]]

_J = len(JOINTS)
_I = INDEX


def _unit(v: Float, fallback: Float) -> Float:
    n = np.linalg.norm(v, axis=-1, keepdims=True)
    return np.asarray(np.where(n > 1e-6, v / np.maximum(n, 1e-6), fallback))


def _between(a: Float, b: Float) -> Float:
    """Return the shortest rotations (N, 3, 3) from unit vectors a (N, 3) to b (N, 3)."""
    w = 1 + (a * b).sum(-1, keepdims=True)
    # opposite vectors: half a turn about any axis across
    other = np.where(np.abs(a[:, :1]) < 0.9, np.array([1.0, 0, 0]), np.array([0, 1.0, 0]))
    v = np.where(w > 1e-6, np.cross(a, b), np.cross(a, other))
    q = np.concatenate([v, np.where(w > 1e-6, w, 0.0)], -1)
    return sk.quaternion_to_matrix(q / np.linalg.norm(q, axis=-1, keepdims=True))


def _frame(x: Float, y: Float, main: str) -> Float:
    """Return rotation matrices (N, 3, 3) with these axes as columns, the main one exact."""
    first, second = (x, y) if main == "x" else (y, x)
    first = _unit(first, np.array([1.0, 0, 0] if main == "x" else [0, -1.0, 0]))
    z = np.cross(first, second) if main == "x" else np.cross(second, first)
    z = _unit(z, _unit(np.cross(first, np.array([0.31, -0.9, 0.29])), np.array([0, 0, 1.0])))
    axes = [first, np.cross(z, first), z] if main == "x" else [np.cross(first, z), first, z]
    return np.stack(axes, -1)


def _part(p: Float, across: tuple[str, str], up: tuple[str, str], main: str) -> Float:
    """Return how a part of the trunk is turned from its rest pose, from two directions on it."""
    now = _frame(p[:, _I[across[1]]] - p[:, _I[across[0]]], p[:, _I[up[1]]] - p[:, _I[up[0]]], main)
    rest = sk.REST_M[None]
    then = _frame(
        rest[:, _I[across[1]]] - rest[:, _I[across[0]]],
        rest[:, _I[up[1]]] - rest[:, _I[up[0]]],
        main,
    )
    return np.asarray(now @ then.swapaxes(-1, -2))


def rotations_from_joints(joints_m: Float) -> Float:
    """Return local rotations (N, J, 4) whose body looks like the joints (N, J, 3), camera axes.

    Trunk from its joints; limbs so that bones point the right way and elbows and knees bend in
    their own plane; where a limb is straight, its twist is the one nearest to the parent's. Bone
    lengths do not matter. For Stage III this is the start of a new track.
    """
    p = joints_m
    n = len(p)
    frames = np.tile(np.eye(3), (n, _J, 1, 1))
    pelvis = _part(p, ("r_hip", "l_hip"), ("pelvis", "spine"), "x")
    chest = _part(p, ("r_shoulder", "l_shoulder"), ("spine", "neck"), "y")
    skull = p[:, _I["head_top"]] - p[:, _I["neck"]]
    upright = sk.REST_M[_I["head_top"]] - sk.REST_M[_I["neck"]]
    upright = upright / np.linalg.norm(upright)
    hang = np.asarray(chest @ upright)
    head = _between(hang, _unit(skull, hang)) @ chest  # it looks where the chest looks
    frames[:, _I["pelvis"]], frames[:, _I["spine"]], frames[:, _I["neck"]] = pelvis, chest, head
    for side in ("r_", "l_"):
        for upper, lower, end, tip, parent in (
            ("shoulder", "elbow", "wrist", "hand", "spine"),
            ("hip", "knee", "ankle", "foot", "pelvis"),
        ):
            a, b, c, d = (_I[side + k] for k in (upper, lower, end, tip))
            frames[:, [a, b, c]] = _limb(p[:, [a, b, c, d]], frames[:, _I[parent]], side, upper)
    for name in ("head", "head_top", "r_hand", "l_hand", "r_foot", "l_foot"):
        frames[:, _I[name]] = frames[:, sk.KINEMATIC_PARENT[_I[name]]]
    above = np.array([j if q < 0 else q for j, q in enumerate(sk.KINEMATIC_PARENT)])
    local = frames[:, above].swapaxes(-1, -2) @ frames
    local[:, _I["pelvis"]] = pelvis
    return sk.normalised(sk.matrix_to_quaternion(local))


def _limb(p: Float, parent: Float, side: str, upper: str) -> Float:
    """Return the frames (N, 3, 3, 3) of upper bone, lower bone and end from four points."""
    arm = upper == "shoulder"
    left = side == "l_"
    bone = np.array([1.0 if left else -1.0, 0, 0]) if arm else np.array([0, -1.0, 0])
    hinge = np.array([0, -1.0 if left else 1.0, 0]) if arm else np.array([1.0, 0, 0])
    tip = bone if arm else sk.BONE_DIRECTIONS[_I[side + "foot"]]
    fallback = (parent @ bone).astype(float)
    u = _unit(p[:, 1] - p[:, 0], fallback)
    v = _unit(p[:, 2] - p[:, 1], u)
    near = _between(fallback, u) @ parent  # least twist
    axis = np.cross(u, v)
    bend = np.linalg.norm(axis, axis=-1, keepdims=True)
    straight = near @ hinge
    # the plane of the bend is trusted the more the larger the bend (0.17 = 10, 0.5 = 30 degrees)
    trust = np.clip((bend - 0.17) / 0.33, 0, 1)
    h = trust * _unit(axis, straight) + (1 - trust) * straight
    h = _unit(h - (h * u).sum(-1, keepdims=True) * u, straight)
    rest = np.stack([bone, hinge, np.cross(bone, hinge)], -1)
    first = np.stack([u, h, np.cross(u, h)], -1) @ rest.T
    angle = np.arctan2((np.cross(u, v) * h).sum(-1), (u * v).sum(-1))
    second = first @ sk.quaternion_to_matrix(sk.exp_map(hinge * angle[:, None]))
    third = _between((second @ tip).astype(float), _unit(p[:, 3] - p[:, 2], second @ tip)) @ second
    return np.stack([first, second, third], 1)


def joint_angles(rotations: Float) -> dict[str, Float]:
    """Return named angles (...,), rad, of local rotations (..., J, 4); zero in the T-pose.

    elbow_flexion, knee_flexion     bend of the hinge, positive bends
    hip_flexion, _abduction,        thigh against pelvis, Cardan x-z-y: + forward, + away from the
      _rotation                     middle, + outwards
    ankle_dorsiflexion              + toes up
    shoulder_elevation, _plane,     upper arm against chest, Euler y-x-y: angle from hanging down
      _rotation                     (T-pose 90 degrees); 0 = raised sideways, 90 = forwards; own
                                    axis, + inwards
    shoulder_flexion, _abduction    the same direction seen from the side and from the front, from
                                    hanging down, + forward, + away from the middle
    wrist_flexion, _deviation       + palm side, + thumb side, for a palm that faces down
    spine_flexion, _lateral,        chest against pelvis, Cardan x-z-y: + forward, + to the left,
      _rotation, and neck_...       + turned to the left; head against chest alike
    """
    out: dict[str, Float] = {}
    matrix = sk.quaternion_to_matrix(rotations)
    vector = sk.log_map(rotations)
    for name in ("spine", "neck"):
        x, z, y = _cardan_xzy(matrix[..., _I[name], :, :])
        out[f"{name}_flexion"], out[f"{name}_lateral"], out[f"{name}_rotation"] = x, -z, y
    for side, s in (("r", -1.0), ("l", 1.0)):
        out[f"{side}_elbow_flexion"] = -s * vector[..., _I[f"{side}_elbow"], 1]
        out[f"{side}_knee_flexion"] = vector[..., _I[f"{side}_knee"], 0]
        out[f"{side}_ankle_dorsiflexion"] = -vector[..., _I[f"{side}_ankle"], 0]
        out[f"{side}_wrist_flexion"] = -s * vector[..., _I[f"{side}_wrist"], 2]
        out[f"{side}_wrist_deviation"] = -s * vector[..., _I[f"{side}_wrist"], 1]
        x, z, y = _cardan_xzy(matrix[..., _I[f"{side}_hip"], :, :])
        out[f"{side}_hip_flexion"] = -x
        out[f"{side}_hip_abduction"] = s * z
        out[f"{side}_hip_rotation"] = s * y
        out.update(
            {
                f"{side}_{k}": v
                for k, v in _shoulder(matrix[..., _I[f"{side}_shoulder"], :, :], s).items()
            }
        )
    return out


def _cardan_xzy(m: Float) -> tuple[Float, Float, Float]:
    """Return x, z, y with m = Rx(x) Rz(z) Ry(y)."""
    z = np.arcsin(np.clip(-m[..., 0, 1], -1, 1))
    x = np.arctan2(m[..., 2, 1], m[..., 1, 1])
    y = np.arctan2(m[..., 0, 2], m[..., 0, 0])
    return np.asarray(x), np.asarray(z), np.asarray(y)


def _shoulder(m: Float, s: float) -> dict[str, Float]:
    arm = m[..., :, 0] * s  # direction of the upper arm in the chest
    side, up, front = s * arm[..., 0], arm[..., 1], arm[..., 2]
    down = 0.0 - up  # not -up: at exactly sideways that is -0.0, and the angle half a turn
    elevation = np.arccos(np.clip(down, -1, 1))
    plane = np.where(np.hypot(side, front) > 1e-6, np.arctan2(front, side), 0.0)
    # own axis: how far the elbow's hinge is turned from where raising alone in this plane leaves it
    spin = np.stack([-np.sin(plane), np.zeros_like(plane), s * np.cos(plane)], -1)
    hinge0 = np.cross(arm, spin) * s
    hinge = -s * m[..., :, 1]
    turn = np.arctan2((np.cross(hinge0, hinge) * arm).sum(-1), (hinge0 * hinge).sum(-1))
    return {
        "shoulder_elevation": elevation,
        "shoulder_plane": plane,
        "shoulder_rotation": np.asarray(turn),
        "shoulder_flexion": np.asarray(np.arctan2(front, down)),
        "shoulder_abduction": np.asarray(np.arctan2(side, down)),
    }
