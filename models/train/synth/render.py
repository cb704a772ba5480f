"""Render a batch of scenes: people, their shadows, background, camera; with exact truth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from manypose.models.train.synth import rig
from manypose.models.train.synth.archive import Avatars
from manypose.models.train.synth.backgrounds import Chance, backgrounds
from manypose.models.train.synth.finish import (
    Look,
    photograph,
    plain_looks,
    sample_looks,
    sample_occluders,
)
from manypose.models.train.synth.labels import Truth, make_truth, mirrored
from manypose.models.train.synth.raster import Raster, rasterise, sample_texture
from manypose.models.train.synth.scene import Crowd, View

_WALLS_BEHIND_M = 0.8
_SHADOW_DARK = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Meshes:
    """Posed people in world axes: vertices, normals (V, 3), rows (V,) of the avatars' tensors.

    points_m (P, 26, 3) labelled points; owner (V,) person of a vertex; faces (F, 3) vertices of the
    triangles; face_owner (F,) person of a triangle.
    """

    vertices: Tensor
    normals: Tensor
    rows: Tensor
    points_m: Tensor
    owner: Tensor
    faces: Tensor
    face_owner: Tensor


def build_meshes(avatars: Avatars, crowd: Crowd) -> Meshes:
    """Return the skinned meshes and labelled points of a crowd, in the world, metres."""
    turn, offset = rig.pose(avatars, crowd.avatar, crowd.rotations)
    vertices, normals, rows = rig.skin(avatars, crowd.avatar, turn, offset)
    points = rig.labelled_points(avatars, crowd.avatar, turn, offset)
    count = avatars.vertex_start.diff()[crowd.avatar]
    first = count.cumsum(0) - count
    owner = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    face_rows, face_owner = rig.rows_of(avatars.face_start, crowd.avatar)
    faces = avatars.faces[face_rows] + first[face_owner][:, None]
    vertices = vertices * crowd.size[owner][:, None] + crowd.hip_m[owner]
    points = points * crowd.size[:, None, None] + crowd.hip_m[:, None]
    return Meshes(vertices, normals, rows, points, owner, faces, face_owner)


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What is round the people of B pictures.

    background (B, 3, H, W) RGB 0 to 255; paint (B, 3, H, W) and covered (B, H, W) objects before
    everybody; look: the cameras; mirrored (B,) pictures to mirror.
    """

    background: Tensor
    paint: Tensor
    covered: Tensor
    look: Look
    mirrored: Tensor


def sample_setting(
    chance: Chance, view: View, crowd: Crowd, height: int, width: int, photos: Tensor | None
) -> Setting:
    """Return random settings: photographs, rooms or noise, occluders, cameras, mirrors."""
    count = len(view.K)
    behind = backgrounds(chance, view, reach(crowd, count), photos, height, width)
    paint, covered = sample_occluders(chance, count, height, width)
    look, mirror = sample_looks(chance, count), chance.uniform(count) < 0.5
    return Setting(behind, paint, covered, look, mirror)


def plain_setting(background: Tensor) -> Setting:
    """Return settings with this background (B, 3, H, W), clean cameras and nothing in front."""
    nowhere = torch.zeros_like(background[:, 0], dtype=torch.bool)
    look = plain_looks(len(background), background.device)
    return Setting(background, background, nowhere, look, nowhere[:, 0, 0])


def render(
    avatars: Avatars, view: View, crowd: Crowd, setting: Setting, chance: Chance
) -> tuple[Tensor, Truth]:
    """Return pictures (B, H, W, 3) uint8 RGB and their truth; `chance` draws the sensor noise."""
    count, _, height, width = setting.background.shape
    meshes = build_meshes(avatars, crowd)
    picture = crowd.picture[meshes.owner]
    camera = _to_camera(view, picture, meshes.vertices)
    corners = _on_screen(view, picture, camera)[meshes.faces]
    face_picture = crowd.picture[meshes.face_owner]
    raster = rasterise(corners, face_picture, count, height, width)
    shadow = _shadows(view, meshes, crowd, height, width)
    images = setting.background * (1 - _SHADOW_DARK * shadow)[:, None]
    flat = images.permute(0, 2, 3, 1).reshape(-1, 3)
    flat[raster.pixel] = _shade(avatars, view, crowd, meshes, raster, camera)
    images = flat.view(count, height, width, 3).permute(0, 3, 1, 2)
    person = torch.full((count * height * width,), -1, dtype=torch.int16, device=flat.device)
    person[raster.pixel] = crowd.slot[meshes.face_owner[raster.triangle]].to(torch.int16)
    depth = torch.full((count * height * width,), torch.inf, device=flat.device)
    depth[raster.pixel] = raster.depth_m
    person, depth = person.view(count, height, width), depth.view(count, height, width)
    images = torch.where(setting.covered[:, None], setting.paint, images)
    person[setting.covered] = -1
    images = photograph(chance, images, setting.look).permute(0, 2, 3, 1)
    points = _to_camera(view, crowd.picture, meshes.points_m)
    truth = make_truth(crowd.picture, crowd.slot, points, view.K, person, depth)
    return mirrored(images, truth, setting.mirrored)


