"""glTF 2.0 binary: every person a tree of bones with a small skinned mesh, animated.

Metres, y up, local rotations as quaternions x y z w, key frames at the run's true times. The mesh
is an octahedron along each bone, so that any viewer shows something.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.app.exports import Options
from manypose.app.exports.motion import Motion, motions
from manypose.app.formats.part import part_of
from manypose.app.formats.reading import Run
from manypose.pose import skeleton as sk
from manypose.pose.joints import JOINTS, ROOT

_FLOAT, _USHORT = 5126, 5123
_J = len(JOINTS)


class _Buffer:
    """The binary chunk and the accessors into it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def add(self, array: NDArray[Any], kind: str, *, bounds: bool = False) -> int:
        """Append an array and return the number of its accessor."""
        component = _USHORT if array.dtype == np.uint16 else _FLOAT
        raw = np.ascontiguousarray(array).tobytes()
        self.views.append({"buffer": 0, "byteOffset": len(self.data), "byteLength": len(raw)})
        self.data += raw + b"\0" * (-len(raw) % 4)
        accessor = {
            "bufferView": len(self.views) - 1,
            "componentType": component,
            "count": len(array),
            "type": kind,
        }
        if bounds:
            flat = array.reshape(len(array), -1)
            accessor["min"] = [float(v) for v in flat.min(0)]
            accessor["max"] = [float(v) for v in flat.max(0)]
        self.accessors.append(accessor)
        return len(self.accessors) - 1


def export(run: Run, folder: Path, options: Options) -> list[Path]:
    """Write people.glb and return it."""
    found = motions(run, options, resample=options.rate_hz > 0)
    path = folder / "people.glb"
    folder.mkdir(parents=True, exist_ok=True)
    part_of(path).write_bytes(packed(found))
    part_of(path).replace(path)
    return [path]


