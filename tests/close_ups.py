"""People before a webcam: how many are found whose head and chest fill the picture.

    python -m tests.close_ups light --val photos:DIR,split=val

Labelled photographs are cut round every person whose nose and shoulders are labelled, so that the
picture is as high as so many times the width of the shoulders; found are they of whom three of
nose, eyes, shoulders and elbows lie within a quarter of that width.
"""

from __future__ import annotations

import argparse
import sys

import cv2
import numpy as np

from manypose.calib.camera import Camera
from manypose.models.front_end import load_front_end
from manypose.models.preprocess import BORDER
from manypose.models.train import readers
from manypose.models.train.packs import decoded
from manypose.pose.joints import INDEX_2D
from manypose.pose.records import Frame

W, H = 640, 400
NOSE, LEFT, RIGHT = (INDEX_2D[n] for n in ("nose", "l_shoulder", "r_shoulder"))
LOOKED_AT = [NOSE, LEFT, RIGHT, *(INDEX_2D[n] for n in ("l_elbow", "r_elbow", "l_eye", "r_eye"))]
SHOULDERS_PX_MIN = 30
NEAR, NEEDED = 0.25, 3
LIVE = 3  # people who are looked at one by one in front of a camera


def cut(picture: np.ndarray, joints: np.ndarray, spans: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the picture cut round a person (H, W, 3), and their joints (K, 3) in it."""
    shoulders = joints[[LEFT, RIGHT], :2]
    high = spans * float(np.hypot(*(shoulders[0] - shoulders[1])))
    left, top = shoulders[:, 0].mean() - 0.8 * high, joints[NOSE, 1] - 0.38 * high
    to = np.array([[H / high, 0, -left * H / high], [0, H / high, -top * H / high]], np.float32)
    moved = joints.copy()
    moved[:, :2] = joints[:, :2] @ to[:, :2].T + to[:, 2]
    return cv2.warpAffine(picture, to, (W, H), borderValue=(BORDER,) * 3), moved


def suits(joints: np.ndarray) -> bool:
    """Return whether nose and shoulders are labelled, upright, and large enough."""
    a, b = joints[LEFT], joints[RIGHT]
    wide = float(np.hypot(*(a - b)[:2]))
    labelled = bool((joints[[NOSE, LEFT, RIGHT], 2] > 0).all())
    upright = abs(a[1] - b[1]) <= 0.6 * wide and joints[NOSE, 1] <= min(a[1], b[1])
    return labelled and wide >= SHOULDERS_PX_MIN and bool(upright)


def main() -> int:
    """Print a row for one look, one for two, and one for these and looks at each person."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--val", nargs="+", required=True, metavar="ADDRESS")
    parser.add_argument("--sure", type=float, default=0.4, help="score from which people count")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    photos = [p for a in args.val for p in readers.open_source(a)]
    sys.stdout.write(
        "| looks | height of the picture, widths of the shoulders | people | found |\n"
    )
    sys.stdout.write("|---|---|---|---|\n")
    for name, two, most in (("one", False, 0), ("two", True, 0), ("and portraits", True, LIVE)):
        front_end = load_front_end(args.model, threads=args.threads, close_ups=two, portraits=most)
        for spans in (2.6, 3.8, 6.0):
            found = []
            for photo in photos:
                people = [j for j in photo.joints_px if suits(j)]
                picture = np.asarray(decoded(photo).picture) if people else None
                for joints in people:
                    image, true = cut(picture, joints, spans)  # type: ignore[arg-type]
                    near_px = NEAR * np.hypot(*(true[LEFT] - true[RIGHT])[:2])
                    frame = Frame(image, 0.0, 0, Camera.from_fov(W, H))
                    shown = [p for p in front_end([frame])[0].people if p.score >= args.sure]
                    right = [
                        (np.hypot(*(p.joints_px - true[:, :2]).T) < near_px) & (true[:, 2] > 0)
                        for p in shown
                    ]
                    found.append(any(r[LOOKED_AT].sum() >= NEEDED for r in right))
            sys.stdout.write(f"| {name} | {spans} | {len(found)} | {np.mean(found):.0%} |\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