def _to_camera(view: View, picture: Tensor, points_m: Tensor) -> Tensor:
    """Return world points (N, 3) or (N, M, 3) in the camera frames of their pictures (N,)."""
    R, t = view.R[picture], view.t[picture]
    if points_m.ndim == 3:
        R, t = R[:, None], t[:, None]
    return (R * points_m[..., None, :]).sum(-1) + t


def _on_screen(view: View, picture: Tensor, camera_m: Tensor) -> Tensor:
    """Return px x, px y, depth m (V, 3) of camera-frame vertices."""
    z = camera_m[:, 2:].clamp_min(1e-3)
    focal = torch.stack([view.K[:, 0, 0], view.K[:, 1, 1]], 1)[picture]
    return torch.cat([camera_m[:, :2] / z * focal + view.K[picture, :2, 2], camera_m[:, 2:]], 1)


def _shade(
    avatars: Avatars,
    view: View,
    crowd: Crowd,
    meshes: Meshes,
    raster: Raster,
    camera_m: Tensor,
) -> Tensor:
    """Return the colours (Q, 3) of the covered pixels: texture under one lamp and the sky."""
    person = meshes.face_owner[raster.triangle]
    picture = crowd.picture[person]
    corner = meshes.faces[raster.triangle]
    weights = raster.corner_weights[..., None]
    uv = (avatars.uv[meshes.rows[corner]] * weights).sum(1)
    colour = sample_texture(avatars.textures, crowd.avatar[person], uv) * crowd.gain[person]
    normal = (meshes.normals[corner] * weights).sum(1)
    normal = normal / normal.norm(dim=1, keepdim=True).clamp_min(1e-6)
    to_eye = -((camera_m[corner] * weights).sum(1)[:, :, None] * view.R[picture]).sum(1)
    # Surfaces are two-sided (hair, skirts): what is seen faces the camera.
    normal = torch.where((normal * to_eye).sum(1, keepdim=True) < 0, -normal, normal)
    lamp = (normal * view.light[picture]).sum(1, keepdim=True)
    ambient = view.ambient[picture][:, None]
    sky = ambient * (0.85 + 0.15 * normal[:, 1:2])
    return colour * (sky + (1.15 - ambient) * (0.25 * lamp + 0.75 * lamp.clamp_min(0)))


def _shadows(view: View, meshes: Meshes, crowd: Crowd, height: int, width: int) -> Tensor:
    """Return soft shadows (B, H, W) in [0, 1] on the ground, drawn at half size."""
    picture = crowd.picture[meshes.owner]
    light = view.light[picture]
    slope = light / light[:, 1:2].clamp_min(0.25)
    camera = _to_camera(view, picture, meshes.vertices - slope * meshes.vertices[:, 1:2])
    on_screen = _on_screen(view, picture, camera)
    on_screen[:, :2] = (on_screen[:, :2] + 0.5) / 2 - 0.5
    # Every second triangle is enough for something blurred.
    faces, owner = meshes.faces[::2], meshes.face_owner[::2]
    half = (height // 2, width // 2)
    raster = rasterise(on_screen[faces], crowd.picture[owner], len(view.K), *half)
    dark = torch.zeros(len(view.K) * half[0] * half[1], device=light.device)
    dark[raster.pixel] = 1.0
    soft = avg_pool2d(dark.view(-1, 1, *half), 5, 1, 2)
    return interpolate(soft, size=(height, width), mode="bilinear", align_corners=False)[:, 0]


def reach(crowd: Crowd, count: int) -> Tensor:
    """Return how far and how wide (B, 2) m people stand, with room behind them."""
    away = torch.stack([-crowd.hip_m[:, 2], crowd.hip_m[:, 0].abs()], 1)
    least = torch.tensor([4.0, 1.5], device=away.device).repeat(count, 1)
    at = crowd.picture[:, None].expand(-1, 2)
    return least.scatter_reduce(0, at, away, "amax") + _WALLS_BEHIND_M
