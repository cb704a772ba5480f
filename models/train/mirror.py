"""Pictures seen in a mirror, with everything that is known about them: left becomes right."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from manypose.models.train.batches import Scenes
from manypose.models.train.distil import Hints
from manypose.pose.joints import MIRROR, MIRROR_2D, MIRROR_LIMBS


def scenes(made: Scenes, turned: Tensor) -> Scenes:
    """Return the pictures (B, ...) with those of `turned` (B,) mirrored, their people as well."""
    people = made.people
    who = turned[people.picture]
    x, y = people.joints_px.unbind(-1)
    across = torch.stack([made.images.shape[-1] - 1 - x, y], -1)
    sign = people.bones_m.new_tensor([-1.0, 1.0, 1.0])
    return replace(
        made,
        images=_some(made.images, made.images.flip(-1), turned),
        region=_some(made.region, made.region.flip(-1), turned),
        known_joints=_some(made.known_joints, made.known_joints[:, MIRROR_2D].flip(-1), turned),
        known_limbs=_some(made.known_limbs, made.known_limbs[:, MIRROR_LIMBS].flip(-1), turned),
        people=replace(
            people,
            joints_px=_some(people.joints_px, across[:, MIRROR_2D], who),
            visibility=_some(people.visibility, people.visibility[:, MIRROR_2D], who),
            inside=_some(people.inside, people.inside[:, MIRROR_2D], who),
            bones_m=_some(people.bones_m, people.bones_m[:, MIRROR] * sign, who),
            weight_3d=_some(people.weight_3d, people.weight_3d[:, MIRROR], who),
        ),
    )


def hints(given: Hints, turned: Tensor) -> Hints:
    """Return a teacher's maps with those of `turned` (B,) mirrored; the hidden layer is dropped."""
    joints = [given.joints.index(MIRROR_2D[k]) for k in given.joints]
    limbs = [given.limbs.index(MIRROR_LIMBS[n]) for n in given.limbs]
    heat = given.heatmaps[:, joints].flip(-1)
    b, _, h, w = given.pafs.shape
    field = given.pafs.reshape(b, -1, 2, h, w)[:, limbs].flip(-1)
    field = field * field.new_tensor([-1.0, 1.0]).reshape(2, 1, 1)
    return replace(
        given,
        heatmaps=_some(given.heatmaps, heat, turned),
        pafs=_some(given.pafs, field.reshape(b, -1, h, w), turned),
        layer=None,
    )


def _some(plain: Tensor, other: Tensor, turned: Tensor) -> Tensor:
    """Return rows of `other` where `turned`, of `plain` elsewhere."""
    return torch.where(turned.reshape(-1, *[1] * (plain.dim() - 1)), other, plain)
