"""Where frames come from: one way to open cameras, videos, pictures and streams.

Recorded sources yield every frame; live ones run a reader thread and yield the newest frame, so
that a slow consumer sees the present and not a growing past. For every source, once it has ended,
``read = processed + dropped + undecodable`` holds in its `Counts`.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol
from urllib.parse import urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

from manypose.app.config import Config
from manypose.app.handover import Closed, Latest
from manypose.calib.camera import Camera
from manypose.errors import CalibrationError, SourceError, UsageError
from manypose.pose.records import Frame

log = logging.getLogger(__name__)

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
VIDEO_SUFFIXES = frozenset(
    f".{ending}"
    for ending in (
        "mp4", "mov", "m4v", "avi", "mkv", "webm", "mpg", "mpeg", "ts", "mts", "m2ts", "wmv", "flv",
        "ogv", "3gp", "h264", "264", "hevc", "h265", "265", "mjpeg", "mjpg", "y4m", "gif",
    )
)  # fmt: skip
FPS_WITHOUT_STAMPS = 25.0


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What is known of a source before it is read; None = unknown, never guessed.

    width and height are px of the upright picture; rotation_deg is the clockwise turn applied;
    frames and duration_s are what a header claims, good for a progress bar only; start_s is the
    container's time of t = 0; files are the names of the pictures of a folder; stills: they are
    photographs, each of another moment, not a sequence.
    """

    kind: str
    address: str
    name: str
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    frames: int | None = None
    duration_s: float | None = None
    rotation_deg: int = 0
    start_s: float = 0.0
    codec: str = ""
    files: tuple[str, ...] = ()
    stills: bool = False


@dataclass(slots=True)
class Counts:
    """Frames read from the source and those lost, by reason."""

    read: int = 0
    undecodable: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


class Source(Protocol):
    """A run of frames. Closing it, from any thread, ends the iteration.

    live: late frames are dropped; Frame.time_s is then on the clock of time.perf_counter.
    partial: set while reading, when the source turns out damaged or cut short.
    """

    live: bool
    info: SourceInfo
    counts: Counts
    warnings: list[str]
    partial: bool

    def __iter__(self) -> Iterator[Frame]: ...
    def __enter__(self) -> Source: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def close(self) -> None:
        """End the iteration; from any thread, more than once."""


def open_source(address: str, config: Config) -> Source:
    """Return the source at an address: a camera, file, folder, address of a stream.

    Args:
        address: "0" or "camera:0" or "camera:part of its name"; a path of a video, a picture or a
            folder of pictures; rtsp://, http:// and other stream addresses. "video:", "images:"
            before a path choose the reader.
        config: sections source and camera are used.

    Raises:
        SourceError: there is nothing at the address or it gives no pictures.
    """
    kind, rest = _kind_of(address)
    source = OPENERS[kind](rest, config)
    if config.source.realtime and not source.live:
        return paced(source)
    return source


def _kind_of(address: str) -> tuple[str, str]:
    """Return the opener's key and what it opens."""
    if re.fullmatch(r"\d{1,3}", address):
        return "camera", address
    if re.match(r"[a-z][a-z0-9+]*://", address, re.IGNORECASE):
        return "stream", address
    key, colon, rest = address.partition(":")
    path = Path(address)
    if colon and key in OPENERS and not path.exists():
        return key, rest
    if path.is_dir() or path.suffix.lower() in PICTURE_SUFFIXES:
        return "images", address
    if path.exists() or path.suffix:
        return "video", address
    raise SourceError(
        f"{address}: no such file, folder or camera. Give a path, an address like rtsp://host/path,"
        " or a camera's number (manypose cameras lists them)."
    )


def _webcam(rest: str, config: Config) -> Source:
    from manypose.app.webcam import open_webcam

    return open_webcam(rest, config)


def _video(rest: str, config: Config) -> Source:
    from manypose.app.video import open_video

    return open_video(Path(rest), config)


def _stream(rest: str, config: Config) -> Source:
    from manypose.app.video import open_stream

    return open_stream(rest, config)


def _images(rest: str, config: Config) -> Source:
    from manypose.app.pictures import open_pictures

    return open_pictures(rest, config)


# Address key -> opener. A new kind of source is one function and one row.
OPENERS: dict[str, Callable[[str, Config], Source]] = {
    "camera": _webcam,
    "video": _video,
    "stream": _stream,
    "images": _images,
}


