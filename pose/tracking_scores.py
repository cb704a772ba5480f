"""Whether people keep their identity: MOTA, IDF1 and HOTA.

All three read the same sequence: for every frame the true ids, the found ids and how alike each
pair is, in [0, 1] (OKS, overlap of boxes, or `closeness` of points).
Source: Bernardin and Stiefelhagen 2008 (CLEAR MOT), Ristani et al. 2016 (IDF1), Luiten et al.
2021 (HOTA, with its 19 thresholds).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating[Any]]
Int = NDArray[np.intp]

HOTA_THRESHOLDS = np.linspace(0.05, 0.95, 19)
_EPS = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Sightings:
    """One frame: true ids (M,), found ids (N,), alike (M, N) in [0, 1]; an id at most once."""

    true_ids: NDArray[Any]
    found_ids: NDArray[Any]
    alike: Float

    def __post_init__(self) -> None:
        shape = (len(self.true_ids), len(self.found_ids))
        if self.alike.shape != shape:
            raise ValueError(f"Sightings.alike: shape {self.alike.shape}, wanted {shape}")
        for ids in (self.true_ids, self.found_ids):
            if len(np.unique(ids)) != len(ids):
                raise ValueError("Sightings: an id occurs twice in one frame")


def closeness(true_points: Float, found_points: Float, reach: float) -> Float:
    """Return (M, N) how alike points (M, D) and (N, D) are: 1 together, 0.5 at `reach`, 0 at twice.

    NaN counts as infinitely far.
    """
    apart = np.linalg.norm(true_points[:, None] - found_points[None], axis=-1)
    alike: Float = np.clip(1 - np.nan_to_num(apart, nan=np.inf) / (2 * reach), 0, 1)
    return alike


def tracking_scores(sequence: Sequence[Sightings], threshold: float = 0.5) -> dict[str, float]:
    """Return MOTA, IDF1, HOTA and their parts for one sequence.

    Keys: MOTA, switches, misses, false_positives, IDF1, IDP, IDR, HOTA, DetA, AssA, LocA.
    `threshold` is that of MOTA and IDF1. Scores without anything to count are NaN.
    """
    true_ids, found_ids = (
        _numbers([s.true_ids for s in sequence]),
        _numbers([s.found_ids for s in sequence]),
    )
    return (
        _clear(sequence, true_ids, found_ids, threshold)
        | _identity(sequence, true_ids, found_ids, threshold)
        | _hota(sequence, true_ids, found_ids)
    )


def _numbers(frames: Sequence[NDArray[Any]]) -> list[Int]:
    """Return the ids of every frame as numbers from 0."""
    if not frames or not sum(len(f) for f in frames):
        return [np.zeros(0, np.intp) for _ in frames]
    _, number = np.unique(np.concatenate(frames), return_inverse=True)
    ends = np.cumsum([len(f) for f in frames])[:-1]
    return [part.astype(np.intp) for part in np.split(number, ends)]


def _count(frames: list[Int]) -> Int:
    return np.bincount(np.concatenate([*frames, np.zeros(0, np.intp)])).astype(np.intp)


def _best(value: Float) -> tuple[Int, Int]:
    """Return rows and columns of the one-to-one choice of largest sum."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(-value)
    return rows, columns


def _clear(
    sequence: Sequence[Sightings], true_ids: list[Int], found_ids: list[Int], threshold: float
) -> dict[str, float]:
    hits = switches = 0
    last = np.full(len(_count(true_ids)), -1, np.intp)  # whom each true person was matched to
    previous = last.copy()  # the same, in the frame before only
    for sighting, g, t in zip(sequence, true_ids, found_ids):
        # whoever was matched in the frame before stays so while still near enough
        value = 1000.0 * (previous[g][:, None] == t) + sighting.alike
        value = np.where(sighting.alike >= threshold - _EPS, value, 0)
        rows, columns = _best(value)
        good = value[rows, columns] > 0
        g, t = g[rows[good]], t[columns[good]]
        hits += len(g)
        switches += int(((last[g] >= 0) & (last[g] != t)).sum())
        last[g] = t
        previous[:] = -1
        previous[g] = t
    people, found = sum(map(len, true_ids)), sum(map(len, found_ids))
    misses, wrong = people - hits, found - hits
    mota = 1 - (misses + wrong + switches) / people if people else float("nan")
    return {
        "MOTA": mota,
        "switches": float(switches),
        "misses": float(misses),
        "false_positives": float(wrong),
    }


def _identity(
    sequence: Sequence[Sightings], true_ids: list[Int], found_ids: list[Int], threshold: float
) -> dict[str, float]:
    true_count, found_count = _count(true_ids), _count(found_ids)
    together = np.zeros((len(true_count), len(found_count)))
    for sighting, g, t in zip(sequence, true_ids, found_ids):
        together[np.ix_(g, t)] += sighting.alike >= threshold - _EPS
    # the one-to-one naming of tracks with most frames in common; others stay unnamed
    hits = float(together[_best(together)].sum())
    people, found = float(true_count.sum()), float(found_count.sum())
    return {
        "IDF1": _ratio(2 * hits, people + found),
        "IDP": _ratio(hits, found),
        "IDR": _ratio(hits, people),
    }


def _hota(
    sequence: Sequence[Sightings], true_ids: list[Int], found_ids: list[Int]
) -> dict[str, float]:
    true_count, found_count = _count(true_ids), _count(found_ids)
    shape = (len(true_count), len(found_count))
    # how well two tracks fit over the whole sequence, by soft counts
    common = np.zeros(shape)
    for sighting, g, t in zip(sequence, true_ids, found_ids):
        alike = sighting.alike
        union = alike.sum(0)[None] + alike.sum(1)[:, None] - alike
        common[np.ix_(g, t)] += np.where(union > _EPS, alike / np.maximum(union, _EPS), 0)
    fit = common / np.maximum(true_count[:, None] + found_count - common, _EPS)
    steps = len(HOTA_THRESHOLDS)
    hits, located = np.zeros(steps), np.zeros(steps)
    matched = np.zeros((steps, *shape))
    for sighting, g, t in zip(sequence, true_ids, found_ids):
        rows, columns = _best(fit[np.ix_(g, t)] * sighting.alike)
        alike = sighting.alike[rows, columns]
        good = alike >= HOTA_THRESHOLDS[:, None] - _EPS  # (thresholds, pairs)
        hits += good.sum(1)
        located += (good * alike).sum(1)
        matched[:, g[rows], t[columns]] += good
    people, found = float(true_count.sum()), float(found_count.sum())
    if people + found == 0:
        return dict.fromkeys(("HOTA", "DetA", "AssA", "LocA"), float("nan"))
    union_count = true_count[None, :, None] + found_count[None, None] - matched
    association = (matched**2 / np.maximum(union_count, 1)).sum((1, 2)) / np.maximum(hits, 1)
    detection = hits / np.maximum(people + found - hits, 1)
    return {
        "HOTA": float(np.sqrt(detection * association).mean()),
        "DetA": float(detection.mean()),
        "AssA": float(association.mean()),
        "LocA": float(np.where(hits > 0, located / np.maximum(hits, 1), 1).mean()),
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
