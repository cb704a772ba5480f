"""One place holds one hand or foot: people of whom both sides were found in the same place.

A network that is not sure of the sides shows both ankles at both feet, and the stronger foot wins
twice. Where the maps show the other foot as well and nobody else has it, one ankle goes there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.pose.joints import INDEX_2D

Float = NDArray[np.floating[Any]]
Int = NDArray[np.intp]
Parts = NDArray[np.int8]

# The ends of limbs with the joints they hang on, left and right.
_ENDS = tuple(
    ((INDEX_2D["l_" + end], INDEX_2D["l_" + of]), (INDEX_2D["r_" + end], INDEX_2D["r_" + of]))
    for end, of in (("ankle", "knee"), ("wrist", "elbow"))
)
_SAME_CELLS, _APART_CELLS = 0.6, 1.0
# Least certainty of the other foot, and of the shin that leads to it, beside those of the first.
_SCORE_SHARE, _LINK_SHARE = 0.5, 0.6
_LINK_UNKNOWN = 0.3  # of an end that no limb connects
_JOINTS_MIN = 4


def set_apart(
    people: list[list[int]], part: Parts, joint: Int, xy: Float, score: Float,
    links: tuple[Int, Int, Int, Float],
) -> tuple[list[list[int]], Parts]:  # fmt: skip
    """Return people and parts with the ends of limbs that share a place put on two.

    people are lists of peaks; part (P,), joint (P,), xy (P, 2) cells and score (P,) are those of
    all peaks; links are the believable limbs: kind, peaks a and b, score. The other place must be
    linked to the person and belong to nobody; of the two sides the surer one there goes there.
    """
    exchanged = _exchanged(people, joint, xy, score, links)
    if not exchanged:
        return people, part
    part = part.copy()
    for old, new in exchanged.items():
        part[new] = part[old]
    gone = set(exchanged.values())
    return [[exchanged.get(p, p) for p in one] for one in people if one[0] not in gone], part


def _exchanged(
    people: list[list[int]], joint: Int, xy: Float, score: Float,
    links: tuple[Int, Int, Int, Float],
) -> dict[int, int]:  # fmt: skip
    """Return which peaks give way to others."""
    alone = {person[0] for person in people if len(person) == 1}
    exchanged: dict[int, int] = {}
    if not alone:
        return exchanged
    value: dict[tuple[int, int], float] | None = None
    kinds, (xs, ys) = joint.tolist(), xy.T.tolist()

    def apart(p: int, q: int) -> float:
        far: float = max(abs(xs[p] - xs[q]), abs(ys[p] - ys[q]))
        return far

    for person in people:
        if len(person) < _JOINTS_MIN or not alone:
            continue
        at = {kinds[p]: p for p in person}
        for sides in _ENDS:
            ends = [at[end] for end, _ in sides if end in at]
            if len(ends) < 2 or apart(ends[0], ends[1]) > _SAME_CELLS:
                continue
            if value is None:
                _, a, b, scores = links
                value = dict(zip(zip(a.tolist(), b.tolist()), scores.tolist()))
            moves = []
            for end, inner in sides:
                own, start = at[end], at.get(inner, -1)
                now = value.get((start, own), _LINK_UNKNOWN)
                for peak in (p for p in alone if kinds[p] == end and (start, p) in value):
                    far = apart(peak, own) > _APART_CELLS
                    sure = score[peak] >= _SCORE_SHARE * score[own]
                    if far and sure and value[start, peak] >= _LINK_SHARE * now:
                        moves.append((float(score[peak] - score[own]), own, peak))
            if moves:
                _, own, peak = max(moves)
                exchanged[own] = peak
                alone.remove(peak)
    return exchanged
