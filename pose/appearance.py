"""The colours of clothes, by which people are told apart and known again.

Source: XNect (Mehta et al. 2020): histograms of hue and saturation of the upper body; here the
thighs have their own, and brightness stands in where there is no colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.pose.joints import INDEX_2D
from manypose.pose.records import Frame

Float = NDArray[np.floating[Any]]

TORSO = tuple(INDEX_2D[n] for n in ("l_shoulder", "r_shoulder", "r_hip", "l_hip"))
_KNEES = tuple(INDEX_2D[n] for n in ("r_knee", "l_knee"))
_HUES, _GREYS, _SATURATIONS = 12, 4, 2
_BINS = _HUES * _SATURATIONS + _GREYS
_UNKNOWN = np.full(2 * _BINS, np.nan)
# Corners a b c d of the patches read, of trunk and thighs; how far along (63,) and down they are.
_CORNERS = np.array([*zip(TORSO, (TORSO[3], TORSO[2], *_KNEES), strict=True)])
_FALL = np.array([[1.0], [0.8]])
_U, _V = (g.ravel() for g in np.meshgrid(np.linspace(0.15, 0.85, 7), np.linspace(0.1, 0.9, 9)))


def appearance(frame: Frame, points: Float) -> Float:
    """Return the colours (M, bins) of the clothes of people with points (M, K, 2) px.

    Two histograms, of the trunk and of the thighs: hue and saturation where there is colour,
    brightness where there is none. At most 126 pixels a person are read. NaN where too few of them
    lie in the picture.
    """
    h, w = frame.shape
    out = np.full((len(points), 2 * _BINS), np.nan)
    if not len(points):
        return out
    # patches of trunk and thighs, bilinear, a-b above and d-c below; without the lower points a
    # square of the upper ones
    a, b, c, d = (points[:, k] for k in _CORNERS)  # (M, 2, 2)
    down = np.where(np.isfinite(c + d), (c + d - a - b) / 2, _down(b - a) * 1.4)
    # x and y apart, (M, 2, 63) each: numpy is slow along an axis of two
    x, y = (
        start[..., None] + across[..., None] * _U + fall[..., None] * _V
        for start, across, fall in zip(*(v.transpose(2, 0, 1) for v in (a, b - a, _FALL * down)))
    )
    ok = np.asarray(np.isfinite(x + y))
    x, y = (np.rint(np.where(ok, v, -1)).astype(np.int64) for v in (x, y))
    ok &= (x >= 0) & (y >= 0) & (x < w) & (y < h)
    pixel = frame.pixels(np.where(ok, y, 0), np.where(ok, x, 0))
    row = np.arange(2 * len(points)).reshape(-1, 2, 1) * _BINS
    count = np.bincount((row + _colour_bins(pixel))[ok], minlength=out.size).reshape(-1, 2, _BINS)
    total = count.sum(-1, keepdims=True)
    share = np.where(total >= 15, count / np.maximum(total, 1), np.nan)
    return np.asarray(share.reshape(out.shape))


def _down(across: Float) -> Float:
    """Return the vectors across shoulders turned a quarter towards the feet (image y down)."""
    turned = across[..., ::-1] * np.array([-1.0, 1.0])
    return np.asarray(np.where(turned[..., 1:] < 0, -turned, turned))


def _colour_bins(bgr: NDArray[np.uint8]) -> NDArray[np.intp]:
    b, g, r = (bgr[..., i].astype(np.float32) for i in range(3))
    top, low = np.maximum(np.maximum(b, g), r), np.minimum(np.minimum(b, g), r)
    spread = top - low
    safe = np.maximum(spread, 1e-6)
    red = (g - b) / safe
    red = np.where(red < 0, red + 6, red)
    hue = np.where(top == r, red, np.where(top == g, (b - r) / safe + 2, (r - g) / safe + 4))
    saturation = spread / np.maximum(top, 1)
    hue_bin = np.minimum((hue / 6 * _HUES).astype(np.int64), _HUES - 1)
    coloured = hue_bin * _SATURATIONS + (saturation > 0.55)
    grey = _HUES * _SATURATIONS + np.minimum((top * _GREYS / 256).astype(np.int64), _GREYS - 1)
    return np.asarray(np.where((saturation > 0.2) & (top > 40), coloured, grey))


def colour_distances(a: Sequence[Float | None], b: Sequence[Float | None]) -> Float:
    """Return the Bhattacharyya distances (A, B) in [0, 1]; 0.5 where nothing common is known."""
    (p, known_p), (q, known_q) = _roots(a), _roots(b)
    overlap = p.swapaxes(0, 1) @ q.transpose(1, 2, 0)  # (2, A, B)
    return _distance(overlap, known_p.T[:, :, None] & known_q.T[:, None])


def colour_changes(a: Sequence[Float | None], b: Sequence[Float | None]) -> Float:
    """Return the diagonal (A,) of `colour_distances` of as many."""
    (p, known_p), (q, known_q) = _roots(a), _roots(b)
    return _distance(np.vecdot(p, q).T, (known_p & known_q).T)


def _roots(colours: Sequence[Float | None]) -> tuple[Float, NDArray[np.bool_]]:
    """Return the square roots (N, 2, bins) of colours, and which of the two parts are known."""
    whole = stacked_colours(colours).reshape(-1, 2, _BINS)
    known = np.isfinite(whole[..., 0])
    return np.sqrt(np.where(known[..., None], whole, 0)), known


def _distance(overlap: Float, both: NDArray[np.bool_]) -> Float:
    """Return the mean over the first axis, the parts that both know."""
    distance = np.sqrt(np.minimum(np.maximum(1 - overlap, 0), 1)) * both
    n = both.sum(0)
    return np.asarray(np.where(n > 0, distance.sum(0) / np.maximum(n, 1), 0.5))


def stacked_colours(colours: Sequence[Float | None]) -> Float:
    """Return colours (N, 2 bins), NaN where nothing is known."""
    return np.array([_UNKNOWN if c is None else c for c in colours]).reshape(-1, 2 * _BINS)


def mixed_colours(old: Float, new: Float, gain: Float) -> Float:
    """Return remembered colours (N, 2 bins) with new ones mixed in by gain (N,).

    Parts not seen (NaN) keep what is known.
    """
    both = np.where(np.isfinite(new), old + gain[:, None] * (new - old), old)
    return np.asarray(np.where(np.isfinite(old), both, new))


def covered(points: Float, roots: Float) -> NDArray[np.bool_]:
    """Return (M,) whether somebody nearer stands before the trunk, so that colours are not own."""
    trunk = points[:, TORSO]
    seen = np.asarray(np.isfinite(trunk).all((1, 2)))
    low, high = trunk.min(1), trunk.max(1)
    overlap = np.asarray((low[:, None] < high[None]).all(-1))
    meet = overlap & overlap.T & seen[:, None] & seen[None] & ~np.eye(len(points), dtype=bool)
    return np.asarray((meet & (roots[None, :, 2] < roots[:, None, 2] + 0.3)).any(1))


def thumbnail(frame: Frame) -> Float:
    """Return about 18 rows and 32 columns of the picture's brightness, for `unlike`."""
    h, w = frame.shape
    rows = np.arange(h // 36, h, max(h // 18, 1))
    small = frame.pixels(rows[:, None], np.arange(w // 64, w, max(w // 32, 1)))
    brightness: Float = small.astype(np.float64).mean(-1)
    return brightness


def unlike(old: Float, new: Float) -> float:
    """Return how little two thumbnails have in common, 0 (same) to 1; even ones tell nothing: 0."""
    if old.shape != new.shape:
        return 0.0
    a, b = old - old.mean(), new - new.mean()
    spread_a, spread_b = (float(np.sqrt((c * c).mean())) for c in (a, b))
    if spread_a < 4 or spread_b < 4:
        return 0.0
    return 1 - max(float((a * b).mean()) / (spread_a * spread_b), 0.0)
