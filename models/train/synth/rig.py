"""Posing and skinning a crowd of avatars, and the joint truth they carry.

A pose is one GLOBAL rotation per driver bone, measured from a T-pose (y up, facing +z, own left
arm along +x; identity everywhere = T-pose), and a position of the mid hip. Global deltas do not
depend on the bone axes of either skeleton, so any clip drives any avatar: the skinning rotation of
bone b is D_b A_b about the bone's pivot, where A_b turns the avatar's bind pose into the T-pose.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manypose.models.train.synth.archive import (
    BONE,
    BONE_PARENT,
    BONES,
    MATRIX_COUNT,
    POINT,
    TWISTS,
    Avatars,
)


def rotations_of(quaternions: Tensor) -> Tensor:
    """Return rotation matrices (..., 3, 3) of quaternions (..., 4), w x y z, any length > 0."""
    w, x, y, z = (quaternions / quaternions.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(rows, -1).view(*quaternions.shape[:-1], 3, 3)


def pose(avatars: Avatars, who: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor]:
    """Return skinning rotations (P, 28, 3, 3) and offsets (P, 28, 3) m, the mid hip at 0.

    who (P,) avatar of each person; rotations (P, 22, 3, 3) global, from the T-pose.
    """
    to_tpose, pivots = avatars.to_tpose[who], avatars.pivots[who]
    turn = rotations @ to_tpose
    mid_hip = 0.5 * (pivots[:, BONE["r_thigh"]] + pivots[:, BONE["l_thigh"]])
    at = [torch.einsum("pij,pj->pi", turn[:, 0], pivots[:, 0] - mid_hip)]
    for b in range(1, len(BONES)):
        q = BONE_PARENT[b]
        reach = pivots[:, b] - pivots[:, q]
        at.append(at[q] + torch.einsum("pij,pj->pi", turn[:, q], reach))
    twisted = []
    for name, _, against, axis, at_end in TWISTS:
        i, r = BONE[name], BONE[against]
        own, other = rotations[:, i], rotations[:, r]
        twist = _twist(own.mT @ other, axis) if at_end else _twist(other.mT @ own, axis).mT
        twisted.append(own @ twist @ to_tpose[:, i])
    helped = [BONE[t[0]] for t in TWISTS]
    turn = torch.cat([turn, torch.stack(twisted, 1)], 1)
    centre = torch.stack([*at, *(at[i] for i in helped)], 1)
    pivots = torch.cat([pivots, pivots[:, helped]], 1)
    return turn, centre - torch.einsum("pbij,pbj->pbi", turn, pivots)


def _twist(rotation: Tensor, axis: int) -> Tensor:
    """Return the part of rotations (P, 3, 3) about a coordinate axis (swing-twist, twist first)."""
    i, j, k = axis, (axis + 1) % 3, (axis + 2) % 3
    trace = rotation.diagonal(dim1=-2, dim2=-1).sum(-1)
    # 4 w (x, y, z) and 4 w^2 of the quaternion have one scale, so their ratio is tan(angle / 2).
    angle = 2 * torch.atan2(rotation[:, k, j] - rotation[:, j, k], 1 + trace)
    cos, sin = torch.cos(angle), torch.sin(angle)
    out = torch.zeros_like(rotation)
    out[:, i, i] = 1
    out[:, j, j], out[:, j, k] = cos, -sin
    out[:, k, j], out[:, k, k] = sin, cos
    return out


def rows_of(starts: Tensor, who: Tensor) -> tuple[Tensor, Tensor]:
    """Return flat rows and their owners (person index) when person p owns block who[p].

    starts (A + 1,) are the first rows of the blocks; both results are (sum of the lengths,).
    """
    length = starts[who + 1] - starts[who]
    owner = torch.repeat_interleave(torch.arange(len(who), device=who.device), length)
    first = torch.cumsum(length, 0) - length
    rank = torch.arange(len(owner), device=who.device) - first[owner]
    return starts[who][owner] + rank, owner


def skin(
    avatars: Avatars, who: Tensor, turn: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return vertices (V, 3) m, unit normals (V, 3), and rows (V,) of the avatars' flat tensors.

    turn, offset: from `pose`. Vertices come person after person.
    """
    rows, owner = rows_of(avatars.vertex_start, who)
    matrices = torch.cat([turn.flatten(2), offset], 2).flatten(0, 1)  # (P * 28, 12)
    blended = torch.nn.functional.embedding_bag(
        avatars.slots[rows] + owner[:, None] * MATRIX_COUNT,
        matrices,
        mode="sum",
        per_sample_weights=avatars.weights[rows],
    )
    linear = blended[:, :9].reshape(-1, 3, 3)
    both = torch.stack([avatars.vertices[rows], avatars.normals[rows]], -1)
    moved = (linear[:, :, :, None] * both[:, None]).sum(2)  # faster than a batch of tiny matmuls
    vertices, normals = moved[..., 0] + blended[:, 9:], moved[..., 1]
    return vertices, normals / normals.norm(dim=1, keepdim=True).clamp_min(1e-6), rows


def labelled_points(avatars: Avatars, who: Tensor, turn: Tensor, offset: Tensor) -> Tensor:
    """Return the labelled points (P, 26, 3) m of posed people, in the order of `POINTS`."""
    bone = avatars.point_bone[who]
    person = torch.arange(len(who), device=who.device)[:, None]
    carried = torch.einsum("pbij,pbj->pbi", turn[person, bone], avatars.points[who])
    return carried + offset[person, bone]


def floor_heights(
    avatars: Avatars, who: Tensor, rotations: Tensor, hip_m: Tensor, lying: Tensor
) -> Tensor:
    """Return (P,) the height below which a motion's lowest contact seldom (5 %) goes, in metres.

    rotations (P, T, 22, 3, 3) and hip_m (P, T) mid-hip height: frames of each motion. One value
    for a whole motion keeps jumps in the air and steps from bobbing. lying (P,): rest on the
    trunk only, since arms may reach below the back.
    """
    count, frames = hip_m.shape
    each = who.repeat_interleave(frames)
    turn, offset = pose(avatars, each, rotations.flatten(0, 1))
    low = []
    for bone, point in (("foot", "ankle"), ("toe", "foot")):
        for s in "rl":
            b = BONE[f"{s}_{bone}"]
            sole = avatars.points[each, POINT[f"{s}_{point}"]].clone()
            sole[:, 1] = avatars.sole_m[each]
            for back in (0.0, -0.05):  # under the joint and 5 cm behind it
                sole[:, 2] += back
                low.append((turn[:, b, 1] * sole).sum(1) + offset[:, b, 1])
    height = labelled_points(avatars, each, turn, offset)[..., 1]
    for name in ("r_hand", "l_hand", "head_top", "r_knee", "l_knee"):
        low.append(height[:, POINT[name]] - 0.05)
    low.append(height[:, POINT["pelvis"]] - 0.12)
    trunk = [POINT[n] for n in ("pelvis", "head", "r_shoulder", "l_shoulder")]
    lowest = torch.stack(low).amin(0).view(count, frames)
    rest = (height[:, trunk].amin(1) - 0.11).view(count, frames)
    return torch.quantile(torch.where(lying[:, None], rest, lowest) + hip_m, 0.05, dim=1)
