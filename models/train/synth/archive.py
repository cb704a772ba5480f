"""What the avatar and motion archives hold, as flat tensors and arrays.

All avatars lie one behind the other in the same tensors, so that a crowd of different people is
posed and skinned in one call (`rig`).
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manypose.errors import SourceError
from manypose.pose.joints import COCO_NAMES, JOINTS

Float32 = NDArray[np.float32]

BONES: tuple[str, ...] = (
    "pelvis", "spine", "spine1", "spine2", "neck", "head",
    "r_clavicle", "r_upperarm", "r_forearm", "r_hand",
    "l_clavicle", "l_upperarm", "l_forearm", "l_hand",
    "r_thigh", "r_calf", "r_foot", "r_toe", "l_thigh", "l_calf", "l_foot", "l_toe",
)  # fmt: skip
BONE = {name: i for i, name in enumerate(BONES)}
BONE_PARENT: tuple[int, ...] = (
    -1, 0, 1, 2, 3, 4, 4, 6, 7, 8, 4, 10, 11, 12, 0, 14, 15, 16, 0, 18, 19, 20,
)  # fmt: skip
# Labelled points: the project's 21 joints, then the five points of the face.
POINTS: tuple[str, ...] = (*JOINTS, *COCO_NAMES[:5])
POINT = {name: i for i, name in enumerate(POINTS)}

# Linear blending wrings a limb that turns about its own axis, so the weights of six bones are split
# along the bone between two matrices: (bone, next bone, bone the twist is measured against, axis of
# the T-pose, whether the twist is added towards the far end or taken away near the root).
TWISTS: tuple[tuple[str, str, str, int, bool], ...] = (
    ("r_forearm", "r_hand", "r_hand", 0, True),
    ("l_forearm", "l_hand", "l_hand", 0, True),
    ("r_upperarm", "r_forearm", "r_clavicle", 0, False),
    ("l_upperarm", "l_forearm", "l_clavicle", 0, False),
    ("r_thigh", "r_calf", "pelvis", 1, False),
    ("l_thigh", "l_calf", "pelvis", 1, False),
)
MATRIX_COUNT = len(BONES) + len(TWISTS)
_SLOTS = 6  # matrices blended for one vertex
# Sole to ankle joint of the captured skeletons: legs scale from the floor, not from the ankle.
ANKLE_HEIGHT_M = 0.085
# What is held out for validation: people and performances never rendered for training.
_HELD_OUT_AVATARS = 8
_HELD_OUT_CLIPS = ("_02", "_49_")


@dataclass(frozen=True, slots=True, eq=False)
class Avatars:
    """All avatars (A of them) in flat tensors, metres, bind pose, y up, facing +z.

    vertices, normals (V, 3), uv (V, 2) in [0, 1] with v upwards, slots, weights (V, 6): blended
    matrices; faces (F, 3) counted from the avatar's first vertex; vertex_start, face_start (A + 1);
    pivots (A, 22, 3); points (A, 26, 3) and point_bone (A, 26): the labelled points and the bones
    that carry them; to_tpose (A, 22, 3, 3); leg_m, sole_m (A,); textures (A, S, S, 3) uint8 RGB.
    """

    names: tuple[str, ...]
    vertices: Tensor
    normals: Tensor
    uv: Tensor
    slots: Tensor
    weights: Tensor
    faces: Tensor
    vertex_start: Tensor
    face_start: Tensor
    pivots: Tensor
    points: Tensor
    point_bone: Tensor
    to_tpose: Tensor
    leg_m: Tensor
    sole_m: Tensor
    textures: Tensor

    def to(self, device: str | torch.device) -> Avatars:
        """Return the same avatars on another device."""
        held: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: Any = {k: v.to(device) for k, v in held.items() if isinstance(v, Tensor)}
        return replace(self, **moved)


@dataclass(frozen=True, slots=True, eq=False)
class Clips:
    """Captured motion: rows of poses at `fps`, cut into C clips.

    root_m (N, 3) mid hip, y up, each clip starts at x = z = 0; quaternions (N, 22, 4) w x y z,
    global, by driver bone; start, length (C,) rows of a clip; leg_m (C,) hip-knee-ankle of the
    performer; weight (C,) how often to draw a clip, sums to 1; tag: "walk", "sit", ...
    """

    root_m: Float32
    quaternions: Float32
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    leg_m: Float32
    weight: NDArray[np.float64]
    names: tuple[str, ...]
    tags: tuple[str, ...]
    fps: float = 30.0


def read_clips(path: Path) -> Clips:
    """Return the captured motion of a mocap archive (.npz).

    Raises:
        SourceError: the file is missing or is no such archive.
    """
    try:
        with np.load(path) as z:
            return Clips(
                z["pos"].astype(np.float32),
                z["quat"].astype(np.float32),
                z["start"].astype(np.int64),
                z["len"].astype(np.int64),
                z["leg"].astype(np.float32),
                z["weight"].astype(np.float64),
                tuple(str(s) for s in z["name"]),
                tuple(str(s) for s in z["tag"]),
            )
    except (OSError, KeyError, ValueError) as error:
        raise SourceError(
            f"{path} is no motion archive ({error}): give the mocap.npz with --mocap"
        ) from None


def read_avatars(path: Path, limit: int | None = None) -> Avatars:
    """Return the avatars of an archive (zip of index.json and one .npz each), at most `limit`.

    Raises:
        SourceError: the file is missing or is no such archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = json.loads(archive.read("index.json"))["avatars"][:limit]
            found = [np.load(io.BytesIO(archive.read(e["file"]))) for e in entries]
            return pack_avatars([str(e["name"]) for e in entries], [dict(z) for z in found])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise SourceError(
            f"{path} is no avatar archive ({error}): give the avatars.zip with --avatars"
        ) from None


