"""2D joints that the fitted body contradicts: how many of them were wrong.

    python -m tests.off_body [--model NAME|FILE] [--sequence CLIP TRUTH]... [--part PART]...

Follows the people of clips with true joints twice, with and without `readings.off_body`. PART is
a rendered sequence (`manypose train render --sequence`). Joints nearer than a tenth of the
person's longer side to the true one count as right, those farther than a fifth as wrong. Half a
minute of one core for the sample clip.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from manypose.app.config import load_config
from manypose.app.motion import read_motion
from manypose.app.pipeline import Engine, load_engine
from manypose.app.sources import open_source
from manypose.calib.camera import Camera
from manypose.models.train.synth.pack import read_part
from manypose.pose import readings
from manypose.pose.estimator import Follower
from manypose.pose.records import Detections, Frame, TrackedPerson
from tests.accuracy import SAMPLE

RIGHT, WRONG = 0.1, 0.2
_WHO = 0.3  # mean distance of the joints of a person found from those of a true one, at most

Floats = NDArray[np.floating]
Shot = tuple[Detections, Floats]  # what was found in a frame, and the true joints (P, K, 2) px


def of_clip(video: Path, truth: Path, engine: Engine) -> list[Shot]:
    """Return what the network finds in a clip beside the truth."""
    motion = read_motion(truth)
    with contextlib.closing(open_source(str(video), load_config())) as source:
        return [(engine.detector([f])[0], motion.joints_px[n]) for n, f in enumerate(source)]


def of_part(part: Path, engine: Engine) -> Iterator[Shot]:
    """Yield what the network finds in a rendered sequence beside the truth."""
    for n, p in enumerate(read_part(part)):
        height, width = p.image.shape[:2]
        frame = Frame(np.ascontiguousarray(p.image), n / 30, n, Camera.from_fov(width, height))
        yield engine.detector([frame])[0], p.joints_px.astype(float)


def errors(shots: Sequence[Shot], engine: Engine) -> tuple[Floats, Floats]:
    """Return how far joints shown as seen are from the true ones, as shares of the person's side.

    Those that stay and those that are dropped.
    """
    loose, strict = Follower(lift=engine.lift), Follower(lift=engine.lift)
    stay, dropped = list[float](), list[float]()
    for detections, truth in shots:
        # as they were read, neither dropped nor drawn near the body
        with mock.patch.multiple(readings, _ASTRAY=np.inf, _LOOSE=np.inf):
            everything = loose(detections).people
        kept = {p.track_id: p for p in strict(detections).people}
        for person in everything:
            error = _error(person, truth)
            if error is not None and person.track_id in kept:
                seen = np.isfinite(error)
                there = kept[person.track_id].confidence > 0
                stay += error[seen & there].tolist()
                dropped += error[seen & ~there].tolist()
    return np.array(stay), np.array(dropped)


def _error(person: TrackedPerson, truth: Floats) -> Floats | None:
    """Return the errors (K,) of a person's seen joints, NaN otherwise; None: nobody is there."""
    seen = np.isfinite(person.joints_px).all(-1)
    truth = truth[np.isfinite(truth[:, seen]).all((1, 2))]
    if not seen.any() or not len(truth):
        return None
    away = np.linalg.norm(truth - person.joints_px, axis=-1)
    side = np.nanmax(np.nanmax(truth, 1) - np.nanmin(truth, 1), 1)
    share = away / side[:, None]
    who = int(np.nanmean(share, 1).argmin())
    return np.asarray(share[who]) if np.nanmean(share[who]) < _WHO else None


def main() -> int:
    """Print a row for every sequence."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="light")
    parser.add_argument("--sequence", nargs=2, type=Path, action="append", metavar="FILE")
    parser.add_argument("--part", type=Path, action="append", default=[])
    args = parser.parse_args()
    engine = load_engine(load_config([("model.name", args.model), ("model.threads", "1")]))
    jobs = {p[0].name: of_clip(*p, engine) for p in args.sequence or [SAMPLE]}
    jobs |= {p.stem: list(of_part(p, engine)) for p in args.part}
    sys.stdout.write(
        "| sequence | joints seen | of them wrong | dropped | of these wrong | right | wrong of the"
        " rest |\n|---|---|---|---|---|---|---|\n"
    )
    for name, shots in jobs.items():
        stay, dropped = errors(shots, engine)
        both = np.concatenate([stay, dropped])
        row = (np.mean(both > WRONG), np.mean(dropped > WRONG), np.mean(dropped < RIGHT),
               np.mean(stay > WRONG))  # fmt: skip
        wrong, hit, right, left = (f"{100 * v:.1f} %" for v in row)
        sys.stdout.write(
            f"| {name} | {len(both)} | {wrong} | {len(dropped)} | {hit} | {right} | {left} |\n"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
