"""Doctor's look at codecs: writes small clips of each kind and reads them back."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np

from manypose.app.containers import CLIP_FRAMES, CLIP_PX, made_clip, working
from manypose.app.doctor import MISSING, NOTE, OK, WARNING, Check

# Name, encoder, pixel format, container, whether the program cannot do without.
_KINDS = (
    ("H.264 in mp4", "libx264", "yuv420p", "mp4", True),
    ("H.264 in mkv", "libx264", "yuv420p", "matroska", True),
    ("HEVC 10 bit", "libx265", "yuv420p10le", "mp4", False),
    ("VP9", "libvpx-vp9", "yuv420p", "webm", False),
    ("MJPEG", "mjpeg", "yuvj420p", "avi", False),
)


def codecs() -> Iterable[Check]:
    """Return, for each kind of video, whether five frames can be written and read back."""
    import av
    import av.logging

    av.logging.set_level(None)
    for name, encoder, pixels, container, needed in _KINDS:
        try:
            data = made_clip(encoder, pixels, container)
            count = _read(av, data)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            yield Check(
                f"video {name}", MISSING if needed else WARNING, f"fails: {error}",
                "pip install --force-reinstall av",
            )  # fmt: skip
            continue
        whole = count == CLIP_FRAMES
        yield Check(
            f"video {name}",
            OK if whole else WARNING,
            "written and read back" if whole else f"{count} of {CLIP_FRAMES} frames came back",
            "" if whole else "pip install --force-reinstall av",
        )
    devices = ", ".join(working())
    yield Check(
        "video by graphics card", OK if devices else NOTE,
        f"{devices} (--set source.hwaccel=auto)" if devices else "none here: the processor decodes",
    )  # fmt: skip
    yield _pictures()


def _read(av: Any, data: bytes) -> int:
    with av.open(io.BytesIO(data)) as file:
        return sum(
            1 for f in file.decode(video=0) if f.to_ndarray(format="bgr24").shape[1::-1] == CLIP_PX
        )


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
