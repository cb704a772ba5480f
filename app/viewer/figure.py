"""Bodies as shaded triangles: tapered limbs and round joints, one mesh for all people.

Light is computed here on the vertices, so the graphics card (or Mesa's software renderer) only
fills triangles.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.app.viewer.look import person_colour
from manypose.app.viewer.space import BONES, Bodies
from manypose.pose.joints import INDEX, INFERRED, JOINTS, SEEN

Float32 = NDArray[np.float32]
UInt32 = NDArray[np.uint32]

_SIDES = 8
_LIGHT = np.array([-0.45, -0.6, 0.66], np.float32)
_FAINT = 0.45  # brightness of joints that were not seen

_RADIUS_M = np.full(len(JOINTS), 0.034, np.float32)
for _name, _radius in {
    "head": 0.105, "head_top": 0.02, "neck": 0.04, "spine": 0.055, "pelvis": 0.055,
    "l_hip": 0.05, "r_hip": 0.05, "l_hand": 0.026, "r_hand": 0.026, "l_wrist": 0.026,
    "r_wrist": 0.026, "l_foot": 0.028, "r_foot": 0.028,
}.items():  # fmt: skip
    _RADIUS_M[INDEX[_name]] = _radius
_PARENTS = np.array([a for a, _ in BONES])
_CHILDREN = np.array([b for _, b in BONES])
# The head is a ball, not a stick: the bones round it are thinner than its joint.
_LIMB_RADIUS_M = np.minimum(_RADIUS_M, 0.046)


@cache
def _ball(splits: int) -> tuple[Float32, UInt32]:
    """Return an octahedron split so often: unit vectors (n, 3), faces (8 * 4^splits, 3)."""
    corners = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
    points = [np.array(c, float) for c in corners]
    corners_of = [
        (0, 2, 4),
        (2, 1, 4),
        (1, 3, 4),
        (3, 0, 4),
        (2, 0, 5),
        (1, 2, 5),
        (3, 1, 5),
        (0, 3, 5),
    ]
    middle: dict[tuple[int, int], int] = {}

    def between(a: int, b: int) -> int:
        key = (min(a, b), max(a, b))
        if key not in middle:
            m = points[a] + points[b]
            middle[key] = len(points)
            points.append(m / np.linalg.norm(m))
        return middle[key]

    for _ in range(splits):
        split = []
        for a, b, c in corners_of:
            ab, bc, ca = between(a, b), between(b, c), between(c, a)
            split += [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
        corners_of = split
    return np.array(points, np.float32), np.array(corners_of, np.uint32)


@cache
def _tube() -> UInt32:
    """Return the faces of a tube of two rings, (2 * sides, 3)."""
    i = np.arange(_SIDES, dtype=np.uint32)
    j = (i + 1) % _SIDES
    lower = np.stack([i, j, i + _SIDES], 1)
    upper = np.stack([j, j + _SIDES, i + _SIDES], 1)
    return np.concatenate([lower, upper]).astype(np.uint32)


def figures(bodies: Bodies) -> tuple[Float32, UInt32, Float32]:
    """Return vertices (V, 3) m, faces (F, 3) and colours (V, 4) in [0, 1] of all people.

    Joints that are NaN and the limbs at them are left out; joints not seen are darker.
    """
    joints = bodies.joints_m.astype(np.float32)
    if not len(joints):
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint32), np.zeros((0, 4), "f4")
    tint = np.array([person_colour(i) for i in bodies.ids], np.float32) / 255
    bright = np.where(bodies.state == SEEN, 1.0, np.where(bodies.state == INFERRED, 0.8, _FAINT))
    colour: Float32 = (tint[:, None, :] * bright[..., None]).astype(np.float32)
    head = [INDEX["head"]]
    rest = [j for j in range(len(JOINTS)) if j not in head]
    parts = [
        _limbs(joints, colour),
        _balls(joints, colour, rest, 1),
        _balls(with_skull(joints), colour, head, 2),
    ]
    offset, vertices, faces, colours = 0, [], [], []
    for points, corners, shade in parts:
        vertices.append(points)
        faces.append(corners + np.uint32(offset))
        colours.append(shade)
        offset += len(points)
    return np.concatenate(vertices), np.concatenate(faces), np.concatenate(colours)


def with_skull(joints: Float32) -> Float32:
    """Return joints (N, J, 3) with the head moved to the middle of the skull, for drawing."""
    moved = joints.copy()
    head, top = joints[:, INDEX["head"]], joints[:, INDEX["head_top"]]
    middle = 0.55 * head + 0.45 * top
    moved[:, INDEX["head"]] = np.where(np.isfinite(middle), middle, head)
    return moved


def _limbs(joints: Float32, colour: Float32) -> tuple[Float32, UInt32, Float32]:
    a, b = joints[:, _PARENTS].reshape(-1, 3), joints[:, _CHILDREN].reshape(-1, 3)
    people = len(joints)
    keep = np.isfinite(a).all(1) & np.isfinite(b).all(1)
    a, b = a[keep], b[keep]
    radius = np.stack(
        [np.tile(_LIMB_RADIUS_M[_PARENTS], people)[keep] * 0.9,
         np.tile(_LIMB_RADIUS_M[_CHILDREN], people)[keep] * 0.9], 1)  # fmt: skip
    tint = np.stack(
        [colour[:, _PARENTS].reshape(-1, 3)[keep], colour[:, _CHILDREN].reshape(-1, 3)[keep]], 1
    )
    along = b - a
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-6)
    # any vector not parallel to the bone starts the ring
    other = np.where(np.abs(along[:, 2:]) < 0.9, [[0.0, 0, 1]], [[1.0, 0, 0]]).astype(np.float32)
    u = np.cross(along, other)
    u /= np.maximum(np.linalg.norm(u, axis=1, keepdims=True), 1e-6)
    v = np.cross(along, u)
    angle = np.arange(_SIDES, dtype=np.float32) * np.float32(2 * np.pi / _SIDES)
    normal = u[:, None] * np.cos(angle)[:, None] + v[:, None] * np.sin(angle)[:, None]
    ends = np.stack([a, b], 1)[:, :, None]  # (n, 2, 1, 3)
    points = ends + normal[:, None] * radius[:, :, None, None]
    shade = _shade(np.broadcast_to(normal[:, None], points.shape), tint[:, :, None])
    faces = _tube()[None] + (np.arange(len(a), dtype=np.uint32) * (2 * _SIDES))[:, None, None]
    return points.reshape(-1, 3), faces.reshape(-1, 3), shade.reshape(-1, 4)


def _balls(
    joints: Float32, colour: Float32, which: list[int], splits: int
) -> tuple[Float32, UInt32, Float32]:
    unit, corners = _ball(splits)
    centre = joints[:, which].reshape(-1, 3)
    keep = np.isfinite(centre).all(1)
    radius = np.tile(_RADIUS_M[which], len(joints))[keep]
    points = centre[keep, None] + unit[None] * radius[:, None, None]
    tint = colour[:, which].reshape(-1, 3)[keep, None]
    shade = _shade(np.broadcast_to(unit[None], points.shape), tint)
    count = np.arange(int(keep.sum()), dtype=np.uint32) * np.uint32(len(unit))
    faces = corners[None] + count[:, None, None]
    return points.reshape(-1, 3), faces.reshape(-1, 3).astype(np.uint32), shade.reshape(-1, 4)


def _shade(normal: NDArray[Any], tint: NDArray[Any]) -> Float32:
    """Return RGBA by Lambert's law with a sky and a little rim of white."""
    light = np.clip(normal @ _LIGHT, 0, 1)[..., None]
    sky = 0.5 + 0.5 * normal[..., 2:3]
    rgb = tint * (0.34 + 0.52 * light + 0.22 * sky) + 0.10 * light**8
    return np.concatenate([np.clip(rgb, 0, 1), np.ones_like(light)], -1).astype(np.float32)


def shadows(bodies: Bodies) -> Float32:
    """Return the limbs laid flat on the floor as line ends (2 n, 3)."""
    ends = bodies.joints_m[:, np.stack([_PARENTS, _CHILDREN], 1)].reshape(-1, 2, 3)
    flat: Float32 = ends[np.isfinite(ends).all((1, 2))].reshape(-1, 3).astype(np.float32)
    flat[:, 2] = 0.004
    return flat
