from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import cv2

from manypose.models.train.synth.archive import (
    BONE,
    BONES,
    POINTS,
    Avatars,
    Clips,
    read_avatars,
    read_clips,
)

# A man of boxes in an A-pose, metres: where each bone begins.
_PIVOTS = {
    "pelvis": (0, 0.86, 0), "spine": (0, 1.05, 0), "spine1": (0, 1.18, 0), "spine2": (0, 1.3, 0),
    "neck": (0, 1.5, 0), "head": (0, 1.58, 0.01), "clavicle": (0.04, 1.45, 0),
    "upperarm": (0.19, 1.42, 0), "forearm": (0.38, 1.2, 0), "hand": (0.55, 1.0, 0.02),
    "thigh": (0.09, 0.93, 0), "calf": (0.12, 0.5, 0.01), "foot": (0.14, 0.08, -0.02),
    "toe": (0.16, 0.03, 0.1),
}  # fmt: skip
_ENDS = {"head": (0, 1.74, 0.01), "hand": (0.63, 0.9, 0.03), "toe": (0.17, 0.03, 0.17)}
_NEXT = {
    "pelvis": "spine", "spine": "spine1", "spine1": "spine2", "spine2": "neck", "neck": "head",
    "clavicle": "upperarm", "upperarm": "forearm", "forearm": "hand", "thigh": "calf",
    "calf": "foot", "foot": "toe",
}  # fmt: skip
_WIDTHS = {"pelvis": 0.14, "spine": 0.14, "spine1": 0.15, "spine2": 0.16, "head": 0.09}
# Labelled points: (bone, place); the rest sit on the pivot of the bone they are named for.
_POINTS = {
    "head_top": ("head", (0, 1.74, 0.01)), "neck": ("neck", (0, 1.5, 0)),
    "pelvis": ("pelvis", (0, 0.93, 0)), "spine": ("spine1", (0, 1.18, 0)),
    "head": ("head", (0, 1.62, 0.02)), "nose": ("head", (0, 1.6, 0.11)),
    "eye": ("head", (0.03, 1.65, 0.1)), "ear": ("head", (0.08, 1.62, 0.01)),
    "hand": ("hand", (0.63, 0.9, 0.03)), "foot": ("toe", (0.17, 0.03, 0.15)),
}  # fmt: skip
_CARRIERS = {
    "shoulder": "upperarm", "elbow": "forearm", "wrist": "hand", "hip": "thigh", "knee": "calf",
    "ankle": "foot",
}  # fmt: skip


def _sided(place: tuple[float, float, float], side: str) -> np.ndarray:
    return np.array(place) * (-1 if side == "r" else 1, 1, 1)


def _pivot(bone: str) -> np.ndarray:
    side, _, name = bone.partition("_") if bone[:2] in ("l_", "r_") else ("", "", bone)
    return _sided(_PIVOTS[name], side)


def _end(bone: str) -> np.ndarray:
    side, _, name = bone.partition("_") if bone[:2] in ("l_", "r_") else ("", "", bone)
    prefix = f"{side}_" if side else ""
    return _pivot(prefix + _NEXT[name]) if name in _NEXT else _sided(_ENDS[name], side)


