"""Pictures to the network's input, and the way back from its grid to image px.

A picture is letter-boxed: scaled to fit, centred, the rest grey. One bilinear `cv2.resize` writes
into the final array; normalising and reordering are the network's business.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from manypose.errors import UsageError
from manypose.pose.records import Box, Float, Picture, UInt8

STRIDE = 8
_GRID = 2 * STRIDE  # sides of the input are multiples of this
BORDER = 114  # grey of the border, as in training


def letterbox(
    image: UInt8 | Picture, height: int, width: int, out: UInt8 | None = None,
    part: Box | None = None,
) -> tuple[UInt8, Float]:  # fmt: skip
    """Return the picture as (height, width, 3) uint8, and the affine (2, 3) grid cell -> image px.

    Whole numbers are centres on both sides: cell c has its centre at px 8 c + 3.5 of the network's
    input, and `cv2.resize` maps pixel areas, so that px p there is (p + 0.5) / scale - 0.5 here.
    `out` is written to instead of a new array; what it holds does not matter. part: of the picture,
    on even px; the affine leads to px of the whole all the same.
    """
    x0, y0, x1, y1 = part or (0, 0, image.shape[1], image.shape[0])
    w, h = x1 - x0, y1 - y0
    if h == 0 or w == 0:
        raise ValueError(f"letterbox: empty picture {image.shape}")
    if out is None:
        out = np.empty((height, width, 3), np.uint8)
    elif out.shape != (height, width, 3) or out.dtype != np.uint8:
        raise ValueError(f"letterbox: out is {out.shape} {out.dtype}")
    nw, nh = fitted(w, h, width, height)
    left, top = (width - nw) // 2, (height - nh) // 2
    out[:top] = BORDER
    out[top + nh :] = BORDER
    out[top : top + nh, :left] = BORDER
    out[top : top + nh, left + nw :] = BORDER
    scale(image, out[top : top + nh, left : left + nw], part)
    affine = grid_to_image(w / nw, h / nh, left, top)
    affine[:, 2] += (x0, y0)
    return out, affine


def fitted(w: int, h: int, width: int, height: int) -> tuple[int, int]:
    """Return width and height of a picture w x h scaled to fit into width x height."""
    scale = min(width / w, height / h)
    return min(width, max(1, round(w * scale))), min(height, max(1, round(h * scale)))


def scale(image: UInt8 | Picture, out: UInt8, part: Box | None = None) -> None:
    """Write the picture, or a part of it, scaled to the size of `out` (bilinear), to `out`."""
    if not isinstance(image, np.ndarray):
        image.resized(out, part)
        return
    if part is not None:
        image = image[part[1] : part[3], part[0] : part[2]]
    cv2.resize(image, (out.shape[1], out.shape[0]), dst=out)


def scale_parts(image: UInt8 | Picture, outs: Sequence[UInt8], parts: Sequence[Box]) -> None:
    """Write parts of the picture, each scaled to the size of its own `out`, to `outs`."""
    together = getattr(image, "resized_parts", None)  # of a picture that is far away
    if together is not None:
        together(outs, parts)
        return
    for out, part in zip(outs, parts):
        scale(image, out, part)


def grid_to_image(
    x_scale: float, y_scale: float, left: float = 0.0, top: float = 0.0, stride: int = STRIDE
) -> Float:
    """Return the affine (2, 3) from grid cells to image px.

    x_scale and y_scale: image px per px of the network's input; left, top: where the picture begins
    in that input.
    """
    half = stride / 2
    return np.array(
        [
            [stride * x_scale, 0, (half - left) * x_scale - 0.5],
            [0, stride * y_scale, (half - top) * y_scale - 0.5],
        ]
    )


def on_grid(maps: Float, cells: Float, target: Float, width: int, height: int) -> Float:
    """Return maps (C, h, w) sampled at the cells of another grid (C, height, width), bilinear.

    cells, target: affines (2, 3) from the cells of the maps, and of that grid, to px of one
    picture. Beyond the outermost cells their values go on.
    """
    step = np.linalg.solve(np.vstack([cells, [0, 0, 1]]), np.vstack([target, [0, 0, 1]]))[:2]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.stack([
        cv2.warpAffine(m, step, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        for m in maps
    ])  # fmt: skip


def size_named(text: str) -> tuple[int, int]:
    """Return width and height of an input size such as 512x320.

    Raises:
        UsageError: it is none, or not in multiples of 16.
    """
    words = text.lower().split("x")
    if len(words) != 2 or not all(w.isdigit() and int(w) >= 32 and not int(w) % _GRID
                                  for w in words):  # fmt: skip
        raise UsageError(f"size {text}: width x height in multiples of {_GRID}, such as 512x320")
    return int(words[0]), int(words[1])
