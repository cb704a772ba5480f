"""Stage I asked about one picture at several input sizes, the maps brought together.

A network sees best people of the size it was taught; together large and small inputs find more
people and invent fewer than any of them. The idea is old (Cao et al. 2019, OpenPose, section 5.1,
which takes the mean). Of heat-maps the root of the mean square is taken: a joint that is seen at
one size alone keeps 1/sqrt(3) of its peak there, in place of a third. Peaks are raised a little
after that, since what several sizes agree on is surer than what one says.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from manypose.models.backends import StageOneNetwork, input_sizes, load_network
from manypose.models.preprocess import STRIDE, letterbox
from manypose.models.sessions import Array, Info, installed
from manypose.pose.records import Frame, NetworkOutput, UInt8

_STEP = 32  # px: the stride of the deepest level, whose odd cells every size must have alike
_SURER = 1.25  # measured: at a score of 0.4 as many of the people are right as with one size
_SHARES = (2.0, 1.0, 2 / 3)  # of the sides of the smallest input there is a file for


class CarefulNetwork:
    """Networks of falling input size behind one that brings their maps together."""

    def __init__(self, networks: Sequence[StageOneNetwork]) -> None:
        self._networks = tuple(networks)
        self.parallel = all(n.parallel for n in networks)
        passes = ", ".join("{}x{}".format(*n.info.input_size) for n in networks)
        first = networks[0].info
        self.info: Info = replace(first, chosen=f"{first.chosen}; looks at {passes}")

    def __call__(self, frames: Sequence[Frame]) -> list[NetworkOutput]:
        """Return the maps of each frame, on the grid of the largest size."""
        return self.timed(frames)[0]

    def timed(self, frames: Sequence[Frame]) -> tuple[list[NetworkOutput], dict[str, float]]:
        """Return the maps of each frame, and milliseconds a frame of resize and network."""
        if not frames:
            return [], {}
        started = time.perf_counter()
        width, height = self.info.input_size
        boxed, to_image = zip(*(letterbox(f.picture, height, width) for f in frames))
        ready = time.perf_counter()
        heat, pafs, encodings = self._together(boxed)
        spent = {
            "resize": 1e3 * (ready - started) / len(frames),
            "network": 1e3 * (time.perf_counter() - ready) / len(frames),
        }
        bones = [None] * len(frames) if encodings is None else encodings
        return [NetworkOutput(*maps) for maps in zip(heat, pafs, bones, to_image)], spent

    def _together(self, boxed: Sequence[UInt8]) -> tuple[Array, Array, Array | None]:
        """Return heat-maps, fields and encodings (B, C, h, w) of letter-boxed pictures."""
        total: dict[str, Array] = {}
        for network in self._networks:
            width, height = network.info.input_size
            small, to_boxed = zip(*(letterbox(b, height, width) for b in boxed))
            for name, maps in network.maps(np.stack(small)).items():
                if name in total:
                    shape = total[name].shape
                    maps = np.stack([_on_grid(m, to_boxed[0], shape[1:]) for m in maps])
                if name == "heatmaps":
                    maps = maps**2
                total[name] = total[name] + maps if name in total else maps
        for maps in total.values():
            maps /= len(self._networks)
        heat = np.minimum(_SURER * np.sqrt(total["heatmaps"]), 1)
        return heat, total["pafs"], total.get("encodings")


def _on_grid(maps: Array, to_boxed: Array, shape: tuple[int, ...]) -> Array:
    """Return maps (C, h, w) on the grid of the larger picture they were made from."""
    to_cell = cv2.invertAffineTransform(to_boxed)
    step = to_cell.copy()  # cell of the large grid -> px of the large picture -> cell
    step[:, :2] *= STRIDE
    step[:, 2] += to_cell[:, :2] @ np.full(2, (STRIDE - 1) / 2)
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.stack([
        cv2.warpAffine(m, step, (shape[2], shape[1]), flags=how, borderMode=cv2.BORDER_REPLICATE)
        for m in maps
    ])  # fmt: skip


def sizes(there: Sequence[tuple[int, int]], any_size: bool) -> list[tuple[int, int]]:
    """Return the input sizes (width, height) to ask a network at, the largest first.

    there: sizes that there are files for. any_size: whether the engine can give a file another
    size; otherwise they are all that can be had.
    """
    if not any_size:
        return sorted(set(there), key=lambda s: s[0] * s[1], reverse=True)
    least = min(there, key=lambda s: s[0] * s[1])
    return [_nearest(there, share * least[0], share * least[1]) for share in _SHARES]


def _nearest(there: Sequence[tuple[int, int]], width: float, height: float) -> tuple[int, int]:
    """Return the size nearest to a wish that some file can be given."""
    could = [
        tuple(max(s + _STEP * round((want - s) / _STEP), s % _STEP or _STEP)
              for s, want in zip(size, (width, height)))
        for size in there
    ]  # fmt: skip
    w, h = min(could, key=lambda s: abs(s[0] - width) + abs(s[1] - height))
    return w, h


def load(
    model: str, backend: str, device: str, threads: int | None, precision: str, batch: int,
    encodings: bool = True,
) -> CarefulNetwork:  # fmt: skip
    """Return a network of all `sizes`, each compiled now; arguments as `backends.load_network`.

    Raises:
        UsageError, WeightsError, DeviceError: as `backends.load_network`.
    """
    on_cpu = device in ("auto", "cpu") and backend in ("auto", "openvino")
    return CarefulNetwork([
        load_network(model, backend, device, threads, precision, batch, size, encodings)
        for size in sizes(input_sizes(model), on_cpu and "openvino" in installed())
    ])  # fmt: skip
