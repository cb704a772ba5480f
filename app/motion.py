"""A run against a sequence with truth in every frame: who is who over time, and how it moves.

The truth is one .npz: joints_m (T, P, 21, 3) m in the camera frame, joints_px (T, P, 20, 2) px,
seen (T, P, 20) 1 = in the picture and not hidden, K (3, 3) px, fps; NaN = not known. Its P people
keep their places; somebody without a seen joint is not there in that frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.app.formats.reading import Run
from manypose.app.truth import TruthFrame, TruthSequence
from manypose.errors import ARCHIVE_DAMAGE, SourceError
from manypose.pose import metrics
from manypose.pose.joints import INDEX, JOINTS, JOINTS_2D, PARENT, ROOT, SHOWN_BY
from manypose.pose.scores_2d import oks
from manypose.pose.tracking_scores import Sightings, tracking_scores

Float = NDArray[np.floating[Any]]

_FEET = [INDEX[n] for n in ("l_ankle", "r_ankle", "l_foot", "r_foot")]
_SHOULDERS = [INDEX["l_shoulder"], INDEX["r_shoulder"]]
_AT_REST_M_S = 0.05
_STANDING_M_S = 0.1
_OKS_MIN = 0.5
_AREA_OF_BOX = 0.53  # of a person's outline


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """True people over time: arrays as in the module's text, times_s (T,)."""

    name: str
    joints_m: Float
    joints_px: Float
    seen: NDArray[np.bool_]
    K: Float
    times_s: Float

    def sequence(self, width_px: float | None) -> TruthSequence:
        """Return it as frames of labelled pictures; None: the principal point is the middle."""
        shown = np.array(SHOWN_BY)
        frames: dict[str | int, TruthFrame] = {}
        for n in range(len(self.joints_m)):
            there = self.seen[n].any(1)
            px = np.where((shown >= 0)[:, None], self.joints_px[n][there][:, shown], np.nan)
            neck = self.joints_m[n, there, INDEX["neck"]] @ self.K.T  # not where 2D puts it
            px[:, INDEX["neck"]] = neck[:, :2] / neck[:, 2:]
            hidden = (shown >= 0) & ~self.seen[n][there][:, shown]
            nowhere = np.zeros((0, 4))
            frames[n] = TruthFrame(self.joints_m[n, there], px, hidden, nowhere, self.K)
        width = width_px or 2 * float(self.K[0, 2]) + 1
        return TruthSequence(self.name, width, frames, first=0)


def read_motion(file: Path) -> Motion:
    """Return the truth of a sequence.

    Raises:
        SourceError: the file cannot be read or lacks a part.
    """
    try:
        # Opened here: numpy leaves the file open when it is no archive.
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as z:
            joints_m, joints_px = z["joints_m"].astype(float), z["joints_px"].astype(float)
            seen, K, fps = z["seen"] > 0, z["K"].astype(float), float(z["fps"])
    except ARCHIVE_DAMAGE as error:
        raise SourceError(f"{file}: not the truth of a sequence ({error}).") from error
    frames, people = seen.shape[:2] if seen.ndim == 3 else (0, 0)
    j, k = len(JOINTS), len(JOINTS_2D)
    shapes = (joints_m.shape, joints_px.shape, seen.shape, K.shape)
    if shapes != ((frames, people, j, 3), (frames, people, k, 2), (frames, people, k), (3, 3)):
        raise SourceError(f"{file}: shapes {shapes} are not those of a sequence's truth.")
    return Motion(file.stem, joints_m, joints_px, seen, K, np.arange(frames) / fps)


