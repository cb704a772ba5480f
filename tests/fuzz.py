"""Mutated inputs for every reader: ``python -m tests.fuzz --count 1000`` prints what happened.

A reader may read a mutant or refuse it by one of our errors, in one line and in time. Anything else
is a fault; a crash of a native library ends the program, and the last line tells where.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from manypose.app.config import Config, load_config
from manypose.errors import ManyposeError

HUNG_S = 20.0
NOBODY = Path("/nonexistent")


def mutant(data: bytes, rng: np.random.Generator) -> bytes:
    """Return data cut short, with bytes changed, a stretch repeated, or numbers made extreme."""
    kind = int(rng.integers(5))
    if kind == 0:
        return data[: int(rng.integers(len(data)))]
    out = bytearray(data)
    for _ in range(int(rng.choice([1, 3, 20]))):
        out[int(rng.integers(len(out)))] = int(rng.integers(256))
    at = int(rng.integers(len(out)))
    if kind == 2:
        out[at : at + 50] = rng.bytes(50)
    elif kind == 3:
        out[at:at] = out[at : at + int(rng.integers(1, 400))]
    elif kind == 4:
        extreme = (b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff", b"1e999", b"nan", b"-1", b"[[[[")
        some = extreme[int(rng.integers(len(extreme)))]
        out[at : at + len(some)] = some
    return bytes(out)


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


def run_file(name: str) -> Callable[[Path], None]:
    """Return what writes a file of a run."""

    def write(path: Path) -> None:
        from manypose.app.formats import WRITERS
        from manypose.calib.camera import Camera
        from manypose.pose.joints import JOINTS, JOINTS_2D
        from manypose.pose.records import Frame, FrameResult, TrackedPerson

        person = TrackedPerson(
            3, 0.9, np.full((len(JOINTS_2D), 2), 20.0), np.full(len(JOINTS_2D), 0.5),
            np.full((len(JOINTS), 3), 3.0), np.ones(len(JOINTS), np.uint8), np.zeros(4),
        )  # fmt: skip
        with WRITERS[name](path.parent, {"schema": "manypose/1"}) as writer:
            for k in range(4):
                frame = Frame(picture(k), k / 30, k, Camera.from_fov(64, 48))
                writer.write(FrameResult(frame, (person,) * (k % 2)))

    return write


def journal(path: Path) -> None:
    """Write a journal with two frames."""
    from manypose.app.journal import Journal
    from manypose.calib.camera import Camera
    from manypose.pose.joints import JOINTS, JOINTS_2D
    from manypose.pose.records import Detections, Frame, Person2D, Person3D

    seen = Person2D(np.full((len(JOINTS_2D), 2), 9.0), np.full(len(JOINTS_2D), 0.5), 0.5)
    body = Person3D(
        seen, np.zeros((len(JOINTS), 3)), np.full(len(JOINTS), 0.1), np.array([0, 0, 3.0]), 0.1
    )
    kept = Journal(path.parent, "key", resume=False)
    for k in range(2):
        kept.keep(Detections(Frame(picture(k), k / 30, k, Camera.from_fov(64, 48)), (body,), {}))
    kept.close(remove=False)


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


def read_journal(path: Path) -> None:
    """Go on from a journal."""
    from manypose.app.journal import Journal
    from manypose.calib.camera import Camera
    from manypose.pose.records import Frame

    kept = Journal(path.parent, "key", resume=True)
    try:
        for k in range(3):
            found = kept.recall(Frame(picture(k), k / 30, k, Camera.from_fov(64, 48)))
            if found is not None and len(found.people) > 1000:
                raise AssertionError("more people than there were")
    finally:
        kept.close(remove=False)


def read_run(path: Path) -> None:
    """Read a run."""
    from manypose.app.formats.reading import load_run

    list(load_run(path))


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
    """Read a list of inputs."""
    from manypose.app.inputs import plan

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
READERS: dict[str, tuple[str, Callable[[Path], None], Callable[[Path], None]]] = {
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
    "pose npz": ("pose.npz", run_file("npz"), read_run),
    "pose jsonl": ("pose.jsonl", run_file("jsonl"), read_run),
    "journal": ("detections.jsonl.part", journal, read_journal),
    "list": ("list.txt", text("a.mp4\n# two\nsub/b.mp4\n"), read_list),
}


def tried(name: str, count: int, seed: int) -> dict[str, Any]:
    """Return how often a reader read, refused and failed, and the slowest of its mutants."""
    file, write, read = READERS[name]
    rng = np.random.default_rng([seed, *name.encode()])
    ends: collections.Counter[str] = collections.Counter()
    faults: list[str] = []
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file
        write(path)
        read(path)
        whole = path.read_bytes()
        for k in range(count):
            path.write_bytes(mutant(whole, rng))
            start = time.monotonic()
            try:
                read(path)
                ends["read"] += 1
            except ManyposeError as error:
                ends["refused"] += 1
                if "\n" in str(error):
                    faults.append(f"mutant {k}: more than a line: {error}")
            except Exception as error:  # noqa: BLE001 - what this program looks for
                faults.append(f"mutant {k}: {type(error).__name__}: {error}")
            took = time.monotonic() - start
            slowest = max(slowest, took)
            if took > HUNG_S:
                faults.append(f"mutant {k}: {took:.0f} s")
    return {**ends, "faults": faults, "slowest_s": round(slowest, 2)}


def main() -> int:
    """Try every reader named; returns 1 when there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", help=f"of {', '.join(READERS)} (default: all)")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("error")
    report = {}
    for name in args.readers or READERS:
        sys.stderr.write(f"{name} ...\n")
        sys.stderr.flush()
        report[name] = tried(name, args.count, args.seed)
    if args.json:
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        for name, r in report.items():
            line = (
                f"{name:<12} read {r.get('read', 0):5} refused {r.get('refused', 0):5} "
                f"faults {len(r['faults']):3} slowest {r['slowest_s']:.2f} s\n"
            )
            sys.stdout.write(line + "".join(f"  {f}\n" for f in r["faults"][:5]))
    return 1 if any(r["faults"] for r in report.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
