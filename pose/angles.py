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
from manypose.pose.joints import INDEX, JOINTS, ROOT, TOPOLOGICAL

Float = NDArray[np.floating[Any]]

_J = len(JOINTS)
_I = INDEX
_NEXT, _LAST = np.array([1, 2, 0]), np.array([2, 0, 1])


def _dot(a: Float, b: Float) -> Float:
    return np.asarray((a * b).sum(-1, keepdims=True))


def _cross(a: Float, b: Float) -> Float:
    # np.cross takes several times as long for so few vectors
    out = np.take(a, _NEXT, -1) * np.take(b, _LAST, -1)
    out -= np.take(a, _LAST, -1) * np.take(b, _NEXT, -1)
    return np.asarray(out)


def _unit(v: Float, fallback: Float) -> Float:
    n = np.sqrt(_dot(v, v))
    return np.asarray(np.where(n > 1e-6, v / np.maximum(n, 1e-6), fallback))


def _times(m: Float, v: Float) -> Float:
    """Return rotations (..., 3, 3) times vectors (..., 3)."""
    return np.asarray((m @ v[..., None])[..., 0])


def _between(a: Float, b: Float) -> Float:
    """Return the shortest rotations (..., 3, 3) from unit vectors a (..., 3) to b (..., 3)."""
    w = 1 + _dot(a, b)
    q = np.concatenate([_cross(a, b), w], -1)
    opposite = w[..., 0] <= 1e-6
    if opposite.any():  # half a turn about any axis across
        other = np.where(np.abs(a[..., :1]) < 0.9, np.array([1.0, 0, 0]), np.array([0, 1.0, 0]))
        q[opposite, :3], q[opposite, 3] = _cross(a, other)[opposite], 0.0
    return sk.quaternion_to_matrix(q / np.sqrt(_dot(q, q)))


def _frame(x: Float, y: Float, main: str) -> Float:
    """Return rotation matrices (N, 3, 3) with these axes as columns, the main one exact."""
    first, second = (x, y) if main == "x" else (y, x)
    first = _unit(first, np.array([1.0, 0, 0] if main == "x" else [0, -1.0, 0]))
    z = _cross(first, second) if main == "x" else _cross(second, first)
    z = _unit(z, _unit(_cross(first, np.array([0.31, -0.9, 0.29])), np.array([0, 0, 1.0])))
    axes = [first, _cross(z, first), z] if main == "x" else [_cross(first, z), first, z]
    return np.stack(axes, -1)


def _part(p: Float, across: tuple[str, str], up: tuple[str, str], main: str) -> Float:
    """Return how a part of the trunk is turned, its axes as columns, from two directions on it."""
    return _frame(
        p[:, _I[across[1]]] - p[:, _I[across[0]]], p[:, _I[up[1]]] - p[:, _I[up[0]]], main
    )


_PELVIS = (("r_hip", "l_hip"), ("pelvis", "spine"), "x")
_CHEST = (("r_shoulder", "l_shoulder"), ("spine", "neck"), "y")
_PELVIS_AT_REST, _CHEST_AT_REST = (_part(sk.REST_M[None], *part)[0].T for part in (_PELVIS, _CHEST))
_UPRIGHT: Float = sk.REST_M[_I["head_top"]] - sk.REST_M[_I["neck"]]
_UPRIGHT = _UPRIGHT / np.linalg.norm(_UPRIGHT)
_TRUNK = np.array([_I[name] for name in ("pelvis", "spine", "neck")])
# Joints that do not turn against others, and these.
_STIFF = np.array([_I[n] for n in ("head", "head_top", "r_hand", "l_hand", "r_foot", "l_foot")])
_HELD = np.array([_I[n] for n in ("neck", "neck", "r_wrist", "l_wrist", "r_ankle", "l_ankle")])
_ABOVE = np.array([j if q < 0 else q for j, q in enumerate(sk.KINEMATIC_PARENT)])
# The plane of a bend is trusted the more the larger the bend (sines of 10 and 30 degrees).
_STRAIGHT, _BENT = 0.17, 0.5
_HINGES = {
    _I[d.joint]: (np.array(d.axis), d.low, d.high)
    for d in sk.DOFS if d.joint[2:] in ("elbow", "knee")
}  # fmt: skip
# Joints that turn farther from the rotations than this have passed through no possible body.
_AIM_MAX_RAD = 0.3
_OUTWARDS = TOPOLOGICAL  # a parent of either tree comes first
# What hangs on each joint, for those that are aimed: hands and feet are too short to tell.
_NOT_AIMED = {*_STIFF.tolist(), *(_I[s + n] for s in ("l_", "r_") for n in ("wrist", "ankle"))}
_HUNG = [[c for c, q in enumerate(sk.KINEMATIC_PARENT) if q == j and j not in _NOT_AIMED]
         for j in range(_J)]  # fmt: skip


