"""Make the sample clip: four rendered people in a room, and what is true of them.

    python -m manypose.models.train.synth.sample_clip --avatars avatars.zip --mocap mocap.npz \
        --out app/sample.mp4 --truth tests/golden/sample_truth.npz

Two people walk to and fro and cross, one walks round the room, one gives signals with the arms. The
picture is rendered at twice its size and shrunk. Nothing is random but a little grain.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import avg_pool2d

from manypose.errors import OutputError
from manypose.models.train.synth.archive import read_avatars, read_clips
from manypose.models.train.synth.backgrounds import Chance, Rooms, draw_rooms
from manypose.models.train.synth.labels import Truth, joints_2d
from manypose.models.train.synth.render import plain_setting, render
from manypose.models.train.synth.scene import Crowd, Float, Stage, View, light_from, look, view_of
from manypose.models.train.synth.sequences import continue_motion, crowd_of_sequence, cut
from manypose.pose.joints import JOINTS

SIZE, FRAMES, FPS = (640, 400), 240, 30
_FOV_DEG, _CAMERA_M, _PITCH_RAD = 62.0, 1.55, 0.095
# avatar, motion, first frame, turn (degrees), middle of the path: x, z (m, z away from the camera)
_CAST = (
    ("Female_Adult_08", "dm_long_walk3.0", 0, 188.0, 0.0, 4.3),
    ("Male_Adult_06", "dm_long_walk3.1", 10, -4.0, -0.2, 3.5),
    ("Business_Male_06", "cmux_train_basketball_signal_2.1", 10, 14.0, -1.45, 5.1),
    ("Female_Adult_17", "cmux_train_x_walking_50b", 0, 0.0, 0.1, 5.6),
)
_GRAIN = 1.2


def main() -> int:
    """Write the clip and its truth; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--avatars", "--mocap", "--out", "--truth"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--frames", type=int, default=FRAMES, help="fewer for a quick look")
    args = parser.parse_args()
    stage = Stage(read_avatars(args.avatars), read_clips(args.mocap))
    view, crowd = play(stage, args.frames)
    images, truths = [], []
    room = Rooms(*(v for v in _room(stage)))
    chance = Chance(1, "cpu")
    for first in range(0, args.frames, 4):
        part, people = cut(view, crowd, first, min(first + 4, args.frames))
        n = len(part.K)
        one = Rooms(*(getattr(room, f.name).expand(n, *getattr(room, f.name).shape[1:])
                      for f in fields(room)))  # fmt: skip
        double = _doubled(part)
        behind = draw_rooms(one, double, 2 * SIZE[1], 2 * SIZE[0])
        big, _ = render(stage.avatars, double, people, plain_setting(behind), chance)
        small = avg_pool2d(big.permute(0, 3, 1, 2).float(), 2)
        small = small + _GRAIN * chance.normal(*small.shape)
        images.append(small.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy())
        # The truth is that of the picture at its final size.
        blank = torch.zeros(n, 3, SIZE[1], SIZE[0])
        truths.append(render(stage.avatars, part, people, plain_setting(blank), chance)[1])
        sys.stderr.write(f"\r{first + n}/{args.frames}")
    sys.stderr.write("\n")
    write_video(np.concatenate(images), args.out)
    _write_truth(truths, args.truth, len(_CAST))
    return 0


def play(stage: Stage, frames: int) -> tuple[View, Crowd]:
    """Return the views and the people of all frames."""
    names = {n: i for i, n in enumerate(stage.clips.names)}
    bodies = {n: i for i, n in enumerate(stage.avatars.names)}
    clip = np.array([names[c[1]] for c in _CAST])
    motions = [continue_motion(stage.clips, int(k), frames, c[2]) for k, c in zip(clip, _CAST)]
    body = np.array([bodies[c[0]] for c in _CAST])
    yaw = np.deg2rad([c[3] for c in _CAST])
    where = np.zeros((len(_CAST), 2))
    for k, (_, root) in enumerate(motions):
        c, s = np.cos(yaw[k]), np.sin(yaw[k])
        x, z = c * root[:, 0] + s * root[:, 2], c * root[:, 2] - s * root[:, 0]
        middle = np.array([x.max() + x.min(), z.max() + z.min()]) / 2
        where[k] = np.array([_CAST[k][4], -_CAST[k][5]]) - middle
    ones = np.ones(len(_CAST))
    crowd = crowd_of_sequence(
        stage, (body, ones, np.ones((len(_CAST), 3))), clip, motions, yaw, where
    )
    focal = SIZE[0] / 2 / np.tan(np.deg2rad(_FOV_DEG) / 2)
    K = np.array([[focal, 0, (SIZE[0] - 1) / 2], [0, focal, (SIZE[1] - 1) / 2], [0, 0, 1]])
    R = look(np.zeros(1), np.full(1, _PITCH_RAD), np.zeros(1))
    light = light_from(np.full(1, 0.9), np.full(1, 1.05))

    def still(values: Float) -> Float:
        return np.repeat(values, frames, 0)

    centre = np.array([[0, _CAMERA_M, 0]])
    return view_of(
        stage, still(K[None]), still(R), still(centre), still(light), np.full(frames, 0.68)
    ), crowd


