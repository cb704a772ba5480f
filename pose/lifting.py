"""Stage II: 2D joints, scores and 3D encodings to root-relative 3D joints, with expected errors.

What the network sees of a person does not depend on where the person stands in the picture: a
virtual camera is turned so that its axis passes through the person, and the joints on its picture
plane are divided by the person's size there. Size and direction are inputs of their own, since
perspective depends on them. The network's answer is turned back into the camera's axes.

Everything is optional but one seen joint: scores alone, no encodings, any subset of joints, and
where up is: of one person it is hard to tell whether the camera looks down or they lean back.

Source: Mehta et al. 2020 (XNect), section 4.2; the virtual camera as in Yu et al. 2021 (PCLs).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.calib.camera import Camera
from manypose.pose import placement
from manypose.pose.joints import (
    BONE_UNIT_M,
    CARRIED,
    INDEX_2D,
    JOINTS,
    JOINTS_2D,
    OKS_SIGMAS,
    PARENT,
    ROOT,
)
from manypose.pose.records import Person2D, Person3D

Float = NDArray[np.floating[Any]]
# Features (N, FEATURE_COUNT) to joints (N, J, 3) m relative to the pelvis and errors (N, J) m, in
# the axes of the virtual camera.
Lifter = Callable[[Float], tuple[Float, Float]]

_K, _J, _C = len(JOINTS_2D), len(JOINTS), len(CARRIED)
# Columns of the features: x, y and score of every joint; the bones its pixels carry; the
# logarithm of the size, the direction (x, y) of the person in the camera, whether bones are given;
# the unit vector up in the virtual camera, 0 where it is not known.
JOINT_COLUMNS = slice(0, 3 * _K)
BONE_COLUMNS = slice(3 * _K, 3 * _K + 3 * _C)
SIZE, DIRECTION_X, DIRECTION_Y, HAS_BONES = range(3 * _K + 3 * _C, 3 * _K + 3 * _C + 4)
UP_COLUMNS = slice(HAS_BONES + 1, HAS_BONES + 4)
FEATURE_COUNT = UP_COLUMNS.stop

_AT, _BONE = (np.array(column) for column in zip(*CARRIED, strict=True))
_UP = [p if p >= 0 else j for j, p in enumerate(PARENT)]
# Joints that annotators do not mark but that follow from a pair of those they do.
_BETWEEN = (("neck", "l_shoulder", "r_shoulder"), ("pelvis", "l_hip", "r_hip"))
# A size is a fraction of the distance: below this a person would be farther than 300 m.
_SIZE_MIN = 1e-3
_SIZE_ONE_JOINT = 0.05
# The longer side of a standing person's box, in sizes as `encode` measures them.
_EXTENT = 3.3
_BONE_MAX_M = 1.2
_SIGMA_MIN_M, _SIGMA_MAX_M = 0.005, 2.0


@dataclass(frozen=True, slots=True)
class LiftingConfig:
    """How Stage II is applied.

    pull: move seen joints sideways towards the rays on which they are seen, as far as the expected
    errors of both ask for. encodings: use those of people who have any. shape_only: of these, take
    the shape of the pose and believe it half; its direction and the size of the body are left to
    the 2D joints. That is for networks whose encodings are weak: they turn people.
    """

    pull: bool = True
    encodings: bool = True
    shape_only: bool = False


def lift(
    people: Sequence[Person2D],
    camera: Camera,
    lifter: Lifter,
    config: LiftingConfig = LiftingConfig(),
    up: Float | None = None,
) -> list[Person3D]:
    """Return the people in 3D, in the same order; the network is called once for all.

    up: a unit vector (3,) in camera axes, for cameras that do not know it themselves.

    A person of whom no joint is seen, or for whom the network returns values that are not
    finite, comes back with NaN joints and an infinite expected error.
    """
    if not people:
        return []
    px = np.stack([p.joints_px for p in people]).astype(np.float64)
    given = np.stack([p.confidence for p in people]).astype(np.float64)
    rays, score = complete(camera.image_to_rays(px)[..., :2], given)
    bones = carried_bones(people) if config.encodings else None
    up = up if camera.up is None else camera.up
    first = None if config.shape_only else bones
    features, turn = encode(rays, score, first, up)
    with np.errstate(over="ignore", invalid="ignore"):
        if config.shape_only and bones is not None:
            shaped = encode(rays, score, bones, up)[0]
            joints, sigma = _shaped(features, shaped, lifter)
        else:
            joints, sigma = _answer(features, lifter)
        joints = joints @ turn  # rows times R = R^T applied: back to the axes of the camera
    bad = ~(np.isfinite(joints).all((1, 2)) & np.isfinite(sigma).all(1)) | ~(score > 0).any(1)
    joints[bad], sigma[bad] = 0, _SIGMA_MAX_M

    error = ray_errors(score, np.exp(features[:, SIZE] - _LOG_OFFSET))
    size = size_errors(joints, sigma, features[:, HAS_BONES] > 0)
    if config.pull:
        root, root_sigma, joints = placement.placed(joints, sigma, rays, error, size)
    else:
        root, root_sigma = placement.place(joints, sigma, rays, error, size)
    joints[bad], root[bad] = np.nan, np.nan
    sigma[bad], root_sigma[bad] = np.inf, np.inf
    return [
        Person3D(person, j, s, r, float(e), float(u))
        for person, j, s, r, e, u in zip(people, joints, sigma, root, root_sigma, size, strict=True)
    ]


def size_errors(joints_rel_m: Float, sigma_m: Float, read: NDArray[np.bool_]) -> Float:
    """Return the expected errors (N,) of the log of the sizes of these bodies (N, J, 3).

    2D joints tell nothing of size; bones that were `read` (N,) do, and then the bones as a whole
    err by a quarter of what is stated for one of them (see `body.BIAS`).
    """
    along = joints_rel_m - joints_rel_m[:, _UP]
    bone = np.sqrt(np.vecdot(along, along))
    error = np.sqrt((sigma_m**2 + sigma_m[:, _UP] ** 2) / 3)  # along one axis
    share = error.sum(1) / np.maximum(bone.sum(1), 0.1)
    return np.where(read, np.minimum(0.25 * share, placement.SIZE_SPREAD), placement.SIZE_SPREAD)


def ray_errors(score: Float, size: Float) -> Float:
    """Return the expected errors (N, K) of rays, infinite where not seen.

    Args:
        score: (N, K), 0 where not seen.
        size: (N,) the people's sizes in the picture, as `encode` measures them.

    An error grows as the score falls; the curve was measured with a small 2D network whose scores
    are heat-map peaks, in units of the joints' OKS constants times the person's extent.
    """
    grown = 0.1 + 3 * (1 - np.clip(score, 0, 1)) ** 1.7
    extent = _EXTENT * size[:, None]
    return np.where(score > 0, grown * OKS_SIGMAS.astype(float) * extent, np.inf)


def _shaped(features: Float, shaped: Float, lifter: Lifter) -> tuple[Float, Float]:
    """Return joints (N, J, 3) between the answers to two sets of features, and expected errors.

    That to the second set (N, FEATURE_COUNT) is turned so that it lies over the first's as well as
    it can (Kabsch 1976, weighted by the expected errors), then the middle of both is taken.
    """
    read = np.flatnonzero(shaped[:, HAS_BONES] > 0)
    both, errors = _answer(np.concatenate([features, shaped[read]]), lifter)
    joints, sigma = both[: len(features)], errors[: len(features)]
    other, doubt = both[len(features) :], errors[len(features) :]
    weighted = joints[read] / sigma[read, :, None] ** 2
    u, _, vt = np.linalg.svd(np.nan_to_num(other.transpose(0, 2, 1) @ weighted))
    u[:, :, 2] *= np.sign(np.linalg.det(u @ vt))[:, None]
    middle = (joints[read] + other @ (u @ vt)) / 2
    # bones between two directions come out short
    joints[read] = middle * (_bones_m(joints[read]) / _bones_m(middle))[:, None, None]
    sigma[read] = np.sqrt(sigma[read] * doubt)
    return joints, sigma


def _bones_m(joints_m: Float) -> Float:
    """Return the sums (N,) of the lengths of the bones of (N, J, 3)."""
    return np.asarray(np.maximum(np.linalg.norm(joints_m - joints_m[:, _UP], axis=-1).sum(1), 0.1))


def packed_bones(person: Person2D) -> Float:
    """Return what `carried_bones` reads of a person as (C, 3), network units, NaN = not read."""
    if person.encoding is None:
        return np.full((_C, 3), np.nan, np.float32)
    return np.asarray(person.encoding.reshape(_K, _J, 3)[_AT, _BONE])


def unpacked_bones(bones: Float) -> Float | None:
    """Return an encoding (K, 3 J) that holds these bones (C, 3); None if there are none."""
    if not np.isfinite(bones).any():
        return None
    out = np.full((_K, _J, 3), np.nan, np.float32)
    out[_AT, _BONE] = bones
    return out.reshape(_K, 3 * _J)


def carried_bones(people: Sequence[Person2D]) -> Float | None:
    """Return the bones (N, C, 3) m, camera axes, read at the joints that carry them; or None.

    NaN marks what was not read. None: nobody has an encoding.
    """
    if all(p.encoding is None for p in people):
        return None
    out = np.full((len(people), _C, 3), np.nan)
    for row, person in zip(out, people, strict=True):
        if person.encoding is not None:
            row[:] = person.encoding.reshape(_K, _J, 3)[_AT, _BONE] * BONE_UNIT_M
    return out


def complete(rays: Float, score: Float) -> tuple[Float, Float]:
    """Return rays (N, K, 2) and scores (N, K) with neck and pelvis put between their pairs.

    Networks for the 17 COCO key points do not give these two. What is there stays; a joint is
    there when its score is positive and its position finite, and gets score 0 and NaN otherwise.
    """
    seen = np.isfinite(rays).all(-1) & (score > 0)
    rays, score = np.where(seen[..., None], rays, np.nan), np.where(seen, score, 0)
    for name, left, right in _BETWEEN:
        k, a, b = INDEX_2D[name], INDEX_2D[left], INDEX_2D[right]
        new = ~seen[:, k] & seen[:, a] & seen[:, b]
        rays[new, k] = (rays[new, a] + rays[new, b]) / 2
        score[new, k] = np.minimum(score[new, a], score[new, b])
    return rays, score


_LOG_OFFSET = 2.0  # sizes round exp(-2) become inputs round 0


def encode(
    rays: Float, score: Float, bones: Float | None, up: Float | None = None
) -> tuple[Float, Float]:
    """Return features (N, FEATURE_COUNT) and rotations (N, 3, 3), camera to virtual camera.

    Args:
        rays: (N, K, 2) points on the plane z = 1, NaN where not seen.
        score: (N, K) in [0, 1], 0 where not seen.
        bones: (N, C, 3) m in camera axes for the pairs of `joints.CARRIED`; NaN where not read.
        up: (3,) or (N, 3) unit vectors in camera axes, 0 where not known.
    """
    count = len(rays)
    seen = score > 0
    flat = np.where(seen[..., None], rays, 0.0)
    weight = score / np.maximum(score.sum(1, keepdims=True), 1e-9)
    # Twice: the mean on one picture plane is not the middle on another, where a person is close.
    centre = _mean_direction(flat, weight)
    turn = rotation_to_axis(centre)
    points = np.concatenate([flat, np.ones_like(flat[..., :1])], -1) @ turn.transpose(0, 2, 1)
    plane = points[..., :2] / np.maximum(points[..., 2:], 0.05)
    offset = plane * seen[..., None]
    size = np.sqrt((weight * (offset**2).sum(-1)).sum(1))
    size = np.where(seen.sum(1) > 1, np.maximum(size, _SIZE_MIN), _SIZE_ONE_JOINT)

    out = np.zeros((count, FEATURE_COUNT), np.float32)
    joints = out[:, JOINT_COLUMNS].reshape(count, _K, 3)  # a view: writes go to `out`
    joints[..., :2] = np.clip(offset / size[:, None, None], -6, 6)
    joints[..., 2] = score
    if bones is not None:
        # longer than any bone of anybody: no answer, but something gone wrong
        read = (np.abs(bones) < _BONE_MAX_M).all(-1) & seen[:, _AT]
        turned = np.where(read[..., None], bones, 0.0) @ turn.transpose(0, 2, 1)
        carried = np.clip(turned / BONE_UNIT_M, -6, 6)
        out[:, BONE_COLUMNS] = carried.reshape(count, 3 * _C)
        out[:, HAS_BONES] = read.any(1)
    if up is not None:
        out[:, UP_COLUMNS] = (turn @ np.broadcast_to(up, (count, 3))[..., None])[..., 0]
    out[:, SIZE] = np.log(size) + _LOG_OFFSET
    out[:, DIRECTION_X : DIRECTION_Y + 1] = centre[:, :2] / np.maximum(centre[:, 2:], 0.1)
    return out, turn


def _mean_direction(rays: Float, weight: Float) -> Float:
    """Return unit vectors (N, 3) to the weighted mean of the directions of rays (N, K, 2)."""
    weight = weight / np.sqrt(1 + np.vecdot(rays, rays))
    mean = np.empty((len(rays), 3))
    mean[:, :2] = (weight[:, None] @ rays)[:, 0]
    mean[:, 2] = weight.sum(1) + 1e-9
    return np.asarray(mean / np.sqrt(np.vecdot(mean, mean))[:, None])


def rotation_to_axis(directions: Float) -> Float:
    """Return the smallest rotations (N, 3, 3) that turn unit vectors (N, 3), z > 0, onto z."""
    x, y, z = directions[:, 0], directions[:, 1], directions[:, 2]
    a = 1 / (1 + z)
    rows = (1 - a * x * x, -a * x * y, -x, -a * x * y, 1 - a * y * y, -y, x, y, z)
    return np.stack(rows, -1).reshape(-1, 3, 3)


def _answer(features: Float, lifter: Lifter) -> tuple[Float, Float]:
    """Return joints (N, J, 3) and expected errors (N, J) in the axes of the virtual cameras."""
    joints, sigma = lifter(features)
    joints, sigma = np.asarray(joints, np.float64), np.asarray(sigma, np.float64)
    joints = joints - joints[:, ROOT : ROOT + 1]
    return joints, np.clip(sigma, _SIGMA_MIN_M, _SIGMA_MAX_M)
