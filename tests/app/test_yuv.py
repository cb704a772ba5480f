from __future__ import annotations

import av
import cv2
import numpy as np
import pytest

from manypose.app.yuv import YuvPicture, upright
from manypose.models.preprocess import letterbox


def _decoded(kind: str, space: int, wide: int = 0) -> av.VideoFrame:
    """Return a frame of smooth colours, as a decoder gives it."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(30, 220, (6, 8, 3)).astype(np.uint8)
    image = cv2.resize(coarse, (320 + wide, 180), interpolation=cv2.INTER_CUBIC)
    source = av.VideoFrame.from_ndarray(image, format="bgr24")
    frame = source.reformat(format=kind, dst_colorspace=space)
    frame.colorspace = space
    return frame


@pytest.mark.parametrize("space", [1, 5])
@pytest.mark.parametrize("kind", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "nv12"])
def test_small_pictures_and_pixels_are_those_of_the_whole(kind: str, space: int) -> None:
    picture = upright(_decoded(kind, space), 0)
    assert isinstance(picture, YuvPicture)
    whole = picture.whole()
    wanted, affine = letterbox(whole, 112, 160)
    got, same = letterbox(picture, 112, 160)
    np.testing.assert_array_equal(affine, same)
    assert np.abs(wanted.astype(int) - got).mean() < 1.5
    y, x = np.arange(4, 180, 9), np.arange(4, 320, 9)
    apart = picture.pixels(y[:, None], x).astype(int) - whole[y][:, x]
    assert np.abs(apart).mean() < 2.5


@pytest.mark.parametrize("kind", ["yuv420p", "nv12"])
def test_odd_sizes_and_the_last_pixel(kind: str) -> None:
    picture = upright(_decoded(kind, 5, wide=1), 0)
    assert isinstance(picture, YuvPicture)
    assert picture.shape == (180, 321, 3)
    assert picture.pixels(np.array([179]), np.array([320])).shape == (1, 3)


def test_turned_and_unknown_pictures_are_whole() -> None:
    frame = _decoded("yuv420p", 5)
    turned = upright(frame, 1)
    assert isinstance(turned, np.ndarray)
    assert turned.shape == (320, 180, 3)
    assert isinstance(upright(frame.reformat(format="rgb24"), 0), np.ndarray)


def test_a_damaged_tag_of_the_colours_costs_no_picture() -> None:
    frame = _decoded("yuv420p", 5)
    right = frame.to_ndarray(format="bgr24").astype(int)
    frame.colorspace = 3  # reserved: FFmpeg refuses to convert it
    picture = upright(frame, 0)
    assert isinstance(picture, YuvPicture)
    assert np.abs(picture.whole() - right).mean() < 2
    turned = upright(frame, 1)
    assert isinstance(turned, np.ndarray)
    np.testing.assert_array_equal(turned, np.rot90(picture.whole()))


@pytest.mark.parametrize("kind", ["yuv420p", "yuv422p", "yuv444p", "nv12"])
def test_a_part_is_that_of_the_whole(kind: str) -> None:
    picture = upright(_decoded(kind, 5, wide=1), 0)
    assert isinstance(picture, YuvPicture)
    for part in ((40, 20, 200, 120), (160, 90, 321, 180)):
        got, affine = letterbox(picture, 96, 160, part=part)
        wanted, same = letterbox(picture.whole(), 96, 160, part=part)
        np.testing.assert_array_equal(affine, same)
        assert np.abs(wanted.astype(int) - got).mean() < 1.5
