"""Makes the clips that tests read: drawn people, every kind of container, every kind of damage."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np


def picture(index: int, width: int = 160, height: int = 96) -> np.ndarray:
    """Return a grey picture, a white block at its top left, and noise that compresses badly."""
    rng = np.random.default_rng(index)
    image = np.full((height, width, 3), 60, np.uint8)
    image[height // 2 :, : 2 * width // 3] = rng.integers(
        0, 90, (height - height // 2, 2 * width // 3, 3), dtype=np.uint8
    )
    image[: height // 4, : width // 4] = 255
    return image


def write_clip(
    path: Path,
    frames: int = 30,
    *,
    stamps_ms: Sequence[int] | None = None,
    offset_s: float = 0.0,
    container: str | None = None,
    faststart: bool = False,
    codec: str = "libx264",
    size: tuple[int, int] = (160, 96),
) -> Path:
    """Write a clip of 30 fps, or with a frame at each of the times given."""
    options = {"movflags": "+faststart"} if faststart else {}
    with av.open(str(path.absolute()), "w", format=container, options=options) as file:
        stream = file.add_stream(codec, rate=30)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"g": "12", "preset": "ultrafast"} if codec == "libx264" else {}
        stream.codec_context.time_base = Fraction(1, 90_000)
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(i, *size), format="bgr24")
            time_s = i / 30 if stamps_ms is None else stamps_ms[i] / 1000
            frame.pts = round((time_s + offset_s) * 90_000)
            frame.time_base = Fraction(1, 90_000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def turn_tag(path: Path, degrees: int) -> Path:
    """Set the display matrix of an mp4 to a clockwise turn, as a phone writes it."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4
    matrix = at + (40 if data[at] == 0 else 52)
    a, b, c, d = {
        0: (1, 0, 0, 1),
        90: (0, 1, -1, 0),
        180: (-1, 0, 0, -1),
        270: (0, -1, 1, 0),
    }[degrees]
    one = 1 << 16
    values = (a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    data[matrix : matrix + 36] = struct.pack(">9i", *values)
    path.write_bytes(data)
    return path


def cut(path: Path, share: float) -> Path:
    """Cut the end of a file off."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def spoil(path: Path, count: int = 2000) -> Path:
    """Overwrite the middle of a file with noise."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + count] = np.random.default_rng(1).bytes(count)
    path.write_bytes(data)
    return path


def clip(name: str = "clip.mp4", frames: int = 12, **options: object) -> Path:
    """Write the clip that the drawn engine knows, in the current folder."""
    return write_clip(Path(name), frames, size=(480, 288), **options)  # type: ignore[arg-type]


def album(folder: Path) -> dict[str, tuple[int, int]]:
    """Make a folder of two photographs; returns the size (width, height) of each."""
    sizes = {"b.png": (480, 288), "a.jpg": (288, 480)}
    folder.mkdir()
    for name, size in sizes.items():
        cv2.imwrite(str(folder / name), picture(0, *size))
    return sizes
