"""Files for other programs, one module each; `EXPORTERS` is the list the command line reads.

An exporter takes a stored run, a folder and `Options`, and returns the files it wrote. Every one
converts axes and units itself from what the run holds: metres in the camera frame, true times.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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


def exporter(name: str) -> Exporter:
    """Return the exporter of that name, a key of `EXPORTERS`."""
    function: Exporter = importlib.import_module(EXPORTERS[name][0]).export
    return function