def rotations_from_joints(joints_m: Float) -> Float:
    """Return local rotations (N, J, 4) whose body looks like the joints (N, J, 3), camera axes.

    Trunk from its joints; limbs so that bones point the right way and elbows and knees bend in
    their own plane; where a limb is straight, its twist is the one nearest to the parent's. Bone
    lengths do not matter. For Stage III this is the start of a new track.
    """
    p = joints_m
    frames = np.empty((len(p), _J, 3, 3))
    pelvis = _part(p, *_PELVIS) @ _PELVIS_AT_REST
    chest = _part(p, *_CHEST) @ _CHEST_AT_REST
    skull = p[:, _I["head_top"]] - p[:, _I["neck"]]
    hang = np.asarray(chest @ _UPRIGHT)
    head = _between(hang, _unit(skull, hang)) @ chest  # it looks where the chest looks
    frames[:, _TRUNK] = np.stack([pelvis, chest, head], 1)
    frames[:, _LIMBS[:, :3]] = _limbs(p[:, _LIMBS], frames[:, _LIMB_PARENTS])
    frames[:, _STIFF] = frames[:, _HELD]
    local = frames[:, _ABOVE].swapaxes(-1, -2) @ frames
    local[:, _I["pelvis"]] = pelvis
    return sk.normalised(sk.matrix_to_quaternion(local))


def aimed(rotations: Float, offsets: Float, joints_m: Float) -> tuple[Float, Float]:
    """Return local rotations (N, J, 4) and joints (N, J, 3) of bodies turned towards joints_m.

    Every joint in turn, from the pelvis outwards, is turned as little as needed to bring what hangs
    on it where joints_m (N, J, 3; NaN: no wish) have it: one bone by the shortest rotation, more
    by the rotation of the least squares (Kabsch 1976), never by much. Elbows and knees stay hinges
    within their limits, and upper arms and thighs twist so that these can bend the right way;
    wrists and ankles keep their rotations. offsets (N, 26, 3) as from `skeleton.offsets_m`.
    """
    _, frames = sk.forward(joints_m[:, ROOT], rotations, offsets)
    turned, places = frames.copy(), np.empty_like(joints_m)
    places[:, ROOT] = joints_m[:, ROOT]
    for j in _OUTWARDS:
        above = turned[:, _ABOVE[j]]
        if j != ROOT:
            # as it was to its parent, before its own turn
            turned[:, j] = above @ frames[:, _ABOVE[j]].swapaxes(-1, -2) @ frames[:, j]
            places[:, j] = places[:, _ABOVE[j]] + _times(above, offsets[:, j])
        hung = _HUNG[j]
        if len(hung) == 0:
            continue
        now = np.einsum("nab,ncb->nca", turned[:, j], offsets[:, hung])
        wish = joints_m[:, hung] - places[:, j, None]
        wish = np.where(np.isfinite(wish), wish, now)
        if j in _HINGES:
            turned[:, j] = above @ _bent(above, offsets[:, hung[0]], wish[:, 0], *_HINGES[j])
        elif len(hung) == 1:
            a = _unit(now[:, 0], np.array([1.0, 0, 0]))
            turned[:, j] = _little(_between(a, _unit(wish[:, 0], a))) @ turned[:, j]
        else:
            u, _, vt = np.linalg.svd(wish.swapaxes(-1, -2) @ now)
            u[:, :, 2] *= np.sign(np.linalg.det(u @ vt))[:, None]
            turned[:, j] = _little(u @ vt) @ turned[:, j]
        if hung[0] in _HINGES:
            bone = _times(turned[:, j], offsets[:, hung[0]])
            lower = joints_m[:, _HUNG[hung[0]][0]] - places[:, j] - bone
            turned[:, j] = _twisted(turned[:, j], bone, lower, *_HINGES[hung[0]])
    local = turned[:, _ABOVE].swapaxes(-1, -2) @ turned
    local[:, ROOT] = turned[:, ROOT]
    return sk.normalised(sk.matrix_to_quaternion(local)), places


