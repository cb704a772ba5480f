"""Doctor's look at codecs: writes small clips of each kind and reads them back."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np

from manypose.app import containers
from manypose.app.doctor import MISSING, NOTE, OK, WARNING, Check

# Name, encoder, pixel format, container, whether the program cannot do without.
_KINDS = (
    ("H.264 in mp4", "libx264", "yuv420p", "mp4", True),
    ("H.264 in mkv", "libx264", "yuv420p", "matroska", True),
    ("HEVC 10 bit", "libx265", "yuv420p10le", "mp4", False),
    ("VP9", "libvpx-vp9", "yuv420p", "webm", False),
    ("MJPEG", "mjpeg", "yuvj420p", "avi", False),
)
_FRAMES = 5


def codecs() -> Iterable[Check]:
    """Return, for each kind of video, whether five frames can be written and read back."""
    import av
    import av.logging

    av.logging.set_level(None)
    for name, encoder, pixels, container, needed in _KINDS:
        try:
            data = _written(av, encoder, pixels, container)
            count = _read(av, data)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            yield Check(
                f"video {name}", MISSING if needed else WARNING, f"fails: {error}",
                "pip install --force-reinstall av",
            )  # fmt: skip
            continue
        whole = count == _FRAMES
        yield Check(
            f"video {name}",
            OK if whole else WARNING,
            "written and read back" if whole else f"{count} of {_FRAMES} frames came back",
            "" if whole else "pip install --force-reinstall av",
        )
    devices = ", ".join(containers.working())
    yield Check(
        "video by graphics card", OK if devices else NOTE,
        f"{devices} (--set source.hwaccel=auto)" if devices else "none here: the processor decodes",
    )  # fmt: skip
    yield _pictures()


def _written(av: Any, encoder: str, pixels: str, container: str) -> bytes:
    sink = io.BytesIO()
    with av.open(sink, "w", format=container) as file:
        stream = file.add_stream(encoder, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        if encoder == "libx265":
            stream.options = {"x265-params": "log-level=none"}
        for i in range(_FRAMES):
            picture = np.full((48, 64, 3), 40 * i, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        file.mux(stream.encode(None))
    return sink.getvalue()


def _read(av: Any, data: bytes) -> int:
    with av.open(io.BytesIO(data)) as file:
        return sum(1 for f in file.decode(video=0) if f.to_ndarray(format="bgr24").shape[0] == 48)


def _pictures() -> Check:
    import cv2

    picture = np.full((8, 8, 3), 90, np.uint8)
    failed = []
    for suffix in (".jpg", ".png", ".webp", ".tiff"):
        ok, data = cv2.imencode(suffix, picture)
        if not ok or cv2.imdecode(data, cv2.IMREAD_COLOR) is None:
            failed.append(suffix)
    if failed:
        return Check("pictures", WARNING, f"OpenCV cannot read {', '.join(failed)}")
    return Check("pictures", OK, "jpg, png, webp, tiff")
