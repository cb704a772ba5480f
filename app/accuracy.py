"""A stored run against truth in 3D: who is who by the 2D joints, then figures in metres.

The protocol is that of MuPoTS-3D (Mehta et al. 2018): people are matched by joints within 40 px
of a picture 1920 px wide, in the order of the annotations; 3DPCK counts joints 0 to 13 nearer
than 150 mm. "all" counts the joints of a person who was not found as misses, "matched" leaves
that person out. "with true bones" rescales found limbs to the true lengths first, as the makers'
script does; every figure is given without it too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.app.formats.reading import Run
from manypose.app.truth import TruthFrame, TruthSequence
from manypose.errors import SourceError
from manypose.pose import metrics
from manypose.pose.joints import INDEX, JOINTS, JOINTS_2D, ROOT, SHOWN_BY

Float = NDArray[np.floating[Any]]

# The tree of the makers' script, for every joint we have.
_PARENTS = (*metrics.MUPOTS_PARENTS, *(INDEX[n] for n in ("r_wrist", "l_wrist")), *(
    INDEX[n] for n in ("r_ankle", "l_ankle")))  # fmt: skip
_SCORED = list(metrics.MUPOTS_SCORED)
_LIMBS = [
    INDEX[f"{side}_{joint}"]
    for side in "lr"
    for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
]


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """All true people of a sequence and who was found for them.

    truth_m, found_m (P, J, 3) m, found NaN where nobody was matched; occluded (P, J); matched (P,);
    refocused_m (P, 3): the found pelvis as the true camera would have placed it; surplus: found
    people without a partner outside the regions to ignore; order: (right, all) pairs of people
    ranked by depth; frames: (scored, in the truth).
    """

    truth_m: Float
    found_m: Float
    occluded: NDArray[np.bool_]
    matched: NDArray[np.bool_]
    refocused_m: Float
    surplus: int
    order: tuple[int, int]
    frames: tuple[int, int]


def pair_up(run: Run, truth: TruthSequence) -> Pairs:
    """Return the people of a run beside those of the truth.

    A picture of the truth that the run does not hold counts as not seen at all.

    Raises:
        SourceError: the run and the truth have no picture in common.
    """
    at = _frame_numbers(run, truth)
    rows_of = np.searchsorted(run.row_frame, np.arange(len(run.t) + 1))
    run_width = float(run.meta.get("camera", {}).get("width") or truth.width_px)
    shown = np.array(SHOWN_BY)
    parts: list[tuple[Any, ...]] = []
    surplus, right, pairs, scored = 0, 0, 0, 0
    for key, frame in truth.frames.items():
        rows = np.arange(0)
        if key in at:
            scored += 1
            rows = np.arange(rows_of[at[key]], rows_of[at[key] + 1])
        pixels = np.where(run.kp2d[rows, :, 2:] > 0, run.kp2d[rows, :, :2], np.nan)
        pixels = pixels * (truth.width_px / run_width)
        found_px = np.where((shown >= 0)[:, None], pixels[:, shown], np.nan)
        found_px[:, INDEX["neck"]] = _neck_px(run, rows, truth.width_px / run_width)
        match = metrics.match_boxes(frame.points_px, found_px, truth.width_px)
        people = len(match)
        found = np.full((people, len(JOINTS), 3), np.nan)
        taken = match >= 0
        found[taken] = run.kp3d[rows[match[taken]]]
        refocused = np.full((people, 3), np.nan)
        refocused[taken] = _refocus(run.root[rows[match[taken]]], run, frame, truth, run_width)
        free = np.setdiff1d(np.arange(len(rows)), match)
        surplus += sum(not _ignored(pixels[n], frame.ignore_px) for n in free)
        ranked = metrics.depth_order(found[taken, ROOT, 2], frame.points_m[taken, ROOT, 2])
        right, pairs = right + ranked[0], pairs + ranked[1]
        parts.append((frame.points_m, found, frame.occluded, taken, refocused))
    if not scored:
        raise SourceError(
            f"{run.folder}: none of its pictures is in {truth.name}; run manypose on the folder of"
            " pictures that the truth belongs to."
        )
    return _pairs(parts, surplus, (right, pairs), (scored, len(truth.frames)))


def _neck_px(run: Run, rows: NDArray[np.intp], scale: float) -> Float:
    """Return where the 3D necks (N, 2) lie in the picture, NaN where they or the lens are unknown.

    The truth's points are its 3D joints; the 2D neck is another point, 5 to 9 cm lower.
    """
    K = run.meta.get("camera", {}).get("K")
    neck = run.kp3d[rows, INDEX["neck"]].astype(float)
    seen = run.kp2d[rows, JOINTS_2D.index("neck"), 2] > 0
    if K is None:
        return np.full((len(rows), 2), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        px = (neck @ np.array(K, float).T)[:, :2] / neck[:, 2:]
    return np.where((seen & (neck[:, 2] > 0))[:, None], px * scale, np.nan)


def _pairs(
    parts: Sequence[tuple[Any, ...]], surplus: int, order: tuple[int, int], frames: tuple[int, int]
) -> Pairs:
    """Return the parts (truth_m, found_m, occluded, matched, refocused_m) one behind the other."""
    truth_m, found_m, occluded, matched, refocused_m = (np.concatenate(c) for c in zip(*parts))
    return Pairs(truth_m, found_m, occluded, matched, refocused_m, surplus, order, frames)


def _frame_numbers(run: Run, truth: TruthSequence) -> dict[str | int, int]:
    """Return the run's frame for each key of the truth."""
    files = run.meta.get("files")
    numbers: dict[str | int, int] = {}
    for row, frame in enumerate(run.frame.tolist()):
        stem = Path(files[frame]).stem if files and 0 <= frame < len(files) else ""
        digits = re.search(r"(\d+)$", stem)
        if truth.first is None:
            numbers[stem] = row
        elif digits:
            numbers[int(digits[1]) - truth.first] = row
        else:
            numbers[frame] = row
    return {key: row for key, row in numbers.items() if key in truth.frames}


