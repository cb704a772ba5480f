"""pose.csv: one line for each joint of each person in each frame.

Header: frame,t,id,joint,x_px,y_px,conf,x_m,y_m,z_m,state. Joints that exist in 3D only have empty
pixels, face points empty metres; an empty field is a missing value.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from manypose.app.formats.part import WholeText
from manypose.pose.joints import INDEX, INDEX_2D, JOINTS, JOINTS_2D, STATE_NAMES
from manypose.pose.records import Float, FrameResult

HEADER = "frame,t,id,joint,x_px,y_px,conf,x_m,y_m,z_m,state"
# Every joint once: those in 3D, then those only the picture has; (name, 2D index, 3D index).
JOINT_ROWS: tuple[tuple[str, int, int], ...] = tuple(
    (name, INDEX_2D.get(name, -1), INDEX.get(name, -1))
    for name in (*JOINTS, *(n for n in JOINTS_2D if n not in INDEX))
)


class CsvWriter:
    """Writes pose.csv."""

    def __init__(self, folder: Path, meta: Mapping[str, Any]) -> None:
        self.path = folder / "pose.csv"
        self._whole = WholeText(self.path)
        self._file: IO[str]

    def __enter__(self) -> CsvWriter:
        self._file = self._whole.__enter__()
        self._file.write(HEADER + "\n")
        return self

    def write(self, result: FrameResult) -> None:
        """Take the result of the next frame."""
        start = f"{result.frame.index},{result.frame.time_s:.6f},"
        lines = []
        for person in result.people:
            pixels = _texts(person.joints_px, 3)
            metres = _texts(person.joints_m, 5)
            for name, k, j in JOINT_ROWS:
                conf = f"{person.confidence[k]:.3f}" if k >= 0 else ""
                known = person.state[j] if j >= 0 else int(person.confidence[k] > 0)
                lines.append(
                    f"{start}{person.track_id},{name},{pixels[k] if k >= 0 else ','},{conf},"
                    f"{metres[j] if j >= 0 else ',,'},{STATE_NAMES[known]}\n"
                )
        self._file.writelines(lines)

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._whole.__exit__(kind, error, traceback)


def _texts(points: Float, digits: int) -> list[str]:
    """Return each point as comma-separated text; a point that is not finite has empty fields."""
    finite = np.isfinite(points).sum(1) == points.shape[1]
    empty = "," * (points.shape[1] - 1)
    return [
        ",".join(f"{v:.{digits}f}" for v in point) if ok else empty
        for point, ok in zip(points.tolist(), finite)
    ]