def pack_avatars(names: list[str], arrays: list[dict[str, NDArray[Any]]]) -> Avatars:
    """Return avatars from the arrays of their files (see `read_avatars`), in flat tensors."""
    parts = [_one_avatar(z) for z in arrays]
    joined = {
        k: torch.from_numpy(np.concatenate([p[k] for p in parts]))
        for k in ("vertices", "normals", "uv", "slots", "weights", "faces")
    }
    stacked = {
        k: torch.from_numpy(np.stack([p[k] for p in parts]))
        for k in ("pivots", "points", "point_bone", "to_tpose", "leg_m", "sole_m", "textures")
    }
    starts = {
        f"{key}_start": torch.tensor([0, *np.cumsum([len(p[of]) for p in parts])])
        for key, of in (("vertex", "vertices"), ("face", "faces"))
    }
    return Avatars(tuple(names), **joined, **starts, **stacked)


def in_split(names: tuple[str, ...], split: str, what: str) -> NDArray[np.bool_]:
    """Return which avatars or clips (`what`: "avatars", "clips") belong to "train", "val", "all".

    Held out are the last 8 avatars of an archive, clips of CMU subject 49 and those with "_02" in
    their name: people and performances are held out, not frames.
    """
    if what == "avatars":
        held = np.arange(len(names)) >= max(len(names) - _HELD_OUT_AVATARS, 1)
    else:
        held = np.array([any(mark in n for mark in _HELD_OUT_CLIPS) for n in names])
    return {"train": ~held, "val": held, "all": np.ones(len(names), bool)}[split]


