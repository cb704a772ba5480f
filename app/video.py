"""Video files and network streams through PyAV: true times, upright pictures, honest ends.

PyAV and not cv2.VideoCapture, because it tells the presentation time of every frame, leaves the
display matrix to us, reports damage and has time-outs.
"""

from __future__ import annotations

import itertools
import logging
import re
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import av
import av.logging

from manypose.app.config import Config
from manypose.app.containers import NoStreamError, connect, decoder_of, open_container
from manypose.app.sources import (
    FPS_WITHOUT_STAMPS,
    Counts,
    Lens,
    LiveSource,
    Source,
    SourceInfo,
    fixed_turns,
    masked,
)
from manypose.app.yuv import upright
from manypose.errors import SourceError
from manypose.pose.records import Frame, Picture, UInt8

log = logging.getLogger(__name__)

_LIMITS = {"max_pixels": str(1 << 27)}  # a damaged header must not ask for gigabytes
_BACK_OFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
_STEP_S = 1e-4  # least step of time between two frames: a stamp never repeats or runs back


class VideoFile:
    """A recorded video: every frame, upright, with its own time counted from the first frame."""

    live = False

    def __init__(self, container: Any, name: str, address: str, config: Config) -> None:
        self.counts = Counts()
        self.warnings: list[str] = []
        self.partial = False
        self._address = address
        self._container = container
        self._lens = Lens(config)
        self._fixed_turns = fixed_turns(config.source.rotate)
        self._closing = threading.Event()
        self._started = self._warned = False
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        stream.codec_context.options = _LIMITS
        if config.source.decode_threads:
            stream.codec_context.thread_count = config.source.decode_threads
        rate = stream.average_rate or stream.guessed_rate
        self._fps = config.source.fps or (float(rate) if rate else FPS_WITHOUT_STAMPS)
        self._declared = stream.frames if 0 < stream.frames < 1 << 40 else None
        self._end_s = _declared_end(container)
        # The display matrix comes with the frames, so the first one is decoded now.
        self._rest = self._decoded()
        self._first = next(self._rest, None)
        self._entry: tuple[int, Any] = (0, self._first)  # index and picture the iteration begins at
        if self._first is None:
            container.close()
            raise SourceError(
                f"{address}: no picture in this video can be decoded; it is empty or damaged."
            )
        turns = self._turns(self._first)
        w, h = self._first.width, self._first.height
        start = 0.0 if self._first.pts is None else float(self._first.pts * self._first.time_base)
        self.info = SourceInfo(
            "video",
            address,
            name,
            width=h if turns % 2 else w,
            height=w if turns % 2 else h,
            fps=self._fps,
            frames=self._declared,
            duration_s=None if self._end_s is None else max(self._end_s - start, 0.0),
            rotation_deg=-90 * turns % 360,
            start_s=start,
            codec=decoder_of(container, config.source.hwaccel),
        )

    def begin_at(self, stamp: int, index: int) -> bool:
        """Let the iteration begin at a key frame: that with this stamp, the index-th of the file.

        Returns False when the file cannot be entered there; then it must be opened anew.
        """
        stream = self._container.streams.video[0]
        for before_s in (0, 3):  # transport streams land behind the place asked for
            self._rest.close()
            try:
                self._container.seek(stamp - int(before_s / stream.time_base), stream=stream)
            except (av.error.FFmpegError, OSError):
                return False
            self._rest = self._decoded()
            later = (f for f in self._rest if f.pts is None or f.pts >= stamp)
            entry = next(later, None)
            if entry is not None and entry.pts == stamp:
                self._entry = index, entry
                return bool(entry.key_frame) and not entry.is_corrupt
        return False

    def _decoded(self) -> Generator[Any]:
        """Yield decoded frames; damage is counted, an early end sets `partial`."""
        stream = self._container.streams.video[0]
        packets = self._container.demux(stream)
        end_s: float | None = None
        cut = False
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except (av.error.FFmpegError, OSError) as error:
                cut = True
                log.debug("%s: %s", self._address, error)
                break
            if self._closing.is_set():
                return
            if packet.pts is not None:
                end = float((packet.pts + (packet.duration or 0)) * stream.time_base)
                end_s = end if end_s is None else max(end_s, end)
            try:
                frames = packet.decode()
            except (av.error.FFmpegError, OSError) as error:
                self._damaged()
                self.counts.undecodable += 1
                self.counts.read += 1
                log.debug("%s: %s", self._address, error)
                continue
            for frame in frames:
                if frame.is_corrupt:
                    self._damaged()
                self.counts.read += 1
                yield frame
                if self._closing.is_set():
                    return
        known = end_s is not None and self._end_s is not None
        missing_s = (self._end_s or 0.0) - (end_s or 0.0) if known else 0.0
        if cut or missing_s > max(0.2, 3 / self._fps):
            self.partial = True
            about = f" of about {self._declared}" if self._declared else ""
            self.warnings.append(
                f"stopped at frame {self.counts.read}{about} (the file is truncated)"
            )

    def _damaged(self) -> None:
        """Warn, once, that pictures may be wrong; noise that decodes by chance is not seen."""
        if not self._warned:
            self._warned = True
            self.warnings.append(
                f"damaged near frame {self.counts.read}; what could be decoded was used"
            )

    def _turns(self, frame: Any) -> int:
        if self._fixed_turns is not None:
            return self._fixed_turns
        turns: int = round(frame.rotation / 90) % 4
        return turns

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames, once; a truncated file simply ends, with `partial` set."""
        first: Any = self._first
        if self._closing.is_set() or first is None:
            return
        self._started = True
        begin, entry = self._entry
        self._first, self._entry = None, (0, None)
        if first.pts is None:
            self.warnings.append(
                f"no time stamps in the file: {self._fps:g} frames per second taken (--set"
                " source.fps=N changes that)"
            )
        last_s = -1.0
        try:
            for index, frame in enumerate(itertools.chain((entry,), self._rest), begin):
                if frame.pts is not None and first.pts is not None:
                    time_s = float((frame.pts - first.pts) * frame.time_base)
                else:
                    time_s = index / self._fps
                time_s = max(time_s, last_s + _STEP_S)
                last_s = time_s
                turns = self._turns(frame)
                picture = upright(frame, turns)
                if picture is None:
                    self._damaged()
                    self.counts.undecodable += 1
                    continue
                h, w, _ = picture.shape
                yield Frame(picture, time_s, index, self._lens.camera(w, h, turns))
        finally:
            self._container.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the iteration; the file is given back when the reading thread notices."""
        self._closing.set()
        if not self._started:
            self._container.close()


