"""Files for other programs, one module each; `EXPORTERS` is the list the command line reads.

An exporter takes a stored run, a folder and `Options`, and returns the files it wrote. Every one
converts axes and units itself from what the run holds: metres in the camera frame, true times.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from manypose.app.formats.reading import Run


@dataclass(frozen=True, slots=True)
class Options:
    """How to export.

    rate_hz: frames per second of constant-rate formats, 0 = the source's own; up: "y" or "z", ""
    = what the format's readers expect; units: "m" or "mm", "" = the format's usual; max_gap_s:
    longer holes in a track are left open (NaN) or held, shorter ones are bridged by straight
    lines; ground: put the lowest steps on height 0 where the floor is not known; ids: only these
    people (empty: all).
    """

    rate_hz: float = 0.0
    up: str = ""
    units: str = ""
    max_gap_s: float = 0.25
    ground: bool = True
    ids: tuple[int, ...] = ()

    @staticmethod
    def of(told: Mapping[str, Any]) -> Options:
        """Return the options that a run's meta.json tells of, the usual ones where it does not."""
        known = {f.name for f in fields(Options)}
        chosen = {k: v for k, v in told.items() if k in known}
        return Options(**{**chosen, "ids": tuple(chosen.get("ids", ()))})


Exporter = Callable[[Run, Path, Options], "list[Path]"]

# Name on the command line -> (module with `export`, one line of help).
EXPORTERS: dict[str, tuple[str, str]] = {
    "bvh": ("manypose.app.exports.bvh", "BVH, a file per person: Blender, MotionBuilder, Maya"),
    "trc": ("manypose.app.exports.trc", "TRC markers, a file per person: OpenSim"),
    "mot": ("manypose.app.exports.mot", "OpenSim MOT: named joint angles, a file per person"),
    "c3d": ("manypose.app.exports.c3d", "C3D points, a file per person (extra: biomech)"),
    "glb": ("manypose.app.exports.glb", "glTF 2.0 binary: all people as animated bones"),
    "openpose": ("manypose.app.exports.openpose", "OpenPose BODY_25 JSON, a file per frame"),
    "motchallenge": ("manypose.app.exports.motchallenge", "MOTChallenge text, boxes and ids"),
    "parquet": ("manypose.app.exports.parquet", "Parquet table, a row per joint (needs pyarrow)"),
}


# Name -> what its files are called, relative to the folder.
_FILES: dict[str, str] = {
    **{name: rf"person_\d+\.{name}" for name in ("bvh", "trc", "mot", "c3d")},
    "glb": r"people\.glb",
    "openpose": r"openpose/.+_\d{12}_keypoints\.json",
    "motchallenge": r"motchallenge\.txt",
    "parquet": r"pose\.parquet",
}


def made_in(folder: Path) -> dict[str, list[Path]]:
    """Return the files of earlier exports in a folder by format, those that are there."""
    found: dict[str, list[Path]] = {}
    for path in sorted([*folder.glob("*"), *folder.glob("openpose/*")]):
        for name, pattern in _FILES.items():
            if re.fullmatch(pattern, path.relative_to(folder).as_posix()):
                found.setdefault(name, []).append(path)
    return found


def exporter(name: str) -> Exporter:
    """Return the exporter of that name, a key of `EXPORTERS`."""
    function: Exporter = importlib.import_module(EXPORTERS[name][0]).export
    return function
