"""An engine that knows where the people are, so that the application is tested without weights.

Run as a program it is manypose itself with this engine in place of the networks.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

import numpy as np

from manypose.app import pipeline
from manypose.app.config import Config
from manypose.app.pipeline import Engine, follower_config, lifting
from manypose.calib.camera import Camera
from manypose.pose.detector import Detector
from manypose.pose.joints import INDEX, INDEX_2D, JOINTS, JOINTS_2D, ROOT
from manypose.pose.records import Found2D, Frame, Person2D, Person3D

# A T-pose facing the camera, metres, camera axes, relative to the pelvis; own right = image left.
_BODY = {
    "head_top": (0, -0.75, 0), "head": (0, -0.62, 0), "neck": (0, -0.5, 0), "spine": (0, -0.25, 0),
    "pelvis": (0, 0, 0), "r_shoulder": (-0.18, -0.48, 0), "r_elbow": (-0.45, -0.48, 0),
    "r_wrist": (-0.7, -0.48, 0), "r_hand": (-0.8, -0.48, 0), "r_hip": (-0.1, 0.02, 0),
    "r_knee": (-0.1, 0.44, 0), "r_ankle": (-0.1, 0.86, 0), "r_foot": (-0.1, 0.92, -0.12),
    "nose": (0, -0.62, -0.1), "r_eye": (-0.03, -0.65, -0.09), "r_ear": (-0.07, -0.63, 0),
}  # fmt: skip
PEOPLE = 2


def _place(name: str) -> np.ndarray:
    if name[:2] == "l_":
        return np.array(_BODY["r_" + name[2:]]) * (-1, 1, 1)
    return np.array(_BODY[name], float)


def truth(index: int, person: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the 2D-set joints (K, 3) and 3D-set joints (J, 3) in the camera frame, metres."""
    root = np.array([-1.0 + 2.0 * person + 0.01 * index, 0.1, 4.0 + person])
    names = (JOINTS_2D, JOINTS)
    two, three = (np.stack([_place(n) for n in joints]) + root for joints in names)
    return two, three


def find(frames: Sequence[Frame]) -> list[Found2D]:
    """Return the people where they are in each frame."""
    pause_s = float(os.environ.get("DRAWN_PAUSE_S", "0"))
    found = []
    for frame in frames:
        time.sleep(pause_s)
        people = []
        for k in range(PEOPLE):
            px = frame.camera.camera_to_image(truth(frame.index, k)[0])
            score = np.full(len(JOINTS_2D), 0.9)
            if k == 1:  # one wrist is never seen
                px[INDEX_2D["r_wrist"]], score[INDEX_2D["r_wrist"]] = np.nan, 0
            people.append(Person2D(px, score, 0.9))
        found.append(Found2D(tuple(people), {"network": 1.0, "group": 0.1}))
    return found


def lift(people: Sequence[Person2D], camera: Camera, up: object = None) -> list[Person3D]:
    """Return the people in 3D, from where their pelvis and neck are in the picture."""
    lifted = []
    for person in people:
        rays = camera.image_to_rays(person.joints_px[[INDEX_2D["neck"], INDEX_2D["pelvis"]]])
        depth = 0.5 / (rays[1] - rays[0])[1]
        joints = np.stack([_place(n) for n in JOINTS])
        root = rays[1] * depth
        lifted.append(Person3D(person, joints, np.full(len(JOINTS), 0.02), root, 0.05))
    assert JOINTS[ROOT] == "pelvis"
    assert INDEX["pelvis"] == ROOT
    return lifted


def drawn_engine(config: Config, *, still: bool = False, batch: int = 1) -> Engine:
    """Return the engine; takes the place of manypose.app.pipeline.load_engine."""
    info = {"model": "drawn", "sha256": "0" * 64, "runtime": "numpy", "device": "cpu"}
    return Engine(
        Detector(find, lift),
        follower_config(config, still=still),
        info,
        batch,
        lift=lifting(config),
    )


if __name__ == "__main__":
    pipeline.load_engine = drawn_engine
    from manypose.app.main import main

    sys.exit(main())
