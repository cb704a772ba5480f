"""OpenSim MOT files, one per person: named joint angles in degrees and the pelvis in metres.

The columns are the angles of `pose.angles.joint_angles`; to move an OpenSim model with them, map
them to its coordinates, or use inverse kinematics on the TRC files. Gaps hold the last pose.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manypose.app.exports import Options
from manypose.app.exports.motion import Motion, motions
from manypose.app.formats.part import WholeText
from manypose.app.formats.reading import Run
from manypose.pose.angles import joint_angles
from manypose.pose.joints import ROOT


def export(run: Run, folder: Path, options: Options) -> list[Path]:
    """Write person_<id>.mot for everybody and return the files."""
    written = []
    for motion in motions(run, options):
        path = folder / f"person_{motion.id}.mot"
        with WholeText(path) as file:
            file.write(text(motion, path.stem))
        written.append(path)
    return written


def text(motion: Motion, name: str) -> str:
    """Return the whole MOT file of one motion."""
    from scipy.spatial.transform import Rotation

    turn = np.unwrap(Rotation.from_quat(motion.rotations[:, ROOT]).as_euler("ZXY"), axis=0)
    columns = {
        "pelvis_tilt": turn[:, 1],
        "pelvis_list": turn[:, 0],
        "pelvis_rotation": turn[:, 2],
        **joint_angles(motion.rotations),
    }
    names = [*columns, "pelvis_tx", "pelvis_ty", "pelvis_tz"]
    degrees = np.degrees(np.stack([np.unwrap(v) for v in columns.values()], 1))
    table = np.concatenate([motion.time_s[:, None], degrees, motion.root_m], 1)
    lines = [
        name,
        "version=1",
        f"nRows={len(motion)}",
        f"nColumns={table.shape[1]}",
        "inDegrees=yes",
        "endheader",
        "\t".join(["time", *names]),
    ]
    lines += ["\t".join(f"{v:.6f}" for v in row) for row in table]
    return "\n".join(lines) + "\n"
