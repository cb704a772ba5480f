"""Generated people with known truth: a walker by rule, motion capture where it lies at hand.

Not a test. Poses become pixels through a camera and get the errors a network makes; pictures show
flat coloured clothes, enough for the colours a tracker reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from manypose.calib.camera import Camera
from manypose.pose import skeleton as sk
from manypose.pose.joints import INDEX
from manypose.pose.records import Detections, Frame, Person2D, Person3D

I = INDEX  # noqa: E741


def camera(width=640, height=400, fov=60.0):
    return Camera.from_fov(width, height, fov, source="calibrated")


def walker(t, speed=1.2, phase=0.0, lengths=None):
    """Points (F, 26, 3) of somebody walking along +z of a world with y up, pelvis over the origin.

    Joint angles swing as sines of the step; the lower foot stands on y = 0.
    """
    lengths = sk.AVERAGE_LENGTHS_M if lengths is None else lengths
    f = len(t)
    a = 2 * math.pi * 0.8 * max(speed, 0.0) / 1.2 * np.asarray(t) + phase
    go = min(speed, 1.0)
    vector = np.zeros((f, 21, 3))
    for side, s in (("l_", 1.0), ("r_", -1.0)):
        swing = np.sin(a) * s * go
        vector[:, I[side + "hip"], 0] = -0.45 * swing - 0.05
        vector[:, I[side + "knee"], 0] = (
            go * 0.5 * (1 + np.cos(a + (0 if s > 0 else math.pi) + 0.6)) + 0.05
        )
        vector[:, I[side + "ankle"], 0] = 0.1 * swing
        vector[:, I[side + "elbow"], 1] = -s * (0.4 + 0.2 * swing * -1)
    q = sk.exp_map(vector)
    for side, s in (("l_", 1.0), ("r_", -1.0)):
        hang = sk.exp_map(np.broadcast_to([0, 0, -s * 1.35], (f, 3)))
        swing = np.zeros((f, 3))
        swing[:, 0] = 0.4 * np.sin(a) * s * go
        q[:, I[side + "shoulder"]] = sk.quaternion_multiply(sk.exp_map(swing), hang)
    q[:, I["spine"]] = sk.exp_map(np.stack([0 * a + 0.03, 0.1 * go * np.sin(a), 0 * a], -1))
    offsets = sk.offsets_m(np.tile(lengths, (f, 1)))
    points, _ = sk.forward(np.zeros((f, 3)), q, offsets)
    points[..., 1] -= points[:, [I["l_foot"], I["r_foot"]], 1].min(-1)[:, None] - 0.025
    return points


def turned(points, yaw):
    """Turn y-up points (..., 3) about y."""
    c, s = np.cos(yaw), np.sin(yaw)
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    return np.stack([c * x + s * z, y, c * z - s * x], -1)


def to_camera(points, height=1.5, pitch=0.1):
    """World (y up, floor y = 0, looked at along -z from the origin) to the camera frame."""
    c, s = math.cos(pitch), math.sin(pitch)
    x, y, z = points[..., 0], height - points[..., 1], -points[..., 2]
    return np.stack([x, c * y - s * z, s * y + c * z], -1)


MOCAP_BONES = (
    "Pelvis", "Spine", "Spine1", "Spine2", "Neck", "Head", "R Clavicle", "R UpperArm",
    "R Forearm", "R Hand", "L Clavicle", "L UpperArm", "L Forearm", "L Hand", "R Thigh", "R Calf",
    "R Foot", "R Toe0", "L Thigh", "L Calf", "L Foot", "L Toe0",
)  # fmt: skip
_MOCAP_PARENT = (-1, 0, 1, 2, 3, 4, 4, 6, 7, 8, 4, 10, 11, 12, 0, 14, 15, 16, 0, 18, 19, 20)


class Mocap:
    """Motion capture clips as joints of a body of ours; clavicles and three spine joints move."""

    def __init__(self, folder: Path) -> None:
        z = np.load(folder / "mocap.npz")
        self.position, self.quaternion = z["pos"], z["quat"]
        self.start, self.length, self.leg = z["start"], z["len"], z["leg"]
        self.names, self.tags = [str(n) for n in z["name"]], [str(t) for t in z["tag"]]

    def points(self, clip, first=0, count=None, lengths=None):
        """Points (F, 26, 3), y up, floor near y = 0, at 30 per second."""
        lengths = sk.AVERAGE_LENGTHS_M if lengths is None else lengths
        n = int(self.length[clip]) - first if count is None else count
        rows = slice(int(self.start[clip]) + first, int(self.start[clip]) + first + n)
        q = self.quaternion[rows].astype(float)
        q = q[..., [1, 2, 3, 0]] / np.linalg.norm(q, axis=-1, keepdims=True)
        turn = sk.quaternion_to_matrix(q)
        rest = _mocap_rest(lengths)
        leg = lengths[I["l_knee"]] + lengths[I["l_ankle"]]
        at = {"Pelvis": self.position[rows] * (leg + 0.085) / (self.leg[clip] + 0.085)}
        for b, name in enumerate(MOCAP_BONES[1:], 1):
            up = MOCAP_BONES[_MOCAP_PARENT[b]]
            at[name] = at[up] + turn[:, _MOCAP_PARENT[b]] @ (rest[name] - rest[up])
        out = np.zeros((n, 26, 3))
        points = _rest_points(lengths)
        for k, name in enumerate(sk.POINT_NAMES):
            bone = _CARRIED_BY.get(name) or _CARRIED_BY["face"]
            b = MOCAP_BONES.index(bone)
            out[:, k] = at[bone] + turn[:, b] @ (points[k] - rest[bone])
        return out


_CARRIED_BY = {
    "pelvis": "Pelvis", "spine": "Spine1", "neck": "Neck", "head": "Head", "head_top": "Head",
    "face": "Head",
} | {
    f"{s}_{j}": f"{s.upper()} {b}"
    for s in "rl"
    for j, b in (
        ("shoulder", "UpperArm"), ("elbow", "Forearm"), ("wrist", "Hand"), ("hand", "Hand"),
        ("hip", "Thigh"), ("knee", "Calf"), ("ankle", "Foot"), ("foot", "Foot"),
    )
}  # fmt: skip


def _rest_points(lengths):
    offsets = sk.offsets_m(lengths[None])
    q = np.zeros((1, 21, 4))
    q[..., 3] = 1
    return sk.forward(np.zeros((1, 3)), q, offsets)[0][0]


def _mocap_rest(lengths):
    p = _rest_points(lengths)
    spine, neck = p[I["spine"]], p[I["neck"]]
    rest = {
        "Pelvis": p[I["pelvis"]], "Spine": 0.4 * spine, "Spine1": spine,
        "Spine2": spine + 0.45 * (neck - spine), "Neck": neck,
        "Head": neck + 0.5 * (p[I["head"]] - neck),
    }  # fmt: skip
    for s in "rl":
        shoulder = p[I[f"{s}_shoulder"]]
        rest[f"{s.upper()} Clavicle"] = shoulder * np.array([0.15, 1, 1]) + np.array(
            [0, 0.03, 0.02]
        )
        for j, b in (
            ("shoulder", "UpperArm"), ("elbow", "Forearm"), ("wrist", "Hand"), ("hip", "Thigh"),
            ("knee", "Calf"), ("ankle", "Foot"), ("foot", "Toe0"),
        ):  # fmt: skip
            rest[f"{s.upper()} {b}"] = p[I[f"{s}_{j}"]]
    return rest


@dataclass
class Noise:
    """Errors of the network; metres and px. `slow` ones last about a second, `white` one frame."""

    image_px: float = 1.2
    white_depth: float = 0.03
    white_across: float = 0.01
    slow: float = 0.035
    hidden: float = 2.5  # how much worse a hidden joint is
    root_white: float = 0.01  # share of the distance
    root_slow: float = 0.03


EXACT = Noise(0, 0, 0, 0, 1, 0, 0)


def people3d(points, cam, rng, noise=EXACT, hidden=None, dt=1 / 30):
    """Return a list over frames of lists over people of Person3D, from points (F, P, 26, 3).

    hidden (F, P, 26): joints the front end does not see. NaN people are absent.
    """
    frames, count = points.shape[:2]
    keep = math.exp(-dt / 1.0)
    slow = rng.normal(0, noise.slow, (count, 21, 3))
    far = rng.normal(0, noise.root_slow, count)
    out = []
    for f in range(frames):
        row = []
        slow = keep * slow + math.sqrt(1 - keep**2) * rng.normal(0, noise.slow, slow.shape)
        far = keep * far + math.sqrt(1 - keep**2) * rng.normal(0, noise.root_slow, count)
        for p in range(count):
            x = points[f, p]
            if not np.isfinite(x).all():
                continue
            px = cam.camera_to_image(sk.marks(x[None])[0])
            inside = (px >= 0).all(-1) & (px[:, 0] < cam.width) & (px[:, 1] < cam.height)
            seen = inside & np.isfinite(px).all(-1)
            if hidden is not None:
                seen &= ~hidden[f, p][sk.POINT_OF_2D]
            if seen.sum() < 3:
                continue
            px = np.where(seen[:, None], px + rng.normal(0, 1, px.shape) * noise.image_px, np.nan)
            joints = x[:21] - x[I["pelvis"]]
            ok = np.zeros(26, bool)
            ok[sk.POINT_OF_2D] = seen
            factor = np.where(ok[:21] | ~np.isin(np.arange(21), sk.POINT_OF_2D), 1.0, noise.hidden)
            white = np.array([noise.white_across, noise.white_across, noise.white_depth])
            e = rng.normal(0, 1, (21, 3)) * white + slow[p]
            e = e * factor[:, None]
            e[I["pelvis"]] = 0
            sigma = factor * max(0.01, math.hypot(noise.white_depth, 1.7 * noise.slow))
            root = x[I["pelvis"]] * (1 + far[p] + rng.normal(0, 1) * noise.root_white)
            found = Person2D(px, seen * 0.9, 0.9)
            row.append(Person3D(found, joints + e, sigma, root, max(0.05, 0.04 * root[2])))
        out.append(row)
    return out


def picture(points, cam, clothes):
    """Return a grey picture with people's trunks and thighs in their colours, the near ones last.

    points (P, 26, 3); clothes (P, 2, 3) BGR.
    """
    import cv2

    image = np.full((cam.height, cam.width, 3), 110, np.uint8)
    image[:, ::16] = 90
    image[::16] = 130
    for p in np.argsort(-np.where(np.isfinite(points[:, 14, 2]), points[:, 14, 2], np.inf)):
        if not np.isfinite(points[p]).all():
            continue
        px = cam.camera_to_image(points[p])
        if not np.isfinite(px).all():
            continue
        for names, colour in (
            (("l_shoulder", "r_shoulder", "r_hip", "l_hip"), clothes[p, 0]),
            (("l_hip", "r_hip", "r_knee", "l_knee"), clothes[p, 1]),
        ):
            quad = np.clip(px[[I[n] for n in names]], -2000, 4000).round().astype(np.int32)
            cv2.fillConvexPoly(image, cv2.convexHull(quad), [int(c) for c in colour])
    return image


def detections(points, cam, people, clothes=None, rate=30.0, times=None):
    """Return Detections of every frame; black pictures when no clothes are given."""
    out = []
    blank = np.zeros((cam.height, cam.width, 3), np.uint8)
    for f, row in enumerate(people):
        image = blank if clothes is None else picture(points[f], cam, clothes)
        t = f / rate if times is None else times[f]
        out.append(Detections(Frame(image, t, f, cam), tuple(row)))
    return out


def outfits(count, rng):
    """Return clothes (P, 2, 3) BGR, no two alike: colours of hats drawn from a wheel."""
    import cv2

    hue = (np.arange(count) * 180 / count).astype(np.uint8)
    wheel = np.stack([hue, np.full(count, 200), np.full(count, 200)], -1).astype(np.uint8)
    top = cv2.cvtColor(wheel[None], cv2.COLOR_HSV2BGR)[0]
    return np.stack([top, top[rng.permutation(count)]], 1)


def party(count=10, seconds=120.0, rate=10.0, seed=3):
    """Points (F, P, 26, 3) in the camera frame, NaN = out of the scene: cross, hug, leave, return.

    Everybody walks between random places of a room 3 to 9 m away; pairs meet and hug for three
    seconds; everybody leaves to one side now and then and comes back after 4 to 20 seconds.
    """
    rng = np.random.default_rng(seed)
    frames = int(seconds * rate)
    t = np.arange(frames) / rate
    at = np.zeros((frames, count, 2))
    away = np.zeros((frames, count), bool)
    place = np.stack([rng.uniform(-2, 2, count), rng.uniform(-8.5, -3.5, count)], -1)
    goal, mode = place.copy(), ["walk"] * count
    until = np.zeros(count)
    for f, now in enumerate(t):
        for p in range(count):
            to = goal[p] - place[p]
            far = np.linalg.norm(to)
            place[p] += to / max(far, 1e-9) * min(far, 1.3 / rate)
            if mode[p] == "out" and far < 0.2:
                mode[p], until[p] = "away", now + rng.uniform(4, 20)
            elif mode[p] == "away" and now > until[p]:
                mode[p], goal[p] = "walk", (rng.uniform(-2, 2), rng.uniform(-8.5, -3.5))
            elif mode[p] == "hug":
                if far < 0.1 and until[p] == 0:
                    until[p] = now + 3
                if until[p] and now > until[p]:
                    mode[p], until[p] = "walk", 0
                    goal[p] = (rng.uniform(-2, 2), rng.uniform(-8.5, -3.5))
            elif mode[p] == "walk" and far < 0.1:
                choice = rng.random()
                others = [q for q in range(count) if q != p and mode[q] == "walk"]
                if choice < 0.25 and others:
                    q = others[rng.integers(len(others))]
                    middle = np.clip((place[p] + place[q]) / 2, [-2, -8], [2, -3.5])
                    goal[p], goal[q] = middle - np.array([0.14, 0]), middle + np.array([0.14, 0.02])
                    mode[p] = mode[q] = "hug"
                    until[p] = until[q] = 0
                elif choice < 0.45:
                    side = rng.choice([-1, 1])
                    mode[p], goal[p] = "out", (side * (0.75 * -place[p][1] + 1.0), place[p][1])
                else:
                    goal[p] = (rng.uniform(-2, 2), rng.uniform(-8.5, -3.5))
            at[f, p], away[f, p] = place[p], mode[p] == "away"
    out = np.full((frames, count, 26, 3), np.nan)
    for p in range(count):
        v = np.gradient(at[:, p], t, axis=0)
        heading = np.arctan2(v[:, 0], v[:, 1])
        for f in range(1, frames):  # people turn at a bounded rate
            if np.hypot(*v[f]) < 0.2:
                heading[f] = heading[f - 1]
            turn = (heading[f] - heading[f - 1] + math.pi) % (2 * math.pi) - math.pi
            heading[f] = heading[f - 1] + np.clip(turn, -4 / rate, 4 / rate)
        x = turned(walker(t, 1.2, phase=p), heading[:, None])
        x[..., [0, 2]] += at[:, p, None]
        out[:, p] = np.where(away[:, p, None, None], np.nan, to_camera(x, 1.8, 0.15))
    return out
