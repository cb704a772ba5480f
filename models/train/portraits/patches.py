"""People cut out of photos, with room to move, turn and zoom in: what portraits are drawn from.

On disk they are a folder: patches.json (count, side), images.raw (N, S, S, 3) BGR and labels.npz,
so that several processes of one machine share the pixels.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from manypose.errors import OutputError, SourceError
from manypose.models.preprocess import BORDER
from manypose.models.train.packs import Photo, decoded
from manypose.models.train.portraits import first
from manypose.models.train.portraits.first import Find
from manypose.pose.joints import JOINTS_2D
from manypose.pose.portraits import HEIGHT, LARGER, WIDTH, boxes, part_of

Array = NDArray[Any]
_LOG = logging.getLogger(__name__)
MANIFEST = "patches.json"
_FORMAT = "manypose patches 3"
ROOM = 1.6  # sides of a patch against the height of the portrait in it
_SIDE = 208  # px of a patch; the portrait is 130 px tall in it
_JOINTS_MIN = 3  # labelled; people with fewer teach nothing
_SIDE_PX_MIN = 24  # of the person's box; smaller ones are a blur
_EMPTY = 6  # patches without people from a photo without people
_K = len(JOINTS_2D)


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """N people; what is asked of a patch without a person is that nothing is seen.

    images (N, S, S, 3) BGR uint8; joints_px (N, K, 3) px of the patch and flag, as in `Photo`;
    other_px (N, K, 3): the joints of whoever is nearest, flags 0 where nobody is; read_px (N, 1 +
    OTHERS, K, 3): px of the patch and how sure, as the whole photo was read; known (N, K);
    joints_m (N, J, 3), metres, NaN = not known; weight_3d (N, J); weight (N,): how often to draw
    it.
    """

    images: Array
    joints_px: Array
    other_px: Array
    read_px: Array
    known: Array
    joints_m: Array
    weight_3d: Array
    weight: Array

    def __len__(self) -> int:
        return len(self.images)


def cut(
    photos: Iterable[Photo], rng: np.random.Generator, find: Find | None = None
) -> Iterator[dict[str, Array]]:
    """Yield one row of `Patches` for each person of the photos, and some without anybody.

    find: what reads the whole photos first; those whom it invents become patches too.
    """
    for item in photos:
        photo = decoded(item)
        image = np.asarray(photo.picture)
        found = [] if find is None else [p for p in find(photo) if (p.confidence > 0).any()]
        own = first.of_people(photo, found)
        for n, box in enumerate(photo.box_px):
            labelled = photo.joints_px[n, :, 2] > 0
            if labelled.sum() < _JOINTS_MIN or max(box[2:]) < _SIDE_PX_MIN:
                continue
            corners = np.concatenate([box[:2], box[:2] + box[2:]])
            affine = _affine(corners)
            people = [moved(photo.joints_px[n], affine), moved(nearest(photo, n), affine)]
            told = first.readings(found, own[n], affine, box[:2] + box[2:] / 2)
            yield _row(
                image, affine, people, told, photo.known & (photo.joints_px[n, :, 2] >= 0),
                photo.joints_m[n], photo.weight_3d[n],
            )  # fmt: skip
        for n in first.of_nobody(photo, found):
            corners = boxes([found[n]])[0]
            affine = _affine(corners)
            told = first.readings(found, n, affine, (corners[:2] + corners[2:]) / 2)
            yield _empty(photo, image, affine, told)
        if not len(photo.joints_px) and not len(photo.ignore_px):
            yield from _nobody(photo, image, rng)


def nearest(photo: Photo, n: int) -> Array:
    """Return the joints (K, 3) of whoever is nearest to a person of a photo; zeros: nobody is."""
    others = [m for m in range(len(photo.joints_px)) if (photo.joints_px[m, :, 2] > 0).any()]
    others = [m for m in others if m != n]
    if not others:
        return np.zeros((_K, 3), np.float32)
    middle = photo.box_px[:, :2] + photo.box_px[:, 2:] / 2
    near = min(others, key=lambda m: float(np.linalg.norm(middle[m] - middle[n])))
    return np.asarray(photo.joints_px[near])


def moved(joints_px: Array, affine: Array) -> Array:
    """Return joints and flags (K, 3) by an affine, zeros where there is no label."""
    joints = joints_px.astype(np.float32).copy()
    joints[:, :2] = joints[:, :2] @ affine[:, :2].T + affine[:, 2]
    joints[joints_px[:, 2] <= 0] = 0
    return joints


def _affine(corners_px: Array) -> Array:
    """Return the affine from the picture to a patch round a person's box."""
    portrait = part_of(corners_px, WIDTH, HEIGHT, LARGER)
    scale = _SIDE / (ROOM * HEIGHT)
    portrait[:, 2] += (0.5 * (ROOM * HEIGHT - WIDTH), 0.5 * (ROOM - 1) * HEIGHT)
    return scale * portrait


