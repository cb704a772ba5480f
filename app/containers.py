"""Files and streams opened by FFmpeg (PyAV), decoded by the processor or by a graphics card.

`source.hwaccel` names the latter. FFmpeg brings its pictures back to main memory, so that all
that follows is the same.
"""

from __future__ import annotations

import functools
import io
import logging
import time
from pathlib import Path
from typing import Any

import av
import av.logging
import numpy as np
from av.codec.hwaccel import HWAccel, hwdevices_available

from manypose.app.config import Config
from manypose.app.sources import masked
from manypose.errors import DeviceError, SourceError

log = logging.getLogger(__name__)

# FFmpeg follows references inside files (playlists, concat scripts); a file may name files only,
# a stream no files.
_FILE_OPTIONS = {"protocol_whitelist": "file"}
_STREAM_OPTIONS = {
    "protocol_whitelist": "rtsp,rtsps,rtp,rtmp,rtmps,srt,udp,tcp,tls,http,https,httpproxy,crypto",
    "fflags": "nobuffer",
}
CLIP_PX, CLIP_FRAMES = (320, 192), 5  # decoders of graphics cards refuse very small pictures


def open_container(path: Path, hwaccel: str = "none") -> Any:
    """Return the container of a file that has pictures which can be decoded.

    hwaccel: as the setting `source.hwaccel`.

    Raises:
        SourceError: there is no such file, or it is not a video.
        DeviceError: the decoder named by `hwaccel` cannot be had.
    """
    # with a level decoder threads call Python, and closing, which waits for them, holds Python
    av.logging.set_level(None)
    if not path.exists():
        raise SourceError(f"{path}: no such file. Check the name and the folder.")
    try:
        # An absolute path, because "take:1.mp4" would be taken for a protocol.
        container = _opened(
            str(path.resolve()), hwaccel, options=_FILE_OPTIONS, metadata_errors="ignore"
        )
    except PermissionError as error:
        raise SourceError(f"{path}: no permission to read it.") from error
    except (av.error.FFmpegError, OSError, ValueError) as error:
        empty = path.is_file() and path.stat().st_size == 0
        hint = "the file is empty" if empty else "damaged or not a video"
        raise SourceError(f"{path}: cannot be read as a video ({hint}).") from error
    if not container.streams.video:
        container.close()
        raise SourceError(f"{path}: there are no pictures in this file (sound only?).")
    if not _decodable(container):
        container.close()
        raise SourceError(f"{path}: its pictures are coded in an unknown way, or it is damaged.")
    return container


def connect(address: str, config: Config) -> Any:
    """Open a stream within the time limits of the settings.

    Raises:
        NoStreamError: nobody answers in time, or not with pictures.
        DeviceError: the decoder named by source.hwaccel cannot be had.
    """
    shown = masked(address)
    limits = (config.source.open_timeout_s, config.source.read_timeout_s)
    options = dict(_STREAM_OPTIONS)
    if address.lower().startswith("rtsp"):
        options |= {"rtsp_transport": "tcp", "fpsprobesize": "0"}  # a second sooner: no rate needed
    start_s = time.monotonic()
    try:
        container = _opened(
            address, config.source.hwaccel,
            options=options, timeout=limits, metadata_errors="ignore",
        )  # fmt: skip
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", "") or error).lower()
        # FFmpeg reports our own time limit in several ways; the clock tells.
        if time.monotonic() - start_s > 0.9 * limits[0]:
            reason = f"no answer within {limits[0]:g} s"
        raise NoStreamError(
            f"{shown}: the stream cannot be opened ({reason}). Check address, password and"
            " network.",
            reason,
        ) from error
    if not container.streams.video or not _decodable(container):
        container.close()
        reason = "no pictures that can be decoded"
        raise NoStreamError(f"{shown}: the stream has {reason}.", reason)
    return container


class NoStreamError(SourceError):
    """A stream cannot be had; `reason` says why in few words."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


def _decodable(container: Any) -> bool:
    return container.streams.video[0].codec_context is not None


def decoder_of(container: Any, hwaccel: str) -> str:
    """Return what decodes the pictures: the codec, in brackets the device where one does it."""
    codec = container.streams.video[0].codec_context
    return f"{codec.name} ({_device(hwaccel)})" if codec.is_hwaccel else str(codec.name)


@functools.cache
def working() -> tuple[str, ...]:
    """Return the devices that decode H.264 on this machine, tried once on a clip made for it."""
    clip = made_clip()
    found: list[str] = []
    for device in hwdevices_available():
        only = HWAccel(device, allow_software_fallback=False)
        try:
            with av.open(io.BytesIO(clip), "r", hwaccel=only) as container:
                next(container.decode(video=0)).to_ndarray(format="bgr24")
        # what a missing driver raises is anything: refusals, no stream that suits, no frame
        except (av.error.FFmpegError, OSError, RuntimeError, ValueError, StopIteration) as error:
            log.debug("no decoding by %s: %s", device, error)
        else:
            found.append(device)
    return tuple(found)


def made_clip(encoder: str = "libx264", pixels: str = "yuv420p", container: str = "mp4") -> bytes:
    """Return a video of `CLIP_FRAMES` grey pictures of `CLIP_PX`, ever brighter.

    Raises:
        av.error.FFmpegError, OSError, ValueError: this FFmpeg cannot write it.
    """
    sink = io.BytesIO()
    with av.open(sink, "w", format=container) as file:
        stream: Any = file.add_stream(encoder, rate=25)
        (stream.width, stream.height), stream.pix_fmt = CLIP_PX, pixels
        if encoder == "libx265":
            stream.options = {"x265-params": "log-level=none"}
        for i in range(CLIP_FRAMES):
            picture = np.full((CLIP_PX[1], CLIP_PX[0], 3), 40 * i, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        file.mux(stream.encode(None))
    return sink.getvalue()


def _device(hwaccel: str) -> str | None:
    """Return the device to decode with, None for the processor.

    Raises:
        DeviceError: the one that was named does not work here.
    """
    if hwaccel == "none":
        return None
    if hwaccel == "auto":
        return next(iter(working()), None)
    if hwaccel not in working():
        there = f"use {' or '.join(working())}, or leave" if working() else "leave"
        raise DeviceError(
            f"source.hwaccel = {hwaccel}: this machine has no such video decoder, or its driver is"
            f" missing; {there} it away to decode on the processor"
        )
    return hwaccel


def _opened(address: str, hwaccel: str, **how: Any) -> Any:
    device = _device(hwaccel)
    if device is None:
        return av.open(address, **how)
    container = av.open(address, hwaccel=HWAccel(device), **how)
    codec = container.streams.video[0].codec_context if container.streams.video else None
    if codec is not None and not codec.is_hwaccel:
        log.warning("%s does not decode %s: the processor does it", device, codec.name)
    return container
