"""coco.json: the 17 COCO key points as a results list that COCO's own tools score.

image_id is the number in a picture's name (its stem if that is no number), of a video the frame
index. A missing joint is 0, 0, 0 here and only here: COCO's scorer takes NaN for a perfect hit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import IO, Any

import numpy as np

from manypose.app.formats.part import WholeText
from manypose.pose.joints import COCO_NAMES
from manypose.pose.records import FrameResult, TrackedPerson

_N = len(COCO_NAMES)


class CocoWriter:
    """Writes coco.json."""

    def __init__(self, folder: Path, meta: Mapping[str, Any]) -> None:
        self.path = folder / "coco.json"
        self._ids = [image_id(name) for name in meta.get("files") or ()]
        self._whole = WholeText(self.path)
        self._file: IO[str]
        self._first = True

    def __enter__(self) -> CocoWriter:
        self._file = self._whole.__enter__()
        self._file.write("[")
        return self

    def write(self, result: FrameResult) -> None:
        """Take the result of the next frame."""
        index = result.frame.index
        for person in result.people:
            entry = {
                "image_id": self._ids[index] if self._ids else index,
                "category_id": 1,
                "keypoints": keypoints(person),
                "score": round(float(person.score), 5),
                "track_id": person.track_id,
            }
            self._file.write("\n" if self._first else ",\n")
            self._file.write(json.dumps(entry, ensure_ascii=False, allow_nan=False))
            self._first = False

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            self._file.write("\n]\n")
        finally:
            self._whole.__exit__(kind, error, traceback)


def keypoints(person: TrackedPerson) -> list[float]:
    """Return x, y, confidence of the 17 COCO key points in a row, 0 0 0 where missing."""
    points = np.column_stack([person.joints_px, person.confidence])[:_N].astype(np.float64)
    points[~np.isfinite(points).all(1) | (points[:, 2] <= 0)] = 0
    return [float(v) for v in np.round(points, 3).ravel()]


def image_id(name: str) -> int | str:
    """Return the number that a picture's name is, or its stem."""
    stem = PurePath(name).stem
    return int(stem) if stem.isascii() and stem.isdigit() else stem
