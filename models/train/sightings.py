"""What a camera and Stage I would make of people: 2D joints, scores, encodings, and their faults.

Stage II never sees a perfect picture. Joints are displaced, exchanged with those of the other side,
lost singly, by limb, by the picture's edge or by the back of the head; scores go with the errors,
loosely; encodings lean to nought, are noisy, and sometimes belong to another person.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.errors import ConfigError
from manypose.models.train.mocap import rotations_about
from manypose.models.train.synth.archive import POINT
from manypose.pose.joints import (
    CARRIED,
    COCO_NAMES,
    INDEX,
    INDEX_2D,
    JOINTS,
    JOINTS_2D,
    MIRROR_2D,
    OKS_SIGMAS,
    PARENT,
    ROOT,
)

Float = NDArray[np.floating[Any]]
_K, _J = len(JOINTS_2D), len(JOINTS)
_FROM_POINT = np.array([POINT[n] for n in JOINTS_2D])
_AT, _BONE = (np.array(column) for column in zip(*CARRIED, strict=True))
_ABOVE = np.array([max(PARENT[j], 0) for _, j in CARRIED])
_FACE = [INDEX_2D[n] for n in COCO_NAMES[:5]]
_LEGS, _SHINS = ([INDEX_2D[f"{s}_{n}"] for s in "lr" for n in names] for names in
                 (("hip", "knee", "ankle"), ("knee", "ankle")))  # fmt: skip
_ANKLES = [INDEX_2D["l_ankle"], INDEX_2D["r_ankle"]]
_LIMBS = [
    [INDEX_2D[f"{s}_{n}"] for n in names]
    for s in "lr"
    for names in (("elbow", "wrist"), ("wrist",), ("knee", "ankle"), ("ankle",))
]
_NEAR_M = 0.2


@dataclass(frozen=True, slots=True)
class ErrorModel:
    """How wrong Stage I is. The defaults are a guess; `read` takes what was measured.

    spread: standard deviation of a seen joint by name, in units of its OKS constant times half
    the person's extent, for a person of average difficulty; difficulty: spread (of the log) of
    people about it. missed: share of joints not found. swapped: share exchanged with the other
    side. gross: share somewhere else on the body. bone_m: noise of an encoded bone, for a person
    of average difficulty; bone_shrink: how far unsure bones lean to nought. strangers: share of
    encodings read from somebody else.
    """

    spread: float = 0.8
    joint_factor: tuple[float, ...] = (1.0,) * _K
    difficulty: float = 0.8
    missed: float = 0.12
    swapped: float = 0.03
    gross: float = 0.03
    bone_m: float = 0.06
    bone_shrink: float = 0.3
    strangers: float = 0.03

    @staticmethod
    def read(path: Path) -> ErrorModel:
        """Return the model in a JSON file (keys as above; what is missing keeps its default).

        Raises:
            ConfigError: the file cannot be read or has other keys.
        """
        try:
            table = json.loads(path.read_text("utf-8"))
            known = {f.name for f in fields(ErrorModel)}
            if not isinstance(table, dict) or set(table) - known:
                raise ValueError(f"its keys must be among {', '.join(sorted(known))}")
            factor = tuple(float(v) for v in table.pop("joint_factor", (1.0,) * _K))
            if len(factor) != _K:
                raise ValueError(f"joint_factor has {len(factor)} values, wanted {_K}")
            return ErrorModel(joint_factor=factor, **{k: float(v) for k, v in table.items()})
        except (OSError, TypeError, ValueError) as error:
            raise ConfigError(f"{path}: {error}; write one with manypose train faults") from None

    def write(self, path: Path) -> None:
        """Write the model as JSON, whole or not at all."""
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(asdict(self), indent=1), "utf-8")
        part.replace(path)


@dataclass(frozen=True, slots=True, eq=False)
class Sightings:
    """Seen people (N) and their truth.

    rays (N, K, 2) on the plane z = 1, NaN where not seen; score (N, K); bones (N, C, 3) m, NaN
    where not read; joints_m (N, J, 3) true and up (N, 3), the unit vector, camera frame.
    """

    rays: Float
    score: Float
    bones: Float
    joints_m: Float
    up: Float


def see(points: Float, rng: np.random.Generator, errors: ErrorModel | None = None) -> Sightings:
    """Return drawn people as Stage I might see them; points (N, 26, 3) m, y up, mid hip at 0.

    errors: None gives the perfect view: all joints, no noise, true bones (labels still biased).
    """
    at, up = _before_cameras(points, rng)
    count = len(at)
    labelled = _labels(at, rng)
    rays = labelled[..., :2] / np.maximum(labelled[..., 2:], _NEAR_M)
    bones = at[:, _BONE] - at[:, _ABOVE]
    if errors is None:
        return Sightings(rays, np.ones((count, _K)), bones, at[:, :_J], up)

    extent = np.ptp(rays, axis=1).max(1)
    hard = np.exp(rng.normal(size=(count, 1)) * errors.difficulty)
    hard[rng.random(count) < 0.2] *= 0.05  # now and then a picture is nearly perfect
    each = hard * rng.gamma(2.0, 0.5, (count, _K))  # some joints are harder than others
    size = errors.spread * np.array(errors.joint_factor) * OKS_SIGMAS * extent[:, None] / 2
    noise = (
        rng.normal(size=(count, _K, 2)) * np.minimum(each * size, 0.15 * extent[:, None])[..., None]
    )
    moved = rays + noise
    share = np.minimum(hard, 3)
    swap = rng.random((count, _K)) < errors.swapped * share
    moved = np.where(swap[..., None], moved[:, MIRROR_2D], moved)
    gross = rng.random((count, _K)) < errors.gross * share
    other = rng.integers(_K, size=(count, _K))
    moved = np.where(gross[..., None], moved[np.arange(count)[:, None], other], moved)
    # Whole limbs are taken for those of the other side, or found on a neighbour.
    astray = swap.copy()
    for limb in _LIMBS:
        exchanged = rng.random((count, 1)) < errors.swapped * share
        elsewhere = rng.random((count, 1)) < errors.gross * share
        off = (rng.normal(size=(count, 1, 2)) * 0.25 * extent[:, None, None]) * elsewhere[..., None]
        across = [MIRROR_2D[k] for k in limb]
        moved[:, limb] = np.where(exchanged[..., None], moved[:, across], moved[:, limb]) + off
        astray[:, limb] |= exchanged

    # Scores: high for small errors, loosely, on a scale that differs between networks and people.
    off = np.linalg.norm(moved - rays, axis=-1) / (OKS_SIGMAS * extent[:, None])
    off = np.where(astray, 0.3 * off, off)  # a limb of the wrong side looks like a limb
    loose = rng.normal(size=(count, 1)) * 0.5 + rng.normal(size=(count, _K)) * 0.5
    score = np.clip(
        1 / (1 + np.exp(-(2.0 - 1.5 * off - 0.5 * np.log(each + 0.1) + loose))), 0.03, 1
    )
    score[rng.random(count) < 0.12] = 1.0  # from labels or a front end that gives none
    seen = _seen(labelled, rays, extent, rng, errors.missed, share)
    # Front ends drop what they are unsure of, each at a threshold of its own.
    sure = score >= rng.uniform(0, 0.35, (count, 1))
    seen &= sure | ~sure.any(1, keepdims=True)
    _rebuild_between(moved, seen, rng)

    weak = 1 - score[:, _AT]
    bones = bones * (1 - errors.bone_shrink * weak * rng.random((count, 1)))[..., None]
    sigma = errors.bone_m * hard * (0.4 + 1.6 * weak) * np.ones_like(weak)
    depth = np.array([0.7, 0.7, 1.5])  # depth is the hardest
    common = rng.normal(size=(count, _J, 3))[:, _BONE]
    own = rng.normal(size=bones.shape)
    bones = bones + np.minimum(sigma, 0.25)[..., None] * depth * (0.8 * common + 0.6 * own)
    stranger = (rng.random((count, _K)) < errors.strangers * share)[:, _AT]
    bones = np.where(stranger[..., None], np.roll(bones, 1, 0), bones)
    bones[rng.random(count) < 0.5] = np.nan  # half of all people come without encodings
    return Sightings(
        np.where(seen[..., None], moved, np.nan), np.where(seen, score, 0.0), bones,
        at[:, :_J], up,
    )  # fmt: skip


def trembled(rays: Float, bones: Float, rng: np.random.Generator) -> tuple[Float, Float]:
    """Return rays (N, K, 2) and bones (N, C, 3) m as another frame of the same sight shows them.

    Faults stay from frame to frame; what changes is about a pixel of a person of 150, and 2 cm of
    a bone read.
    """
    extent = np.nanmax(rays, axis=1) - np.nanmin(rays, axis=1)
    shaken = rng.normal(size=rays.shape) * 0.008 * extent.max(1)[:, None, None]
    return rays + shaken, bones + rng.normal(size=bones.shape) * 0.02


def _before_cameras(points: Float, rng: np.random.Generator) -> tuple[Float, Float]:
    """Return points (N, 26, 3) and up (N, 3) in the frames of drawn cameras (y down, z forward)."""
    count = len(points)
    zero = np.zeros(count)
    yaw = rng.uniform(-np.pi, np.pi, count)
    # Most cameras stand on a desk or a tripod, many hang from a ceiling, a few are anywhere.
    kind = rng.random(count)
    pitch = rng.normal(0.08, 0.14, count)
    pitch = np.where(kind > 0.6, rng.normal(0.35, 0.22, count), pitch)
    pitch = np.where(kind > 0.9, rng.uniform(-0.7, 1.2, count), pitch)
    roll = rng.normal(0, 0.07, count)
    roll = np.where(rng.random(count) < 0.08, rng.uniform(-np.pi, np.pi, count), roll)
    turn = rotations_about(np.stack([zero, yaw, zero], 1))
    down = np.diag([1.0, -1.0, -1.0])
    # Pitch is that of the ray to the person: direction in the picture and tilt of the camera.
    distance = np.exp(rng.uniform(np.log(1.3), np.log(11.0), count))
    ray = np.stack([rng.normal(0, 0.3, count), rng.normal(0, 0.16, count), np.ones(count)], 1)
    tilt = rotations_about(np.stack([pitch - np.arctan(ray[:, 1]), zero, zero], 1))
    turn = rotations_about(np.stack([zero, zero, roll], 1)) @ tilt @ down @ turn
    away = ray / np.linalg.norm(ray, axis=1, keepdims=True) * distance[:, None]
    middle = points.mean(1, keepdims=True)
    at = (points - middle) @ turn.transpose(0, 2, 1)
    # Nobody is cut by the plane of the lens.
    least = np.maximum(_NEAR_M + 0.1 - (at + away[:, None])[..., 2].min(1), 0)
    placed = at + (away * (1 + least / away[:, 2])[:, None])[:, None]
    return np.asarray(placed), turn[:, :, 1]


def _labels(at: Float, rng: np.random.Generator) -> Float:
    """Return the 2D joints (N, K, 3) m where annotators would mark them.

    The rig's joints are centres of rotation; on photographs shoulders are marked narrower and
    higher, hips wider and higher, by these parts of the torso's length.
    """
    out = at[:, _FROM_POINT].copy()
    count = len(at)
    up = at[:, INDEX["neck"]] - at[:, ROOT]
    how = rng.uniform(0, 1.4, (count, 1, 1))
    for name, inward, higher in (("shoulder", 0.055, 0.018), ("hip", -0.017, 0.025)):
        pair = [INDEX_2D[f"l_{name}"], INDEX_2D[f"r_{name}"]]
        across = out[:, pair[::-1]] - out[:, pair]
        across /= np.maximum(np.linalg.norm(across, axis=-1, keepdims=True), 1e-6)
        torso = np.linalg.norm(up, axis=-1)[:, None, None]
        out[:, pair] += how * (inward * torso * across + higher * up[:, None])
    # Annotators disagree, by people more than by pictures.
    out += rng.normal(size=out.shape) * 0.008
    hips = [INDEX_2D["l_hip"], INDEX_2D["r_hip"]]
    out[:, hips] += rng.normal(size=(count, 1, 3)) * 0.015
    out[:, INDEX_2D["pelvis"]] = out[:, hips].mean(1)
    shoulders = [INDEX_2D["l_shoulder"], INDEX_2D["r_shoulder"]]
    out[:, INDEX_2D["neck"]] = out[:, shoulders].mean(1)
    return np.asarray(out)


def _seen(
    labelled: Float,
    rays: Float,
    extent: Float,
    rng: np.random.Generator,
    missed: float,
    hard: Float,
) -> NDArray[np.bool_]:
    """Return which joints (N, K) are found at all."""
    count = len(rays)
    rate = missed * 2 * rng.random((count, 1)) * np.minimum(hard, 2)
    seen = rng.random((count, _K)) >= rate
    seen &= labelled[..., 2] > _NEAR_M
    # Face points of people who turn away are mostly not found.
    ears = labelled[:, [INDEX_2D["l_ear"], INDEX_2D["r_ear"]], 2].mean(1)
    away = labelled[:, INDEX_2D["nose"], 2] > ears + 0.03
    seen[:, _FACE[:3]] &= ~(away & (rng.random(count) < 0.6))[:, None]
    seen[rng.random(count) < 0.1, : len(_FACE)] = False
    seen[rng.random(count) < 0.55, INDEX_2D["head_top"]] = False
    for limb in _LIMBS:
        seen[:, limb] &= ~(rng.random(count) < 0.04)[:, None]
    kind = rng.random(count)
    seen[:, _ANKLES] &= ~(kind < 0.03)[:, None]
    seen[:, _SHINS] &= ~((kind > 0.03) & (kind < 0.09))[:, None]
    seen[:, _LEGS] &= ~((kind > 0.09) & (kind < 0.11))[:, None]
    # The picture's edge cuts from any side.
    cut = (kind > 0.11) & (kind < 0.19)
    angle = rng.uniform(-np.pi, np.pi, count)
    side = (rays * np.stack([np.cos(angle), np.sin(angle)], -1)[:, None]).sum(-1)
    edge = side.min(1) + extent * rng.uniform(0.25, 0.9, count)
    seen &= ~(cut[:, None] & (side > edge[:, None]))
    # A handful of joints, anywhere.
    few = (kind > 0.19) & (kind < 0.22)
    rank = rng.random((count, _K)).argsort(1).argsort(1)
    seen &= ~(few[:, None] & (rank >= rng.integers(1, 7, (count, 1))))
    none = ~seen.any(1)
    seen[none, rng.integers(_K, size=int(none.sum()))] = True
    return np.asarray(seen)


def _rebuild_between(moved: Float, seen: NDArray[np.bool_], rng: np.random.Generator) -> None:
    """Put neck and pelvis between their pairs for half the people, as simple front ends do."""
    simple = rng.random(len(moved)) < 0.5
    for name, pair in (("neck", "shoulder"), ("pelvis", "hip")):
        k, a, b = (INDEX_2D[n] for n in (name, f"l_{pair}", f"r_{pair}"))
        moved[simple, k] = (moved[simple, a] + moved[simple, b]) / 2
        seen[simple, k] = seen[simple, a] & seen[simple, b]