def _little(turn: Float) -> Float:
    """Return rotations (N, 3, 3), those by more than `_AIM_MAX_RAD` by this much."""
    vector = sk.log_map(sk.matrix_to_quaternion(turn))
    angle = np.sqrt(_dot(vector, vector))
    short = vector * np.minimum(1, _AIM_MAX_RAD / np.maximum(angle, 1e-9))
    return sk.quaternion_to_matrix(sk.exp_map(short))


def _bent(above: Float, bone: Float, wish: Float, axis: Float, low: float, high: float) -> Float:
    """Return local rotations (N, 3, 3) of a hinge that bring its bone towards the wish."""
    straight, across = _times(above, bone), _times(above, axis)
    angle = np.arctan2(_dot(_cross(straight, wish), across), _dot(straight, wish))
    return sk.quaternion_to_matrix(sk.exp_map(axis * np.clip(angle, low, high)))


def _twisted(
    frame: Float, bone: Float, lower: Float, axis: Float, low: float, high: float
) -> Float:
    """Return frames (N, 3, 3) twisted about their bone so that a hinge at its end bends to `lower`.

    Not where the limb is straight, and the less the straighter it is: there nothing tells.
    """
    u = _unit(bone, np.array([1.0, 0, 0]))
    v = _unit(np.where(np.isfinite(lower), lower, u), u)
    aside = v - _dot(u, v) * u
    bend = np.sqrt(_dot(aside, aside))
    now = _times(frame, axis)
    side = 1.0 if high > -low else -1.0
    wanted = side * _cross(u, _unit(aside, side * _cross(now, u)))
    twist = np.arctan2(_dot(_cross(now, wanted), u), _dot(now, wanted))
    trust = np.clip((bend - _STRAIGHT) / (_BENT - _STRAIGHT), 0, 1)
    return np.asarray(sk.quaternion_to_matrix(sk.exp_map(u * (trust * twist))) @ frame)


# Arms and legs: four joints each, the parent of the first; direction of the bones and axis of the
# hinge at rest, a third axis across, and the direction of what hangs on the end.
_LIMBS = np.array(
    [
        [_I[side + name] for name in names]
        for side in ("r_", "l_")
        for names in (("shoulder", "elbow", "wrist", "hand"), ("hip", "knee", "ankle", "foot"))
    ]
)
_LIMB_PARENTS = np.array([_I["spine"], _I["pelvis"]] * 2)
_LIMB_BONES = np.array([[-1.0, 0, 0], [0, -1.0, 0], [1.0, 0, 0], [0, -1.0, 0]])
_LIMB_HINGES = np.array([[0, 1.0, 0], [1.0, 0, 0], [0, -1.0, 0], [1.0, 0, 0]])
_LIMB_AXES = np.stack([_LIMB_BONES, _LIMB_HINGES, np.cross(_LIMB_BONES, _LIMB_HINGES)], 1)
_LIMB_TIPS = _LIMB_BONES.copy()
_LIMB_TIPS[1::2] = sk.BONE_DIRECTIONS[_LIMBS[1::2, 3]]


def _limbs(p: Float, parent: Float) -> Float:
    """Return the frames (N, 4, 3, 3, 3) of upper bone, lower bone and end of all limbs.

    p (N, 4, 4, 3): four points of each; parent (N, 4, 3, 3): the frames they hang on.
    """
    bones = p[:, :, 1:] - p[:, :, :3]
    fallback = _times(parent, _LIMB_BONES)
    u = _unit(bones[:, :, 0], fallback)
    v = _unit(bones[:, :, 1], u)
    near = _between(fallback, u) @ parent  # least twist
    axis = _cross(u, v)
    bend = np.sqrt(_dot(axis, axis))
    straight = _times(near, _LIMB_HINGES)
    trust = np.clip((bend - _STRAIGHT) / (_BENT - _STRAIGHT), 0, 1)
    h: Float = trust * _unit(axis, straight) + (1 - trust) * straight
    h = _unit(h - _dot(h, u) * u, straight)
    first = np.stack([u, h, _cross(u, h)], -1) @ _LIMB_AXES
    angle = np.arctan2(_dot(axis, h), _dot(u, v))
    second = first @ sk.quaternion_to_matrix(sk.exp_map(_LIMB_HINGES * angle))
    tip = _times(second, _LIMB_TIPS)
    third = _between(tip, _unit(bones[:, :, 2], tip)) @ second
    return np.stack([first, second, third], 2)


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
