"""A decoded picture as the decoder leaves it: planes of brightness and colour, not yet BGR.

Making a whole picture BGR costs as much as half of its decoding, and a full copy. The network wants
a small one: each plane is scaled first and the colours are worked out for what is left. The tracker
wants some pixels. Who wants it all (drawing, recording) gets it, made once.
"""

from __future__ import annotations

from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from manypose.app.sources import turned
from manypose.pose.records import Box, Picture, UInt8

_SAMPLED = {
    "yuv420p": (1, 1), "yuvj420p": (1, 1), "yuv422p": (0, 1), "yuvj422p": (0, 1),
    "yuv444p": (0, 0), "yuvj444p": (0, 0), "nv12": (1, 1),
}  # fmt: skip
_BT709, _BT2020 = 1, (9, 10)
_FULL_RANGE = 2


def upright(frame: Any, quarter_turns: int) -> UInt8 | Picture | None:
    """Return a decoded PyAV frame, turned by np.rot90(frame, quarter_turns).

    It is BGR if it has to be turned or is of an unknown kind. None where damage gave it a format
    that does not exist.
    """
    if quarter_turns % 4 == 0 and (picture := _picture_of(frame)) is not None:
        return picture
    try:
        return turned(np.asarray(frame.to_ndarray(format="bgr24"), np.uint8), quarter_turns)
    except (av.error.FFmpegError, OSError, ValueError):
        picture = _picture_of(frame)
        return None if picture is None else turned(picture.whole(), quarter_turns)


def _picture_of(frame: Any) -> YuvPicture | None:
    """Return a decoded frame as a picture, None if its format is none that is known here."""
    name, space = frame.format.name, int(frame.colorspace)
    if name not in _SAMPLED or space in _BT2020 or min(frame.width, frame.height) < 2:
        return None
    full = name.startswith("yuvj") or int(frame.color_range) == _FULL_RANGE
    return YuvPicture(frame, _SAMPLED[name], _matrix(space == _BT709, full))


def _matrix(bt709: bool, full: bool) -> NDArray[np.float32]:
    """Return (3, 4): Y, U, V, 1 to B, G, R.

    Source: ITU-R BT.601-7 and BT.709-6, section 3; untagged video is BT.601, as FFmpeg takes it.
    """
    red, blue = (0.2126, 0.0722) if bt709 else (0.299, 0.114)
    green = 1 - red - blue
    y, c = (1.0, 1.0) if full else (255 / 219, 255 / 224)
    to_blue, to_red = 2 * (1 - blue) * c, 2 * (1 - red) * c
    m = np.array([
        [y, to_blue, 0],
        [y, -to_blue * blue / green, -to_red * red / green],
        [y, 0, to_red],
    ])  # fmt: skip
    shift = m @ np.array([0 if full else 16, 128, 128])
    return np.column_stack([m, -shift]).astype(np.float32)


class YuvPicture:
    """A `records.Picture` over the planes of a PyAV frame, which is kept alive by it."""

    def __init__(self, frame: Any, halved: tuple[int, int], matrix: NDArray[np.float32]) -> None:
        self._frame = frame
        self._halved = halved
        self._matrix = matrix
        self._planes = _planes(frame)
        self._whole: UInt8 | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, 3."""
        return self._frame.height, self._frame.width, 3

    def whole(self) -> UInt8:
        """Return all of it, BGR (H, W, 3); made once."""
        if self._whole is None:
            try:
                self._whole = np.asarray(self._frame.to_ndarray(format="bgr24"), np.uint8)
            except (av.error.FFmpegError, OSError, ValueError):  # damaged tags of its colours
                self._whole = np.empty(self.shape, np.uint8)
                self.resized(self._whole)
        return self._whole

    def resized(self, out: UInt8, part: Box | None = None) -> None:
        """Write it, or a part on even px, scaled to the size of `out` (bilinear), as BGR."""
        size = (out.shape[1], out.shape[0])
        planes = self._planes
        if part is not None:
            x0, y0, x1, y1 = part
            down, right = self._halved
            bright, *colours = planes
            planes = [bright[y0:y1, x0:x1]] + [
                c[y0 >> down : (y1 + down) >> down, x0 >> right : (x1 + right) >> right]
                for c in colours
            ]
        small = cv2.merge([cv2.resize(plane, size) for plane in planes])
        cv2.transform(small, self._matrix, dst=out)

    def pixels(self, y: NDArray[np.intp], x: NDArray[np.intp]) -> UInt8:
        """Return BGR at these px, in the shape that y and x broadcast to, and 3."""
        down, right = self._halved
        bright, *colours = self._planes
        parts = [bright[y, x], *(c[y >> down, x >> right] for c in colours)]
        yuv = np.empty((*parts[0].shape, 3), np.float32)
        yuv[..., 0] = parts[0]
        if len(parts) == 2:  # both colours in one plane
            yuv[..., 1:] = parts[1]
        else:
            yuv[..., 1], yuv[..., 2] = parts[1:]
        bgr = yuv @ self._matrix[:, :3].T
        bgr += self._matrix[:, 3]
        np.rint(bgr, out=bgr)
        np.minimum(np.maximum(bgr, 0, out=bgr), 255, out=bgr)
        return bgr.astype(np.uint8)


def _planes(frame: Any) -> list[UInt8]:
    """Return brightness (H, W) and colours, each (h, w), or both in one (h, w, 2)."""
    lines = [np.frombuffer(p, np.uint8).reshape(-1, p.line_size) for p in frame.planes]
    if frame.format.name != "nv12":  # as decoders of graphics cards leave it
        return [a[: p.height, : p.width] for a, p in zip(lines, frame.planes)]
    h, w = (frame.height + 1) // 2, (frame.width + 1) // 2
    pairs = np.ascontiguousarray(lines[1][:h, : 2 * w]).reshape(h, w, 2)
    return [lines[0][: frame.height, : frame.width], pairs]
