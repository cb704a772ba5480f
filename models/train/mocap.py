"""Joints of random bodies in captured poses: what Stage II is trained on, without any picture.

A labelled point is a sum of bone offsets, each turned by its bone: the points of a pose are linear
in the bones' global rotations. So every body is one table (points, bones, 3), many poses of many
bodies are one product of matrices, and scaling a bone is scaling a column of the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.models.train.synth.archive import (
    BONE,
    BONE_PARENT,
    BONES,
    POINT,
    POINTS,
    Avatars,
    Clips,
    in_split,
    read_avatars,
    read_clips,
)

Float = NDArray[np.floating[Any]]
_B, _P = len(BONES), len(POINTS)
_SWAP = {"l_": "r_", "r_": "l_"}
MIRROR_POINTS = np.array([POINTS.index(_SWAP.get(n[:2], n[:2]) + n[2:]) for n in POINTS])
# Bones that share a length: left and right alike, the spine as a whole, hand and foot with limbs.
_GROUPS = (
    ("pelvis", "spine", "spine1", "spine2"), ("neck", "head"),
    ("r_clavicle", "l_clavicle"), ("r_upperarm", "l_upperarm"),
    ("r_forearm", "l_forearm", "r_hand", "l_hand"), ("r_thigh", "l_thigh"),
    ("r_calf", "l_calf"), ("r_foot", "l_foot", "r_toe", "l_toe"),
)  # fmt: skip
# Sub-chains whose pose may change without the rest of the body: (first bone, all its bones).
_LIMBS = (("clavicle", "upperarm", "forearm", "hand"), ("thigh", "calf", "foot", "toe"))
_CHAINS = (
    *(
        tuple(BONE[f"{s}_{n}"] for n in limb[first:])
        for s in "rl"
        for limb in _LIMBS
        for first in range(3 if limb is _LIMBS[0] else 2)
    ),
    (BONE["neck"], BONE["head"]),
    (BONE["head"],),
)
_UPPER = np.array(
    [i for i, n in enumerate(BONES) if i > 0 and n[2:] not in ("thigh", "calf", "foot", "toe")]
)


@dataclass(frozen=True, slots=True, eq=False)
class Poses:
    """Poses and bodies of one split.

    quaternions (N, 22, 4) w x y z, global; weight (N,) how often to draw a frame, sums to 1;
    bodies (A, 26, 22, 3) offset of every point along every bone, T-pose axes, metres.
    """

    quaternions: Float
    weight: Float
    bodies: Float


def read_poses(mocap: Path, avatars: Path) -> tuple[Poses, Poses]:
    """Return the poses and bodies for training and for validation.

    Held out are performances and bodies, not frames (`synth.archive.in_split`).

    Raises:
        SourceError: a file is missing or no such archive.
    """
    clips, people = read_clips(mocap), read_avatars(avatars)
    tables = body_tables(people)
    return _split(clips, people, tables, "train"), _split(clips, people, tables, "val")


def _split(clips: Clips, people: Avatars, tables: Float, split: str) -> Poses:
    kept = np.flatnonzero(in_split(clips.names, split, "clips"))
    rows = [np.arange(clips.start[c], clips.start[c] + clips.length[c]) for c in kept]
    # Half by the clips' weights, which make rare kinds of motion common, half by frames.
    total = sum(len(r) for r in rows)
    drawn = clips.weight[kept] / clips.weight[kept].sum()
    weight = [
        np.full(len(r), 0.5 * w / len(r) + 0.5 / total) for r, w in zip(rows, drawn, strict=True)
    ]
    bodies = tables[in_split(people.names, split, "avatars")]
    quaternions, weights = clips.quaternions[np.concatenate(rows)], np.concatenate(weight)
    # Before webcams most people sit; in captured motion one in twenty does.
    weights = weights * np.where(seated(rotations_of(quaternions)), 2.0, 1.0)
    return Poses(quaternions, weights / weights.sum(), bodies)


def seated(rotation: Float) -> NDArray[np.bool_]:
    """Return which poses (N, 22, 3, 3), global rotations, sit: trunk upright, thighs level."""
    down = np.array([0.0, -1.0, 0.0])
    thigh = rotation[:, [BONE["l_thigh"], BONE["r_thigh"]]] @ down
    calf = rotation[:, [BONE["l_calf"], BONE["r_calf"]]] @ down
    raised = np.arccos(np.clip(-thigh[..., 1], -1, 1))
    bent = np.arccos(np.clip((thigh * calf).sum(-1), -1, 1))
    upright = rotation[:, 0, 1, 1] > np.cos(0.8)
    level = (raised.min(1) > 0.95) & (raised.max(1) < 2.0)
    return np.asarray(upright & level & (bent.min(1) > 0.7))


def body_tables(avatars: Avatars) -> Float:
    """Return (A, 26, 22, 3): every point as a sum of offsets along bones, from the mid hip."""
    pivots = avatars.pivots.numpy().astype(np.float64)
    points, carrier = avatars.points.numpy(), avatars.point_bone.numpy()
    turn = avatars.to_tpose.numpy()
    count = len(pivots)
    # (A, 22, 22, 3): the pivots in the same form.
    chain = np.zeros((count, _B, _B, 3))
    middle = (pivots[:, BONE["r_thigh"]] + pivots[:, BONE["l_thigh"]]) / 2
    chain[:, 0, 0] = np.einsum("aij,aj->ai", turn[:, 0], pivots[:, 0] - middle)
    for b in range(1, _B):
        above = BONE_PARENT[b]
        reach = pivots[:, b] - pivots[:, above]
        chain[:, b] = chain[:, above]
        chain[:, b, above] += np.einsum("aij,aj->ai", turn[:, above], reach)
    out = np.zeros((count, _P, _B, 3), np.float32)
    body = np.arange(count)
    for p in range(_P):
        on = carrier[:, p]
        end = np.einsum("aij,aj->ai", turn[body, on], points[:, p] - pivots[body, on])
        out[:, p] = chain[body, on]
        out[body, p, on] += end.astype(np.float32)
    return out


def draw(poses: Poses, count: int, rng: np.random.Generator, vary: bool = True) -> Float:
    """Return points (count, 26, 3) m relative to the mid hip of drawn people, y up.

    vary: also poses and bodies that were never captured: the upper body of one frame on the legs
    of another, limbs turned at random, bones longer or shorter, mirrored.
    """
    row = rng.choice(len(poses.quaternions), (2, count), p=poses.weight)
    rotation = rotations_of(poses.quaternions[row[0]])
    body = poses.bodies[rng.integers(len(poses.bodies), size=count)]
    if vary:
        mixed = rng.random(count) < 0.35
        other = rotations_of(poses.quaternions[row[1][mixed]])
        lead = rotation[mixed, :1] @ other[:, :1].transpose(0, 1, 3, 2)
        rotation[np.ix_(mixed, _UPPER)] = lead @ other[:, _UPPER]
        strength = rng.random((count, 1)) ** 2 * 0.7
        for chain in _CHAINS:
            some = rng.random((count, 1)) < 0.4
            turn = rotations_about(rng.normal(size=(count, 3)) * strength * some)[:, None]
            rotation[:, chain] = turn @ rotation[:, chain]
        factor = np.ones((count, _B), np.float32)
        for names in _GROUPS:
            group = [BONE[name] for name in names]
            factor[:, group] = np.exp(rng.normal(size=(count, 1)) * 0.03)
        body = body * (factor * np.exp(rng.normal(size=(count, 1)) * 0.03))[:, None, :, None]
    flat = body.reshape(count, _P, 3 * _B).astype(np.float32)
    # (n, 3, 22 * 3) times (n, 22 * 3, 26)
    stacked = rotation.transpose(0, 2, 1, 3).reshape(count, 3, 3 * _B).astype(np.float32)
    points = (stacked @ flat.transpose(0, 2, 1)).transpose(0, 2, 1)
    flip = rng.random(count) < 0.5
    points[flip] = points[flip][:, MIRROR_POINTS] * np.array([-1, 1, 1], np.float32)
    return np.asarray(points - points[:, POINT["pelvis"], None])


def rotations_of(quaternions: Float) -> Float:
    """Return rotation matrices (..., 3, 3) of quaternions (..., 4), w x y z, any length > 0."""
    unit = quaternions / np.linalg.norm(quaternions, axis=-1, keepdims=True)
    w, x, y, z = np.moveaxis(unit, -1, 0)
    rows = (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip
    return np.stack(rows, -1).reshape(*quaternions.shape[:-1], 3, 3)


def rotations_about(vectors: Float) -> Float:
    """Return rotation matrices (N, 3, 3) of rotation vectors (N, 3) in radians."""
    angle = np.linalg.norm(vectors, axis=1, keepdims=True)
    axis = vectors / np.maximum(angle, 1e-9)
    return rotations_of(np.concatenate([np.cos(angle / 2), np.sin(angle / 2) * axis], 1))