class Lens:
    """The camera of every frame of one source: calibrated, given or guessed."""

    def __init__(self, config: Config) -> None:
        self._fov_deg = config.camera.fov_deg
        self._calibrated: Camera | None = None
        self._made: dict[tuple[int, int, int], Camera] = {}
        if config.camera.file:
            from manypose.calib.files import read_camera_argument

            if self._fov_deg:
                raise UsageError("Give either --camera or --fov: both describe the lens.")
            self._calibrated = read_camera_argument(config.camera.file)

    def camera(self, width: int, height: int, quarter_turns: int = 0) -> Camera:
        """Return the camera of the upright picture of width x height px.

        quarter_turns (np.rot90) made the stored picture upright. A calibration belongs to the
        upright picture, or, if only that fits its shape, to the stored one, and is then turned.

        Raises:
            CalibrationError: the calibration is of a picture of another shape.
        """
        key = (width, height, quarter_turns % 4)
        if key not in self._made:
            self._made[key] = self._make(*key)
        return self._made[key]

    def _make(self, width: int, height: int, quarter_turns: int) -> Camera:
        given = self._calibrated
        if given is None and self._fov_deg:
            return Camera.from_fov(width, height, self._fov_deg, source="fov")
        if given is None:
            return Camera.from_fov(width, height)
        if _same_shape(given.width, given.height, width, height):
            return given.resized(width, height)
        if quarter_turns % 2 and _same_shape(given.width, given.height, height, width):
            return given.resized(height, width).rotated(quarter_turns)
        raise CalibrationError(
            f"The camera file is for pictures of {given.width}x{given.height} px, these have"
            f" {width}x{height}: calibrate in this mode or use --fov."
        )


def _same_shape(w: int, h: int, width: int, height: int) -> bool:
    return abs(w * height - h * width) <= 0.02 * w * height


def fixed_turns(rotate: str) -> int | None:
    """Return the np.rot90 turns of the setting source.rotate; None for "auto"."""
    return None if rotate == "auto" else -(int(rotate) // 90) % 4


def turned(image: NDArray[np.uint8], quarter_turns: int) -> NDArray[np.uint8]:
    """Return np.rot90(image, quarter_turns) as a contiguous array."""
    codes = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}
    code = codes.get(quarter_turns % 4)
    return image if code is None else np.asarray(cv2.rotate(image, code), np.uint8)


class LiveSource:
    """A reader thread round a generator of frames, and a one-place slot where the newest wins.

    A gap in the frames' index counts as dropped by the source itself. `trouble` says why a source
    that goes on is silent now, "" when all is well.
    """

    live = True

    def __init__(
        self, info: SourceInfo, frames: Callable[[LiveSource], Iterator[Frame]], counts: Counts
    ) -> None:
        self.info = info
        self.counts = counts
        self.warnings: list[str] = []
        self.partial = False
        self.trouble = ""
        self.stopping = threading.Event()
        self._slot: Latest[Frame] = Latest()
        counts.dropped = self._slot.dropped
        self._frames = frames
        self._thread = threading.Thread(target=self._read, name=f"read {info.name}", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        last = -1
        frames = self._frames(self)
        try:
            for frame in frames:
                gap = frame.index - last - 1
                if last >= 0 and gap > 0:
                    self._slot.count_drop("source", gap)
                    self.counts.read += gap
                last = frame.index
                self._slot.put(frame)
                self.counts.read += 1
                if self.stopping.is_set():
                    break
        except Closed:
            pass
        except BaseException as error:  # noqa: BLE001 - handed to the consumer's thread
            self._slot.end(error)
        finally:
            getattr(frames, "close", lambda: None)()
            self._slot.end()

    def __iter__(self) -> Iterator[Frame]:
        """Yield the newest frames until the source ends; raises its error."""
        return iter(self._slot)

    def latest(self, timeout_s: float) -> Frame | None:
        """Return the newest frame not yet fetched, or None if none came in time.

        Raises:
            Closed: the source has ended.
            SourceError: the source has failed.
        """
        return self._slot.get(timeout_s)

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the iteration and give the device back (waits at most 3 s for it)."""
        self.stopping.set()
        self._slot.close()
        if threading.current_thread() is not self._thread:
            self._thread.join(3.0)
            if self._thread.is_alive():
                log.warning("%s: the reader does not answer and is left behind", self.info.name)


def paced(source: Source) -> LiveSource:
    """Return a recorded source played at its own pace, as if it came from a camera."""

    def frames(live: LiveSource) -> Iterator[Frame]:
        start: float | None = None
        with source:
            for frame in source:
                if start is None:
                    start = time.perf_counter() - frame.time_s
                wait = start + frame.time_s - time.perf_counter()
                if wait > 0 and live.stopping.wait(wait):
                    return
                yield Frame(frame.picture, start + frame.time_s, frame.index, frame.camera)
        live.warnings.extend(source.warnings)
        live.counts.undecodable += source.counts.undecodable
        live.counts.read += source.counts.undecodable
        live.partial = source.partial

    return LiveSource(source.info, frames, Counts())


def masked(address: str) -> str:
    """Return an address without its password, fit for logs and files."""
    parts = urlsplit(address)
    if parts.password is None:
        return address
    return address.replace(f":{parts.password}@", ":***@", 1)


def threads_lent() -> int:
    """Return how many processors this process may use."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
