"""The source with the skeletons drawn on it: overlay.mp4, of photographs a picture each.

The film is H.264, at the source's own times.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from manypose.app.formats import Writer
from manypose.app.formats.part import abandon, cannot_write, finish, part_of
from manypose.app.overlay import draw
from manypose.errors import DeviceError
from manypose.pose.records import FrameResult

FOLDER = "overlay"  # of photographs
_TICKS = 90_000  # a second, as in MPEG: fine enough for any variable rate


def overlay_writer(folder: Path, meta: Mapping[str, Any], threads: int = 1) -> Writer:
    """Return who draws a run: overlay.mp4, encoded by threads, or overlay/ of photographs."""
    if meta.get("still") and meta.get("files"):
        return StillsWriter(folder, meta)
    return OverlayWriter(folder, meta, threads)


class StillsWriter:
    """Writes overlay/<name of the picture>.jpg for each photograph, in its own size."""

    def __init__(self, folder: Path, meta: Mapping[str, Any]) -> None:
        self.path = folder / FOLDER
        self._names = meta["files"]

    def __enter__(self) -> StillsWriter:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        return self

    def write(self, result: FrameResult) -> None:
        """Draw one photograph."""
        name = str(self._names[result.frame.index])
        path = self.path / (name if name.lower().endswith(".jpg") else f"{name}.jpg")
        picture = draw(result.frame.image, result.people)
        data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
        try:
            part_of(path).write_bytes(data.tobytes())
        except OSError as error:
            raise cannot_write(path, error) from error
        finish(path)

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        """Nothing is open between two pictures."""


class OverlayWriter:
    """Writes overlay.mp4; every frame is fitted into the size of the first one, made even."""

    def __init__(self, folder: Path, meta: Mapping[str, Any], threads: int = 1) -> None:
        self.path = folder / "overlay.mp4"
        self._threads = threads
        self._container: Any = None
        self._stream: Any = None
        self._last = -1
        self._size = (0, 0)
        fps = (meta.get("source") or {}).get("fps") or 25
        self._rate = Fraction(fps).limit_denominator(1001)

    def __enter__(self) -> OverlayWriter:
        return self

    def write(self, result: FrameResult) -> None:
        """Take the result of the next frame."""
        picture = draw(result.frame.image, result.people)
        if self._container is None:
            self._open(picture.shape[1], picture.shape[0])
        if picture.shape[1::-1] != self._size:
            picture = _fitted(picture, self._size)
        # OpenCV's conversion costs a tenth of swscale's; it is BT.601, and the stream says so.
        yuv = cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_I420)
        frame = av.VideoFrame.from_ndarray(np.asarray(yuv, np.uint8), format="yuv420p")
        ticks = max(round(result.frame.time_s * _TICKS), self._last + 1)
        frame.pts, self._last = ticks, ticks
        frame.time_base = Fraction(1, _TICKS)
        try:
            self._container.mux(self._stream.encode(frame))
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _open(self, width: int, height: int) -> None:
        self._size = (width + width % 2, height + height % 2)
        try:
            self._container = av.open(str(part_of(self.path).absolute()), "w", format="mp4")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        try:
            self._stream = self._container.add_stream("libx264", rate=self._rate)
        except (av.error.FFmpegError, ValueError) as error:
            raise DeviceError("This PyAV cannot write H.264: pip install --force av") from error
        self._stream.width, self._stream.height = self._size
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, _TICKS)
        self._stream.codec_context.colorspace = Colorspace.ITU601
        self._stream.codec_context.color_range = ColorRange.MPEG
        self._stream.options = {"preset": "veryfast", "crf": "21"}
        self._stream.codec_context.thread_count = self._threads

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if self._container is None:
            return
        try:
            if kind is None:
                self._container.mux(self._stream.encode(None))
        except OSError as failure:
            raise cannot_write(self.path, failure) from failure
        finally:
            self._container.close()
        if kind is None:
            finish(self.path)
        else:
            abandon(self.path)


def _fitted(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a picture in this size (width, height): undistorted, with black at two sides."""
    w, h = size
    high, wide = picture.shape[:2]
    scale = min(w / wide, h / high)
    x, y = (w - scale * wide) / 2, (h - scale * high) / 2
    place = np.array([[scale, 0, x], [0, scale, y]])
    return np.asarray(cv2.warpAffine(picture, place, size, flags=cv2.INTER_LINEAR), np.uint8)
