"""Webcams through OpenCV: opened by number or part of the name, newest picture first.

Cameras are listed from what the system says, never by opening one number after another: that
blocks for seconds on some systems and crashes on others.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manypose.app.config import Config
from manypose.app.sources import Counts, Lens, LiveSource, SourceInfo, fixed_turns, turned
from manypose.errors import SourceError
from manypose.pose.records import Frame

log = logging.getLogger(__name__)

_LINUX_LIST = Path("/sys/class/video4linux")
_SILENT_S = 3.0  # a camera that gives nothing for so long is lost


@dataclass(frozen=True, slots=True)
class CameraDevice:
    """A camera of this machine: its number, name, device file ("" if the system has none)."""

    index: int
    name: str
    path: str


def list_cameras(folder: Path = _LINUX_LIST) -> list[CameraDevice] | None:
    """Return the cameras the system knows, or None where it offers no list without opening them.

    A camera may own several device nodes; the first of each is the one that gives pictures.
    """
    if platform.system() != "Linux":
        return None
    found = []
    for node in folder.glob("video*") if folder.is_dir() else ():
        number = node.name.removeprefix("video")
        if not number.isdigit() or _text(node / "index") not in ("", "0"):
            continue
        name = _text(node / "name") or node.name
        found.append(CameraDevice(int(number), name, f"/dev/{node.name}"))
    return sorted(found, key=lambda c: c.index)


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def find_camera(wanted: str, cameras: list[CameraDevice] | None) -> CameraDevice:
    """Return the camera with this number or the only one whose name has this part.

    Raises:
        SourceError: there is none or more than one; the message lists what there is.
    """
    listing = "; ".join(f"{c.index} = {c.name}" for c in cameras or ()) or "none"
    if wanted.isdigit():
        number = int(wanted)
        if cameras is None:
            return CameraDevice(number, f"camera {number}", "")
        for camera in cameras:
            if camera.index == number:
                return camera
        if Path(f"/dev/video{number}").exists():  # a further node of a camera, asked for by number
            return CameraDevice(number, f"camera {number}", f"/dev/video{number}")
        raise SourceError(
            f"Camera {number} does not exist. Cameras here: {listing}. Plug one in, choose another"
            " number, or give a video file."
        )
    hits = [c for c in cameras or () if wanted.casefold() in c.name.casefold()]
    if len(hits) == 1:
        return hits[0]
    trouble = "fits more than one camera" if hits else "fits no camera"
    raise SourceError(f"{wanted!r} {trouble}. Cameras here: {listing}.")


def open_webcam(wanted: str, config: Config) -> LiveSource:
    """Return a camera as a live source.

    Raises:
        SourceError: there is no such camera or it gives no pictures.
    """
    device = find_camera(wanted, list_cameras())
    lens = Lens(config)
    turns = fixed_turns(config.source.rotate) or 0
    capture, first = _open(device, config)
    h, w = first.shape[:2]
    if turns % 2:
        h, w = w, h
    fps = float(capture.get(_cv2().CAP_PROP_FPS))
    info = SourceInfo(
        "camera",
        f"camera:{device.index}",
        _stem(device.name),
        width=w,
        height=h,
        fps=fps if 0 < fps < 1000 else None,
        rotation_deg=-90 * turns % 360,
        codec=_fourcc(capture),
    )

    def frames(live: LiveSource) -> Iterator[Frame]:
        image, grabbed_s, index = first, time.perf_counter(), 0
        try:
            while not live.stopping.is_set():
                upright = turned(image, turns)
                height, width = upright.shape[:2]
                yield Frame(upright, grabbed_s, index, lens.camera(width, height, turns))
                index += 1
                silent_since = time.perf_counter()
                while True:
                    ok = capture.grab()
                    grabbed_s = time.perf_counter()
                    ok, picture = capture.retrieve() if ok else (False, None)
                    if ok and picture is not None:
                        image = np.asarray(picture, np.uint8)
                        break
                    if live.stopping.wait(0.01):
                        return
                    if grabbed_s - silent_since > _SILENT_S:
                        raise SourceError(
                            f"Camera {device.index} ({device.name}) gives no more pictures: was it"
                            " unplugged?"
                        )
        finally:
            capture.release()

    return LiveSource(info, frames, Counts())


def _open(device: CameraDevice, config: Config) -> tuple[Any, Any]:
    """Return the opened capture and its first picture."""
    cv2 = _cv2()
    for backend in _backends(cv2):
        capture = cv2.VideoCapture(device.index, backend)
        if not capture.isOpened():
            capture.release()
            continue
        # The compressed mode first: without it many cameras give 5 pictures a second at 720p.
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, config.source.width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, config.source.height)
        capture.set(cv2.CAP_PROP_FPS, config.source.camera_fps)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        deadline = time.monotonic() + _SILENT_S
        while time.monotonic() < deadline:
            ok, picture = capture.read()
            if ok and picture is not None and picture.ndim == 3:
                return capture, np.asarray(picture, np.uint8)
        capture.release()
    denied = device.path and not os.access(device.path, os.R_OK | os.W_OK)
    remedy = (
        f"you may not read {device.path}: join the group video"
        if denied
        else "close other programs that use it, or choose another (manypose cameras lists them)"
    )
    raise SourceError(f"Camera {device.index} ({device.name}) gives no pictures: {remedy}.")


def _backends(cv2: Any) -> tuple[int, ...]:
    if platform.system() == "Linux":
        return (cv2.CAP_V4L2,)
    if platform.system() == "Windows":
        return (cv2.CAP_DSHOW, cv2.CAP_MSMF)
    return (cv2.CAP_ANY,)


def _cv2() -> Any:
    # Without this, Media Foundation takes up to 30 s to open a camera; it is read at import.
    os.environ.setdefault("OPENCV_VIDEOIO_MSMF_ENABLE_HW_TRANSFORMS", "0")
    import cv2

    return cv2


def _fourcc(capture: Any) -> str:
    code = int(capture.get(_cv2().CAP_PROP_FOURCC))
    letters = "".join(chr(code >> shift & 0xFF) for shift in (0, 8, 16, 24))
    return letters if letters.isprintable() else ""


def _stem(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip("_.") or "camera"
