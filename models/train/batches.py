"""Batches made on the device: photos lie there as bytes, one gather warps a whole batch.

A picture of a batch is a canvas of one, two or four regions, each with a photo under its own
similarity transform (turn, scale, shift, mirror). Points are moved by the same transform and the
targets are drawn from them afterwards (`targets`); maps are never warped. Nothing here loops over
pictures or people in Python.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from manypose.models.preprocess import BORDER
from manypose.models.train import colours, targets
from manypose.models.train.store import LEVELS, PEOPLE, Store
from manypose.models.train.targets import People, Targets
from manypose.pose.joints import JOINTS_2D, LIMBS, MIRROR, MIRROR_2D
from manypose.pose.targets import STRIDE

_K = len(JOINTS_2D)
REGIONS = 4
_SHAPED = 0.8  # share of the photos chosen for their shape


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How a batch is varied; `PLAIN` shows every photo whole and as it is."""

    canvas: bool = True  # two or four photos in some pictures
    masks: bool = True  # what the labels leave open is not learnt; else it counts as empty
    turn_deg: float = 14.0  # standard deviation
    turn_any: float = 0.07  # share of photos turned by any angle
    mirror: bool = True
    zoom: bool = True  # about one person, of any size; otherwise the photo fits the picture
    colour: bool = True
    person_px_min: float = 16.0  # smaller people are left out


