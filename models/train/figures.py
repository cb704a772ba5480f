"""Drawn figures: pictures of jointed people with exact labels, made without any data.

They stand in for photographs in the smoke preset and in tests; nothing learnt from them helps with
real people.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from manypose.models.train.packs import Photo, photo, with_middles
from manypose.pose.joints import INDEX_2D, JOINTS_2D, LIMBS

Array = NDArray[Any]
# A standing person seen from the front, in body heights: x to the right of the picture, y down.
_STANDING = {
    "head_top": (0, 0), "nose": (0, 0.07), "l_eye": (0.02, 0.055), "r_eye": (-0.02, 0.055),
    "l_ear": (0.045, 0.065), "r_ear": (-0.045, 0.065), "l_shoulder": (0.11, 0.18),
    "r_shoulder": (-0.11, 0.18), "l_elbow": (0.15, 0.34), "r_elbow": (-0.15, 0.34),
    "l_wrist": (0.17, 0.49), "r_wrist": (-0.17, 0.49), "l_hip": (0.065, 0.5),
    "r_hip": (-0.065, 0.5), "l_knee": (0.07, 0.74), "r_knee": (-0.07, 0.74),
    "l_ankle": (0.075, 0.96), "r_ankle": (-0.075, 0.96),
}  # fmt: skip
_CHAINS = (
    ("l_shoulder", "l_elbow", "l_wrist"), ("r_shoulder", "r_elbow", "r_wrist"),
    ("l_hip", "l_knee", "l_ankle"), ("r_hip", "r_knee", "r_ankle"),
)  # fmt: skip


def figures(count: int, width: int, height: int, seed: int = 0) -> list[Photo]:
    """Return pictures of one to three drawn people each, side by side, on noise."""
    rng = np.random.default_rng(seed)
    return [_picture(rng, width, height, f"figure{n}") for n in range(count)]


def _picture(rng: np.random.Generator, width: int, height: int, key: str) -> Photo:
    small = rng.integers(0, 255, (5, 8, 3), dtype=np.uint8)
    image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC) // 2
    people = int(rng.integers(1, 4))
    joints = np.zeros((people, len(JOINTS_2D), 3), np.float32)
    for n in range(people):
        tall = height * rng.uniform(0.6, 0.9)
        left = width * (n + rng.uniform(0.4, 0.6)) / people
        at = _pose(rng) * tall + (left, (height - tall) * rng.uniform(0.2, 0.8))
        joints[n, :, :2], joints[n, :, 2] = at, 2
    joints[..., 2] *= ((joints[..., :2] >= 0) & (joints[..., :2] < (width, height))).all(-1)
    joints = with_middles(joints)
    for person in joints:
        _paint(image, person, rng)
    boxes = []
    for person in joints:
        seen = person[person[:, 2] > 0, :2]
        low, high = seen.min(0) - 4, seen.max(0) + 4
        boxes.append([*low, *(high - low)])
    return photo(image, key, "figures", joints, box_px=np.array(boxes, np.float32))


def _pose(rng: np.random.Generator) -> Array:
    """Return (K, 2): the standing person with arms and legs turned at random."""
    at = np.zeros((len(JOINTS_2D), 2))
    for name, xy in _STANDING.items():
        at[INDEX_2D[name]] = xy
    for first, second, third in _CHAINS:
        a, b, c = (INDEX_2D[n] for n in (first, second, third))
        reach = 1.2 if "shoulder" in first else 0.4
        turn = rng.uniform(-reach, reach, 2)
        upper, lower = at[b] - at[a], at[c] - at[b]
        at[b] = at[a] + _turned(upper, turn[0])
        at[c] = at[b] + _turned(lower, turn.sum())
    return at


def _turned(v: Array, angle: float) -> Array:
    return np.array([v[0] * np.cos(angle) - v[1] * np.sin(angle),
                     v[0] * np.sin(angle) + v[1] * np.cos(angle)])  # fmt: skip


def _paint(image: Array, person: Array, rng: np.random.Generator) -> None:
    """Draw limbs, each in its own colour, so that left and right can be told apart."""
    body = rng.uniform(0.7, 1.0)
    for n, (a, b) in enumerate(LIMBS):
        if person[a, 2] and person[b, 2]:
            hue = np.array([[[n * 180 // len(LIMBS), 200, int(250 * body)]]], np.uint8)
            colour = [int(v) for v in cv2.cvtColor(hue, cv2.COLOR_HSV2BGR)[0, 0]]
            ends = [tuple(int(v) for v in person[k, :2].round()) for k in (a, b)]
            cv2.line(image, ends[0], ends[1], colour, 3, cv2.LINE_AA)
