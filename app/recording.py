"""Recording a live session so that nothing written is lost, whatever kills the program.

A session folder holds video.mkv (Matroska: readable up to the last cluster after a crash),
pose.jsonl (.part while it grows) and meta.json (written first). Video frame k and line k belong
together; times count from the first frame.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

import manypose
from manypose.app.formats import SCHEMA
from manypose.app.formats.jsonl import JsonlWriter
from manypose.app.formats.part import cannot_write, write_json
from manypose.app.handover import Closed, Line
from manypose.app.meta import camera_facts, up_facts
from manypose.app.remembered import remember
from manypose.errors import DeviceError, ManyposeError, OutputError
from manypose.pose.joints import JOINTS, JOINTS_2D, PARENT
from manypose.pose.records import Frame, FrameResult, UInt8

log = logging.getLogger(__name__)

_PLACES = 64
_TICKS = 1000  # Matroska keeps milliseconds


class Recorder:
    """Takes results from one thread and writes them in another; `close` ends the files."""

    def __init__(self, folder: Path, meta: Mapping[str, Any]) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(folder, error) from error
        if any(folder.iterdir()):
            raise OutputError(f"{folder}: not empty; a recording wants a folder of its own.")
        self.folder = folder
        self.frames = 0
        self.error: ManyposeError | None = None
        self._meta = dict(meta)
        self._start_s: float | None = None
        self._newest_s = 0.0
        self._began = time.monotonic()
        self._line: Line[FrameResult] = Line(_PLACES)
        self._write_meta("recording")
        remember(folder)
        self._thread = threading.Thread(target=self._work, name=f"record {folder.name}")
        self._thread.start()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the recording began."""
        return time.monotonic() - self._began

    def write(self, result: FrameResult) -> None:
        """Take the next result; waits while the writer is behind, loses nothing."""
        try:
            self._line.put(result)
        except Closed:
            return  # the writer has failed and keeps its error

    def close(self) -> None:
        """Write what waits and finish the files.

        Raises:
            OutputError: the disk is full or the folder has gone.
        """
        self._line.end()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _work(self) -> None:
        try:
            with JsonlWriter(self.folder, self._meta) as poses, _Matroska(self.folder) as video:
                try:
                    for result in self._line:
                        moved = self._moved(result)
                        video.write(moved.frame)
                        poses.write(moved)
                        self.frames += 1
                except OSError as error:
                    # leave the contexts in good order: what was written stays
                    self.error = cannot_write(self.folder, error)
            if video.error is not None and self.error is None:
                self.error = cannot_write(self.folder, OSError(str(video.error)))
            self._write_meta("partial" if self.error else "ok")
        except ManyposeError as error:
            self.error = self.error or error
        finally:
            self._line.close()
        if self.error is not None:
            log.error("recording stopped: %s", self.error)

    def _moved(self, result: FrameResult) -> FrameResult:
        """Return the result on the recording's own time and frame numbers."""
        frame = result.frame
        if self._start_s is None:
            self._start_s = frame.time_s
            self._meta["camera"] = camera_facts(frame.camera)
            self._write_meta("recording")
        self._newest_s = frame.time_s - self._start_s
        self._meta["up"] = up_facts(result.up) or self._meta.get("up")
        own = Frame(frame.picture, self._newest_s, self.frames, frame.camera)
        return FrameResult(own, result.people, result.stage_ms, result.up)

    def _write_meta(self, status: str) -> None:
        meta = {
            "schema": SCHEMA,
            "manypose": manypose.__version__,
            "kind": "session",
            "status": status,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "frames": self.frames,
            "seconds": round(self._newest_s, 3),
            "video": "video.mkv",
            "units": "m",
            "axes": "camera frame: x right, y down, z forward",
            "joint_names": list(JOINTS),
            "kp2d_names": list(JOINTS_2D),
            "parents": list(PARENT),
            **self._meta,
        }
        write_json(self.folder / "meta.json", meta)


class _Matroska:
    """video.mkv: H.264 in clusters of at most a second, every frame at its own time."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "video.mkv"
        self._container: Any = None
        self._stream: Any = None
        self.error: Exception | None = None  # of finishing the file
        self._size = (0, 0)
        self._last = -1

    def __enter__(self) -> _Matroska:
        return self

    def write(self, frame: Frame) -> None:
        """Take the next picture; raises OSError when the disk is full."""
        image: UInt8 = frame.image
        if self._container is None:
            self._open(image.shape[1], image.shape[0])
        w, h = self._size
        if image.shape[:2] != (h, w):
            image = np.asarray(cv2.resize(image, (w, h)), np.uint8)
        picture = av.VideoFrame.from_ndarray(image, format="bgr24")
        ticks = max(round(frame.time_s * _TICKS), self._last + 1)
        picture.pts, self._last = ticks, ticks
        picture.time_base = Fraction(1, _TICKS)
        self._container.mux(self._stream.encode(picture))

    def _open(self, width: int, height: int) -> None:
        self._size = (width + width % 2, height + height % 2)
        options = {"cluster_time_limit": "1000", "flush_packets": "1"}
        try:
            self._container = av.open(
                str(self._path.absolute()), "w", format="matroska", options=options
            )
            self._stream = self._container.add_stream("libx264", rate=30)
        except (av.error.FFmpegError, ValueError) as error:
            raise DeviceError(
                f"{self._path}: video cannot be written ({error}). Reinstall PyAV: pip install av"
            ) from error
        self._stream.width, self._stream.height = self._size
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, _TICKS)
        # a key frame a second: a replay can jump, and a crash costs little
        self._stream.options = {
            "preset": "ultrafast", "tune": "zerolatency", "crf": "23", "g": "30",
        }  # fmt: skip
        self._stream.codec_context.thread_count = 1

    def __exit__(self, *_: object) -> None:
        if self._container is None:
            return
        # Raised here, it would take the poses, which are whole, with it.
        try:
            self._container.mux(self._stream.encode(None))
        except (OSError, av.error.FFmpegError) as error:
            self.error = error
        try:
            self._container.close()
        except (OSError, av.error.FFmpegError) as error:
            self.error = error


def session_name(source: str, now: datetime | None = None) -> str:
    """Return a folder name for a new session: date, time and source."""
    stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in source).strip("_")
    return f"{now or datetime.now():%Y-%m-%d_%H-%M-%S}_{stem or 'session'}"
