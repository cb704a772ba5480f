"""People far from the camera: what a second look at their part of the picture is worth.

    python -m tests.long_shots [--model NAME|FILE]
    python -m tests.long_shots --write far.mp4

The pictures of the sample clip in the middle of larger grey ones, as if the camera stood farther
away; everything after the network is as in a run. About two minutes of one core. The second form
writes such a clip, 1920x1080, its pictures half as wide and high, to measure rates with.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np

from manypose.app.config import load_config
from manypose.app.motion import Motion, read_motion
from manypose.app.pipeline import load_engine
from manypose.app.sources import open_source
from manypose.app.stage_figures import figures
from manypose.calib.camera import Camera
from manypose.models.preprocess import BORDER
from manypose.pose.estimator import FollowerConfig
from manypose.pose.records import Frame
from tests.accuracy import SAMPLE, followed

WARM_UP_S = 1.0


def afar(share: float) -> tuple[Motion, list[Frame]]:
    """Return the clip with its pictures so large a part of wider ones, and its truth there."""
    motion = read_motion(SAMPLE[1])
    frames = []
    left = top = 0
    with contextlib.closing(open_source(str(SAMPLE[0]), load_config())) as source:
        for f in source:
            h, w = f.shape
            high, wide = (2 * int(side / share / 2) for side in (h, w))
            image = np.full((high, wide, 3), BORDER, np.uint8)
            top, left = (high - h) // 2, (wide - w) // 2
            image[top : top + h, left : left + w] = f.image
            frames.append(Frame(image, f.time_s, f.index, Camera.from_fov(wide, high)))
    K = motion.K.copy()
    corner = np.array([left, top])
    K[:2, 2] += corner
    return replace(motion, joints_px=motion.joints_px + corner, K=K), frames


def write(path: Path) -> None:
    """Write the clip at half its size in pictures of 1920x1080, H.264."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        for frame in afar(0.5)[1]:
            small = cv2.resize(frame.image, (1920, 1080), interpolation=cv2.INTER_AREA)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(small, format="bgr24")))
        container.mux(stream.encode())


def main() -> int:
    """Print a row for each size and number of looks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="light")
    parser.add_argument("--write", type=Path, metavar="FILE")
    args = parser.parse_args()
    if args.write:
        write(args.write)
        return 0
    sys.stdout.write(
        "| picture, share of the sides | looks | found | MPJPE mm | IDF1 |\n|---|---|---|---|---|\n"
    )
    for share in (1.0, 0.5, 0.35):
        motion, frames = afar(share)
        for looks in (1, 2):
            settings = [("model.name", args.model), ("model.threads", "1")]
            engine = load_engine(
                load_config([*settings, ("model.long_shots", ("never", "recorded")[looks - 1])])
            )
            found = [engine.detector([f])[0] for f in frames]
            f = figures(followed(motion, found, FollowerConfig(), engine), motion, WARM_UP_S)
            sys.stdout.write(
                f"| {share:g} | {looks} | {f['found_share']:.0%} | {f['mpjpe_mm']:.0f} |"
                f" {f['idf1']:.2f} |\n"
            )
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