def motion_figures(run: Run, truth: Motion) -> dict[str, Any]:
    """Return identity (MOTA, IDF1, HOTA) and motion of a run beside the truth.

    Lengths in mm, accelerations in m/s^2; at rest = true joints slower than 50 mm/s; foot slide =
    horizontal mm/s of feet whose true speed is below 100 mm/s, where the camera stands level.
    """
    sightings, found_m = _follow(run, truth)
    true_m = truth.joints_m
    relative = [m - m[:, :, ROOT : ROOT + 1] for m in (found_m, true_m)]
    result: dict[str, Any] = dict(tracking_scores(sightings))
    result["acceleration_error"] = metrics.acceleration_error(
        relative[0], relative[1], truth.times_s
    )
    speed = np.linalg.norm(np.diff(true_m, axis=0), axis=-1) / np.diff(truth.times_s)[:, None, None]
    rest = np.zeros(true_m.shape[:3], bool)
    rest[1:] = speed < _AT_REST_M_S
    calm = rest[2:] & rest[1:-1]
    bend = np.linalg.norm(np.diff(found_m, n=2, axis=0), axis=-1)
    result["jitter_at_rest_mm"] = 1000 * metrics.mean_error(bend[calm])
    slow = np.zeros((*true_m.shape[:2], len(_FEET)), bool)
    slow[1:] = speed[:, :, _FEET] < _STANDING_M_S
    result["foot_slide_mm_s"] = 1000 * metrics.foot_slide(
        found_m[:, :, _FEET].reshape(len(found_m), -1, 3),
        slow.reshape(len(slow), -1),
        truth.times_s,
    )
    spreads = [
        metrics.bone_length_spread(run.kp3d[run.person(int(i))], PARENT) for i in np.unique(run.id)
    ]
    known = [s for s in spreads if np.isfinite(s)]
    result["bone_length_spread"] = float(np.mean(known)) if known else float("nan")
    result["reprojection_px"] = _reprojection(run)
    return result


def _follow(run: Run, truth: Motion) -> tuple[list[Sightings], Float]:
    """Return what is alike in every frame, and the found joints (T, P, 21, 3) of each person."""
    from scipy.optimize import linear_sum_assignment

    ends = np.searchsorted(run.row_frame, np.arange(len(run.t) + 1))
    row_of = {int(f): n for n, f in enumerate(run.frame)}
    found_m = np.full(truth.joints_m.shape, np.nan)
    sightings = []
    for n in range(len(truth.joints_m)):
        there = np.flatnonzero(truth.seen[n].any(1))
        at = row_of.get(n)
        rows = np.arange(0) if at is None else np.arange(ends[at], ends[at + 1])
        labelled = np.isfinite(truth.joints_px[n, there]).all(-1) & truth.seen[n, there]
        people = np.concatenate([truth.joints_px[n, there], labelled[..., None]], -1)
        found = np.where(run.kp2d[rows, :, 2:] > 0, run.kp2d[rows, :, :2], np.nan)
        alike = np.nan_to_num(oks(found, people, areas(people)).T)
        sightings.append(Sightings(there, run.id[rows], alike))
        for p, q in zip(*linear_sum_assignment(-alike)):
            if alike[p, q] >= _OKS_MIN:
                found_m[n, there[p]] = run.kp3d[rows[q]]
    return sightings, found_m


def areas(people: Float) -> Float:
    """Return the area (M,) px^2 that people (M, K, 3) are thought to cover."""
    seen = people[..., 2:] > 0
    low = np.where(seen, people[..., :2], np.inf).min(1, initial=np.inf)
    high = np.where(seen, people[..., :2], -np.inf).max(1, initial=-np.inf)
    side = np.maximum(high - low, 0)
    area: Float = _AREA_OF_BOX * side[:, 0] * side[:, 1]
    return area


def _reprojection(run: Run) -> float:
    """Return the mean distance, px, of the 3D joints in the picture from the 2D ones."""
    K = run.meta.get("camera", {}).get("K")
    if K is None:
        return float("nan")
    shown = np.array(SHOWN_BY)
    joints = run.kp3d.astype(float)
    joints[:, INDEX["neck"]] = joints[:, _SHOULDERS].mean(1)  # what the 2D neck shows
    points = joints[:, shown >= 0] @ np.array(K, np.float64).T
    with np.errstate(divide="ignore", invalid="ignore"):
        px = points[..., :2] / np.where(points[..., 2:] > 0, points[..., 2:], np.nan)
    kp2d = run.kp2d[:, shown[shown >= 0]]
    apart = np.linalg.norm(px - kp2d[..., :2], axis=-1)
    return metrics.mean_error(np.where(kp2d[..., 2] > 0, apart, np.nan))
