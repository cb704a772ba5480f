"""Perfect maps drawn from people: the definition of what Stage I is trained to answer.

The trainer draws the same maps in batches on its device; this plain form serves the tests of the
decoder, the measurement of its ceiling and whole-pipeline tests without any weights.
Source: Cao et al. 2017, section 2.2 (heat-maps, part affinity fields); Mehta et al. 2020, section
4.1.2 (each joint's pixels carry the bones that meet there).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.pose.joints import BONE_UNIT_M, CARRIED, JOINTS, JOINTS_2D, LIMBS

Float = NDArray[np.floating[Any]]

STRIDE = 8
SIGMA_CELLS = 7.0 / STRIDE  # Gaussian of a joint
LIMB_HALF_WIDTH_CELLS = 1.0
LIMB_END_CELLS = 0.5  # a field reaches this far past both joints, so that no limb is without cells
_RADIUS = 3  # cells; the Gaussian is below 0.003 there

_K, _J, _L = len(JOINTS_2D), len(JOINTS), len(LIMBS)


def px_to_cells(points_px: Float) -> Float:
    """Return grid positions of network-input px: cell c has its centre at px 8 c + 3.5."""
    return (points_px - (STRIDE - 1) / 2) / STRIDE


def cells_to_px(points_cells: Float) -> Float:
    """Return network-input px of grid positions (inverse of `px_to_cells`)."""
    return points_cells * STRIDE + (STRIDE - 1) / 2


def draw(
    people_px: Float, height: int, width: int, bones_m: Float | None = None
) -> tuple[Float, Float, Float | None]:
    """Return perfect maps (heatmaps, pafs, encodings) on the grid of height/8 x width/8 cells.

    Args:
        people_px: (N, K, 3) x, y in network-input px and a flag, > 0 where the joint is labelled.
            Joints outside the picture leave no heat-map, but their limbs lead out of it.
        height: of the network input, px; a multiple of 8.
        width: of the network input, px; a multiple of 8.
        bones_m: (N, J, 3) joint minus parent in metres, camera axes, NaN = not known.

    Returns:
        heatmaps (K, h, w): the highest of the people's Gaussians; pafs (2 L, h, w): x then y of
        the unit vector along each limb, mean over overlapping people; encodings (3 J, h, w) in
        units of `joints.BONE_UNIT_M` in the 3 x 3 cells round each joint per `joints.CARRIED`, or
        None without `bones_m`. Where two people want a cell the bigger one has it.
    """
    people_px = np.asarray(people_px, np.float64)
    if people_px.ndim != 3 or people_px.shape[1:] != (_K, 3):
        raise ValueError(f"people_px: shape {people_px.shape}, wanted (N, {_K}, 3)")
    if height % STRIDE or width % STRIDE or height <= 0 or width <= 0:
        raise ValueError(f"height, width: {height}, {width}, wanted multiples of {STRIDE}")
    known = (people_px[..., 2] > 0) & np.isfinite(people_px).all(-1)
    xy = np.where(known[..., None], people_px[..., :2], 0)
    inside = known & (xy >= -0.5).all(-1) & (xy < (width - 0.5, height - 0.5)).all(-1)
    cells = px_to_cells(xy)
    grid = (height // STRIDE, width // STRIDE)
    encodings = None
    if bones_m is not None:
        encodings = _draw_encodings(cells, known, inside, np.asarray(bones_m), grid)
    return _draw_heatmaps(cells, inside, grid), _draw_pafs(cells, known, inside, grid), encodings


def _window(centres: Float, radius: int, grid: tuple[int, int]) -> tuple[NDArray[np.intp], ...]:
    """Return y, x (n, m) of the cells round n centres (n, 2) and whether they lie on the grid."""
    offset = np.arange(-radius, radius + 1)
    dy, dx = (a.ravel() for a in np.meshgrid(offset, offset, indexing="ij"))
    # half up rather than half to even, so that the window does not depend on the cell's parity
    middle = np.floor(centres + 0.5).astype(np.intp)
    y, x = middle[:, 1:] + dy, middle[:, :1] + dx
    return y, x, ((y >= 0) & (y < grid[0]) & (x >= 0) & (x < grid[1])).astype(np.intp)


def _draw_heatmaps(cells: Float, inside: NDArray[np.bool_], grid: tuple[int, int]) -> Float:
    heatmaps = np.zeros((_K, *grid), np.float32)
    person, joint = np.nonzero(inside)
    centre = cells[person, joint]
    y, x, ok = _window(centre, _RADIUS, grid)
    square = (x - centre[:, :1]) ** 2 + (y - centre[:, 1:]) ** 2
    value = np.exp(-square / (2 * SIGMA_CELLS**2)).astype(np.float32)
    k = np.broadcast_to(joint[:, None], x.shape)
    use = ok > 0
    np.maximum.at(heatmaps, (k[use], y[use], x[use]), value[use])
    return heatmaps


def _draw_pafs(
    cells: Float, known: NDArray[np.bool_], inside: NDArray[np.bool_], grid: tuple[int, int]
) -> Float:
    h, w = grid
    total = np.zeros((_L, 2, h, w), np.float32)
    count = np.zeros((_L, h, w), np.float32)
    margin = LIMB_HALF_WIDTH_CELLS + LIMB_END_CELLS
    for limb, (a, b) in enumerate(LIMBS):
        drawn = known[:, a] & known[:, b] & (inside[:, a] | inside[:, b])
        for start, end in zip(cells[drawn, a], cells[drawn, b]):
            length = float(np.linalg.norm(end - start))
            if length < 1e-6:
                continue
            ux, uy = (end - start) / length
            low = np.clip(np.floor(np.minimum(start, end) - margin), 0, (w, h)).astype(int)
            high = np.clip(np.ceil(np.maximum(start, end) + margin) + 1, 0, (w, h)).astype(int)
            rows, columns = slice(low[1], high[1]), slice(low[0], high[0])
            dx = np.arange(low[0], high[0])[None] - start[0]
            dy = np.arange(low[1], high[1])[:, None] - start[1]
            along, across = dx * ux + dy * uy, np.abs(dx * uy - dy * ux)
            on = (along >= -LIMB_END_CELLS) & (along <= length + LIMB_END_CELLS)
            on &= across <= LIMB_HALF_WIDTH_CELLS
            total[limb, 0, rows, columns] += on * np.float32(ux)
            total[limb, 1, rows, columns] += on * np.float32(uy)
            count[limb, rows, columns] += on
    pafs: Float = (total / np.maximum(count, 1)[:, None]).reshape(2 * _L, h, w)
    return pafs


def _draw_encodings(
    cells: Float,
    known: NDArray[np.bool_],
    inside: NDArray[np.bool_],
    bones_m: Float,
    grid: tuple[int, int],
) -> Float:
    if bones_m.shape != (len(cells), _J, 3):
        raise ValueError(f"bones_m: shape {bones_m.shape}, wanted ({len(cells)}, {_J}, 3)")
    low = np.where(known[..., None], cells, np.inf).min(1, initial=np.inf)
    high = np.where(known[..., None], cells, -np.inf).max(1, initial=-np.inf)
    size = np.where(known.any(1), (high - low).max(-1), 0)
    encodings = np.zeros((_J, 3, *grid), np.float32)
    carried = np.array(CARRIED)
    # painted from the smallest to the biggest, so that the biggest stays
    for n in np.argsort(size, kind="stable"):
        use = inside[n, carried[:, 0]] & np.isfinite(bones_m[n, carried[:, 1]]).all(-1)
        joint, bone = carried[use].T
        y, x, ok = _window(cells[n, joint], 1, grid)
        row, cell = np.nonzero(ok)
        at = (bone[row], slice(None), y[row, cell], x[row, cell])
        encodings[at] = bones_m[n, bone[row]] / BONE_UNIT_M
    return encodings.reshape(3 * _J, *grid)
