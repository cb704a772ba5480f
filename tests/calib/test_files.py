"""Camera files of four programs, and what happens to files that are not."""

from __future__ import annotations

import contextlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manypose.calib.camera import Camera
from manypose.calib.files import (
    read_camera,
    read_camera_argument,
    read_cameras,
    write_cameras,
)
from manypose.errors import CalibrationError

CAMERA = Camera(
    np.array([[800.0, 0, 310.5], [0, 790.0, 255.0], [0, 0, 1]]),
    640,
    480,
    np.array([-0.1, 0.05, 0.001, -0.002, 0.0]),
    cv2.Rodrigues(np.array([0.1, 0.2, 0.3]))[0],
    np.array([0.1, 0.2, 3.0]),
    "calibrated",
)


def assert_same(a: Camera, b: Camera, atol: float = 1e-12) -> None:
    for field in ("K", "distortion", "R", "t"):
        np.testing.assert_allclose(getattr(a, field), getattr(b, field), atol=atol)
    assert (a.width, a.height, a.source) == (b.width, b.height, b.source)


def test_our_file_comes_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "cams.toml"
    write_cameras(path, {"left": CAMERA, "stage right": CAMERA})
    cameras = read_cameras(path)
    assert list(cameras) == ["left", "stage right"]
    assert_same(cameras["stage right"], CAMERA)
    assert_same(read_camera_argument(f"{path}:left"), CAMERA)
    assert not list(tmp_path.glob("*.part"))


def test_millimetres_become_metres(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        'unit = "mm"\n[cam1]\nwidth = 640\nheight = 480\nK = [[800, 0, 310], [0, 800, 240], '
        "[0, 0, 1]]\ndist = [0.1, 0, 0, 0]\nR = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]\n"
        "t = [100, 200, 3000]\n"
    )
    np.testing.assert_allclose(read_camera(path).t, [0.1, 0.2, 3.0])


def test_a_pose2sim_file(tmp_path: Path) -> None:
    path = tmp_path / "Calib.toml"
    path.write_text(
        '[cam_01]\nname = "cam_01"\nsize = [640.0, 480.0]\nmatrix = [[800.0, 0.0, 310.5], '
        "[0.0, 790.0, 255.0], [0.0, 0.0, 1.0]]\ndistortions = [-0.1, 0.05, 0.001, -0.002]\n"
        "rotation = [0.1, 0.2, 0.3]\ntranslation = [0.1, 0.2, 3.0]\nfisheye = false\n"
        "[metadata]\nadjusted = false\nerror = 0.0\n"
    )
    assert_same(read_camera(path), CAMERA)


@pytest.mark.parametrize("ending", ["yml", "xml"])
def test_an_opencv_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"c.{ending}"
    store = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    store.write("image_width", 640)
    store.write("image_height", 480)
    store.write("camera_matrix", CAMERA.K)
    store.write("distortion_coefficients", CAMERA.distortion.reshape(5, 1))
    store.write("R", CAMERA.R)
    store.write("T", CAMERA.t.reshape(3, 1))
    store.release()
    assert_same(read_camera(path), CAMERA)


def test_a_qualisys_file(tmp_path: Path) -> None:
    # a camera 3 m in front of the world's origin, looking along -z of a y-up world, in mm
    path = tmp_path / "calib.qca.txt"
    path.write_text(
        '<calibration><cameras><camera serial="123" model="Miqus"><fov_video left="0" top="0" '
        'right="639" bottom="479"/><transform x="0" y="0" z="3000" r11="1" r12="0" r13="0" r21="0" '
        'r22="1" r23="0" r31="0" r32="0" r33="1"/><intrinsic focallength="8" '
        'focalLengthU="51200" focalLengthV="50560" centerPointU="19872" centerPointV="16320" '
        'skew="0" radialDistortion1="-0.1" radialDistortion2="0.05" radialDistortion3="0" '
        'tangentalDistortion1="0.001" tangentalDistortion2="-0.002"/></camera></cameras>'
        "</calibration>"
    )
    camera = read_camera(path)
    np.testing.assert_allclose(camera.K, CAMERA.K)
    np.testing.assert_allclose(camera.distortion, CAMERA.distortion)
    # a point above the origin lies above the centre of the picture, 3 m away
    point = camera.world_to_camera(np.array([0.0, 0.5, 0.0]))
    np.testing.assert_allclose(point, [0, -0.5, 3.0])


def test_several_cameras_want_a_choice(tmp_path: Path) -> None:
    path = tmp_path / "cams.toml"
    write_cameras(path, {"a": CAMERA, "b": CAMERA})
    with pytest.raises(CalibrationError, match="choose one"):
        read_camera(path)
    with pytest.raises(CalibrationError, match="no camera 'c'"):
        read_camera(path, "c")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", "K = ["),
        ("a.toml", "[x]\nK = [[1, 0, 0]]\nwidth = 3\nheight = 3\n"),
        ("a.toml", "just = 1\n"),
        ("a.toml", "[x]\nK = [[-1, 0, 0], [0, 1, 0], [0, 0, 1]]\nwidth = 3\nheight = 3\n"),
        ("a.yml", "%YAML:1.0\n---\nfoo: 1\n"),
        ("a.yml", "\x00\x01garbage"),
        ("a.xml", "<calibration>"),
        ("a.xml", '<!DOCTYPE x [<!ENTITY a "b">]><calibration/>'),
        ("a.json", "{}"),
    ],
)
def test_what_is_no_camera_file_is_one_clear_error(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(CalibrationError):
        read_camera(path)


def test_a_missing_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="manypose calibrate"):
        read_camera(tmp_path / "no.toml")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.sampled_from(["toml", "yml", "xml", "txt"]),
    st.binary(max_size=200),
    st.integers(0, 300),
)
def test_mutated_files_never_crash(tmp_path: Path, ending: str, noise: bytes, at: int) -> None:
    path = tmp_path / f"m.{ending}"
    write_cameras(tmp_path / "good.toml", {"a": CAMERA})
    data = (tmp_path / "good.toml").read_bytes()
    path.write_bytes(data[:at] + noise + data[at + len(noise) :])
    with contextlib.suppress(CalibrationError):
        read_cameras(path)
