"""People made for the benchmark: a known number of walkers, their clip and their perfect maps.

A network's time does not depend on what it sees, that of everything after it does. So the network
runs on real frames of a real clip, and then maps drawn from the walkers take the place of its own.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from manypose.calib.camera import Camera
from manypose.models.preprocess import letterbox
from manypose.pose import skeleton
from manypose.pose.detector import Detector
from manypose.pose.grouping import GroupingConfig, group
from manypose.pose.joints import INDEX, JOINTS, PARENT
from manypose.pose.portraits import likenesses
from manypose.pose.records import Float, Found2D, Frame, NetworkOutput, Person2D, UInt8
from manypose.pose.regained import Look
from manypose.pose.targets import draw

if TYPE_CHECKING:
    from manypose.app.config import Config
    from manypose.app.pipeline import Engine

PERIOD = 48  # pictures of one walking cycle, after which the clip begins again without a seam
_FOV_DEG = 70.0


@dataclass(frozen=True, slots=True, eq=False)
class Walkers:
    """Where everybody is in each picture: points_m (PERIOD, N, 26, 3) in the camera frame."""

    points_m: Float
    camera: Camera


def walkers(count: int, width: int, height: int) -> Walkers:
    """Return `count` people walking on the spot in rows, seen by a camera of this size."""
    camera = Camera.from_fov(width, height, _FOV_DEG, "fov")
    columns = min(count, 7)
    order = np.arange(count)
    row, column = order // columns, order % columns
    in_row = np.minimum(columns, count - row * columns)
    z = 3.4 + 1.9 * row + 0.15 * (column % 2)
    half = z * np.tan(np.radians(_FOV_DEG / 2)) * 0.82
    x = ((column + 0.5) / in_row * 2 - 1) * half
    y = 0.1 - 0.22 * row  # a camera at chest height, those behind look higher in the picture
    offsets = skeleton.offsets_m(np.broadcast_to(skeleton.AVERAGE_LENGTHS_M, (count, len(JOINTS))))
    frames = []
    for i in range(PERIOD):
        phase = 2 * np.pi * (i / PERIOD + order * 0.37)
        root = np.column_stack([x + 0.12 * np.sin(phase), y + 0 * phase, z])
        frames.append(skeleton.forward(root, _gait(phase), offsets)[0])
    return Walkers(np.array(frames), camera)


def _gait(phase: Float) -> Float:
    """Return local rotations (N, J, 4) of people facing the camera, arms down, legs in step."""
    turn = np.zeros((len(phase), len(JOINTS), 3))
    turn[:, INDEX["pelvis"], 0] = np.pi  # y up to y down, looking back at the camera
    for side, sign, ahead in (("l_", -1, 0.0), ("r_", 1, np.pi)):
        swing = np.sin(phase + ahead)
        turn[:, INDEX[side + "shoulder"], 2] = sign * 1.25
        turn[:, INDEX[side + "hip"], 0] = -0.45 * swing
        turn[:, INDEX[side + "knee"], 0] = 0.35 - 0.3 * np.cos(phase + ahead)
        turn[:, INDEX[side + "elbow"], 1] = sign * (0.35 + 0.2 * swing)
    return skeleton.exp_map(turn)


def write_clip(path: Path, people: Walkers, frames: int, fps: int) -> None:
    """Write an H.264 clip of the walkers before a busy background, as bright tubes."""
    import av

    camera = people.camera
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 200, (camera.height // 24, camera.width // 24, 3), np.uint8)
    ground = cv2.resize(coarse, (camera.width, camera.height), interpolation=cv2.INTER_CUBIC)
    pictures = [_picture(ground, people, i) for i in range(min(frames, PERIOD))]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = camera.width, camera.height, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "26"}
        stream.codec_context.thread_count = 1
        for image in itertools.islice(itertools.cycle(pictures), frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "bgr24")))
        container.mux(stream.encode())


def _picture(ground: Any, people: Walkers, index: int) -> UInt8:
    image = np.roll(ground, 3 * index, 1)
    px = people.camera.camera_to_image(people.points_m[index % PERIOD])
    for n in np.argsort(-people.points_m[index % PERIOD][:, 0, 2]):
        thick = max(2, int(0.11 * people.camera.K[0, 0] / people.points_m[0, n, 0, 2]))
        colour = tuple(int(c) for c in np.random.default_rng(n).integers(60, 255, 3))
        for j, parent in enumerate(PARENT):
            if parent >= 0:
                a, b = (tuple(np.round(px[n, k]).astype(int).tolist()) for k in (parent, j))
                cv2.line(image, a, b, colour, thick, cv2.LINE_AA)
    return np.asarray(image, np.uint8)


def perfect_maps(
    people: Walkers, width: int, height: int, *, encodings: bool = True
) -> list[NetworkOutput]:
    """Return the maps of one period on the grid of a network input of this size."""
    camera = people.camera
    blank = np.zeros((camera.height, camera.width, 3), np.uint8)
    affine = letterbox(blank, height, width)[1]
    bones = np.full((*people.points_m.shape[:2], len(JOINTS), 3), np.nan)
    for j, parent in enumerate(PARENT):
        if parent >= 0:
            bones[:, :, j] = people.points_m[:, :, j] - people.points_m[:, :, parent]
    outputs = []
    for points, bone in zip(people.points_m, bones):
        image_px = camera.camera_to_image(skeleton.marks(points))
        cells = (image_px - affine[:, 2]) / affine[[0, 1], [0, 1]]
        labelled = np.concatenate([8 * cells + 3.5, np.ones((*cells.shape[:2], 1))], -1)
        maps = draw(labelled, height, width, bone if encodings else None)
        heatmaps, pafs, carried = (None if m is None else np.asarray(m, np.float32) for m in maps)
        assert heatmaps is not None
        assert pafs is not None
        outputs.append(NetworkOutput(heatmaps, pafs, carried, affine))
    return outputs


class Replaced:
    """A front end that runs the network of another on each frame, then groups given maps.

    The maps follow the frames' indices, round and round. Where everybody is looked at once more,
    they are here too, in vain.
    """

    def __init__(self, front_end: Any, maps: Sequence[NetworkOutput], people_max: int) -> None:
        self.network = front_end.network
        self._portraits = getattr(front_end, "portraits", None)
        self._maps = maps
        self._config = GroupingConfig(people_max=people_max)

    def __call__(self, frames: Sequence[Frame]) -> list[Found2D]:
        """Return the people in the maps, with milliseconds of resize, network and group."""
        network_ms = self.network.timed(frames)[1]
        found = []
        for frame in frames:
            started = time.perf_counter()
            people = tuple(self._people(frame))
            grouped = time.perf_counter()
            if self._portraits is not None:
                self._portraits(frame.picture, people, *frame.shape[::-1])
            looked_ms = 1e3 * (time.perf_counter() - grouped)
            spent = {**network_ms, "group": 1e3 * (grouped - started)}
            found.append(Found2D(people, {**spent, "network": spent["network"] + looked_ms}))
        return found

    def looking(self, look: Look) -> Look:
        """Return a look that takes as long as this one and finds who is in the maps."""

        def found(
            frame: Frame, people: Sequence[Person2D], others: Sequence[Person2D]
        ) -> list[Person2D | None]:
            look(frame, people, others)
            there = self._people(frame)
            if not there:
                return [None] * len(people)
            return [there[int(row.argmax())] for row in likenesses(people, there)]

        return found

    def _people(self, frame: Frame) -> list[Person2D]:
        return group(self._maps[frame.index % len(self._maps)], self._config)


def walking_detector(
    config: Config, batch: int, count: int, width: int, height: int, engine: Engine | None = None
) -> Detector:
    """Return a Detector that runs the network of the settings and finds `count` walkers.

    engine: what is loaded of these settings already; width and height are the clip's.
    """
    from manypose.app.pipeline import load_engine

    engine = engine or load_engine(config, batch=batch)
    people, size = walkers(count, width, height), engine.info["input_size"]
    maps = perfect_maps(people, *size, encodings=config.fit.encodings)
    front_end = Replaced(engine.detector.front_end, maps, config.people.max)
    return engine.detector.finding(front_end)


def looped(open_again: Any, count: int) -> Iterator[Frame]:
    """Yield `count` frames of a source opened again at its end, with indices and times going on."""
    done, shift = 0, 0.0
    while done < count:
        last, step, before = shift, 1 / 30, done
        with open_again() as source:
            for frame in source:
                time_s = shift + frame.time_s
                step, last = (time_s - last or step), time_s
                yield Frame(frame.picture, time_s, done, frame.camera)
                done += 1
                if done == count:
                    return
        if done == before:
            return
        shift = last + step