def _doubled(view: View) -> View:
    """Return the views of pictures of twice the size; pixel centres stay whole numbers."""
    K = view.K.clone()
    K[:, :2] *= 2
    K[:, :2, 2] += 0.5
    return View(K, view.R, view.t, view.light, view.ambient)


def _room(stage: Stage) -> list[Any]:
    """Return the fields of one room with a plank floor, a window, pictures, a door and a shelf."""
    floor = np.full((512, 512, 3), (150, 112, 78), np.float32)
    rng = np.random.default_rng(5)
    for k, x in enumerate(range(0, 512, 32)):
        floor[:, x : x + 32] *= rng.uniform(0.86, 1.1)
        grain = cv2.resize(rng.normal(0, 5, (24, 8, 1)).astype(np.float32), (32, 512))
        floor[:, x : x + 32] += grain[..., None]
        floor[:, x : x + 1] *= 0.62
        for y in range((k * 173) % 256, 512, 256):
            floor[y : y + 1, x : x + 32] *= 0.62
    wall = np.full((480, 960, 3), (214, 206, 190), np.float32)
    wall += np.linspace(14, -22, 480)[:, None, None]

    def box(x: int, y: int, w: int, h: int, colour: tuple[int, int, int], fill: int = -1) -> None:
        cv2.rectangle(wall, (x, y), (x + w, y + h), colour, fill)

    box(90, 95, 190, 170, (246, 244, 240))  # window, 160 px = 1 m
    box(98, 103, 174, 154, (176, 208, 232))
    box(98, 195, 174, 62, (142, 172, 128))
    box(182, 103, 6, 154, (246, 244, 240))
    box(98, 176, 174, 5, (246, 244, 240))
    for x, y, w, h, inner in (
        (360, 120, 90, 66, (196, 120, 84)),
        (480, 104, 64, 88, (84, 122, 142)),
    ):
        box(x, y, w, h, (64, 52, 44))
        box(x + 5, y + 5, w - 10, h - 10, (236, 232, 222))
        box(x + 18, y + 16, w - 36, h - 32, inner)
    box(620, 140, 130, 340, (148, 128, 104))  # door
    box(628, 148, 114, 332, (172, 152, 126))
    box(730, 310, 6, 14, (90, 84, 74))
    for level in range(4):  # shelf with books
        box(800, 215 + 62 * level, 140, 6, (112, 88, 66))
        x = 806
        while x < 926:
            w, h = int(rng.integers(6, 13)), int(rng.integers(34, 52))
            colour = [int(v) for v in rng.integers(60, 190, 3)]
            box(x, 215 + 62 * level - h, w, h, (colour[0], colour[1], colour[2]))
            x += w + 1
    shade = np.array([[1.0, 1.0, 0.84, 0.93, 1.0]])
    flat: list[Any] = [np.ascontiguousarray(t.transpose(2, 0, 1))[None] for t in (floor, wall)]
    numbers: list[Any] = [
        np.array([7.2]), np.array([[-3.3, 3.3]]), np.array([2.75]), np.array([0.5]), shade,
        np.array([232.0]), np.array([0.1]),
    ]  # fmt: skip
    return [stage.number(v) for v in flat + numbers]


def write_video(images: NDArray[np.uint8], path: Path) -> None:
    """Write pictures (T, H, W, 3) RGB as H.264, yuv420p; a broken attempt leaves nothing.

    Raises:
        OutputError: the file cannot be written.
    """
    import av

    half = path.with_name(path.name + ".part")
    try:
        with av.open(str(half), "w", format="mp4", options={"movflags": "+faststart"}) as out:
            stream = out.add_stream("libx264", rate=FPS, options={"crf": "21", "preset": "slow"})
            stream.width, stream.height, stream.pix_fmt = (
                images.shape[2],
                images.shape[1],
                "yuv420p",
            )
            for image in images:
                out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            out.mux(stream.encode(None))
        half.replace(path)
    except (OSError, av.FFmpegError) as error:
        raise OutputError(f"cannot write {path} ({error}): choose another --out") from None
    finally:
        half.unlink(missing_ok=True)


def _write_truth(truths: list[Truth], path: Path, people: int) -> None:
    """Write joints_m (T, P, 21, 3), joints_px (T, P, 20, 2), seen (T, P, 20), K, fps, names."""
    both = [joints_2d(t) for t in truths]

    def gather(parts: list[Any], step: float) -> NDArray[np.float32]:
        all_of = np.concatenate([p.numpy() for p in parts])
        # Whole steps of a power of two lose nothing that matters and pack well.
        rounded = np.round(all_of / step) * step
        return rounded.reshape(-1, people, *all_of.shape[1:]).astype(np.float32)

    half = path.with_name(path.name + ".part")
    with half.open("wb") as file:
        np.savez_compressed(
            file,
            joints_m=gather([t.points_m[:, : len(JOINTS)] for t in truths], 2.0**-13),
            joints_px=gather([px for px, _ in both], 2.0**-6),
            seen=gather([seen for _, seen in both], 1.0).astype(np.uint8),
            K=truths[0].K[0].numpy(),
            fps=np.array(float(FPS)),
            avatar=np.array([c[0] for c in _CAST]),
            clip=np.array([c[1] for c in _CAST]),
        )
    half.replace(path)


if __name__ == "__main__":
    raise SystemExit(main())