def _declared_end(container: Any) -> float | None:
    """Return the presentation time at which the pictures should end, None if unknown."""
    stream = container.streams.video[0]
    if stream.duration and stream.duration > 0:
        return float((stream.duration + (stream.start_time or 0)) * stream.time_base)
    duration = container.duration  # that of the longest stream: sound may outlast the pictures
    if duration and duration > 0 and len(container.streams) == 1:
        return float(duration) / 1e6  # Matroska counts from 0, also where the pictures start later
    return None


def open_video(path: Path, config: Config) -> VideoFile:
    """Return the video in a file.

    Raises:
        SourceError: there is no such file, or it is not a video, or no frame can be decoded.
    """
    return VideoFile(open_container(path, config.source.hwaccel), path.stem, str(path), config)


def open_stream(address: str, config: Config) -> Source:
    """Return a live source for rtsp://, http:// and the like; a whole video by HTTP is a video.

    The first connection is made here, so that a wrong address fails at once; later losses are
    mended by reconnecting with growing pauses until the source is closed.

    Raises:
        SourceError: nobody answers within source.open_timeout_s.
    """
    av.logging.set_level(None)
    container = connect(address, config)
    shown = masked(address)
    name = re.sub(r"[^\w.-]+", "_", shown.partition("://")[2]).strip("_.") or "stream"
    if address.lower().startswith("http") and (container.duration or 0) > 0:
        return VideoFile(container, name, shown, config)
    stream = container.streams.video[0]
    info = SourceInfo(
        "stream",
        shown,
        name,
        width=stream.width or None,
        height=stream.height or None,
        codec=decoder_of(container, config.source.hwaccel),
    )
    lens = Lens(config)
    turns = fixed_turns(config.source.rotate) or 0

    def frames(live: LiveSource) -> Iterator[Frame]:
        connected, index = container, 0
        while not live.stopping.is_set():
            reason = "it ended"
            try:
                for picture in _pictures(connected, live, turns):
                    now_s = time.perf_counter()
                    h, w, _ = picture.shape
                    yield Frame(picture, now_s, index, lens.camera(w, h, turns))
                    index += 1
            except (av.error.FFmpegError, OSError) as error:
                reason = str(error)
            finally:
                connected.close()
            again = _reconnect(address, config, live, reason)
            if again is None:
                return
            connected = again

    return LiveSource(info, frames, Counts())


def _pictures(container: Any, live: LiveSource, turns: int) -> Iterator[UInt8 | Picture]:
    """Yield the upright pictures of a stream; damage is counted."""
    for packet in container.demux(container.streams.video[0]):
        if live.stopping.is_set():
            return
        try:
            decoded = packet.decode()
        except av.error.InvalidDataError:
            live.counts.undecodable += 1
            live.counts.read += 1
            continue
        for frame in decoded:
            picture = upright(frame, turns)
            if picture is None:
                live.counts.undecodable += 1
                live.counts.read += 1
            else:
                yield picture


def _reconnect(address: str, config: Config, live: LiveSource, reason: str) -> Any | None:
    """Return the stream opened again, after however many tries; None once it is closed."""
    for attempt in itertools.count(1):
        pause_s = _BACK_OFF_S[min(attempt, len(_BACK_OFF_S)) - 1]
        live.trouble = f"source lost ({reason}), retry {attempt} in {pause_s:g} s"
        log.warning("%s: %s", live.info.address, live.trouble)
        if live.stopping.wait(pause_s):
            return None
        try:
            container = connect(address, config)
        except NoStreamError as error:
            reason = error.reason
            continue
        live.trouble = "connected again, no picture yet"
        log.warning("%s: source is back", live.info.address)
        return container
    return None
