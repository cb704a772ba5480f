"""People whose every joint is known: walkers by rule, or captured motion where it is at hand.

The walkers need no data. Each goes in circles, stops, swings the arms, squats and hops, in turn and
never all at once. The foot that carries a body does not slip: the root is what the standing foot
makes it, so foot slide in a result is the result's own.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manypose.app.motion import Motion
from manypose.calib.camera import Camera
from manypose.pose import skeleton as sk
from manypose.pose.joints import INDEX, INDEX_2D, JOINTS_2D

Float = NDArray[np.floating[Any]]
Bool = NDArray[np.bool_]

WIDTH, HEIGHT, FOV_DEG, RATE = 640, 400, 70.0, 30.0
# A camera at chest height that looks a little down.
_CAMERA_HEIGHT_M, _PITCH = 1.6, 0.12
STATURE_M = 1.80
_I = INDEX
_SOLE_M = 0.025  # the tip of the foot above the floor
_FEET = [_I["l_ankle"], _I["l_foot"]], [_I["r_ankle"], _I["r_foot"]]
# One round of what a walker does: (seconds, walks, swings arms, squats and hops).
_ROUND = ((4.0, 1, 0, 0), (2.5, 0, 0, 0), (1.5, 0, 1, 0), (1.5, 0, 0, 1))
# Half the thickness of what hides others, metres: a trunk and a limb.
_TRUNK_M, _LIMB_M = 0.15, 0.06
_BEHIND_M = 0.15  # so much nearer must be what hides a joint
_BONES = np.array([(p, j) for j, p in enumerate(sk.KINEMATIC_PARENT) if p >= 0])
_THICK = np.array(
    [_TRUNK_M if sk.POINT_NAMES[j] in ("spine", "neck") else _LIMB_M for _, j in _BONES]
)


def walkers(people: int, seconds: float, seed: int = 0) -> Motion:
    """Return people by rule, 3 to 8 m away, all `STATURE_M` tall with proportions of their own."""
    rng = np.random.default_rng(seed)
    t = np.arange(max(round(seconds * RATE), 3)) / RATE
    parts = []
    for n in range(people):
        lengths = sk.AVERAGE_LENGTHS_M * np.exp(_paired(rng.normal(0, 0.03, len(sk.REST_M))))
        lengths *= STATURE_M / sk.stature_m(lengths)
        walk = _walk(t, lengths, phase=2.9 * n + rng.uniform(0, 1), turn=rng.choice([-1, 1]) * 0.5)
        parts.append(_turned(walk, rng.uniform(0, 2 * math.pi)))
    return staged("walkers", np.stack(parts, 1), rng)


def captured(mocap: Path, avatars: Path, people: int, seconds: float, seed: int = 0) -> Motion:
    """Return captured motion on scanned bodies, both of those never used in training.

    Raises:
        SourceError: an archive is missing or is none.
    """
    from manypose.models.train.mocap import body_tables, rotations_of
    from manypose.models.train.synth.archive import (
        ANKLE_HEIGHT_M,
        in_split,
        read_avatars,
        read_clips,
    )
    from manypose.models.train.synth.sequences import continue_motion

    rng = np.random.default_rng(seed)
    clips, bodies = read_clips(mocap), read_avatars(avatars)
    tables, legs = body_tables(bodies), bodies.leg_m.numpy()
    held = np.flatnonzero(in_split(clips.names, "val", "clips"))
    drawn = rng.choice(held, people, p=clips.weight[held] / clips.weight[held].sum())
    figures = np.flatnonzero(in_split(bodies.names, "val", "avatars"))
    parts = []
    for n, clip in enumerate(drawn):
        body = figures[n % len(figures)]
        q, root = continue_motion(clips, int(clip), round(seconds * RATE))
        scale = (legs[body] + ANKLE_HEIGHT_M) / (clips.leg_m[clip] + ANKLE_HEIGHT_M)
        points = np.einsum("tbij,pbj->tpi", rotations_of(q), tables[body].astype(float))
        points += root[:, None] * scale - points[:, None, _I["pelvis"]]
        parts.append(_turned(points, rng.uniform(0, 2 * math.pi)))
    return staged("captured", np.stack(parts, 1), rng)


def staged(name: str, points: Float, rng: np.random.Generator) -> Motion:
    """Return people (T, P, 26, 3), y up, floor y = 0, put on a floor before the camera.

    Nobody's path leaves the picture as a rule; people do hide one another.
    """
    camera = Camera.from_fov(WIDTH, HEIGHT, FOV_DEG, "calibrated")
    count = points.shape[1]
    place = np.zeros((count, 3))
    for n in range(count):
        row, column = divmod(n, 4)
        in_row = min(4, count - 4 * row)
        far = 4.2 + 1.5 * row + 0.35 * (column % 2)
        wide = 0.45 * far * ((column + 0.5) / in_row * 2 - 1)
        place[n] = (wide + rng.uniform(-0.1, 0.1), 0, -far)
    middle = (points[:, :, _I["pelvis"]].max(0) + points[:, :, _I["pelvis"]].min(0)) / 2
    world = points + (place - middle * (1, 0, 1))[None, :, None]
    c, s = math.cos(_PITCH), math.sin(_PITCH)
    x, y, z = world[..., 0], _CAMERA_HEIGHT_M - world[..., 1], -world[..., 2]
    seen_from = np.stack([x, c * y - s * z, s * y + c * z], -1)
    flat = seen_from.reshape(-1, *seen_from.shape[2:])
    px = camera.camera_to_image(sk.marks(flat)).reshape(*seen_from.shape[:2], len(JOINTS_2D), 2)
    seen = ~hidden(seen_from, camera)
    inside = (px > -0.5).all(-1) & (px < (WIDTH - 0.5, HEIGHT - 0.5)).all(-1)
    times = np.arange(len(points)) / RATE
    return Motion(name, seen_from[:, :, : len(sk.REST_M)], px, seen & inside, camera.K, times)


def hidden(points: Float, camera: Camera) -> Bool:
    """Return (T, P, 20): which 2D joints lie behind a limb or trunk, of others or their own."""
    frames, people = points.shape[:2]
    marks = sk.marks(points.reshape(-1, *points.shape[2:])).reshape(frames, people, -1, 3)
    q = marks[..., :2] / marks[..., 2:]
    out = np.zeros(marks.shape[:3], bool)
    trunk = np.flatnonzero(_THICK == _TRUNK_M)
    limbs = [k for k, name in enumerate(JOINTS_2D) if name[2:] in ("elbow", "wrist")]
    for n in range(people):
        a, b = points[:, n, _BONES[:, 0]], points[:, n, _BONES[:, 1]]
        for m in range(people):
            use, who = (
                (trunk, limbs) if m == n else (np.arange(len(_BONES)), np.arange(len(q[0, 0])))
            )
            out[:, m, who] |= _behind(q[:, m, who], marks[:, m, who, 2], a[:, use], b[:, use],
                                      _THICK[use])  # fmt: skip
    return out


def _behind(q: Float, z: Float, a: Float, b: Float, thick: Float) -> Bool:
    """Return (T, K): whether rays q (T, K, 2) to depth z meet a bone a-b (T, B, 3) before it."""
    start, end = a[..., :2] / a[..., 2:], b[..., :2] / b[..., 2:]
    along = (end - start)[:, None]
    away = q[:, :, None] - start[:, None]
    share = (away * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-12)
    share = np.clip(share, 0, 1)
    apart = np.linalg.norm(away - share[..., None] * along, axis=-1)
    depth = a[:, None, :, 2] + share * (b - a)[:, None, :, 2]
    return np.asarray(((apart * depth < thick) & (depth < z[..., None] - _BEHIND_M)).any(-1))


def _walk(t: Float, lengths: Float, phase: float, turn: float) -> Float:
    """Return points (T, 26, 3), y up: rounds of walking, standing, swinging arms, hopping."""
    go, arms, squat, hop = _rounds(t + phase)
    a = 2 * math.pi * 0.85 * np.cumsum(go) / RATE + phase
    turning = np.zeros((len(t), len(sk.REST_M), 3))
    for side, s in (("l_", 1.0), ("r_", -1.0)):
        swing = s * np.sin(a) * go
        turning[:, _I[side + "hip"], 0] = -0.45 * swing - 0.05 - 0.9 * squat
        lift = go * 0.5 * (1 + np.cos(a + (0 if s > 0 else math.pi) + 0.6))
        turning[:, _I[side + "knee"], 0] = lift + 0.05 + 1.6 * squat
        turning[:, _I[side + "ankle"], 0] = 0.1 * swing - 0.7 * squat
        wave = arms * np.sin(2 * math.pi * 1.5 * t + phase)
        turning[:, _I[side + "elbow"], 1] = -s * (0.4 - 0.2 * swing + 0.7 * arms + 0.6 * wave)
    turning[:, _I["spine"], 0] = 0.03 + 0.4 * squat
    turning[:, _I["spine"], 1] = 0.1 * go * np.sin(a)
    q = sk.exp_map(turning)
    for side, s in (("l_", 1.0), ("r_", -1.0)):
        wave = arms * np.sin(2 * math.pi * 1.5 * t + phase)
        swing = np.zeros((len(t), 3))
        swing[:, 0] = 0.4 * np.sin(a) * s * go - 0.8 * arms + 0.8 * wave
        hang = sk.exp_map(np.stack([0 * t, 0 * t, -s * (1.35 - 0.5 * arms)], -1))
        q[:, _I[side + "shoulder"]] = sk.quaternion_multiply(sk.exp_map(swing), hang)
    q[:, _I["pelvis"]] = sk.exp_map(np.stack([0 * t, np.cumsum(turn * go) / RATE, 0 * t], -1))
    offsets = sk.offsets_m(np.tile(lengths, (len(t), 1)))
    points = sk.forward(np.zeros((len(t), 3)), q, offsets)[0]
    points[..., 1] -= points[:, [f[1] for f in _FEET], 1].min(-1)[:, None] - _SOLE_M
    carries = points[:, [f[1] for f in _FEET], 1].argmin(-1)  # the lower foot
    feet = np.stack([points[:, list(f)].mean(1) for f in _FEET], 1)
    step = np.diff(feet, axis=0, prepend=feet[:1])[np.arange(len(t)), carries]
    points -= np.cumsum(step * (1, 0, 1), axis=0)[:, None]
    points[..., 1] += hop[:, None]
    return points


def _rounds(t: Float) -> tuple[Float, Float, Float, Float]:
    """Return walking, swinging, squatting (each 0 to 1, eased) and the height of hops (m)."""
    total = sum(r[0] for r in _ROUND)
    at = np.mod(t, total)
    out = np.zeros((3, len(t)))
    hop = np.zeros(len(t))
    start = 0.0
    for seconds, *amounts in _ROUND:
        for row, amount in zip(out, amounts):
            u = np.clip(np.minimum(at - start, start + seconds - at) / 0.3, 0, 1)
            row += amount * u * u * (3 - 2 * u)
        if amounts[2]:  # down for the first part, a hop of a quarter of a metre, down again
            u = (at - start) / seconds
            out[2] *= np.where((u > 0) & (u < 1), np.cos(math.pi * u) ** 2, 1)
            flight = np.clip((u - 0.35) / 0.3, 0, 1)
            hop += 0.25 * 4 * flight * (1 - flight)
        start += seconds
    return out[0], out[1], out[2], hop


def _paired(values: Float) -> Float:
    """Return one number per joint, the same left and right."""
    from manypose.pose.joints import MIRROR

    return np.asarray((values + values[list(MIRROR)]) / 2)


def _turned(points: Float, yaw: float) -> Float:
    c, s = math.cos(yaw), math.sin(yaw)
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    return np.stack([c * x + s * z, y, c * z - s * x], -1)


def clothes(people: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return colours (P, 2, 3) BGR of shirts and trousers, no two people alike."""
    import cv2

    hue = (np.arange(people) * 180 / max(people, 1)).astype(np.uint8)
    wheel = np.stack([hue, np.full(people, 200), np.full(people, 200)], -1).astype(np.uint8)
    top = cv2.cvtColor(wheel[None], cv2.COLOR_HSV2BGR)[0]
    order = np.random.default_rng(seed).permutation(people)
    return np.stack([top, top[order]], 1)


def picture(motion: Motion, frame: int, width: int, height: int, dress: Any) -> NDArray[np.uint8]:
    """Return a grey picture with people's trunks and thighs in their colours, near ones last."""
    import cv2

    image = np.full((height, width, 3), 110, np.uint8)
    image[:, ::16] = 90
    image[::16] = 130
    depth = motion.joints_m[frame, :, _I["pelvis"], 2]
    for p in np.argsort(-np.nan_to_num(depth, nan=-np.inf)):
        for names, colour in (
            (("l_shoulder", "r_shoulder", "r_hip", "l_hip"), dress[p, 0]),
            (("l_hip", "r_hip", "r_knee", "l_knee"), dress[p, 1]),
        ):
            corners = motion.joints_px[frame, p, [INDEX_2D[n] for n in names]]
            if not np.isfinite(corners).all():
                continue
            hull = cv2.convexHull(np.clip(corners, -2000, 4000).round().astype(np.int32))
            cv2.fillConvexPoly(image, hull, [int(c) for c in colour])
    return image
