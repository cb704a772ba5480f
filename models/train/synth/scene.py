"""What to render: people from captured motion on a ground plane, cameras, light.

World: metres, y up, ground y = 0; people stand at negative z before a camera above the origin.
Camera: x right, y down, z forward, ``x_camera = R @ x_world + t``; pixel centres at whole numbers.
Everything random is drawn by one generator, for all pictures of a batch at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manypose.models.train.synth.archive import ANKLE_HEIGHT_M, Avatars, Clips, in_split
from manypose.models.train.synth.rig import floor_heights, rotations_of

Float = NDArray[np.floating[Any]]
Rng = np.random.Generator

PEOPLE_MAX = 10
# Shares of pictures with 1, 2, ... 10 people.
_PEOPLE_SHARES = np.array([14, 18, 17, 14, 11, 8, 6, 5, 4, 3]) / 100
# A quarter of the wardrobes are uniforms; draw them half as often.
_UNIFORMS = ("Fire", "Military", "Police", "Security")
_FLOOR_FRAMES = 24  # frames of a motion looked at for its contact with the floor
_TRIES = 24  # candidate places drawn for each person
_BODY_M = 1.7


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """The cameras and the light of B pictures, on the device.

    K, R (B, 3, 3) and t (B, 3), world to camera; light (B, 3) unit vector towards the light;
    ambient (B,) share of light from everywhere.
    """

    K: Tensor
    R: Tensor
    t: Tensor
    light: Tensor
    ambient: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Crowd:
    """The P people in B pictures, picture after picture, on the device.

    picture, slot (P,): where a person is and its number there; avatar, clip (P,) indices; rotations
    (P, 22, 3, 3) global, world axes; hip_m (P, 3) mid hip in the world; size (P,) body scale; gain
    (P, 3) colour factors.
    """

    picture: Tensor
    slot: Tensor
    avatar: Tensor
    clip: Tensor
    rotations: Tensor
    hip_m: Tensor
    size: Tensor
    gain: Tensor


class Stage:
    """Avatars and motion that may be drawn, on one device, with remembered floor heights."""

    def __init__(
        self, avatars: Avatars, clips: Clips, split: str = "all", device: str = "cpu"
    ) -> None:
        self.avatars, self.clips, self.device = avatars.to(device), clips, device
        plain = [0.5 if n.startswith(_UNIFORMS) else 1.0 for n in avatars.names]
        self.avatar_shares = _shares(np.array(plain) * in_split(avatars.names, split, "avatars"))
        self.clip_shares = _shares(clips.weight * in_split(clips.names, split, "clips"))
        self._quaternions = torch.from_numpy(clips.quaternions).to(device)
        self._root_m = torch.from_numpy(clips.root_m).to(device)
        self._floor = torch.full((len(avatars.names), len(clips.names)), torch.nan, device=device)

    def index(self, values: NDArray[Any]) -> Tensor:
        """Return whole numbers on the device."""
        return torch.from_numpy(np.ascontiguousarray(values, np.int64)).to(self.device)

    def number(self, values: Float | float) -> Tensor:
        """Return real numbers on the device, float32."""
        return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(self.device)

    def leg_ratio(self, avatar: Tensor, clip: NDArray[Any]) -> Tensor:
        """Return (P,) by how much an avatar's legs are longer than the performer's."""
        performer = self.number(self.clips.leg_m[clip])
        return (self.avatars.leg_m[avatar] + ANKLE_HEIGHT_M) / (performer + ANKLE_HEIGHT_M)

    def motion(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return rotations (..., 22, 3, 3) and mid hips (..., 3) m of rows of the clips."""
        return rotations_of(self._quaternions[rows]), self._root_m[rows]

    def floor_m(self, avatar: Tensor, clip: NDArray[Any]) -> Tensor:
        """Return (P,) the floor of each motion danced by each avatar (body scale 1)."""
        at = self.index(clip)
        fresh = self._floor[avatar, at].isnan()
        pairs = torch.stack([avatar, at], 1)[fresh].cpu().numpy()
        if len(pairs):
            pairs = np.unique(pairs, axis=0)  # a sequence asks for the same people again and again
            who, which = self.index(pairs[:, 0]), pairs[:, 1]
            share = np.linspace(0, 1, _FLOOR_FRAMES)
            last = self.clips.length[which][:, None] - 1
            rows = self.clips.start[which][:, None] + np.rint(share * last)
            rotations, root = self.motion(self.index(rows))
            hip = root[..., 1] * self.leg_ratio(who, which)[:, None]
            lying = torch.tensor(
                [self.clips.tags[c] == "lie" for c in which], dtype=torch.bool, device=self.device
            )
            self._floor[who, self.index(which)] = floor_heights(
                self.avatars, who, rotations, hip, lying
            )
        return self._floor[avatar, at]


