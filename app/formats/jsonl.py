"""pose.jsonl: one JSON object for each frame, readable line by line while it grows.

{"schema", "frame", "t", "persons": [{"id", "score", "box", "kp2d", "kp3d", "state", "root"}]};
missing numbers are null, a frame without people has an empty list.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from manypose.app.formats import SCHEMA
from manypose.app.formats.part import WholeText
from manypose.pose.joints import ROOT
from manypose.pose.records import Float, FrameResult

PX_DIGITS, M_DIGITS = 3, 5  # 0.001 px and 0.01 mm: far below what is measured


class JsonlWriter:
    """Writes pose.jsonl."""

    def __init__(self, folder: Path, meta: Mapping[str, Any]) -> None:
        self.path = folder / "pose.jsonl"
        self._whole = WholeText(self.path)
        self._file: IO[str]

    def __enter__(self) -> JsonlWriter:
        self._file = self._whole.__enter__()
        return self

    def write(self, result: FrameResult) -> None:
        """Take the result of the next frame."""
        self._file.write(json.dumps(frame_object(result), allow_nan=False) + "\n")
        # A killed program leaves whole lines: the buffer goes out before the next frame.
        self._file.flush()

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._whole.__exit__(kind, error, traceback)


def frame_object(result: FrameResult) -> dict[str, Any]:
    """Return a result as plain Python values, fit for JSON (no NaN)."""
    return {
        "schema": SCHEMA,
        "frame": result.frame.index,
        "t": round(result.frame.time_s, 6),
        "persons": [
            {
                "id": p.track_id,
                "score": round(float(p.score), 4),
                "box": numbers(p.box_px, PX_DIGITS),
                "kp2d": numbers(np.column_stack([p.joints_px, p.confidence]), PX_DIGITS),
                "kp3d": numbers(p.joints_m, M_DIGITS),
                "state": p.state.tolist(),
                "root": numbers(p.joints_m[ROOT], M_DIGITS),
            }
            for p in result.people
        ],
    }


def numbers(array: Float, digits: int) -> list[Any]:
    """Return an array as nested lists of rounded floats, None for what is not finite."""
    rounded = np.round(array.astype(np.float64), digits)
    finite = np.isfinite(rounded)
    if finite.all():
        return list(rounded.tolist())
    holed = rounded.astype(object)
    holed[~finite] = None
    return list(holed.tolist())
