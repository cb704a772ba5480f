"""The folder of JSON files that OpenPose writes (BODY_25), one for every frame of the run.

Joints we do not find in the picture (the feet) and joints that are missing are 0, 0, 0, as there.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from manypose.app.exports import Options
from manypose.app.formats.part import WholeText
from manypose.app.formats.reading import Run
from manypose.pose.joints import INDEX_2D

# BODY_25 in its order; "" where there is nothing to put.
_BODY_25 = (
    "nose", "neck", "r_shoulder", "r_elbow", "r_wrist", "l_shoulder", "l_elbow", "l_wrist",
    "pelvis", "r_hip", "r_knee", "r_ankle", "l_hip", "l_knee", "l_ankle", "r_eye", "l_eye", "r_ear",
    "l_ear", "", "", "", "", "", "",
)  # fmt: skip


def export(run: Run, folder: Path, options: Options) -> list[Path]:
    """Write openpose/<stem>_<12 digits>_keypoints.json for every frame and return the folder."""
    out = folder / "openpose"
    stem = run.folder.resolve().name
    taken = [INDEX_2D[n] if n else -1 for n in _BODY_25]
    for frame in run:
        people = []
        for person in frame.persons:
            if options.ids and person.id not in options.ids:
                continue
            found = np.where(np.isfinite(person.kp2d).all(1, keepdims=True), person.kp2d, 0.0)
            found = np.concatenate([found, np.zeros((1, 3))])[taken]
            found[found[:, 2] <= 0] = 0
            people.append(
                {
                    "person_id": [person.id],
                    "pose_keypoints_2d": [round(float(v), 3) for v in found.ravel()],
                    "face_keypoints_2d": [],
                    "hand_left_keypoints_2d": [],
                    "hand_right_keypoints_2d": [],
                    "pose_keypoints_3d": [],
                    "face_keypoints_3d": [],
                    "hand_left_keypoints_3d": [],
                    "hand_right_keypoints_3d": [],
                }
            )
        path = out / f"{stem}_{frame.frame:012d}_keypoints.json"
        with WholeText(path) as file:
            json.dump({"version": 1.3, "people": people}, file, allow_nan=False)
    return [out]