PLAIN = Augmentation(
    canvas=False, turn_deg=0.0, turn_any=0.0, mirror=False, zoom=False, colour=False
)


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where the photos of B canvases lie: R = 4 regions, those without area unused.

    photo (B, R); edge (B, R, 4): first x, first y, last x + 1, last y + 1, px; split (B, 2) the x
    and y that divide the regions; matrix (B, R, 2, 2) and scale (B, R): photo to canvas, canvas =
    scale * matrix @ (p - source) + target; source, target (B, R, 2) px; mirrored (B, R).
    """

    photo: Tensor
    edge: Tensor
    split: Tensor
    matrix: Tensor
    scale: Tensor
    source: Tensor
    target: Tensor
    mirrored: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """images (B, 3, H, W) BGR in [0, 1], their targets, and the people as they lie on them."""

    images: Tensor
    targets: Targets
    people: People
    layout: Layout


@dataclass(frozen=True, slots=True, eq=False)
class Scenes:
    """Pictures as composed, colours not yet varied and targets not yet drawn.

    images (B, 3, H, W) BGR in [0, 1]; region (B, h, w), known_joints (B, K, h, w) and known_limbs
    (B, L, h, w) are as `targets.draw` wants them.
    """

    images: Tensor
    people: People
    region: Tensor
    known_joints: Tensor
    known_limbs: Tensor
    layout: Layout


@torch.no_grad()
def make(
    store: Store,
    count: int,
    width: int,
    height: int,
    how: Augmentation,
    rng: torch.Generator,
    photo: Tensor | None = None,
) -> Batch:
    """Return a batch of `count` pictures of width x height px (multiples of 8).

    `photo` (count,) are the numbers of the photos to show, one a picture; without it they are drawn
    by weight.
    """
    made = compose(store, count, width, height, how, rng, photo)
    images = colours.vary(made.images, rng) if how.colour else made.images
    return Batch(images, drawn(made), made.people, made.layout)


def drawn(made: Scenes) -> Targets:
    """Return the targets of composed pictures."""
    return targets.draw(made.people, made.region, made.known_joints, made.known_limbs)


@torch.no_grad()
def compose(
    store: Store,
    count: int,
    width: int,
    height: int,
    how: Augmentation,
    rng: torch.Generator,
    photo: Tensor | None = None,
) -> Scenes:
    """Return pictures as `make` does, before their colours vary and their targets are drawn."""
    layout = _layout(store, count, width, height, how, rng, photo)
    images = _pictures(store, layout, width, height, how, rng)
    people, box_px, kept = _people(store, layout, how)
    region, known_joints, known_limbs = _known(
        store, layout, people, box_px, kept, width // STRIDE, height // STRIDE
    )
    if not how.masks:
        known_joints, known_limbs = torch.ones_like(known_joints), torch.ones_like(known_limbs)
    chosen = kept.flatten().nonzero()[:, 0]
    picture = torch.arange(count, device=store.device).repeat_interleave(REGIONS * PEOPLE)
    flat = People(
        picture[chosen],
        *(
            getattr(people, name).flatten(0, 2)[chosen]
            for name in ("region", "joints_px", "visibility", "inside", "bones_m", "weight_3d")
        ),
    )
    return Scenes(images, flat, region, known_joints, known_limbs, layout)


def _take(table: Tensor, index: Tensor) -> Tensor:
    return table.index_select(0, index.flatten()).reshape(*index.shape, *table.shape[1:])


def _layout(
    store: Store, b: int, width: int, height: int, how: Augmentation, rng: torch.Generator,
    photo: Tensor | None,
) -> Layout:  # fmt: skip
    device = store.device

    def chance(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=rng, device=device)

    big = height >= 256
    kind = chance(b) if how.canvas else torch.ones(b, device=device)
    splits = []
    # side by side in some, four in few; borders between regions are borders of cells
    for side, share in ((width, 0.45), (height, 0.15 if big else 0.1)):
        at = (side * (0.3 + 0.4 * chance(b)) / STRIDE).round() * STRIDE
        splits.append(torch.where(kind < share, at, torch.full_like(at, side)))
    split = torch.stack(splits, -1)
    zero, (sx, sy) = torch.zeros(b, device=device), splits
    right, bottom = torch.full_like(zero, width), torch.full_like(zero, height)
    edge = torch.stack([
        torch.stack([zero, zero, sx, sy], -1), torch.stack([sx, zero, right, sy], -1),
        torch.stack([zero, sy, sx, bottom], -1), torch.stack([sx, sy, right, bottom], -1),
    ], 1)  # fmt: skip
    if photo is None:
        pair = torch.multinomial(store.weight, 2 * b * REGIONS, replacement=True, generator=rng)
        photo = _shaped(store, pair.reshape(b, REGIONS, 2), edge, chance(b, REGIONS), how.canvas)
    else:
        photo = photo.to(device)[:, None].expand(b, REGIONS)
    size = _take(store.level[:, 0, 1:], photo).float()
    room = edge[..., 2:] - edge[..., :2]
    fit = (room / size).amin(-1)
    scale, source = fit, (size - 1) / 2
    target = edge[..., :2] + (room - 1) / 2
    if how.zoom:
        scale, source, spread = _zoom(store, photo, size, room, fit, big, chance)
        noise = torch.randn(b, REGIONS, 2, generator=rng, device=device)
        target = target + noise * spread[..., None] * room
    turn = torch.randn(b, REGIONS, generator=rng, device=device) * how.turn_deg
    turn = turn.clamp(-40, 40)
    turn = torch.where(chance(b, REGIONS) < how.turn_any, 360 * chance(b, REGIONS), turn)
    turn = turn * (math.pi / 180)
    mirrored = (chance(b, REGIONS) < 0.5) & how.mirror
    sign = torch.where(mirrored, -1.0, 1.0)
    cos, sin = turn.cos(), turn.sin()
    matrix = torch.stack(
        [torch.stack([sign * cos, -sign * sin], -1), torch.stack([sin, cos], -1)], -2
    )
    return Layout(photo, edge, split, matrix, scale, source, target, mirrored)


def _shaped(store: Store, pair: Tensor, edge: Tensor, chance: Tensor, canvas: bool) -> Tensor:
    """Return of two photos (B, R, 2) mostly the one that fills its region better."""
    size = _take(store.level[:, 0, 1:], pair).float()
    room = (edge[..., 2:] - edge[..., :2]).clamp_min(1)
    misfit = ((size[..., 0] / size[..., 1]) / (room[..., 0] / room[..., 1])[..., None]).log().abs()
    second = (misfit[..., 1] < misfit[..., 0]) & (chance < _SHAPED) & canvas
    return torch.where(second, pair[..., 1], pair[..., 0])


def _zoom(
    store: Store, photo: Tensor, size: Tensor, room: Tensor, fit: Tensor, big: bool, chance: object
) -> tuple[Tensor, Tensor, Tensor]:
    """Return scale, centre and jitter: about a person of any size, or about the whole photo."""
    assert callable(chance)
    count = _take(store.count, photo)
    who = (chance(*photo.shape) * count.clamp_min(1)).long()
    box = _take(store.box_px.flatten(0, 1), photo * PEOPLE + who)
    extent = box[..., 2:] - box[..., :2]
    body = torch.maximum(extent[..., 1], 0.8 * extent[..., 0]).clamp_min(4)
    low, high = math.log(0.25 if big else 0.35), math.log(1.2)
    share = low + (high - low) * chance(*photo.shape)
    # a fifth so near that only half of the body is in the picture, mostly its upper half, as
    # before a webcam
    close = chance(*photo.shape) < 0.2
    share = torch.where(close, math.log(1.2) + 0.75 * chance(*photo.shape), share)
    aim = torch.where(close, 0.1 + 0.6 * chance(*photo.shape), 0.5)
    cover = (room / size).amax(-1)
    # empty borders teach nothing, yet pictures in use have them
    filled = 0.9 * fit * (cover / fit) ** (0.8 * chance(*photo.shape))
    near = (room[..., 1] * share.exp() / body).maximum(filled).clamp_max(3.0)
    whole = 0.9 * fit * (1.5 * cover / fit) ** chance(*photo.shape)
    about = (count > 0) & (chance(*photo.shape) < 0.6)
    scale = torch.where(about, near, whole)
    person = torch.stack([(box[..., 0] + box[..., 2]) / 2, box[..., 1] + aim * extent[..., 1]], -1)
    middle = torch.where(about[..., None], person, (size - 1) / 2)
    return scale, middle, torch.where(about, 0.18, 0.07)


def _pictures(
    store: Store, layout: Layout, width: int, height: int, how: Augmentation, rng: torch.Generator
) -> Tensor:
    b, device = len(layout.photo), store.device
    x = torch.arange(width, device=device).float().expand(b, height, width)
    y = torch.arange(height, device=device).float()[:, None].expand(b, height, width)
    region = _region(layout, x, y)
    at = (region + torch.arange(0, b * REGIONS, REGIONS, device=device)[:, None, None]).flatten()

    def here(values: Tensor) -> Tensor:
        return values.flatten().index_select(0, at)

    px, py = _to_photo(layout, x.flatten(), y.flatten(), at)
    scale = layout.scale
    depth = ((1 / scale).log2() + 0.4).floor().long().clamp(0, LEVELS - 1)
    level = store.level[layout.photo, depth]  # (B, R, 3)
    whole = store.level[layout.photo, 0]
    first, w, h = (here(level[..., i]) for i in range(3))
    shrink = level[..., 1:].float() / whole[..., 1:]
    qx = (px + 0.5) * here(shrink[..., 0]) - 0.5
    qy = (py + 0.5) * here(shrink[..., 1]) - 0.5
    inside = (qx >= -0.5) & (qx <= w - 0.5) & (qy >= -0.5) & (qy <= h - 0.5)
    left, top = qx.floor(), qy.floor()
    fx, fy = (qx - left)[:, None], (qy - top)[:, None]
    left, top = left.long(), top.long()
    x0, x1 = left.clamp_min(0).minimum(w - 1), (left + 1).clamp_min(0).minimum(w - 1)
    y0, y1 = (top.clamp_min(0).minimum(h - 1), (top + 1).clamp_min(0).minimum(h - 1))
    up, down = first + y0 * w, first + y1 * w

    def pixels(index: Tensor) -> Tensor:
        return store.pixels.index_select(0, index).float()

    above = torch.lerp(pixels(up + x0), pixels(up + x1), fx)
    below = torch.lerp(pixels(down + x0), pixels(down + x1), fx)
    image = torch.lerp(above, below, fy) / 255
    border = torch.full((b, 1, 3), BORDER / 255, device=device)
    if how.colour:
        some = torch.rand(b, 1, 1, generator=rng, device=device) < 0.5
        colour = torch.rand(b, 1, 3, generator=rng, device=device) * 0.8 + 0.1
        border = torch.where(some, colour, border)
    image = torch.where(inside[:, None], image, border.expand(b, height * width, 3).flatten(0, 1))
    # the strides of this permuted tensor are those of channels_last
    return image.reshape(b, height, width, 3).permute(0, 3, 1, 2)


def _region(layout: Layout, x: Tensor, y: Tensor) -> Tensor:
    right = (x >= layout.split[:, 0, None, None]).long()
    return right + 2 * (y >= layout.split[:, 1, None, None]).long()


def _to_photo(layout: Layout, x: Tensor, y: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Return photo px of canvas points (n,); `at`: picture * R + region of each."""
    inverse = layout.matrix.transpose(-1, -2) / layout.scale[..., None, None]
    shift = layout.source - (inverse @ layout.target[..., None])[..., 0]
    row = torch.cat([inverse.flatten(-2), shift], -1).flatten(0, 1).index_select(0, at)
    return row[:, 0] * x + row[:, 1] * y + row[:, 4], row[:, 2] * x + row[:, 3] * y + row[:, 5]


