"""MOTChallenge text: frame, id, left, top, width, height, confidence, x, y, z; frames from 1.

x, y, z are the pelvis in the camera frame in metres, -1 where it is missing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manypose.app.exports import Options
from manypose.app.formats.part import WholeText
from manypose.app.formats.reading import Run


def export(run: Run, folder: Path, options: Options) -> list[Path]:
    """Write motchallenge.txt and return it."""
    path = folder / "motchallenge.txt"
    with WholeText(path) as file:
        for frame in run:
            for p in frame.persons:
                if options.ids and p.id not in options.ids:
                    continue
                root = p.root if np.isfinite(p.root).all() else np.full(3, -1.0)
                numbers = ",".join(f"{v:.3f}" for v in (*p.box, p.score, *root))
                file.write(f"{frame.frame + 1},{p.id},{numbers}\n")
    return [path]
