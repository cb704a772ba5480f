"""Files that are put in, for `tests.fuzz`: what writes a whole one, and what reads it."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from manypose.app.config import Config, load_config
from manypose.errors import ManyposeError

NOBODY = Path("/nonexistent")


def picture(index: int) -> Any:
    """Return a small picture that moves."""
    image = np.full((48, 64, 3), 60, np.uint8)
    image[10:30, 4 * index : 4 * index + 16] = (200, 120, 30)
    return image


def video(codec: str) -> Callable[[Path], None]:
    """Return what writes a clip."""

    def write(path: Path) -> None:
        import av

        with av.open(str(path), "w") as file:
            stream = file.add_stream(codec, rate=30)
            stream.width, stream.height = 64, 48
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for i in range(10):
                frame = av.VideoFrame.from_ndarray(picture(i), format="bgr24")
                frame.pts, frame.time_base = i, Fraction(1, 30)
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))

    return write


def still(path: Path) -> None:
    """Write a picture."""
    import cv2

    cv2.imwrite(str(path), picture(2))


def text(content: str) -> Callable[[Path], None]:
    """Return what writes a text."""
    return lambda path: path.write_text(content, "utf-8") and None


def network(path: Path) -> None:
    """Write a small ONNX network."""
    import onnx
    from onnx import TensorProto, helper

    weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["y"]),
        ],
        "small",
        [value("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [value("y", TensorProto.FLOAT, [1, 4, 8, 8])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    path.write_bytes(model.SerializeToString())


def read_source(path: Path) -> None:
    """Read every picture."""
    from manypose.app.sources import open_source

    with open_source(str(path), Config()) as source:
        for frame in source:
            if frame.image.ndim != 3 or not np.isfinite(frame.time_s):
                raise AssertionError("no picture")


def read_network(path: Path) -> None:
    """Load a network and run it."""
    from manypose.models.sessions import Wish, open_session

    session = open_session(path, "onnx", Wish("cpu", 1))
    shape = [d if d and d < 100 else 1 for d in session.inputs[0].shape]
    try:
        session.run(np.zeros(shape, np.float32))
    except ManyposeError:
        raise
    except Exception as error:  # the engine's own words for input of a changed shape
        if "onnxruntime" not in type(error).__module__:
            raise


def read_camera(path: Path) -> None:
    """Read a camera file."""
    from manypose.calib.files import read_cameras

    read_cameras(path)


def read_settings(path: Path) -> None:
    """Read settings."""
    load_config(environ={}, user=NOBODY, project=path)


def read_own(path: Path) -> None:
    """Read the description of a network of one's own."""
    from manypose.models import own_networks

    network(path.parent / "net.onnx")
    own_networks.read(path)


def read_list(path: Path) -> None:
    """Read a list of inputs; those that name a root or this folder would be walked for minutes."""
    from manypose.app.inputs import plan

    if any(line and not line.strip(b" ./") for line in path.read_bytes().splitlines()):
        return
    plan([str(path)], path.parent / "out")


def read_lifter(path: Path) -> None:
    """Read the weights of Stage II."""
    from manypose.models.lifter_runtime import load_lifter

    load_lifter(path)


def lifter(path: Path) -> None:
    """Copy the weights that are shipped."""
    import manypose.weights

    shipped = Path(manypose.weights.__file__).with_name("lifter.npz")
    path.write_bytes(shipped.read_bytes())


def camera(path: Path) -> None:
    """Write a camera file of our own."""
    from manypose.calib.camera import Camera
    from manypose.calib.files import write_cameras

    write_cameras(path, {"left": Camera.from_fov(640, 480), "right": Camera.from_fov(640, 480)})


MANIFEST = """[[network]]
name = "mine"
kind = "stage1"
file = "net.onnx"
sha256 = "00"
precision = "int8"
input = [384, 240]
licence = "MIT"
"""


def read_manifest(path: Path) -> None:
    """Read a list of networks."""
    from manypose.models.weights import manifest

    manifest(path.parent)


def openvino(path: Path) -> None:
    """Write a network in OpenVINO's own form."""
    import openvino as ov

    network(path.with_name("net.onnx"))
    ov.save_model(ov.convert_model(path.with_name("net.onnx")), path)


def read_openvino(path: Path) -> None:
    """Load a network of OpenVINO."""
    from manypose.models.sessions import Wish, open_session

    open_session(path, "openvino", Wish("cpu", 1))


def checkpoint(path: Path) -> None:
    """Write weights in training."""
    import torch

    torch.save({"ema": {"w": torch.ones(3, 4)}, "step": 3, "backbone": "selecsls42"}, path)


def read_checkpoint(path: Path) -> None:
    """Read weights in training."""
    from manypose.models.train import checkpoints

    checkpoints.read(path)


OPENCV = """%YAML:1.0
---
image_width: 640
image_height: 480
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 600., 0., 320., 0., 600., 240., 0., 0., 1. ]
distortion_coefficients: !!opencv-matrix
   rows: 5
   cols: 1
   dt: d
   data: [ 0.1, -0.05, 0., 0., 0. ]
"""
QUALISYS = """<calibration><cameras><camera serial="7"><fov_video left="0" top="0" right="639"
 bottom="479"/><intrinsic focalLengthU="38400" focalLengthV="38400" centerPointU="20480"
 centerPointV="15360" radialDistortion1="0" radialDistortion2="0" radialDistortion3="0"
 tangentalDistortion1="0" tangentalDistortion2="0"/></camera></cameras></calibration>"""
OWN = """[pose]
kind = "heatmap"
file = "net.onnx"
input = [192, 256]
mean = [123.675, 116.28, 103.53]
std = [58.395, 57.12, 57.375]
[detector]
kind = "dets"
file = "net.onnx"
input = [320, 320]
"""
SETTINGS = """[source]
rotate = "90"
fps = 25.0
[camera]
fov_deg = 70
[people]
max = 8
[output]
formats = ["npz", "csv"]
"""

# Reader -> (file name, what writes a whole one, what reads it).
INPUTS: dict[str, tuple[str, Callable[[Path], None], Callable[[Path], None]]] = {
    "mp4": ("a.mp4", video("libx264"), read_source),
    "mkv": ("a.mkv", video("libx265"), read_source),
    "webm": ("a.webm", video("libvpx"), read_source),
    "avi": ("a.avi", video("mjpeg"), read_source),
    "ts": ("a.ts", video("mpeg2video"), read_source),
    "png": ("a.png", still, read_source),
    "jpg": ("a.jpg", still, read_source),
    "webp": ("a.webp", still, read_source),
    "tiff": ("a.tiff", still, read_source),
    "bmp": ("a.bmp", still, read_source),
    "onnx": ("a.onnx", network, read_network),
    "lifter": ("lifter.npz", lifter, read_lifter),
    "own network": ("own.toml", text(OWN), read_own),
    "settings": ("manypose.toml", text(SETTINGS), read_settings),
    "camera toml": ("camera.toml", camera, read_camera),
    "camera yml": ("camera.yml", text(OPENCV), read_camera),
    "camera xml": ("camera.xml", text(QUALISYS), read_camera),
    "list": ("list.txt", text("a.mp4\n# two\nsub/b.mp4\n"), read_list),
    "manifest": ("weights.toml", text(MANIFEST), read_manifest),
    "openvino": ("a.xml", openvino, read_openvino),
    "checkpoint": ("ema.pt", checkpoint, read_checkpoint),
}
