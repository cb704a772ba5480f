"""Moving pictures: people in consecutive mocap frames, a still or moving camera.

A clip is continued for as long as wanted by jumping back to an earlier frame of like pose and
speed, turned and moved so that the path goes on; what differs at the seam fades out within a third
of a second in the rotations, so that bones keep their lengths and nothing pops.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manypose.models.train.synth.archive import Clips
from manypose.models.train.synth.backgrounds import Chance, backgrounds, draw_rooms, sample_rooms
from manypose.models.train.synth.finish import Look, sample_looks, sample_occluders
from manypose.models.train.synth.labels import Truth
from manypose.models.train.synth.render import Setting, reach, render
from manypose.models.train.synth.rig import rotations_of
from manypose.models.train.synth.scene import (
    Crowd,
    Float,
    Rng,
    Stage,
    View,
    gather_crowd,
    light_from,
    look,
    sample_bodies,
    turn_about_y,
    view_of,
)

_FADE_FRAMES = 10
_LOOP_FRAMES_MIN = 24
_CLIP_FRAMES_MIN = 50
_LANE_M = 0.65


def continue_motion(clips: Clips, clip: int, frames: int, first: int = 0) -> tuple[Float, Float]:
    """Return quaternions (T, 22, 4) and mid hips (T, 3) m of a clip for any number of frames."""
    rows = slice(int(clips.start[clip]) + first, int(clips.start[clip] + clips.length[clip]))
    q = clips.quaternions[rows].astype(np.float64)
    q /= np.linalg.norm(q, axis=-1, keepdims=True)
    root = clips.root_m[rows].astype(np.float64)
    if len(q) >= frames:
        return q[:frames], root[:frames]
    if len(q) < _LOOP_FRAMES_MIN + 4:  # too short for a loop: to and fro
        swing = np.abs((np.arange(frames) + len(q) - 1) % max(2 * len(q) - 2, 1) - (len(q) - 1))
        return q[swing], root[swing]
    back, end = _loop(q, root)
    out_q: list[Float] = [q[: end + 1]]
    out_root: list[Float] = [root[: end + 1]]
    total = end + 1
    while total < frames:
        last_q, last_root = out_q[-1][-1], out_root[-1][-1]
        yaw = _heading(last_q) - _heading(q[back])
        turned = multiply(_about_y(yaw), q[back : end + 1])
        path = root[back : end + 1] - root[back]
        path = path @ turn_about_y(yaw).T
        # The first frame repeats the pose at the seam; its rest fades out.
        rest = multiply(last_q, turned[0] * (1, -1, -1, -1))
        fade = np.clip(1 - np.arange(len(turned)) / _FADE_FRAMES, 0, 1)[:, None, None]
        rest = np.where(rest[..., :1] < 0, -rest, rest)
        mixed = fade * rest + (1 - fade) * np.array([1.0, 0, 0, 0])
        mixed /= np.linalg.norm(mixed, axis=-1, keepdims=True)
        height = root[back : end + 1, 1] + fade[:, 0, 0] * (last_root[1] - root[back, 1])
        path = path + last_root
        path[:, 1] = height
        out_q.append(multiply(mixed, turned)[1:])
        out_root.append(path[1:])
        total += end - back
    return np.concatenate(out_q)[:frames], np.concatenate(out_root)[:frames]


def _loop(q: Float, root: Float) -> tuple[int, int]:
    """Return the frames (back, end) between which a clip repeats best."""
    turned = multiply(_about_y(-_heading(q))[:, None], q)
    speed = np.diff(root, axis=0, append=root[-1:])
    speed = np.einsum("tij,tj->ti", turn_about_y(-_heading(q)), speed)
    weight = np.ones(q.shape[1])
    weight[0] = 3  # the pelvis carries everything
    likeness = np.abs(np.einsum("abi,cbi->acb", turned, turned)) @ weight
    pose = weight.sum() - likeness
    # A step forward must also look like a step forward: compare the next frames too.
    cost = pose[:-1, :-1] + pose[1:, 1:]
    cost += 200 * ((speed[:-1, None] - speed[None, :-1]) ** 2).sum(-1)
    a, b = np.indices(cost.shape)
    far = (b - a >= _LOOP_FRAMES_MIN) & (b >= len(q) // 2) & (b < len(q) - 1)
    back, end = np.unravel_index(np.argmin(np.where(far, cost, np.inf)), cost.shape)
    return int(back), int(end)


def _heading(q: Float) -> Float:
    """Return the yaw (...) of the pelvis in quaternions (..., 22, 4)."""
    w, x, y, z = np.moveaxis(q[..., 0, :], -1, 0)
    return np.asarray(np.arctan2(2 * (x * z + w * y), 1 - 2 * (x * x + y * y)))


def _about_y(angle_rad: Float) -> Float:
    """Return quaternions (..., 4) of turns about the vertical."""
    zero = np.zeros_like(angle_rad)
    return np.stack([np.cos(angle_rad / 2), zero, np.sin(angle_rad / 2), zero], -1)


def multiply(a: Float, b: Float) -> Float:
    """Return quaternion products (..., 4), w x y z: b first, then a."""
    aw, ax, ay, az = np.moveaxis(a, -1, 0)
    bw, bx, by, bz = np.moveaxis(b, -1, 0)
    return np.stack(
        [aw * bw - ax * bx - ay * by - az * bz, aw * bx + ax * bw + ay * bz - az * by,
         aw * by - ax * bz + ay * bw + az * bx, aw * bz + ax * by - ay * bx + az * bw],
        -1,
    )  # fmt: skip


def sample_sequence(
    rng: Rng,
    stage: Stage,
    frames: int,
    width: int,
    height: int,
    people: int | None = None,
    moving: bool = False,
) -> tuple[View, Crowd]:
    """Return the T pictures of a sequence: people who cross in the picture, others on the spot.

    moving: the camera is held in a hand or carried; else it stands still.
    """  # fmt: skip
    count = people or int(rng.integers(2, 7))
    focal = width * np.exp(rng.uniform(np.log(0.7), np.log(1.3)))
    up, middle_m = rng.uniform(1.0, 2.4), focal * 1.7 / (height * rng.uniform(0.3, 0.6))
    usable = stage.clip_shares * (stage.clips.length >= _CLIP_FRAMES_MIN)
    body = sample_bodies(rng, stage, count)
    clip = rng.choice(len(usable), count, p=usable / usable.sum())
    motions = [continue_motion(stage.clips, int(c), frames) for c in clip]
    yaw, where = np.zeros(count), np.zeros((count, 2))
    for k, (_, root) in enumerate(motions):
        travel = root[-1] - root[0]
        walks = np.hypot(travel[0], travel[2]) > 1.0
        # Walkers go across the picture, one half each way; the others face anywhere.
        goal = rng.normal(0, 0.35) + (np.pi if k % 2 else 0.0)
        yaw[k] = np.arctan2(travel[2], travel[0]) - goal if walks else rng.uniform(-np.pi, np.pi)
        half = root[frames // 2] @ turn_about_y(yaw[k]).T
        lane = -(middle_m + (k - (count - 1) / 2) * _LANE_M)
        beside = rng.uniform(-0.35, 0.35) * (1.0 if walks else 3.0)
        where[k] = np.array([beside, lane]) - half[[0, 2]]
    view = _carried(rng, stage, frames, focal, (width, height), up, middle_m, moving)
    return view, crowd_of_sequence(stage, body, clip, motions, yaw, where)


def crowd_of_sequence(
    stage: Stage,
    body: tuple[NDArray[Any], Float, Float],
    clip: NDArray[Any],
    motions: list[tuple[Float, Float]],
    yaw: Float,
    where: Float,
) -> Crowd:
    """Return people (T * P) in T consecutive pictures; arguments per person, as in the scene."""
    frames, count = len(motions[0][0]), len(motions)
    q = np.stack([m[0] for m in motions], 1).reshape(frames * count, -1, 4)
    root = np.stack([m[1] for m in motions], 1).reshape(frames * count, 3)
    picture, slot = (v.ravel() for v in np.indices((frames, count)))
    avatar, size, gain = body
    return gather_crowd(
        stage, picture, slot, (avatar[slot], size[slot], gain[slot]), clip[slot],
        (rotations_of(stage.number(q)), stage.number(root)), yaw[slot], where[slot],
    )  # fmt: skip


def _carried(
    rng: Rng, stage: Stage, frames: int, focal: float, size: tuple[int, int],
    up: float, middle_m: float, moving: bool,
) -> View:  # fmt: skip
    """Return the views of a still camera or of one that sways, drifts and turns smoothly."""
    t = np.arange(frames) / stage.clips.fps

    def sway(reach: float) -> Float:
        if not moving:
            return np.zeros(frames)
        hz, phase = rng.uniform(0.1, 1.2, 3), rng.uniform(0, 2 * np.pi, 3)
        waves = np.sin(2 * np.pi * hz * t[:, None] + phase) / (1 + 2 * hz)
        return np.asarray(reach * waves.sum(1))

    K = np.tile(np.diag([focal, focal, 1.0]), (frames, 1, 1))
    K[:, :2, 2] = (size[0] - 1) / 2, (size[1] - 1) / 2
    pitch = np.arctan2(up - 0.9, middle_m) + rng.normal(0, 0.03)
    R = look(sway(0.05), pitch + sway(0.03), rng.normal(0, 0.02) + sway(0.015))
    drift = rng.normal(0, 0.15) * t * moving
    centre = np.stack([sway(0.12) + drift, up + sway(0.05), sway(0.12)], 1)
    light = light_from(rng.uniform(-np.pi, np.pi, 1), rng.uniform(0.5, 1.3, 1))
    ambient = np.full(frames, rng.uniform(0.5, 0.85))
    return view_of(stage, K, R, centre, np.tile(light, (frames, 1)), ambient)


def cut(view: View, crowd: Crowd, first: int, last: int) -> tuple[View, Crowd]:
    """Return the pictures first to last - 1."""
    some = View(*(getattr(view, f.name)[first:last] for f in fields(view)))
    rows = ((crowd.picture >= first) & (crowd.picture < last)).nonzero()[:, 0]
    kept = Crowd(*(getattr(crowd, f.name)[rows] for f in fields(crowd)))
    return some, replace(kept, picture=kept.picture - first)


def render_sequence(
    stage: Stage,
    view: View,
    crowd: Crowd,
    chance: Chance,
    size: tuple[int, int],
    photos: Tensor | None = None,
    batch: int = 8,
) -> Iterator[tuple[int, Tensor, Truth]]:
    """Yield (first frame, pictures, truth) of a sequence with one room, lens and set of occluders.

    size: width, height. Photographs serve as backgrounds only where the camera stands still.
    """
    width, height = size
    frames = len(view.K)
    one, _ = cut(view, crowd, 0, 1)
    far = reach(crowd, frames).amax(0, keepdim=True)
    still = bool((view.R[:1] == view.R).all() and (view.t == view.t[:1]).all())
    room = sample_rooms(chance, far)
    fixed = backgrounds(chance, one, far, photos, height, width) if still else None
    paint, covered = sample_occluders(chance, 1, height, width)
    lens = sample_looks(chance, 1)
    for first in range(0, frames, batch):
        part, people = cut(view, crowd, first, min(first + batch, frames))
        n = len(part.K)
        if fixed is not None:
            behind = fixed.expand(n, -1, -1, -1)
        else:
            many = type(room)(*(_repeated(getattr(room, f.name), n) for f in fields(room)))
            behind = draw_rooms(many, part, height, width)
        seen = Look(*(_repeated(getattr(lens, f.name), n) for f in fields(lens)))
        nowhere = torch.zeros(n, dtype=torch.bool, device=behind.device)
        setting = Setting(behind, _repeated(paint, n), covered.expand(n, -1, -1), seen, nowhere)
        yield first, *render(stage.avatars, part, people, setting, chance)


def _repeated(values: Tensor, count: int) -> Tensor:
    return values.expand(count, *values.shape[1:])
