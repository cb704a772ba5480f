"""Rendered people and things put in front of the people of photographs.

Somebody half hidden behind somebody else is what a network misses, and labelled photographs show
few. Here a cut-out of a rendered person, with exact labels in 2D and 3D, or a bar, a box or a disc,
stands before a labelled person; the labels of the photo stay, and what is covered becomes hidden.

Source of the idea: Dvornik et al. 2018, "Modeling visual context is key to augmenting object
detection datasets"; Sarandi et al. 2018, "How Robust is 3D Human Pose Estimation to Occlusion?".
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from manypose.errors import SourceError
from manypose.models.train.packs import Photo, decoded, seen_straight
from manypose.models.train.synth.labels import OUTSIDE, SEEN
from manypose.models.train.synth.pack import RenderedPicture, part_files, read_part

Array = NDArray[Any]
_LOG = logging.getLogger(__name__)
_SIDE_MAX = 640  # px of a photo that is painted on
_SEEN_MIN = 14  # joints in sight of a person worth cutting out
_AREA_MIN_PX = 500
_PEOPLE_SHARE = 0.75  # of the photos get a person, the rest a thing
_GROWN_MAX = 2.5  # a cut-out larger than so is a blur
_EDGE_PX = 0.7  # softness of a cut-out's edge
_LEFT_MIN = 3  # joints in sight below which a covered person is asked for no longer


@dataclass(frozen=True, slots=True, eq=False)
class Cutout:
    """A rendered person by themselves.

    image (h, w, 3) BGR uint8; alpha (h, w) 0 or 255; joints_px (20, 2) in it; seen (20,) as
    `synth.labels`; joints_m (21, 3) metres from the pelvis as a camera sees them that looks
    straight at them.
    """

    image: NDArray[np.uint8]
    alpha: NDArray[np.uint8]
    joints_px: Array
    seen: NDArray[np.uint8]
    joints_m: Array


def add(photos: Iterator[Photo], renders: Path, seed: int = 0) -> Iterator[Photo]:
    """Yield the photos, those that show somebody with a person or a thing before one of them.

    Args:
        photos: with labels.
        renders: folder of rendered pictures, or one part, whose people are cut out.
        seed: another one, other pictures.

    Raises:
        SourceError: there is nobody to cut out.
    """
    pictures = chain.from_iterable(read_part(file) for file in part_files(renders))
    people = [c for picture in pictures for c in cutouts(picture)]
    if not people:
        raise SourceError(f"{renders} shows nobody whole: render more with manypose train render")
    rng = np.random.default_rng(seed)
    count = 0
    for item in photos:
        if len(item.joints_px):
            before = rng.random() < _PEOPLE_SHARE
            item = _with_person(item, people, rng) if before else _with_thing(item, rng)
            count += 1
        yield item
    _LOG.info("%d photos with somebody or something pasted before their people", count)


def cutouts(picture: RenderedPicture) -> list[Cutout]:
    """Return the people of a rendered picture who are wholly in it and hardly hidden."""
    found = []
    for n, slot in enumerate(picture.slot):
        seen = picture.seen[n]
        mask = picture.mask == slot + 1
        whole = (seen != OUTSIDE).all() and (seen == SEEN).sum() >= _SEEN_MIN
        if not whole or mask.sum() < _AREA_MIN_PX:
            continue
        (y0, y1), (x0, x1) = (np.flatnonzero(mask.any(axis))[[0, -1]] for axis in (1, 0))
        if x0 == 0 or y0 == 0 or y1 == mask.shape[0] - 1 or x1 == mask.shape[1] - 1:
            continue
        there = slice(y0 - 1, y1 + 2), slice(x0 - 1, x1 + 2)
        found.append(
            Cutout(
                picture.image[there].copy(),
                mask[there].astype(np.uint8) * 255,
                picture.joints_px[n] - [x0 - 1, y0 - 1],
                seen,
                seen_straight(picture.joints_m[n : n + 1])[0],
            )
        )
    return found


def _with_person(item: Photo, people: list[Cutout], rng: np.random.Generator) -> Photo:
    """Return the photo with somebody before one of its people, about as large, to one side."""
    item = decoded(item, _SIDE_MAX)
    image = np.asarray(item.picture)
    x, y, w, h = item.box_px[rng.integers(len(item.box_px))]
    someone = people[rng.integers(len(people))]
    rows, columns = someone.alpha.shape
    cut_off = y + h > image.shape[0] - 4
    # the box of somebody cut off by the picture or sitting tells little of how large they are
    wanted = max(h, 1.5 * w) * (rng.uniform(0.9, 2.2) if cut_off else rng.uniform(0.75, 1.3))
    scale = min(wanted / rows, _GROWN_MAX)
    aside = rng.choice([-1, 1]) * rng.uniform(0.2, 0.8) * (w + scale * columns) / 2
    # whoever is nearer stands lower in the picture; before somebody cut off, with the legs below it
    top = y + h + rng.uniform(-0.05, 0.15) * h - scale * rows
    top = y + rng.uniform(-0.05, 0.3) * h if cut_off else top
    corner = np.array([x + w / 2 + aside - scale * columns / 2, top])
    move = np.array([[scale, 0, corner[0]], [0, scale, corner[1]]])
    size = (image.shape[1], image.shape[0])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    alpha = _moved(someone.alpha, scale, how, move, size)
    alpha = cv2.GaussianBlur(alpha, (0, 0), _EDGE_PX).astype(np.float32) / 255
    # the rim of the mask holds what stood behind them
    alpha = np.clip(1.6 * alpha - 0.6, 0, 1)
    if (alpha > 0.5).sum() < 60:
        return item
    body = _moved(someone.image, scale, how, move, size)
    painted = _laid_over(image, _lit(body, image, alpha), alpha)
    covered = _covered(replace(item, picture=painted), alpha)
    at = someone.joints_px * scale + corner + 0.5 * (scale - 1)
    inside = ((at >= 0) & (at < size)).all(1)
    seen = np.where(inside & (someone.seen == SEEN), 2, 1)
    joints = np.concatenate([at, seen[:, None]], 1).astype(np.float32)
    ys, xs = np.nonzero(alpha > 0.5)
    box = np.array([xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1], np.float32)
    return replace(
        covered,
        joints_px=np.concatenate([covered.joints_px, joints[None]]),
        box_px=np.concatenate([covered.box_px, box[None]]),
        area_px=np.append(covered.area_px, np.float32(len(xs))),
        joints_m=np.concatenate([covered.joints_m, someone.joints_m[None].astype(np.float32)]),
        weight_3d=np.concatenate([covered.weight_3d, np.ones((1, len(someone.joints_m)), "f4")]),
    )


def _moved(picture: Array, scale: float, how: int, move: Array, size: tuple[int, int]) -> Array:
    """Return a cut-out at its place; shrunk first, because warping alone would alias."""
    if scale < 1:
        small = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
        rest = np.array([picture.shape[1] / small[0], picture.shape[0] / small[1]]) * scale
        picture = cv2.resize(picture, small, interpolation=how)
        move = np.array([[rest[0], 0, move[0, 2]], [0, rest[1], move[1, 2]]])
    # in cv2 pixel centres are whole numbers
    centred = move.copy()
    centred[:, 2] += 0.5 * (move[:, :2].sum(1) - 1)
    return np.asarray(cv2.warpAffine(picture, centred, size, flags=cv2.INTER_LINEAR))


def _lit(body: Array, image: Array, alpha: Array) -> Array:
    """Return a cut-out half as bright as the rendering made it, half as the photo is there."""
    under = alpha > 0.5
    gain = np.sqrt((image[under].mean() + 8) / (body[under].mean() + 8))
    return np.asarray(np.clip(body.astype(np.float32) * np.clip(gain, 0.6, 1.6), 0, 255))


def _laid_over(image: Array, top: Array, alpha: Array) -> NDArray[np.uint8]:
    mixed = image + (top - image.astype(np.float32)) * alpha[..., None]
    return np.asarray(mixed.round(), np.uint8)


def _with_thing(item: Photo, rng: np.random.Generator) -> Photo:
    """Return the photo with a bar, a box or a disc before one of its people."""
    item = decoded(item, _SIDE_MAX)
    image = np.asarray(item.picture)
    x, y, w, h = item.box_px[rng.integers(len(item.box_px))]
    middle = np.array([x, y]) + rng.uniform(0.1, 0.9, 2) * [w, h]
    size = max(w, h)
    kind = rng.integers(3)
    if kind == 0:  # a post or a rail, across the picture
        half = np.array([rng.uniform(0.02, 0.08), 3.0]) * size
        half = half if rng.random() < 0.5 else half[::-1]
    else:
        half = rng.uniform(0.08, 0.3, 2) * size
    angle = rng.normal(0, 10)
    mask = np.zeros(image.shape[:2], np.uint8)
    if kind == 2:
        cv2.ellipse(mask, (middle.tolist(), (2 * half).tolist(), angle), 255, -1, cv2.LINE_AA)
    else:
        corners = cv2.boxPoints((middle.tolist(), (2 * half).tolist(), angle))
        cv2.fillPoly(mask, [corners.round().astype(np.int32)], 255, cv2.LINE_AA)
    alpha = mask.astype(np.float32) / 255
    # a colour that fades, with the grain of coarse and fine noise
    colours = rng.uniform(10, 245, (2, 2, 3)) * 0.4 + rng.uniform(10, 245, 3) * 0.6
    shape = (image.shape[1], image.shape[0])
    paint = cv2.resize(colours.astype(np.float32), shape, interpolation=cv2.INTER_LINEAR)
    for cell in (2, 16):
        rows, columns = (max(2, v // cell) for v in image.shape[:2])
        grain = rng.normal(0, rng.uniform(0, 14), (rows, columns, 1)).astype(np.float32)
        paint = paint + cv2.resize(grain, shape, interpolation=cv2.INTER_LINEAR)[..., None]
    painted = _laid_over(image, np.clip(paint, 0, 255), alpha)
    return _covered(replace(item, picture=painted), alpha)


def _covered(item: Photo, alpha: Array) -> Photo:
    """Return the photo with joints under the cover hidden, and people of whom little is left out.

    alpha (H, W): 1 where something was painted over.
    """
    joints = item.joints_px.copy()
    height, width = alpha.shape
    column = joints[..., 0].round().clip(0, width - 1).astype(int)
    row = joints[..., 1].round().clip(0, height - 1).astype(int)
    under = alpha[row, column] > 0.5
    joints[..., 2] = np.where(under, np.minimum(joints[..., 2], 1), joints[..., 2])
    hit = ((item.joints_px[..., 2] > 0) & under).any(1)
    gone = hit & ((joints[..., 2] == 2).sum(1) < _LEFT_MIN)
    kept = ~gone
    return replace(
        item, joints_px=joints[kept], box_px=item.box_px[kept], area_px=item.area_px[kept],
        joints_m=item.joints_m[kept], weight_3d=item.weight_3d[kept],
        ignore_px=np.concatenate([item.ignore_px, item.box_px[gone]]),
    )  # fmt: skip