def _people(store: Store, layout: Layout, how: Augmentation) -> tuple[People, Tensor, Tensor]:
    """Return everybody in every region (B, R, 16, ...), their boxes in photo px, who is kept."""
    photo = layout.photo
    mirrored = layout.mirrored[..., None, None, None]
    joints = _take(store.joints_px, photo)
    joints = torch.where(mirrored, joints[..., list(MIRROR_2D), :], joints)
    at = joints[..., :2]
    turned = torch.einsum("brij,brpkj->brpki", layout.matrix, at - layout.source[:, :, None, None])
    px = turned * layout.scale[..., None, None, None] + layout.target[:, :, None, None]
    size = _take(store.level[:, 0, 1:], photo)[:, :, None, None]
    edge = layout.edge[:, :, None, None]
    inside = ((px >= edge[..., :2] - 0.5) & (px < edge[..., 2:] - 0.5)).all(-1)
    inside &= ((at >= -0.5) & (at < size - 0.5)).all(-1)
    joints_m = _take(store.joints_m, photo)
    weight = _take(store.weight_3d, photo)
    joints_m = torch.where(mirrored, joints_m[..., list(MIRROR), :], joints_m)
    weight = torch.where(mirrored[..., 0], weight[..., list(MIRROR)], weight)
    flat = torch.einsum("brij,brpkj->brpki", layout.matrix, joints_m[..., :2])
    bones_m = targets.bones(torch.cat([flat, joints_m[..., 2:]], -1))
    box = _take(store.box_px, photo)
    used = (layout.edge[..., 2:] > layout.edge[..., :2]).all(-1)
    real = torch.arange(PEOPLE, device=photo.device) < _take(store.count, photo)[..., None]
    size_px = (box[..., 2:] - box[..., :2]).amax(-1) * layout.scale[..., None]
    kept = real & used[..., None] & (size_px >= how.person_px_min)
    region = torch.arange(REGIONS, device=photo.device)[None, :, None].expand_as(kept)
    picture = torch.arange(len(photo), device=photo.device)[:, None, None].expand_as(kept)
    people = People(picture, region, px, joints[..., 2], inside, bones_m, weight)
    return people, box, kept


