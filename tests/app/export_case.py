"""A stored run whose joints are known, and a reader of BVH that shares nothing with the writer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from manypose.app.formats.reading import Run
from manypose.pose import skeleton as sk
from manypose.pose.joints import INDEX, JOINTS, JOINTS_2D, PARENT, ROOT, SEEN

HZ = 30.0


def body(times: np.ndarray, x: float) -> tuple[np.ndarray, np.ndarray]:
    """Return joints (F, J, 3), camera frame, and rotations of a person who walks and waves."""
    n = len(times)
    vector = np.zeros((n, len(JOINTS), 3))
    swing = np.sin(2 * np.pi * times)
    vector[:, INDEX["r_hip"], 0], vector[:, INDEX["l_hip"], 0] = 0.5 * swing, -0.5 * swing
    vector[:, INDEX["l_knee"], 0] = 0.4 + 0.4 * swing
    vector[:, INDEX["r_shoulder"], 2] = 1.0 + 0.3 * swing
    vector[:, INDEX["r_elbow"], 1] = 0.8
    vector[:, INDEX["spine"], 1] = 0.2 * swing
    q = sk.exp_map(vector)
    facing = Rotation.from_matrix(np.diag([1.0, -1, -1])) * Rotation.from_euler("y", times[:, None])
    q[:, ROOT] = facing.as_quat()
    root = np.stack([x + 0.5 * times, 0.1 + 0 * times, 4 - 0.3 * times], 1)
    offsets = np.tile(sk.offsets_m(sk.AVERAGE_LENGTHS_M[None]), (n, 1, 1))
    points, _ = sk.forward(root, q, offsets)
    return points[:, : len(JOINTS)], q


def store(folder: Path) -> Path:
    """Return the folder, with a run in it: two people at 30 Hz, the second leaves for a second."""
    t = np.arange(90) / HZ
    people = {3: np.arange(90), 8: np.r_[0:20, 50:80]}
    rows = sorted((f, i) for i, frames in people.items() for f in frames)
    moves = {3: body(t, -0.5), 8: body(t, 0.6)}
    kp3d = np.array([moves[i][0][f] for f, i in rows], np.float32)
    folder.mkdir()
    kp2d = np.zeros((len(rows), len(JOINTS_2D), 3), np.float32)
    kp2d[..., :2] = np.nan
    kp2d[:, :17] = [100.5, 50.25, 0.9]
    np.savez(
        folder / "pose.npz",
        t=t, frame=np.arange(90), n=np.array([2 if f in people[8] else 1 for f in range(90)]),
        row_frame=np.array([f for f, _ in rows]), id=np.array([i for _, i in rows]),
        score=np.full(len(rows), 0.8), box=np.tile([10.0, 20, 30, 40], (len(rows), 1)),
        kp2d=kp2d, kp3d=kp3d, state=np.full((len(rows), len(JOINTS)), SEEN, np.uint8),
        root=kp3d[:, ROOT], joint_names=np.array(JOINTS), kp2d_names=np.array(JOINTS_2D),
        parents=np.array(PARENT), meta_json=np.array(json.dumps({"schema": "manypose/1"})),
    )  # fmt: skip
    quat = np.array([moves[i][1][f] for f, i in rows], np.float32)
    np.savez(folder / "rotations.npz", quat=quat)
    return folder


def y_up(run: Run, track: int) -> np.ndarray:
    """Return the joints of one person as they should stand in a y-up export, floor unknown."""
    return run.kp3d[run.person(track)] * [1, -1, -1]


def read_bvh(text: str) -> tuple[dict[str, np.ndarray], float]:
    """Return joint positions (F, 3) in metres by name, with nothing of the writer used."""
    lines = iter(text.split("\n"))
    names, parents, offsets, channels = [], [], [], []
    stack: list[int] = []
    for line in lines:
        words = line.split()
        if not words:
            continue
        if words[0] in ("ROOT", "JOINT", "End"):
            parents.append(stack[-1] if stack else -1)
            names.append(words[1] if words[0] != "End" else f"end.{names[parents[-1]]}")
            channels.append(0)
        elif words[0] == "{":
            stack.append(len(names) - 1)
        elif words[0] == "}":
            stack.pop()
        elif words[0] == "OFFSET":
            offsets.append([float(v) for v in words[1:]])
        elif words[0] == "CHANNELS":
            channels[-1] = int(words[1])
            assert words[-3:] == ["Zrotation", "Xrotation", "Yrotation"]
        elif words[0] == "MOTION":
            break
    count = int(next(lines).split()[1])
    step = float(next(lines).split()[2])
    rows = np.array([[float(v) for v in next(lines).split()] for _ in range(count)])
    at, place, turn = 0, {}, {}
    for j, parent in enumerate(parents):
        own, offset = rows[:, at : at + channels[j]], np.array(offsets[j])
        at += channels[j]
        local = Rotation.identity(count)
        if channels[j]:
            local = Rotation.from_euler("ZXY", own[:, -3:], degrees=True)
        if parent < 0:
            place[j], turn[j] = offset + own[:, :3], local
        else:
            place[j] = place[parent] + turn[parent].apply(offset)
            turn[j] = turn[parent] * local
    return {name: place[j] / 100 for j, name in enumerate(names)}, step
