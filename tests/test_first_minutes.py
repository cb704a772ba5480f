"""The first ten minutes of each user, as typed: docs/getting_started.md without camera and window.

Every line runs in a process of its own, with the networks of this installation where there are
any, and else with an engine that knows where the drawn people are.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from manypose.app.formats.reading import load_run
from manypose.app.rescale import body_height_m
from manypose.models import weights

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
REAL = any(row.kind == "stage1" for row in weights.manifest(weights.SHIPPED)) and any(
    importlib.util.find_spec(engine) for engine in ("onnxruntime", "openvino")
)
PROGRAM = ["-m", "manypose.app.main"] if REAL else [str(ROOT / "tests" / "app" / "drawn_engine.py")]
FRAMES = 24
SAMPLE = ROOT / "app" / "sample.mp4"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: dance.mp4, and clips/ with one that was cut off while it was copied."""
    folder = tmp_path_factory.mktemp("desk")
    _first_frames(folder / "dance.mp4")
    clips = folder / "clips"
    clips.mkdir()
    shutil.copy(folder / "dance.mp4", clips / "jump.mp4")
    data = (folder / "dance.mp4").read_bytes()
    (clips / "walk.mp4").write_bytes(data[: int(len(data) * 0.7)])
    return folder


def _first_frames(path: Path) -> None:
    """Write the first frames of the sample clip, its index in front as cameras' files have it."""
    with (
        av.open(str(SAMPLE)) as source,
        av.open(str(path), "w", options={"movflags": "+faststart"}) as target,
    ):
        stream = target.add_stream("libx264", rate=30)
        stream.width, stream.height = source.streams.video[0].width, source.streams.video[0].height
        stream.pix_fmt = "yuv420p"
        stream.options = {"g": "6", "preset": "veryfast", "crf": "20", "bf": "0"}
        for index, frame in enumerate(source.decode(video=0)):
            if index == FRAMES:
                break
            own = frame.reformat(format="yuv420p")
            own.pts, own.time_base = index, Fraction(1, 30)
            target.mux(stream.encode(own))
        target.mux(stream.encode(None))


