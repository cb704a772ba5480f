"""The truth of rendered pictures: projected points, what of them is seen, the project's 20 joints.

A joint lies inside the body, so a plain depth test would call everything hidden. A point counts as
seen where its own person covers a pixel within 1 px of it and the surface there is no more than a
body's thickness in front of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from manypose.models.train.synth.archive import POINT, POINTS
from manypose.pose.joints import INDEX, JOINTS_2D, MIRROR

OUTSIDE, HIDDEN, SEEN = 0, 1, 2
# Photographs are labelled with narrower shoulders than the joint centres of a rig; measured against
# a network trained on photographs the difference is a twentieth of the torso on each side.
SHOULDER_INWARDS = 0.05
_THICKNESS_M = {
    "head_top": 0.14, "neck": 0.12, "shoulder": 0.12, "elbow": 0.08, "wrist": 0.07, "hip": 0.16,
    "knee": 0.1, "ankle": 0.08, "pelvis": 0.2, "spine": 0.2, "head": 0.14, "hand": 0.06,
    "foot": 0.07, "nose": 0.03, "eye": 0.04, "ear": 0.05,
}  # fmt: skip
_CLOSEST_M = 0.2
# A mirrored picture exchanges left and right: points by their mirror pairs.
MIRROR_POINTS: tuple[int, ...] = (*MIRROR, *(len(MIRROR) + i for i in (0, 2, 1, 4, 3)))


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What is in B pictures: P people, picture after picture, 26 points each (`archive.POINTS`).

    picture, slot (P,): the picture and the person's number in it; points_m (P, 26, 3) camera frame;
    points_px (P, 26, 2); seen (P, 26): OUTSIDE the picture, HIDDEN or SEEN; area_px (P,) visible
    pixels; person_id (B, H, W) int16, the slot or -1; K (B, 3, 3).
    """

    picture: Tensor
    slot: Tensor
    points_m: Tensor
    points_px: Tensor
    seen: Tensor
    area_px: Tensor
    person_id: Tensor
    K: Tensor


def project(points_m: Tensor, K: Tensor) -> Tensor:
    """Return px (P, N, 2) of camera-frame points (P, N, 3) under K (P, 3, 3).

    Points nearer than a millimetre are projected from there, so that nothing is infinite.
    """
    z = points_m[..., 2:].clamp_min(1e-3)
    focal = torch.stack([K[:, 0, 0], K[:, 1, 1]], -1)
    return points_m[..., :2] / z * focal[:, None] + K[:, None, :2, 2]


def make_truth(
    picture: Tensor, slot: Tensor, points_m: Tensor, K: Tensor, person_id: Tensor, depth_m: Tensor
) -> Truth:
    """Return the truth of pictures whose pixels show person_id (B, H, W) at depth_m (B, H, W)."""
    count, height, width = person_id.shape
    px = project(points_m, K[picture])
    # Beyond this a whole number would overflow; such points are far outside anyway.
    centre = px.clamp(-1e6, 1e6).round().long()
    inside = (centre >= 0).all(-1) & (centre[..., 0] < width) & (centre[..., 1] < height)
    inside &= points_m[..., 2] > _CLOSEST_M
    step = torch.arange(-1, 2, device=px.device)
    x = (centre[..., 0, None, None] + step).clamp(0, width - 1)
    y = (centre[..., 1, None, None] + step[:, None]).clamp(0, height - 1)
    at = (picture[:, None, None, None] * height + y) * width + x  # (P, 26, 3, 3)
    thick = torch.tensor([_THICKNESS_M[_kind(n)] for n in POINTS], device=px.device)
    behind = points_m[..., 2] - thick
    own = person_id.flatten()[at] == slot[:, None, None, None]
    own &= depth_m.flatten()[at] > behind[..., None, None]
    seen = inside.long() + (inside & own.flatten(2).any(2)).long()
    most = int(slot.max()) + 1 if len(slot) else 1
    flat = torch.arange(count, device=px.device)[:, None, None] * most + person_id
    areas = torch.bincount(flat[person_id >= 0], minlength=count * most)
    area = areas[picture * most + slot]
    return Truth(picture, slot, points_m, px, seen, area, person_id, K)


def _kind(point: str) -> str:
    return point[2:] if point[:2] in ("l_", "r_") else point


def joints_2d(truth: Truth) -> tuple[Tensor, Tensor]:
    """Return the 20 joints (P, 20, 2) px for heat-maps, as photographs are labelled, and `seen`.

    Shoulders lie a little inwards of the joint centres; neck and pelvis are the middles of
    shoulders and hips, one construction for every source of labels.
    """
    at = truth.points_m
    pick = [POINT.get(n, 0) for n in JOINTS_2D]
    joints, seen = at[:, pick].clone(), truth.seen[:, pick].clone()
    torso = (at[:, INDEX["neck"]] - at[:, INDEX["pelvis"]]).norm(dim=1, keepdim=True)
    left, right = (at[:, INDEX[f"{s}_shoulder"]] for s in "lr")
    across = left - right
    inwards = SHOULDER_INWARDS * torso * across / across.norm(dim=1, keepdim=True).clamp_min(1e-6)
    order = {n: i for i, n in enumerate(JOINTS_2D)}
    joints[:, order["l_shoulder"]] = left - inwards
    joints[:, order["r_shoulder"]] = right + inwards
    for middle, side in (("neck", "shoulder"), ("pelvis", "hip")):
        pair = [order[f"l_{side}"], order[f"r_{side}"]]
        joints[:, order[middle]] = joints[:, pair].mean(1)
        seen[:, order[middle]] = seen[:, pair].amin(1)
    return project(joints, truth.K[truth.picture]), seen


def mirrored(images: Tensor, truth: Truth, which: Tensor) -> tuple[Tensor, Truth]:
    """Return pictures (B, H, W, 3) and truth, mirrored left to right where which (B,) says so.

    Exact: the picture a mirrored camera would take of mirrored people, left and right exchanged.
    """
    width = images.shape[2]
    turned = which[truth.picture][:, None, None]
    swap = list(MIRROR_POINTS)
    K = truth.K.clone()
    K[which, 0, 2] = width - 1 - K[which, 0, 2]
    flip_m = torch.tensor([-1.0, 1.0, 1.0], device=K.device)
    px = truth.points_px[:, swap]
    px = torch.stack([width - 1 - px[..., 0], px[..., 1]], -1)
    changed = replace(
        truth,
        points_m=torch.where(turned, truth.points_m[:, swap] * flip_m, truth.points_m),
        points_px=torch.where(turned, px, truth.points_px),
        seen=torch.where(turned[..., 0], truth.seen[:, swap], truth.seen),
        person_id=torch.where(which[:, None, None], truth.person_id.flip(2), truth.person_id),
        K=K,
    )
    return torch.where(which[:, None, None, None], images.flip(2), images), changed