def _refocus(
    root_m: Float, run: Run, frame: TruthFrame, truth: TruthSequence, run_width: float
) -> Float:
    """Return pelvises (N, 3) moved to where the true camera sees them: same px, depth by focus."""
    K = run.meta.get("camera", {}).get("K")
    if frame.K is None or K is None:
        return root_m
    scale = truth.width_px / run_width
    used = np.array(K, np.float64)[:2] * scale
    depth = root_m[:, 2:] * frame.K[0, 0] / used[0, 0]
    px = root_m[:, :2] / root_m[:, 2:] * used[[0, 1], [0, 1]] + used[:, 2]
    xy = (px - frame.K[:2, 2]) / frame.K[[0, 1], [0, 1]] * depth
    return np.concatenate([xy, depth], 1)


def _ignored(pixels: Float, boxes: Float) -> bool:
    """Tell whether the middle of a person's joints (K, 2) lies in a region to ignore."""
    seen = pixels[np.isfinite(pixels).all(-1)]
    if not len(seen):
        return True
    x, y = (seen.min(0) + seen.max(0)) / 2
    return bool(((boxes[:, :2] <= (x, y)) & ((x, y) <= boxes[:, 2:])).all(-1).any())


def figures(pairs: Pairs) -> dict[str, Any]:
    """Return all figures of a sequence: shares in [0, 1], lengths in mm, NaN = nothing to count."""
    truth, found, matched = pairs.truth_m, pairs.found_m, pairs.matched
    parents, order, known = _tree(truth)
    truth = np.where(known[:, None], truth, np.nan)
    boned = metrics.with_true_bones(found, truth, parents, order)
    relative = metrics.joint_errors(found, truth, ROOT)
    absolute = metrics.joint_errors(found, truth)
    boned_relative = metrics.joint_errors(boned, truth, ROOT)
    boned_absolute = metrics.joint_errors(boned, truth)
    body = np.delete(np.arange(len(JOINTS)), ROOT)  # the root is 0 by definition
    root = metrics.joint_errors(found[:, [ROOT]], truth[:, [ROOT]])[:, 0]
    depth = np.abs(found[:, ROOT, 2] - truth[:, ROOT, 2])
    refocused = np.linalg.norm(pairs.refocused_m - truth[:, ROOT], axis=-1)
    hidden = np.where(pairs.occluded, relative, np.nan)
    clear = np.where(pairs.occluded, np.nan, relative)
    scored = _SCORED
    result: dict[str, Any] = {
        "frames": pairs.frames[0],
        "frames_missing": pairs.frames[1] - pairs.frames[0],
        "people": len(truth),
        "found": int(matched.sum()),
        "found_share": float(matched.mean()) if len(matched) else float("nan"),
        "surplus_people": pairs.surplus,
        "mpjpe_mm": _mm(relative[:, body]),
        "median_mm": _mm(relative[:, body], np.median),
        "pa_mpjpe_mm": _mm(metrics.aligned_errors(found, truth)),
        "n_mpjpe_mm": _mm(metrics.scaled_errors(found, truth, ROOT)[:, body]),
        "limbs_mpjpe_mm": _mm(relative[:, _LIMBS]),
        "limbs_pa_mpjpe_mm": _mm(metrics.aligned_errors(found[:, _LIMBS], truth[:, _LIMBS])),
        "mpjpe_true_bones_mm": _mm(boned_relative[:, body]),
    }
    for name, errors in (("pck", relative), ("pck_abs", absolute)):
        result[f"{name}_all"] = metrics.pck(errors[:, scored])
        result[f"{name}_matched"] = metrics.pck(errors[matched][:, scored])
    for name, errors in (("pck", boned_relative), ("pck_abs", boned_absolute)):
        result[f"{name}_true_bones_all"] = metrics.pck(errors[:, scored])
        result[f"{name}_true_bones_matched"] = metrics.pck(errors[matched][:, scored])
    result |= {
        "auc_all": metrics.auc(relative[:, scored]),
        "auc_matched": metrics.auc(relative[matched][:, scored]),
        "auc_true_bones_all": metrics.auc(boned_relative[:, scored]),
        "pck_visible_matched": metrics.pck(clear[matched][:, scored]),
        "pck_occluded_matched": metrics.pck(hidden[matched][:, scored]),
        "root_mm": _mm(root),
        "root_median_mm": _mm(root, np.median),
        "root_depth_mm": _mm(depth),
        "root_true_camera_mm": _mm(refocused),
        "root_within_250mm_all": metrics.pck(root, 0.25),
        "depth_order": pairs.order[0] / pairs.order[1] if pairs.order[1] else float("nan"),
        "joints_mm": {
            JOINTS[j]: _mm(relative[:, j]) for j in body if not np.isnan(truth[:, j]).all()
        },
    }
    return result