def typed(
    desk: Path, *words: str | Path, code: int = 0, program: Sequence[str] = PROGRAM
) -> subprocess.CompletedProcess[str]:
    """Run one command line in the user's folder; its exit code must be `code`."""
    home = str(desk / "home")
    places = ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MANYPOSE_")}
    environment |= dict.fromkeys(places, home) | {"PYTHONPATH": str(ROOT)}
    for display in ("DISPLAY", "WAYLAND_DISPLAY"):
        environment.pop(display, None)
    done = subprocess.run(
        [sys.executable, *program, *map(str, words)],
        cwd=desk, env=environment, capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == code, f"{words}: exit {done.returncode}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def danced(desk: Path) -> subprocess.CompletedProcess[str]:
    """The animator's first line."""
    return typed(desk, "run", "dance.mp4", "--export", "bvh,glb")


def test_animator_gets_bvh_and_glb(desk: Path, danced: subprocess.CompletedProcess[str]) -> None:
    assert danced.stdout == f"{Path('out/dance')}\n"
    run = load_run(desk / "out" / "dance")
    assert len(run) == FRAMES
    # somebody who was wholly known in one frame at most has no motion
    known = np.isfinite(run.kp3d).all((1, 2))
    ids = [i for i, seen in enumerate(np.bincount(run.id[known])) if seen > 1]
    assert ids
    longest = int(np.bincount(run.id).argmax())
    for track_id in ids:
        text = (desk / "out" / "dance" / f"person_{track_id}.bvh").read_text()
        assert text.startswith("HIERARCHY\nROOT ")
        frames = int(_found(r"Frames:\s+(\d+)", text))
        assert len(text.split("Frame Time:")[1].splitlines()) - 1 == frames
        heights = [float(line.split()[1]) for line in text.splitlines()[-frames:]]
        if track_id == longest:  # the pelvis, centimetres above the ground
            assert 20 < min(heights) <= max(heights) < 300
    scene = (desk / "out" / "dance" / "people.glb").read_bytes()
    magic, version, length = struct.unpack("<4sII", scene[:12])
    assert (magic, version, length) == (b"glTF", 2, len(scene))
    json_length = struct.unpack("<I", scene[12:16])[0]
    tree = json.loads(scene[20 : 20 + json_length])
    assert len(tree["skins"]) == len(ids)


def test_animator_resizes_a_person(desk: Path, danced: subprocess.CompletedProcess[str]) -> None:
    run = load_run(desk / "out" / "dance")
    track_id = int(np.bincount(run.id).argmax())
    typed(desk, "rescale", "out/dance", "--height", "1.82", "--id", str(track_id), "-o", "taller")
    taller = load_run(desk / "taller")
    assert body_height_m(taller, track_id) == pytest.approx(1.82, abs=0.02)
    done = typed(desk, "export", "taller", "--to", "bvh", "--ids", str(track_id), "-o", "bvh")
    assert done.stdout.split() == [str(Path("bvh") / f"person_{track_id}.bvh")]


def test_scientist_runs_a_folder_with_one_bad_clip(desk: Path) -> None:
    line = ("run", "clips/", "-o", "res", "--height", "1.78", "--export", "trc,mot",
            "--format", "npz,csv")  # fmt: skip
    done = typed(desk, *line, code=3)
    assert "truncated" in done.stderr
    table = {line.split()[0]: line.split()[1] for line in done.stderr.splitlines() if line.split()}
    assert (table["jump.mp4"], table["walk.mp4"]) == ("ok", "partial")
    assert done.stdout.split() == [str(Path("res/jump")), str(Path("res/walk"))]
    whole, broken = load_run(desk / "res" / "jump"), load_run(desk / "res" / "walk")
    assert len(whole) == FRAMES > len(broken) > 0
    assert whole.meta["scale_source"] == "height"
    assert broken.meta["status"] == "partial"
    track_id = int(np.bincount(whole.id).argmax())
    trc = (desk / "res" / "jump" / f"person_{track_id}.trc").read_text().splitlines()
    assert trc[0].startswith("PathFileType\t4\t(X/Y/Z)")
    mot = (desk / "res" / "jump" / f"person_{track_id}.mot").read_text()
    assert "inDegrees=yes" in mot
    assert "l_knee_flexion" in mot
    assert (desk / "res" / "jump" / "pose.csv").read_text().startswith("frame,t,id,joint,")

    before = {p: p.read_bytes() for p in (desk / "res").rglob("pose.*")}
    again = typed(desk, *line, code=2)
    assert "--resume" in again.stderr
    shutil.rmtree(desk / "res" / "jump")
    rest = typed(desk, *line, "--resume", "--json", code=3)
    inputs = json.loads(rest.stdout)["inputs"]
    assert [Path(i["input"]).name for i in inputs] == ["jump.mp4", "walk.mp4"]
    assert inputs[0]["status"] == "ok"
    for path, data in before.items():
        if path.suffix in (".csv", ".npz"):
            assert path.read_bytes() == data, path


def test_researcher_benches_and_scores(desk: Path) -> None:
    report = json.loads(typed(desk, "bench", SAMPLE, "--json", "--frames", "100").stdout)
    (row,) = report["runs"]
    assert report["fps"] == row["fps"] > 0
    assert row["frames"] >= 100
    assert {"decode", "network", "group", "track"} <= set(row["stages_ms"])
    assert all({"p50", "p95", "p99"} <= set(v) for v in row["stages_ms"].values())
    from_pictures = desk / "pictures"
    from_pictures.mkdir()
    with av.open(str(desk / "dance.mp4")) as clip:
        for index, frame in enumerate(clip.decode(video=0)):
            if index < 2:
                bgr = frame.to_ndarray(format="bgr24")
                assert cv2.imwrite(str(from_pictures / f"{index + 1:012d}.jpg"), bgr)
    typed(desk, "run", "pictures", "--still", "--format", "npz,coco")
    results = json.loads((desk / "out" / "pictures" / "coco.json").read_text())
    assert {r["image_id"] for r in results} <= {1, 2}
    assert results
    truth = {
        "images": [{"id": i, "file_name": f"{i:012d}.jpg"} for i in (1, 2)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [_as_truth(i, r) for i, r in enumerate(results, 1)],
    }
    (desk / "truth.json").write_text(json.dumps(truth))
    pytest.importorskip("pycocotools")
    done = typed(desk, "eval", "coco", "out/pictures", "truth.json", "--json")
    assert json.loads(done.stdout)["AP"] > 0.95


def test_integrator_reads_lines(desk: Path) -> None:
    done = typed(desk, "live", "dance.mp4", "--no-gui", "--format", "jsonl", "--record", "session")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines
    assert all(line["schema"] == "manypose/1" for line in lines)
    assert [line["t"] for line in lines] == sorted(line["t"] for line in lines)
    assert {"frame", "t", "t_unix", "lat_ms", "persons"} <= set(lines[0])
    assert len(load_run(desk / "session")) > 0
    assert (desk / "session" / "video.mkv").stat().st_size > 0
    piped = typed(desk, "run", "dance.mp4", "-o", "-", "--seconds", "0.3")
    assert len(piped.stdout.splitlines()) == 9
    assert "No camera" in typed(desk, "live", "--no-gui", code=4).stderr or _camera_here()


def test_streams_reach_their_receivers(desk: Path) -> None:
    pytest.importorskip("pythonosc")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as avatar:
        avatar.bind(("127.0.0.1", 0))
        avatar.settimeout(1)
        port = _free_port()
        receiver = subprocess.Popen(
            [sys.executable, str(ROOT / "docs" / "examples" / "receive_udp.py"), str(port), "1"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            done = typed(
                desk, "live", "dance.mp4", "--no-gui", "--format", "none", "--person", "nearest",
                "--udp", f"127.0.0.1:{port}", "--vmc", f"127.0.0.1:{avatar.getsockname()[1]}",
            )  # fmt: skip
            said, _ = receiver.communicate(timeout=20)
        finally:
            receiver.kill()
        assert done.stdout == ""
        assert re.match(r" +\d+\.\d{3} s  (nobody|\d+ at)", said)
        assert b"/VMC/Ext/" in avatar.recv(2000)


def test_integrator_gets_one_line_for_each_mistake(desk: Path) -> None:
    for words, code in (
        (("run", "missing.mp4", "-o", "x"), 4),
        (("run", "dance.mp4", "--hieght", "1.8"), 2),
        (("run", "dance.mp4", "-o", "x", "--model", "nothing"), 5),
        (("run", "rtsp://127.0.0.1:9/cam", "-o", "x", "--set", "source.open_timeout_s=1"), 4),
        (("live", "dance.mp4"), 5),  # no display
    ):
        done = typed(desk, *words, code=code, program=["-m", "manypose.app.main"])
        told = [x for x in done.stderr.splitlines() if x.startswith("manypose: ")]
        assert told, (words, done.stderr)
        assert done.stdout == ""


def test_developer_asks_the_doctor(desk: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "manypose.app.main", "doctor", "--quick", "--json"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    report = json.loads(done.stdout)
    assert done.returncode == report["exit_code"] in (0, 3, 5)
    assert all(c["remedy"] for c in report["checks"] if c["status"] in ("warning", "missing"))


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, pattern
    return match[1]


def _as_truth(number: int, result: dict[str, object]) -> dict[str, object]:
    points = np.array(result["keypoints"], float).reshape(17, 3)
    seen = points[:, 2] > 0
    points[:, 2] = np.where(seen, 2, 0)
    low, high = points[seen, :2].min(0), points[seen, :2].max(0)
    return {
        "id": number, "image_id": result["image_id"], "category_id": 1, "iscrowd": 0,
        "keypoints": points.ravel().tolist(), "num_keypoints": int(seen.sum()),
        "bbox": [*low.tolist(), *(high - low).tolist()], "area": float(np.prod(high - low)),
    }  # fmt: skip


def _camera_here() -> bool:
    return any(Path("/dev").glob("video*"))