def _shares(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    if weight.sum() <= 0:
        raise ValueError("no avatar or clip is left to draw from")
    return np.asarray(weight / weight.sum())


def sample_scenes(
    rng: Rng, stage: Stage, count: int, width: int, height: int, people: int | None = None
) -> tuple[View, Crowd]:
    """Return `count` independent pictures to render: 1 to 10 people each, or `people`."""
    wanted = rng.choice(np.arange(1, PEOPLE_MAX + 1), count, p=_PEOPLE_SHARES)
    if people is not None:
        wanted = np.full(count, people)
    focal = width * np.exp(rng.uniform(np.log(0.62), np.log(1.7), count))
    x, z, kept = place(rng, wanted, focal, width, height)
    view = sample_view(rng, stage, focal, width, height, _median(z, kept))
    picture, slot = np.nonzero(kept)
    slot = (np.cumsum(kept, 1) - 1)[picture, slot]
    where = np.stack([x[kept], -z[kept]], 1)
    total = len(picture)
    clip = rng.choice(len(stage.clip_shares), total, p=stage.clip_shares)
    rows = stage.clips.start[clip] + rng.integers(0, stage.clips.length[clip])
    yaw = rng.uniform(-np.pi, np.pi, total)
    body = sample_bodies(rng, stage, total)
    rotations, root = stage.motion(stage.index(rows))
    root = root * stage.number(np.array([0.0, 1.0, 0.0]))  # only the height of a still matters
    return view, gather_crowd(stage, picture, slot, body, clip, (rotations, root), yaw, where)


def _median(z: Float, kept: NDArray[np.bool_]) -> Float:
    return np.asarray(np.nanmedian(np.where(kept, z, np.nan), axis=1))


def sample_bodies(rng: Rng, stage: Stage, total: int) -> tuple[NDArray[Any], Float, Float]:
    """Return avatars (P,), body scales (P,) and colour gains (P, 3) of people."""
    avatar = rng.choice(len(stage.avatar_shares), total, p=stage.avatar_shares)
    gain = np.exp(rng.normal(0, 0.1, (total, 1)) + rng.normal(0, 0.06, (total, 3)))
    return avatar, rng.normal(1, 0.035, total), gain


def gather_crowd(
    stage: Stage,
    picture: NDArray[Any],
    slot: NDArray[Any],
    body: tuple[NDArray[Any], Float, Float],
    clip: NDArray[Any],
    motion: tuple[Tensor, Tensor],
    yaw: Float,
    where: Float,
) -> Crowd:
    """Return people (P,) who start at where (P, 2), world x and z, turned by yaw (P,).

    body: from `sample_bodies`; motion: rotations (P, 22, 3, 3) and mid hip (P, 3) m in the axes and
    the size of the clip's performer.
    """
    avatar, size = stage.index(body[0]), stage.number(body[1])
    rotations, root = motion
    turn = stage.number(turn_about_y(yaw))
    hip = torch.einsum("pij,pj->pi", turn, root * stage.leg_ratio(avatar, clip)[:, None])
    hip[:, 1] -= stage.floor_m(avatar, clip)
    hip = hip * size[:, None]
    hip[:, [0, 2]] += stage.number(where)
    return Crowd(
        stage.index(picture), stage.index(slot), avatar, stage.index(clip),
        turn[:, None] @ rotations, hip, size, stage.number(body[2]),
    )  # fmt: skip


def turn_about_y(angle_rad: Float) -> Float:
    """Return rotations (..., 3, 3) about the vertical; +z turns towards +x."""
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    zero, one = np.zeros_like(c), np.ones_like(c)
    rows = [c, zero, s, zero, one, zero, -s, zero, c]
    return np.stack(rows, -1).reshape(*c.shape, 3, 3)


def place(
    rng: Rng, wanted: NDArray[Any], focal: Float, width: int, height: int
) -> tuple[Float, Float, NDArray[np.bool_]]:
    """Return x, z (B, 10) m on the ground and which of the places are taken.

    Places are drawn by apparent body height (log-uniform, 13 to 90 % of the picture, in some
    pictures up to 175 %); in 40 % of the pictures all stand near each other. Nobody stands inside
    another, but people may hide each other. A person without a free place is left out.
    """
    count = len(wanted)
    unit = height / 320  # the body heights below are those of a picture 320 px high
    crowded = (wanted > 1) & (rng.random(count) < 0.4)
    gap = np.where(crowded, 0.5, 0.65)[:, None, None]
    tallest = np.where(rng.random(count) < 0.15, 560.0, 290.0)
    half_view = 0.5 * width / focal

    def depth(low: float, high: Float | float, tries: int) -> Float:
        share = rng.random((count, tries))
        body = np.exp(np.log(low) + share * (np.log(high) - np.log(low))[..., None])
        return np.asarray(focal[:, None] * _BODY_M / (body * unit))

    heart_z = depth(80.0, np.full(count, 260.0), 1)
    heart_x = rng.uniform(-0.5, 0.5, (count, 1)) * half_view[:, None] * heart_z
    x, z = np.zeros((count, PEOPLE_MAX)), np.full((count, PEOPLE_MAX), 1e3)
    kept = np.zeros((count, PEOPLE_MAX), bool)
    for s in range(PEOPLE_MAX):
        near = heart_z + rng.normal(0, 0.8, (count, _TRIES))
        far = depth(42.0, tallest, _TRIES)
        cz = np.clip(np.where(crowded[:, None], near, far), 1.1, 18.0)
        half = half_view[:, None] * cz
        beside = heart_x + rng.normal(0, 0.8, (count, _TRIES))
        anywhere = rng.uniform(-0.9, 0.9, (count, _TRIES)) * half
        cx = np.where(crowded[:, None], beside, anywhere)
        distance2 = (cx[:, :, None] - x[:, None]) ** 2 + (cz[:, :, None] - z[:, None]) ** 2
        free = ((distance2 > gap**2) | ~kept[:, None]).all(2) & (np.abs(cx) < half)
        best = np.argmax(free, 1)[:, None]
        # The first person is always there, so that no picture is empty.
        ok = (s < wanted) & (np.take_along_axis(free, best, 1)[:, 0] | (s == 0))
        x[ok, s] = np.take_along_axis(cx, best, 1)[ok, 0]
        z[ok, s] = np.take_along_axis(cz, best, 1)[ok, 0]
        kept[:, s] = ok
    return x, z, kept


def sample_view(
    rng: Rng, stage: Stage, focal: Float, width: int, height: int, distance_m: Float
) -> View:
    """Return cameras 0.4 to 3.5 m high, aimed at bodies `distance_m` away, and their light."""
    count = len(focal)
    K = np.zeros((count, 3, 3))
    K[:, 0, 0] = K[:, 1, 1] = focal
    K[:, 0, 2] = (width - 1) / 2 + rng.normal(0, 4, count) * width / 512
    K[:, 1, 2] = (height - 1) / 2 + rng.normal(0, 4, count) * width / 512
    K[:, 2, 2] = 1
    kind = rng.choice(3, count, p=[0.15, 0.6, 0.25])  # on a desk, in a hand, under a ceiling
    up = rng.uniform(np.array([0.4, 1.0, 1.9])[kind], np.array([1.0, 1.9, 3.5])[kind])
    pitch = np.arctan2(up - rng.uniform(0.75, 1.1, count), distance_m)
    pitch += rng.normal(0, 0.1, count) * height / focal
    R = look(np.zeros(count), pitch, rng.normal(0, 0.035, count))
    azimuth, elevation = rng.uniform(-np.pi, np.pi, count), rng.uniform(0.35, 1.4, count)
    return view_of(
        stage, K, R, np.stack([np.zeros(count), up, np.zeros(count)], 1),
        light_from(azimuth, elevation), rng.uniform(0.45, 0.9, count),
    )  # fmt: skip


def view_of(
    stage: Stage, K: Float, R: Float, centre_m: Float, light: Float, ambient: Float
) -> View:
    """Return views of cameras at centre_m (B, 3), the other arguments as in `View`."""
    t = -np.einsum("bij,bj->bi", R, centre_m)
    return View(*(stage.number(v) for v in (K, R, t, light, ambient)))


def light_from(azimuth_rad: Float, elevation_rad: Float) -> Float:
    """Return unit vectors (B, 3) towards the light."""
    flat = np.cos(elevation_rad)
    return np.stack(
        [np.cos(azimuth_rad) * flat, np.sin(elevation_rad), np.sin(azimuth_rad) * flat], -1
    )


def look(yaw_rad: Float, pitch_rad: Float, roll_rad: Float) -> Float:
    """Return rotations (B, 3, 3), world to camera, of cameras that look along world -z.

    Positive yaw turns the view to the right, positive pitch down.
    """
    forward = np.diag([1.0, -1.0, -1.0])
    c, s = np.cos(pitch_rad), np.sin(pitch_rad)
    zero, one = np.zeros_like(c), np.ones_like(c)
    pitch = np.stack([one, zero, zero, zero, c, -s, zero, s, c], -1).reshape(-1, 3, 3)
    c, s = np.cos(roll_rad), np.sin(roll_rad)
    roll = np.stack([c, -s, zero, s, c, zero, zero, zero, one], -1).reshape(-1, 3, 3)
    return np.asarray(roll @ pitch @ forward @ turn_about_y(yaw_rad))
