"""BVH, a file per person: y up, centimetres by default, rest pose a T-pose that faces +z.

Rotations are written Z X Y (matrix = Rz Rx Ry), unwrapped over time; gaps hold the last pose.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manypose.app.exports import Options
from manypose.app.exports.motion import Motion, motions
from manypose.app.formats.part import WholeText
from manypose.app.formats.reading import Run
from manypose.pose import skeleton as sk
from manypose.pose.joints import INDEX, JOINTS, ROOT

# Joints without a rotation of their own: their bones end in an End Site.
_LEAVES = frozenset(INDEX[n] for n in ("head_top", "l_hand", "r_hand", "l_foot", "r_foot"))
_CM = 100.0
_PER_METRE = {"m": 1.0, "mm": 1000.0}


def export(run: Run, folder: Path, options: Options) -> list[Path]:
    """Write person_<id>.bvh for everybody and return the files."""
    written = []
    for motion in motions(run, options):
        path = folder / f"person_{motion.id}.bvh"
        with WholeText(path) as file:
            file.write(text(motion, _PER_METRE.get(options.units, _CM)))
        written.append(path)
    return written


def text(motion: Motion, per_metre: float = _CM) -> str:
    """Return the whole BVH file of one motion, so many units to the metre."""
    from scipy.spatial.transform import Rotation

    offsets = sk.offsets_m(motion.lengths_m[None])[0] * per_metre
    order: list[int] = []
    lines = ["HIERARCHY"]
    _joint(ROOT, 0, offsets, lines, order)
    turns = Rotation.from_quat(motion.rotations[:, order].reshape(-1, 4)).as_euler("ZXY")
    turns = np.degrees(np.unwrap(turns.reshape(len(motion), -1), axis=0))
    rows = np.concatenate([motion.root_m * per_metre, turns], 1)
    lines += ["MOTION", f"Frames: {len(motion)}", f"Frame Time: {1 / motion.rate_hz:.8f}"]
    lines += [" ".join(f"{v:.5f}" for v in row) for row in rows]
    return "\n".join(lines) + "\n"


def _joint(j: int, depth: int, offsets: np.ndarray, lines: list[str], order: list[int]) -> None:
    pad, offset = "  " * depth, offsets[j] if depth else np.zeros(3)
    place = " ".join(f"{v:.6f}" for v in offset)
    if j in _LEAVES:
        lines += [f"{pad}End Site", f"{pad}{{", f"{pad}  OFFSET {place}", f"{pad}}}"]
        return
    order.append(j)
    rotation = "Zrotation Xrotation Yrotation"
    channels = f"6 Xposition Yposition Zposition {rotation}" if depth == 0 else f"3 {rotation}"
    lines += [
        f"{pad}{'JOINT' if depth else 'ROOT'} {JOINTS[j]}",
        f"{pad}{{",
        f"{pad}  OFFSET {place}",
        f"{pad}  CHANNELS {channels}",
    ]
    for child, parent in enumerate(sk.KINEMATIC_PARENT):
        if parent == j:
            _joint(child, depth + 1, offsets, lines, order)
    lines.append(f"{pad}}}")