def packed(found: list[Motion]) -> bytes:
    """Return the bytes of a GLB file with these people."""
    buffer = _Buffer()
    doc: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "manypose"},
        "scene": 0,
        "scenes": [{"nodes": []}],
        "nodes": [],
    }
    for motion in found:
        _person(doc, buffer, motion)
    if not found:
        doc["nodes"].append({"name": "nobody"})
        doc["scenes"][0]["nodes"].append(0)
    else:
        doc["bufferViews"], doc["accessors"] = buffer.views, buffer.accessors
        doc["buffers"] = [{"byteLength": len(buffer.data)}]
    text = json.dumps(doc, allow_nan=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<II", len(text), 0x4E4F534A) + text
    if found:
        body += struct.pack("<II", len(buffer.data), 0x004E4942) + bytes(buffer.data)
    return struct.pack("<III", 0x46546C67, 2, 12 + len(body)) + body


def _person(doc: dict[str, Any], buffer: _Buffer, motion: Motion) -> None:
    nodes, base = doc["nodes"], len(doc["nodes"])
    offsets = sk.offsets_m(motion.lengths_m[None])[0, :_J]
    rest = np.zeros((_J, 3))
    for j in _in_order():
        parent = sk.KINEMATIC_PARENT[j]
        rest[j] = 0 if parent < 0 else rest[parent] + offsets[j]
        children = [base + c for c, p in enumerate(sk.KINEMATIC_PARENT) if p == j]
        nodes.append({"name": f"{JOINTS[j]}.{motion.id}", "children": children, "joint": j})
    nodes[base:] = sorted(nodes[base:], key=lambda n: n["joint"])
    for node in nodes[base:]:
        j = node.pop("joint")
        if not node["children"]:
            del node["children"]
        move, turn = (motion.root_m[0] if j == ROOT else offsets[j]), motion.rotations[0, j]
        node["translation"], node["rotation"] = _list(move), _list(turn)
    skin, mesh = _skin(doc, buffer, rest, base, motion.id)
    nodes.append({"name": f"person.{motion.id}", "mesh": mesh, "skin": skin})
    doc["scenes"][0]["nodes"] += [base + ROOT, len(nodes) - 1]
    _animate(doc, buffer, motion, base)


def _in_order() -> list[int]:
    order = [ROOT]
    for j in order:
        order += [c for c, p in enumerate(sk.KINEMATIC_PARENT) if p == j]
    return order


def _skin(
    doc: dict[str, Any], buffer: _Buffer, rest: NDArray[Any], base: int, person: int
) -> tuple[int, int]:
    """Add the skin and the mesh of a body in its rest pose and return their numbers."""
    inverse = np.tile(np.eye(4, dtype=np.float32), (_J, 1, 1))
    inverse[:, 3, :3] = -rest  # glTF stores matrices by column
    doc.setdefault("skins", []).append(
        {
            "joints": list(range(base, base + _J)),
            "inverseBindMatrices": buffer.add(inverse.reshape(_J, 16), "MAT4"),
            "skeleton": base + ROOT,
        }
    )
    points: list[NDArray[Any]] = []
    faces: list[tuple[int, int, int]] = []
    bones: list[int] = []
    for j, parent in enumerate(sk.KINEMATIC_PARENT):
        if parent < 0:
            continue
        a, b = rest[parent], rest[j]
        along = (b - a) / max(float(np.linalg.norm(b - a)), 1e-6)
        side = np.cross(along, [0.0, 0, 1] if abs(along[2]) < 0.9 else [1.0, 0, 0])
        side /= np.linalg.norm(side)
        width = 0.12 * float(np.linalg.norm(b - a))
        ring = [np.cos(k) * side + np.sin(k) * np.cross(along, side) for k in np.arange(4) * 1.5708]
        n = len(points)
        points += [a, *(a + 0.2 * (b - a) + width * r for r in ring), b]
        for k in range(4):
            m = (k + 1) % 4
            faces += [(n, n + 1 + m, n + 1 + k), (n + 5, n + 1 + k, n + 1 + m)]
        bones += [parent] * 6
    joints = np.zeros((len(bones), 4), np.uint16)
    joints[:, 0] = bones
    weights = np.tile(np.array([1, 0, 0, 0], np.float32), (len(bones), 1))
    hue = 0.61803 * person % 1.0
    colour = [0.55 + 0.4 * float(np.cos(6.2832 * (hue + k / 3))) for k in range(3)]
    doc.setdefault("materials", []).append(
        {"pbrMetallicRoughness": {"baseColorFactor": [*colour, 1.0], "metallicFactor": 0.0}}
    )
    doc.setdefault("meshes", []).append(
        {
            "primitives": [
                {
                    "attributes": {
                        "POSITION": buffer.add(np.array(points, np.float32), "VEC3", bounds=True),
                        "JOINTS_0": buffer.add(joints, "VEC4"),
                        "WEIGHTS_0": buffer.add(weights, "VEC4"),
                    },
                    "indices": buffer.add(np.array(faces, np.uint16).ravel(), "SCALAR"),
                    "material": len(doc["materials"]) - 1,
                }
            ]
        }
    )
    return len(doc["skins"]) - 1, len(doc["meshes"]) - 1


def _animate(doc: dict[str, Any], buffer: _Buffer, motion: Motion, base: int) -> None:
    times = buffer.add(motion.time_s.astype(np.float32), "SCALAR", bounds=True)
    tracks = [(ROOT, "translation", buffer.add(motion.root_m.astype(np.float32), "VEC3"))]
    for j in range(_J):
        q = motion.rotations[:, j].astype(np.float32)
        if np.abs(q[:, :3]).max() > 1e-7:
            tracks.append((j, "rotation", buffer.add(q, "VEC4")))
    doc.setdefault("animations", []).append(
        {
            "name": f"person.{motion.id}",
            "samplers": [{"input": times, "output": out} for _, _, out in tracks],
            "channels": [
                {"sampler": i, "target": {"node": base + j, "path": path}}
                for i, (j, path, _) in enumerate(tracks)
            ],
        }
    )


def _list(v: NDArray[Any]) -> list[float]:
    return [float(x) for x in v]
