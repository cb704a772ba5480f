"""The verb ``rescale``: give a finished run the true size of a person.

One camera sees directions, not sizes: bodies of another height at a distance in the same ratio give
the same picture. So a run is rescaled by multiplying every position in the camera frame; pixels,
times and rotations stay. The factor is told to meta.json; exports in the folder are made anew.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.app.formats.reading import Run, load_run
from manypose.app.rewrite import IN_3D, refresh, write_run
from manypose.errors import UsageError
from manypose.pose.joints import MIRROR, PARENT
from manypose.pose.skeleton import stature_m

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("run", metavar="RUN", help="folder written by manypose run")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--height", type=float, metavar="M", help="true body height in metres")
    size.add_argument("--scale", type=float, metavar="X", help="factor for every position")
    parser.add_argument("--id", type=int, metavar="N", help="only this person")
    parser.add_argument("-o", "--output", metavar="DIR", help="new folder (default: in place)")


def run(args: argparse.Namespace) -> int:
    """Rescale a run; prints its folder."""
    stored = load_run(args.run)
    ids = sorted({int(i) for i in stored.id})
    if args.id is not None and args.id not in ids:
        raise UsageError(f"--id {args.id}: nobody has this number; there are {ids or 'no people'}")
    chosen = ids if args.id is None else [args.id]
    if args.height is not None and not 0.3 <= args.height <= 2.8:
        raise UsageError(f"--height {args.height:g}: metres, as in 1.80 (0.3 to 2.8)")
    if args.scale is not None and not 0.01 <= args.scale <= 100:
        raise UsageError(f"--scale {args.scale:g}: it must lie between 0.01 and 100")
    factors = {}
    for track_id in chosen:
        if args.scale is not None:
            factors[track_id] = float(args.scale)
            continue
        now_m = body_height_m(stored, track_id)
        if now_m is None:
            log.warning("person %d: never seen well enough to be measured, left as is", track_id)
            continue
        factors[track_id] = args.height / now_m
    folder = stored.folder if args.output is None else Path(args.output)
    write_run(rescaled(stored, factors), folder, IN_3D)
    refresh(folder)
    for track_id, factor in factors.items():
        log.info("person %d: positions times %.4f", track_id, factor)
    sys.stdout.write(f"{folder}\n")
    return 0


def body_height_m(stored: Run, track_id: int) -> float | None:
    """Return the standing height a person has in a run, from the medians of the bone lengths.

    A bone that was never seen is taken from the other side; None if both are unknown.
    """
    joints = stored.kp3d[stored.person(track_id)]
    lengths = np.zeros(len(PARENT))
    for child, parent in enumerate(PARENT):
        if parent >= 0:
            span = np.linalg.norm(joints[:, child] - joints[:, parent], axis=1)
            span = span[np.isfinite(span)]
            lengths[child] = np.median(span) if len(span) else np.nan
    lengths = np.where(np.isnan(lengths), lengths[list(MIRROR)], lengths)
    height = float(stature_m(lengths))
    return height if np.isfinite(height) else None


def rescaled(stored: Run, factors: dict[int, float]) -> Run:
    """Return the run with each person's positions multiplied by the person's factor."""
    factor = np.array([factors.get(int(i), 1.0) for i in stored.id], np.float64)
    kp3d: NDArray[Any] = (stored.kp3d * factor[:, None, None]).astype(np.float32)
    root: NDArray[Any] = (stored.root * factor[:, None]).astype(np.float32)
    before = stored.meta.get("rescaled") or {}
    told = {str(i): round(float(before.get(str(i), 1.0)) * f, 6) for i, f in factors.items()}
    meta = {**stored.meta, "scale_source": "rescaled", "rescaled": {**before, **told}}
    return dataclasses.replace(stored, kp3d=kp3d, root=root, meta=meta)
