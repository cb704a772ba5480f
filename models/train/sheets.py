"""Contact sheets and the plot of a run: labels as they are trained, people as they are decoded."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from manypose.errors import OutputError
from manypose.models.train.batches import Batch
from manypose.models.train.scores import Decoded
from manypose.pose.joints import JOINTS_2D, LIMBS
from manypose.pose.records import Person2D

Array = NDArray[Any]
# BGR by the person's own side: left blue, right red, middle green.
_LEFT, _RIGHT, _MIDDLE = (255, 80, 60), (60, 60, 255), (60, 220, 60)
_FRACTION = 4  # bits of sub-pixel positions


def _side(*joints: int) -> tuple[int, int, int]:
    names = [JOINTS_2D[k][:2] for k in joints]
    return _LEFT if "l_" in names else _RIGHT if "r_" in names else _MIDDLE


def draw_people(image: Array, people: Sequence[tuple[Array, Array]]) -> Array:
    """Return the picture with people (joints (K, 2) px, seen (K,)) drawn by side."""
    out = np.ascontiguousarray(image).copy()
    for joints, seen in people:
        at = [tuple(int(v) for v in (np.nan_to_num(p) * 2**_FRACTION).clip(-1e7, 1e7).round())
              for p in joints]  # fmt: skip
        for a, b in LIMBS:
            if seen[a] and seen[b]:
                cv2.line(out, at[a], at[b], _side(a, b), 1, cv2.LINE_AA, _FRACTION)
        for k in np.flatnonzero(seen):
            cv2.circle(out, at[k], 2 << _FRACTION, _side(int(k)), -1, cv2.LINE_AA, _FRACTION)
    return out


def label_sheet(path: Path, batch: Batch, count: int = 16) -> None:
    """Write the first pictures of a batch: people with limbs and, beside them, maps and masks.

    The right one shows heat-maps as a red veil, fields as arrows, and dark where no cell of any
    heat-map counts.
    """
    t = batch.targets
    tiles = []
    for i in range(min(count, len(batch.images))):
        image = (batch.images[i].permute(1, 2, 0).cpu().numpy() * 255).astype(np.uint8)
        mine = (batch.people.picture == i).nonzero()[:, 0]
        joints = batch.people.joints_px[mine].cpu().numpy()
        seen = ((batch.people.visibility[mine] > 0) & batch.people.inside[mine]).cpu().numpy()
        maps = _maps(
            image, t.heatmaps[i].cpu().numpy(), t.pafs[i].cpu().numpy(),
            (t.heatmap_weight[i].amax(0) < 0.05).cpu().numpy(),
        )  # fmt: skip
        tiles.append(np.hstack([draw_people(image, list(zip(joints, seen))), maps]))
    write(path, tiles, 2)


def _maps(image: Array, heat: Array, pafs: Array, hidden: Array) -> Array:
    height, width = image.shape[:2]
    h, w = heat.shape[-2:]
    veil = cv2.resize(heat.max(0), (width, height), interpolation=cv2.INTER_LINEAR)[..., None]
    out = image * (1 - 0.6 * veil) + np.array([40, 40, 255]) * 0.6 * veil
    dark = cv2.resize(hidden.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST)
    out = np.ascontiguousarray((out * (1 - 0.65 * dark[..., None])).clip(0, 255).astype(np.uint8))
    step = width / w
    field = pafs.reshape(-1, 2, h, w)
    for limb, y, x in zip(*np.nonzero(np.hypot(field[:, 0], field[:, 1]) > 0.3)):
        start = np.array([(x + 0.5) * step, (y + 0.5) * step])
        end = start + 0.8 * step * field[limb, :, y, x]
        a, b = (tuple(int(v) for v in p) for p in (start, end))
        cv2.arrowedLine(out, a, b, _side(*LIMBS[limb]), 1, tipLength=0.4)
    return out


def people_sheet(path: Path, found: Sequence[Decoded], score_min: float = 0.15) -> None:
    """Write photos with the people decoded from the network's maps."""
    tiles = []
    for d in found:
        people = [_drawn(p) for p in d.people if p.score > score_min]
        image = draw_people(np.asarray(d.photo.picture), people)
        scale = min(480 / image.shape[1], 360 / image.shape[0])
        size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
        tile = np.zeros((360, 480, 3), np.uint8)
        tile[: size[1], : size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        tiles.append(tile)
    write(path, tiles, 4)


def _drawn(person: Person2D) -> tuple[Array, Array]:
    return person.joints_px, person.confidence > 0


def write(path: Path, tiles: list[Array], columns: int) -> None:
    """Write tiles of one size (H, W, 3) as a sheet of so many columns; nothing if there are none.

    Raises:
        OutputError: the file cannot be written.
    """
    if not tiles:
        return
    blank = np.zeros_like(tiles[0])
    tiles = tiles + [blank] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    how = [cv2.IMWRITE_JPEG_QUALITY, 88] if path.suffix in (".jpg", ".jpeg") else []
    _, data = cv2.imencode(path.suffix, np.vstack(rows), how)
    half = path.with_name(path.name + ".part")
    try:
        half.write_bytes(bytes(np.asarray(data, np.uint8)))
        half.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path} ({error.strerror}): free some space") from None


def plot(metrics: Path, path: Path) -> None:
    """Draw the losses and scores of a run's metrics.csv over the pictures seen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with metrics.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for axes, names in (
        (left, ("heatmaps", "pafs", "encodings")),
        (right, ("AP", "ceiling_AP", "AP50", "recall", "pck")),
    ):
        for name in names:
            points = [(float(r["images"]), float(r[name])) for r in rows if r.get(name)]
            if points:
                axes.plot(*zip(*points), marker=".", label=name)
        axes.set_xlabel("pictures seen")
        if axes.lines:
            axes.legend()
    left.set_ylabel("loss")
    left.set_yscale("log")
    half = path.with_name(path.name + ".part")
    figure.savefig(half, format="png", dpi=100)
    half.replace(path)
