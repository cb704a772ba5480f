"""C3D point files, one per person: millimetres, z up unless told otherwise, NaN in gaps."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manypose.app.exports import Options
from manypose.app.exports.motion import motions, turned
from manypose.app.formats.reading import Run
from manypose.errors import DeviceError
from manypose.pose.joints import JOINTS


def export(run: Run, folder: Path, options: Options) -> list[Path]:
    """Write person_<id>.c3d for everybody and return the files.

    Raises:
        DeviceError: the package ezc3d is not installed.
    """
    try:
        import ezc3d
    except ImportError as e:
        raise DeviceError("C3D needs ezc3d: pip install 'manypose[biomech]'") from e
    units = options.units or "mm"
    written = []
    for motion in motions(run, options):
        points = turned(motion.joints_m, options.up or "z") * (1000 if units == "mm" else 1)
        c3d = ezc3d.c3d()
        c3d["header"]["points"]["frame_rate"] = motion.rate_hz
        c3d["parameters"]["POINT"]["RATE"]["value"] = [motion.rate_hz]
        c3d["parameters"]["POINT"]["LABELS"]["value"] = list(JOINTS)
        c3d["parameters"]["POINT"]["UNITS"]["value"] = [units]
        homogeneous = np.ones((4, len(JOINTS), len(motion)))
        homogeneous[:3] = points.transpose(2, 1, 0)
        c3d["data"]["points"] = homogeneous
        path = folder / f"person_{motion.id}.c3d"
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.stem}.part.c3d")  # ezc3d insists on its ending
        c3d.write(str(part))
        part.replace(path)
        written.append(path)
    return written