def _row(
    image: Array, affine: Array, joints: Sequence[Array], read: Array, known: Array,
    joints_m: Array, weight_3d: Array,
) -> dict[str, Array]:  # fmt: skip
    small = affine[0, 0] < 0.6
    if small:  # pixels are averaged, not picked
        factor = float(affine[0, 0])
        half = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        exact = np.array([image.shape[1] / half.shape[1], image.shape[0] / half.shape[0]])
        affine = affine.copy()
        affine[:, 2] += affine[:, :2] @ (0.5 * exact - 0.5)
        affine[:, :2] = affine[:, :2] * exact
        image = half
    patch = cv2.warpAffine(image, affine, (_SIDE, _SIDE), borderValue=(BORDER,) * 3)
    return {
        "images": np.asarray(patch, np.uint8), "joints_px": joints[0].astype(np.float32),
        "other_px": joints[1].astype(np.float32), "read_px": read.astype(np.float32),
        "known": known.astype(bool),
        "joints_m": joints_m.astype(np.float32), "weight_3d": weight_3d.astype(np.float32),
    }  # fmt: skip


def _nobody(photo: Photo, image: Array, rng: np.random.Generator) -> Iterator[dict[str, Array]]:
    height, width = image.shape[:2]
    for _ in range(_EMPTY):
        tall = min(height, width) * rng.uniform(0.15, 0.9)
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        corners = np.array([x - 0.25 * tall, y - 0.5 * tall, x + 0.25 * tall, y + 0.5 * tall])
        yield _empty(
            photo, image, _affine(corners), first.readings([], None, _affine(corners), corners[:2])
        )


def _empty(photo: Photo, image: Array, affine: Array, read: Array) -> dict[str, Array]:
    j = photo.joints_m.shape[1]
    nobody = [np.zeros((_K, 3))] * 2
    return _row(image, affine, nobody, read, np.ones(_K), np.full((j, 3), np.nan), np.zeros(j))


def write(
    folder: Path, sources: Iterable[tuple[float | None, Iterable[Photo]]], seed: int = 0,
    find: Find | None = None,
) -> int:  # fmt: skip
    """Write the patches of photos and return their number; the folder appears when it is whole.

    sources: photos with their share of what is drawn, or None, for people drawn equally often;
    find: as `cut`.

    Raises:
        OutputError: the folder is not empty or cannot be written.
        SourceError: nobody could be cut out.
    """
    if folder.exists() and any(folder.iterdir()):
        raise OutputError(f"{folder} is not empty: choose another --out")
    half = folder.with_name(folder.name + ".part")
    try:
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        held: dict[str, list[Array]] = {f.name: [] for f in fields(Patches) if f.name != "images"}
        count = 0
        rng = np.random.default_rng(seed)
        with (half / "images.raw").open("wb") as raw:
            for share, photos in sources:
                before = count
                for row in cut(photos, rng, find):
                    raw.write(row["images"].tobytes())
                    for name in row.keys() & held.keys():
                        held[name].append(row[name])
                    count += 1
                    if count % 2000 == 0:
                        _LOG.info("%d people cut out", count)
                weight = 1.0 if share is None else share / max(count - before, 1)
                held["weight"] += [np.array(weight, np.float32)] * (count - before)
        if not count:
            raise SourceError("nobody could be cut out of --data: it has no labelled people")
        tables: dict[str, Any] = {k: np.stack(v) for k, v in held.items()}
        np.savez(half / "labels.npz", **tables)
        about = {"format": _FORMAT, "count": count, "side": _SIDE}
        (half / MANIFEST).write_text(json.dumps(about) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        half.replace(folder)
    except OSError as error:
        raise OutputError(f"cannot write {folder} ({error.strerror}): free some space") from None
    return count


def read(folder: Path) -> Patches:
    """Return the patches of a folder, their pixels left on disk until they are looked at.

    Raises:
        SourceError: the folder holds no patches.
    """
    try:
        about = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if about["format"] != _FORMAT:
            raise ValueError(f"format {about['format']}")
        shape = (int(about["count"]), int(about["side"]), int(about["side"]), 3)
        images = np.memmap(folder / "images.raw", np.uint8, "r", shape=shape)
        with np.load(folder / "labels.npz") as z:
            return Patches(images, **{k: z[k] for k in z.files})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"{folder} holds no patches ({error}): make them with manypose train portraits --data"
        ) from None