def box_avatar(size: float, colour: int) -> dict[str, Any]:
    """The arrays of an avatar file: a box round every bone."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (0, 1) for z in (-1, 1)], float)
    quads = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4],
                      [1, 5, 7, 3]])  # fmt: skip
    verts, faces, bones = [], [], []
    for b, name in enumerate(BONES):
        a, e = _pivot(name), _end(name)
        along = e - a
        across = np.cross(along, (0, 0, 1.0))
        across /= np.linalg.norm(across)
        deep = np.cross(across, along / np.linalg.norm(along))
        plain = name[2:] if name[:2] in ("l_", "r_") else name
        wide = _WIDTHS.get(plain, 0.05)
        x, y, z = corners[:, :1], corners[:, 1:2] * 1.1 - 0.05, corners[:, 2:]
        faces += [8 * b + q[[0, 1, 2]] for q in quads] + [8 * b + q[[0, 2, 3]] for q in quads]
        verts.append(a + x * wide * across + y * along + z * min(wide, 0.1) * deep)
        bones += [b] * 8
    points, carriers = [], []
    for name in POINTS:
        side, _, plain = name.partition("_") if name[:2] in ("l_", "r_") else ("", "", name)
        prefix = f"{side}_" if side else ""
        if plain in _CARRIERS:
            carrier = prefix + _CARRIERS[plain]
            place = _pivot(carrier)
        else:
            on, at = _POINTS[plain]
            carrier = on if on in BONE else prefix + on
            place = _sided(at, side)
        points.append(place * size)
        carriers.append(BONE[carrier])
    flat = np.concatenate(verts) * size
    texture = np.full((16, 16, 3), colour, np.uint8)
    texture[::2] = 200
    return {
        "verts": np.round(flat * 1e4).astype(np.int16),
        "uv": np.random.default_rng(colour).integers(0, 65535, (len(flat), 2)).astype(np.uint16),
        "faces": np.array(faces, np.uint16),
        "bone": np.array(bones, np.uint8)[:, None].repeat(4, 1),
        "weight": np.tile(np.array([255, 0, 0, 0], np.uint8), (len(flat), 1)),
        "group": np.arange(len(flat)).astype(np.uint16),
        "pivots": np.stack([_pivot(n) * size for n in BONES]).astype(np.float32),
        "points": np.stack(points).astype(np.float32),
        "point_bone": np.array(carriers),
        "tex": cv2.imencode(".jpg", texture)[1].ravel(),
    }


def _walk(frames: int, step: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Root and global rotations of a made-up walk along +z, one second for two steps."""
    t = np.arange(frames) / 30
    swing = np.sin(2 * np.pi * t)
    turn = np.zeros((frames, len(BONES)))
    for s, sign in (("r", 1.0), ("l", -1.0)):
        for bone, reach in (("thigh", 0.5), ("calf", 0.4), ("upperarm", -0.4), ("forearm", -0.5)):
            turn[:, BONE[f"{s}_{bone}"]] = sign * reach * swing
    q = np.zeros((frames, len(BONES), 4))
    q[..., 0], q[..., 1] = np.cos(turn / 2), np.sin(turn / 2)
    drop = np.array([-1.2, 1.2])  # arms hang down: turned about the forward axis
    for s, angle in zip("lr", drop):
        for bone in ("upperarm", "forearm", "hand"):
            b = BONE[f"{s}_{bone}"]
            q[:, b] = (np.cos(angle / 2), 0, 0, np.sin(angle / 2))
    root = np.stack([0.02 * swing, 0.9 + 0.01 * np.cos(4 * np.pi * t), step * t], 1)
    q *= rng.uniform(0.9, 1.1, (frames, len(BONES), 1))  # files hold half precision, any length
    return root.astype(np.float32), q.astype(np.float16)


@pytest.fixture(scope="session")
def box_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An archive of three box avatars and one of two made-up motions."""
    folder = tmp_path_factory.mktemp("boxes")
    names = ["Box_Tall", "Box_Child", "Box_Middle"]
    with zipfile.ZipFile(folder / "avatars.zip", "w") as archive:
        entries = []
        for k, name in enumerate(names):
            file = io.BytesIO()
            np.savez(file, **box_avatar((1.05, 0.8, 0.95)[k], 60 + 40 * k))
            archive.writestr(f"{name}.npz", file.getvalue())
            entries.append({"name": name, "file": f"{name}.npz"})
        archive.writestr("index.json", json.dumps({"avatars": entries}))
    rng = np.random.default_rng(0)
    motions = [_walk(75, 1.2, rng), _walk(60, 0.0, rng)]
    np.savez(
        folder / "mocap.npz",
        pos=np.concatenate([m[0] for m in motions]),
        quat=np.concatenate([m[1] for m in motions]),
        start=np.array([0, 75]), len=np.array([75, 60]), leg=np.array([0.86, 0.86], np.float32),
        weight=np.array([0.5, 0.5]), name=np.array(["walk", "stand"]),
        tag=np.array(["walk", "gesture"]),
    )  # fmt: skip
    return folder / "avatars.zip", folder / "mocap.npz"


@pytest.fixture(scope="session")
def boxes(box_files: tuple[Path, Path]) -> tuple[Avatars, Clips]:
    return read_avatars(box_files[0]), read_clips(box_files[1])


@pytest.fixture(scope="session")
def real(shared: Path) -> tuple[Avatars, Clips]:
    avatars, mocap = shared / "data/avatars/avatars.zip", shared / "data/mocap/mocap.npz"
    if not avatars.exists() or not mocap.exists():
        pytest.skip("the avatar and motion archives are not here")
    return read_avatars(avatars, 8), read_clips(mocap)


@pytest.fixture(params=["boxes", "real"])
def cast(request: pytest.FixtureRequest) -> tuple[Avatars, Clips]:
    """Box people everywhere; real avatars where their archive lies."""
    found: tuple[Avatars, Clips] = request.getfixturevalue(request.param)
    return found