def _tree(truth: Float) -> tuple[list[int], list[int], NDArray[np.bool_]]:
    """Return parents, order and which joints (J,) have truth; a joint without it is bridged."""
    known = np.array([bool(np.isfinite(truth[:, j]).all(-1).any()) for j in range(len(JOINTS))])
    known[ROOT] = True
    parents = []
    for joint in range(len(JOINTS)):
        parent = _PARENTS[joint]
        while not known[parent]:
            parent = _PARENTS[parent]
        parents.append(parent)
    rest = (INDEX[n] for n in ("r_hand", "l_hand", "r_foot", "l_foot"))
    return parents, [*metrics.MUPOTS_ORDER, *rest], known


def _mm(errors_m: Float, of: Any = np.mean) -> float:
    finite = errors_m[np.isfinite(errors_m)]
    return float(1000 * of(finite)) if finite.size else float("nan")


def mean_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean of the sequences' figures, each sequence weighing the same; counts add up."""
    result: dict[str, Any] = {}
    for key, first in rows[0].items():
        if isinstance(first, int):
            result[key] = sum(row[key] for row in rows)
        elif isinstance(first, float):
            values = np.array([row[key] for row in rows])
            values = values[np.isfinite(values)]
            result[key] = float(values.mean()) if len(values) else float("nan")
    return result


def pooled(parts: Sequence[Pairs]) -> Pairs:
    """Return the people of all sequences as one."""
    return _pairs(
        [(p.truth_m, p.found_m, p.occluded, p.matched, p.refocused_m) for p in parts],
        sum(p.surplus for p in parts),
        (sum(p.order[0] for p in parts), sum(p.order[1] for p in parts)),
        (sum(p.frames[0] for p in parts), sum(p.frames[1] for p in parts)),
    )