def _one_avatar(z: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    vertices = (z["verts"].astype(np.float64) * 1e-4).astype(np.float32)
    pivots, faces = z["pivots"].astype(np.float32), z["faces"].astype(np.int64)
    slots, weights = _split_weights(vertices, pivots, z["bone"], z["weight"])
    thigh, calf, foot = ([BONE[f"{s}_{b}"] for s in "rl"] for b in ("thigh", "calf", "foot"))
    leg = np.linalg.norm(pivots[calf] - pivots[thigh], axis=1)
    leg = leg + np.linalg.norm(pivots[foot] - pivots[calf], axis=1)
    texture = cv2.imdecode(z["tex"], cv2.IMREAD_COLOR)
    if texture is None:
        raise ValueError("a texture is damaged")
    return {
        "vertices": vertices,
        "normals": _vertex_normals(vertices, faces, z["group"].astype(np.int64)),
        "uv": z["uv"].astype(np.float32) / 65535,
        "slots": slots,
        "weights": weights,
        "faces": faces,
        "pivots": pivots,
        "points": z["points"].astype(np.float32),
        "point_bone": z["point_bone"].astype(np.int64),
        "to_tpose": _to_tpose(pivots, z["points"].astype(np.float64)),
        "leg_m": np.asarray(leg.mean(), np.float32),
        "sole_m": np.asarray(vertices[:, 1].min(), np.float32),
        "textures": np.ascontiguousarray(texture[..., ::-1]),
    }


def _split_weights(
    vertices: Float32, pivots: Float32, bone: NDArray[Any], weight: NDArray[Any]
) -> tuple[NDArray[np.int64], Float32]:
    """Return the matrices (V, 6) and weights (V, 6) of every vertex, twist matrices included."""
    dense = np.zeros((len(vertices), MATRIX_COUNT), np.float32)
    np.add.at(dense, (np.arange(len(vertices))[:, None], bone.astype(int)), weight / 255)
    for k, (name, far, _, _, at_end) in enumerate(TWISTS):
        i, axis = BONE[name], pivots[BONE[far]] - pivots[BONE[name]]
        along = np.clip((vertices - pivots[i]) @ axis / (axis @ axis), 0, 1)
        share = along if at_end else 1 - along
        dense[:, len(BONES) + k] = dense[:, i] * share
        dense[:, i] *= 1 - share
    slots = np.argsort(-dense, axis=1, kind="stable")[:, :_SLOTS]
    kept = np.take_along_axis(dense, slots, 1)
    return slots, (kept / kept.sum(1, keepdims=True)).astype(np.float32)


def _vertex_normals(vertices: Float32, faces: NDArray[Any], group: NDArray[Any]) -> Float32:
    """Return unit normals (V, 3), shared by the copies of a vertex along a texture seam."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    face_normal = np.cross(b - a, c - a)
    total = np.zeros((int(group.max()) + 1, 3), np.float32)
    for k in range(3):
        np.add.at(total, group[faces[:, k]], face_normal)
    normals = total[group]
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.asarray(normals / np.maximum(length, 1e-9), np.float32)


def _to_tpose(pivots: Float32, points: NDArray[np.float64]) -> Float32:
    """Return rotations (22, 3, 3) from the bind pose to the T-pose.

    Arms to the sides, legs down, hands along the middle finger, feet turned to the front about the
    vertical only; trunk, neck, head and clavicles keep the bind pose.
    """
    out = np.tile(np.eye(3, dtype=np.float32), (len(BONES), 1, 1))
    for s, side in (("r", -1.0), ("l", 1.0)):
        for first, then, goal in (
            ("upperarm", "forearm", (side, 0.0, 0.0)),
            ("forearm", "hand", (side, 0.0, 0.0)),
            ("thigh", "calf", (0.0, -1.0, 0.0)),
            ("calf", "foot", (0.0, -1.0, 0.0)),
        ):
            i, j = BONE[f"{s}_{first}"], BONE[f"{s}_{then}"]
            out[i] = _rotation_between(pivots[j] - pivots[i], np.array(goal))
        hand, foot, toe = (BONE[f"{s}_{b}"] for b in ("hand", "foot", "toe"))
        finger = points[POINT[f"{s}_hand"]] - pivots[hand]
        out[hand] = _rotation_between(finger, np.array((side, 0.0, 0.0)))
        forward = (pivots[toe] - pivots[foot]) * np.array((1.0, 0.0, 1.0))
        out[foot] = out[toe] = _rotation_between(forward, np.array((0.0, 0.0, 1.0)))
    return out


def _rotation_between(a: NDArray[Any], b: NDArray[Any]) -> Float32:
    """Return the smallest rotation that turns direction a into b (not opposite)."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    x, y, z = np.cross(a, b)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + k + k @ k / (1 + a @ b), np.float32)
