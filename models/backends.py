"""Stage I as a callable, loaded and checked. What runs where is said in one line, and in `info`."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from manypose.errors import UsageError, WeightsError
from manypose.models import choice, onnx_file, weights
from manypose.models.machine import cores
from manypose.models.preprocess import letterbox
from manypose.models.sessions import (
    RUNTIMES,
    Array,
    Info,
    Session,
    Wish,
)
from manypose.models.weights import Weights
from manypose.pose.joints import JOINTS, JOINTS_2D, LIMBS
from manypose.pose.records import Frame, NetworkOutput

log = logging.getLogger(__name__)

SIZE_STEP = 16  # px
_LARGER = 4  # times the sides of a file's input, at most
_OUTPUTS = {"heatmaps": len(JOINTS_2D), "pafs": 2 * len(LIMBS), "encodings": 3 * len(JOINTS)}


class StageOneNetwork:
    """Frames to maps: letter-box, run, check. Calling it with several frames runs them together.

    `info` says what runs where. Several threads may call it at once where `parallel` is set.
    """

    def __init__(self, session: Session, info: Info) -> None:
        self.info = info
        self.parallel = session.parallel
        self._session = session
        self._inputs: deque[Array] = deque()  # arrays nobody uses; a deque may be shared by threads
        self._bad = 0

    def __call__(self, frames: Sequence[Frame]) -> list[NetworkOutput]:
        """Return the maps of each frame."""
        return self.timed(frames)[0]

    def timed(self, frames: Sequence[Frame]) -> tuple[list[NetworkOutput], dict[str, float]]:
        """Return the maps of each frame, and milliseconds a frame of resize and network."""
        if not frames:
            return [], {}
        started = time.perf_counter()
        width, height = self.info.input_size
        shape = (len(frames), height, width, 3)
        try:
            x = self._inputs.pop()
        except IndexError:
            x = np.empty(shape, np.uint8)
        if x.shape != shape:
            x = np.empty(shape, np.uint8)
        affine = [letterbox(f.picture, height, width, x[i])[1] for i, f in enumerate(frames)]
        boxed = time.perf_counter()
        maps = self.maps(x)
        self._inputs.append(x)
        spent = {
            "resize": 1e3 * (boxed - started) / len(frames),
            "network": 1e3 * (time.perf_counter() - boxed) / len(frames),
        }
        encodings = maps.get("encodings")
        outputs = [
            NetworkOutput(
                maps["heatmaps"][i], maps["pafs"][i],
                None if encodings is None else encodings[i], affine[i],
            )
            for i in range(len(frames))
        ]  # fmt: skip
        return outputs, spent

    def maps(self, boxed: Array) -> dict[str, Array]:
        """Return the maps by name of letter-boxed pictures (B, height, width, 3) uint8."""
        return {k: self._clean(k, v) for k, v in self._session.run(boxed).items()}

    def _clean(self, name: str, maps: Array) -> Array:
        """Return maps without NaN and infinity; they are logged, not passed on."""
        if np.isfinite(maps.sum(dtype=np.float32)):
            return maps
        self._bad += 1
        if self._bad in (1, 10, 100, 1000):
            log.warning("the network answered NaN or infinity in %s (%d times)", name, self._bad)
        return np.nan_to_num(maps, nan=0.0, posinf=0.0, neginf=0.0)


def load_network(
    model: str = "light",
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = 0,
    precision: str = "auto",
    batch: int = 1,
    size: tuple[int, int] | None = None,
    encodings: bool = True,
) -> StageOneNetwork:
    """Return Stage I, loaded, checked and warmed up.

    Args:
        model: a name of `manypose models list` or an .onnx file.
        backend: auto, or a key of `RUNTIMES`.
        device: auto, cpu, cuda, cuda:1, tensorrt; auto takes CUDA where it works.
        threads: of the CPU; 0 or None for all cores this process may use.
        precision: auto, fp32, int8 (its own file), bf16 or fp16 (where the engine has it).
        batch: frames in work at once, for recorded video: in one call, or, where the network
            returned says `parallel`, in calls by so many threads.
        size: width and height of the input, multiples of 16; None for the smallest there is a file
            for.
        encodings: whether the 3D half is wanted; without it OpenVINO saves a tenth.

    Raises:
        WeightsError: the file is missing, damaged or of another network.
        DeviceError: engine or device asked for cannot be had.
        UsageError: an option makes no sense.
    """
    rows = [replace(r, precision=_precision(r)) for r in weights.find(model, ("stage1",))]
    wanted = {"bf16": "fp32", "fp16": "fp32"}.get(precision, precision)
    if wanted != "auto":
        rows = [r for r in rows if r.precision == wanted]
        if wanted not in weights.PRECISIONS or not rows:
            raise UsageError(f"{model} has no {precision} file; use --precision auto")
    rows, size = _of_size(model, rows, size)
    digest = {row.path: weights.verify(row) for row in rows}
    if backend != "auto" and backend not in RUNTIMES:
        raise UsageError(f"no runtime {backend!r}; there are auto, {', '.join(RUNTIMES)}")
    threads = threads if threads and threads > 0 else cores()
    wanted_maps = () if encodings else ("heatmaps", "pafs")
    wish = Wish(device, threads, precision, batch, size, wanted_maps)
    row, runtime, session, chosen = choice.placed(rows, backend, wish, digest)
    info = Info(
        model, str(row.path), digest[row.path], runtime, session.engine, session.device,
        session.precision, threads, batch, size, row.licence, chosen,
    )  # fmt: skip
    log.info("network: %s", info.line())
    return StageOneNetwork(session, info)


def input_size(path: Path) -> tuple[int, int]:
    """Return (width, height) that a Stage I file is made for; most take others as well.

    Raises:
        WeightsError: it is another network.
    """
    info = onnx_file.describe(path)
    got = {t.name: t.shape for t in info.outputs}
    meta = info.metadata
    same = (
        meta.get("manypose.joints") == json.dumps(JOINTS_2D)
        and meta.get("manypose.limbs") == json.dumps(LIMBS)
        and all(len(got.get(k, ())) == 4 and got[k][1] == n for k, n in _OUTPUTS.items())
        and len(info.inputs) == 1
        and len(info.inputs[0].shape) == 4
    )
    if not same:
        raise WeightsError(
            f"{path}: not a Stage I network of this version of manypose; take one of `manypose "
            "models list`, or describe your own network in a .toml file (docs/own_networks.md)"
        )
    _, height, width, _ = info.inputs[0].shape
    if height is None or width is None:
        width, height = _made_for(meta.get("manypose.input", ""))
    if not height or height % SIZE_STEP or width % SIZE_STEP:
        raise WeightsError(
            f"{path}: it does not say its input size, in multiples of {SIZE_STEP}; export it anew"
        )
    return width, height


def _made_for(text: str) -> tuple[int, int]:
    """Return the input size that the metadata of a file names, (0, 0) where they do not."""
    try:
        width, height = (int(v) for v in json.loads(text))
    except (ValueError, TypeError):
        return 0, 0
    return max(width, 0), max(height, 0)


def _of_size(
    model: str, rows: Sequence[Weights], size: tuple[int, int] | None
) -> tuple[list[Weights], tuple[int, int]]:
    """Return the rows that a wish for an input size means, and the size."""
    sizes = {row.path: _input_size(row) for row in rows}
    if size is None:
        size = min(sizes.values(), key=lambda s: s[0] * s[1])
    if size in sizes.values():
        return [row for row in rows if sizes[row.path] == size], size
    free = {sizes[row.path] for row in rows if _takes_any(row)}
    nearest = min(free, key=lambda s: abs(s[0] * s[1] - size[0] * size[1]), default=None)
    if nearest and all(0 < s <= _LARGER * t and not s % SIZE_STEP for s, t in zip(size, nearest)):
        return [row for row in rows if sizes[row.path] == nearest and _takes_any(row)], size
    there = ", ".join(f"{w}x{h}" for w, h in sorted(set(sizes.values())))
    other = f", or any other in multiples of {SIZE_STEP}, at most {_LARGER} times as wide and high"
    raise UsageError(
        f"{model} has no input of {size[0]}x{size[1]}: take one of {there}{other if free else ''}"
    )


def stepped(width: float, height: float) -> tuple[int, int]:
    """Return the input size at most as large as a wish, in steps of 16 px."""
    w, h = (max(int(side / SIZE_STEP + 1e-6), 2) * SIZE_STEP for side in (width, height))
    return w, h


def any_size(model: str) -> bool:
    """Return whether some file of a network takes inputs of other sizes than its own."""
    return any(_takes_any(row) for row in weights.find(model, ("stage1",)))


def _takes_any(row: Weights) -> bool:
    if row.path.suffix == ".xml":
        return True  # OpenVINO gives its own files any size
    return None in onnx_file.describe(row.path).inputs[0].shape[1:3]


def input_sizes(model: str) -> list[tuple[int, int]]:
    """Return the input sizes (width, height) that a network has files for.

    Raises:
        WeightsError: there is no such network, or a file is of another one.
    """
    return sorted({_input_size(row) for row in weights.find(model, ("stage1",))})


def _input_size(row: Weights) -> tuple[int, int]:
    if row.path.suffix == ".xml" and row.input_size is not None:
        return row.input_size  # OpenVINO's form is only ever named by a manifest, which knows
    return input_size(row.path)


def _precision(row: Weights) -> str:
    """Return the precision of a row; a file that no manifest lists says it itself."""
    if row.sha256:
        return row.precision
    return onnx_file.describe(row.path).metadata.get("manypose.precision", "fp32")
