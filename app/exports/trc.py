"""TRC marker files for OpenSim, a file per person: constant rate, y up, metres or millimetres.

Frames of a gap have empty cells, which OpenSim reads as missing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manypose.app.exports import Options
from manypose.app.exports.motion import Motion, motions, source_rate, turned
from manypose.app.formats.part import WholeText
from manypose.app.formats.reading import Run
from manypose.pose.joints import JOINTS


def export(run: Run, folder: Path, options: Options) -> list[Path]:
    """Write person_<id>.trc for everybody and return the files."""
    written = []
    for motion in motions(run, options):
        path = folder / f"person_{motion.id}.trc"
        with WholeText(path) as file:
            file.write(text(motion, path.name, options, source_rate(run)))
        written.append(path)
    return written


def text(motion: Motion, name: str, options: Options, source_hz: float) -> str:
    """Return the whole TRC file of one motion."""
    units = options.units or "m"
    points = turned(motion.joints_m, options.up or "y") * (1000 if units == "mm" else 1)
    rate, frames = f"{motion.rate_hz:.6g}", len(motion)
    first = round(float(motion.time_s[0]) * motion.rate_hz) + 1
    lines = [
        f"PathFileType\t4\t(X/Y/Z)\t{name}",
        "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\t"
        "OrigNumFrames",
        f"{rate}\t{rate}\t{frames}\t{len(JOINTS)}\t{units}\t{source_hz:.6g}\t{first}\t{frames}",
        "Frame#\tTime\t" + "\t\t\t".join(JOINTS) + "\t\t",
        "\t\t" + "\t".join(f"X{i}\tY{i}\tZ{i}" for i in range(1, len(JOINTS) + 1)),
        "",
    ]
    for i in range(frames):
        cells = ["" if np.isnan(v) else f"{v:.6f}" for v in points[i].ravel()]
        # OpenSim takes no notice of an empty cell that a line ends with: a tab more ends it
        cells += [""] if not cells[-1] else []
        lines.append(f"{i + 1}\t{motion.time_s[i]:.6f}\t" + "\t".join(cells))
    return "\n".join(lines) + "\n"
