"""What stands behind the people: photographs without people, rooms seen in perspective, noise.

All pictures of a batch are made at once, on the device. Colours are 0 to 255, RGB, (B, 3, H, W).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from manypose.errors import SourceError
from manypose.models.train.packs import decoded
from manypose.models.train.readers import open_source
from manypose.models.train.synth.scene import View

_PHOTO_SHARE, _ROOM_SHARE = 0.7, 0.24  # the rest is noise; without photographs rooms take over
_PHOTO_SIZE = (360, 576)


class Chance:
    """Random tensors on one device from one seed."""

    def __init__(self, seed: int, device: str) -> None:
        self._source = torch.Generator(device).manual_seed(seed)
        self.device = device

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return numbers in [low, high)."""
        drawn = torch.rand(*shape, generator=self._source, device=self.device)
        return low + (high - low) * drawn

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers."""
        return torch.randn(*shape, generator=self._source, device=self.device)


def read_photos(address: str, limit: int = 400) -> Tensor:
    """Return people-free photographs (N, 3, 360, 576) uint8 RGB, at most `limit`, evenly chosen.

    address: a source of training pictures (see `train.readers`), of which those without any person
    are taken, or just a folder of pictures that show nobody.

    Raises:
        SourceError: there is no such picture.
    """
    chosen = [
        item
        for item in open_source(address)
        if not len(item.joints_px) and not len(item.ignore_px) and item.known.any()
    ]
    step = max(1, -(-len(chosen) // limit))
    photos = [_cover(np.asarray(decoded(item).picture, np.uint8)) for item in chosen[::step]]
    if not photos:
        raise SourceError(f"{address} holds no picture without people: name another with --photos")
    return torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).contiguous()


def _cover(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the middle of a BGR picture, scaled to fill the common size, RGB."""
    h, w = _PHOTO_SIZE
    scale = max(h / image.shape[0], w / image.shape[1])
    size = (max(w, round(image.shape[1] * scale)), max(h, round(image.shape[0] * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    grown = cv2.resize(image, size, interpolation=how)
    y, x = (grown.shape[0] - h) // 2, (grown.shape[1] - w) // 2
    return np.ascontiguousarray(grown[y : y + h, x : x + w, ::-1])


def backgrounds(
    chance: Chance, view: View, reach_m: Tensor, photos: Tensor | None, height: int, width: int
) -> Tensor:
    """Return backgrounds (B, 3, H, W); reach_m (B, 2): how far and wide the walls must stand."""
    count = len(view.K)
    draw = chance.uniform(count)
    photo_share = _PHOTO_SHARE if photos is not None else 0.0
    room_share = _ROOM_SHARE + _PHOTO_SHARE - photo_share
    out = torch.empty(count, 3, height, width, device=view.K.device)
    photo = (draw < photo_share).nonzero()[:, 0]
    room = ((draw >= photo_share) & (draw < photo_share + room_share)).nonzero()[:, 0]
    plain = (draw >= photo_share + room_share).nonzero()[:, 0]
    if photos is not None and len(photo):
        out[photo] = _photo_cuts(chance, photos, len(photo), height, width)
    if len(room):
        seen = View(*(getattr(view, f.name)[room] for f in fields(view)))
        out[room] = draw_rooms(sample_rooms(chance, reach_m[room]), seen, height, width)
    if len(plain):
        out[plain] = clutter(chance, noise(chance, len(plain), height, width), 12)
    return out


def _photo_cuts(chance: Chance, photos: Tensor, count: int, height: int, width: int) -> Tensor:
    """Return random cuts of random photographs, every other one mirrored."""
    pick = chance.uniform(count, high=len(photos)).long().clamp(max=len(photos) - 1)
    chosen = photos[pick.to(photos.device)].to(chance.device).float()
    share = chance.uniform(count, low=0.6, high=1.0)  # of the photograph's tighter side
    have, want = chosen.shape[3] / chosen.shape[2], width / height
    sx, sy = share * min(1.0, want / have), share * min(1.0, have / want)
    side = torch.where(chance.uniform(count) < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3, device=chance.device)
    theta[:, 0, 0], theta[:, 1, 1] = sx * side, sy
    theta[:, 0, 2] = chance.uniform(count, low=-1) * (1 - sx)
    theta[:, 1, 2] = chance.uniform(count, low=-1) * (1 - sy)
    grid = torch.nn.functional.affine_grid(theta, [count, 3, height, width], align_corners=False)
    return grid_sample(chosen, grid, padding_mode="reflection", align_corners=False)


def noise(chance: Chance, count: int, height: int, width: int, octaves: int = 5) -> Tensor:
    """Return soft colour noise (B, 3, H, W) of random brightness, tint and contrast."""
    calm = chance.uniform(count) < 0.65
    contrast = torch.where(
        calm, chance.uniform(count, low=2, high=15), chance.uniform(count, low=15, high=45)
    )
    base = chance.uniform(count, 1, low=30, high=225) + 20 * chance.normal(count, 3)
    out = torch.zeros(count, 3, 2, 2, device=chance.device)
    for o in range(octaves):
        rows = min(2 ** (o + 1) + 1, height)
        columns = min(int(2 ** (o + 1) * width / height) + 2, width)
        out = interpolate(out, size=(rows, columns), mode="bilinear", align_corners=True)
        grey, tint = chance.normal(count, 1, rows, columns), chance.normal(count, 3, rows, columns)
        out = out + 0.62 ** (o + 1) * (grey + 0.25 * tint)
    out = interpolate(out, size=(height, width), mode="bicubic", align_corners=True)
    return (out * contrast[:, None, None, None] + base.clamp(5, 250)[:, :, None, None]).clamp(
        0, 255
    )


def clutter(chance: Chance, image: Tensor, shapes_max: int) -> Tensor:
    """Return the pictures with up to `shapes_max` boxes, frames, discs and bars painted on."""
    count, _, height, width = image.shape
    wanted = chance.uniform(count, high=shapes_max + 1).long()
    for s in range(shapes_max):
        inside, rim = shape_masks(chance, count, height, width)
        colour = chance.uniform(count, 1, low=15, high=240) + 30 * chance.normal(count, 3)
        there = (s < wanted)[:, None, None]
        filled = (chance.uniform(count) < 0.75)[:, None, None]
        paint = colour.clamp(0, 255)[:, :, None, None]
        image = torch.where((inside & there & filled)[:, None], paint, image)
        image = torch.where((rim & there)[:, None], paint * 0.65, image)
    return image


def shape_masks(
    chance: Chance, count: int, height: int, width: int, low: float = 0.01, high: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Return the insides and the rims (B, H, W) of one random shape for each picture.

    low, high: limits of the half sides, as shares of the picture's height. Half of the shapes stand
    upright, the rest leans; a third are discs.
    """
    cx = chance.uniform(count, low=-0.05, high=1.05)[:, None, None] * width
    cy = chance.uniform(count, low=-0.05, high=1.05)[:, None, None] * height
    lean = torch.where(chance.uniform(count) < 0.5, 0.0, 0.3) * chance.normal(count)
    c, s = torch.cos(lean)[:, None, None], torch.sin(lean)[:, None, None]
    dx = torch.arange(width, device=chance.device).float()[None, None] - cx
    dy = torch.arange(height, device=chance.device).float()[None, :, None] - cy
    half = chance.uniform(2, count, 1, 1, low=low, high=high) * height
    x, y = (c * dx + s * dy).abs() / half[0], (c * dy - s * dx).abs() / half[1]
    disc = (chance.uniform(count) < 0.33)[:, None, None]
    reach = torch.where(disc, torch.sqrt(x * x + y * y), torch.maximum(x, y))
    rim = 1 - (1.5 + chance.uniform(count, 1, 1, high=2.5)) / half.amin(0)
    return reach < 1, (reach < 1) & (reach > rim)


@dataclass(frozen=True, slots=True, eq=False)
class Rooms:
    """B rooms: textures (B, 3, h, w) of floor and walls, and where the planes are.

    far_m (B,), sides_m (B, 2) left and right, ceiling_m (B,); texel (B,) floor textures per metre;
    shade (B, 5) light on floor, back, left, right, ceiling; top (B,) brightness of the ceiling;
    skirting_m (B,).
    """

    floor: Tensor
    wall: Tensor
    far_m: Tensor
    sides_m: Tensor
    ceiling_m: Tensor
    texel: Tensor
    shade: Tensor
    top: Tensor
    skirting_m: Tensor


def sample_rooms(chance: Chance, reach_m: Tensor) -> Rooms:
    """Return rooms whose walls stand beyond reach_m (B, 2): how far and wide people are."""
    count = len(reach_m)
    spread = -1.5 * torch.log1p(-chance.uniform(count, 3, high=0.98))
    sides = torch.stack([-reach_m[:, 1] - spread[:, 1], reach_m[:, 1] + spread[:, 2]], 1)
    shade = torch.ones(count, 5, device=chance.device)
    shade[:, 2:4] = chance.uniform(count, 2, low=0.65, high=1.0)
    return Rooms(
        floor=clutter(chance, noise(chance, count, 192, 192), 4) * _seams(chance, count, 192),
        wall=clutter(chance, noise(chance, count, 160, 320), 14),
        far_m=reach_m[:, 0] + spread[:, 0],
        sides_m=sides,
        ceiling_m=torch.where(chance.uniform(count) < 0.7, 2.4, 9.0) + chance.uniform(count),
        texel=chance.uniform(count, low=0.15, high=0.6),
        shade=shade,
        top=chance.uniform(count, low=150, high=245),
        skirting_m=chance.uniform(count, high=0.14),
    )


def draw_rooms(rooms: Rooms, view: View, height: int, width: int) -> Tensor:
    """Return rooms (B, 3, H, W) as the cameras see them: floor, three walls, ceiling.

    They give the picture a true ground and horizon.
    """
    count, K, R = len(view.K), view.K, view.R
    centre = -torch.einsum("bji,bj->bi", R, view.t)
    u = torch.arange(width, device=K.device).float()
    v = torch.arange(height, device=K.device).float()
    x = (u - K[:, 0, 2, None]) / K[:, 0, 0, None]
    y = (v - K[:, 1, 2, None]) / K[:, 1, 1, None]
    ray = torch.stack(
        [x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width),
         torch.ones(count, height, width, device=K.device)], -1) @ R[:, None]  # fmt: skip

    def hit(axis: int, at: Tensor, toward: float) -> Tensor:
        d = ray[..., axis] * toward
        gap = ((at - centre[:, axis]) * toward)[:, None, None]
        return torch.where(d > 1e-4, gap / d.clamp_min(1e-4), 1e6)

    ceiling = torch.maximum(rooms.ceiling_m, centre[:, 1] + 0.4)
    planes = torch.stack(
        [hit(1, torch.zeros_like(ceiling), -1), hit(2, -rooms.far_m, -1),
         hit(0, rooms.sides_m[:, 0], -1), hit(0, rooms.sides_m[:, 1], 1),
         hit(1, ceiling, 1)])  # fmt: skip
    nearest, plane = planes.topk(2, dim=0, largest=False)
    plane, distance = plane[0], nearest[0]
    at = centre[:, None, None] + ray * distance[..., None].clamp(max=60)
    texel = rooms.texel[:, None, None]
    along = torch.where((plane == 1), at[..., 0], at[..., 2] + 3.7)
    # The texture of a wall is 6 m wide and 3 m high, hung from the floor.
    wall_uv = torch.stack([along / 3, 1 - at[..., 1] / 1.5], -1)
    floor_uv = torch.stack([at[..., 0] * texel, at[..., 2] * texel], -1)
    floor = grid_sample(rooms.floor, floor_uv, padding_mode="reflection", align_corners=False)
    wall = grid_sample(rooms.wall, wall_uv, padding_mode="reflection", align_corners=False)
    light = rooms.shade.gather(1, plane.flatten(1)).view(count, 1, height, width)
    top = rooms.top[:, None, None, None]
    out = torch.where((plane == 0)[:, None], floor, wall)
    out = torch.where((plane == 4)[:, None], top, out)
    skirting = (plane > 0) & (plane < 4) & (at[..., 1] < rooms.skirting_m[:, None, None])
    out = torch.where(skirting[:, None], 0.5 * out + 0.5 * top, out)
    # Corners get less of the light that comes from everywhere.
    corner = 1 - 0.3 * torch.exp(-3 * (nearest[1] - distance).clamp(0, 9))
    return out * light * corner[:, None]


def _seams(chance: Chance, count: int, side: int) -> Tensor:
    """Return factors (B, 1, side, side) that darken the seams of planks, of tiles, or nothing."""
    pitch = chance.uniform(count, 1, low=12, high=60)
    line = torch.arange(side, device=chance.device)[None] % pitch < 2
    kind = chance.uniform(count, 1, 1)
    planks, tiles = kind < 0.35, (kind >= 0.35) & (kind < 0.6)
    dark = (line[:, None] & (planks | tiles)) | (line[:, :, None] & tiles)
    return torch.where(dark, chance.uniform(count, 1, 1, low=0.5, high=0.9), 1.0)[:, None]
