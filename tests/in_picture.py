"""How still joints in the picture are, and how right, as they came and smoothed.

    python -m tests.in_picture [VIDEO]... [--model NAME|FILE]

Runs the sample clip, whose true joints are known, and any videos given, with `--smooth none` and
as recordings are by default. All as shares of the longer side of the person's box: how far a shown
joint is from the true one (the mean of those nearer than a fifth; the share of those farther than a
tenth), and by how much its step from frame to frame changes (median, 95th percentile).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manypose.app.formats.reading import Run, load_run
from manypose.app.main import main as manypose
from manypose.app.motion import read_motion
from tests.accuracy import SAMPLE

_FAR, _WRONG = 0.2, 0.1
_WHO = 0.3  # median distance of a person's joints from the true ones of somebody, at most

Floats = NDArray[np.floating]


def _shown(run: Run, rows: NDArray[np.intp]) -> Floats:
    """Return the joints (n, K, 2) px of rows, NaN where they are not shown."""
    found = run.kp2d[rows].astype(float)
    return np.where(found[..., 2:] > 0, found[..., :2], np.nan)


def jitter(run: Run) -> tuple[float, float]:
    """Return median and 95th percentile of the second difference, as shares of the person."""
    bends = []
    for track_id in np.unique(run.id):
        rows = run.person(int(track_id))
        side = np.nanmedian(run.box[rows, 2:].max(1))
        bend = np.diff(_shown(run, rows), n=2, axis=0) / side
        steps = np.diff(run.row_frame[rows])
        bends.append(bend[(steps[1:] == 1) & (steps[:-1] == 1)].reshape(-1, 2))
    size = np.linalg.norm(np.concatenate(bends), axis=-1)
    middle, high = np.nanpercentile(size, (50, 95))
    return float(middle), float(high)


def errors(run: Run, truth: Floats) -> Floats:
    """Return how far shown joints are from the true ones (F, P, K, 2), as shares of the person."""
    out = []
    for row, frame in enumerate(run.row_frame):
        px = _shown(run, np.array([row]))[0]
        away = np.linalg.norm(truth[frame] - px, axis=-1)
        if np.isfinite(away).any():
            there = np.where(np.isfinite(truth[frame]), truth[frame], np.nan)
            side = (np.nanmax(there, 1) - np.nanmin(there, 1)).max(-1)
            share = away / side[:, None]
            who = int(np.nanmedian(share, 1).argmin())
            if np.nanmedian(share[who]) < _WHO:
                out.append(share[who][np.isfinite(share[who])])
    return np.concatenate(out)


def main() -> int:
    """Print a row for every video and way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="*", type=Path, metavar="VIDEO")
    parser.add_argument("--model", default="light")
    args = parser.parse_args()
    sys.stdout.write(
        "| video | smoothed | off by % | wrong % | jitter % | 95th percentile % |\n"
        "|---|---|---|---|---|---|\n"
    )
    for video in (SAMPLE[0], *args.videos):
        for how, words in (("no", ["--smooth", "none"]), ("as recordings are", [])):
            with tempfile.TemporaryDirectory() as work:
                given = ["run", str(video), "-o", work, "--model", args.model, "--format", "npz"]
                with contextlib.redirect_stdout(io.StringIO()):
                    code = manypose([*given, *words, "-q"])
                if code != 0:
                    return code
                run = load_run(Path(work) / video.stem)
            right = ["-", "-"]
            if video == SAMPLE[0]:
                away = errors(run, read_motion(SAMPLE[1]).joints_px)
                right = [
                    f"{100 * away[away < _FAR].mean():.2f}",
                    f"{100 * (away > _WRONG).mean():.1f}",
                ]
            still = [f"{100 * v:.2f}" for v in jitter(run)]
            sys.stdout.write(f"| {video.name} | {how} | {' | '.join(right + still)} |\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