def _known(
    store: Store, layout: Layout, people: People, box_px: Tensor, kept: Tensor, w: int, h: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return each cell's region, and where it is known to hold no joint, no limb.

    Not known are: boxes that the labels name, people too small to keep, what lies out of a photo's
    reach (but its border is known to be empty), all of a joint that the source does not label, and
    in the box of a person the joint that this person has not labelled.
    """
    b, device = len(layout.photo), store.device
    x = (torch.arange(w, device=device) * STRIDE + (STRIDE - 1) / 2).expand(b, h, w)
    y = (torch.arange(h, device=device) * STRIDE + (STRIDE - 1) / 2)[:, None].expand(b, h, w)
    region = _region(layout, x, y)
    a, e = (torch.tensor(side, device=device) for side in zip(*LIMBS))
    joints = torch.ones(b, _K, h, w, device=device)
    limbs = torch.ones(b, len(LIMBS), h, w, device=device)
    real = torch.arange(PEOPLE, device=device) < _take(store.count, layout.photo)[..., None]
    for r in range(REGIONS):
        at = torch.arange(r, b * REGIONS, REGIONS, device=device).repeat_interleave(h * w)
        px, py = _to_photo(layout, x.flatten(), y.flatten(), at)
        px, py = px.reshape(b, 1, h, w), py.reshape(b, 1, h, w)
        number = layout.photo[:, r]
        whole = torch.zeros(b, 1, 4, device=device)
        whole[:, 0, 2:] = store.level[number, 0, 1:]
        box = box_px[:, r]
        grown = box.clone()
        margin = 0.06 * (box[..., 3:] - box[..., 1:2])
        grown[..., :2] -= margin
        grown[..., 2:] += margin
        near = _within(px, py, grown) & real[:, r, :, None, None]
        hidden = _within(px, py, store.ignore_px[number]).any(1)
        beyond = ~_within(px, py, store.reach_px[number][:, None]).any(1)
        hidden |= beyond & _within(px, py, whole - 0.5)[:, 0]
        hidden |= (near & ~kept[:, r, :, None, None]).any(1)
        labelled = store.known[number]
        swapped = labelled[:, list(MIRROR_2D)]
        labelled = torch.where(layout.mirrored[:, r, None], swapped, labelled)
        gone = (people.visibility[:, r] <= 0) & kept[:, r, :, None]  # (B, 16, K)
        cover = near.float().flatten(2)
        mine = region == r
        for known, label, miss in (
            (joints, labelled, gone),
            (limbs, labelled[:, a] & labelled[:, e], gone[..., a] | gone[..., e]),
        ):
            missed = torch.bmm(miss.float().transpose(1, 2), cover).reshape(known.shape) > 0
            free = label[..., None, None] & ~missed & ~hidden[:, None]
            known.masked_fill_(mine[:, None] & ~free, 0.0)
    return region, joints, limbs


def _within(x: Tensor, y: Tensor, box: Tensor) -> Tensor:
    """Return whether points (B, 1, h, w) lie in boxes (B, n, 4): (B, n, h, w)."""
    left, top, right, bottom = (box[..., i, None, None] for i in range(4))
    return (x >= left) & (x < right) & (y >= top) & (y < bottom)
