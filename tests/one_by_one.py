"""What a look at each person is worth in videos: identities and poses in the mean of many runs.

    python -m tests.one_by_one [PART]... [--model NAME|FILE]

The sample clip and rendered sequences (`manypose train render --sequence`) go through the program
as it records and as it runs live, without a look at each person and as shipped. Who is who where
people cross hangs on single frames, so one run says little: each sequence is read by three files of
the network (int8 of ONNX Runtime and of OpenVINO, fp32) and all is averaged. Recordings are scored
before they are smoothed as a whole. About two minutes for each sequence of 150 frames.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from manypose.app import stages
from manypose.app.config import load_config
from manypose.app.glances import found_in
from manypose.app.motion import Motion, read_motion
from manypose.app.pipeline import Engine, for_live, load_engine
from manypose.app.sources import open_source
from manypose.app.stage_figures import Found, figures
from manypose.pose.joints import JOINTS, JOINTS_2D
from manypose.pose.records import Frame
from manypose.pose.tracking_scores import tracking_scores
from tests.accuracy import SAMPLE, rendered, row

_FILES = (("onnx", "int8"), ("openvino", "int8"), ("openvino", "fp32"))
_ROWS = (
    ("recorded, nobody is looked at alone", False, ("model.portraits", "never")),
    ("recorded", False, ("model.portraits", "auto")),
    ("live, nobody is looked at alone", True, ("model.portraits", "never")),
    ("live, few people in every frame", True, ("model.glances", "0")),
    ("live", True, ("model.glances", "2")),
)


def run(engine: Engine, motion: Motion, frames: Sequence[Frame], live: bool) -> list[float]:
    """Return the scores of one run, and the share of frames that were seen as a whole."""
    follower = engine.follower()
    glances = engine.glances(follower) if live else None
    out, sightings, whole = np.full(motion.joints_m.shape, np.nan), [], 0
    for n, frame in enumerate(frames):
        (found,), asked = found_in([(glances, frame)], engine.detector)
        whole += len(asked)
        people = follower(found).people
        px = np.array([p.joints_px for p in people]).reshape(-1, len(JOINTS_2D), 2)
        joints = np.array([p.joints_m for p in people]).reshape(-1, len(JOINTS), 3)
        ids = np.array([p.track_id for p in people], int)
        sightings.append(stages._place_people(motion, n, px, joints, ids, out))
    who, how = tracking_scores(sightings), figures(Found(out, sightings), motion, 1.0)
    return [
        100 * how["found_share"], how["mpjpe_mm"], how["pa_mpjpe_mm"], how["jitter_at_rest_mm"],
        who["IDF1"], who["HOTA"], 100 * whole / len(frames),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", type=Path, metavar="PART")
    parser.add_argument("--model", default="light", metavar="NAME|FILE")
    args = parser.parse_args()
    with contextlib.closing(open_source(str(SAMPLE[0]), load_config())) as source:
        sequences = [(read_motion(SAMPLE[1]), list(source))]
    sequences += [rendered(part) for part in args.parts]
    sys.stdout.write(
        f"\n{len(sequences)} sequences, each by {len(_FILES)} files\n\n| | found | MPJPE mm | after"
        " Procrustes mm | jitter at rest mm | IDF1 | HOTA | seen as a whole |\n"
        "|---|---|---|---|---|---|---|---|\n"
    )
    for name, live, setting in _ROWS:
        scores = []
        for backend, precision in _FILES:
            words = [("model.name", args.model), ("model.backend", backend), setting,
                     ("model.precision", precision), ("model.threads", "1")]  # fmt: skip
            config = load_config(words)
            engine = load_engine(for_live(config) if live else config)
            scores += [run(engine, motion, frames, live) for motion, frames in sequences]
        found, mpjpe, pa, jitter, idf1, hota, whole = np.nanmean(scores, 0).tolist()
        row(
            name, (found, "{:.0f} %"), (mpjpe, "{:.0f}"), (pa, "{:.0f}"), (jitter, "{:.1f}"),
            (idf1, "{:.2f}"), (hota, "{:.2f}"), (whole, "{:.0f} %"),
        )  # fmt: skip


if __name__ == "__main__":
    main()
